//! Port to the store: the log and the objects it speaks of, changed together by one verb.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::audit::canonical;
use crate::audit::chain::Head;
use crate::audit::checkpoint::Checkpoint;
use crate::audit::gathered::Row;
use crate::audit::merkle::{Frontier, TreeHash};
use crate::audit::record::Event;
use crate::error::{Error, Reason, Result};

pub mod bare;
mod change;
mod included;
mod inspect;
mod meanwhile;
mod postgres;
mod pulse;
mod recorded;
mod signed;
mod space;
mod sql;
mod sqlite;
mod tree;
mod writer;

pub use inspect::inspect;
pub use postgres::Postgres;
pub use signed::{Seen, Vouched};
pub use space::{LOW_BYTES, RESERVE_BYTES};
pub use sqlite::Sqlite;
pub use tree::ask;

/// For how long a commit may be under way before others are refused at once instead of waiting behind it, in seconds.
pub const STUCK_S: u64 = 2;
/// Rows that are looked through at a time for the one of a name.
const LIKE_IT: u32 = 64;

/// The store.
///
/// Contract. Any number of callers at once. `commit` is durable when it returns `Ok`: records and objects together,
/// or none of the batch. `STORE_CONFLICT` and `STORE_UNAVAILABLE` before the commit point mean that it did not
/// happen; after a failed commit the store re-reads its own head before it writes again, so that the log has no gap.
/// Nobody retries below this port; a caller may. Reads see every commit that returned before them. An object that is read
/// from the database is held against the last record of its change, and that against the tree of its log: `OBJECT_ALTERED`
/// if it is another, or gone. A change by another log of the database counts once somebody has vouched for that log.
#[async_trait]
pub trait Store: Send + Sync {
    /// Writes a batch: first the objects, each only over the version it expects, then one `changed` record for each
    /// of them, then the batch's own records. Gives the place of the batch's first own record. An empty batch leaves
    /// nothing behind, but is written all the same: it shows whether the store can be. A store that has not ended a
    /// commit for [`STUCK_S`] is not waited for.
    async fn commit(&self, batch: Batch) -> Result<u64>;

    /// Keeps a signed checkpoint of this log, which is its own record. Durable on return, or it did not happen.
    async fn keep_checkpoint(&self, note: &str) -> Result<()>;

    /// The last version of an object.
    async fn get(&self, kind: Kind, name: &str) -> Result<Option<Object>>;

    /// The same where that version may be the word of a log that does not count, or of nobody: for what must be read before
    /// any log does, and for what a person decides.
    async fn claimed(&self, kind: Kind, name: &str) -> Result<Option<Claimed>>;

    /// Names of a kind that begin with `prefix` and are greater than `after`, in order: of the objects that are there, and
    /// of those that must be, because a record says that they were written.
    async fn names(&self, kind: Kind, prefix: &str, after: &str, count_max: u32) -> Result<Vec<String>>;

    /// The objects of those names. One that is not what the log says of it, or is gone, fails the whole list.
    async fn list(&self, kind: Kind, prefix: &str, after: &str, count_max: u32) -> Result<Vec<Object>> {
        let names = self.names(kind, prefix, after, count_max).await?;
        let mut objects = Vec::with_capacity(names.len());
        for name in names {
            objects.extend(self.get(kind, &name).await?);
        }
        Ok(objects)
    }

    /// Canonical bytes of a log's records from `seq` on, in order.
    async fn entries(&self, log: &str, seq: u64, count_max: u32) -> Result<Vec<Vec<u8>>>;

    /// Where the log ends.
    fn head(&self) -> Head;

    /// Where the log ends, and the right edge of its Merkle tree there.
    fn tree(&self) -> (Head, Frontier);

    /// Neighbouring hashes of this log's tree: leaves, made anew from the records, or roots that are kept beside them. Fewer
    /// than asked for if the log has no more. [`ask`] knows which an answer needs.
    async fn subtrees(&self, row: Row) -> Result<Vec<TreeHash>>;

    /// The signed checkpoint of a log that was kept last.
    async fn last_checkpoint(&self, log: &str) -> Result<Option<String>> {
        Ok(self.checkpoints_before(log, u64::MAX, 1).await?.pop().map(|(_, note)| note))
    }

    /// The signed checkpoints of a log that were kept before the one at a place, the latest first: each with its place.
    async fn checkpoints_before(&self, log: &str, before: u64, count_max: u32) -> Result<Vec<(u64, String)>>;

    /// The signed checkpoints of a log, in the order in which they were kept, from a place on: each with its place.
    async fn checkpoints(&self, log: &str, from: u64, count_max: u32) -> Result<Vec<(u64, String)>>;

    /// Has the changes of another log count, of which somebody vouches that this was signed over it. It must be what the
    /// database has of that log, and agree with what was there before: `STORE_FORKED`, `RECORD_BROKEN`.
    async fn vouch(&self, signed: &Checkpoint) -> Result<()>;

    /// Where every log of the store ends, its own included, in order of their ids.
    async fn heads(&self) -> Result<Vec<Head>>;

