//! Who may do what: one table, deny by default. A `Permit` is the only way to a token.

use crate::caller::{Caller, Role};
use crate::error::{Error, Reason, Result};
use crate::key::{KeyRole, KeyState};

/// What can be asked of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Make a cluster and its key.
    CreateCluster,
    /// Read clusters and the public halves of their keys.
    ReadCluster,
    /// Give a node its certificate.
    CreateNode,
    /// Read nodes.
    ReadNode,
    /// Have a document signed.
    SignDocument,
    /// Read and export the log.
    ExportLog,
}

impl Operation {
    /// The name in records.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Operation::CreateCluster => "create-cluster",
            Operation::ReadCluster => "read-cluster",
            Operation::CreateNode => "create-node",
            Operation::ReadNode => "read-node",
            Operation::SignDocument => "sign-document",
            Operation::ExportLog => "export-log",
        }
    }
}

/// Kinds of document that custody can be asked to sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DocumentKind {
    /// Use license (MS-RMPR 2.2.9.9).
    UseLicense,
}

impl DocumentKind {
    /// The name in records.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            DocumentKind::UseLicense => "use-license",
        }
    }
}

/// Which clusters a rule reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// All.
    Any,
    /// The one the caller belongs to.
    Own,
}

struct Rule {
    name: &'static str,
    role: Role,
    operation: Operation,
    reach: Reach,
    /// The key role and document kind of a signing rule.
    signs: Option<(KeyRole, DocumentKind)>,
}

const RULES: &[Rule] = &[
    rule("operators-create-clusters", Role::Operator, Operation::CreateCluster, Reach::Any),
    rule("operators-read-clusters", Role::Operator, Operation::ReadCluster, Reach::Any),
    rule("operators-create-nodes", Role::Operator, Operation::CreateNode, Reach::Any),
    rule("operators-read-nodes", Role::Operator, Operation::ReadNode, Reach::Any),
    rule("operators-export-the-log", Role::Operator, Operation::ExportLog, Reach::Any),
    rule("nodes-read-their-cluster", Role::Node, Operation::ReadCluster, Reach::Own),
    Rule {
        name: "nodes-sign-use-licenses",
        role: Role::Node,
        operation: Operation::SignDocument,
        reach: Reach::Own,
        signs: Some((KeyRole::Slc, DocumentKind::UseLicense)),
    },
];

const fn rule(name: &'static str, role: Role, operation: Operation, reach: Reach) -> Rule {
    Rule { name, role, operation, reach, signs: None }
}

/// What is asked.
#[derive(Clone, Debug)]
pub struct Asked<'a> {
    /// The operation.
    pub operation: Operation,
    /// The cluster it is about, as a resource name; none for what is about the whole instance.
    pub cluster: Option<&'a str>,
    /// For signing: the key's role and the kind of document.
    pub signs: Option<(KeyRole, DocumentKind)>,
}

/// Leave to do one act, once: who, what, and the rule that allows it. Made only by [`permit`], spent by custody.
#[derive(Debug)]
pub struct Permit {
    caller: Caller,
    operation: Operation,
    rule: &'static str,
}

impl Permit {
    /// Who may.
    #[must_use]
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// What.
    #[must_use]
    pub fn operation(&self) -> Operation {
        self.operation
    }

    /// Why.
    #[must_use]
    pub fn rule(&self) -> &'static str {
        self.rule
    }
}

/// Looks the request up in the table.
///
/// # Errors
/// `UNAUTHENTICATED` for a stranger; `PERMISSION_DENIED` if no rule allows it. The answer does not tell whether the
/// object exists.
pub fn permit(caller: &Caller, asked: &Asked<'_>) -> Result<Permit> {
    if let Caller::Stranger { .. } = caller {
        return Err(Error::new(Reason::Unauthenticated, "the client certificate belongs to no active principal")
            .hint("ask the operator of this instance for a certificate: keyward node create"));
    }
    let found = RULES.iter().find(|rule| {
        rule.operation == asked.operation
            && rule.signs == asked.signs
            && caller.roles().contains(&rule.role)
            && match rule.reach {
                Reach::Any => true,
                Reach::Own => asked.cluster.is_some() && caller.cluster() == asked.cluster,
            }
    });
    match found {
        Some(rule) => Ok(Permit { caller: caller.clone(), operation: asked.operation, rule: rule.name }),
        None => Err(Error::new(
            Reason::PermissionDenied,
            format!(
                "{} may not {} for {}",
                caller.note().name,
                asked.operation.name(),
                asked.cluster.unwrap_or("this instance")
            ),
        )
        .hint("a node acts for its own cluster only; all else is done by an operator")),
    }
}

