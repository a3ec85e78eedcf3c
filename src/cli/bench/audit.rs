//! `keyward bench audit`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{ROUNDS, median};
use crate::audit::record::{ActNote, Event, OutcomeNote};
use crate::caller::CallerNote;
use crate::cli::{Global, output, runtime_of, service_threads};
use crate::clock;
use crate::error::{Error, Reason, Result};
use crate::store::{Batch, Postgres, Sqlite, Store, bare};

/// Most writers at a time.
const WRITERS_MAX: usize = 256;

#[derive(clap::Args)]
pub(in crate::cli) struct Args {
    /// Seconds for each side of each measurement
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Writers at a time
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8, 64])]
    writers: Vec<usize>,
    /// Where to make the directory: on the disk that is to be measured
    #[arg(long, value_name = "DIR", default_value_os_t = std::env::temp_dir())]
    within: PathBuf,
    /// A PostgreSQL database to measure too: logs of new instances are left in it
    #[arg(long, value_name = "URL")]
    postgres: Option<String>,
}

pub(super) fn run(args: &Args, global: &Global) -> Result<()> {
    if args.writers.iter().any(|writers| *writers == 0 || *writers > WRITERS_MAX) {
        return Err(Error::new(Reason::InvalidArgument, format!("writers are 1 to {WRITERS_MAX}")));
    }
    let place = Place::new(&args.within)?;
    let runtime = runtime_of(service_threads())?;
    let mut report = json!({ "sqlite": { "writers": runtime.block_on(measure(args, &Database::Sqlite(&place.0)))? } });
    if let Some(url) = &args.postgres {
        report["postgres"] = json!({ "writers": runtime.block_on(measure(args, &Database::Postgres(url)))? });
    }
    if global.output == output::Format::Json {
        println!("{report:#}");
        return Ok(());
    }
    for (database, measured) in report.as_object().into_iter().flatten() {
        println!("{database}: durable records a second, beside bare commits of one row for each writer");
        output::list(global.output, measured["writers"].as_array().map_or(&[], Vec::as_slice));
    }
    Ok(())
}

/// What is measured.
enum Database<'a> {
    /// Files in this directory.
    Sqlite(&'a Path),
    /// A database by its URL.
    Postgres(&'a str),
}

impl Database<'_> {
    async fn store(&self, writers: usize) -> Result<Arc<dyn Store>> {
        Ok(match self {
            Database::Sqlite(place) => Arc::new(Sqlite::open(&place.join(format!("store-{writers}.db")), true).await?),
            Database::Postgres(url) => {
                let instance = format!("bench-{}", hex::encode(clock::random::<4>()?));
                Arc::new(Postgres::open(url, None, &instance, true).await?)
            }
        })
    }

    /// Bytes of it on disk, while this log is closed.
    async fn bytes(&self, writers: usize) -> Result<u64> {
        match self {
            Database::Sqlite(place) => {
                let file = place.join(format!("store-{writers}.db"));
                Ok(std::fs::metadata(file).map_or(0, |file| file.len()))
            }
            Database::Postgres(url) => bare::postgres_bytes(url).await,
        }
    }

    async fn bare(&self, rows: usize, bytes: usize, duration: Duration) -> Result<f64> {
        match self {
            Database::Sqlite(place) => {
                let path = place.join(format!("bare-{}.db", hex::encode(clock::random::<4>()?)));
                bare::sqlite_rows_per_second(&path, rows, bytes, duration).await
            }
            Database::Postgres(url) => bare::postgres_rows_per_second(url, rows, bytes, duration).await,
        }
    }
}

/// Each number of writers on a log of its own, after a short run of theirs, and bare commits of as many rows in turn:
/// medians of the rounds, the ratio's too.
async fn measure(args: &Args, database: &Database<'_>) -> Result<Vec<Value>> {
    let duration = Duration::from_secs(args.seconds);
    let mut rows = Vec::with_capacity(args.writers.len());
    for count in &args.writers {
        let empty_bytes = database.bytes(*count).await?;
        let store = database.store(*count).await?;
        let first = store.head().size;
        records_per_second(&store, *count, duration / 8).await?;
        let bytes = mean_bytes(store.as_ref()).await?;
        let (mut rates, mut bares, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let before = database.bare(*count, bytes, duration / ROUNDS / 2).await?;
            let rate = records_per_second(&store, *count, duration / ROUNDS).await?;
            let after = database.bare(*count, bytes, duration / ROUNDS / 2).await?;
            ratios.push(rate / f64::midpoint(before, after));
            rates.push(rate);
            bares.extend([before, after]);
        }
        let signatures = (store.head().size - first) / 2;
        store.close().await;
        let grown = database.bytes(*count).await?.saturating_sub(empty_bytes);
        rows.push(json!({
            "writers": count,
            "per_s": whole(median(rates)),
            "bare_per_s": whole(median(bares)),
            "ratio": (median(ratios) * 1000.0).round() / 1000.0,
            "record_bytes": bytes,
            "bytes_per_signature": grown / signatures.max(1),
        }));
    }
    Ok(rows)
}

/// Records per second of writers that each record intents and their outcomes, with a signature of RSA-2048, one after
/// the other.
async fn records_per_second(store: &Arc<dyn Store>, writers: usize, duration: Duration) -> Result<f64> {
    let before = store.head().size;
    let (intent, signature) = (intent(), STANDARD.encode([0x5a; 256]));
    let start = Instant::now();
    let tasks: Vec<_> = (0..writers)
        .map(|_| {
            let (store, note, signature) = (Arc::clone(store), intent.clone(), signature.clone());
            tokio::spawn(async move {
                while start.elapsed() < duration {
                    let intent = store.commit(Batch::event(note.clone())).await?;
                    let result = OutcomeNote::Done { result: signature.clone() };
                    store.commit(Batch::event(Event::Outcome { intent, result })).await?;
                }
                Ok::<_, Error>(())
            })
        })
        .collect();
    for task in tasks {
        task.await.map_err(|fault| Error::new(Reason::Internal, "a writer broke off").detail(fault))??;
    }
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52 records")]
    let records = (store.head().size - before) as f64;
    Ok(records / start.elapsed().as_secs_f64())
}

/// The mean length of the first records.
async fn mean_bytes(store: &dyn Store) -> Result<usize> {
    let records = store.entries(&store.head().log, 0, 1000).await?;
    Ok(records.iter().map(Vec::len).sum::<usize>() / records.len().max(1))
}

/// An intent as long as those of licenses.
fn intent() -> Event {
    Event::Intent {
        caller: CallerNote::service(),
        rule: "node-signs-use-license".into(),
        act: ActNote::SignDocument {
            key: "clusters/bench/keys/0123456789abcdef".into(),
            kind: "use-license".into(),
            guid: "{00000000-0000-0000-0000-000000000000}".into(),
            issued: "2020-01-01T00:00".into(),
            digest: format!("sha256:{}", "0".repeat(64)),
        },
    }
}

#[allow(clippy::cast_possible_truncation, reason = "figures for people, far below the bounds of the type")]
fn whole(value: f64) -> i64 {
    value.round() as i64
}

/// The run's directory, removed at its end.
struct Place(PathBuf);

impl Place {
    fn new(within: &Path) -> Result<Self> {
        let path = within.join(format!("keyward-bench-{}", hex::encode(clock::random::<4>()?)));
        std::fs::create_dir(&path).map_err(|fault| {
            Error::new(Reason::InvalidArgument, format!("{} cannot be made: {fault}", path.display()))
                .hint("name a directory that this user may write: --within DIR")
        })?;
        Ok(Place(path))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
