//! What a person gives up, so that an instance goes on from a store that is not what was signed: the past of its own log, and
//! logs of other instances. The objects whose last change is lost so are taken as they are then, by that person's word, or
//! nobody could use them any more.

use crate::audit::chain::{ChainHash, Head};
use crate::audit::form::NUMBER_MAX;
use crate::audit::note::Note;
use crate::audit::record::{Event, brief};
use crate::custody::vouch::{self, Beside, Stands};
use crate::custody::{Custody, LogFiles, Standing};
use crate::error::{Error, Reason, Result};
use crate::faultpoint;
use crate::policy::Permit;
use crate::store::{Batch, Claimed, Kind, Object, Store, Write};

/// Objects that are read, or recorded, at a time.
const PAGE: usize = 500;
/// What to do if objects change while they are taken.
const STOP: &str = "stop every other instance, then say it once more: keyward audit re-anchor";

/// What is lost of what was signed, and what is taken by who goes on without it.
#[derive(Debug)]
pub struct Loss {
    /// What is wrong.
    pub why: Error,
    /// Logs of other instances that are given up.
    pub logs: Vec<GivenUp>,
    /// Objects that stand in the store as no record tells of them: whatever did is lost, or there never was such a record.
    pub unrecorded: Taken,
}

/// A log that is to be given up.
#[derive(Debug)]
pub struct GivenUp {
    /// The log; an empty one if it is gone.
    pub log: Head,
    /// What is wrong with it.
    pub why: Error,
    /// The objects whose last change only it tells of.
    pub objects: Taken,
}

/// Objects that are taken as they stand.
#[derive(Debug, Default)]
pub struct Taken(Vec<(Kind, Object)>);

