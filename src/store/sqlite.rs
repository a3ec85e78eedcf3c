//! The embedded store: one SQLite file, one writer, a few readers.

use std::fmt::Write as _;
use std::fs::File;
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::migrate::Migrator;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, Row as _};

use crate::audit::chain::Head;
use crate::audit::checkpoint::Checkpoint;
use crate::audit::gathered::Row;
use crate::audit::merkle::{Frontier, TreeHash};
use crate::audit::record::Event;
use crate::error::{Error, Reason, Result};
use crate::store::included::Included;
use crate::store::space::Space;
use crate::store::sql::{Sql, Statements, migration, number, run, unavailable};
use crate::store::writer::{Backend, GROUP_BATCHES_MAX, New, State, Writer};
use crate::store::{Batch, Claim, Claimed, Kind, Object, Store, Write, change};

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");

/// Readers beside the writer.
const READERS: u32 = 4;
/// How long SQLite waits for a lock of another process, such as a backup, in seconds.
const BUSY_S: u64 = 5;

static STATEMENTS: Statements = Statements {
    // The file has one log: it needs no look at the id.
    entries: "SELECT record FROM entry WHERE seq >= $2 ORDER BY seq LIMIT $3",
    // The index is named, or the log might be read backwards from its end instead.
    object: "SELECT version, body, \
            (SELECT record FROM entry INDEXED BY change WHERE record >= $3 AND record < $4 \
             AND record >= x'7b226576656e74223a7b226e616d65223a22' AND record < x'7b226576656e74223a7b226e616d65223a23' \
             ORDER BY seq DESC LIMIT 1) \
        FROM (SELECT 1) AS one LEFT JOIN object ON kind = $1 AND name = $2",
    names: "SELECT name FROM object WHERE kind = $1 AND name >= $2 AND name < $3 AND name > $4 \
        UNION \
        SELECT json_extract(CAST(record AS TEXT), '$.event.name') AS name FROM entry INDEXED BY change \
        WHERE record >= $6 AND record < $7 \
        AND record >= x'7b226576656e74223a7b226e616d65223a22' AND record < x'7b226576656e74223a7b226e616d65223a23' \
        AND json_extract(CAST(record AS TEXT), '$.event.object') = $1 AND name >= $2 AND name < $3 AND name > $4 \
        ORDER BY 1 LIMIT $5",
};

/// Statements that SQLite keeps prepared: one for each size of a group, and those of readers.
const PREPARED: usize = 2 * GROUP_BATCHES_MAX;

/// The end of every commit: so many records, the head, and that it is durable. One statement text means one hand-over to
/// SQLite's thread for all of it: what a commit costs beside the disk is mostly hand-overs.
fn append_statements(begun: bool, rows: usize) -> String {
    // The records come first, by their place: SQLite looks for a value with a name among all that have one.
    let [first, size, chain, time_us, open_from, frontier] = std::array::from_fn(|value| rows + 1 + value);
    let mut text = String::with_capacity(192 + 12 * rows);
    text.push_str(if begun { "" } else { "BEGIN IMMEDIATE; " });
    for row in 0..rows {
        let before = if row == 0 { "INSERT INTO entry (seq, record) VALUES " } else { "," };
        // Writing to a string does not fail.
        let _ = write!(text, "{before}(${first}+{row},?)");
    }
    text.push_str(if rows == 0 { "" } else { "; " });
    let _ = write!(
        text,
        "UPDATE log SET size = ${size}, chain = ${chain}, time_us = ${time_us}, open_from = ${open_from}, \
         frontier = ${frontier}; COMMIT"
    );
    text
}

/// Roots of subtrees that became complete: there are some in one commit of many.
const KEEP_ROOTS: &str = "INSERT INTO subtree (log_id, level, place, root) \
    SELECT $1, value ->> 0, value ->> 1, unhex(value ->> 2) FROM json_each($2)";
const KEEP_CHECKPOINT: &str = "INSERT INTO checkpoint (log_id, place, note) \
    SELECT $1, coalesce(max(place), -1) + 1, $2 FROM checkpoint WHERE log_id = $1";

