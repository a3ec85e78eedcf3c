//! Whether another log of the database counts: its newest checkpoint must be signed with a key that is known to be its,
//! and it must be what was signed.

use std::collections::BTreeSet;

use crate::audit::chain::{ChainHash, Head};
use crate::audit::checkpoint::{Checkpoint, OtherHead};
use crate::audit::note::{Note, VerifierKey};
use crate::error::{Error, Reason, Result};
use crate::store::{Kind, Seen, Store, Write, row};

/// Records, or checkpoints, that are read at a time.
const PAGE: u32 = 1000;
/// Checkpoints that are looked through for one by a key that was seen.
const BACK_MAX: u64 = 100_000;
/// What to do about a log that is not what it was.
pub(super) const RECOVER: &str = "find out who wrote to the database, and bring it back from a backup; if that log is lost, say so: \
                                 stop this instance, then: keyward audit re-anchor";

/// What this log has seen of another one.
pub(super) struct Beside {
    name: String,
    version: u64,
    seen: Seen,
}

/// The newest checkpoint of another log.
pub(super) enum Newest {
    /// There is none that says anything, and why.
    None(&'static str),
    /// A key that was seen before signed it: its text, and what it says.
    Seen(String, Checkpoint),
    /// Some other key did.
    Unseen(String, Note, Checkpoint),
}

impl Beside {
    /// What was seen of a log.
    ///
    /// # Errors
    /// `OBJECT_ALTERED` if it is not as it was recorded; those of the store.
    pub(super) async fn of(store: &dyn Store, log: &str) -> Result<Self> {
        let name = Seen::name(&store.head().log, log);
        match store.get(Kind::Beside, &name).await? {
            Some(object) => Ok(Beside { name, version: object.version, seen: object.read()? }),
            None => Ok(Beside { name, version: 0, seen: Seen::default() }),
        }
    }

    /// The same, and nothing where it is not as it was recorded, to be written over; none if there is no such row any more,
    /// though there was one.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) async fn to_write(store: &dyn Store, log: &str) -> Result<Option<Self>> {
        match Beside::of(store, log).await {
            Err(fault) if fault.reason() == Reason::ObjectAltered => {}
            known => return known.map(Some),
        }
        let name = Seen::name(&store.head().log, log);
        let row = row(store, Kind::Beside, &name).await?;
        Ok(row.map(|row| Beside { name, version: row.version, seen: Seen::default() }))
    }

    /// Takes a key that a token has shown; gives what is to be kept of that.
    ///
    /// # Errors
    /// Never.
    pub(super) fn with(mut self, key: &VerifierKey) -> Result<Write> {
        self.seen.keys.push(key.to_string());
        Write::new(Kind::Beside, &self.name, self.version, &self.seen)
    }

    /// Whether a person has given the log up.
    pub(super) fn is_given_up(&self) -> bool {
        self.seen.given_up
    }

    /// What is to be kept if a person gives the log up now.
    ///
    /// # Errors
    /// Never.
    pub(super) fn given_up(mut self) -> Result<Option<Write>> {
        if std::mem::replace(&mut self.seen.given_up, true) {
            return Ok(None);
        }
        Write::new(Kind::Beside, &self.name, self.version, &self.seen).map(Some)
    }

    /// The log's newest checkpoint.
    ///
    /// # Errors
    /// `CHECKPOINT_BROKEN` if it is not as a key that was seen signed it; those of the store.
    pub(super) async fn newest(&self, store: &dyn Store, log: &str) -> Result<Newest> {
        let Some(text) = store.last_checkpoint(log).await? else {
            if self.version > 0 {
                let words = format!("every checkpoint of log {log} is gone, and there were some");
                return Err(Error::new(Reason::CheckpointBroken, words));
            }
            return Ok(Newest::None("nothing was signed over it yet"));
        };
        let keys = self.seen.keys()?;
        let read = text.parse::<Note>().and_then(|note| Ok((note.text().parse::<Checkpoint>()?, note)));
        match read {
            Ok((signed, note)) if signed.log == *log => match Checkpoint::open(&note, &keys) {
                Ok(signed) => Ok(Newest::Seen(text, signed)),
                Err(_) if !note.names_one_of(&keys) => Ok(Newest::Unseen(text, note, signed)),
                Err(fault) => Err(broken(log, fault.message())),
            },
            _ if self.version > 0 => Err(broken(log, "it is none")),
            _ => Ok(Newest::None("its last checkpoint is none")),
        }
    }
}

