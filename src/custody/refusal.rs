//! Refusals: each recorded before it is told; those of a flood told at once and recorded as a count.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::audit::record::{Event, Record, brief, time_text};
use crate::caller::{Caller, CallerNote};
use crate::clock;
use crate::custody::Custody;
use crate::error::{Error, Reason, Result};
use crate::policy::Operation;
use crate::store::{Batch, Store};

/// Refusals of one source that are recorded each for itself in one window.
const SOURCE_RECORDS_MAX: u32 = 30;
/// Refusals of all strangers together that are recorded each for itself in one window; the same for all known callers.
const RECORDS_MAX: u32 = 120;
/// Sources that are told apart in one window; what comes from more is counted together.
const SOURCES_MAX: usize = 64;
/// Length of a window, in seconds.
const WINDOW_S: u64 = 60;
/// Longest name of an object in a refusal's record, in characters.
const TARGET_CHARS_MAX: usize = 200;
/// Pause before counts that could not be recorded are tried again, in milliseconds.
const AGAIN_MS: u64 = 500;
/// Records that are read at a time.
const PAGE: u32 = 1000;

/// What one source was refused in a window.
#[derive(Debug, Default)]
struct Source {
    recorded: u32,
    counts: BTreeMap<String, u64>,
}

/// One minute of refusals. Memory is bounded: sources, and for each the operations and reasons, which are closed lists.
#[derive(Debug, Default)]
struct Window {
    began_us: i64,
    recorded: u32,
    sources: HashMap<CallerNote, Source>,
    others: Source,
}

impl Window {
    /// Whether a refusal is to be recorded for itself; if not, it is counted here.
    fn admits(&mut self, caller: &CallerNote, operation: &str, reason: &str) -> bool {
        let known = self.sources.len() < SOURCES_MAX || self.sources.contains_key(caller);
        let source = if known { self.sources.entry(caller.clone()).or_default() } else { &mut self.others };
        if known && source.recorded < SOURCE_RECORDS_MAX && self.recorded < RECORDS_MAX {
            source.recorded += 1;
            self.recorded += 1;
            return true;
        }
        *source.counts.entry(format!("{operation} {reason}")).or_default() += 1;
        false
    }

    /// Ends the window: the records of what was counted.
    fn end(&mut self, now_us: i64) -> Vec<Event> {
        let ended = std::mem::replace(self, Window { began_us: now_us, ..Window::default() });
        let mut sources: Vec<_> = ended.sources.into_iter().collect();
        sources.sort_by(|a, b| a.0.name.cmp(&b.0.name).then_with(|| a.0.address.cmp(&b.0.address)));
        sources.push((CallerNote::named("others"), ended.others));
        let (from, until) = (time_text(ended.began_us), time_text(now_us));
        let counted = sources.into_iter().filter(|(_, source)| !source.counts.is_empty());
        counted
            .map(|(caller, source)| {
                let (from, until) = (from.clone(), until.clone());
                Event::RefusalsCounted { caller, counts: source.counts, from, until }
            })
            .collect()
    }
}

/// The windows of strangers and of known callers: a flood of the ones hides no refusal of the others.
#[derive(Debug, Default)]
struct Windows {
    strangers: Window,
    known: Window,
    /// Whether somebody waits for the end of the windows to record the counts.
    awaited: bool,
}

impl Windows {
    fn end(&mut self, now_us: i64) -> Vec<Event> {
        [self.strangers.end(now_us), self.known.end(now_us)].concat()
    }
}

/// The refusals of this run.
pub(super) struct Refusals {
    store: Arc<dyn Store>,
    windows: Mutex<Windows>,
    /// Who waits for the end of the windows.
    waiting: Mutex<Option<JoinHandle<()>>>,
    /// True when the store is about to be closed: what cannot be recorded then is given up.
    ending: watch::Sender<bool>,
    /// Held for reading while a refusal is recorded or counted; true once none is any more.
    ended: tokio::sync::RwLock<bool>,
}

/// What is to be done with a refusal.
enum Admitted {
    Recorded(Box<Event>),
    Counted,
    /// The first one that is only counted: somebody must record the counts.
    FirstCounted,
}

impl Refusals {
    pub(super) fn new(store: Arc<dyn Store>) -> Arc<Self> {
        let now_us = clock::now_us();
        let began = || Window { began_us: now_us, ..Window::default() };
        let windows = Windows { strangers: began(), known: began(), awaited: false };
        let (windows, waiting, ending) = (Mutex::new(windows), Mutex::default(), watch::Sender::new(false));
        Arc::new(Refusals { store, windows, waiting, ending, ended: tokio::sync::RwLock::default() })
    }

