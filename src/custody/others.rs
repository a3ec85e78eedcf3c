//! The other logs of the same store. One counts once its end is signed with an audit key that a token of this custody
//! shows: then this log tells when it is opened or closed, so that it is not gone without a trace, and its changes are
//! taken for true.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{PoisonError, RwLock};
use std::time::Instant;

use crate::audit::chain::{ChainHash, Head};
use crate::audit::checkpoint::{self, Checkpoint, OtherHead};
use crate::audit::note::{Note, VerifierKey};
use crate::audit::record::{Event, Record};
use crate::custody::missing::LOOK;
use crate::custody::vouch::{self, Beside, Newest};
use crate::custody::{Custody, KeyRecord};
use crate::error::{Error, Reason, Result};
use crate::faultpoint;
use crate::key::{KeyRole, PublicKey};
use crate::store::{Batch, Kind, Seen, Write};
use crate::token::Token;
use crate::token::lane::Priority;

/// Openings and closings of one log between two looks, of which this one tells at most.
const TURNS_MAX: u32 = 100;
/// Keys of instances that are looked through for one that signs.
const KEYS_MAX: u32 = 1000;
/// Logs of which it is looked up at a time what was seen of them.
const BESIDE_PAGE: u32 = 1000;
/// Keys of which one look asks a token: rows that say of one key where it is may be many.
const ASKS_MAX: usize = 8;
/// What the names of keys begin with that belong to no cluster.
const OF_INSTANCES: &str = "keys/";

/// Why a log does not count whose last checkpoint none of the keys that were seen has signed.
const NOT_SHOWN: &str = "no audit key of its own that a token of this custody shows now has signed its last checkpoint; a \
                         token that cannot be used shows none";

/// What is known of the other logs.
#[derive(Default)]
pub(super) struct Others {
    /// Held by whoever looks.
    looks: tokio::sync::Mutex<Looks>,
    /// Those that count.
    logs: RwLock<BTreeMap<String, Other>>,
    /// Those that a person is about to give up.
    passed_over: BTreeSet<String>,
}

#[derive(Default)]
struct Looks {
    /// Whether anybody has looked in this run.
    any: bool,
    /// Logs of which it was said that nothing more of them counts. The checkpoints before the last were looked through then.
    doubted: BTreeSet<String>,
    /// Up to where logs were followed when the store was opened.
    followed: Vec<Head>,
}

/// Another log that counts.
#[derive(Clone, Default)]
struct Other {
    /// Up to which place this log has told of its openings and closings.
    next: u64,
    /// Its last checkpoint that was looked at, and over how many records that is.
    note: String,
    signed: u64,
    /// Up to where its records were followed.
    end: Option<Head>,
    /// What was signed of it last in this log, and held against it.
    named: Option<OtherHead>,
}

/// What a look at the end of another log led to.
enum Vouched {
    /// It counts, and this is to be kept with what is told of it.
    As(Box<Other>, Option<Write>),
    /// It counts by what was signed of it before, and why not by more.
    AsBefore(Box<Other>, String),
    /// Not yet, and why.
    No(String),
}

/// What is signed of another log now.
enum SignedNow {
    /// By a key of that log: its checkpoint, and what is to be kept of the key.
    By(String, Checkpoint, Option<Write>),
    /// Nothing that counts, and why.
    Nothing(String),
}

impl Looks {
    /// Says once that nothing more of a log counts.
    fn doubt(&mut self, log: &str, counts: &str, why: &str) {
        if self.doubted.insert(log.to_owned()) {
            tracing::warn!("log {log} of the database {counts}: {why}");
        }
    }
}

impl Others {
    /// Whether a log counts.
    pub(super) fn count(&self, log: &str) -> bool {
        self.logs.read().unwrap_or_else(PoisonError::into_inner).contains_key(log)
    }

    /// Leaves these alone.
    pub(super) fn pass_over(&mut self, logs: BTreeSet<String>) {
        self.passed_over = logs;
    }

    /// Goes on from where logs were followed to.
    pub(super) fn follow_from(&mut self, ends: Vec<Head>) {
        self.looks.get_mut().followed = ends;
    }

