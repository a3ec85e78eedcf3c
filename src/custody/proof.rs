//! The values that prove each step of an act. Each is made by one step and spent by the next; none can be copied.

use std::sync::Arc;
use std::time::Duration;

use crate::audit::record::{ActNote, Event, OutcomeNote};
use crate::clock;
use crate::error::{Error, Fault, Reason, Result};
use crate::policy::Permit;
use crate::store::{Batch, Store, Write};

/// How far the clock may stand before the last record, in seconds.
const CLOCK_BEHIND_S_MAX: i64 = 60;

/// A durable record that an act is about to be done.
#[derive(Debug)]
pub struct Intent {
    seq: u64,
}

impl Intent {
    /// Spends the permit: records what will be done, by whom and why it may be.
    ///
    /// # Errors
    /// `CLOCK_BEHIND`; those of the store. The token was not asked then.
    pub(super) async fn open(store: &dyn Store, permit: Permit, act: ActNote) -> Result<Self> {
        let behind_s = (store.head().time_us - clock::now_us()) / 1_000_000;
        if behind_s > CLOCK_BEHIND_S_MAX {
            return Err(Error::new(
                Reason::ClockBehind,
                format!("this machine's clock is {behind_s} s before the last record of the log"),
            )
            .hint("set the clock right; nothing is signed until then"));
        }
        let event = Event::Intent { caller: permit.caller().note(), rule: permit.rule().to_owned(), act };
        store.commit(Batch::event(event)).await.map(|seq| Intent { seq })
    }

    /// An intent that an earlier run left open.
    pub(super) fn left_open(seq: u64) -> Self {
        Intent { seq }
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
    result: Result<Verified<T>>,
) -> Result<Recorded<T>> {
    let (note, writes, answer) = match result {
        Ok(Verified { value, result, writes }) => (OutcomeNote::Done { result }, writes, Ok(Recorded(value))),
        Err(fault) => (failed(&fault), Vec::new(), Err(fault)),
    };
    let event = Event::Outcome { intent: intent.seq, result: note };
    match store.commit(Batch { writes, events: vec![event] }).await {
        Ok(_) => answer,
        Err(fault) => {
            close_later(Arc::clone(store), intent, fault.clone());
            Err(fault)
        }
    }
}

fn failed(fault: &Error) -> OutcomeNote {
    let reason = fault.reason().code().to_owned();
    let mut message = fault.message().to_owned();
    if let Some(detail) = fault.private_detail() {
        message = format!("{message} ({detail})");
    }
    match fault.reason() {
        Reason::TokenUnknown | Reason::Internal => OutcomeNote::Unknown { reason, message },
        _ => OutcomeNote::Refused { reason, message },
    }
}

/// Closes an intent whose outcome could not be recorded, as soon as the store is back. What the token gave is gone
/// by then, so the outcome says that nothing was released.
fn close_later(store: Arc<dyn Store>, intent: Intent, why: Error) {
    const AGAIN_MS: u64 = 500;
    tokio::spawn(async move {
        let result = OutcomeNote::Unknown {
            reason: why.reason().code().to_owned(),
            message: "the outcome could not be recorded in time; nothing was released".to_owned(),
        };
        loop {
            tokio::time::sleep(Duration::from_millis(AGAIN_MS)).await;
            let event = Event::Outcome { intent: intent.seq, result: result.clone() };
            match store.commit(Batch::event(event)).await {
                Ok(_) => return,
                // Start-up closes what is still open when the store itself is closed.
                Err(fault) if fault.fault() != Fault::Store || fault.message().contains("closed") => return,
                Err(_) => {}
            }
        }
    });
}