    /// Records of the openings and closings of a log of the store, from a place on: the last ones, at most so many, in
    /// order.
    async fn turns(&self, log: &str, from: u64, count_max: u32) -> Result<Vec<Vec<u8>>>;

    /// Intents of this log without an outcome.
    async fn open_intents(&self) -> Result<Vec<u64>>;

    /// Why nothing can be committed, as far as the last commits tell: the last one failed, or one is under way for longer
    /// than `patience`. Asks nobody.
    fn trouble(&self, patience: Duration) -> Option<Error>;

    /// Whether little room is left for records.
    fn is_low(&self) -> bool;

    /// Takes or renews work that one instance at a time may do: true if it is this instance's for so many seconds from
    /// now, by the store's clock; 0 gives it back. A lease is a courtesy between instances, not a lock: what the work
    /// changes is protected by the versions of its objects.
    async fn lease(&self, work: &str, seconds: u32) -> Result<bool>;

    /// Objects of a kind whose name is greater than `after`, in order of names, as their rows stand: whether the log says
    /// the same of them is for [`inspect`] to find out.
    async fn rows(&self, kind: Kind, after: &str, count_max: u32) -> Result<Vec<Object>>;

    /// Waits for what is under way and closes the files. Nothing can be committed afterwards.
    async fn close(&self);
}

/// An object as its row stands, if there is one: [`Store::rows`].
///
/// # Errors
/// Those of the store.
pub async fn row(store: &dyn Store, kind: Kind, name: &str) -> Result<Option<Object>> {
    // Rows are read from behind a name: from the name that lacks the last letter, which few others lie behind.
    let mut after = name.to_owned();
    after.pop();
    loop {
        let rows = store.rows(kind, &after, LIKE_IT).await?;
        let Some(last) = rows.last().map(|row| row.name.clone()) else { return Ok(None) };
        if last.as_str() >= name {
            return Ok(rows.into_iter().find(|row| row.name == name));
        }
        after = last;
    }
}

macro_rules! kinds {
    ($($variant:ident $name:literal $doc:literal)*) => {
        /// Kinds of stored object.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Kind { $(#[doc = $doc] $variant,)* }

        impl Kind {
            /// Every kind.
            pub const ALL: &[Kind] = &[$(Kind::$variant,)*];

            /// The name in the store and in records.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Kind::$variant => $name,)* }
            }
        }
    };
}

kinds! {
    Cluster "cluster" "A cluster."
    Key "key" "A key of custody."
    Principal "principal" "A principal."
    Certificate "certificate" "A client certificate's SHA-256, leading to its principal."
    Token "token" "A token's standing: latch, quarantine."
    JoinToken "join-token" "A join token, by the SHA-256 of its secret."
    Chain "chain" "A certificate chain."
    Authority "authority" "The enrollment authority of this store."
    Beside "log-beside" "What the log of one instance knows of the log of another one: `logs/{own}/beside/{other}`."
    Witnessed "witnessed" "The last checkpoint of another log that was countersigned, by the log's origin."
}

/// A stored object.
#[derive(Clone, Debug)]
pub struct Object {
    /// Its resource name.
    pub name: String,
    /// Counts its changes, from 1.
    pub version: u64,
    /// Canonical JSON.
    pub body: Arc<[u8]>,
}

/// The last version of an object, and whose word it is.
#[derive(Clone, Debug)]
pub struct Claimed {
    /// The object.
    pub object: Object,
    /// The log that says so, if it does not count.
    pub by: Option<Claim>,
}

/// The word of a log that does not count, or of nobody.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The log; none if no record tells of that version: it is lost, or there never was one.
    pub log: Option<String>,
    /// SHA-256, in hexadecimal, of the last version that a log that counts tells of, if there is one.
    pub counted: Option<String>,
}

impl Object {
    /// Reads the object as what it is.
    ///
    /// # Errors
    /// `RECORD_BROKEN` if it is something else.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.body).map_err(|fault| {
            Error::new(Reason::RecordBroken, format!("the stored object {} cannot be read", self.name)).detail(fault)
        })
    }
}

/// An object's next version.
#[derive(Clone, Debug)]
pub struct Write {
    /// Its kind.
    pub kind: Kind,
    /// Its resource name.
    pub name: String,
    /// The version it replaces; 0 if it must be new.
    pub over: u64,
    /// Canonical JSON.
    pub body: Arc<[u8]>,
}

impl Write {
    /// Puts `value` over version `over` of the object, 0 for a new one.
    ///
    /// # Errors
    /// `INTERNAL` if the value cannot be written as JSON.
    pub fn new(kind: Kind, name: &str, over: u64, value: &impl Serialize) -> Result<Self> {
        let body = canonical::to_vec(value)
            .map_err(|fault| Error::new(Reason::Internal, "an object cannot be written as JSON").detail(fault))?;
        Ok(Write { kind, name: name.to_owned(), over, body: body.into() })
    }
}

/// What is committed together.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Objects.
    pub writes: Vec<Write>,
    /// Records.
    pub events: Vec<Event>,
}

impl Batch {
    /// A batch of one record.
    #[must_use]
    pub fn event(event: Event) -> Self {
        Batch { writes: Vec::new(), events: vec![event] }
    }
}