    fn admit(&self, caller: &Caller, operation: Operation, target: &str, refusal: &Error, now_us: i64) -> Admitted {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        // While counts wait to be recorded, whoever waits for them ends the windows.
        if !windows.awaited && now_us.abs_diff(windows.known.began_us) >= WINDOW_S * 1_000_000 {
            windows.end(now_us);
        }
        let (note, reason) = (caller.note(), refusal.reason().code());
        let window = if caller.roles().is_empty() { &mut windows.strangers } else { &mut windows.known };
        if !window.admits(&note, operation.name(), reason) {
            return if std::mem::replace(&mut windows.awaited, true) {
                Admitted::Counted
            } else {
                Admitted::FirstCounted
            };
        }
        Admitted::Recorded(Box::new(Event::Refusal {
            caller: note,
            operation: operation.name().to_owned(),
            target: target.chars().take(TARGET_CHARS_MAX).collect(),
            reason: reason.to_owned(),
            message: brief(refusal.message()),
        }))
    }

    /// Records a refusal, after what is to be recorded beside it, or counts it. Gives it back, or the store's failure if
    /// it could not be recorded; behind the end of the run, none is.
    async fn refuse(
        self: &Arc<Self>,
        caller: &Caller,
        (operation, target): (Operation, &str),
        refusal: Error,
        beside: Option<Event>,
    ) -> Error {
        let recorded =
            |refused: Event| Batch { writes: Vec::new(), events: beside.into_iter().chain([refused]).collect() };
        let ended = self.ended.read().await;
        if *ended {
            tracing::warn!(%refusal, operation = operation.name(), "refused behind the end of the run, and not recorded");
            let stopping = Error::new(Reason::StoreClosed, "this instance is stopping");
            return stopping.while_doing("the refusal cannot be recorded");
        }
        match self.admit(caller, operation, target, &refusal, clock::now_us()) {
            Admitted::Recorded(event) => match self.store.commit(recorded(*event)).await {
                Ok(_) => refusal,
                Err(fault) => fault.while_doing("the refusal cannot be recorded"),
            },
            Admitted::Counted => refusal,
            Admitted::FirstCounted => {
                self.record_counts_after(Duration::from_secs(WINDOW_S));
                refusal
            }
        }
    }

    fn record_counts_after(self: &Arc<Self>, window: Duration) {
        let refusals = Arc::clone(self);
        let waiting = tokio::spawn(async move {
            refusals.pause(window).await;
            refusals.record_counts().await;
        });
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = Some(waiting);
    }

    /// Waits, unless the run ends.
    async fn pause(&self, time: Duration) {
        let mut ending = self.ending.subscribe();
        let _ = tokio::time::timeout(time, ending.wait_for(|ending| *ending)).await;
    }

    fn is_ending(&self) -> bool {
        *self.ending.borrow()
    }

    /// Records the last counts of a run, or gives them up with a word in the log of this process. None is in anybody's
    /// hands afterwards, and no more are taken.
    pub(super) async fn finish(&self) {
        self.ending.send_replace(true);
        *self.ended.write().await = true;
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(waiting) = waiting
            && let Err(fault) = waiting.await
        {
            tracing::error!(%fault, "counted refusals are lost");
        }
        self.record_counts().await;
    }

    /// Ends the windows and records what was counted in them, as soon as the store takes it; again after each window in
    /// which more was counted.
    async fn record_counts(&self) {
        loop {
            let events = {
                let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
                let events = windows.end(clock::now_us());
                windows.awaited = !events.is_empty();
                events
            };
            if events.is_empty() {
                return;
            }
            self.record(events).await;
            if self.is_ending() {
                return;
            }
            self.pause(Duration::from_secs(WINDOW_S)).await;
        }
    }

    async fn record(&self, events: Vec<Event>) {
        let from = self.store.head().size;
        loop {
            let fault = match self.store.commit(Batch { writes: Vec::new(), events: events.clone() }).await {
                Ok(_) => return,
                Err(fault) => fault,
            };
            let given_up = |fault: Error| tracing::error!(?fault, ?events, "counted refusals cannot be recorded");
            if fault.reason() != Reason::StoreUnavailable {
                return given_up(fault);
            }
            // It may have happened. Once something else can be committed, what the log holds is what it is.
            let recorded = loop {
                let last = self.is_ending();
                self.pause(Duration::from_millis(AGAIN_MS)).await;
                if self.store.commit(Batch::default()).await.is_ok()
                    && let Ok(recorded) = self.is_recorded(from, &events).await
                {
                    break recorded;
                }
                if last {
                    return given_up(fault);
                }
            };
            if recorded {
                return;
            }
        }
    }

