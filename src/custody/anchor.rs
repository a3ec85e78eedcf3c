//! The anchor: the log's last checkpoint in a file outside the store, which an older or other store contradicts.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::audit::chain::Head;
use crate::audit::checkpoint::Checkpoint;
use crate::audit::merkle::Frontier;
use crate::audit::note::Note;
use crate::audit::others::Others;
use crate::audit::trust::Trust;
use crate::custody::vouch::{self, Stands};
use crate::error::{Error, Reason, Result};
use crate::store::{Store, ask};

/// Where an instance keeps what must not be in its store.
#[derive(Clone, Debug)]
pub struct LogFiles {
    /// The history of the log's audit keys.
    pub trust: PathBuf,
    /// The last checkpoint.
    pub anchor: PathBuf,
}

impl LogFiles {
    /// The history of audit keys; none if there is no such file.
    ///
    /// # Errors
    /// `CONFIG_INVALID` if the file cannot be read or holds something else.
    pub fn read_trust(&self) -> Result<Option<Trust>> {
        let wrong = |fault: &dyn std::fmt::Display| {
            Error::new(Reason::ConfigInvalid, format!("{} cannot be read: {fault}", self.trust.display()))
                .hint("bring back the file as it was given out when the instance was made, or later")
        };
        match read(&self.trust).map_err(|fault| wrong(&fault))? {
            Some(text) => text.parse().map(Some).map_err(|fault: Error| wrong(&fault)),
            None => Ok(None),
        }
    }

    /// The anchor; none if there is no such file.
    ///
    /// # Errors
    /// `ANCHOR_INVALID` if the file cannot be read or holds no signed note.
    pub fn read_anchor(&self) -> Result<Option<Note>> {
        match self.read_anchor_text()? {
            Some(text) => text.parse().map(Some).map_err(|fault: Error| {
                invalid(format!("{} holds no signed checkpoint", self.anchor.display())).detail(fault)
            }),
            None => Ok(None),
        }
    }

    /// The anchor's text, whatever it is; none if there is no such file.
    ///
    /// # Errors
    /// `ANCHOR_INVALID` if the file cannot be read.
    pub fn read_anchor_text(&self) -> Result<Option<String>> {
        read(&self.anchor).map_err(|fault| invalid(format!("{}: {fault}", self.anchor.display())))
    }

    /// Puts a checkpoint in the place of the anchor, whole or not at all, durable on return.
    ///
    /// # Errors
    /// `ANCHOR_INVALID` if the file cannot be written.
    pub fn write_anchor(&self, note: &Note) -> Result<()> {
        replace(&self.anchor, &note.to_string()).map_err(|fault| {
            Error::new(Reason::AnchorInvalid, format!("{} cannot be written: {fault}", self.anchor.display()))
                .hint("look at that disk: whether it is there, has space, and this user may write")
        })
    }

    /// The same for the history of audit keys.
    ///
    /// # Errors
    /// `DATA_DIRECTORY` if the file cannot be written.
    pub fn write_trust(&self, trust: &Trust) -> Result<()> {
        replace(&self.trust, &trust.to_string()).map_err(|fault| {
            Error::new(Reason::DataDirectory, format!("{} cannot be written: {fault}", self.trust.display()))
        })
    }

    /// Checks that a store continues what was signed over it: that it ends not before the anchor, has the records that
    /// the anchor was signed over, and all the logs that it knows. A log without records has nothing to continue. Other
    /// logs of which this one has seen who signs for them must be there and as they were signed too, and count from then
    /// on; but for those that a person has given up. Gives up to where each of those that count was followed.
    ///
    /// # Errors
    /// `STORE_REWOUND`, `STORE_FORKED`, `LOG_MISSING`, `ANCHOR_INVALID`, `CHECKPOINT_BROKEN`, `OBJECT_ALTERED`; those of the
    /// store.
    pub async fn check(&self, store: &dyn Store) -> Result<Vec<Head>> {
        let (named, told) = self.named(store).await?;
        self.check_own(store, &told).await?;
        let mut followed = Vec::new();
        for log in vouch::by_seen(store, &named).await? {
            match log.stands {
                Stands::Good(end) => followed.extend(end),
                // Who gives a log up signs the own one anew, and names it no more.
                Stands::GivenUp if named.contains(&log.head.log) => {
                    return Err(vouch::unfinished(&log.head.log));
                }
                Stands::GivenUp => {}
                Stands::Wrong(fault) => return Err(fault.hint(vouch::RECOVER)),
            }
        }
        Ok(followed)
    }

    /// The other logs of which the own one says that they are there, by its last checkpoints, as far as they can be read, and
    /// by the records behind them; and what those records tell.
    ///
    /// # Errors
    /// `CONFIG_INVALID` if the history of audit keys cannot be read; those of the store.
    pub(super) async fn named(&self, store: &dyn Store) -> Result<(BTreeSet<String>, Others)> {
        let Some(trust) = self.read_trust()? else { return Ok(Default::default()) };
        let head = store.head();
        if trust.log() != head.log {
            return Ok(Default::default());
        }
        let kept = store.last_checkpoint(&head.log).await?.and_then(|note| note.parse().ok());
        let notes = [kept, self.read_anchor().ok().flatten()];
        let signed: Vec<Checkpoint> = notes.iter().flatten().filter_map(|note| trust.checkpoint(note).ok()).collect();
        let from = signed.iter().map(|signed| signed.size).filter(|size| *size <= head.size).max();
        let told = told(store, from.unwrap_or_default()).await?;
        let signed_for = signed.into_iter().flat_map(|signed| signed.others).map(|other| other.log);
        let named = signed_for.chain(told.last().map(|(log, ..)| log.to_owned())).collect();
        Ok((named, told))
    }