/// Something new each time, as long as a record: SQLite writes nothing where nothing changes.
const TOUCH: &str = "BEGIN IMMEDIATE; \
    INSERT INTO fact (name, value) VALUES ('tried', hex(randomblob(400))) \
    ON CONFLICT (name) DO UPDATE SET value = excluded.value; \
    COMMIT";

/// A store in one SQLite file.
pub struct Sqlite {
    log: String,
    sql: Sql<sqlx::Sqlite>,
    writer: Writer,
    included: Included,
    space: Space,
}

impl Sqlite {
    /// Opens the file and brings its schema up to this version; makes a new one if there is none and `create` says so.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE` if the file cannot be opened or written, `SCHEMA_NEWER` if a newer version wrote it,
    /// `RECORD_BROKEN` if its last records cannot be read.
    pub async fn open(path: &Path, create: bool) -> Result<Self> {
        Self::opened(path, create).await.map_err(|fault| fault.while_doing(path.display()))
    }

    /// Copies a store that may be in use, as it is at one moment, into a new file. Gives where its log ends there.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE` if the one cannot be read or the other written.
    pub async fn copy(from: &Path, to: &Path) -> Result<Head> {
        is_store(from).map_err(|fault| fault.while_doing(from.display()))?;
        let options = SqliteConnectOptions::new().filename(from).busy_timeout(Duration::from_secs(BUSY_S));
        let mut connection = options.disable_statement_logging().connect().await.map_err(unavailable)?;
        let path = to.to_str().ok_or_else(|| Error::new(Reason::InvalidArgument, "a path that is not UTF-8"))?;
        let copied = sqlx::query("VACUUM INTO $1").bind(path.to_owned()).execute(&mut connection).await;
        copied.map_err(|fault| unavailable(fault).while_doing(to.display()))?;
        connection.close().await.map_err(unavailable)?;
        File::open(to).and_then(|file| file.sync_all()).map_err(|fault| {
            Error::new(Reason::StoreUnavailable, format!("{} cannot be written: {fault}", to.display()))
        })?;
        let readers = SqlitePoolOptions::new()
            .max_connections(1)
            .connect_with(SqliteConnectOptions::new().filename(to).immutable(true))
            .await
            .map_err(unavailable)?;
        let mut heads = Sql { readers: readers.clone(), statements: &STATEMENTS }.heads().await?;
        readers.close().await;
        heads.pop().ok_or_else(|| Error::new(Reason::RecordBroken, "the store has no log"))
    }

    async fn opened(path: &Path, create: bool) -> Result<Self> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(create)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .statement_cache_capacity(PREPARED)
            .busy_timeout(Duration::from_secs(BUSY_S))
            .disable_statement_logging();
        if !create {
            is_store(path)?;
        }
        let mut connection = options.connect().await.map_err(unavailable)?;
        MIGRATIONS.run(&mut connection).await.map_err(migration)?;
        let log = log_id(&mut connection).await.map_err(unavailable)?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .connect_with(options.read_only(true))
            .await
            .map_err(unavailable)?;
        let sql = Sql { readers, statements: &STATEMENTS };
        sql.grow(&mut connection, &log).await?;
        let state = sql.state(&log).await?;
        let readers = sql.readers.clone();
        let writing = Writing { connection, sql: Sql { readers, statements: &STATEMENTS }, log: log.clone() };
        let writer = Writer::start(Box::new(writing), state, true);
        Ok(Sqlite { log, sql, writer, included: Included::default(), space: Space::beside(path) })
    }
}

/// Looks before SQLite does: it would make a new store of a file that was emptied or is missing, and the log would
/// begin again.
fn is_store(path: &Path) -> Result<()> {
    const MAGIC: &[u8; 16] = b"SQLite format 3\0";
    let mut begin = [0; 16];
    let read = File::open(path).and_then(|mut file| std::io::Read::read_exact(&mut file, &mut begin));
    match read {
        Ok(()) if begin == *MAGIC => Ok(()),
        Err(fault) if fault.kind() != std::io::ErrorKind::UnexpectedEof => {
            Err(Error::new(Reason::StoreUnavailable, format!("the store cannot be read: {fault}"))
                .hint("bring back the file, from a backup if need be; nothing is made in its place"))
        }
        _ => Err(Error::new(Reason::StoreUnavailable, "this is no store, and is left as it is")
            .hint("bring back the file from a backup; nothing is made in its place")),
    }
}

