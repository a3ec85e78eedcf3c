//! The other logs of the same store: this log tells when one of them is opened or closed, so that none is gone without a
//! trace.

use crate::audit::chain::ChainHash;
use crate::audit::record::{Event, Record};
use crate::custody::Custody;
use crate::error::{Error, Reason, Result};
use crate::store::Batch;

/// Openings and closings of one log between two looks, of which this one tells at most.
const TURNS_MAX: u32 = 100;

impl Custody {
    /// Records which other logs were opened and closed since the last look, and at the first look how each stands. To be
    /// called every second or so. A log that was there and is not, or got shorter, ends all acts with keys.
    ///
    /// # Errors
    /// `LOG_MISSING`, `STORE_REWOUND`; those of the store.
    pub async fn tell_of_others(&self) -> Result<()> {
        let mut told = self.ledger.told.lock().await;
        let heads = self.store.heads().await?;
        let first = told.is_none();
        let told = told.get_or_insert_default();
        for (log, next) in told.iter() {
            let fault = match heads.iter().find(|head| head.log == *log) {
                None => Error::new(Reason::LogMissing, format!("log {log} is no longer in the store")),
                Some(head) if head.size < *next => {
                    let words = format!("log {log} ends after {} records; {next} were there", head.size);
                    Error::new(Reason::StoreRewound, words)
                }
                Some(_) => continue,
            };
            let fault = fault.hint("find out who wrote to the database, and bring it back from a backup");
            self.ledger.halt(&fault);
            return Err(fault);
        }
        let own = self.store.head().log;
        let mut events = Vec::new();
        let mut nexts = Vec::new();
        for head in heads.into_iter().filter(|head| head.log != own) {
            let next = told.get(&head.log).copied();
            if next == Some(head.size) {
                continue;
            }
            // Of what was before this run it is enough to tell how it stands; of a log that begins later, all.
            let most = if first { 1 } else { TURNS_MAX };
            let turns = self.store.turns(&head.log, next.unwrap_or(0), most).await?;
            let mut end = head.size;
            for bytes in turns {
                let (seq, event) = turn(&bytes)?;
                end = end.max(seq + 1);
                events.push(event);
            }
            nexts.push((head.log, end));
        }
        if !events.is_empty() {
            self.store.commit(Batch { writes: Vec::new(), events }).await?;
        }
        told.extend(nexts);
        Ok(())
    }
}

/// What this log tells of a record of another one.
fn turn(bytes: &[u8]) -> Result<(u64, Event)> {
    let record = Record::read(bytes)?;
    let state = match record.event {
        Event::LogOpened { .. } => "opened",
        Event::LogClosed {} => "closed",
        _ => return Err(Error::new(Reason::RecordBroken, "a record that opens or closes no log")),
    };
    let event = Event::OtherLog {
        log: record.log,
        state: state.to_owned(),
        seq: record.seq,
        sha256: ChainHash::of(bytes).to_string(),
    };
    Ok((record.seq, event))
}
