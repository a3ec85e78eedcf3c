//! The one writer of a log: takes all batches that queued while the last commit ran, and commits them together.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Duration, Instant, timeout_at};

use crate::audit::chain::{ChainHash, Head};
use crate::audit::gathered::Kept;
use crate::audit::merkle::{Frontier, TreeHash};
use crate::audit::record::{Event, Moment, OutcomeNote};
use crate::clock;
use crate::error::{Error, Reason, Result};
use crate::faultpoint;
use crate::store::pulse::Pulse;
use crate::store::sql::note;
use crate::store::{Batch, Kind, Object, STUCK_S, Write};

/// Batches that one commit takes at most.
pub(super) const GROUP_BATCHES_MAX: usize = 256;
/// Batches that may wait for the next commit; who comes later waits to enqueue.
const QUEUE_BATCHES_MAX: usize = 4096;

/// With so many acts under way, a commit waits for company: it costs as much as many records, and what these acts wait
/// for is the token.
const COMPANY_ACTS_MIN: usize = 8;
/// One act in so many makes company enough.
const COMPANY_SHARE: usize = 2;
/// How long a commit waits for company, in milliseconds.
const COMPANY_WAIT_MS: u64 = 4;

/// Where a log stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct State {
    /// Its end.
    pub(super) head: Head,
    /// The right edge of its tree.
    pub(super) tree: Frontier,
    /// Intents without an outcome.
    pub(super) open: BTreeSet<u64>,
}

impl State {
    /// The place before which no intent is open.
    pub(super) fn open_from(&self) -> u64 {
        self.open.first().copied().unwrap_or(self.head.size)
    }

    /// Gives an event, as its canonical bytes, the next place.
    fn append(&mut self, event: &[u8], now: &Moment, new: &mut New) -> Result<()> {
        let record = self.head.append(event, now)?.bytes;
        self.tree.append(TreeHash::leaf(&record), |level, index, root| new.kept.extend(Kept::of(level, index, root)));
        new.records.push(record);
        Ok(())
    }
}

/// What one commit adds to the log.
#[derive(Debug, Default)]
pub(super) struct New {
    /// The canonical bytes of its records, in order.
    pub(super) records: Vec<Vec<u8>>,
    /// The subtrees that they make complete, and whose roots are kept.
    pub(super) kept: Vec<Kept>,
}

/// The writing connection to a database.
#[async_trait]
pub(super) trait Backend: Send {
    /// Begins a transaction in which objects are written before `append` ends it.
    async fn begin(&mut self) -> Result<()>;

    /// Writes a batch's objects over the versions it expects. `Ok(Err(_))`: none of them, and the transaction goes on.
    async fn swap(&mut self, writes: &[Write]) -> Result<Result<()>>;

    /// Keeps a signed checkpoint, within what was begun.
    async fn keep(&mut self, checkpoint: &str) -> Result<()>;

    /// Writes records from the place `first` on, moves the head to `end` and commits. `begun` says that a transaction
    /// is under way.
    async fn append(&mut self, begun: bool, first: u64, new: New, end: &State) -> Result<()>;

    /// Writes durably something that changes nothing.
    async fn touch(&mut self) -> Result<()>;

    /// Gives up what was begun, whether or not anything was.
    async fn roll_back(&mut self);

    /// Where the log stands, as the database has it.
    async fn state(&mut self) -> Result<State>;

    /// Closes the connection.
    async fn close(self: Box<Self>);
}

/// A batch and who waits for it.
struct Request {
    writes: Vec<Write>,
    /// One for each written object, then the batch's own.
    records: Vec<Composed>,
    checkpoint: Option<String>,
    done: oneshot::Sender<Result<u64>>,
}

/// An event and its canonical bytes, made by the thread that commits it: the writer has enough to do.
struct Composed {
    event: Event,
    bytes: Vec<u8>,
}

fn compose(writes: &[Write], events: Vec<Event>) -> Result<Vec<Composed>> {
    let changed = writes.iter().map(|write| Event::Changed {
        object: write.kind.name().to_owned(),
        name: write.name.clone(),
        version: write.over + 1,
        sha256: ChainHash::of(&write.body).to_string(),
    });
    changed.chain(events).map(|event| Ok(Composed { bytes: event.bytes()?, event })).collect()
}

/// What readers see of the last commit.
#[derive(Debug)]
struct Seen {
    state: RwLock<State>,
    pulse: Pulse,
    /// Objects as they were last committed or read, where nobody else writes the database.
    objects: Option<RwLock<HashMap<(Kind, String), Object>>>,
}

