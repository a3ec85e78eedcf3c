//! Making a cluster: its record and its server licensor key, together; and its enrollment request.

use std::sync::Arc;
use std::time::Instant;

use uuid::Uuid;

use crate::audit::record::Event;
use crate::caller::Caller;
use crate::clock;
use crate::cluster::{self, Cluster};
use crate::custody::{Custody, KeyRecord, Making};
use crate::enrollment::fingerprint::Fingerprint;
use crate::enrollment::request::{REVOCATION_AUTHORITIES_MAX, Request};
use crate::error::{Error, Reason, Result};
use crate::key::{KeyRole, Mode};
use crate::policy::{self, Asked, Operation};
use crate::store::{Batch, Kind, Write};
use crate::xrml::value::key_from_der;

/// A cluster to be made.
#[derive(Clone, Debug)]
pub struct NewCluster {
    /// Last part of its resource name.
    pub id: String,
    /// Base URL of its licensing service.
    pub url: String,
    /// Name of the server; the id where it is empty.
    pub server_name: String,
    /// Third parties that may revoke what it issues, as DER; none for standard revocation.
    pub revocation: Vec<Vec<u8>>,
    /// The token that its key is made in, by its name in the configuration; the first by name where it is empty.
    pub token: String,
}

/// What this instance enrolls its clusters as. It comes from the configuration, not from the machine.
#[derive(Clone, Debug)]
pub struct Product {
    /// Product, such as `RMS 2.0`.
    pub sku: String,
    /// Its version.
    pub version: String,
}

/// A cluster's enrollment request as a file.
#[derive(Clone, Debug)]
pub struct Exported {
    /// The file.
    pub document: Vec<u8>,
    /// Over its bytes.
    pub fingerprint: Fingerprint,
}

/// Makes a cluster with a fresh Mode 2 key in one of this instance's tokens.
///
/// # Errors
/// `PERMISSION_DENIED`, `INVALID_ARGUMENT`, `ALREADY_EXISTS`; those of custody. Refusals are recorded.
pub async fn create(
    custody: &Arc<Custody>,
    caller: &Caller,
    product: &Product,
    new: NewCluster,
    deadline: Instant,
) -> Result<(Cluster, KeyRecord)> {
    let target = format!("clusters/{}", new.id);
    match prepare(custody, caller, product, new).await {
        Ok((permit, cluster, making)) => {
            let key = custody.generate(permit, making, deadline).await?.answer();
            Ok((cluster, key))
        }
        Err(refusal) => Err(custody.refuse(caller, Operation::CreateCluster, &target, refusal).await),
    }
}

async fn prepare(
    custody: &Arc<Custody>,
    caller: &Caller,
    product: &Product,
    new: NewCluster,
) -> Result<(policy::Permit, Cluster, Making)> {
    let name = format!("clusters/{}", new.id);
    let asked = Asked { operation: Operation::CreateCluster, cluster: Some(&name), signs: None };
    let permit = policy::permit(caller, &asked)?;
    cluster::check_id("cluster_id", &new.id)?;
    cluster::check_url(&new.url)?;
    let server_name = if new.server_name.is_empty() { new.id.to_uppercase() } else { new.server_name };
    cluster::check_text("server_name", &server_name)?;
    if new.revocation.len() > REVOCATION_AUTHORITIES_MAX {
        return Err(Error::new(
            Reason::LimitExceeded,
            format!("a cluster has at most {REVOCATION_AUTHORITIES_MAX} revocation authorities"),
        ));
    }
    let revocation = new.revocation.iter().map(|der| key_from_der(der)).collect::<Result<_>>()?;
    // The commit decides; this spares the token a key that nobody will own.
    if custody.store().get(Kind::Cluster, &name).await?.is_some() {
        return Err(Error::new(Reason::AlreadyExists, format!("{name} exists already"))
            .hint("choose another name, or look at it: keyward cluster get"));
    }
    let (token, seal) =
        if new.token.is_empty() { custody.default_token() } else { custody.token_for_keys(&new.token) }?;
    let cluster = Cluster {
        slc_key: format!("{name}/keys/slc-1"),
        guid: Uuid::new_v4(),
        url: new.url,
        mode: Mode::Two,
        seal,
        created_us: clock::now_us(),
        server_name,
        sku: product.sku.clone(),
        version: product.version.clone(),
        revocation,
        slc: None,
        name,
    };
    let making = Making {
        name: cluster.slc_key.clone(),
        role: KeyRole::Slc,
        mode: cluster.mode,
        token: token.to_owned(),
        beside: vec![Write::new(Kind::Cluster, &cluster.name, 0, &cluster)?],
    };
    Ok((permit, cluster, making))
}

/// Writes a cluster's enrollment request: the same bytes each time.
///
/// # Errors
/// `PERMISSION_DENIED`, `NOT_FOUND`; those of the store. Refusals are recorded.
pub async fn export_request(custody: &Arc<Custody>, caller: &Caller, name: &str) -> Result<Exported> {
    match write_request(custody, caller, name).await {
        Ok(exported) => Ok(exported),
        Err(refusal) => Err(custody.refuse(caller, Operation::ExportRequest, name, refusal).await),
    }
}

async fn write_request(custody: &Arc<Custody>, caller: &Caller, name: &str) -> Result<Exported> {
    policy::permit(caller, &Asked { operation: Operation::ExportRequest, cluster: Some(name), signs: None })?;
    let cluster = custody.cluster(name).await?;
    let key = custody.key(&cluster.slc_key).await?;
    let document = Request::of(&cluster, &key.record.public)?.write().into_bytes();
    let fingerprint = Fingerprint::of(&document);
    let event = Event::Enrollment {
        caller: caller.note(),
        step: "request-exported".into(),
        subject: name.to_owned(),
        document_sha256: fingerprint.sha256.clone(),
        detail: format!("{} at {}", cluster.server_name, cluster.url),
    };
    custody.store().commit(Batch::event(event)).await?;
    Ok(Exported { document, fingerprint })
}