/// The log of this store, made with it.
async fn log_id(connection: &mut SqliteConnection) -> Result<String, sqlx::Error> {
    let found = sqlx::query("SELECT value FROM fact WHERE name = 'log'").fetch_optional(&mut *connection).await?;
    if let Some(row) = found {
        return Ok(row.get(0));
    }
    let log = uuid::Uuid::new_v4().to_string();
    let empty = Head::empty(log.clone());
    let mut both = connection.begin().await?;
    sqlx::query("INSERT INTO log (log_id, size, chain, time_us, open_from, frontier) VALUES ($1, 0, $2, 0, 0, x'')")
        .bind(log.clone())
        .bind(empty.chain.0.to_vec())
        .execute(&mut *both)
        .await?;
    sqlx::query("INSERT INTO fact (name, value) VALUES ('log', $1)").bind(log.clone()).execute(&mut *both).await?;
    both.commit().await?;
    Ok(log)
}

#[async_trait]
impl Store for Sqlite {
    async fn commit(&self, batch: Batch) -> Result<u64> {
        if batch.writes.is_empty() && batch.events.is_empty() {
            self.space.look();
            self.space.check()?;
        } else if batch.events.iter().any(|event| matches!(event, Event::Intent { .. })) {
            self.space.check()?;
        }
        let committed = self.writer.commit(batch).await;
        if committed.as_ref().is_err_and(|fault| fault.reason() == Reason::StoreUnavailable) {
            self.space.failed();
        }
        committed
    }

    fn trouble(&self, patience: Duration) -> Option<Error> {
        self.space.check().err().or_else(|| self.writer.trouble(patience))
    }

    fn is_low(&self) -> bool {
        self.space.is_low()
    }

    async fn keep_checkpoint(&self, note: &str) -> Result<()> {
        self.writer.keep_checkpoint(note).await
    }

    async fn get(&self, kind: Kind, name: &str) -> Result<Option<Object>> {
        if let Some(object) = self.writer.known(kind, name) {
            return Ok(Some(object));
        }
        let Some((object, last)) = self.sql.get(kind, name).await? else { return Ok(None) };
        if last.log != self.log {
            return Err(change::altered(format!("{name} has a record of another log, {}", last.log)));
        }
        self.included.in_own(&self.writer, &last, |row| self.sql.subtrees(&self.log, row)).await?;
        self.writer.learn(kind, &object);
        Ok(Some(object))
    }

    async fn claimed(&self, kind: Kind, name: &str) -> Result<Option<Claimed>> {
        let known = self.writer.known(kind, name).is_some();
        let unrecorded = if known { None } else { self.sql.unrecorded(kind, name).await? };
        let Some((object, last)) = unrecorded else {
            return Ok(self.get(kind, name).await?.map(|object| Claimed { object, by: None }));
        };
        if let Some(last) = &last {
            self.included.in_own(&self.writer, last, |row| self.sql.subtrees(&self.log, row)).await?;
        }
        let claim = Claim { log: None, counted: last.map(|last| last.sha256) };
        Ok(Some(Claimed { object, by: Some(claim) }))
    }

    async fn names(&self, kind: Kind, prefix: &str, after: &str, count_max: u32) -> Result<Vec<String>> {
        self.sql.names(kind, prefix, after, count_max).await
    }

    async fn rows(&self, kind: Kind, after: &str, count_max: u32) -> Result<Vec<Object>> {
        self.sql.rows(kind, after, count_max).await
    }

    async fn entries(&self, _log: &str, seq: u64, count_max: u32) -> Result<Vec<Vec<u8>>> {
        self.sql.entries("", seq, count_max).await
    }

    fn head(&self) -> Head {
        self.writer.head()
    }

    fn tree(&self) -> (Head, Frontier) {
        self.writer.tree()
    }