    /// Whether the log has these records, from a place on: their times tell them from all others.
    async fn is_recorded(&self, mut from: u64, events: &[Event]) -> Result<bool> {
        let head = self.store.head();
        while from < head.size {
            let page = self.store.entries(&head.log, from, PAGE).await?;
            if page.is_empty() {
                break;
            }
            from += page.len() as u64;
            for bytes in page {
                if events.first() == Some(&Record::stored(&bytes)?.event) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}

impl Custody {
    /// Records that a request was refused, before the caller learns it; in a flood, counts it. Gives the refusal back, or
    /// the store's failure if it could not be recorded.
    pub async fn refuse(&self, caller: &Caller, operation: Operation, target: &str, refusal: Error) -> Error {
        self.refusals.refuse(caller, (operation, target), refusal, None).await
    }

    /// The same for a document that was looked at: `beside` says which, wherever the refusal is recorded for itself.
    pub async fn refuse_document(
        &self,
        caller: &Caller,
        operation: Operation,
        target: &str,
        refusal: Error,
        beside: Event,
    ) -> Error {
        self.refusals.refuse(caller, (operation, target), refusal, Some(beside)).await
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn stranger(n: usize) -> CallerNote {
        CallerNote { address: Some(format!("192.0.2.{n}")), ..CallerNote::named("stranger") }
    }

    fn refused(window: &mut Window, caller: &CallerNote, times: u32) -> u32 {
        (0..times).map(|_| u32::from(window.admits(caller, "join-cluster", "UNAUTHENTICATED"))).sum()
    }

    #[test]
    fn a_source_beyond_its_bound_is_counted_and_leaves_room_for_others() {
        let mut window = Window::default();
        assert_eq!(refused(&mut window, &stranger(1), 100_000), SOURCE_RECORDS_MAX);
        assert_eq!(refused(&mut window, &stranger(2), 5), 5);
        let events = window.end(60_000_000);
        let [Event::RefusalsCounted { caller, counts, from, until }] = &events[..] else { panic!("{events:?}") };
        assert_eq!(caller, &stranger(1));
        assert_eq!(counts["join-cluster UNAUTHENTICATED"], 100_000 - u64::from(SOURCE_RECORDS_MAX));
        assert_eq!((from.as_str(), until.as_str()), ("1970-01-01T00:00:00.000000Z", "1970-01-01T00:01:00.000000Z"));
        assert_eq!(refused(&mut window, &stranger(1), 1), 1, "the next window begins anew");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_was_counted_stands_once_in_the_log_when_a_run_has_ended() {
        let place = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> =
            Arc::new(crate::store::Sqlite::open(&place.path().join("store.db"), true).await.unwrap());
        for round in 1..=100 {
            let refusals = Refusals::new(Arc::clone(&store));
            let from = store.head().size;
            for _ in 0..SOURCE_RECORDS_MAX + round {
                refused(&mut refusals.windows.lock().unwrap().strangers, &stranger(1), 1);
            }
            // The window ends together with the run, at whatever moment of its end.
            refusals.record_counts_after(Duration::from_micros(u64::from(round) * 20));
            tokio::time::sleep(Duration::from_micros(u64::from(round) * 20)).await;
            refusals.finish().await;
            store.commit(Batch::event(Event::LogClosed {})).await.unwrap();
            let counted = store.entries(&store.head().log, from, PAGE).await.unwrap();
            let events: Vec<Event> = counted.iter().map(|bytes| Record::stored(bytes).unwrap().event).collect();
            let [Event::RefusalsCounted { counts, .. }, Event::LogClosed {}] = &events[..] else {
                panic!("{events:?}")
            };
            assert_eq!(counts.values().sum::<u64>(), u64::from(round));
        }
    }

    #[tokio::test]
    async fn no_refusal_is_recorded_or_counted_behind_the_end_of_a_run() {
        let place = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> =
            Arc::new(crate::store::Sqlite::open(&place.path().join("store.db"), true).await.unwrap());
        let refusals = Refusals::new(Arc::clone(&store));
        let refuse = async || {
            let caller = Caller::Stranger { certificate_sha256: String::new(), address: "192.0.2.1".into() };
            let refusal = Error::new(Reason::Unauthenticated, "who is this");
            refusals.refuse(&caller, (Operation::JoinCluster, "clusters/c"), refusal, None).await.reason()
        };
        assert_eq!(refuse().await, Reason::Unauthenticated);
        refusals.finish().await;
        let end = store.head();
        for _ in 0..=SOURCE_RECORDS_MAX {
            assert_eq!(refuse().await, Reason::StoreClosed);
        }
        refusals.record_counts().await;
        assert_eq!(store.head(), end);
    }

    #[test]
    fn a_flood_from_everywhere_takes_bounded_memory_and_few_records() {
        let mut window = Window::default();
        let recorded: u32 = (0..50_000).map(|n| refused(&mut window, &stranger(n), 2)).sum();
        assert!(recorded <= RECORDS_MAX, "{recorded}");
        assert_eq!(window.sources.len(), SOURCES_MAX);
        let events = window.end(1);
        assert!(events.len() <= SOURCES_MAX + 1, "{}", events.len());
        let counts = |event: &Event| match event {
            Event::RefusalsCounted { counts, .. } => counts.values().sum::<u64>(),
            other => panic!("{other:?}"),
        };
        assert_eq!(events.iter().map(counts).sum::<u64>() + u64::from(recorded), 100_000, "none is lost");
        assert!(window.end(2).is_empty());
    }
}
