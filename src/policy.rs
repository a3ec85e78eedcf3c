//! Who may do what: one table, deny by default. A `Permit` is the only way to a token.

use crate::caller::{Caller, Role};
use crate::error::{Error, Reason, Result};
use crate::key::{KeyRole, KeyState};

/// What can be asked of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Found an instance: its audit key and its TLS authority.
    FoundInstance,
    /// Open the TLS listeners of an instance.
    Serve,
    /// Found an enrollment authority: its keys and certificates.
    FoundAuthority,
    /// Answer an enrollment request.
    ProcessEnrollment,
    /// Write an enrollment request.
    ExportRequest,
    /// Take in an enrollment response.
    ImportResponse,
    /// Make a cluster and its key.
    CreateCluster,
    /// Read clusters and the public halves of their keys.
    ReadCluster,
    /// Make a join token for a node.
    InviteNode,
    /// Connect to a listener. TLS decides that; no rule names it.
    Connect,
    /// Become a node, with a join token.
    JoinCluster,
    /// Read nodes.
    ReadNode,
    /// Have a document signed.
    SignDocument,
    /// Prove and export the log.
    ExportLog,
    /// Put another key in the place of the audit key.
    RotateAuditKey,
    /// Sign for a backup of the records.
    BackUp,
    /// Make a store of a backup.
    Restore,
    /// Sign another log's checkpoint.
    Countersign,
    /// Go on from a store that does not continue its anchor.
    ReAnchor,
    /// Read the log.
    ReadLog,
    /// Read how tokens stand.
    ReadToken,
    /// Try tokens out, with keys of role `probe`.
    ProbeToken,
    /// Log in to a token.
    LogInToken,
    /// Allow one more try of a token's PIN.
    UnlatchToken,
    /// Take a token out of quarantine.
    ReleaseToken,
}

impl Operation {
    /// The name in records.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Operation::FoundInstance => "found-instance",
            Operation::Serve => "serve",
            Operation::FoundAuthority => "found-authority",
            Operation::ProcessEnrollment => "process-enrollment",
            Operation::ExportRequest => "export-request",
            Operation::ImportResponse => "import-response",
            Operation::CreateCluster => "create-cluster",
            Operation::ReadCluster => "read-cluster",
            Operation::InviteNode => "invite-node",
            Operation::Connect => "connect",
            Operation::JoinCluster => "join-cluster",
            Operation::ReadNode => "read-node",
            Operation::SignDocument => "sign-document",
            Operation::ExportLog => "export-log",
            Operation::RotateAuditKey => "rotate-audit-key",
            Operation::BackUp => "back-up",
            Operation::Restore => "restore",
            Operation::Countersign => "countersign-checkpoint",
            Operation::ReAnchor => "re-anchor",
            Operation::ReadLog => "read-log",
            Operation::ReadToken => "read-token",
            Operation::ProbeToken => "probe-token",
            Operation::LogInToken => "log-in-token",
            Operation::UnlatchToken => "unlatch-token",
            Operation::ReleaseToken => "release-token",
        }
    }
}

/// Kinds of document that custody can be asked to sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DocumentKind {
    /// Use license (MS-RMPR 2.2.9.9).
    UseLicense,
    /// Certificate of a CA (MS-RMPR 2.2.9.3.1).
    CaCertificate,
    /// Certificate of an enrollment CA.
    EnrollmentCaCertificate,
    /// Certificate of an enrollment service.
    EnrollmentServiceCertificate,
    /// Server licensor certificate (MS-RMPR 2.2.9.3.4).
    ServerLicensorCertificate,
    /// X.509 certificate of this service's own TLS authority.
    TlsCertificate,
}

impl DocumentKind {
    /// The name in records.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            DocumentKind::UseLicense => "use-license",
            DocumentKind::CaCertificate => "ca-certificate",
            DocumentKind::EnrollmentCaCertificate => "enrollment-ca-certificate",
            DocumentKind::EnrollmentServiceCertificate => "enrollment-service-certificate",
            DocumentKind::ServerLicensorCertificate => "server-licensor-certificate",
            DocumentKind::TlsCertificate => "tls-certificate",
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
    signs: Option<Signs>,
}

