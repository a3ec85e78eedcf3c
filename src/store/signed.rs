//! What was signed over a store's log: the checkpoints that it keeps, and the anchor, held against its records.

use std::vec::IntoIter;

use serde::{Deserialize, Serialize};

use crate::audit::checkpoint::Checkpoint;
use crate::audit::note::{Note, VerifierKey};
use crate::audit::trust::Trust;
use crate::audit::verify::{Finding, Verifier, open_checkpoint, open_checkpoint_of};
use crate::error::{Error, Reason, Result};
use crate::store::{Kind, Store, row};

/// Checkpoints that are read at a time.
const PAGE: u32 = 1000;

/// What speaks for a log from outside of its store.
#[derive(Clone, Debug)]
pub struct Vouched {
    /// The history of its audit keys.
    pub trust: Trust,
    /// The anchor's text, if there is one.
    pub anchor: Option<String>,
}

/// What the log of one instance has seen of the log of another one, kept under `logs/{own}/beside/{other}`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Seen {
    /// The other log's audit keys that a token has shown, as verifier keys that bear its name.
    pub keys: Vec<String>,
    /// A person has given it up: it never counts again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub given_up: bool,
}

impl Seen {
    /// What it is kept under.
    #[must_use]
    pub fn name(own: &str, other: &str) -> String {
        format!("logs/{own}/beside/{other}")
    }

    /// The log that knows what is kept under a name.
    pub(super) fn whose(name: &str) -> Option<&str> {
        name.strip_prefix("logs/")?.split_once("/beside/").map(|(own, _)| own)
    }

    /// What was seen of a log, as its row stands: [`Store::rows`].
    pub(super) async fn of(store: &dyn Store, own: &str, other: &str) -> Result<Option<Self>> {
        row(store, Kind::Beside, &Seen::name(own, other)).await?.map(|row| row.read()).transpose()
    }

    /// The keys.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if one is none.
    pub fn keys(&self) -> Result<Vec<VerifierKey>> {
        self.keys.iter().map(|key| key.parse()).collect()
    }
}

/// What says who signs for a log.
pub(super) enum Signers {
    /// The history of its audit keys.
    History(Trust),
    /// What another log has seen: there may be later keys.
    Seen(Seen),
}

impl Signers {
    fn open(&self, log: &str, note: &Note) -> Result<Checkpoint, (Finding, Error)> {
        match self {
            Signers::History(trust) => open_checkpoint(note, trust),
            Signers::Seen(seen) => {
                let keys = seen.keys().map_err(|fault| (Finding::ForeignKey, fault))?;
                open_checkpoint_of(log, note, &keys)
            }
        }
    }
}

/// What is wrong, and in words.
pub(super) type Wrong = (Finding, String);

/// What was signed over a log, held against its records while those are read. Checkpoints are kept in the order in which
/// the log grew, so that one of them at a time is enough.
pub(super) struct Signed<'s> {
    store: &'s dyn Store,
    log: String,
    signers: Signers,
    /// Those that were read from the store, from `place` on. None counts from `end` on: it was signed since.
    page: IntoIter<(u64, String)>,
    place: u64,
    end: u64,
    /// The next one, which the records have not come to, and its place.
    next: Option<(u64, Checkpoint)>,
    /// Of those before, the one over most records, and what is wrong with them.
    newest: Option<Checkpoint>,
    wrong: Faults,
    /// The same of what a record gives up, until something is signed over that record.
    given_up: (Option<Checkpoint>, Option<(u64, Wrong)>),
    anchor: Option<Anchor>,
    /// Keys that were seen to sign, and of which no checkpoint was come to.
    unused: Vec<VerifierKey>,
}

/// What is wrong with checkpoints, by their place: the first one that is not as it should be, and the last.
#[derive(Default)]
struct Faults {
    first: Option<(u64, Wrong)>,
    last: Option<(u64, Wrong)>,
}

impl Faults {
    fn found(&mut self, place: u64, wrong: Wrong) {
        self.last = Some((place, wrong.clone()));
        self.first.get_or_insert((place, wrong));
    }

    /// Takes what is wrong before a place. Of what is wrong from there on, the last is left.
    fn take_before(&mut self, place: u64) -> Option<(u64, Wrong)> {
        let taken = self.first.take_if(|(first, _)| *first < place)?;
        self.last.take_if(|(last, _)| *last < place);
        self.first.clone_from(&self.last);
        Some(taken)
    }
}

