//! What SQLite and PostgreSQL are asked in the same words.

use std::collections::BTreeSet;

use sqlx::migrate::MigrateError;
use sqlx::{ColumnIndex, Database, Decode, Encode, Executor, IntoArguments, Pool, Type};

use crate::audit::chain::{ChainHash, Head};
use crate::audit::merkle::Frontier;
use crate::audit::record::{Event, Record};
use crate::error::{Error, Reason, Result};
use crate::store::change::{self, BATCH_RECORDS_MAX, Last};
use crate::store::writer::State;
use crate::store::{Kind, Object, Write};

/// Records that one read takes while the log is looked through.
pub(super) const PAGE_RECORDS: u32 = 1000;

/// Readers of one database, and the statements that its way of keeping logs decides.
pub(super) struct Sql<DB: Database> {
    pub(super) readers: Pool<DB>,
    /// Pages through a log's records: its id, a place, a count.
    pub(super) entries: &'static str,
    /// An object's version and body beside the last record of its change, each null if there is none: its kind and name,
    /// and the two bounds of the records of its changes.
    pub(super) object: &'static str,
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
    /// An object, held against the log. Row and record are read by one statement, so that no commit comes between.
    pub(super) async fn get(&self, kind: Kind, name: &str) -> Result<Option<Object>> {
        let (from, to) = change::records_of(kind, name)?;
        let (version, body, record): (Option<i64>, Option<Vec<u8>>, Option<Vec<u8>>) = sqlx::query_as(self.object)
            .bind(kind.name())
            .bind(name.to_owned())
            .bind(from)
            .bind(to)
            .fetch_one(&self.readers)
            .await
            .map_err(unavailable)?;
        let row = version.zip(body).map(|(version, body)| object(name, version, body));
        let last = record.map(|record| Last::read(&record)).transpose()?;
        match change::check(name, row.as_ref(), last.as_ref()) {
            Ok(()) => Ok(row),
            Err(Some(fault)) => Err(fault),
            Err(None) => Err(match (row, last) {
                (Some(row), Some(last)) => {
                    let beside = self.entries(&last.log, last.seq + 1, BATCH_RECORDS_MAX).await?;
                    change::edited(&row, &last, &beside)
                }
                _ => Error::new(Reason::Internal, "a row that is not there has another content"),
            }),
        }
    }

    /// Objects as they stand in the database.
    pub(super) async fn rows(&self, kind: Kind, after: &str, count_max: u32) -> Result<Vec<Object>> {
        let rows: Vec<(String, i64, Vec<u8>)> = sqlx::query_as(
            "SELECT name, version, body FROM object WHERE kind = $1 AND name > $2 ORDER BY name LIMIT $3",
        )
        .bind(kind.name())
        .bind(after.to_owned())
        .bind(i64::from(count_max))
        .fetch_all(&self.readers)
        .await
        .map_err(unavailable)?;
        Ok(rows.into_iter().map(|(name, version, body)| object(&name, version, body)).collect())
    }

    /// Names of objects: each is then read by itself.
    pub(super) async fn names(&self, kind: Kind, prefix: &str, after: &str, count_max: u32) -> Result<Vec<String>> {
        sqlx::query_scalar(
            "SELECT name FROM object \
             WHERE kind = $1 AND substr(name, 1, length($2)) = $2 AND name > $3 ORDER BY name LIMIT $4",
        )
        .bind(kind.name())
        .bind(prefix.to_owned())
        .bind(after.to_owned())
        .bind(i64::from(count_max))
        .fetch_all(&self.readers)
        .await
        .map_err(unavailable)
    }

    pub(super) async fn entries(&self, log: &str, seq: u64, count_max: u32) -> Result<Vec<Vec<u8>>> {
        sqlx::query_scalar(self.entries)
            .bind(log.to_owned())
            .bind(number(seq))
            .bind(i64::from(count_max))
            .fetch_all(&self.readers)
            .await
            .map_err(unavailable)
    }

    pub(super) async fn heads(&self) -> Result<Vec<Head>> {
        let rows: Vec<(String, i64, Vec<u8>, i64)> =
            sqlx::query_as("SELECT log_id, size, chain, time_us FROM log ORDER BY log_id")
                .fetch_all(&self.readers)
                .await
                .map_err(unavailable)?;
        rows.into_iter().map(head).collect()
    }

