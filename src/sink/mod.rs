//! Copies of the log for other programs: JSON lines in a file, and syslog. The store has the log; a copy is never evidence,
//! and never holds anything up: one that fails is reported, and goes on where it ended.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use serde::Deserialize;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::audit::chain::ChainHash;
use crate::error::{Error, Reason, Result};
use crate::store::Store;

mod json_lines;
mod syslog;

pub use json_lines::JsonLines;
pub use syslog::Syslog;

/// Pause between two looks at the log, in milliseconds.
const LOOK_MS: u64 = 200;
/// Records that are copied at a time.
const CHUNK_RECORDS: u32 = 256;
/// Pause after the first failure, in milliseconds; it doubles with each further one.
const PAUSE_MS: u64 = 500;
/// Longest pause after a failure, in milliseconds.
const PAUSE_MS_MAX: u64 = 30_000;
/// Time that the copies have to catch up when the service stops, in seconds.
const FINISH_S: u64 = 5;

/// A record on its way into a copy.
pub struct Copied {
    /// Place in the log.
    pub seq: u64,
    /// SHA-256 of the bytes: what the next record carries.
    pub sha256: ChainHash,
    /// When it was written, as in the record.
    pub time: String,
    /// Kind of event.
    pub kind: String,
    /// Identity of the log.
    pub log: String,
    /// The canonical bytes.
    pub record: Vec<u8>,
}

/// Where a copy ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct End {
    /// The place of the first record that it does not have.
    pub next: u64,
    /// SHA-256 of the last record that it has; none if it has none, or does not know.
    pub sha256: Option<ChainHash>,
}

impl End {
    /// The end of a copy whose last record is this.
    #[must_use]
    pub fn behind(seq: u64, sha256: ChainHash) -> Self {
        End { next: seq + 1, sha256: Some(sha256) }
    }

    /// Requires that it is the copy of a log that has this hash before the place `next`.
    fn require(&self, hash: ChainHash) -> Result<()> {
        match self.sha256 {
            Some(ours) if ours != hash => Err(Error::new(
                Reason::RecordBroken,
                format!(
                    "its last record, {}, is not that of the log: it is the copy of another state; move it away, and a \
                     new one begins with the first record",
                    self.next.saturating_sub(1)
                ),
            )),
            _ => Ok(()),
        }
    }
}

/// Where copies go. Its functions may block; they run on threads of their own.
pub trait Sink: Send + 'static {
    /// Opens it and finds out where it ended.
    ///
    /// # Errors
    /// In words for people; it is tried again later.
    fn open(&mut self, log: &str) -> Result<End>;

    /// Takes the next record.
    ///
    /// # Errors
    /// As [`Sink::open`], which is asked again before the next record is given.
    fn copy(&mut self, record: &Copied) -> Result<()>;

    /// Makes what was taken durable as far as this sink does that.
    ///
    /// # Errors
    /// As [`Sink::copy`].
    fn flush(&mut self) -> Result<()>;
}

/// How a copy stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Its name in the configuration.
    pub name: String,
    /// What it is: `json-lines` or `syslog`, and where.
    pub place: String,
    /// The place of the first record that it does not have.
    pub next: u64,
    /// Why it takes nothing now, if it does not.
    pub failing: Option<String>,
}

/// The copies of a running instance.
pub struct Sinks {
    standings: Vec<Arc<RwLock<Standing>>>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    stop: watch::Sender<bool>,
}

impl Sinks {
    /// Starts the copies, each under its name and place.
    #[must_use]
    pub fn start(store: &Arc<dyn Store>, sinks: Vec<(String, String, Box<dyn Sink>)>) -> Self {
        let (stop, _) = watch::channel(false);
        let (mut standings, mut tasks) = (Vec::new(), Vec::new());
        for (name, place, sink) in sinks {
            let standing = Arc::new(RwLock::new(Standing { name, place, ..Standing::default() }));
            standings.push(standing.clone());
            let copying = Copying { store: store.clone(), standing, stop: stop.subscribe() };
            tasks.push(tokio::spawn(copying.run(sink)));
        }
        Sinks { standings, tasks: Mutex::new(tasks), stop }
    }

    /// How each copy stands.
    #[must_use]
    pub fn standings(&self) -> Vec<Standing> {
        self.standings.iter().map(|one| one.read().unwrap_or_else(PoisonError::into_inner).clone()).collect()
    }

    /// Lets the copies take what is in the log by now, for a bounded time, and ends them.
    pub async fn finish(&self) {
        self.stop.send_replace(true);
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        for task in tasks {
            let abort = task.abort_handle();
            if tokio::time::timeout(Duration::from_secs(FINISH_S), task).await.is_err() {
                abort.abort();
            }
        }
    }
}