impl Beside {
    /// The newest checkpoint that a key has signed which was seen before, where a later one does now: its instance may have
    /// changed its key since. Looks back over [`BACK_MAX`] of them at most.
    ///
    /// # Errors
    /// `CHECKPOINT_BROKEN` if it is not as that key signed it, or none is left; those of the store.
    pub(super) async fn newest_seen(&self, store: &dyn Store, log: &str) -> Result<Option<(String, Checkpoint)>> {
        let keys = self.seen.keys()?;
        if keys.is_empty() {
            return Ok(None);
        }
        let mut before = u64::MAX;
        for _ in 0..BACK_MAX / u64::from(PAGE) {
            let page = store.checkpoints_before(log, before, PAGE).await?;
            let Some((first, _)) = page.last() else {
                return Err(broken(log, "every one by a key that was seen is gone"));
            };
            before = *first;
            for (_, text) in page {
                let Ok(note) = text.parse::<Note>() else { continue };
                if note.names_one_of(&keys) {
                    let signed = Checkpoint::open(&note, &keys).map_err(|fault| broken(log, fault.message()))?;
                    return Ok((signed.log == *log).then_some((text, signed)));
                }
            }
        }
        Ok(None)
    }
}

/// How another log stands by what was seen of it before.
pub(super) struct BySeen {
    /// Its end; that of an empty log if it is gone.
    pub(super) head: Head,
    pub(super) stands: Stands,
}

/// How a log stands.
pub(super) enum Stands {
    /// It is as it was signed, and was followed up to here; none if it was never seen to count.
    Good(Option<Head>),
    /// It is not, or is gone.
    Wrong(Error),
    /// A person has given it up; nothing else is known of it.
    GivenUp,
}

/// Looks at every other log: at those of the store, of which those count whose newest checkpoint was signed with a key that
/// was seen before; at those that were seen to count; and at those of these names. Asks no token.
///
/// # Errors
/// Those of the store.
pub(super) async fn by_seen(store: &dyn Store, named: &BTreeSet<String>) -> Result<Vec<BySeen>> {
    let own = store.head().log;
    let (mut logs, heads) = (Vec::new(), store.heads().await?);
    for head in heads.iter().filter(|head| head.log != own).cloned() {
        let stands = match as_seen(store, &head).await {
            Ok(stands) => stands,
            Err(fault) if contradicts(&fault) => Stands::Wrong(fault),
            Err(fault) => return Err(fault),
        };
        logs.push(BySeen { head, stands });
    }
    let is_gone = |log: &str| heads.iter().all(|head| head.log != log);
    let mut gone: BTreeSet<String> = named.iter().filter(|log| is_gone(log)).cloned().collect();
    let of_others = Seen::name(&own, "");
    let mut after = of_others.clone();
    loop {
        let page = store.rows(Kind::Beside, &after, PAGE).await?;
        let logs: Vec<&str> = page.iter().map_while(|row| row.name.strip_prefix(&of_others)).collect();
        let Some(last) = logs.last() else { break };
        after = Seen::name(&own, last);
        gone.extend(logs.into_iter().filter(|log| is_gone(log)).map(str::to_owned));
    }
    for log in gone {
        let is_given_up = match Beside::of(store, &log).await {
            Ok(beside) => beside.is_given_up(),
            Err(fault) if fault.reason() == Reason::ObjectAltered => false,
            Err(fault) => return Err(fault),
        };
        let missing = || Error::new(Reason::LogMissing, format!("log {log} is no longer in the store"));
        let stands = if is_given_up { Stands::GivenUp } else { Stands::Wrong(missing()) };
        logs.push(BySeen { head: Head::empty(log), stands });
    }
    Ok(logs)
}

