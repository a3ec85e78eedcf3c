//! What SQLite and PostgreSQL are asked in the same words.

use std::collections::BTreeSet;

use sqlx::migrate::MigrateError;
use sqlx::{ColumnIndex, Database, Decode, Encode, Executor, IntoArguments, Pool, Type};

use crate::audit::chain::{ChainHash, Head};
use crate::audit::gathered::{Kept, Row};
use crate::audit::merkle::{Frontier, TreeHash};
use crate::audit::record::{Event, Record};
use crate::error::{Error, Reason, Result};
use crate::store::change::{self, BATCH_RECORDS_MAX, Last};
use crate::store::tree::{broken, gather};
use crate::store::writer::State;
use crate::store::{Kind, Object, Write};

/// Records that one read takes while the log is looked through.
pub(super) const PAGE_RECORDS: u32 = 1000;

/// Readers of one database, and what they ask.
pub(super) struct Sql<DB: Database> {
    pub(super) readers: Pool<DB>,
    pub(super) statements: &'static Statements,
}

/// The statements that a database's way of keeping logs decides.
pub(super) struct Statements {
    /// Pages through a log's records: its id, a place, a count.
    pub(super) entries: &'static str,
    /// An object's version and body beside the last record of its change, each null if there is none: its kind and name,
    /// and the two bounds of the records of its changes.
    pub(super) object: &'static str,
    /// Names of stored and of recorded objects: their kind, three bounds, a count, and the two bounds of the records of
    /// their changes.
    pub(super) names: &'static str,
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
    /// An object, held against the last record of its change, and that record: that it is in its log is still to be shown.
    /// Row and record are read by one statement, so that no commit comes between.
    pub(super) async fn get(&self, kind: Kind, name: &str) -> Result<Option<(Object, Last)>> {
        let (row, last) = self.row(kind, name).await?;
        match change::check(name, row.as_ref(), last.as_ref()) {
            Ok(()) => Ok(row.zip(last)),
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

    /// An object of which no record tells, or only of a version before it: with that record, of which is still to be shown
    /// that it is in its log.
    pub(super) async fn unrecorded(&self, kind: Kind, name: &str) -> Result<Option<(Object, Option<Last>)>> {
        let (row, last) = self.row(kind, name).await?;
        Ok(row.filter(|row| change::is_unrecorded(row, last.as_ref())).map(|row| (row, last)))
    }

    async fn row(&self, kind: Kind, name: &str) -> Result<(Option<Object>, Option<Last>)> {
        let (from, to) = change::records_of(kind, name)?;
        let (version, body, record): (Option<i64>, Option<Vec<u8>>, Option<Vec<u8>>) =
            sqlx::query_as(self.statements.object)
                .bind(kind.name())
                .bind(name.to_owned())
                .bind(from)
                .bind(to)
                .fetch_one(&self.readers)
                .await
                .map_err(unavailable)?;
        let row = version.zip(body).map(|(version, body)| object(name, version, body));
        Ok((row, record.map(|record| Last::read(&record)).transpose()?))
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

    pub(super) async fn names(&self, kind: Kind, prefix: &str, after: &str, count_max: u32) -> Result<Vec<String>> {
        let (from, to) = change::records_beyond(prefix, after)?;
        sqlx::query_scalar(self.statements.names)
            .bind(kind.name())
            .bind(prefix.to_owned())
            .bind(format!("{prefix}{}", char::MAX))
            .bind(after.to_owned())
            .bind(i64::from(count_max))
            .bind(from)
            .bind(to)
            .fetch_all(&self.readers)
            .await
            .map_err(unavailable)
    }

    pub(super) async fn entries(&self, log: &str, seq: u64, count_max: u32) -> Result<Vec<Vec<u8>>> {
        sqlx::query_scalar(self.statements.entries)
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
        if !(0..=size).contains(&open_from) {
            return Err(broken("its head says that intents are open from a place on that it has not"));
        }
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

    /// The right edge of a log's tree, as the log's row has it; that of an empty one if there is no such log.
    pub(super) async fn tree(&self, log: &str) -> Result<Frontier> {
        let end: Option<(i64, Vec<u8>)> = sqlx::query_as("SELECT size, frontier FROM log WHERE log_id = $1")
            .bind(log.to_owned())
            .fetch_optional(&self.readers)
            .await
            .map_err(unavailable)?;
        end.map_or(Ok(Frontier::default()), |(size, frontier)| Frontier::from_bytes(size.unsigned_abs(), &frontier))
    }

    pub(super) async fn checkpoints(&self, log: &str, from: u64, count_max: u32) -> Result<Vec<(u64, String)>> {
        self.notes(
            "SELECT place, note FROM checkpoint WHERE log_id = $1 AND place >= $2 ORDER BY place LIMIT $3",
            (log, from, count_max),
        )
        .await
    }

    pub(super) async fn checkpoints_before(&self, log: &str, at: u64, count_max: u32) -> Result<Vec<(u64, String)>> {
        let Some(last) = at.checked_sub(1) else { return Ok(Vec::new()) };
        self.notes(
            "SELECT place, note FROM checkpoint WHERE log_id = $1 AND place <= $2 ORDER BY place DESC LIMIT $3",
            (log, last, count_max),
        )
        .await
    }

    async fn notes(
        &self,
        statement: &'static str,
        (log, place, count_max): (&str, u64, u32),
    ) -> Result<Vec<(u64, String)>> {
        let rows: Vec<(i64, String)> = sqlx::query_as(statement)
            .bind(log.to_owned())
            .bind(number(place))
            .bind(i64::from(count_max))
            .fetch_all(&self.readers)
            .await
            .map_err(unavailable)?;
        Ok(rows.into_iter().map(|(place, note)| (place.unsigned_abs(), note)).collect())
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
