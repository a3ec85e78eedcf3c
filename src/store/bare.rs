//! The database by itself: what a bench compares the store with.

use std::path::Path;
use std::time::{Duration, Instant};

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection};

use crate::error::Result;
use crate::store::sql::unavailable;

/// Rows per second that one connection makes durable in an SQLite file of its own, in commits of `rows` rows of
/// `bytes` bytes each: one table, one prepared statement, nothing beside it.
///
/// # Errors
/// `STORE_UNAVAILABLE` if the file cannot be made or written.
pub async fn sqlite_rows_per_second(path: &Path, rows: usize, bytes: usize, duration: Duration) -> Result<f64> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .disable_statement_logging();
    let mut connection = options.connect().await.map_err(unavailable)?;
    sqlx::query("CREATE TABLE bare (seq INTEGER NOT NULL PRIMARY KEY, record BLOB NOT NULL) STRICT")
        .execute(&mut connection)
        .await
        .map_err(unavailable)?;
    let mut insert = String::from("BEGIN IMMEDIATE; INSERT INTO bare (record) VALUES ($1)");
    for row in 2..=rows {
        insert.push_str(&format!(", (${row})"));
    }
    insert.push_str("; COMMIT");
    let start = Instant::now();
    let mut count = 0u32;
    while start.elapsed() < duration {
        let mut query = sqlx::query(sqlx::AssertSqlSafe(insert.as_str()));
        for _ in 0..rows {
            query = query.bind(vec![0x5au8; bytes]);
        }
        query.execute(&mut connection).await.map_err(unavailable)?;
        count += 1;
    }
    let elapsed = start.elapsed().as_secs_f64();
    connection.close().await.map_err(unavailable)?;
    #[allow(clippy::cast_precision_loss, reason = "a bench writes few rows at a time")]
    let rows = rows as f64;
    Ok(f64::from(count) * rows / elapsed)
}
