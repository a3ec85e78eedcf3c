//! The one writer: takes all batches that queued while the last commit ran, and commits them together.

use std::collections::HashMap;

use sqlx::sqlite::SqliteConnection;
use sqlx::{Connection, QueryBuilder, Row, Sqlite};
use tokio::sync::{mpsc, oneshot, watch};

use crate::audit::chain::{ChainHash, Head, Placed};
use crate::audit::record::Event;
use crate::clock;
use crate::error::{Error, Reason, Result};
use crate::store::{Batch, Kind, Object, Write};

/// Batches that one commit takes at most.
const GROUP_BATCHES_MAX: usize = 256;
/// Batches that may wait for the next commit; who comes later waits to enqueue.
pub(super) const QUEUE_BATCHES_MAX: usize = 4096;

/// A batch and who waits for it.
pub(super) struct Request {
    pub(super) batch: Batch,
    pub(super) done: oneshot::Sender<Result<u64>>,
}

/// Objects as they were last committed; shared with the readers.
pub(super) type Cache = std::sync::Arc<std::sync::RwLock<HashMap<(Kind, String), Object>>>;

/// Runs until every sender is gone.
pub(super) async fn run(
    mut connection: SqliteConnection,
    mut queue: mpsc::Receiver<Request>,
    head: watch::Sender<Head>,
    cache: Cache,
) {
    let mut group = Vec::new();
    while queue.recv_many(&mut group, GROUP_BATCHES_MAX).await > 0 {
        let start = head.borrow().clone();
        match commit(&mut connection, &start, &group).await {
            Ok((end, results)) => {
                remember(&cache, &group, &results);
                head.send_replace(end);
                for (request, result) in group.drain(..).zip(results) {
                    let _ = request.done.send(result);
                }
            }
            Err(fault) => {
                tracing::error!(detail = %fault, "a commit failed; nothing of it was released");
                // A COMMIT that failed may have happened: what the database says decides where the log goes on.
                match reread(&mut connection, &start.log).await {
                    Ok(found) => {
                        head.send_replace(found);
                    }
                    Err(again) => tracing::error!(detail = %again, "the head of the log cannot be read"),
                }
                for request in group.drain(..) {
                    let _ = request.done.send(Err(unavailable(&fault)));
                }
            }
        }
    }
    if let Err(fault) = connection.close().await {
        tracing::warn!(detail = %fault, "the store did not close cleanly");
    }
}

fn remember(cache: &Cache, group: &[Request], results: &[Result<u64>]) {
    let mut cache = cache.write().unwrap_or_else(std::sync::PoisonError::into_inner);
    for (request, _) in group.iter().zip(results).filter(|(_, result)| result.is_ok()) {
        for write in &request.batch.writes {
            let object = Object { name: write.name.clone(), version: write.over + 1, body: write.body.clone() };
            cache.insert((write.kind, write.name.clone()), object);
        }
    }
}

/// One transaction over the whole group. A batch that loses a compare-and-swap leaves its neighbours alone.
async fn commit(
    connection: &mut SqliteConnection,
    start: &Head,
    group: &[Request],
) -> Result<(Head, Vec<Result<u64>>), sqlx::Error> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    let mut head = start.clone();
    let now_us = clock::now_us();
    let mut placed = Vec::new();
    let mut opened = Vec::new();
    let mut closed = Vec::new();
    let mut results = Vec::with_capacity(group.len());
    for Request { batch, .. } in group {
        let swapped = if batch.writes.is_empty() { Ok(()) } else { swap(&mut transaction, &batch.writes).await? };
        results.push(swapped.and_then(|()| append(&mut head, batch, now_us, &mut placed, &mut opened, &mut closed)));
    }
    if !placed.is_empty() {
        insert(&mut transaction, &head, &placed).await?;
        index(&mut transaction, &head.log, &opened, &closed).await?;
        sqlx::query("UPDATE log SET size = $1, chain = $2, time_us = $3 WHERE log_id = $4")
            .bind(number(head.size))
            .bind(head.chain.0.to_vec())
            .bind(head.time_us)
            .bind(head.log.clone())
            .execute(&mut *transaction)
            .await?;
    }
    transaction.commit().await?;
    Ok((head, results))
}

