//! Making a cluster: its record and its server licensor key, together.

use std::sync::Arc;
use std::time::Instant;

use uuid::Uuid;

use crate::caller::Caller;
use crate::clock;
use crate::cluster::{self, Cluster};
use crate::custody::{Custody, KeyRecord, Making};
use crate::error::{Error, Reason, Result};
use crate::key::{KeyRole, Mode};
use crate::policy::{self, Asked, Operation};
use crate::store::{Kind, Write};

/// A cluster to be made.
#[derive(Clone, Debug)]
pub struct NewCluster {
    /// Last part of its resource name.
    pub id: String,
    /// Base URL of its licensing service.
    pub url: String,
}

/// Makes a cluster with a fresh Mode 2 key in this instance's first token.
///
/// # Errors
/// `PERMISSION_DENIED`, `INVALID_ARGUMENT`, `ALREADY_EXISTS`; those of custody. Refusals are recorded.
pub async fn create(
    custody: &Arc<Custody>,
    caller: &Caller,
    new: NewCluster,
    deadline: Instant,
) -> Result<(Cluster, KeyRecord)> {
    let target = format!("clusters/{}", new.id);
    match prepare(custody, caller, new).await {
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
    new: NewCluster,
) -> Result<(policy::Permit, Cluster, Making)> {
    let permit = policy::permit(caller, &Asked { operation: Operation::CreateCluster, cluster: None, signs: None })?;
    cluster::check_id("cluster_id", &new.id)?;
    cluster::check_url(&new.url)?;
    let name = format!("clusters/{}", new.id);
    // The commit decides; this spares the token a key that nobody will own.
    if custody.store().get(Kind::Cluster, &name).await?.is_some() {
        return Err(Error::new(Reason::AlreadyExists, format!("{name} exists already"))
            .hint("choose another name, or look at it: keyward cluster get"));
    }
    let (token, seal) = custody.default_token()?;
    let cluster = Cluster {
        slc_key: format!("{name}/keys/slc-1"),
        guid: Uuid::new_v4(),
        url: new.url,
        mode: Mode::Two,
        seal,
        created_us: clock::now_us(),
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