/// The way to the writer.
pub(super) struct Writer {
    queue: RwLock<Option<mpsc::Sender<Request>>>,
    seen: Arc<Seen>,
    task: RwLock<Option<JoinHandle<()>>>,
}

impl Writer {
    /// Starts the writer of a log that stands at `state`. `alone`: nobody else writes the database.
    pub(super) fn start(backend: Box<dyn Backend>, state: State, alone: bool) -> Self {
        let (queue, requests) = mpsc::channel(QUEUE_BATCHES_MAX);
        let seen = Arc::new(Seen {
            state: RwLock::new(state.clone()),
            pulse: Pulse::default(),
            objects: alone.then(RwLock::default),
        });
        let task = Task {
            backend,
            known: state.head.clone(),
            state: Some(state),
            doubt: None,
            orphans: Vec::new(),
            seen: seen.clone(),
        };
        let task = tokio::spawn(task.run(requests));
        Writer { queue: RwLock::new(Some(queue)), seen, task: RwLock::new(Some(task)) }
    }

    pub(super) async fn commit(&self, batch: Batch) -> Result<u64> {
        self.write(batch, None).await
    }

    pub(super) async fn keep_checkpoint(&self, note: &str) -> Result<()> {
        self.write(Batch::default(), Some(note.to_owned())).await.map(|_| ())
    }

    async fn write(&self, batch: Batch, checkpoint: Option<String>) -> Result<u64> {
        let gone = || Error::new(Reason::StoreUnavailable, "the store is closed");
        let is_empty = batch.writes.is_empty() && batch.events.is_empty() && checkpoint.is_none();
        if let Some(stuck) = self.seen.pulse.stuck(Duration::from_secs(STUCK_S)).filter(|_| !is_empty) {
            return Err(stuck);
        }
        let queue = self.queue.read().unwrap_or_else(PoisonError::into_inner).clone().ok_or_else(gone)?;
        let Batch { writes, events } = batch;
        let records = compose(&writes, events)?;
        let (done, result) = oneshot::channel();
        queue.send(Request { writes, records, checkpoint, done }).await.map_err(|_| gone())?;
        drop(queue);
        result.await.map_err(|_| gone())?
    }

    pub(super) fn trouble(&self, patience: Duration) -> Option<Error> {
        self.seen.pulse.trouble(patience)
    }

    pub(super) fn head(&self) -> Head {
        self.seen.state.read().unwrap_or_else(PoisonError::into_inner).head.clone()
    }

    pub(super) fn tree(&self) -> (Head, Frontier) {
        let state = self.seen.state.read().unwrap_or_else(PoisonError::into_inner);
        (state.head.clone(), state.tree.clone())
    }

    pub(super) fn open_intents(&self) -> Vec<u64> {
        self.seen.state.read().unwrap_or_else(PoisonError::into_inner).open.iter().copied().collect()
    }

    /// An object, if it is known without asking the database.
    pub(super) fn known(&self, kind: Kind, name: &str) -> Option<Object> {
        let objects = self.seen.objects.as_ref()?.read().unwrap_or_else(PoisonError::into_inner);
        objects.get(&(kind, name.to_owned())).cloned()
    }

    /// Remembers an object that was read, unless a later version is known by now.
    pub(super) fn learn(&self, kind: Kind, object: &Object) {
        if let Some(objects) = &self.seen.objects {
            let mut objects = objects.write().unwrap_or_else(PoisonError::into_inner);
            objects.entry((kind, object.name.clone())).or_insert_with(|| object.clone());
        }
    }

    /// Waits for what is under way and closes the writing connection.
    pub(super) async fn close(&self) {
        self.queue.write().unwrap_or_else(PoisonError::into_inner).take();
        let task = self.task.write().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            let _ = task.await;
        }
    }
}

struct Task {
    backend: Box<dyn Backend>,
    /// Where the log stands; nothing while that is not known, after a commit that failed.
    state: Option<State>,
    /// Where it ended when that was last known: callers were answered up to there.
    known: Head,
    /// What a commit that failed would have led to, until it is known whether it has.
    doubt: Option<Doubt>,
    /// Intents of commits that were said to have failed and have happened: nobody else closes them.
    orphans: Vec<u64>,
    seen: Arc<Seen>,
}

/// A commit of which it is not known whether it has happened.
struct Doubt {
    end: Head,
    results: Vec<Result<u64>>,
    intents: Vec<u64>,
}