/// The checkpoint that is kept outside of the store.
struct Anchor {
    checkpoint: Result<Checkpoint, Wrong>,
    /// Whether the store has it too.
    is_kept: bool,
}

impl<'s> Signed<'s> {
    /// Begins with the first of the checkpoints that the store has of a log by now.
    ///
    /// # Errors
    /// Those of reading.
    pub(super) async fn of(store: &'s dyn Store, log: &str, signers: Signers) -> Result<Self> {
        let end = store.checkpoints_before(log, u64::MAX, 1).await?.pop().map_or(0, |(last, _)| last + 1);
        let unused = match &signers {
            Signers::Seen(seen) => seen.keys().unwrap_or_default(),
            Signers::History(_) => Vec::new(),
        };
        let mut signed = Signed {
            store,
            log: log.to_owned(),
            signers,
            page: Vec::new().into_iter(),
            place: 0,
            end,
            next: None,
            newest: None,
            wrong: Faults::default(),
            given_up: (None, None),
            anchor: None,
            unused,
        };
        signed.advance().await?;
        Ok(signed)
    }

    /// Takes the anchor, which every log has that has records.
    pub(super) fn anchored(&mut self, anchor: Option<&str>, records: u64) {
        let checkpoint = match anchor {
            Some(text) => self.open(text, ANCHOR).transpose(),
            None => (records > 0).then(|| Err((Finding::CheckpointMissing, format!("{ANCHOR} is missing")))),
        };
        self.anchor = checkpoint.map(|checkpoint| Anchor { checkpoint, is_kept: false });
    }

    /// Opens what should be a checkpoint of the log. Nothing if it may be one that is signed with a key of later.
    fn open(&mut self, text: &str, which: &str) -> Result<Option<Checkpoint>, Wrong> {
        let opened = match text.parse::<Note>() {
            Ok(note) => {
                self.unused.retain(|key| !note.names_one_of(std::slice::from_ref(key)));
                self.signers.open(&self.log, &note)
            }
            Err(fault) => Err((Finding::CheckpointEdited, fault)),
        };
        match opened {
            Ok(checkpoint) => Ok(Some(checkpoint)),
            // The other log may have changed its key since it was seen: what is signed with a later one is not signed for
            // all that is known here.
            Err((Finding::ForeignKey, _)) if matches!(self.signers, Signers::Seen(_)) => Ok(None),
            // What is no checkpoint any more was one.
            Err((_, fault)) if fault.reason() == Reason::InvalidArgument => {
                Err((Finding::CheckpointEdited, format!("{which}: {fault}")))
            }
            Err((finding, fault)) => Err((finding, format!("{which}: {fault}"))),
        }
    }

    /// Reads on to the next checkpoint that can be opened.
    async fn advance(&mut self) -> Result<()> {
        while self.place < self.end {
            let Some((place, text)) = self.page.next() else {
                self.page = self.store.checkpoints(&self.log, self.place, PAGE).await?.into_iter();
                if self.page.len() == 0 {
                    self.is_missing();
                    break;
                }
                continue;
            };
            if place != self.place {
                self.is_missing();
            }
            self.place = place + 1;
            if place >= self.end {
                break;
            }
            match self.open(&text, &name(place)) {
                Ok(None) => {}
                Ok(Some(checkpoint)) => {
                    self.next = Some((place, checkpoint));
                    break;
                }
                Err(wrong) => self.wrong.found(place, wrong),
            }
        }
        Ok(())
    }

    fn is_missing(&mut self) {
        let words = format!("checkpoint {} is missing from the store", self.place);
        self.wrong.found(self.place, (Finding::CheckpointMissing, words));
    }

    /// Takes notice of a checkpoint, and goes on to the next.
    async fn pass(&mut self, checkpoint: Checkpoint) -> Result<()> {
        if let Some(anchor) = &mut self.anchor {
            anchor.is_kept |= anchor.checkpoint.as_ref() == Ok(&checkpoint);
        }
        self.newest = Some(larger(self.newest.take(), checkpoint));
        self.advance().await
    }

