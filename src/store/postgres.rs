//! The store of several instances: one PostgreSQL database, in it a log for each instance.

use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPoolOptions, PgSslMode};
use sqlx::{ConnectOptions, Connection};
use tokio::time::timeout;

use crate::audit::chain::Head;
use crate::audit::checkpoint::Checkpoint;
use crate::audit::gathered::Row;
use crate::audit::merkle::{Frontier, TreeHash};
use crate::error::{Error, Reason, Result};
use crate::secret::Pin;
use crate::store::change::{self, Last};
use crate::store::included::Included;
use crate::store::sql::{Sql, Statements, migration, number, run, unavailable};
use crate::store::writer::{Backend, New, State, Writer};
use crate::store::{Batch, Claim, Claimed, Kind, Object, Store, Write};

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/postgres");

/// The oldest server, as `server_version_num` counts.
const SERVER_MIN: i64 = 140_000;
/// Readers beside the writer.
const READERS: u32 = 8;
/// How long the server may take for one statement, and a client to connect, in seconds.
const ANSWER_S: u64 = 5;
const PATIENCE: Duration = Duration::from_secs(ANSWER_S);

static STATEMENTS: Statements = Statements {
    entries: "SELECT record FROM entry WHERE log_id = $1 AND seq >= $2 ORDER BY seq LIMIT $3",
    // The last of the changes, which may stand in any of the logs, is the one with the highest version.
    object: "SELECT version, body, \
            (SELECT record FROM entry WHERE record >= $3 AND record < $4 \
             AND record >= '\\x7b226576656e74223a7b226e616d65223a22'::bytea \
             AND record < '\\x7b226576656e74223a7b226e616d65223a23'::bytea \
             ORDER BY (convert_from(record, 'UTF8')::json -> 'event' ->> 'version')::bigint DESC LIMIT 1) \
        FROM (SELECT 1) AS one LEFT JOIN object ON kind = $1 AND name = $2",
    names: "SELECT name FROM object WHERE kind = $1 AND name >= $2 AND name < $3 AND name > $4 \
        UNION \
        SELECT name COLLATE \"C\" FROM \
            (SELECT event ->> 'name' AS name FROM entry, \
             LATERAL (SELECT convert_from(record, 'UTF8')::json -> 'event' AS event) AS said \
             WHERE record >= $6 AND record < $7 \
             AND record >= '\\x7b226576656e74223a7b226e616d65223a22'::bytea \
             AND record < '\\x7b226576656e74223a7b226e616d65223a23'::bytea \
             AND event ->> 'object' = $1) AS recorded \
        WHERE name COLLATE \"C\" >= $2 AND name COLLATE \"C\" < $3 AND name COLLATE \"C\" > $4 \
        ORDER BY 1 LIMIT $5",
};

/// The last record of the changes of an object that one of these logs has.
const LAST_OF: &str = "SELECT record FROM entry WHERE record >= $1 AND record < $2 \
    AND record >= '\\x7b226576656e74223a7b226e616d65223a22'::bytea \
    AND record < '\\x7b226576656e74223a7b226e616d65223a23'::bytea \
    AND log_id = ANY($3) \
    ORDER BY (convert_from(record, 'UTF8')::json -> 'event' ->> 'version')::bigint DESC LIMIT 1";

/// Records that begin as those of openings and closings do, as the index over them has it.
const TURNS: &str = "SELECT record FROM entry WHERE log_id = $1 AND seq >= $2 \
    AND (record >= '\\x7b226576656e74223a7b22746f6b656e73223a'::bytea \
        AND record < '\\x7b226576656e74223a7b22746f6b656e73223b'::bytea \
        OR record >= '\\x7b226576656e74223a7b2274797065223a226c6f672d636c6f736564227d'::bytea \
        AND record < '\\x7b226576656e74223a7b2274797065223a226c6f672d636c6f736564227e'::bytea) \
    ORDER BY seq DESC LIMIT $3";

/// Moves the head and writes the records in one statement, which is a commit of its own outside a transaction. No row
/// at all if this writer's epoch is over.
const APPEND: &str = "WITH moved AS (\
        UPDATE log SET size = $4, chain = $5, time_us = $6, open_from = $7, frontier = $9 \
        WHERE log_id = $1 AND size = $2 AND epoch = $8 RETURNING log_id), \
    kept AS (\
        INSERT INTO subtree (log_id, level, place, root) \
        SELECT moved.log_id, level, place, root FROM moved, unnest($10, $11, $12) AS new (level, place, root)) \
    INSERT INTO entry (log_id, seq, record) \
    SELECT moved.log_id, $2 + place - 1, record FROM moved, unnest($3) WITH ORDINALITY AS new (record, place)";

