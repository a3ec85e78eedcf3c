//! What was signed over a store's log: the checkpoints that it keeps, and the anchor, held against its records.

use std::collections::BTreeMap;

use crate::audit::checkpoint::Checkpoint;
use crate::audit::note::Note;
use crate::audit::trust::Trust;
use crate::audit::verify::{Finding, Verifier, open_checkpoint};
use crate::error::{Reason, Result};
use crate::store::Store;

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

/// Checkpoints by their size, each with its place; and what is wrong, by place.
#[derive(Default)]
pub(super) struct Signed {
    checkpoints: BTreeMap<u64, Vec<(u64, Checkpoint)>>,
    wrong: BTreeMap<u64, (Finding, String)>,
    /// The place of the last record by which a person gave up what had been signed before.
    given_up: Option<u64>,
}

impl Signed {
    /// Reads the store's checkpoints and the anchor.
    ///
    /// # Errors
    /// Those of reading.
    pub(super) async fn read(store: &dyn Store, vouched: &Vouched) -> Result<Self> {
        let mut signed = Signed::default();
        let mut next = 0;
        loop {
            let page = store.checkpoints(next, PAGE).await?;
            if page.is_empty() {
                break;
            }
            for (place, text) in page {
                if place != next {
                    let words = format!("checkpoint {next} is missing from the store");
                    signed.wrong.insert(next, (Finding::CheckpointMissing, words));
                }
                signed.take(place, &text, &vouched.trust);
                next = place + 1;
            }
        }
        match &vouched.anchor {
            Some(text) => signed.take(ANCHOR, text, &vouched.trust),
            None if store.head().size == 0 => {}
            None => {
                signed.wrong.insert(ANCHOR, (Finding::CheckpointMissing, "the anchor is missing".to_owned()));
            }
        }
        Ok(signed)
    }

    fn take(&mut self, place: u64, text: &str, trust: &Trust) {
        let opened = match text.parse::<Note>() {
            Ok(note) => open_checkpoint(&note, trust),
            Err(fault) => Err((Finding::CheckpointEdited, fault)),
        };
        match opened {
            Ok(checkpoint) => self.checkpoints.entry(checkpoint.size).or_default().push((place, checkpoint)),
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

    /// Takes notice that a person gave up what had been signed before.
    pub(super) fn given_up(&mut self, seq: u64) {
        self.given_up = Some(seq);
    }

    /// What is wrong, if anything; whether the log's end is signed, if nothing is.
    pub(super) fn verdict(&self, size: u64) -> Result<bool, (Finding, String)> {
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
        Ok(newest.is_some_and(|newest| newest.size == size))
    }
}

fn name(place: u64) -> String {
    if place == ANCHOR { "the anchor".to_owned() } else { format!("checkpoint {place} of the store") }
}
