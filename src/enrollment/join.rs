//! Nodes: invited by an operator with a token that works once, and joining with it.

use std::sync::Arc;

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::audit::record::Event;
use crate::caller::{Caller, Principal, Role};
use crate::clock;
use crate::cluster;
use crate::custody::{Custody, performed};
use crate::enrollment::instance;
use crate::error::{Error, Reason, Result};
use crate::policy::{self, Asked, Operation};
use crate::store::{Batch, Kind, Write};
use crate::tls::{Authority, CLIENT_DAYS_MAX, Issued};

/// Life of a join token where none is asked for, in minutes.
pub const TOKEN_MINUTES: u32 = 60;
/// Longest life of a join token, in minutes: a week.
pub const TOKEN_MINUTES_MAX: u32 = 7 * 24 * 60;
/// Life of a client certificate where none is asked for, in days.
pub const CERTIFICATE_DAYS: u32 = 365;

/// An invitation to be made.
#[derive(Clone, Debug)]
pub struct NewInvitation {
    /// Resource name of the cluster.
    pub cluster: String,
    /// Last part of the node's resource name.
    pub id: String,
    /// Life of the token, in minutes; 0 for an hour.
    pub token_minutes: u32,
    /// Life of the node's certificate, in days; 0 for a year.
    pub certificate_days: u32,
}

/// An invitation, with the secret that is told once.
pub struct Invited {
    /// Resource name that the node will have.
    pub node: String,
    /// The token's secret, 64 hexadecimal digits.
    pub secret: Zeroizing<String>,
    /// When it expires: microseconds since 1970, UTC.
    pub expires_us: i64,
}

/// A join token's record. Its name in the store is the SHA-256 of the secret.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Invitation {
    node: String,
    cluster: String,
    role: Role,
    certificate_days: u32,
    expires_us: i64,
    spent_us: Option<i64>,
}

impl Invitation {
    /// Whether it may still be used.
    fn is_open(&self, now_us: i64) -> bool {
        self.spent_us.is_none() && now_us < self.expires_us
    }
}

/// What a node gets.
pub struct Joined {
    /// Its record.
    pub principal: Principal,
    /// Its certificate.
    pub certificate: Issued,
}

/// Makes a join token.
///
/// # Errors
/// `PERMISSION_DENIED`, `INVALID_ARGUMENT`, `NOT_FOUND`, `ALREADY_EXISTS`; those of the store. Refusals are recorded.
pub async fn invite(custody: &Arc<Custody>, caller: &Caller, new: NewInvitation) -> Result<Invited> {
    let node = format!("{}/nodes/{}", new.cluster, new.id);
    match make(custody, caller, &node, new).await {
        Ok(invited) => Ok(invited),
        Err(refusal) => Err(custody.refuse(caller, Operation::InviteNode, &node, refusal).await),
    }
}

async fn make(custody: &Arc<Custody>, caller: &Caller, node: &str, new: NewInvitation) -> Result<Invited> {
    let asked = Asked { operation: Operation::InviteNode, cluster: Some(&new.cluster), signs: None };
    let permit = policy::permit(caller, &asked)?;
    cluster::check_id("node_id", &new.id)?;
    let minutes = within("token_minutes", new.token_minutes, TOKEN_MINUTES, TOKEN_MINUTES_MAX)?;
    let certificate_days = within("certificate_days", new.certificate_days, CERTIFICATE_DAYS, CLIENT_DAYS_MAX)?;
    custody.cluster(&new.cluster).await?;
    if custody.store().get(Kind::Principal, node).await?.is_some() {
        return Err(taken(node));
    }
    let secret = Zeroizing::new(hex::encode(Zeroizing::new(clock::random::<32>()?)));
    let expires_us = clock::now_us() + i64::from(minutes) * 60_000_000;
    let invitation = Invitation {
        node: node.to_owned(),
        cluster: new.cluster,
        role: Role::Node,
        certificate_days,
        expires_us,
        spent_us: None,
    };
    let writes = vec![Write::new(Kind::JoinToken, &name_of(&secret), 0, &invitation)?];
    custody.store().commit(Batch { writes, events: vec![performed(permit, node)] }).await?;
    Ok(Invited { node: node.to_owned(), secret, expires_us })
}