    /// Holds what was signed where the records now end against them. To be called before the first record and after each.
    ///
    /// # Errors
    /// Those of reading.
    pub(super) async fn hear(&mut self, verifier: &Verifier) -> Result<()> {
        let size = verifier.size();
        while let Some((place, checkpoint)) = self.next.take_if(|(_, checkpoint)| checkpoint.size <= size) {
            if checkpoint.size < size {
                let words = format!("{} is over fewer records than one before it", name(place));
                self.wrong.found(place, (Finding::CheckpointEdited, words));
            } else if !verifier.is_at(&checkpoint) {
                self.wrong.found(place, others_than(size, &name(place)));
            } else {
                self.given_up = (None, None);
            }
            self.pass(checkpoint).await?;
        }
        if let Some(Anchor { checkpoint: anchored @ Ok(_), .. }) = &mut self.anchor
            && anchored.as_ref().is_ok_and(|anchor| anchor.size == size && !verifier.is_at(anchor))
        {
            *anchored = Err(others_than(size, ANCHOR));
        }
        Ok(())
    }

    /// Takes notice that the next record gives up what had been signed before: so many checkpoints, though some may be over
    /// more records than there were left. That counts once something is signed over that record: anybody can write one
    /// behind what is signed.
    ///
    /// # Errors
    /// Those of reading.
    pub(super) async fn given_up(&mut self, count: Option<u64>) -> Result<()> {
        // Records of before this was counted give up those that were come to.
        let count = count.unwrap_or_else(|| self.next.as_ref().map_or(self.place, |(place, _)| *place));
        loop {
            if let Some(newest) = self.newest.take() {
                self.given_up.0 = Some(larger(self.given_up.0.take(), newest));
            }
            if let Some(wrong) = self.wrong.take_before(count) {
                self.given_up.1.get_or_insert(wrong);
            }
            let Some((place, dropped)) = self.next.take_if(|(place, _)| *place < count) else { return Ok(()) };
            let words = format!("{} is given up by a record over which nothing is signed", name(place));
            self.wrong.found(place, (Finding::NotAsSigned, words));
            self.newest = Some(dropped);
            self.advance().await?;
        }
    }

    /// Takes notice of the rest, when there are no more records: it was signed over more.
    ///
    /// # Errors
    /// Those of reading.
    pub(super) async fn end(&mut self) -> Result<()> {
        while let Some((_, checkpoint)) = self.next.take() {
            self.pass(checkpoint).await?;
        }
        Ok(())
    }

    /// What another log has seen signed with some key, where nothing that was is there any more.
    pub(super) fn missing(&self) -> Option<Wrong> {
        let key = self.unused.first()?;
        let words = format!("every checkpoint is gone that was signed with {key}, and there were some");
        Some((Finding::CheckpointMissing, words))
    }

    /// What is wrong, if anything; the newest checkpoint that counts, if nothing is.
    pub(super) fn verdict(self, size: u64) -> Result<Option<Checkpoint>, Wrong> {
        let anchored = self.anchor.as_ref().and_then(|anchor| anchor.checkpoint.as_ref().ok());
        let (given_up, wrong) = self.given_up;
        let newest = given_up.iter().chain(&self.newest).chain(anchored).max_by_key(|newest| newest.size);
        if let Some(newest) = newest.filter(|newest| newest.size > size) {
            let words = format!("the log ends after {size} records; {} were signed", newest.size);
            return Err((Finding::Rewound, words));
        }
        let newest = newest.cloned();
        match (wrong.or(self.wrong.first), self.anchor) {
            (Some((_, wrong)), _) | (None, Some(Anchor { checkpoint: Err(wrong), .. })) => Err(wrong),
            (None, Some(Anchor { checkpoint: Ok(anchor), is_kept: false })) => {
                let words = format!("the checkpoint of {} records is in {ANCHOR} and not in the store", anchor.size);
                Err((Finding::CheckpointMissing, words))
            }
            _ => Ok(newest),
        }
    }
}

/// The one that is over more records; of two over as many, the later.
fn larger(one: Option<Checkpoint>, later: Checkpoint) -> Checkpoint {
    one.filter(|one| one.size > later.size).unwrap_or(later)
}

/// What the anchor is called.
const ANCHOR: &str = "the anchor";

/// What a checkpoint of the store is called.
fn name(place: u64) -> String {
    format!("checkpoint {place} of the store")
}

fn others_than(size: u64, which: &str) -> Wrong {
    (Finding::NotAsSigned, format!("the first {size} records are others than {which} says"))
}