const RULES: &[Rule] = &[
    rule("operators-create-clusters", Role::Operator, Operation::CreateCluster, Reach::Any),
    rule("operators-read-clusters", Role::Operator, Operation::ReadCluster, Reach::Any),
    rule("operators-found-instances", Role::Operator, Operation::FoundInstance, Reach::Any),
    signing("operators-found-instances", Role::Operator, Operation::FoundInstance, Reach::Any, TLS),
    signing("operators-serve", Role::Operator, Operation::Serve, Reach::Any, TLS),
    rule("operators-found-authorities", Role::Operator, Operation::FoundAuthority, Reach::Any),
    signing("operators-found-authorities", Role::Operator, Operation::FoundAuthority, Reach::Any, CA),
    signing("operators-found-authorities", Role::Operator, Operation::FoundAuthority, Reach::Any, ENROLLMENT_CA),
    signing("operators-found-authorities", Role::Operator, Operation::FoundAuthority, Reach::Any, ENROLLMENT_SERVICE),
    signing("operators-process-enrollments", Role::Operator, Operation::ProcessEnrollment, Reach::Any, SLC),
    rule("operators-export-requests", Role::Operator, Operation::ExportRequest, Reach::Any),
    rule("operators-import-responses", Role::Operator, Operation::ImportResponse, Reach::Any),
    rule("operators-invite-nodes", Role::Operator, Operation::InviteNode, Reach::Any),
    signing("join-tokens-admit-one-node", Role::Joiner, Operation::JoinCluster, Reach::Own, TLS),
    rule("operators-read-nodes", Role::Operator, Operation::ReadNode, Reach::Any),
    rule("operators-export-the-log", Role::Operator, Operation::ExportLog, Reach::Any),
    rule("operators-rotate-audit-keys", Role::Operator, Operation::RotateAuditKey, Reach::Any),
    rule("operators-back-up", Role::Operator, Operation::BackUp, Reach::Any),
    rule("operators-restore", Role::Operator, Operation::Restore, Reach::Any),
    rule("operators-countersign", Role::Operator, Operation::Countersign, Reach::Any),
    rule("operators-re-anchor", Role::Operator, Operation::ReAnchor, Reach::Any),
    rule("operators-read-the-log", Role::Operator, Operation::ReadLog, Reach::Any),
    rule("operators-read-tokens", Role::Operator, Operation::ReadToken, Reach::Any),
    rule("operators-probe-tokens", Role::Operator, Operation::ProbeToken, Reach::Any),
    rule("operators-log-in-to-tokens", Role::Operator, Operation::LogInToken, Reach::Any),
    rule("operators-unlatch-tokens", Role::Operator, Operation::UnlatchToken, Reach::Any),
    rule("operators-release-tokens", Role::Operator, Operation::ReleaseToken, Reach::Any),
    rule("nodes-read-their-cluster", Role::Node, Operation::ReadCluster, Reach::Own),
    signing("nodes-sign-use-licenses", Role::Node, Operation::SignDocument, Reach::Own, UL),
];

/// What may be signed, with the key of which role.
pub type Signs = (KeyRole, DocumentKind);
const UL: Signs = (KeyRole::Slc, DocumentKind::UseLicense);
const CA: Signs = (KeyRole::Root, DocumentKind::CaCertificate);
const ENROLLMENT_CA: Signs = (KeyRole::Ca, DocumentKind::EnrollmentCaCertificate);
const ENROLLMENT_SERVICE: Signs = (KeyRole::EnrollmentCa, DocumentKind::EnrollmentServiceCertificate);
const SLC: Signs = (KeyRole::EnrollmentService, DocumentKind::ServerLicensorCertificate);
const TLS: Signs = (KeyRole::TlsCa, DocumentKind::TlsCertificate);

const fn rule(name: &'static str, role: Role, operation: Operation, reach: Reach) -> Rule {
    Rule { name, role, operation, reach, signs: None }
}

const fn signing(name: &'static str, role: Role, operation: Operation, reach: Reach, signs: Signs) -> Rule {
    Rule { name, role, operation, reach, signs: Some(signs) }
}

/// The table in words, a line for each rule: what a log says was in force.
#[must_use]
pub fn words() -> Vec<String> {
    RULES.iter().map(Rule::words).collect()
}

impl Rule {
    fn words(&self) -> String {
        let role = match self.role {
            Role::Node => "node",
            Role::Operator => "operator",
            Role::Joiner => "joiner",
        };
        let reach = match self.reach {
            Reach::Any => "any cluster",
            Reach::Own => "its own cluster",
        };
        let signs = self.signs.map(|(key, kind)| format!(", signs {} with {}", kind.name(), key.name()));
        format!("{}: {role} may {} for {reach}{}", self.name, self.operation.name(), signs.unwrap_or_default())
    }
}

/// What is asked.
#[derive(Clone, Debug)]
pub struct Asked<'a> {
    /// The operation.
    pub operation: Operation,
    /// The cluster it is about, as a resource name; none for what is about the whole instance.
    pub cluster: Option<&'a str>,
    /// For signing: the key's role and the kind of document.
    pub signs: Option<Signs>,
}

/// Leave to do one act, once: who, what, and the rule that allows it. Made only by [`permit`], spent by custody.
#[derive(Debug)]
pub struct Permit {
    caller: Caller,
    operation: Operation,
    rule: &'static str,
    signs: Option<Signs>,
    cluster: Option<String>,
}

/// Whether a key is one of a cluster's, by their resource names.
fn is_of(key: &str, cluster: &str) -> bool {
    key.strip_prefix(cluster).is_some_and(|rest| rest.starts_with("/keys/"))
}

