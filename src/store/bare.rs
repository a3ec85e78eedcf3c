//! The database by itself: what a bench compares the store with.

use std::path::Path;
use std::str::FromStr;
use std::time::{Duration, Instant};

use sqlx::postgres::PgConnectOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection};

use crate::error::Result;
use crate::store::sql::unavailable;

/// Rows per second that one connection makes durable in an SQLite file of its own, in commits of `rows` rows of
/// `bytes` bytes each: one table, one prepared statement, nothing beside it. The file is set up as the store's is.
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
    let per_second = per_second(count, rows, start);
    connection.close().await.map_err(unavailable)?;
    Ok(per_second)
}

/// The same in a PostgreSQL database, in a table that is gone afterwards.
///
/// # Errors
/// `STORE_UNAVAILABLE` if the database cannot be reached or written.
pub async fn postgres_rows_per_second(url: &str, rows: usize, bytes: usize, duration: Duration) -> Result<f64> {
    let options = PgConnectOptions::from_str(url).map_err(unavailable)?.disable_statement_logging();
    let mut connection = options.connect().await.map_err(unavailable)?;
    let table = "CREATE TABLE bare (seq BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, record BYTEA NOT NULL)";
    sqlx::query(table).execute(&mut connection).await.map_err(unavailable)?;
    let start = Instant::now();
    let mut count = 0u32;
    while start.elapsed() < duration {
        sqlx::query("INSERT INTO bare (record) SELECT unnest($1)")
            .bind(vec![vec![0x5au8; bytes]; rows])
            .execute(&mut connection)
            .await
            .map_err(unavailable)?;
        count += 1;
    }
    let per_second = per_second(count, rows, start);
    sqlx::query("DROP TABLE bare").execute(&mut connection).await.map_err(unavailable)?;
    connection.close().await.map_err(unavailable)?;
    Ok(per_second)
}

/// Bytes of a PostgreSQL database on disk, without the server's write-ahead log.
///
/// # Errors
/// `STORE_UNAVAILABLE` if the database cannot be reached.
pub async fn postgres_bytes(url: &str) -> Result<u64> {
    let options = PgConnectOptions::from_str(url).map_err(unavailable)?.disable_statement_logging();
    let mut connection = options.connect().await.map_err(unavailable)?;
    let size: i64 = sqlx::query_scalar("SELECT pg_database_size(current_database())")
        .fetch_one(&mut connection)
        .await
        .map_err(unavailable)?;
    connection.close().await.map_err(unavailable)?;
    Ok(size.unsigned_abs())
}

fn per_second(commits: u32, rows: usize, start: Instant) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "a bench writes few rows at a time")]
    let rows = rows as f64;
    f64::from(commits) * rows / start.elapsed().as_secs_f64()
}
