//! A lane: the bounded queue in front of one token and the operating system threads that call it.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::{Class, Failure, Outcome, Token};
use crate::error::{Error, Reason};

/// Who goes first when the queue is not empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// A license that somebody waits for.
    License,
    /// Everything that can wait: lists, templates, maintenance.
    Bulk,
    /// What the device itself needs: logins, generations, looking whether it is well. Queues as [`Priority::Bulk`]; how
    /// long it takes says nothing of how long others take.
    Upkeep,
}

/// Why a lane gives no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LaneError {
    /// Not taken on: the queue is full, or the deadline would pass in it.
    Busy {
        /// When it is worth asking again.
        retry_after: Duration,
    },
    /// The deadline passed in the queue; the act was not started.
    Expired,
    /// The deadline passed while the act ran; it may still be done.
    Late,
    /// The lane is closed.
    Closed,
    /// The device's answer, or [`Class::Module`] if the act panicked.
    Failed(Failure),
    /// Of several devices that may have the key, those that could be asked do not show it.
    Unseen {
        /// What the first of them answered.
        failure: Failure,
        /// Names of the others, which a person has to bring back.
        unasked: String,
    },
}

impl LaneError {
    /// Whether the act may have been done.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            LaneError::Busy { .. } | LaneError::Expired | LaneError::Closed => Outcome::Refused,
            LaneError::Late => Outcome::Unknown,
            LaneError::Failed(failure) | LaneError::Unseen { failure, .. } => failure.outcome,
        }
    }

    /// This one as the last of several tries: what an earlier one may have done stays open.
    #[must_use]
    pub fn after(self, earlier: Option<LaneError>) -> LaneError {
        match (self, earlier) {
            (LaneError::Failed(failure), Some(earlier)) => LaneError::Failed(failure.after(earlier.outcome())),
            (later, Some(earlier)) if earlier.outcome() == Outcome::Unknown && later.outcome() != Outcome::Unknown => {
                earlier
            }
            (later, _) => later,
        }
    }
}

impl From<LaneError> for Error {
    fn from(error: LaneError) -> Self {
        match error {
            LaneError::Busy { retry_after } => {
                Error::new(Reason::TokenBusy, "the queue in front of the token is too long for this deadline")
                    .hint(format!("Ask again in {} ms.", retry_after.as_millis().max(1)))
                    .retry_after(retry_after.max(Duration::from_millis(1)))
            }
            LaneError::Expired => Error::new(Reason::TokenBusy, "the deadline passed in the queue; nothing was done"),
            LaneError::Late => Error::new(Reason::TokenUnknown, "the token did not answer before the deadline"),
            LaneError::Closed => Error::new(Reason::TokenUnavailable, "the token is being closed"),
            LaneError::Failed(failure) => failure.into(),
            LaneError::Unseen { failure, unasked } => {
                let words = format!("no replica that can be asked shows the key, and {unasked} cannot be asked");
                Error::new(Reason::TokenUnavailable, words)
                    .hint("see why, and bring it back: keyward token status")
                    .answered(failure.answer())
                    .detail(failure)
            }
        }
    }
}

/// Threads that call one token, and the queue in front of them. Dropping it closes it.
pub struct Lane {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

struct Shared {
    queue: Mutex<Queue>,
    arrived: Condvar,
    threads: u32,
    depth_max: usize,
    /// What a place in the queue costs, by what the acts are.
    license: Average,
    bulk: Average,
}

/// Moving average of how long an act that did what it should holds a thread, in nanoseconds; 0 before the first.
#[derive(Default)]
struct Average(AtomicU64);

impl Average {
    fn get(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }

    fn add(&self, took: Duration) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let before = self.0.load(Ordering::Relaxed);
        // Two threads may overwrite each other's step; an average forgives that.
        let after = if before == 0 { took } else { before - before / 8 + took / 8 };
        self.0.store(after, Ordering::Relaxed);
    }
}

