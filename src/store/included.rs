//! Whether a log has the record that speaks for an object: a row that was edited together with its record is noticed.
//!
//! Row and record come from the same database, and whoever can write the one can write the other. What he cannot write is
//! the tree that this process has in memory. So before a record counts it is shown to be a leaf of that tree.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use crate::audit::checkpoint::Checkpoint;
use crate::audit::gathered::{ROW_HASHES, Row};
use crate::audit::merkle::{
    Frontier, TreeHash, consistency_path, inclusion_path, verify_consistency, verify_inclusion,
};
use crate::error::{Error, Reason, Result};
use crate::store::Kind;
use crate::store::change::{Last, altered};
use crate::store::tree::gather;
use crate::store::writer::Writer;

/// Rows of leaves that are remembered at most, of 8 KiB each.
const ROWS_MAX: usize = 512;
/// How long a record that another thread or instance has just committed may take to be known here.
const PATIENCE: Duration = Duration::from_secs(4);
/// How often to look whether it is, in milliseconds.
const AGAIN_MS: u64 = 5;

/// What was shown so far.
#[derive(Default)]
pub(super) struct Included {
    /// Leaves that are in their logs: by log, and which row of it.
    rows: RwLock<HashMap<(String, u64), Vec<TreeHash>>>,
    /// Where the other logs of the database ended when they were last looked at.
    ends: tokio::sync::Mutex<HashMap<String, Frontier>>,
    /// The latest version of each object that was read here.
    versions: RwLock<HashMap<(Kind, String), u64>>,
    /// Other logs for which somebody vouches, and those for which nobody did when that was waited for.
    vouched: RwLock<HashMap<String, bool>>,
}

impl Included {
    /// The latest version of an object that was seen here; 0 if none was.
    pub(super) fn seen(&self, kind: Kind, name: &str) -> u64 {
        let versions = self.versions.read().unwrap_or_else(PoisonError::into_inner);
        versions.get(&(kind, name.to_owned())).copied().unwrap_or_default()
    }

    /// Requires that an object is not older than the version that was seen before it was read: 0 if it is not there. A row
    /// that is put back together with the record of its last change looks like one that was never changed.
    ///
    /// # Errors
    /// `OBJECT_ALTERED` if it is.
    pub(super) fn no_older(&self, kind: Kind, name: &str, version: u64, seen: u64) -> Result<()> {
        if version < seen {
            let words = format!("{name} was put back to version {version}, and version {seen} was here before");
            return Err(altered(words));
        }
        if version > seen {
            let mut versions = self.versions.write().unwrap_or_else(PoisonError::into_inner);
            let latest = versions.entry((kind, name.to_owned())).or_default();
            *latest = version.max(*latest);
        }
        Ok(())
    }

    /// Has another log count: its tree must be the one that was signed where that ends, and agree with what was seen of
    /// it before.
    ///
    /// # Errors
    /// `STORE_FORKED`, `RECORD_BROKEN` if it is not; those of reading.
    pub(super) async fn vouch<F>(&self, signed: &Checkpoint, read: impl Fn(Row) -> F) -> Result<()>
    where
        F: Future<Output = Result<Vec<TreeHash>>>,
    {
        let Checkpoint { log, size, root, .. } = signed;
        let fork = |words: &str| Error::new(Reason::StoreForked, format!("log {log} is not as it was signed: {words}"));
        let mut ends = self.ends.lock().await;
        let tree = gather(|tree| Frontier::of(*size, tree), &read).await?;
        if tree.root() != *root {
            return Err(fork(&format!("its first {size} records are others")));
        }
        let seen = ends.get(log).cloned().unwrap_or_default();
        let (older, newer) = if seen.size() > *size { (&tree, &seen) } else { (&seen, &tree) };
        let path = gather(|source| consistency_path(older.size(), newer.size(), source), &read).await?;
        if verify_consistency((older.size(), older.root()), (newer.size(), newer.root()), &path).is_err() {
            return Err(fork(&format!("another one of {} records was there before", seen.size())));
        }
        let newer = newer.clone();
        ends.insert(log.clone(), newer);
        self.vouched.write().unwrap_or_else(PoisonError::into_inner).insert(log.clone(), true);
        Ok(())
    }

    /// Requires that a record of this log is in it.
    ///
    /// # Errors
    /// `OBJECT_ALTERED` if it is not; those of reading.
    pub(super) async fn in_own<F>(&self, writer: &Writer, last: &Last, read: impl Fn(Row) -> F) -> Result<()>
    where
        F: Future<Output = Result<Vec<TreeHash>>>,
    {
        if self.has(last) {
            return Ok(());
        }
        let end = Instant::now() + PATIENCE;
        loop {
            let (_, tree) = writer.tree();
            if tree.size() > last.seq {
                return self.show(last, &tree, read).await;
            }
            // It may be that of a commit that has happened, and whose end is about to be told.
            if Instant::now() > end {
                let beyond = || altered(format!("{} is said to be of a change, and lies beyond its end", last.place()));
                return Err(writer.trouble(Duration::ZERO).unwrap_or_else(beyond));
            }
            tokio::time::sleep(Duration::from_millis(AGAIN_MS)).await;
        }
    }