    fn known(&self) -> BTreeMap<String, Other> {
        self.logs.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Custody {
    /// Records which other logs were opened and closed since the last look, and at the first look how each stands. To be
    /// called every second or so. A log that counted and is gone, got shorter or is not as it was signed ends all acts
    /// with keys.
    ///
    /// # Errors
    /// `LOG_MISSING`, `STORE_REWOUND`, `STORE_FORKED`, `CHECKPOINT_BROKEN`; those of the store.
    pub async fn tell_of_others(&self) -> Result<()> {
        let mut looks = self.ledger.others.looks.lock().await;
        let heads = self.store.heads().await?;
        let known = self.ledger.others.known();
        let counted = known.iter().map(|(log, Other { next, end, .. })| {
            let there = end.as_ref().map_or(*next, |end| end.size.max(*next));
            (log, there)
        });
        for (log, there) in counted.chain(looks.followed.iter().map(|end| (&end.log, end.size))) {
            match heads.iter().find(|head| head.log == *log) {
                None => {
                    let words = format!("log {log} is no longer in the store");
                    return Err(self.contradicted(Error::new(Reason::LogMissing, words)));
                }
                Some(head) if head.size < there => {
                    let words = format!("log {log} ends after {} records; {there} were there", head.size);
                    return Err(self.contradicted(Error::new(Reason::StoreRewound, words)));
                }
                Some(_) => {}
            }
        }
        let own = self.store.head().log;
        let mut batch = Batch::default();
        let mut others = known.clone();
        for head in heads.into_iter().filter(|head| head.log != own) {
            let before = known.get(&head.log);
            if before.is_some_and(|other| other.next == head.size && other.signed == head.size) {
                continue;
            }
            let vouched = self.vouch(&head, before, &looks).await.map_err(|fault| self.judged(fault))?;
            let mut other = match vouched {
                Vouched::As(other, keep) => {
                    looks.doubted.remove(&head.log);
                    batch.writes.extend(keep);
                    other
                }
                Vouched::AsBefore(other, why) => {
                    looks.doubt(&head.log, "counts as it did", &why);
                    others.insert(head.log, *other);
                    continue;
                }
                Vouched::No(why) => {
                    looks.doubt(&head.log, "does not count", &why);
                    continue;
                }
            };
            // Of what was before this run it is enough to tell how it stands; of a log that begins later, all.
            let most = if looks.any { TURNS_MAX } else { 1 };
            let turns = self.store.turns(&head.log, before.map_or(0, |other| other.next), most).await?;
            other.next = head.size;
            for bytes in turns {
                let (seq, event) = turn(&bytes)?;
                other.next = other.next.max(seq + 1);
                batch.events.push(event);
            }
            others.insert(head.log, *other);
        }
        if !batch.events.is_empty() || !batch.writes.is_empty() {
            self.store.commit(batch).await?;
            faultpoint::reach("after-told", "other-logs").await;
        }
        looks.any = true;
        *self.ledger.others.logs.write().unwrap_or_else(PoisonError::into_inner) = others;
        Ok(())
    }

    /// Looks whether another log counts: whether its last checkpoint is signed with a key that is known to be its, or that
    /// a token shows to be an audit key, and whether the log is what was signed. One that counted must continue what it
    /// was in any case: what that is no key is needed for.
    async fn vouch(&self, head: &Head, before: Option<&Other>, looks: &Looks) -> Result<Vouched> {
        let (store, log) = (self.store.as_ref(), &head.log);
        let followed = || looks.followed.iter().find(|end| end.log == *log).cloned();
        let mut other = before.cloned().unwrap_or_else(|| Other { end: followed(), ..Other::default() });
        // What it was, no key is needed for, and nothing that stands beside it.
        if let Some(known) = other.end.take() {
            other.end = Some(vouch::follow(store, known, head).await?);
        }
        let (mut keep, mut newest, mut doubt) = (None, None, None);
        if before.is_none() || store.last_checkpoint(log).await?.as_ref() != Some(&other.note) {
            let looks_back = !looks.doubted.contains(log);
            match self.signed_now(log, looks_back).await? {
                SignedNow::By(_, signed, _) if signed.size < other.signed => {
                    return Err(vouch::broken(log, &format!("one over {} records was there before", other.signed)));
                }
                SignedNow::By(text, ..) if text == other.note => doubt = Some(NOT_SHOWN.to_owned()),
                SignedNow::By(text, signed, write) => (newest, keep) = (Some((text, signed)), write),
                SignedNow::Nothing(why) if before.is_none() => return Ok(Vouched::No(why)),
                SignedNow::Nothing(why) => doubt = Some(why),
            }
        }
        if let (None, Some((_, signed))) = (&other.end, &newest) {
            other.end = Some(vouch::follow(store, vouch::signed_end(signed), head).await?);
        }
        if let Some((text, signed)) = newest {
            vouch::held(store, head, &signed).await?;
            (other.note, other.signed) = (text, signed.size);
        }
        // It may have been signed for behind the place up to which it was followed then.
        let named = self.signed_for(log);
        if let Some(named) = named.as_ref().filter(|named| other.named.as_ref() != Some(*named)) {
            vouch::had(store, named).await?;
        }
        other.named = named;
        Ok(match doubt {
            None => Vouched::As(Box::new(other), keep),
            Some(why) => Vouched::AsBefore(Box::new(other), why),
        })
    }

    /// What is signed of another log now with a key that is known to be its, or that a token shows: by its last checkpoint,
    /// or by an earlier one, if wanted.
    async fn signed_now(&self, log: &str, looks_back: bool) -> Result<SignedNow> {
        let (store, given_up) = (self.store.as_ref(), "a person has given it up");
        if self.ledger.others.passed_over.contains(log) {
            return Ok(SignedNow::Nothing(given_up.to_owned()));
        }
        let beside = Beside::of(store, log).await?;
        if beside.is_given_up() {
            return Ok(SignedNow::Nothing(given_up.to_owned()));
        }
        let (text, note, signed) = match beside.newest(store, log).await? {
            Newest::None(why) => return Ok(SignedNow::Nothing(why.to_owned())),
            Newest::Seen(text, signed) => return Ok(SignedNow::By(text, signed, None)),
            Newest::Unseen(text, note, signed) => (text, note, signed),
        };
        if let Some(key) = self.shown_key(&note, &signed).await? {
            return Ok(SignedNow::By(text, signed, Some(beside.with(&key)?)));
        }
        let older = if looks_back { beside.newest_seen(store, log).await? } else { None };
        Ok(match older {
            Some((text, signed)) => SignedNow::By(text, signed, None),
            None => SignedNow::Nothing(NOT_SHOWN.to_owned()),
        })
    }

    /// The audit key that signed a checkpoint of another log, if a token shows it. What the database says of keys is no
    /// more than where to look: nobody can write into the token who can write into the database. Keys that sign for this
    /// log countersign, and are never another's.
    async fn shown_key(&self, note: &Note, signed: &Checkpoint) -> Result<Option<VerifierKey>> {
        let trust = self.trust().ok();
        let own: Vec<_> = trust.iter().flat_map(|trust| trust.keys().map(VerifierKey::public_key)).collect();
        let mut asks = 0..ASKS_MAX;
        for row in self.store.rows(Kind::Key, OF_INSTANCES, KEYS_MAX).await? {
            let Ok(record) = row.read::<KeyRecord>() else { continue };
            if record.role != KeyRole::Audit || own.contains(&record.public) {
                continue;
            }
            let Ok(key) = VerifierKey::new(&checkpoint::origin(&signed.log), &record.public) else { continue };
            if Checkpoint::open(note, std::slice::from_ref(&key)).is_err() {
                continue;
            }
            let Ok(slot) = self.slot(&record.token) else { continue };
            if asks.next().is_none() {
                break;
            }
            // A row that says otherwise says nothing against the device.
            let wanted = record.in_token();
            let act = move |token: &dyn Token| Ok(token.public_key(wanted.id)? == wanted.public);
            let shown = slot.replicas.run(Priority::Bulk, Instant::now() + LOOK, act).await;
            slot.keep_changes(self.store.as_ref()).await;
            if shown.is_ok_and(|shown| shown.value) && !self.is_anothers(&signed.log, &record.public).await? {
                return Ok(Some(key));
            }
        }
        Ok(None)
    }

    /// Whether a key signs for another log than this one, as far as is known or as the last checkpoints say. Earlier
    /// versions countersigned the logs of strangers over the same text: such a line, with another name, makes no log that
    /// key's.
    async fn is_anothers(&self, log: &str, public: &PublicKey) -> Result<bool> {
        let own = self.store.head().log;
        let of_others = Seen::name(&own, "");
        let mut after = of_others.clone();
        loop {
            // As they stand: what a row that was altered says makes a key at most count less.
            let page = self.store.rows(Kind::Beside, &after, BESIDE_PAGE).await?;
            let rows: Vec<_> = page.iter().take_while(|row| row.name.starts_with(&of_others)).collect();
            let Some(last) = rows.last() else { break };
            after.clone_from(&last.name);
            let seen = rows.into_iter().filter(|row| row.name != Seen::name(&own, log));
            for seen in seen.filter_map(|row| row.read::<Seen>().ok()) {
                if seen.keys()?.iter().any(|key| key.public_key() == *public) {
                    return Ok(true);
                }
            }
        }
        for head in self.store.heads().await?.into_iter().filter(|head| head.log != log) {
            let Some(text) = self.store.last_checkpoint(&head.log).await? else { continue };
            let key = VerifierKey::new(&checkpoint::origin(&head.log), public)?;
            if text.parse::<Note>().is_ok_and(|note| Checkpoint::open(&note, &[key]).is_ok()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A failure to look at another log: if it is that of the log, no more acts in this run.
    pub(super) fn judged(&self, fault: Error) -> Error {
        if vouch::contradicts(&fault) { self.contradicted(fault) } else { fault }
    }

    /// The database contradicts what was known of another log: no more acts in this run.
    fn contradicted(&self, fault: Error) -> Error {
        let fault = fault.hint(vouch::RECOVER);
        self.ledger.halt(&fault);
        fault
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
