//! What was signed over a store's log: the checkpoints that it keeps, and the anchor, held against its records.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::audit::checkpoint::Checkpoint;
use crate::audit::note::{Note, VerifierKey};
use crate::audit::trust::Trust;
use crate::audit::verify::{Finding, Verifier, open_checkpoint, open_checkpoint_of};
use crate::error::{Error, Reason, Result};
use crate::store::{Kind, Store, row};

/// Checkpoints that are read at a time.
const PAGE: u32 = 1000;
/// The place of the anchor among the checkpoints of the store: behind them all.
const ANCHOR: u64 = u64::MAX;

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

/// Checkpoints by their size, each with its place; and what is wrong, by place.
#[derive(Default)]
pub(super) struct Signed {
    checkpoints: BTreeMap<u64, Vec<(u64, Checkpoint)>>,
    wrong: BTreeMap<u64, (Finding, String)>,
    /// The place of the last record by which a person gave up what had been signed before.
    given_up: Option<u64>,
    /// Keys that were seen to sign, and of which no checkpoint is known here.
    unused: Vec<VerifierKey>,
}

impl Signed {
    /// Reads the checkpoints that the store has of a log.
    ///
    /// # Errors
    /// Those of reading.
    pub(super) async fn read(store: &dyn Store, log: &str, signers: Signers) -> Result<Self> {
        let unused = match &signers {
            Signers::Seen(seen) => seen.keys().unwrap_or_default(),
            Signers::History(_) => Vec::new(),
        };
        let mut signed = Signed { unused, ..Signed::default() };
        let mut next = 0;
        loop {
            let page = store.checkpoints(log, next, PAGE).await?;
            if page.is_empty() {
                break;
            }
            for (place, text) in page {
                if place != next {
                    let words = format!("checkpoint {next} is missing from the store");
                    signed.wrong.insert(next, (Finding::CheckpointMissing, words));
                }
                signed.take(place, &text, log, &signers);
                next = place + 1;
            }
        }
        Ok(signed)
    }

    /// Takes the anchor, which every log has that has records.
    pub(super) fn anchored(&mut self, vouched: &Vouched, records: u64) {
        match &vouched.anchor {
            Some(text) => {
                self.take(ANCHOR, text, vouched.trust.log(), &Signers::History(vouched.trust.clone()));
            }
            None if records == 0 => {}
            None => {
                self.wrong.insert(ANCHOR, (Finding::CheckpointMissing, "the anchor is missing".to_owned()));
            }
        }
    }

    fn take(&mut self, place: u64, text: &str, log: &str, signers: &Signers) {
        let opened = match text.parse::<Note>() {
            Ok(note) => {
                self.unused.retain(|key| !note.names_one_of(std::slice::from_ref(key)));
                signers.open(log, &note)
            }
            Err(fault) => Err((Finding::CheckpointEdited, fault)),
        };
        match opened {
            Ok(checkpoint) => self.checkpoints.entry(checkpoint.size).or_default().push((place, checkpoint)),
            // The other log may have changed its key since it was seen: what is signed with a later one is not signed for
            // all that is known here.
            Err((Finding::ForeignKey, _)) if matches!(signers, Signers::Seen(_)) => {}
            Err((finding, fault)) => {
                // What is no checkpoint any more was one.
                let was_edited = fault.reason() == Reason::InvalidArgument;
                let finding = if was_edited { Finding::CheckpointEdited } else { finding };
                self.wrong.insert(place, (finding, format!("{}: {fault}", name(place))));
            }
        }
    }

    /// Holds what was signed where the records now end against them.
    pub(super) fn hear(&mut self, verifier: &Verifier) {
        let Some(here) = self.checkpoints.get(&verifier.size()) else { return };
        for (place, checkpoint) in here.iter().filter(|(_, checkpoint)| !verifier.is_at(checkpoint)) {
            let words = format!("the first {} records are others than {} says", checkpoint.size, name(*place));
            self.wrong.entry(*place).or_insert((Finding::NotAsSigned, words));
        }
    }

    /// What another log has seen signed with some key, where nothing that was is there any more.
    pub(super) fn missing(&self) -> Option<(Finding, String)> {
        let key = self.unused.first()?;
        let words = format!("every checkpoint is gone that was signed with {key}, and there were some");
        Some((Finding::CheckpointMissing, words))
    }

    /// Takes notice that a person gave up what had been signed before.
    pub(super) fn given_up(&mut self, seq: u64) {
        self.given_up = Some(seq);
    }

    /// What is wrong, if anything; the newest checkpoint that counts, if nothing is.
    pub(super) fn verdict(&self, size: u64) -> Result<Option<Checkpoint>, (Finding, String)> {
        let all = || self.checkpoints.values().flatten();
        // The first checkpoint that counts.
        let first = self.given_up.map_or(0, |seq| {
            let since = all().filter(|(_, checkpoint)| checkpoint.size > seq);
            since.map(|(place, _)| *place).min().unwrap_or(ANCHOR)
        });
        let counts = all().filter(|(place, _)| *place >= first).map(|(_, checkpoint)| checkpoint);
        let newest = counts.max_by_key(|checkpoint| checkpoint.size);
        if let Some(newest) = newest.filter(|newest| newest.size > size) {
            let words = format!("the log ends after {size} records; {} were signed", newest.size);
            return Err((Finding::Rewound, words));
        }
        if let Some((_, found)) = self.wrong.range(first..).next() {
            return Err(found.clone());
        }
        let anchor = all().find(|(place, _)| *place == ANCHOR);
        let is_kept = |anchor: &Checkpoint| all().any(|(place, kept)| *place != ANCHOR && kept == anchor);
        if let Some((_, anchor)) = anchor.filter(|(_, anchor)| !is_kept(anchor)) {
            let words = format!("the checkpoint of {} records is in the anchor and not in the store", anchor.size);
            return Err((Finding::CheckpointMissing, words));
        }
        Ok(newest.cloned())
    }
}

fn name(place: u64) -> String {
    if place == ANCHOR { "the anchor".to_owned() } else { format!("checkpoint {place} of the store") }
}