/// The next checkpoint, unless this writer's epoch is over; nobody takes the log over before it is committed.
const KEEP_CHECKPOINT: &str = "INSERT INTO checkpoint (log_id, place, note) \
    SELECT $1, (SELECT coalesce(max(place), -1) + 1 FROM checkpoint WHERE log_id = $1), $2 \
    FROM log WHERE log_id = $1 AND epoch = $3 FOR UPDATE";

/// Groups that write objects go one after the other: each locks several rows, and two could wait for each other.
const BEGIN: &str = "BEGIN; SELECT pg_advisory_xact_lock(7165064744911531886)";

const LEASE: &str = "INSERT INTO lease (name, log_id, until_us) \
    SELECT $1, log_id, now_us + $2 FROM log, (SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now_us) AS clock \
    WHERE log_id = $3 AND epoch = $4 \
    ON CONFLICT (name) DO UPDATE SET log_id = excluded.log_id, until_us = excluded.until_us \
    WHERE lease.log_id = excluded.log_id OR lease.until_us <= excluded.until_us - $2";

/// One instance's store in a PostgreSQL database.
pub struct Postgres {
    sql: Sql<sqlx::Postgres>,
    writer: Writer,
    included: Included,
    log: String,
    epoch: Arc<AtomicI64>,
}

impl Postgres {
    /// Connects to a database (a `postgres://` URL), brings its schema up to this version, and takes over the log of
    /// `instance`: whoever wrote it before can write it no more. With `create`, the log must be a new one.
    ///
    /// # Errors
    /// `CONFIG_INVALID` for the URL or for a server that is too old or does not make commits durable,
    /// `STORE_UNAVAILABLE` if it cannot be reached or has no such log, `ALREADY_EXISTS` if a log to be made is there,
    /// `SCHEMA_NEWER` if a newer version wrote it, `RECORD_BROKEN` if the last records cannot be read.
    pub async fn open(url: &str, password: Option<&Pin>, instance: &str, create: bool) -> Result<Self> {
        let options = options(url)?
            // Set even to nothing: neither the environment nor a file that is not configured may give one.
            .password(password.map_or("", Pin::expose))
            .application_name(&format!("keyward {instance}"))
            // The server's own defaults must not weaken a commit, and nothing may wait without end.
            .options([("synchronous_commit", "on"), ("default_transaction_isolation", "read committed")])
            .options([("statement_timeout", &format!("{ANSWER_S}s")), ("lock_timeout", &format!("{ANSWER_S}s"))])
            .options([("idle_in_transaction_session_timeout", &format!("{ANSWER_S}s"))])
            .disable_statement_logging();
        let mut connection = connect(&options).await?;
        check_server(&mut connection).await?;
        // An index over a long log takes longer than any answer may; and of several instances that start together one
        // brings the schema up to date, and the others wait for it.
        for setting in ["SET statement_timeout = 0", "SET lock_timeout = '10min'"] {
            run::<sqlx::Postgres>(&mut connection, setting).await?;
        }
        MIGRATIONS.run(&mut connection).await.map_err(migration)?;
        for setting in ["RESET statement_timeout", "RESET lock_timeout"] {
            run::<sqlx::Postgres>(&mut connection, setting).await?;
        }
        if create {
            let empty = Head::empty(uuid::Uuid::new_v4().to_string());
            let made = sqlx::query(
                "INSERT INTO log (log_id, instance, epoch, size, chain, time_us, open_from) \
                 VALUES ($1, $2, 0, 0, $3, 0, 0) ON CONFLICT (instance) DO NOTHING",
            )
            .bind(empty.log)
            .bind(instance)
            .bind(empty.chain.0.to_vec())
            .execute(&mut connection)
            .await
            .map_err(unavailable)?;
            if made.rows_affected() == 0 {
                let words = format!("the database has a log of an instance {instance} already");
                return Err(Error::new(Reason::AlreadyExists, words).hint("give this instance another name"));
            }
        }
        let holder = uuid::Uuid::new_v4().to_string();
        let taken: Option<(String, i64)> =
            sqlx::query_as("UPDATE log SET epoch = epoch + 1, holder = $2 WHERE instance = $1 RETURNING log_id, epoch")
                .bind(instance)
                .bind(&holder)
                .fetch_optional(&mut connection)
                .await
                .map_err(unavailable)?;
        let (log, epoch) = taken.ok_or_else(|| {
            Error::new(Reason::StoreUnavailable, format!("the database has no log of an instance {instance}"))
                .hint("name the instance as it was, or bring back the database; nothing is made in its place")
        })?;
        let readers = PgPoolOptions::new()
            .max_connections(READERS)
            .acquire_timeout(Duration::from_secs(ANSWER_S))
            .connect_lazy_with(options.clone());
        let sql = Sql { readers: readers.clone(), statements: &STATEMENTS };
        sql.grow(&mut connection, &log).await?;
        let state = sql.state(&log).await?;
        let epoch = Arc::new(AtomicI64::new(epoch));
        let writing = Writing {
            options,
            connection: Some(connection),
            sql: Sql { readers, statements: &STATEMENTS },
            log: log.clone(),
            holder,
            epoch: epoch.clone(),
        };
        let writer = Writer::start(Box::new(writing), state, false);
        Ok(Postgres { sql, writer, included: Included::default(), log, epoch })
    }
}

