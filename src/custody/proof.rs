//! The values that prove each step of an act. Each is made by one step and spent by the next; none can be copied.

use std::sync::Arc;
use std::time::Duration;

use crate::audit::record::{ActNote, Event, OutcomeNote, brief};
use crate::clock;
use crate::error::{Error, Reason, Result};
use crate::policy::Permit;
use crate::store::{Batch, Store, Write};
use crate::token::Outcome;

/// How far the clock may stand before the last record, in seconds.
const CLOCK_BEHIND_S_MAX: i64 = 60;

/// Requires that the clock has not run back behind the log.
///
/// # Errors
/// `CLOCK_BEHIND`.
pub(super) fn check_clock(store: &dyn Store) -> Result<()> {
    let behind_s = (store.head().time_us - clock::now_us()) / 1_000_000;
    if behind_s > CLOCK_BEHIND_S_MAX {
        return Err(Error::new(
            Reason::ClockBehind,
            format!("this machine's clock is {behind_s} s before the last record of the log"),
        )
        .hint("set the clock right; nothing is signed until then"));
    }
    Ok(())
}

/// A durable record that an act is about to be done.
#[derive(Debug)]
pub struct Intent {
    seq: u64,
}

impl Intent {
    /// Spends the permit: records what will be done, by whom and why it may be.
    ///
    /// # Errors
    /// Those of the store. The token was not asked then.
    pub(super) async fn open(store: &dyn Store, permit: Permit, act: ActNote) -> Result<Self> {
        let event = Event::Intent { caller: permit.caller().note(), rule: permit.rule().to_owned(), act };
        store.commit(Batch::event(event)).await.map(|seq| Intent { seq })
    }

    /// An intent that an earlier run left open.
    pub(super) fn left_open(seq: u64) -> Self {
        Intent { seq }
    }
}

/// An act that went wrong, and whether the token may have done it all the same.
#[derive(Debug)]
pub(super) struct Failed {
    error: Error,
    outcome: Outcome,
}

impl Failed {
    /// A failure of the token's lane.
    pub(super) fn asking(error: Error, outcome: Outcome) -> Self {
        Failed { error, outcome }
    }

    /// A failure after the token has done something: what it did stays done.
    pub(super) fn afterwards(self) -> Self {
        Failed { outcome: Outcome::Unknown, ..self }
    }

    /// What the device answered, if it failed because no replica shows the key.
    pub(super) fn key_missing(&self) -> Option<&str> {
        (self.error.reason() == Reason::KeyMissing).then(|| self.error.private_detail().unwrap_or_default())
    }

    /// The words.
    pub(super) fn error(self) -> Error {
        self.error
    }
}

/// What fails without the token failed before it was asked.
impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Failed { error, outcome: Outcome::Refused }
    }
}

/// What a token did, checked against what was recorded before it was asked.
#[derive(Debug)]
pub struct Verified<T> {
    value: T,
    result: String,
    writes: Vec<Write>,
}

impl<T> Verified<T> {
    /// Made by the functions of this room that check what came back.
    pub(super) fn new(value: T, result: String, writes: Vec<Write>) -> Self {
        Verified { value, result, writes }
    }
}

/// An outcome that is durable. Only from this can an answer be made.
#[derive(Debug)]
pub struct Recorded<T>(T);

impl<T> Recorded<T> {
    /// What may now be given to the caller.
    pub fn answer(self) -> T {
        self.0
    }
}

/// Closes an intent: records what became of it, with the objects that came of it. One function for acts that went
/// well, acts that failed, and acts that an earlier run left open.
///
/// # Errors
/// The act's failure, once it is recorded; those of the store otherwise, and then nothing is released.
pub(super) async fn close<T>(
    store: &Arc<dyn Store>,
    intent: Intent,
    result: Result<Verified<T>, Failed>,
) -> Result<Recorded<T>> {
    let (note, writes, answer) = match result {
        Ok(Verified { value, result, writes }) => (OutcomeNote::Done { result }, writes, Ok(Recorded(value))),
        Err(failed) => (failed.note(), Vec::new(), Err(failed.error)),
    };
    let event = Event::Outcome { intent: intent.seq, result: note };
    match store.commit(Batch { writes, events: vec![event] }).await {
        Ok(_) => answer,
        Err(fault) => {
            let lost = Failed::from(fault.clone()).afterwards().note();
            close_as(store, intent, lost, fault.reason() == Reason::StoreUnavailable).await;
            Err(fault)
        }
    }
}

impl Failed {
    fn note(&self) -> OutcomeNote {
        let reason = self.error.reason().code().to_owned();
        let mut message = brief(self.error.message());
        if let Some(detail) = self.error.private_detail() {
            message = format!("{message} ({})", brief(detail));
        }
        match self.outcome {
            Outcome::Unknown => OutcomeNote::Unknown { reason, message: format!("{message}; nothing was released") },
            Outcome::Refused => OutcomeNote::Refused { reason, message },
        }
    }
}

/// Closes an intent whose first outcome could not be recorded: at once if another writer was first, else as soon as the
/// store is back. What the token gave is gone by then. When the store is closed before that, the next start closes it.
async fn close_as(store: &Arc<dyn Store>, intent: Intent, result: OutcomeNote, later: bool) {
    const AGAIN_MS: u64 = 500;
    let store = Arc::clone(store);
    let closing = async move {
        loop {
            if later {
                tokio::time::sleep(Duration::from_millis(AGAIN_MS)).await;
            }
            // A commit that failed may have happened.
            match store.open_intents().await {
                Ok(open) if !open.contains(&intent.seq) => return,
                _ => {}
            }
            let event = Event::Outcome { intent: intent.seq, result: result.clone() };
            match store.commit(Batch::event(event)).await {
                Err(fault) if later && fault.reason() == Reason::StoreUnavailable => {}
                _ => return,
            }
        }
    };
    if later {
        tokio::spawn(closing);
    } else {
        closing.await;
    }
}