/// Writes a batch's objects over the versions it expects, or none of them.
async fn swap(connection: &mut SqliteConnection, writes: &[Write]) -> Result<Result<()>, sqlx::Error> {
    sqlx::query("SAVEPOINT batch").execute(&mut *connection).await?;
    for write in writes {
        let query = if write.over == 0 {
            "INSERT INTO object (version, body, kind, name) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING"
        } else {
            "UPDATE object SET version = $1, body = $2 WHERE kind = $3 AND name = $4 AND version = $5"
        };
        let mut query = sqlx::query(query)
            .bind(number(write.over + 1))
            .bind(write.body.to_vec())
            .bind(write.kind.name())
            .bind(write.name.clone());
        if write.over != 0 {
            query = query.bind(number(write.over));
        }
        if query.execute(&mut *connection).await?.rows_affected() == 0 {
            sqlx::query("ROLLBACK TO batch").execute(&mut *connection).await?;
            let (reason, words) = match write.over {
                0 => (Reason::AlreadyExists, "exists already"),
                _ => (Reason::StoreConflict, "was changed by somebody else meanwhile"),
            };
            return Ok(Err(Error::new(reason, format!("{} {words}", write.name))));
        }
    }
    sqlx::query("RELEASE batch").execute(&mut *connection).await?;
    Ok(Ok(()))
}

/// Places a winner's records; gives the place of its first own record.
fn append(
    head: &mut Head,
    batch: &Batch,
    now_us: i64,
    placed: &mut Vec<Placed>,
    opened: &mut Vec<u64>,
    closed: &mut Vec<u64>,
) -> Result<u64> {
    for write in &batch.writes {
        let event = Event::Changed {
            object: write.kind.name().to_owned(),
            name: write.name.clone(),
            version: write.over + 1,
            sha256: ChainHash::of(&write.body).to_string(),
        };
        placed.push(head.append(event, now_us)?);
    }
    let first = head.size;
    for event in &batch.events {
        match event {
            Event::Intent { .. } => opened.push(head.size),
            Event::Outcome { intent, .. } => closed.push(*intent),
            _ => {}
        }
        placed.push(head.append(event.clone(), now_us)?);
    }
    Ok(first)
}

async fn insert(connection: &mut SqliteConnection, head: &Head, placed: &[Placed]) -> Result<(), sqlx::Error> {
    // SQLite takes 32 766 values in one statement; three a row.
    for rows in placed.chunks(8192) {
        let mut query = QueryBuilder::<Sqlite>::new("INSERT INTO entry (log_id, seq, record) ");
        query.push_values(rows, |mut row, placed| {
            row.push_bind(head.log.clone()).push_bind(number(placed.seq)).push_bind(placed.bytes.clone());
        });
        query.build().execute(&mut *connection).await?;
    }
    Ok(())
}

async fn index(
    connection: &mut SqliteConnection,
    log: &str,
    opened: &[u64],
    closed: &[u64],
) -> Result<(), sqlx::Error> {
    if !opened.is_empty() {
        let mut query = QueryBuilder::<Sqlite>::new("INSERT INTO open_intent (log_id, seq) ");
        query.push_values(opened, |mut row, seq| {
            row.push_bind(log.to_owned()).push_bind(number(*seq));
        });
        query.build().execute(&mut *connection).await?;
    }
    if !closed.is_empty() {
        let mut query = QueryBuilder::<Sqlite>::new("DELETE FROM open_intent WHERE log_id = ");
        query.push_bind(log.to_owned()).push(" AND seq IN (");
        let mut list = query.separated(", ");
        for seq in closed {
            list.push_bind(number(*seq));
        }
        query.push(")");
        query.build().execute(&mut *connection).await?;
    }
    Ok(())
}

/// The head as the database has it.
pub(super) async fn reread(connection: &mut SqliteConnection, log: &str) -> Result<Head, sqlx::Error> {
    let row = sqlx::query("SELECT size, chain, time_us FROM log WHERE log_id = $1")
        .bind(log.to_owned())
        .fetch_one(connection)
        .await?;
    let chain: Vec<u8> = row.get(1);
    let chain = <[u8; 32]>::try_from(chain.as_slice())
        .map_err(|fault| sqlx::Error::ColumnDecode { index: "chain".into(), source: Box::new(fault) })?;
    let size: i64 = row.get(0);
    Ok(Head { log: log.to_owned(), size: size.unsigned_abs(), chain: ChainHash(chain), time_us: row.get(2) })
}

/// Places and versions as the databases count: they stay far below 2^63.
pub(super) fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(super) fn unavailable(fault: &sqlx::Error) -> Error {
    Error::new(Reason::StoreUnavailable, "the store cannot be read or written now")
        .detail(fault)
        .hint("look at the disk of the data directory: space, permissions, errors")
}