impl Postgres {
    /// Requires that a record is in its log.
    async fn show(&self, last: &Last) -> Result<()> {
        let read = |row| self.sql.subtrees(&last.log, row);
        if last.log == self.log {
            self.included.in_own(&self.writer, last, read).await
        } else {
            self.included.in_other(last, answered(self.sql.tree(&last.log)), read).await
        }
    }

    /// SHA-256 of the last version of an object that one of these logs tells of.
    async fn counted(&self, kind: Kind, name: &str, logs: Vec<String>) -> Result<Option<String>> {
        let (from, to) = change::records_of(kind, name)?;
        let last = sqlx::query_scalar::<_, Vec<u8>>(LAST_OF).bind(from).bind(to).bind(logs);
        let Some(record) = in_time(last.fetch_optional(&self.sql.readers)).await? else { return Ok(None) };
        let last = Last::read(&record)?;
        self.show(&last).await?;
        Ok(Some(last.sha256))
    }
}

/// Reads a URL. What crosses a network does so under TLS, with a server that was certified.
fn options(url: &str) -> Result<PgConnectOptions> {
    let options = PgConnectOptions::from_str(url)
        .map_err(|fault| Error::new(Reason::ConfigInvalid, "not the URL of a PostgreSQL database").detail(fault))?;
    let host = options.get_host();
    let here = options.get_socket().is_some()
        || host.starts_with('/')
        || host == "localhost"
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    if !here && !matches!(options.get_ssl_mode(), PgSslMode::VerifyFull) {
        return Err(Error::new(
            Reason::ConfigInvalid,
            format!("records would go to {host} without TLS that is verified"),
        )
        .hint("add ?sslmode=verify-full&sslrootcert=FILE to the URL, or use a Unix socket: ?host=DIRECTORY"));
    }
    Ok(options)
}

async fn connect(options: &PgConnectOptions) -> Result<PgConnection> {
    in_time(options.connect()).await
}