    /// The other logs for which somebody vouches.
    pub(super) fn counting(&self) -> Vec<String> {
        let vouched = self.vouched.read().unwrap_or_else(PoisonError::into_inner);
        vouched.iter().filter(|(_, vouched)| **vouched).map(|(log, _)| log.clone()).collect()
    }

    /// Requires that somebody vouches for the log of a record, so that nobody makes one up. Waits once for each log: it may
    /// just have begun.
    ///
    /// # Errors
    /// `OBJECT_ALTERED` if nobody does.
    pub(super) async fn counts(&self, last: &Last) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            let vouched = self.vouched.read().unwrap_or_else(PoisonError::into_inner).get(&last.log).copied();
            if vouched == Some(true) {
                return Ok(());
            }
            if vouched == Some(false) || Instant::now() > end {
                break;
            }
            tokio::time::sleep(Duration::from_millis(AGAIN_MS)).await;
        }
        self.vouched.write().unwrap_or_else(PoisonError::into_inner).entry(last.log.clone()).or_insert(false);
        let words = "is said to be of a change, and that log is not signed by an audit key of this custody";
        let hint = "make the token usable, so that it can show the audit key of that log; if it is, find out who wrote to the \
                    database";
        Err(altered(format!("{} {words}", last.place())).hint(hint))
    }

    /// Requires that a record of another log is in it, as far as that can be seen from here: where that log ends stands in
    /// the database (`read_end`), and must continue where it ended before.
    ///
    /// # Errors
    /// `OBJECT_ALTERED` if it is not; those of reading.
    pub(super) async fn in_other<F>(
        &self,
        last: &Last,
        read_end: impl Future<Output = Result<Frontier>>,
        read: impl Fn(Row) -> F,
    ) -> Result<()>
    where
        F: Future<Output = Result<Vec<TreeHash>>>,
    {
        if self.has(last) {
            return Ok(());
        }
        let mut ends = self.ends.lock().await;
        let before = ends.get(&last.log).cloned().unwrap_or_default();
        if before.size() > last.seq {
            drop(ends);
            return self.show(last, &before, read).await;
        }
        let now = read_end.await?;
        let (old, new) = ((before.size(), before.root()), (now.size(), now.root()));
        let path =
            if old.0 > new.0 { Vec::new() } else { gather(|tree| consistency_path(old.0, new.0, tree), &read).await? };
        if now.size() <= last.seq || verify_consistency(old, new, &path).is_err() {
            return Err(altered(format!("{} is said to be of a change, and that log was altered", last.place())));
        }
        ends.insert(last.log.clone(), now.clone());
        drop(ends);
        self.show(last, &now, read).await
    }

    fn has(&self, last: &Last) -> bool {
        let rows = self.rows.read().unwrap_or_else(PoisonError::into_inner);
        let (row, at) = place(last.seq);
        rows.get(&(last.log.clone(), row)).and_then(|leaves| leaves.get(at)) == Some(&last.leaf)
    }

    /// Shows that a record is a leaf of a tree, and with it all leaves of its row that were needed for that.
    async fn show<F>(&self, last: &Last, tree: &Frontier, read: impl Fn(Row) -> F) -> Result<()>
    where
        F: Future<Output = Result<Vec<TreeHash>>>,
    {
        let (row, at) = place(last.seq);
        let leaves = Mutex::new(Vec::new());
        let path = gather(
            |source| inclusion_path(last.seq, tree.size(), source),
            |asked| {
                let (leaves, read) = (&leaves, read(asked));
                async move {
                    let hashes = read.await?;
                    if asked.level == 0 && asked.first == row * ROW_HASHES {
                        leaves.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&hashes);
                    }
                    Ok(hashes)
                }
            },
        )
        .await?;
        if verify_inclusion(last.leaf, last.seq, tree.size(), &path, tree.root()).is_err() {
            return Err(altered(format!(
                "{} is not the one that was committed: it was edited in the store",
                last.place()
            )));
        }
        let mut leaves = leaves.into_inner().unwrap_or_else(PoisonError::into_inner);
        if leaves.len() == at {
            leaves.push(last.leaf);
        } else if let Some(leaf) = leaves.get_mut(at) {
            *leaf = last.leaf;
        }
        let mut rows = self.rows.write().unwrap_or_else(PoisonError::into_inner);
        if rows.len() >= ROWS_MAX {
            rows.clear();
        }
        rows.insert((last.log.clone(), row), leaves);
        Ok(())
    }
}

/// In which row of leaves a record stands, and where in it.
fn place(seq: u64) -> (u64, usize) {
    (seq / ROW_HASHES, usize::try_from(seq % ROW_HASHES).unwrap_or(usize::MAX))
}