impl Taken {
    /// The objects, each with the name of its kind.
    pub fn objects(&self) -> impl Iterator<Item = (&'static str, &Object)> {
        self.0.iter().map(|(kind, object)| (kind.name(), object))
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Loss {
    /// What must be given up before an instance starts on a store; none if nothing is. Writes nothing.
    ///
    /// # Errors
    /// Whatever no new anchor helps against; those of the store.
    pub async fn of(store: &dyn Store, files: &LogFiles) -> Result<Option<Self>> {
        let (named, told) = files.named(store).await?;
        let own = files.check_own(store, &told).await.err();
        if let Some(fault) = &own {
            let is_own = files.read_trust()?.is_some_and(|trust| trust.log() == store.head().log);
            let helps = matches!(
                fault.reason(),
                Reason::StoreRewound
                    | Reason::StoreForked
                    | Reason::LogMissing
                    | Reason::AnchorInvalid
                    | Reason::CheckpointBroken
            );
            if !is_own || !helps {
                return Err(fault.clone());
            }
        }
        let (mut logs, mut before) = (Vec::new(), Vec::new());
        // First those that count, so that it shows what does not.
        for log in vouch::by_seen(store, &named).await? {
            let words = || format!("log {} was given up, and some objects stand by it still", log.head.log);
            let (list, why) = match log.stands {
                Stands::Good(_) => continue,
                Stands::Wrong(fault) => (&mut logs, fault),
                Stands::GivenUp if named.contains(&log.head.log) => (&mut logs, vouch::unfinished(&log.head.log)),
                Stands::GivenUp => (&mut before, Error::new(Reason::ObjectAltered, words())),
            };
            list.push(GivenUp { log: log.head, why, objects: Taken::default() });
        }
        if own.is_none() && logs.is_empty() && before.is_empty() {
            return Ok(None);
        }
        let wrong = logs.len();
        logs.append(&mut before);
        let unrecorded = stand_by(store, &mut logs).await?;
        let before = logs.split_off(wrong);
        logs.extend(before.into_iter().filter(|lost| !lost.objects.is_empty()));
        let why = own.or_else(|| logs.first().map(|lost| lost.why.clone()));
        Ok(why.map(|why| Loss { why, logs, unrecorded }))
    }

    /// All that is taken: of each log, then what no record tells of.
    fn taken(&self) -> impl Iterator<Item = (&str, &(Kind, Object))> {
        let logs = self.logs.iter().map(|lost| (lost.log.log.as_str(), &lost.objects));
        logs.chain([("-", &self.unrecorded)]).flat_map(|(log, taken)| taken.0.iter().map(move |object| (log, object)))
    }

    /// Whether a device is among what no record tells of: that is held back.
    #[must_use]
    pub fn holds_back(&self) -> bool {
        self.unrecorded.0.iter().any(|(kind, _)| *kind == Kind::Token)
    }

    /// How many objects are taken, and the first 128 bits of SHA-256, in hexadecimal, over which they are and as what: for
    /// the words by which a person takes them, and for the record of that.
    #[must_use]
    pub fn taking(&self) -> String {
        let line = |(log, (kind, object)): (&str, &(Kind, Object))| {
            format!("{log} {} {} {} {}\n", kind.name(), object.name, object.version, ChainHash::of(&object.body))
        };
        let lines: Vec<String> = self.taken().map(line).collect();
        let digest = ChainHash::of(lines.concat().as_bytes()).to_string();
        format!("{} objects {}", lines.len(), &digest[..32])
    }

    /// The same as records speak of it.
    fn words(&self) -> String {
        let own = format!("{}; taken as they stand: {}", self.why.message(), self.taking());
        let logs = self.logs.iter().map(|GivenUp { log, why, .. }| format!("; log {} is given up: {why}", log.log));
        brief(&[own].into_iter().chain(logs).collect::<String>())
    }
}

/// Finds the objects whose last change these logs speak of, which do not count, and gives those of which no record speaks:
/// as they stand; how tokens do, with all that holds them back.
async fn stand_by(store: &dyn Store, logs: &mut [GivenUp]) -> Result<Taken> {
    let mut unrecorded = Taken::default();
    // What a log knows of others is nobody else's.
    for kind in Kind::ALL.iter().filter(|kind| **kind != Kind::Beside) {
        let mut after = String::new();
        loop {
            let page = store.rows(*kind, &after, u32::try_from(PAGE).unwrap_or(u32::MAX)).await?;
            let Some(last) = page.last() else { break };
            after.clone_from(&last.name);
            for row in page {
                let (object, claim) = match store.claimed(*kind, &row.name).await {
                    Ok(Some(Claimed { object, by: Some(claim) })) => (object, claim),
                    Ok(_) => continue,
                    // A row that some record contradicts is not taken by anybody's word.
                    Err(fault) if fault.reason() == Reason::ObjectAltered => continue,
                    Err(fault) => return Err(fault),
                };
                let taken = match &claim.log {
                    None => &mut unrecorded,
                    Some(log) => match logs.iter_mut().find(|lost| lost.log.log == *log) {
                        Some(lost) => &mut lost.objects,
                        None => continue,
                    },
                };
                let body = match kind {
                    Kind::Token => Write::new(*kind, "", 0, &Standing::of(store, &object.name).await?.0)?.body,
                    _ => object.body.clone(),
                };
                taken.0.push((*kind, Object { body, ..object }));
            }
        }
    }
    Ok(unrecorded)
}

impl Custody {
    /// Goes on from the store as it is, though it does not continue what was signed before, or has logs that are not what
    /// was signed: records what is given up and who said so, takes the objects that stood by that as they are, and signs
    /// the whole log anew. If it is broken off, what is left of it is to be decided once more.
    ///
    /// # Errors
    /// As [`Custody::checkpoint`]; `STORE_CONFLICT` if an object was changed since it was looked at.
    pub async fn re_anchor(&self, permit: Permit, anchor: String, loss: &Loss) -> Result<Note> {
        let store = self.store.as_ref();
        // Nothing is recorded that could not be signed.
        let (from, size) = (self.trust()?.from(), store.head().size);
        if from > size {
            let words = format!("audit.trust names a key that signs from {from} records on, and the store has {size}");
            return Err(Error::new(Reason::ConfigInvalid, words)
                .hint("bring back the audit.trust of the time of the store, from the same backup"));
        }
        let last = store.checkpoints_before(&store.head().log, u64::MAX, 1).await?.pop();
        let checkpoints = last.map_or(0, |(place, _)| place + 1);
        if checkpoints > NUMBER_MAX {
            let words = format!("the store has a checkpoint at place {}, where none was ever put", checkpoints - 1);
            return Err(
                Error::new(Reason::CheckpointBroken, words).hint("find out who wrote to the database; remove it")
            );
        }
        let event = Event::ReAnchored {
            caller: permit.caller().note(),
            rule: permit.rule().to_owned(),
            agreed: "one local operator; nobody else was asked".to_owned(),
            reason: loss.why.reason().code().to_owned(),
            message: loss.words(),
            anchor,
            checkpoints: Some(checkpoints),
        };
        faultpoint::reach("before-record", "re-anchor").await;
        store.commit(Batch::event(event)).await?;
        faultpoint::reach("after-record", "re-anchor").await;
        let objects: Vec<&(Kind, Object)> = loss.taken().map(|(_, object)| object).collect();
        for page in objects.chunks(PAGE) {
            let mut writes = Vec::new();
            for (kind, Object { name, version, body }) in page {
                // This run has logged in to its devices, and recorded how they stand.
                if *kind == Kind::Token && Standing::of(store, name).await?.1 != *version {
                    continue;
                }
                writes.push(Write { kind: *kind, name: name.clone(), over: *version, body: body.clone() });
            }
            store.commit(Batch { writes, events: Vec::new() }).await.map_err(|fault| match fault.reason() {
                Reason::StoreConflict => fault.hint(STOP),
                _ => fault,
            })?;
            faultpoint::reach("after-taken", "re-anchor").await;
        }
        // Until then it is as much lost as it was, and all that is left of it is shown again.
        let mut writes = Vec::new();
        for lost in &loss.logs {
            // If what was seen of it is gone too, it does not count.
            if let Some(beside) = Beside::to_write(store, &lost.log.log).await? {
                writes.extend(beside.given_up()?);
            }
        }
        store.commit(Batch { writes, events: Vec::new() }).await?;
        faultpoint::reach("after-given-up", "re-anchor").await;
        self.sign_anew().await
    }
}