/// Spends a join token: issues the certificate and makes the node. The token is spent in the same commit. `address` is
/// where the call comes from.
///
/// # Errors
/// `UNAUTHENTICATED` for a token that is unknown, spent or expired; `INVALID_ARGUMENT` for a request that is none;
/// those of custody. Refusals are recorded.
pub async fn join(
    custody: &Arc<Custody>,
    authority: &Authority,
    address: String,
    secret: &str,
    request_pem: &str,
) -> Result<Joined> {
    let token = name_of(secret);
    let stranger = Caller::Stranger { certificate_sha256: String::new(), address: address.clone() };
    let (caller, invitation, version) = match admit(custody, &token, address).await {
        Ok(admitted) => admitted,
        Err(refusal) => {
            return Err(custody.refuse(&stranger, Operation::JoinCluster, "join-token", refusal).await);
        }
    };
    let node = invitation.node.clone();
    match enter(custody, authority, &caller, &token, (invitation, version), request_pem).await {
        Ok(joined) => Ok(joined),
        Err(refusal) => Err(custody.refuse(&caller, Operation::JoinCluster, &node, refusal).await),
    }
}

/// Who holds this token, if it may still be used. Why not is not told: whoever guesses learns nothing.
async fn admit(custody: &Arc<Custody>, token: &str, address: String) -> Result<(Caller, Invitation, u64)> {
    let refused = || {
        Error::new(Reason::Unauthenticated, "this join token is unknown, spent or expired")
            .hint("ask the operator for a new one: keyward node invite")
    };
    let object = custody.store().get(Kind::JoinToken, token).await?.ok_or_else(refused)?;
    let invitation: Invitation = object.read()?;
    if !invitation.is_open(clock::now_us()) {
        return Err(refused());
    }
    let caller = Caller::Joiner { node: invitation.node.clone(), cluster: invitation.cluster.clone(), address };
    Ok((caller, invitation, object.version))
}

async fn enter(
    custody: &Arc<Custody>,
    authority: &Authority,
    caller: &Caller,
    token: &str,
    (mut invitation, version): (Invitation, u64),
    request_pem: &str,
) -> Result<Joined> {
    let node = invitation.node.clone();
    if custody.store().get(Kind::Principal, &node).await?.is_some() {
        return Err(taken(&node));
    }
    let unsigned = authority.client(request_pem, &node, invitation.certificate_days)?;
    let certificate = instance::sign(custody, caller, Operation::JoinCluster, &node, unsigned).await?;
    let principal = Principal {
        name: node.clone(),
        role: invitation.role,
        cluster: Some(invitation.cluster.clone()),
        certificate_sha256: certificate.sha256.clone(),
        active: true,
        created_us: clock::now_us(),
        certificate_expires_us: certificate.expires_us,
    };
    invitation.spent_us = Some(clock::now_us());
    let writes = vec![
        Write::new(Kind::JoinToken, token, version, &invitation)?,
        Write::new(Kind::Principal, &node, 0, &principal)?,
        Write::new(Kind::Certificate, &certificate.sha256, 0, &node)?,
    ];
    let joined = Event::Joined { caller: caller.note(), node, certificate_sha256: certificate.sha256.clone() };
    custody.store().commit(Batch { writes, events: vec![joined] }).await?;
    Ok(Joined { principal, certificate })
}

fn taken(node: &str) -> Error {
    Error::new(Reason::AlreadyExists, format!("{node} exists already")).hint("choose another name")
}

/// How the store names a token: SHA-256 of its secret, hexadecimal.
fn name_of(secret: &str) -> String {
    hex::encode(digest::digest(&digest::SHA256, secret.trim().as_bytes()))
}

fn within(field: &str, asked: u32, default: u32, most: u32) -> Result<u32> {
    match asked {
        0 => Ok(default),
        asked if asked <= most => Ok(asked),
        asked => Err(Error::new(Reason::InvalidArgument, format!("{field} is {asked}; at most {most} is allowed"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invitation_is_open_until_it_is_spent_or_its_time_is_up() {
        let open = Invitation {
            node: "clusters/a/nodes/n".into(),
            cluster: "clusters/a".into(),
            role: Role::Node,
            certificate_days: 1,
            expires_us: 1_000,
            spent_us: None,
        };
        assert!(open.is_open(999));
        assert!(!open.is_open(1_000));
        assert!(!Invitation { spent_us: Some(5), ..open }.is_open(999));
    }
}
