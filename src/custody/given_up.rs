//! Logs of other instances that are not what was signed over them: no start goes by them before a person gives them up. The
//! objects whose last change stands in such a log are taken as they are then, by that person's word, or nobody could use
//! them any more.

use crate::audit::chain::{ChainHash, Head};
use crate::audit::note::Note;
use crate::audit::record::{Event, brief};
use crate::custody::vouch::{self, Beside};
use crate::custody::{Custody, Standing};
use crate::error::{Error, Reason, Result};
use crate::policy::Permit;
use crate::store::{Batch, Claimed, Kind, Object, Seen, Store, Write};

/// Objects that are read, or recorded, at a time.
const PAGE: usize = 500;
/// Other logs that were ever seen, which are looked through.
const LOGS_MAX: u32 = 1000;
/// What to do if objects change while they are taken.
const STOP: &str = "stop the instance whose log is given up, then say it once more: keyward audit re-anchor";

/// A log that is to be given up.
#[derive(Debug)]
pub struct GivenUp {
    /// The log.
    pub log: Head,
    /// What is wrong with it.
    pub why: Error,
    objects: Vec<(Kind, Object)>,
}

impl GivenUp {
    /// The logs of a store that must be given up before an instance starts on it, or that were and have objects that stand
    /// by them still. Writes nothing.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn needed(store: &dyn Store) -> Result<Vec<Self>> {
        let own = store.head().log;
        let mut needed = Vec::new();
        // First those that count, so that it shows what does not.
        let heads = store.heads().await?;
        for log in heads.iter().filter(|head| head.log != own).cloned() {
            let beside = Beside::of(store, &log.log).await?;
            let why = if beside.is_given_up() {
                let words = format!("log {} was given up, and some objects stand by it still", log.log);
                Error::new(Reason::ObjectAltered, words)
            } else {
                match vouch::by_seen(store, &log, &beside).await {
                    Err(fault) if vouch::contradicts(&fault) => fault,
                    looked => {
                        looked?;
                        continue;
                    }
                }
            };
            needed.push(GivenUp { log, why, objects: Vec::new() });
        }
        // One whose end is gone has left records, it may be, and objects that stand by them.
        let of_others = Seen::name(&own, "");
        for row in store.rows(Kind::Beside, &of_others, LOGS_MAX).await? {
            let Some(log) = row.name.strip_prefix(&of_others) else { break };
            if heads.iter().any(|head| head.log == log) {
                continue;
            }
            match store.get(Kind::Beside, &row.name).await {
                // Of a log that was never seen to count, nothing is taken.
                Err(fault) if fault.reason() == Reason::ObjectAltered => continue,
                seen => seen?,
            };
            let why = Error::new(Reason::LogMissing, format!("log {log} is no longer in the store"));
            needed.push(GivenUp { log: Head::empty(log), why, objects: Vec::new() });
        }
        for lost in &mut needed {
            lost.objects = standing_by(store, &lost.log.log).await?;
        }
        let stands = |lost: &GivenUp| !matches!(lost.why.reason(), Reason::ObjectAltered | Reason::LogMissing);
        needed.retain(|lost| stands(lost) || !lost.objects.is_empty());
        Ok(needed)
    }

    /// The objects that stand by it, each with the name of its kind.
    pub fn taken(&self) -> impl Iterator<Item = (&'static str, &Object)> {
        self.objects.iter().map(|(kind, object)| (kind.name(), object))
    }

    /// SHA-256, in hexadecimal, over which objects stand by the log, and as what.
    #[must_use]
    pub fn digest(&self) -> String {
        let line = |(kind, object): &(Kind, Object)| {
            format!("{} {} {} {}\n", kind.name(), object.name, object.version, ChainHash::of(&object.body))
        };
        ChainHash::of(self.objects.iter().map(line).collect::<String>().as_bytes()).to_string()
    }

    /// Its end, as records speak of it.
    fn words(&self) -> String {
        let (log, count) = (&self.log.log, self.objects.len());
        format!("log {log} is given up, and {count} objects that stood by it are taken as they are: {}", self.why)
    }
}

/// The objects whose last change a log speaks of that does not count, as they stand; how tokens do, with all that holds
/// them back.
async fn standing_by(store: &dyn Store, log: &str) -> Result<Vec<(Kind, Object)>> {
    let mut objects = Vec::new();
    // What that log knows of others is nobody else's.
    for kind in Kind::ALL.iter().filter(|kind| **kind != Kind::Beside) {
        let mut after = String::new();
        loop {
            let page = store.rows(*kind, &after, u32::try_from(PAGE).unwrap_or(u32::MAX)).await?;
            let Some(last) = page.last() else { break };
            after.clone_from(&last.name);
            for row in page {
                match store.claimed(*kind, &row.name).await {
                    Ok(Some(Claimed { object, by: Some(claim) })) if claim.log == log => {
                        let body = match kind {
                            Kind::Token => Write::new(*kind, "", 0, &Standing::of(store, &object.name).await?.0)?.body,
                            _ => object.body.clone(),
                        };
                        objects.push((*kind, Object { body, ..object }));
                    }
                    Ok(_) => {}
                    // A row that is not what any record says is not taken by anybody's word.
                    Err(fault) if fault.reason() == Reason::ObjectAltered => {}
                    Err(fault) => return Err(fault),
                }
            }
        }
    }
    Ok(objects)
}

impl Custody {
    /// Goes on from the store as it is, though it does not continue what was signed before, or has logs that are not what
    /// was signed: records what is given up and who said so, takes the objects that stood by those logs as they are, and
    /// signs the whole log anew.
    ///
    /// # Errors
    /// As [`Custody::checkpoint`]; `STORE_CONFLICT` if an object was changed since it was looked at.
    pub async fn re_anchor(&self, permit: Permit, why: &Error, anchor: String, given_up: &[GivenUp]) -> Result<Note> {
        let words = given_up.iter().map(GivenUp::words);
        let message: Vec<String> = std::iter::once(why.message().to_owned()).chain(words).collect();
        let event = Event::ReAnchored {
            caller: permit.caller().note(),
            rule: permit.rule().to_owned(),
            agreed: "one local operator; nobody else was asked".to_owned(),
            reason: why.reason().code().to_owned(),
            message: brief(&message.join("; ")),
            anchor,
        };
        let store = self.store.as_ref();
        let mut writes = Vec::new();
        for lost in given_up {
            writes.extend(Beside::of(store, &lost.log.log).await?.given_up()?);
        }
        store.commit(Batch { writes, events: vec![event] }).await?;
        let objects: Vec<&(Kind, Object)> = given_up.iter().flat_map(|lost| &lost.objects).collect();
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
        }
        self.sign_anew().await
    }
}