    /// The same of the own log, and of what was signed here of the others, and told of them behind that.
    ///
    /// # Errors
    /// As [`LogFiles::check`].
    pub(super) async fn check_own(&self, store: &dyn Store, told: &Others) -> Result<()> {
        let head = store.head();
        let Some(trust) = self.read_trust()? else {
            if head.size == 0 {
                return Ok(());
            }
            return Err(Error::new(Reason::ConfigInvalid, format!("{} is missing", self.trust.display()))
                .hint("bring back the file as it was given out when the instance was made, or later"));
        };
        if trust.log() != head.log {
            let words = format!("the store has no log {}: the files beside it speak of that one", trust.log());
            return Err(Error::new(Reason::LogMissing, words)
                .hint("bring back the store that belongs to this data directory; this one was not touched"));
        }
        let kept = match store.last_checkpoint(&head.log).await? {
            Some(note) => Some(note.parse().and_then(|note| trust.checkpoint(&note)).map_err(|fault: Error| {
                let words = format!("the store's last checkpoint is not as the log's key signed it: {fault}");
                Error::new(Reason::CheckpointBroken, words).hint(RECOVER)
            })?),
            None => None,
        };
        let anchor = match (self.read_anchor()?, &kept) {
            (Some(note), _) => Some(trust.checkpoint(&note).map_err(|fault| {
                invalid(format!("{} is not signed by the log's key", self.anchor.display())).detail(fault)
            })?),
            // Nothing was signed over nothing. All else had both, and who removes both would cut the log unseen.
            (None, None) if head.size == 0 => None,
            (None, _) => return Err(invalid(format!("{} is missing", self.anchor.display()))),
        };
        for signed in [anchor, kept].into_iter().flatten() {
            continues(store, &signed).await.map_err(|fault| fault.hint(RECOVER))?;
        }
        let heads = store.heads().await?;
        match told.lost(heads.iter().map(|head| (head.log.as_str(), head.size))) {
            Some(words) => Err(Error::new(Reason::LogMissing, words).hint(RECOVER)),
            None => Ok(()),
        }
    }
}

/// What the records of the own log tell of the others, from a place on.
async fn told(store: &dyn Store, from: u64) -> Result<Others> {
    let (head, mut at) = (store.head(), from);
    let mut told = Others::default();
    while at < head.size {
        let page = store.entries(&head.log, at, PAGE).await?;
        if page.is_empty() {
            break;
        }
        at += page.len() as u64;
        page.iter().for_each(|record| told.hear(record));
    }
    Ok(told)
}

/// Records that are read at a time.
const PAGE: u32 = 1000;
const RECOVER: &str = "bring back the newest store; if there is none, say what is lost: keyward audit re-anchor";

/// Checks that a store continues a checkpoint that was signed over it.
async fn continues(store: &dyn Store, signed: &Checkpoint) -> Result<()> {
    let head = store.head();
    if head.size < signed.size {
        let words = format!(
            "the store is older than its anchor: it ends after {} records, {} were signed, {} are lost",
            head.size,
            signed.size,
            signed.size - head.size
        );
        return Err(Error::new(Reason::StoreRewound, words));
    }
    let tree = ask(store, |tree| Frontier::of(signed.size, tree)).await?;
    if tree.root() != signed.root {
        let words = format!("the store's first {} records are others than those that were signed: a fork", signed.size);
        return Err(Error::new(Reason::StoreForked, words));
    }
    let heads = store.heads().await?;
    for before in &signed.others {
        let log = &before.log;
        match heads.iter().find(|now| now.log == *log) {
            None => {
                return Err(Error::new(
                    Reason::LogMissing,
                    format!("the store lacks log {log}, which its anchor knows"),
                ));
            }
            Some(now) if now.size < before.size => {
                let words = format!("log {log} ends after {} records; {} were known", now.size, before.size);
                return Err(Error::new(Reason::StoreRewound, words));
            }
            Some(now) if now.size == before.size && now.chain != before.chain => {
                return Err(Error::new(
                    Reason::StoreForked,
                    format!("log {log} has another end than the one known: a fork"),
                ));
            }
            Some(_) => vouch::had(store, before).await?,
        }
    }
    Ok(())
}

fn invalid(words: String) -> Error {
    Error::new(Reason::AnchorInvalid, words).hint(
        "bring back the anchor, or set audit.anchor to where it is; if it is lost, say so: keyward audit re-anchor",
    )
}

fn read(path: &Path) -> std::io::Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(fault) if fault.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(fault) => Err(fault),
    }
}

/// Writes a file beside the old one and puts it in its place.
fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let mut file = File::create(&beside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory)?.sync_all()
}
