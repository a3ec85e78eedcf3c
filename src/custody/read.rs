//! What the doors read: records as they are, without a token.

use std::sync::Arc;

use serde::de::DeserializeOwned;

use crate::audit::record::Event;
use crate::caller::{Caller, Principal};
use crate::cluster::Cluster;
use crate::custody::{Custody, Held, KeyRecord, sign};
use crate::error::{Error, Reason, Result};
use crate::policy::Permit;
use crate::store::{self, Batch, Kind};

/// A page of a list: at most this many objects whose names come after that one.
#[derive(Clone, Copy, Debug)]
pub struct Page<'a> {
    /// How many at most.
    pub size: u32,
    /// The last name of the page before; empty for the first page.
    pub after: &'a str,
}

impl Custody {
    /// Looks a cluster up by its resource name.
    ///
    /// # Errors
    /// `NOT_FOUND`; those of the store.
    pub async fn cluster(&self, name: &str) -> Result<Cluster> {
        self.one(Kind::Cluster, name).await
    }

    /// A cluster with the version that a change of it must expect.
    ///
    /// # Errors
    /// `NOT_FOUND`; those of the store.
    pub async fn versioned_cluster(&self, name: &str) -> Result<(Cluster, u64)> {
        let object = self.store.get(Kind::Cluster, name).await?.ok_or_else(|| none(name))?;
        Ok((object.read()?, object.version))
    }

    /// A stored certificate chain.
    ///
    /// # Errors
    /// `NOT_FOUND`; those of the store.
    pub async fn chain<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        self.one(Kind::Chain, name).await
    }

    /// Clusters, in order of names.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn clusters(&self, page: Page<'_>) -> Result<Vec<Cluster>> {
        self.page(Kind::Cluster, "clusters/", page).await
    }

    /// Looks a key up by its resource name.
    ///
    /// # Errors
    /// `NOT_FOUND`; `RECORD_BROKEN` if its record does not parse; those of the store.
    pub async fn key(&self, name: &str) -> Result<Arc<Held>> {
        let Some(object) = self.store.get(Kind::Key, name).await? else { return Err(none(name)) };
        if let Some(held) = self.held(name, object.version) {
            return Ok(held);
        }
        let record: KeyRecord = object.read()?;
        let verifier = sign::verifier(&record)?;
        let held = Arc::new(Held { record, version: object.version, verifier });
        self.hold(held.clone());
        Ok(held)
    }

    /// A key as its row stands, whether or not a log says the same of it: for what is checked again before it is used.
    ///
    /// # Errors
    /// `RECORD_BROKEN` if it does not parse; those of the store.
    pub async fn key_as_it_stands(&self, name: &str) -> Result<Option<KeyRecord>> {
        store::row(self.store.as_ref(), Kind::Key, name).await?.map(|row| row.read()).transpose()
    }

    /// The keys of a cluster, in order of names.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn keys(&self, cluster: &str, page: Page<'_>) -> Result<Vec<KeyRecord>> {
        self.page(Kind::Key, &format!("{cluster}/keys/"), page).await
    }

    /// Looks a node up by its resource name.
    ///
    /// # Errors
    /// `NOT_FOUND`; those of the store.
    pub async fn node(&self, name: &str) -> Result<Principal> {
        self.one(Kind::Principal, name).await
    }

    /// The nodes of a cluster, in order of names.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn nodes(&self, cluster: &str, page: Page<'_>) -> Result<Vec<Principal>> {
        self.page(Kind::Principal, &format!("{cluster}/nodes/"), page).await
    }

    /// Who holds a client certificate, by its SHA-256 in hexadecimal: a stranger, unless it is recorded for an active
    /// principal. `address` is where the call comes from.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn caller(&self, certificate_sha256: &str, address: String) -> Result<Caller> {
        let stranger = Caller::Stranger { certificate_sha256: certificate_sha256.to_owned(), address };
        let Some(named) = self.store.get(Kind::Certificate, certificate_sha256).await? else { return Ok(stranger) };
        let principal: Principal = self.one(Kind::Principal, &named.read::<String>()?).await?;
        let holds = principal.active && principal.certificate_sha256 == certificate_sha256;
        Ok(if holds { Caller::Principal(principal) } else { stranger })
    }

    /// Records that the log is exported.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn export(&self, permit: Permit) -> Result<()> {
        self.store.commit(Batch::event(performed(permit, "log"))).await.map(|_| ())
    }

    /// Canonical bytes of records from `seq` on.
    ///
    /// # Errors
    /// `RECORD_BROKEN` if there is none; those of the store.
    pub async fn records(&self, seq: u64, count_max: u32) -> Result<Vec<Vec<u8>>> {
        let records = self.store.entries(&self.store.head().log, seq, count_max).await?;
        if records.is_empty() {
            return Err(Error::new(Reason::RecordBroken, format!("record {seq} is missing from the store")));
        }
        Ok(records)
    }

    pub(super) async fn one<T: DeserializeOwned>(&self, kind: Kind, name: &str) -> Result<T> {
        self.store.get(kind, name).await?.ok_or_else(|| none(name))?.read()
    }

    async fn page<T: DeserializeOwned>(&self, kind: Kind, prefix: &str, page: Page<'_>) -> Result<Vec<T>> {
        self.store.list(kind, prefix, page.after, page.size).await?.iter().map(|object| object.read()).collect()
    }
}

fn none(name: &str) -> Error {
    Error::new(Reason::NotFound, format!("there is no {name}"))
        .hint("see what there is: keyward cluster list, keyward key list, keyward node list")
}

/// Spends a permit on an act that needs no key: the record of it.
#[must_use]
pub fn performed(permit: Permit, target: &str) -> Event {
    Event::Performed {
        caller: permit.caller().note(),
        rule: permit.rule().to_owned(),
        operation: permit.operation().name().to_owned(),
        target: target.to_owned(),
    }
}
