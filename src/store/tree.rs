//! Answers from the log's Merkle tree as the store keeps it.

use crate::audit::gathered::{Gathered, Row};
use crate::audit::merkle::TreeHash;
use crate::error::{Error, Reason, Result};
use crate::store::Store;

/// Answers a question about the tree of a log, reading what it needs and no more. The question is asked twice: first
/// to learn what it needs.
///
/// # Errors
/// Those of the question and of the store; `RECORD_BROKEN` if the store has not all of its tree.
pub async fn ask<T>(store: &dyn Store, question: impl Fn(&mut Gathered) -> Result<T>) -> Result<T> {
    gather(question, |row| store.subtrees(row)).await
}

pub(super) async fn gather<T, F>(question: impl Fn(&mut Gathered) -> Result<T>, read: impl Fn(Row) -> F) -> Result<T>
where
    F: Future<Output = Result<Vec<TreeHash>>>,
{
    let mut gathered = Gathered::default();
    // What it answers without its hashes is void.
    question(&mut gathered)?;
    for row in gathered.rows() {
        let hashes = read(row).await?;
        gathered.learn_row(row, &hashes)?;
    }
    question(&mut gathered)
}

/// The failure of a store whose parts contradict each other.
pub(super) fn broken(words: &str) -> Error {
    Error::new(Reason::RecordBroken, format!("the store does not hold together: {words}"))
        .hint("bring back the store from a backup; nothing is written into this one")
}