struct Copying {
    store: Arc<dyn Store>,
    standing: Arc<RwLock<Standing>>,
    stop: watch::Receiver<bool>,
}

impl Copying {
    async fn run(mut self, sink: Box<dyn Sink>) {
        let mut sink = Some(sink);
        let mut pause_ms = PAUSE_MS;
        let mut at = None;
        loop {
            let ending = *self.stop.borrow();
            match self.step(&mut sink, &mut at).await {
                Ok(true) => {
                    self.tell(None);
                    pause_ms = PAUSE_MS;
                }
                Ok(false) if ending => return,
                Ok(false) => {
                    self.tell(None);
                    self.wait(LOOK_MS).await;
                }
                Err(fault) => {
                    at = None;
                    self.tell(Some(&fault));
                    if ending || sink.is_none() {
                        return;
                    }
                    self.wait(pause_ms).await;
                    pause_ms = (pause_ms * 2).min(PAUSE_MS_MAX);
                }
            }
        }
    }

    async fn wait(&mut self, ms: u64) {
        let _ = tokio::time::timeout(Duration::from_millis(ms), self.stop.wait_for(|stop| *stop)).await;
    }

    /// Copies what is there, up to a chunk; false if there was nothing. `at` is where the copy ends, while it is open.
    async fn step(&self, sink: &mut Option<Box<dyn Sink>>, at: &mut Option<End>) -> Result<bool> {
        let head = self.store.head();
        let end = match at.clone() {
            Some(end) => end,
            None => {
                let end = blocking(sink, move |sink| sink.open(&head.log)).await?;
                self.reached(at, end.clone());
                end
            }
        };
        let next = end.next;
        if next > head.size {
            let words = format!(
                "it has {next} records already, the log has {}: it is the copy of another state; move it away, and a new \
                 one begins with the first record",
                head.size
            );
            return Err(Error::new(Reason::RecordBroken, words));
        }
        if next == head.size {
            end.require(head.chain)?;
            return Ok(false);
        }
        let records = self.store.entries(&self.store.head().log, next, CHUNK_RECORDS).await?;
        let (Some(first), Some(last)) = (records.first(), records.last()) else {
            return Err(Error::new(Reason::RecordBroken, format!("record {next} is missing from the store")));
        };
        end.require(frame(first)?.prev)?;
        let end = End::behind(next + records.len() as u64 - 1, ChainHash::of(last));
        blocking(sink, move |sink| {
            for record in records {
                sink.copy(&copied(record)?)?;
            }
            sink.flush()
        })
        .await?;
        self.reached(at, end);
        Ok(true)
    }

    fn reached(&self, at: &mut Option<End>, end: End) {
        self.standing.write().unwrap_or_else(PoisonError::into_inner).next = end.next;
        *at = Some(end);
    }

    /// Keeps why a copy fails, and says it once.
    fn tell(&self, fault: Option<&Error>) {
        let mut standing = self.standing.write().unwrap_or_else(PoisonError::into_inner);
        let words = fault.map(|fault| fault.message().to_owned());
        if standing.failing == words {
            return;
        }
        let name = &standing.name;
        match &words {
            Some(words) => tracing::warn!(sink = name, "a copy of the log takes nothing: {words}"),
            None => tracing::info!(sink = name, "a copy of the log takes records again"),
        }
        standing.failing = words;
    }
}

/// Runs a sink's function where it may block. One that panics has failed like any other, and is opened again.
async fn blocking<T: Send + 'static>(
    sink: &mut Option<Box<dyn Sink>>,
    work: impl FnOnce(&mut dyn Sink) -> Result<T> + Send + 'static,
) -> Result<T> {
    let gone = || Error::new(Reason::Internal, "the copy broke off");
    let mut taken = sink.take().ok_or_else(gone)?;
    let (taken, done) = tokio::task::spawn_blocking(move || {
        let done = catch_unwind(AssertUnwindSafe(|| work(taken.as_mut())));
        (taken, done)
    })
    .await
    .map_err(|fault| gone().detail(fault))?;
    *sink = Some(taken);
    done.unwrap_or_else(|_| Err(gone()))
}

/// What a copy says of a record, whatever its event.
#[derive(Deserialize)]
struct Frame {
    log: String,
    seq: u64,
    prev: ChainHash,
    time: String,
    event: Kind,
}

#[derive(Deserialize)]
struct Kind {
    #[serde(rename = "type")]
    kind: String,
}

fn frame(record: &[u8]) -> Result<Frame> {
    serde_json::from_slice(record).map_err(|fault| Error::new(Reason::RecordBroken, format!("not a record: {fault}")))
}

fn copied(record: Vec<u8>) -> Result<Copied> {
    let Frame { log, seq, time, event, .. } = frame(&record)?;
    Ok(Copied { seq, sha256: ChainHash::of(&record), time, kind: event.kind, log, record })
}