/// Has a log count whose newest checkpoint was signed with a key that was seen before.
async fn as_seen(store: &dyn Store, head: &Head) -> Result<Stands> {
    let beside = Beside::of(store, &head.log).await?;
    if beside.is_given_up() {
        return Ok(Stands::GivenUp);
    }
    let signed = match beside.newest(store, &head.log).await? {
        Newest::None(_) => None,
        Newest::Seen(_, signed) => Some(signed),
        Newest::Unseen(..) => beside.newest_seen(store, &head.log).await?.map(|(_, signed)| signed),
    };
    let Some(signed) = signed else { return Ok(Stands::Good(None)) };
    let end = follow(store, signed_end(&signed), head).await?;
    held(store, head, &signed).await?;
    Ok(Stands::Good(Some(end)))
}

/// A log was given up, and what is signed of the own log still names it: that was broken off.
pub(super) fn unfinished(log: &str) -> Error {
    Error::new(Reason::LogMissing, format!("log {log} was given up, and that was not brought to its end"))
        .hint("say it once more: keyward audit re-anchor")
}

/// Holds another log against what was signed over it, and has it count.
///
/// # Errors
/// `STORE_REWOUND`, `STORE_FORKED`, `RECORD_BROKEN` if it is not that; those of the store.
pub(super) async fn held(store: &dyn Store, head: &Head, signed: &Checkpoint) -> Result<()> {
    let log = &head.log;
    if head.size < signed.size {
        // Its instance may have committed and signed since the ends were read.
        let heads = store.heads().await?;
        let size = heads.iter().find(|now| now.log == *log).map_or(head.size, |now| now.size);
        if size < signed.size {
            let words = format!("log {log} ends after {size} records; {} were signed", signed.size);
            return Err(Error::new(Reason::StoreRewound, words));
        }
    }
    store.vouch(signed).await.map_err(|fault| match fault.reason() {
        Reason::StoreForked | Reason::RecordBroken => fault.while_doing(format!("log {log}")),
        _ => fault,
    })
}

/// Where a checkpoint's log ended.
pub(super) fn signed_end(signed: &Checkpoint) -> Head {
    Head { size: signed.size, chain: signed.chain, ..Head::empty(signed.log.clone()) }
}

/// Follows the records of another log from where they are known to its end, so that what nobody has signed yet continues it.
///
/// # Errors
/// `STORE_FORKED` if it does not; those of the store.
pub(super) async fn follow(store: &dyn Store, mut known: Head, end: &Head) -> Result<Head> {
    let log = &end.log;
    while known.size < end.size {
        let count = u32::try_from(end.size - known.size).unwrap_or(u32::MAX).min(PAGE);
        let page = store.entries(log, known.size, count).await?;
        if page.is_empty() {
            return Err(Error::new(Reason::StoreForked, format!("record {} of log {log} is missing", known.size)));
        }
        for record in page {
            let seq = known.size;
            known.follow(&record).map_err(|fault| {
                let words =
                    format!("record {seq} of log {log} does not continue what was there: it {}", fault.message());
                Error::new(Reason::StoreForked, words)
            })?;
        }
    }
    if known.size == end.size && known.chain != end.chain {
        return Err(Error::new(Reason::StoreForked, format!("log {log} has another end than its records lead to")));
    }
    Ok(known)
}

/// Requires that another log has the records that it had when this was signed of it.
///
/// # Errors
/// `STORE_FORKED` if it does not; those of the store.
pub(super) async fn had(store: &dyn Store, before: &OtherHead) -> Result<()> {
    let OtherHead { log, size, chain } = before;
    let Some(seq) = size.checked_sub(1) else { return Ok(()) };
    let last = store.entries(log, seq, 1).await?;
    if last.first().is_some_and(|last| ChainHash::of(last) == *chain) {
        return Ok(());
    }
    let words = format!("log {log} is another than the one that was signed for, at its record {seq}: a fork");
    Err(Error::new(Reason::StoreForked, words))
}

/// Whether a fault says that a log is not what it was, and not that it cannot be read.
pub(super) fn contradicts(fault: &Error) -> bool {
    matches!(
        fault.reason(),
        Reason::LogMissing
            | Reason::StoreRewound
            | Reason::StoreForked
            | Reason::CheckpointBroken
            | Reason::RecordBroken
            | Reason::ObjectAltered
    )
}

/// The checkpoint of another log is not one that a key of that log has signed.
pub(super) fn broken(log: &str, why: &str) -> Error {
    let words = format!("the last checkpoint of log {log} is not as a key of that log signed it: {why}");
    Error::new(Reason::CheckpointBroken, words)
}
