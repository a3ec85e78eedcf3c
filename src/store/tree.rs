//! The log's Merkle tree as the store keeps it: answers from it, and its making where an earlier version wrote the log.

use sqlx::{ColumnIndex, Database, Decode, Encode, Executor, IntoArguments, Type};

use crate::audit::chain::{ChainHash, Head};
use crate::audit::gathered::{Gathered, Kept, Row};
use crate::audit::merkle::{Frontier, TreeHash};
use crate::audit::record::Record;
use crate::error::{Error, Reason, Result};
use crate::store::Store;
use crate::store::sql::{PAGE_RECORDS, Sql, number, run, unavailable};

/// Answers a question about the tree of a log, reading what it needs and no more. The question is asked twice: first
/// to learn what it needs.
///
/// # Errors
/// Those of the question and of the store; `RECORD_BROKEN` if the store has not all of its tree.
pub async fn ask<T>(store: &dyn Store, question: impl Fn(&mut Gathered) -> Result<T>) -> Result<T> {
    gather(question, |row| store.subtrees(row)).await
}

async fn gather<T, F>(question: impl Fn(&mut Gathered) -> Result<T>, read: impl Fn(Row) -> F) -> Result<T>
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

impl<DB> Sql<DB>
where
    DB: Database,
    DB::Arguments: IntoArguments<DB>,
    for<'c> &'c mut DB::Connection: Executor<'c, Database = DB>,
    for<'v> String: Encode<'v, DB> + Decode<'v, DB>,
    for<'v> &'v str: Encode<'v, DB>,
    for<'v> i64: Encode<'v, DB> + Decode<'v, DB>,
    for<'v> Vec<u8>: Encode<'v, DB> + Decode<'v, DB>,
    String: Type<DB>,
    for<'v> &'v str: Type<DB>,
    i64: Type<DB>,
    Vec<u8>: Type<DB>,
    usize: ColumnIndex<DB::Row>,
{
    pub(super) async fn subtrees(&self, log: &str, row: Row) -> Result<Vec<TreeHash>> {
        if row.level == 0 {
            let records = self.entries(log, row.first, row.count).await?;
            return Ok(records.iter().map(|record| TreeHash::leaf(record)).collect());
        }
        let roots: Vec<Vec<u8>> = sqlx::query_scalar(
            "SELECT root FROM subtree WHERE log_id = $1 AND level = $2 AND place >= $3 AND place < $4 ORDER BY place",
        )
        .bind(log.to_owned())
        .bind(i64::from(row.level))
        .bind(number(row.first))
        .bind(number(row.first + u64::from(row.count)))
        .fetch_all(&self.readers)
        .await
        .map_err(unavailable)?;
        let root = |root: Vec<u8>| root.try_into().map(TreeHash).map_err(|_| broken("a root in its tree is no hash"));
        roots.into_iter().map(root).collect()
    }

    pub(super) async fn last_checkpoint(&self, log: &str) -> Result<Option<String>> {
        sqlx::query_scalar("SELECT note FROM checkpoint WHERE log_id = $1 ORDER BY place DESC LIMIT 1")
            .bind(log.to_owned())
            .fetch_optional(&self.readers)
            .await
            .map_err(unavailable)
    }

    /// Checks what a log's row says of its end against the last records and the roots that are kept.
    pub(super) async fn check_end(&self, head: &Head, tree: &Frontier) -> Result<()> {
        let last = self.entries(&head.log, head.size.saturating_sub(1), 2).await?;
        let holds = match last.as_slice() {
            [] => *head == Head::empty(head.log.clone()),
            [last] => {
                let record = Record::read(last)?;
                head.chain == ChainHash::of(last) && record.seq + 1 == head.size && record.time_us()? == head.time_us
            }
            _ => false,
        };
        if !holds {
            return Err(broken("its last record is not the one that its head speaks of"));
        }
        let kept = gather(|gathered| Frontier::of(head.size, gathered), |row| self.subtrees(&head.log, row)).await?;
        if kept == *tree { Ok(()) } else { Err(broken("its records and the tree kept beside them do not agree")) }
    }

    /// Makes the tree of a log that an earlier version wrote, all at once or not at all.
    pub(super) async fn grow(&self, connection: &mut DB::Connection, log: &str) -> Result<()> {
        let (size, frontier): (i64, Vec<u8>) = sqlx::query_as("SELECT size, frontier FROM log WHERE log_id = $1")
            .bind(log.to_owned())
            .fetch_one(&mut *connection)
            .await
            .map_err(unavailable)?;
        if size == 0 || !frontier.is_empty() {
            return Ok(());
        }
        tracing::info!(log, records = size, "making the Merkle tree of a log that an earlier version wrote");
        run::<DB>(connection, "BEGIN").await?;
        let mut tree = Frontier::default();
        while tree.size() < size.unsigned_abs() {
            let page = self.entries(log, tree.size(), PAGE_RECORDS).await?;
            if page.is_empty() {
                return Err(broken(&format!("record {} is missing", tree.size())));
            }
            let mut complete = Vec::new();
            for record in page {
                tree.append(TreeHash::leaf(&record), |level, index, root| {
                    complete.extend(Kept::of(level, index, root))
                });
            }
            for Kept { level, index, root } in complete {
                sqlx::query("INSERT INTO subtree (log_id, level, place, root) VALUES ($1, $2, $3, $4)")
                    .bind(log.to_owned())
                    .bind(i64::from(level))
                    .bind(number(index))
                    .bind(root.0.to_vec())
                    .execute(&mut *connection)
                    .await
                    .map_err(unavailable)?;
            }
        }
        sqlx::query("UPDATE log SET frontier = $3 WHERE log_id = $1 AND size = $2")
            .bind(log.to_owned())
            .bind(number(tree.size()))
            .bind(tree.to_bytes())
            .execute(&mut *connection)
            .await
            .map_err(unavailable)?;
        run::<DB>(connection, "COMMIT").await
    }
}

fn broken(words: &str) -> Error {
    Error::new(Reason::RecordBroken, format!("the store does not hold together: {words}"))
        .hint("bring back the store from a backup; nothing is written into this one")
}