#[derive(Default)]
struct Queue {
    license: VecDeque<Job>,
    bulk: VecDeque<Job>,
    running: usize,
    closed: bool,
}

/// Says whether it did what it should.
type Act = dyn FnOnce(&dyn Token) -> bool + Send;

struct Job {
    priority: Priority,
    deadline: Instant,
    started: Arc<AtomicU8>,
    act: Box<Act>,
}

/// States of a job: waiting; taken by a thread; given up by its caller.
const WAITING: u8 = 0;
const TAKEN: u8 = 1;
const GIVEN_UP: u8 = 2;

impl Lane {
    /// Starts `threads` operating system threads for a token, with room for `queue_depth_max` waiting acts.
    ///
    /// # Errors
    /// `INTERNAL` if the system gives no thread.
    pub fn start(token: Arc<dyn Token>, threads: usize, queue_depth_max: usize) -> Result<Lane, Error> {
        let threads = threads.max(1);
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            arrived: Condvar::new(),
            threads: u32::try_from(threads).unwrap_or(u32::MAX),
            depth_max: queue_depth_max,
            license: Average::default(),
            bulk: Average::default(),
        });
        let lane = Lane { shared: Arc::clone(&shared), threads: Mutex::default() };
        for number in 0..threads {
            let (shared, token) = (Arc::clone(&shared), Arc::clone(&token));
            let thread = std::thread::Builder::new()
                .name(format!("token-{number}"))
                .spawn(move || shared.work(&*token))
                .map_err(|e| Error::new(Reason::Internal, "the system gives no thread for a token").detail(e))?;
            lane.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        }
        Ok(lane)
    }

    /// Has a thread of the lane do an act, ahead of all bulk work. See [`Lane::run_as`].
    ///
    /// # Errors
    /// See [`LaneError`].
    pub async fn run<T: Send + 'static>(
        &self,
        deadline: Instant,
        act: impl FnOnce(&dyn Token) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, LaneError> {
        self.run_as(Priority::License, deadline, act).await
    }

    /// Has a thread of the lane do an act.
    ///
    /// The answer comes before the deadline or is an error at the deadline; the lane never makes its caller wait
    /// longer. An act that has not started by then never starts. A caller that drops the future before the act
    /// started takes it back; later, the act runs to its end and its result is thrown away.
    ///
    /// # Errors
    /// See [`LaneError`].
    pub async fn run_as<T: Send + 'static>(
        &self,
        priority: Priority,
        deadline: Instant,
        act: impl FnOnce(&dyn Token) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, LaneError> {
        let (sender, receiver) = oneshot::channel();
        let started = Arc::new(AtomicU8::new(WAITING));
        let withdrawal = Withdrawal(Arc::clone(&started));
        let job = Job {
            priority,
            deadline,
            started,
            act: Box::new(move |token| {
                let answer = catch_unwind(AssertUnwindSafe(|| act(token))).unwrap_or_else(|_| {
                    Err(Failure {
                        class: Class::Module,
                        outcome: Outcome::Unknown,
                        function: "lane",
                        code: "the act panicked".to_owned(),
                    })
                });
                let done = answer.is_ok();
                // The receiver is gone if the caller gave up; then nobody wants the answer.
                let _ = sender.send(answer);
                done
            }),
        };
        self.shared.admit(job)?;
        match tokio::time::timeout_at(deadline.into(), receiver).await {
            Ok(Ok(answer)) => answer.map_err(LaneError::Failed),
            // The thread dropped the job: its deadline had passed.
            Ok(Err(_)) => Err(LaneError::Expired),
            Err(_) if withdrawal.withdraw() => Err(LaneError::Expired),
            Err(_) => Err(LaneError::Late),
        }
    }

    /// How long an act that comes now is likely to wait before a thread takes it.
    #[must_use]
    pub fn expected_wait(&self, priority: Priority) -> Duration {
        self.shared.expected_wait(&self.shared.lock(), priority)
    }

    /// Acts that wait now.
    #[must_use]
    pub fn waiting(&self) -> usize {
        let queue = self.shared.lock();
        queue.license.len() + queue.bulk.len()
    }

    /// Acts that wait or run now.
    #[must_use]
    pub fn busy(&self) -> usize {
        let queue = self.shared.lock();
        queue.license.len() + queue.bulk.len() + queue.running
    }

    /// Takes nothing more on, does what is queued, and joins the threads. Blocks until then.
    pub fn close(&self) {
        self.shared.lock().closed = true;
        self.shared.arrived.notify_all();
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            // A lane thread catches every panic of an act, so there is none to report.
            let _ = thread.join();
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.close();
    }
}