async fn in_time<T>(answer: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T> {
    answered(async { answer.await.map_err(unavailable) }).await
}

async fn answered<T>(answer: impl Future<Output = Result<T>>) -> Result<T> {
    match timeout(PATIENCE, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(Error::new(Reason::StoreUnavailable, format!("the database did not answer within {ANSWER_S} s"))
            .hint("look at the PostgreSQL server and the way to it")),
    }
}

async fn check_server(connection: &mut PgConnection) -> Result<()> {
    let (version, fsync): (i64, String) =
        sqlx::query_as("SELECT current_setting('server_version_num')::bigint, current_setting('fsync')")
            .fetch_one(connection)
            .await
            .map_err(unavailable)?;
    if version < SERVER_MIN {
        return Err(Error::new(Reason::ConfigInvalid, format!("the PostgreSQL server is too old: {version}"))
            .hint("PostgreSQL 14 or newer is needed"));
    }
    if fsync != "on" {
        return Err(Error::new(
            Reason::ConfigInvalid,
            "the PostgreSQL server does not make commits durable: fsync is off",
        )
        .hint("set fsync = on in its configuration"));
    }
    Ok(())
}

#[async_trait]
impl Store for Postgres {
    async fn commit(&self, batch: Batch) -> Result<u64> {
        self.writer.commit(batch).await
    }

    async fn keep_checkpoint(&self, note: &str) -> Result<()> {
        self.writer.keep_checkpoint(note).await
    }

    fn trouble(&self, patience: Duration) -> Option<Error> {
        self.writer.trouble(patience)
    }

    /// The room of the server is for whoever runs it to watch.
    fn is_low(&self) -> bool {
        false
    }

    async fn get(&self, kind: Kind, name: &str) -> Result<Option<Object>> {
        // Before the row is read: others read and write meanwhile.
        let seen = self.included.seen(kind, name);
        let Some((object, last)) = answered(self.sql.get(kind, name)).await? else {
            return self.included.no_older(kind, name, 0, seen).map(|()| None);
        };
        if last.log != self.log {
            self.included.counts(&last).await?;
        }
        self.show(&last).await?;
        self.included.no_older(kind, name, object.version, seen)?;
        Ok(Some(object))
    }

    async fn claimed(&self, kind: Kind, name: &str) -> Result<Option<Claimed>> {
        let seen = self.included.seen(kind, name);
        let mut counting = self.included.counting();
        counting.push(self.log.clone());
        if let Some((object, _)) = answered(self.sql.unrecorded(kind, name)).await? {
            let counted = self.counted(kind, name, counting).await?;
            return Ok(Some(Claimed { object, by: Some(Claim { log: None, counted }) }));
        }
        let Some((object, last)) = answered(self.sql.get(kind, name)).await? else {
            return self.included.no_older(kind, name, 0, seen).map(|()| None);
        };
        if counting.contains(&last.log) {
            self.show(&last).await?;
            self.included.no_older(kind, name, object.version, seen)?;
            return Ok(Some(Claimed { object, by: None }));
        }
        let counted = self.counted(kind, name, counting).await?;
        Ok(Some(Claimed { object, by: Some(Claim { log: Some(last.log), counted }) }))
    }

    async fn names(&self, kind: Kind, prefix: &str, after: &str, count_max: u32) -> Result<Vec<String>> {
        answered(self.sql.names(kind, prefix, after, count_max)).await
    }

    async fn rows(&self, kind: Kind, after: &str, count_max: u32) -> Result<Vec<Object>> {
        answered(self.sql.rows(kind, after, count_max)).await
    }

    async fn entries(&self, log: &str, seq: u64, count_max: u32) -> Result<Vec<Vec<u8>>> {
        answered(self.sql.entries(log, seq, count_max)).await
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
        answered(self.sql.checkpoints_before(log, before, count_max)).await
    }

    async fn checkpoints(&self, log: &str, from: u64, count_max: u32) -> Result<Vec<(u64, String)>> {
        answered(self.sql.checkpoints(log, from, count_max)).await
    }

    async fn vouch(&self, signed: &Checkpoint) -> Result<()> {
        answered(self.included.vouch(signed, |row| self.sql.subtrees(&signed.log, row))).await
    }

    async fn heads(&self) -> Result<Vec<Head>> {
        answered(self.sql.heads()).await
    }

    async fn turns(&self, log: &str, from: u64, count_max: u32) -> Result<Vec<Vec<u8>>> {
        let turns = sqlx::query_scalar(TURNS).bind(log).bind(number(from)).bind(i64::from(count_max));
        let mut turns = in_time(turns.fetch_all(&self.sql.readers)).await?;
        turns.reverse();
        Ok(turns)
    }

    async fn open_intents(&self) -> Result<Vec<u64>> {
        Ok(self.writer.open_intents())
    }

    async fn lease(&self, work: &str, seconds: u32) -> Result<bool> {
        let taken = sqlx::query(LEASE)
            .bind(work)
            .bind(i64::from(seconds) * 1_000_000)
            .bind(&self.log)
            .bind(self.epoch.load(Ordering::Acquire))
            .execute(&self.sql.readers);
        Ok(in_time(taken).await?.rows_affected() == 1)
    }

    async fn close(&self) {
        self.writer.close().await;
        self.sql.readers.close().await;
    }
}

/// The writing connection.
struct Writing {
    options: PgConnectOptions,
    /// None after a failure, until the log was taken over again.
    connection: Option<PgConnection>,
    sql: Sql<sqlx::Postgres>,
    log: String,
    /// What this process is called as the one that has taken over the log.
    holder: String,
    epoch: Arc<AtomicI64>,
}

impl Writing {
    fn connection(&mut self) -> Result<&mut PgConnection> {
        self.connection.as_mut().ok_or_else(|| Error::new(Reason::StoreUnavailable, "the database is away"))
    }
}

#[async_trait]
impl Backend for Writing {
    async fn begin(&mut self) -> Result<()> {
        let connection = self.connection()?;
        in_time(sqlx::raw_sql(BEGIN).execute(connection)).await.map(|_| ())
    }

    async fn swap(&mut self, writes: &[Write]) -> Result<Result<()>> {
        answered(Sql::<sqlx::Postgres>::swap(self.connection()?, writes)).await
    }

    async fn keep(&mut self, checkpoint: &str) -> Result<()> {
        let (log, epoch) = (self.log.clone(), self.epoch.load(Ordering::Acquire));
        let kept = sqlx::query(KEEP_CHECKPOINT).bind(log).bind(checkpoint.to_owned()).bind(epoch);
        match in_time(kept.execute(self.connection()?)).await?.rows_affected() {
            1 => Ok(()),
            _ => Err(taken_over()),
        }
    }

    async fn append(&mut self, begun: bool, first: u64, new: New, end: &State) -> Result<()> {
        let New { records, kept } = new;
        let count = records.len() as u64;
        let (log, epoch) = (self.log.clone(), self.epoch.load(Ordering::Acquire));
        let connection = self.connection()?;
        let written = sqlx::query(APPEND)
            .bind(log)
            .bind(number(first))
            .bind(records)
            .bind(number(end.head.size))
            .bind(end.head.chain.0.to_vec())
            .bind(end.head.time_us)
            .bind(number(end.open_from()))
            .bind(epoch)
            .bind(end.tree.to_bytes())
            .bind(kept.iter().map(|kept| i64::from(kept.level)).collect::<Vec<_>>())
            .bind(kept.iter().map(|kept| number(kept.index)).collect::<Vec<_>>())
            .bind(kept.iter().map(|kept| kept.root.0.to_vec()).collect::<Vec<_>>())
            .execute(&mut *connection);
        if in_time(written).await?.rows_affected() != count {
            return Err(taken_over());
        }
        if begun {
            in_time(sqlx::raw_sql("COMMIT").execute(connection)).await?;
        }
        Ok(())
    }

    async fn touch(&mut self) -> Result<()> {
        let (log, epoch) = (self.log.clone(), self.epoch.load(Ordering::Acquire));
        let touched =
            sqlx::query("UPDATE log SET epoch = epoch WHERE log_id = $1 AND epoch = $2").bind(log).bind(epoch);
        match in_time(touched.execute(self.connection()?)).await?.rows_affected() {
            1 => Ok(()),
            _ => Err(taken_over()),
        }
    }

    async fn roll_back(&mut self) {
        if let Some(connection) = &mut self.connection {
            let _ = timeout(PATIENCE, run::<sqlx::Postgres>(connection, "ROLLBACK")).await;
        }
    }

    /// What was under way on the old connection may still come to pass in the server. The next epoch waits for it, and
    /// shuts out what comes later. It may have begun without this process having been told.
    async fn state(&mut self) -> Result<State> {
        self.connection = None;
        let mut connection = connect(&self.options).await?;
        let next =
            sqlx::query_scalar("UPDATE log SET epoch = epoch + 1 WHERE log_id = $1 AND holder = $2 RETURNING epoch")
                .bind(&self.log)
                .bind(&self.holder)
                .fetch_optional(&mut connection);
        let next: Option<i64> = in_time(next).await?;
        self.epoch.store(next.ok_or_else(taken_over)?, Ordering::Release);
        self.connection = Some(connection);
        answered(self.sql.state(&self.log)).await
    }

    async fn close(self: Box<Self>) {
        if let Some(connection) = self.connection
            && let Err(fault) = connection.close().await
        {
            tracing::warn!(detail = %fault, "the connection to the database did not close cleanly");
        }
    }
}

fn taken_over() -> Error {
    Error::new(Reason::StoreUnavailable, "another process has taken over this instance's log; this one writes no more")
        .hint("stop one of the two; each instance has a name of its own in store.instance")
}