fn mixed_up(operation: Operation, key: &str) -> Error {
    Error::new(Reason::Internal, format!("a permit to {} was shown for {key}", operation.name()))
}

impl Permit {
    /// Requires that it allows a signature over this kind of document with this key: one of its role and, for a cluster's
    /// key, of its cluster.
    ///
    /// # Errors
    /// `INTERNAL`: a door or an operation has mixed up permits.
    pub fn require(&self, key: &str, role: KeyRole, kind: DocumentKind) -> Result<()> {
        let is_its_own = match role {
            KeyRole::Slc => self.cluster.as_deref().is_some_and(|cluster| is_of(key, cluster)),
            _ => key.starts_with("keys/"),
        };
        if self.signs == Some((role, kind)) && is_its_own { Ok(()) } else { Err(mixed_up(self.operation, key)) }
    }

    /// Requires that it allows to make this key.
    ///
    /// # Errors
    /// As [`Permit::require`].
    pub fn require_making(&self, key: &str, role: KeyRole) -> Result<()> {
        let operation = match role {
            KeyRole::Slc => Operation::CreateCluster,
            KeyRole::Root | KeyRole::Ca | KeyRole::EnrollmentCa | KeyRole::EnrollmentService => {
                Operation::FoundAuthority
            }
            KeyRole::Audit if self.operation == Operation::RotateAuditKey => Operation::RotateAuditKey,
            KeyRole::Audit | KeyRole::TlsCa => Operation::FoundInstance,
            KeyRole::Probe => Operation::ProbeToken,
        };
        let is_its_own = match &self.cluster {
            Some(cluster) => is_of(key, cluster),
            None => key.starts_with("keys/"),
        };
        let allowed = self.operation == operation && self.signs.is_none() && is_its_own;
        if allowed { Ok(()) } else { Err(mixed_up(self.operation, key)) }
    }

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
            .hint("ask the operator of this instance for a join token: keyward node invite"));
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
        Some(rule) => Ok(Permit {
            caller: caller.clone(),
            operation: asked.operation,
            rule: rule.name,
            signs: rule.signs,
            cluster: asked.cluster.map(str::to_owned),
        }),
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

    fn verdict(caller: &Caller, operation: Operation, cluster: Option<&str>) -> Result<&'static str, Reason> {
        let signs = if operation == Operation::SignDocument { Some(UL) } else { None };
        permit(caller, &Asked { operation, cluster, signs }).map(|p| p.rule()).map_err(|e| e.reason())
    }

    #[test]
    fn the_table_allows_what_it_names_and_nothing_else() {
        use Operation::*;
        let stranger = Caller::Stranger { certificate_sha256: String::new(), address: String::new() };
        type Case<'a> = (&'a Caller, Operation, Option<&'a str>, Result<&'a str, Reason>);
        let cases: &[Case<'_>] = &[
            (&node("clusters/a"), SignDocument, Some("clusters/a"), Ok("nodes-sign-use-licenses")),
            (&node("clusters/a"), SignDocument, Some("clusters/b"), Err(Reason::PermissionDenied)),
            (&node("clusters/a"), SignDocument, None, Err(Reason::PermissionDenied)),
            (&node("clusters/a"), ReadCluster, Some("clusters/a"), Ok("nodes-read-their-cluster")),
            (&node("clusters/a"), ReadCluster, Some("clusters/b"), Err(Reason::PermissionDenied)),
            (&node("clusters/a"), InviteNode, Some("clusters/a"), Err(Reason::PermissionDenied)),
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
    fn no_two_rules_read_the_same() {
        let words = words();
        assert!(
            words.contains(
                &"nodes-sign-use-licenses: node may sign-document for its own cluster, signs use-license with slc"
                    .to_owned()
            )
        );
        let distinct: std::collections::HashSet<&String> = words.iter().collect();
        assert_eq!((words.len(), distinct.len()), (RULES.len(), RULES.len()));
    }

    #[test]
    fn a_permit_is_good_for_its_own_cluster_key_and_kind_only() {
        let cluster = Some("clusters/a");
        let asked = Asked { operation: Operation::SignDocument, cluster, signs: Some(UL) };
        let permit = permit(&node("clusters/a"), &asked).unwrap();
        assert!(permit.require("clusters/a/keys/slc-1", KeyRole::Slc, DocumentKind::UseLicense).is_ok());
        for (key, role, kind) in [
            ("clusters/b/keys/slc-1", KeyRole::Slc, DocumentKind::UseLicense),
            ("clusters/ab/keys/slc-1", KeyRole::Slc, DocumentKind::UseLicense),
            ("clusters/a/keys/slc-1", KeyRole::Slc, DocumentKind::ServerLicensorCertificate),
            ("keys/root", KeyRole::Root, DocumentKind::UseLicense),
        ] {
            assert!(permit.require(key, role, kind).is_err(), "{key} {role:?} {kind:?}");
        }
        assert!(permit.require_making("clusters/a/keys/slc-2", KeyRole::Slc).is_err());
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
