//! The embedded store: one SQLite file, one writer, a few readers.

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions, Connection, Row};
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::audit::chain::Head;
use crate::error::{Error, Reason, Result};
use crate::store::writer::{self, Cache, Request, number, unavailable};
use crate::store::{Batch, Kind, Object, Store};

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");

/// Readers beside the writer.
const READERS: u32 = 4;
/// How long SQLite waits for a lock of another process, such as a backup, in seconds.
const BUSY_S: u64 = 5;

/// A store in one SQLite file.
pub struct Sqlite {
    readers: SqlitePool,
    queue: Mutex<Option<mpsc::Sender<Request>>>,
    head: watch::Receiver<Head>,
    cache: Cache,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl Sqlite {
    /// Opens the file and brings its schema up to this version; makes a new one if there is none and `create` says so.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE` if the file cannot be opened or written, `SCHEMA_NEWER` if a newer version wrote it.
    pub async fn open(path: &Path, create: bool) -> Result<Self> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(create)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(BUSY_S))
            .disable_statement_logging();
        let at = |fault: Error| fault.while_doing(path.display());
        if !create {
            is_store(path).map_err(at)?;
        }
        let mut connection = options.connect().await.map_err(|fault| at(unavailable(&fault)))?;
        MIGRATIONS.run(&mut connection).await.map_err(|fault| at(migration(fault)))?;
        let log = log_id(&mut connection).await.map_err(|fault| at(unavailable(&fault)))?;
        let head = writer::reread(&mut connection, &log).await.map_err(|fault| at(unavailable(&fault)))?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .connect_with(options.read_only(true))
            .await
            .map_err(|fault| at(unavailable(&fault)))?;
        let (queue, requests) = mpsc::channel(writer::QUEUE_BATCHES_MAX);
        let (head, watched) = watch::channel(head);
        let cache = Cache::default();
        let writer = tokio::spawn(writer::run(connection, requests, head, cache.clone()));
        Ok(Sqlite { readers, queue: Mutex::new(Some(queue)), head: watched, cache, writer: Mutex::new(Some(writer)) })
    }
}

/// Looks before SQLite does: it would make a new store of a file that was emptied or is missing, and the log would
/// begin again.
fn is_store(path: &Path) -> Result<()> {
    const MAGIC: &[u8; 16] = b"SQLite format 3\0";
    let mut begin = [0; 16];
    let read = std::fs::File::open(path).and_then(|mut file| std::io::Read::read_exact(&mut file, &mut begin));
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

fn migration(fault: MigrateError) -> Error {
    match fault {
        MigrateError::VersionMissing(version) => Error::new(
            Reason::SchemaNewer,
            format!("the store has schema {version}, which this version of keyward does not know"),
        )
        .hint("run the version of keyward that last opened it, or a newer one"),
        MigrateError::Execute(fault) | MigrateError::ExecuteMigration(fault, _) => unavailable(&fault),
        other => Error::new(Reason::StoreUnavailable, "the store's schema cannot be brought up to date").detail(other),
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
    sqlx::query("INSERT INTO log (log_id, size, chain, time_us) VALUES ($1, 0, $2, 0)")
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
        let queue = self.queue.lock().await.clone();
        let (done, result) = oneshot::channel();
        let gone = || Error::new(Reason::StoreUnavailable, "the store is closed");
        queue.ok_or_else(gone)?.send(Request { batch, done }).await.map_err(|_| gone())?;
        result.await.map_err(|_| gone())?
    }

    async fn get(&self, kind: Kind, name: &str) -> Result<Option<Object>> {
        let key = (kind, name.to_owned());
        // Only this process writes the file, so what was committed or read once stays right.
        let cached = self.cache.read().unwrap_or_else(std::sync::PoisonError::into_inner).get(&key).cloned();
        if cached.is_some() {
            return Ok(cached);
        }
        let row = sqlx::query("SELECT name, version, body FROM object WHERE kind = $1 AND name = $2")
            .bind(kind.name())
            .bind(name.to_owned())
            .fetch_optional(&self.readers)
            .await
            .map_err(|fault| unavailable(&fault))?;
        let found = row.map(|row| object(&row));
        if let Some(object) = &found {
            let mut cache = self.cache.write().unwrap_or_else(std::sync::PoisonError::into_inner);
            cache.entry(key).or_insert_with(|| object.clone());
        }
        Ok(found)
    }

    async fn list(&self, kind: Kind, prefix: &str, after: &str, count_max: u32) -> Result<Vec<Object>> {
        let rows = sqlx::query(
            "SELECT name, version, body FROM object \
             WHERE kind = $1 AND substr(name, 1, length($2)) = $2 AND name > $3 ORDER BY name LIMIT $4",
        )
        .bind(kind.name())
        .bind(prefix.to_owned())
        .bind(after.to_owned())
        .bind(i64::from(count_max))
        .fetch_all(&self.readers)
        .await
        .map_err(|fault| unavailable(&fault))?;
        Ok(rows.iter().map(object).collect())
    }

    async fn entries(&self, seq: u64, count_max: u32) -> Result<Vec<Vec<u8>>> {
        let log = self.head.borrow().log.clone();
        let rows = sqlx::query("SELECT record FROM entry WHERE log_id = $1 AND seq >= $2 ORDER BY seq LIMIT $3")
            .bind(log)
            .bind(number(seq))
            .bind(i64::from(count_max))
            .fetch_all(&self.readers)
            .await
            .map_err(|fault| unavailable(&fault))?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    fn head(&self) -> Head {
        self.head.borrow().clone()
    }

    async fn open_intents(&self) -> Result<Vec<u64>> {
        let log = self.head.borrow().log.clone();
        let rows = sqlx::query("SELECT seq FROM open_intent WHERE log_id = $1 ORDER BY seq")
            .bind(log)
            .fetch_all(&self.readers)
            .await
            .map_err(|fault| unavailable(&fault))?;
        Ok(rows.iter().map(|row| row.get::<i64, _>(0).unsigned_abs()).collect())
    }

    async fn close(&self) {
        self.queue.lock().await.take();
        // The writer is the last to leave: it alone can move the write-ahead log into the file.
        self.readers.close().await;
        if let Some(writer) = self.writer.lock().await.take() {
            let _ = writer.await;
        }
    }
}

fn object(row: &sqlx::sqlite::SqliteRow) -> Object {
    Object { name: row.get(0), version: row.get::<i64, _>(1).unsigned_abs(), body: row.get::<Vec<u8>, _>(2).into() }
}
