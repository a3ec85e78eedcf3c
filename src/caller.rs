//! Who calls: the local operator, or a principal known by its client certificate.

use serde::{Deserialize, Serialize};

/// What a principal may be trusted with. A rule of `policy` names one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// One licensing server of one cluster.
    Node,
    /// Runs this instance: makes clusters and nodes, exports the log.
    Operator,
    /// Holds a join token, and may become the node that it names.
    Joiner,
}

/// A recorded principal. A client certificate counts only while it is named here and the principal is active.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Principal {
    /// Resource name, such as `clusters/emea/nodes/lic-1`.
    pub name: String,
    /// What it may be trusted with.
    pub role: Role,
    /// The cluster it belongs to, as a resource name; none for those who serve all.
    pub cluster: Option<String>,
    /// SHA-256 of its client certificate's DER, hexadecimal.
    pub certificate_sha256: String,
    /// Whether it may call.
    pub active: bool,
    /// When it was made: microseconds since 1970, UTC.
    pub created_us: i64,
    /// When its certificate ends: microseconds since 1970, UTC.
    pub certificate_expires_us: i64,
}

/// The one who makes a call, as established by the door it came through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A process of this machine on the operator socket, known by its peer credentials.
    LocalOperator {
        /// Its user id.
        uid: u32,
    },
    /// A principal known by its client certificate.
    Principal(Principal),
    /// Whoever holds a join token, until it is spent.
    Joiner {
        /// The node that it may become.
        node: String,
        /// That node's cluster.
        cluster: String,
        /// Network address it calls from; empty if it has none.
        address: String,
    },
    /// A certificate of our authority that belongs to no active principal.
    Stranger {
        /// SHA-256 of the certificate's DER, hexadecimal; empty if there was none.
        certificate_sha256: String,
        /// Network address it calls from; empty if it has none.
        address: String,
    },
}

impl Caller {
    /// The roles this caller holds.
    #[must_use]
    pub fn roles(&self) -> &[Role] {
        match self {
            Caller::LocalOperator { .. } => &[Role::Operator],
            Caller::Principal(principal) => std::slice::from_ref(&principal.role),
            Caller::Joiner { .. } => &[Role::Joiner],
            Caller::Stranger { .. } => &[],
        }
    }

    /// The cluster this caller belongs to, if to one.
    #[must_use]
    pub fn cluster(&self) -> Option<&str> {
        match self {
            Caller::Principal(principal) => principal.cluster.as_deref(),
            Caller::Joiner { cluster, .. } => Some(cluster),
            _ => None,
        }
    }

    /// How records name this caller.
    #[must_use]
    pub fn note(&self) -> CallerNote {
        let given = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        match self {
            Caller::LocalOperator { uid } => CallerNote { uid: Some(*uid), ..CallerNote::named("local-operator") },
            Caller::Principal(principal) => CallerNote {
                certificate_sha256: Some(principal.certificate_sha256.clone()),
                ..CallerNote::named(&principal.name)
            },
            Caller::Joiner { node, address, .. } => {
                CallerNote { address: given(address), ..CallerNote::named(&format!("join-token for {node}")) }
            }
            Caller::Stranger { certificate_sha256, address } => CallerNote {
                certificate_sha256: given(certificate_sha256),
                address: given(address),
                ..CallerNote::named("stranger")
            },
        }
    }
}

/// A caller as it stands in a record.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CallerNote {
    /// Resource name, `local-operator`, `service` or `stranger`.
    pub name: String,
    /// User id of a local operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// SHA-256 of the client certificate, hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_sha256: Option<String>,
    /// Network address of one who is no principal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}

impl CallerNote {
    /// A caller of whom there is no more than a name.
    #[must_use]
    pub fn named(name: &str) -> Self {
        CallerNote { name: name.to_owned(), uid: None, certificate_sha256: None, address: None }
    }

    /// The service itself, for what it does at start and stop.
    #[must_use]
    pub fn service() -> Self {
        CallerNote::named("service")
    }
}
