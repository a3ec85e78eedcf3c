//! Making a node: a principal of one cluster, with a client certificate for a key that it made itself.

use std::sync::Arc;

use crate::caller::{Caller, Principal, Role};
use crate::clock;
use crate::cluster;
use crate::custody::{Custody, performed};
use crate::error::{Error, Reason, Result};
use crate::policy::{self, Asked, Operation};
use crate::store::{Batch, Kind, Write};
use crate::tls::{Authority, CLIENT_DAYS_MAX, ClientCertificate};

/// A node to be made.
#[derive(Clone, Debug)]
pub struct NewNode {
    /// Resource name of its cluster.
    pub cluster: String,
    /// Last part of its resource name.
    pub id: String,
    /// PKCS#10 request, PEM. Only its public key counts.
    pub request_pem: String,
    /// Life of its certificate, in days; 0 for a year.
    pub valid_days: u32,
}

/// What a node gets.
pub struct NodeCredentials {
    /// Its record.
    pub principal: Principal,
    /// Its certificate.
    pub certificate: ClientCertificate,
}

/// Makes a node and issues its certificate.
///
/// # Errors
/// `PERMISSION_DENIED`, `INVALID_ARGUMENT`, `NOT_FOUND`, `ALREADY_EXISTS`; those of the store. Refusals are recorded.
pub async fn create(
    custody: &Arc<Custody>,
    authority: &Authority,
    caller: &Caller,
    new: NewNode,
) -> Result<NodeCredentials> {
    let target = format!("{}/nodes/{}", new.cluster, new.id);
    match make(custody, authority, caller, &target, new).await {
        Ok(made) => Ok(made),
        Err(refusal) => Err(custody.refuse(caller, Operation::CreateNode, &target, refusal).await),
    }
}

async fn make(
    custody: &Arc<Custody>,
    authority: &Authority,
    caller: &Caller,
    name: &str,
    new: NewNode,
) -> Result<NodeCredentials> {
    let permit =
        policy::permit(caller, &Asked { operation: Operation::CreateNode, cluster: Some(&new.cluster), signs: None })?;
    cluster::check_id("node_id", &new.id)?;
    if new.valid_days > CLIENT_DAYS_MAX {
        return Err(Error::new(
            Reason::InvalidArgument,
            format!("valid_days is {}; a client certificate lives at most {CLIENT_DAYS_MAX} days", new.valid_days),
        ));
    }
    custody.cluster(&new.cluster).await?;
    let days = if new.valid_days == 0 { 365 } else { new.valid_days };
    let certificate = authority.client(&new.request_pem, name, days)?;
    let principal = Principal {
        name: name.to_owned(),
        role: Role::Node,
        cluster: Some(new.cluster),
        certificate_sha256: certificate.sha256.clone(),
        active: true,
        created_us: clock::now_us(),
        certificate_expires_us: certificate.expires_us,
    };
    let writes = vec![
        Write::new(Kind::Principal, name, 0, &principal)?,
        Write::new(Kind::Certificate, &certificate.sha256, 0, &name)?,
    ];
    custody.store().commit(Batch { writes, events: vec![performed(permit, name)] }).await?;
    Ok(NodeCredentials { principal, certificate })
}