/// Whether a key in this state may sign.
///
/// # Errors
/// `KEY_STATE` for any but an active one; `KEY_MISSING` for one that the token does not show.
pub fn may_sign(role: KeyRole, state: KeyState) -> Result<()> {
    match state {
        KeyState::Active if role.signs() => Ok(()),
        KeyState::Missing => Err(Error::new(Reason::KeyMissing, "the token does not show the key")),
        _ => Err(Error::new(Reason::KeyState, format!("a {} key that is {} signs nothing", role.name(), state.name()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caller::Principal;

    fn node(cluster: &str) -> Caller {
        Caller::Principal(Principal {
            name: format!("{cluster}/nodes/n"),
            role: Role::Node,
            cluster: Some(cluster.into()),
            certificate_sha256: "aa".into(),
            active: true,
            created_us: 0,
            certificate_expires_us: 0,
        })
    }

    const OPERATOR: Caller = Caller::LocalOperator { uid: 0 };
    const UL: Option<(KeyRole, DocumentKind)> = Some((KeyRole::Slc, DocumentKind::UseLicense));

    fn verdict(caller: &Caller, operation: Operation, cluster: Option<&str>) -> Result<&'static str, Reason> {
        let signs = if operation == Operation::SignDocument { UL } else { None };
        permit(caller, &Asked { operation, cluster, signs }).map(|p| p.rule()).map_err(|e| e.reason())
    }

    #[test]
    fn the_table_allows_what_it_names_and_nothing_else() {
        use Operation::*;
        let stranger = Caller::Stranger { certificate_sha256: String::new() };
        type Case<'a> = (&'a Caller, Operation, Option<&'a str>, Result<&'a str, Reason>);
        let cases: &[Case<'_>] = &[
            (&node("clusters/a"), SignDocument, Some("clusters/a"), Ok("nodes-sign-use-licenses")),
            (&node("clusters/a"), SignDocument, Some("clusters/b"), Err(Reason::PermissionDenied)),
            (&node("clusters/a"), SignDocument, None, Err(Reason::PermissionDenied)),
            (&node("clusters/a"), ReadCluster, Some("clusters/a"), Ok("nodes-read-their-cluster")),
            (&node("clusters/a"), ReadCluster, Some("clusters/b"), Err(Reason::PermissionDenied)),
            (&node("clusters/a"), CreateNode, Some("clusters/a"), Err(Reason::PermissionDenied)),
            (&node("clusters/a"), CreateCluster, Some("clusters/a"), Err(Reason::PermissionDenied)),
            (&node("clusters/a"), ExportLog, None, Err(Reason::PermissionDenied)),
            (&OPERATOR, CreateCluster, None, Ok("operators-create-clusters")),
            (&OPERATOR, ExportLog, None, Ok("operators-export-the-log")),
            // An operator runs the service; licenses are signed for nodes alone.
            (&OPERATOR, SignDocument, Some("clusters/a"), Err(Reason::PermissionDenied)),
            (&stranger, SignDocument, Some("clusters/a"), Err(Reason::Unauthenticated)),
            (&stranger, ReadCluster, Some("clusters/a"), Err(Reason::Unauthenticated)),
        ];
        for (caller, operation, cluster, expected) in cases {
            assert_eq!(&verdict(caller, *operation, *cluster), expected, "{caller:?} {operation:?} {cluster:?}");
        }
    }

    #[test]
    fn only_an_active_key_signs() {
        assert!(may_sign(KeyRole::Slc, KeyState::Active).is_ok());
        for state in [KeyState::Pending, KeyState::Archived, KeyState::Disabled] {
            assert_eq!(may_sign(KeyRole::Slc, state).unwrap_err().reason(), Reason::KeyState);
        }
        assert_eq!(may_sign(KeyRole::Slc, KeyState::Missing).unwrap_err().reason(), Reason::KeyMissing);
    }
}