    /// Where a log ends and which of its intents are open, as the database has it.
    pub(super) async fn state(&self, log: &str) -> Result<State> {
        let (size, chain, time_us, open_from, frontier): (i64, Vec<u8>, i64, i64, Vec<u8>) =
            sqlx::query_as("SELECT size, chain, time_us, open_from, frontier FROM log WHERE log_id = $1")
                .bind(log.to_owned())
                .fetch_one(&self.readers)
                .await
                .map_err(unavailable)?;
        let head = head((log.to_owned(), size, chain, time_us))?;
        let tree = Frontier::from_bytes(head.size, &frontier)?;
        self.check_end(&head, &tree).await?;
        let mut open = BTreeSet::new();
        let mut at = open_from.unsigned_abs();
        while at < head.size {
            let page = self.entries(log, at, PAGE_RECORDS).await?;
            if page.is_empty() {
                return Err(Error::new(Reason::RecordBroken, format!("record {at} is missing from the store")));
            }
            for bytes in page {
                let record = Record::read(&bytes).map_err(|fault| fault.while_doing(format!("record {at}")))?;
                note(&mut open, at, &record.event);
                at += 1;
            }
        }
        Ok(State { head, tree, open })
    }

    /// Writes a batch's objects over the versions it expects, or none of them: an error of the second kind names the
    /// loser. Runs in a transaction.
    pub(super) async fn swap(connection: &mut DB::Connection, writes: &[Write]) -> Result<Result<()>> {
        let several = writes.len() > 1;
        if several {
            run::<DB>(connection, "SAVEPOINT batch").await?;
        }
        for write in writes {
            let swapped: Option<i64> = if write.over == 0 {
                sqlx::query_scalar(
                    "INSERT INTO object (kind, name, version, body) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING \
                     RETURNING version",
                )
            } else {
                sqlx::query_scalar(
                    "UPDATE object SET version = $3, body = $4 WHERE kind = $1 AND name = $2 AND version = $3 - 1 \
                     RETURNING version",
                )
            }
            .bind(write.kind.name())
            .bind(write.name.clone())
            .bind(number(write.over + 1))
            .bind(write.body.to_vec())
            .fetch_optional(&mut *connection)
            .await
            .map_err(unavailable)?;
            if swapped.is_none() {
                if several {
                    run::<DB>(connection, "ROLLBACK TO SAVEPOINT batch").await?;
                }
                let (reason, words) = match write.over {
                    0 => (Reason::AlreadyExists, "exists already"),
                    _ => (Reason::StoreConflict, "was changed by somebody else meanwhile"),
                };
                return Ok(Err(Error::new(reason, format!("{} {words}", write.name))));
            }
        }
        if several {
            run::<DB>(connection, "RELEASE SAVEPOINT batch").await?;
        }
        Ok(Ok(()))
    }
}

/// Runs a statement without values.
pub(super) async fn run<DB>(connection: &mut DB::Connection, statement: &'static str) -> Result<()>
where
    DB: Database,
    DB::Arguments: IntoArguments<DB>,
    for<'c> &'c mut DB::Connection: Executor<'c, Database = DB>,
{
    sqlx::query(statement).execute(connection).await.map(|_| ()).map_err(unavailable)
}

/// Keeps count of the intents without an outcome.
pub(super) fn note(open: &mut BTreeSet<u64>, seq: u64, event: &Event) {
    match event {
        Event::Intent { .. } => {
            open.insert(seq);
        }
        Event::Outcome { intent, .. } => {
            open.remove(intent);
        }
        _ => {}
    }
}

fn object(name: &str, version: i64, body: Vec<u8>) -> Object {
    Object { name: name.to_owned(), version: version.unsigned_abs(), body: body.into() }
}

fn head((log, size, chain, time_us): (String, i64, Vec<u8>, i64)) -> Result<Head> {
    let chain = <[u8; 32]>::try_from(chain)
        .map_err(|_| Error::new(Reason::RecordBroken, format!("the store's head of log {log} has no hash")))?;
    Ok(Head { log, size: size.unsigned_abs(), chain: ChainHash(chain), time_us })
}

/// Places and versions as the databases count: they stay far below 2^63.
pub(super) fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
pub(super) fn unavailable(fault: sqlx::Error) -> Error {
    Error::new(Reason::StoreUnavailable, "the store cannot be read or written now")
        .detail(fault)
        .hint("look at the disk of the store, space, permissions, errors; or at the database server and the way to it")
}

pub(super) fn migration(fault: MigrateError) -> Error {
    match fault {
        MigrateError::VersionMissing(version) => Error::new(
            Reason::SchemaNewer,
            format!("the store has schema {version}, which this version of keyward does not know"),
        )
        .hint("run the version of keyward that last opened it, or a newer one"),
        MigrateError::Execute(fault) | MigrateError::ExecuteMigration(fault, _) => unavailable(fault),
        other => Error::new(Reason::StoreUnavailable, "the store's schema cannot be brought up to date").detail(other),
    }
}