    async fn subtrees(&self, row: Row) -> Result<Vec<TreeHash>> {
        self.sql.subtrees(&self.log, row).await
    }

    async fn checkpoints_before(&self, log: &str, before: u64, count_max: u32) -> Result<Vec<(u64, String)>> {
        self.sql.checkpoints_before(log, before, count_max).await
    }

    async fn checkpoints(&self, log: &str, from: u64, count_max: u32) -> Result<Vec<(u64, String)>> {
        self.sql.checkpoints(log, from, count_max).await
    }

    async fn vouch(&self, signed: &Checkpoint) -> Result<()> {
        Err(Error::new(Reason::LogMissing, format!("a file has one log, and {} is not it", signed.log)))
    }

    async fn heads(&self) -> Result<Vec<Head>> {
        self.sql.heads().await
    }

    async fn turns(&self, _log: &str, _from: u64, _count_max: u32) -> Result<Vec<Vec<u8>>> {
        // The file has one log, and whoever writes that knows of its own turns.
        Ok(Vec::new())
    }

    async fn open_intents(&self) -> Result<Vec<u64>> {
        Ok(self.writer.open_intents())
    }

    async fn lease(&self, _work: &str, _seconds: u32) -> Result<bool> {
        // One process has the file, so there is nobody to share work with.
        Ok(true)
    }

    async fn close(&self) {
        // The writer is the last to leave: it alone can move the write-ahead log into the file.
        self.sql.readers.close().await;
        self.writer.close().await;
    }
}

/// The writing connection.
struct Writing {
    connection: SqliteConnection,
    sql: Sql<sqlx::Sqlite>,
    log: String,
}

#[async_trait]
impl Backend for Writing {
    async fn begin(&mut self) -> Result<()> {
        run::<sqlx::Sqlite>(&mut self.connection, "BEGIN IMMEDIATE").await
    }

    async fn swap(&mut self, writes: &[Write]) -> Result<Result<()>> {
        Sql::<sqlx::Sqlite>::swap(&mut self.connection, writes).await
    }

    async fn keep(&mut self, checkpoint: &str) -> Result<()> {
        let kept = sqlx::query(KEEP_CHECKPOINT).bind(self.log.clone()).bind(checkpoint.to_owned());
        kept.execute(&mut self.connection).await.map(|_| ()).map_err(unavailable)
    }

    async fn append(&mut self, mut begun: bool, first: u64, new: New, end: &State) -> Result<()> {
        let New { records, kept } = new;
        if !kept.is_empty() {
            if !begun {
                self.begin().await?;
                begun = true;
            }
            let kept: Vec<_> = kept.iter().map(|kept| (kept.level, kept.index, hex::encode(kept.root.0))).collect();
            let kept = sqlx::query(KEEP_ROOTS).bind(self.log.clone()).bind(json(&kept)?);
            kept.execute(&mut self.connection).await.map_err(unavailable)?;
        }
        let mut query = sqlx::query(sqlx::AssertSqlSafe(append_statements(begun, records.len())));
        for record in records {
            query = query.bind(record);
        }
        let query = query
            .bind(number(first))
            .bind(number(end.head.size))
            .bind(end.head.chain.0.to_vec())
            .bind(end.head.time_us)
            .bind(number(end.open_from()))
            .bind(end.tree.to_bytes());
        query.execute(&mut self.connection).await.map_err(unavailable)?;
        Ok(())
    }

    async fn touch(&mut self) -> Result<()> {
        run::<sqlx::Sqlite>(&mut self.connection, TOUCH).await
    }

    async fn roll_back(&mut self) {
        // Fails where nothing was begun, or SQLite has rolled back by itself.
        let _ = run::<sqlx::Sqlite>(&mut self.connection, "ROLLBACK").await;
    }

    async fn state(&mut self) -> Result<State> {
        self.sql.state(&self.log).await
    }

    async fn close(self: Box<Self>) {
        if let Err(fault) = self.connection.close().await {
            tracing::warn!(detail = %fault, "the store did not close cleanly");
        }
    }
}

fn json(values: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(values)
        .map_err(|fault| Error::new(Reason::Internal, "values cannot be written as JSON").detail(fault))
}