impl Task {
    /// Runs until the store is closed.
    async fn run(mut self, mut queue: mpsc::Receiver<Request>) {
        let mut group = Vec::new();
        while queue.recv_many(&mut group, GROUP_BATCHES_MAX).await > 0 {
            let under_way = self.state.as_ref().map_or(0, |state| state.open.len());
            gather(&mut queue, &mut group, under_way).await;
            if !self.orphans.is_empty() {
                group.insert(0, closing(&self.orphans));
            }
            self.seen.pulse.begin();
            let committed = self.commit(&group).await;
            self.seen.pulse.end(committed.as_ref().err());
            match committed {
                Ok(results) => {
                    for (request, result) in group.drain(..).zip(results) {
                        let _ = request.done.send(result);
                    }
                }
                Err(fault) => {
                    tracing::error!(?fault, "a commit failed; nothing of it is released");
                    for request in group.drain(..) {
                        let _ = request.done.send(Err(fault.clone()));
                    }
                }
            }
        }
        self.backend.close().await;
    }

    /// One transaction over the whole group. A batch that loses a compare-and-swap leaves its neighbours alone.
    async fn commit(&mut self, group: &[Request]) -> Result<Vec<Result<u64>>> {
        let start = match self.state.take() {
            Some(state) => state,
            None => {
                let (found, happened) = self.find().await?;
                // Those who waited for it were told that it failed.
                self.orphans.extend(happened.into_iter().flat_map(|doubt| doubt.intents));
                found
            }
        };
        match self.attempt(&start, group).await {
            Ok((end, results)) => {
                self.doubt = None;
                self.orphans.retain(|intent| end.open.contains(intent));
                self.settle(group, &results, end);
                Ok(results)
            }
            Err(fault) => {
                self.backend.roll_back().await;
                // A COMMIT that failed may have happened: what the database says decides where the log goes on.
                match self.find().await {
                    Ok((found, Some(Doubt { results, .. }))) => {
                        tracing::warn!(?fault, "a commit has happened, and its answer alone was lost");
                        self.settle(group, &results, found);
                        Ok(results)
                    }
                    Ok((found, None)) => {
                        self.state = Some(found);
                        Err(fault)
                    }
                    Err(again) => {
                        tracing::error!(fault = ?again, "it is not known where the log ends");
                        Err(fault)
                    }
                }
            }
        }
    }

    /// Where the log ends by the database, and the commit in doubt if it has happened. It can end nowhere else: nobody
    /// else writes it.
    async fn find(&mut self) -> Result<(State, Option<Doubt>)> {
        let found = self.backend.state().await?;
        let happened = self.doubt.as_ref().is_some_and(|doubt| doubt.end == found.head && doubt.end != self.known);
        if !happened && found.head != self.known {
            return Err(contradiction(&self.known, &found.head));
        }
        self.known = found.head.clone();
        self.orphans.retain(|intent| found.open.contains(intent));
        *self.seen.state.write().unwrap_or_else(PoisonError::into_inner) = found.clone();
        Ok((found, self.doubt.take().filter(|_| happened)))
    }

    /// A commit has happened: the log ends at `end`.
    fn settle(&mut self, group: &[Request], results: &[Result<u64>], end: State) {
        self.known = end.head.clone();
        self.seen(group, results, end.clone());
        self.state = Some(end);
    }

    async fn attempt(&mut self, start: &State, group: &[Request]) -> Result<(State, Vec<Result<u64>>)> {
        let begun = group.iter().any(|request| !request.writes.is_empty() || request.checkpoint.is_some());
        if begun {
            self.backend.begin().await?;
        }
        let act = act(group);
        let now = Moment::of(clock::now_us().max(start.head.time_us));
        let mut end = start.clone();
        let mut new = New { records: Vec::with_capacity(group.len()), kept: Vec::new() };
        let mut kept = false;
        let mut results = Vec::with_capacity(group.len());
        for request in group {
            if let Some(note) = &request.checkpoint {
                self.backend.keep(note).await?;
                kept = true;
            }
            if let Some(closed) = request.closed(&end) {
                results.push(Err(closed));
                continue;
            }
            let writes = &request.writes;
            let swapped = if writes.is_empty() { Ok(()) } else { self.backend.swap(writes).await? };
            results.push(match swapped {
                Ok(()) => Ok(append(&mut end, request, &now, &mut new)?),
                Err(lost) => Err(lost),
            });
        }
        if new.records.is_empty() && !kept {
            // A server warns of a rollback where nothing was begun.
            if begun {
                self.backend.roll_back().await;
            } else {
                self.backend.touch().await?;
            }
        } else {
            let intents = end.open.difference(&start.open).copied().collect();
            self.doubt = Some(Doubt { end: end.head.clone(), results: results.clone(), intents });
            faultpoint::reach("before-commit", act).await;
            self.backend.append(begun, start.head.size, new, &end).await?;
            faultpoint::reach("after-commit", act).await;
        }
        Ok((end, results))
    }