/// Takes a job back when its caller goes away, if no thread has it yet.
struct Withdrawal(Arc<AtomicU8>);

impl Withdrawal {
    fn withdraw(&self) -> bool {
        self.0.compare_exchange(WAITING, GIVEN_UP, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

impl Drop for Withdrawal {
    fn drop(&mut self) {
        self.withdraw();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What an act of this kind costs.
    fn act(&self, priority: Priority) -> Duration {
        if priority == Priority::License { self.license.get() } else { self.bulk.get() }
    }

    /// What those in the queue cost whom an act of this kind has to wait for.
    fn turns(&self, queue: &Queue, priority: Priority) -> Duration {
        let all = |jobs: &VecDeque<Job>, act: Duration| act * u32::try_from(jobs.len()).unwrap_or(u32::MAX);
        let bulk = if priority == Priority::License { Duration::ZERO } else { all(&queue.bulk, self.bulk.get()) };
        (all(&queue.license, self.license.get()) + bulk) / self.threads
    }

    fn is_free(&self, queue: &Queue) -> bool {
        queue.running + queue.license.len() + queue.bulk.len() < self.threads as usize
    }

    /// Nothing while a thread is free, whatever the average says: it may be stale. Otherwise a job waits for those ahead
    /// and, on average, half an act.
    fn expected_wait(&self, queue: &Queue, priority: Priority) -> Duration {
        if self.is_free(queue) { Duration::ZERO } else { self.turns(queue, priority) + self.act(priority) / 2 }
    }

    /// Queues a job, or refuses at once what would wait longer than it may.
    fn admit(&self, job: Job) -> Result<(), LaneError> {
        let priority = job.priority;
        let mut queue = self.lock();
        if queue.closed {
            return Err(LaneError::Closed);
        }
        let waiting = queue.license.len() + queue.bulk.len();
        let free = self.is_free(&queue);
        // A job that waits takes an act itself, too.
        let need = if free { Duration::ZERO } else { self.expected_wait(&queue, priority) + self.act(priority) };
        let remaining = job.deadline.saturating_duration_since(Instant::now());
        if remaining.is_zero() || need > remaining || !free && waiting >= self.depth_max {
            return Err(LaneError::Busy { retry_after: self.turns(&queue, Priority::Bulk) + self.act(priority) });
        }
        match priority {
            Priority::License => queue.license.push_back(job),
            Priority::Bulk | Priority::Upkeep => queue.bulk.push_back(job),
        }
        drop(queue);
        self.arrived.notify_one();
        Ok(())
    }

    /// The life of one thread.
    fn work(&self, token: &dyn Token) {
        let mut queue = self.lock();
        loop {
            let Some(job) = queue.license.pop_front().or_else(|| queue.bulk.pop_front()) else {
                if queue.closed {
                    return;
                }
                queue = self.arrived.wait(queue).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            queue.running += 1;
            drop(queue);
            self.perform(job, token);
            queue = self.lock();
            queue.running -= 1;
        }
    }

    fn perform(&self, job: Job, token: &dyn Token) {
        let begin = Instant::now();
        if begin >= job.deadline
            || job.started.compare_exchange(WAITING, TAKEN, Ordering::AcqRel, Ordering::Acquire).is_err()
        {
            return;
        }
        let done = (job.act)(token);
        match job.priority {
            Priority::License if done => self.license.add(begin.elapsed()),
            Priority::Bulk if done => self.bulk.add(begin.elapsed()),
            _ => {}
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::key::{Hash, KeyId, PublicKey};
    use crate::secret::Secret;
    use crate::token::{Description, Generate, Generated, KeyRef, Padding};

    /// No device: these tests are about the lane.
    struct NoToken;

    const NO: Failure =
        Failure { class: Class::Unsupported, outcome: Outcome::Refused, function: "none", code: String::new() };

    impl Token for NoToken {
        fn describe(&self) -> Result<Description, Failure> {
            Err(NO)
        }
        fn generate(&self, _: &Generate) -> Result<Generated, Failure> {
            Err(NO)
        }
        fn public_key(&self, _: KeyId) -> Result<PublicKey, Failure> {
            Err(NO)
        }
        fn sign(&self, _: &KeyRef, _: Hash, _: &[u8]) -> Result<Vec<u8>, Failure> {
            Err(NO)
        }
        fn decrypt(&self, _: &KeyRef, _: Padding, _: &[u8]) -> Result<Secret, Failure> {
            Err(NO)
        }
    }

    fn lane(threads: usize, queue_depth_max: usize) -> Arc<Lane> {
        Arc::new(Lane::start(Arc::new(NoToken), threads, queue_depth_max).unwrap())
    }

    fn within(ms: u64) -> Instant {
        Instant::now() + Duration::from_millis(ms)
    }

    /// Holds the lane's only thread until the sender is dropped.
    async fn block(lane: &Arc<Lane>) -> mpsc::SyncSender<()> {
        let (release, held) = mpsc::sync_channel::<()>(1);
        let (begun, has_begun) = oneshot::channel();
        let lane = Arc::clone(lane);
        tokio::spawn(async move {
            lane.run(within(60_000), move |_| {
                begun.send(()).unwrap();
                let _ = held.recv();
                Ok(())
            })
            .await
        });
        has_begun.await.unwrap();
        release
    }

    #[tokio::test]
    async fn a_full_queue_refuses_at_once() {
        let lane = lane(1, 1);
        let release = block(&lane).await;
        let queued = tokio::spawn({
            let lane = Arc::clone(&lane);
            async move { lane.run(within(60_000), |_| Ok(1)).await }
        });
        while lane.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        let refused = lane.run(within(60_000), |_| Ok(2)).await.unwrap_err();
        assert!(matches!(refused, LaneError::Busy { .. }), "{refused:?}");
        drop(release);
        assert_eq!(queued.await.unwrap(), Ok(1));
    }

    #[tokio::test]
    async fn an_act_whose_deadline_passes_in_the_queue_never_starts() {
        let lane = lane(1, 8);
        let release = block(&lane).await;
        let (touched, was_touched) = mpsc::sync_channel(64);
        let expired = lane.run(within(20), move |_| touched.send(()).map_err(|_| NO)).await;
        assert_eq!(expired, Err(LaneError::Expired));
        assert_eq!(LaneError::Expired.outcome(), Outcome::Refused);
        drop(release);
        assert_eq!(lane.run(within(60_000), |_| Ok(3)).await, Ok(3));
        assert!(was_touched.try_recv().is_err());
    }

    #[tokio::test]
    async fn an_act_that_outlasts_its_deadline_has_an_unknown_outcome() {
        let lane = lane(1, 8);
        let (release, held) = mpsc::sync_channel::<()>(1);
        let late = lane.run(within(20), move |_| held.recv().map_err(|_| NO)).await;
        assert_eq!(late, Err(LaneError::Late));
        assert_eq!(LaneError::Late.outcome(), Outcome::Unknown);
        drop(release);
    }

    #[tokio::test]
    async fn a_deadline_that_the_queue_cannot_meet_is_refused_at_once() {
        let lane = lane(1, 64);
        for _ in 0..3 {
            let slow = lane.run(within(60_000), |_| {
                std::thread::sleep(Duration::from_millis(30));
                Ok(())
            });
            slow.await.unwrap();
        }
        let release = block(&lane).await;
        let begin = Instant::now();
        let refused = lane.run(within(10), |_| Ok(())).await.unwrap_err();
        assert!(matches!(refused, LaneError::Busy { .. }) && begin.elapsed() < Duration::from_millis(10));
        drop(release);
    }

    #[tokio::test]
    async fn what_fails_and_what_the_device_needs_itself_refuses_nobody_afterwards() {
        let lane = lane(1, 64);
        let slow = |_: &dyn Token| {
            std::thread::sleep(Duration::from_millis(300));
            Ok(())
        };
        lane.run_as(Priority::Upkeep, within(60_000), slow).await.unwrap();
        lane.run_as(Priority::Bulk, within(60_000), slow).await.unwrap();
        lane.run(within(60_000), move |token| slow(token).and(Err::<(), _>(NO))).await.unwrap_err();
        let release = block(&lane).await;
        // It waits for what it may hope for, and not for three hundred milliseconds that no license has ever taken.
        assert_eq!(lane.run(within(20), |_| Ok(())).await, Err(LaneError::Expired));
        drop(release);
    }

    #[tokio::test]
    async fn licenses_go_before_bulk() {
        let lane = lane(1, 8);
        let release = block(&lane).await;
        let (order, seen) = mpsc::sync_channel(64);
        let mut tasks = Vec::new();
        for (n, priority) in [Priority::Bulk, Priority::License].into_iter().enumerate() {
            let (lane_again, order) = (Arc::clone(&lane), order.clone());
            tasks.push(tokio::spawn(async move {
                lane_again.run_as(priority, within(60_000), move |_| order.send(priority).map_err(|_| NO)).await
            }));
            while lane.waiting() <= n {
                tokio::task::yield_now().await;
            }
        }
        drop(release);
        for task in tasks {
            task.await.unwrap().unwrap();
        }
        assert_eq!(seen.try_iter().collect::<Vec<_>>(), [Priority::License, Priority::Bulk]);
    }

    #[tokio::test]
    async fn a_panicking_act_does_not_take_the_lane_with_it() {
        let lane = lane(1, 8);
        let failed = lane.run::<()>(within(60_000), |_| panic!("an act of this test panics")).await.unwrap_err();
        assert_eq!(failed.outcome(), Outcome::Unknown);
        assert_eq!(lane.run(within(60_000), |_| Ok(4)).await, Ok(4));
    }

    #[tokio::test]
    async fn a_caller_that_goes_away_takes_a_waiting_act_back() {
        let lane = lane(1, 8);
        let release = block(&lane).await;
        let (touched, was_touched) = mpsc::sync_channel(64);
        let waiting = tokio::spawn({
            let lane = Arc::clone(&lane);
            async move { lane.run(within(60_000), move |_| touched.send(()).map_err(|_| NO)).await }
        });
        while lane.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        waiting.abort();
        let _ = waiting.await;
        drop(release);
        assert_eq!(lane.run(within(60_000), |_| Ok(5)).await, Ok(5));
        assert!(was_touched.try_recv().is_err());
    }

    #[tokio::test]
    async fn a_closed_lane_finishes_its_queue_and_takes_nothing_more() {
        let lane = lane(1, 8);
        let release = block(&lane).await;
        let queued = tokio::spawn({
            let lane = Arc::clone(&lane);
            async move { lane.run(within(60_000), |_| Ok(6)).await }
        });
        while lane.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        let closing = std::thread::spawn({
            let lane = Arc::clone(&lane);
            move || lane.close()
        });
        drop(release);
        closing.join().unwrap();
        assert_eq!(queued.await.unwrap(), Ok(6));
        assert_eq!(lane.run(within(60_000), |_| Ok(7)).await, Err(LaneError::Closed));
    }
}