    fn seen(&self, group: &[Request], results: &[Result<u64>], end: State) {
        if let Some(objects) = &self.seen.objects {
            let won = group.iter().zip(results).filter(|(_, result)| result.is_ok());
            let mut writes = won.flat_map(|(request, _)| &request.writes).peekable();
            if writes.peek().is_some() {
                let mut objects = objects.write().unwrap_or_else(PoisonError::into_inner);
                for write in writes {
                    let object = Object { name: write.name.clone(), version: write.over + 1, body: write.body.clone() };
                    objects.insert((write.kind, write.name.clone()), object);
                }
            }
        }
        *self.seen.state.write().unwrap_or_else(PoisonError::into_inner) = end;
    }
}

impl Request {
    /// That an outcome of the batch has nothing to close: it was recorded by a commit that was said to have failed.
    fn closed(&self, state: &State) -> Option<Error> {
        let is_own = |intent: &u64| *intent >= state.head.size;
        let closed = self.records.iter().find_map(|composed| match &composed.event {
            Event::Outcome { intent, .. } if !state.open.contains(intent) && !is_own(intent) => Some(intent),
            _ => None,
        })?;
        Some(Error::new(Reason::StoreConflict, format!("intent {closed} is not open: it has an outcome already")))
    }
}

/// Closes intents that nobody knows to be open. The token was not asked: whoever wanted to was told that it could not be
/// recorded.
fn closing(intents: &[u64]) -> Request {
    let outcome = |intent: &u64| Event::Outcome {
        intent: *intent,
        result: OutcomeNote::Refused {
            reason: Reason::StoreUnavailable.code().to_owned(),
            message: "the store had not said in time that this intent was recorded; the token was not asked".to_owned(),
        },
    };
    // An event of these words can always be written; if not, the intents stay open until the next start.
    let records = compose(&[], intents.iter().map(outcome).collect()).unwrap_or_default();
    Request { writes: Vec::new(), records, checkpoint: None, done: oneshot::channel().0 }
}

/// The database shows another end of the log than this process has made.
fn contradiction(known: &Head, found: &Head) -> Error {
    let words = format!("the database now has {} records of this log; {} were durable before", found.size, known.size);
    let reason = if found.size < known.size { Reason::StoreRewound } else { Reason::StoreForked };
    Error::new(reason, words)
        .hint("bring the database back as it was; nothing is recorded or signed over another one")
        .detail(format!("chain {} and before {}", found.chain, known.chain))
}

/// What fault points call a group: by its first intent or outcome.
fn act(group: &[Request]) -> &'static str {
    let named = |composed: &Composed| match &composed.event {
        Event::Intent { act, .. } => Some(act.name()),
        Event::Outcome { .. } => Some("outcome"),
        _ => None,
    };
    group.iter().flat_map(|request| &request.records).find_map(named).unwrap_or("record")
}

/// Takes into the group what comes together with its first, and waits a moment for more if many acts are under way.
async fn gather(queue: &mut mpsc::Receiver<Request>, group: &mut Vec<Request>, under_way: usize) {
    // Those who were answered by the last commit come back at once, one after the other.
    let mut had = 0;
    while had < group.len() && group.len() < GROUP_BATCHES_MAX {
        had = group.len();
        tokio::task::yield_now().await;
        while group.len() < GROUP_BATCHES_MAX
            && let Ok(request) = queue.try_recv()
        {
            group.push(request);
        }
    }
    if under_way < COMPANY_ACTS_MIN {
        return;
    }
    let company = (under_way / COMPANY_SHARE).min(GROUP_BATCHES_MAX);
    let until = Instant::now() + Duration::from_millis(COMPANY_WAIT_MS);
    while group.len() < company {
        let room = GROUP_BATCHES_MAX - group.len();
        match timeout_at(until, queue.recv_many(group, room)).await {
            Ok(more) if more > 0 => {}
            _ => return,
        }
    }
}

/// Places a winner's records; gives the place of its first own record.
fn append(state: &mut State, request: &Request, now: &Moment, new: &mut New) -> Result<u64> {
    let first = state.head.size + request.writes.len() as u64;
    for Composed { event, bytes } in &request.records {
        note(&mut state.open, state.head.size, event);
        state.append(bytes, now, new)?;
    }
    Ok(first)
}
