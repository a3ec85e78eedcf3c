//! Which audit keys a log has had: the file `audit.trust`, whose first entry a verifier gets out of band.
//!
//! Each entry is a signed note. A new key is vouched for by itself and by the key before it, and names the hash of
//! the entry before it, so that whoever holds an older file can tell that a newer one continues it.
//!
//! ```text
//! keyward/audit-trust/v1
//! keyward/log/0b8c64f4-2f3f-4c33-9d4f-0d53c3a5a1c7     the log
//! 1203                                                 the size from which on this key signs checkpoints
//! keyward/log/0b8c…+c1d2e3f4+AjBZ…                     the key
//! 2c26b46b…                                            SHA-256 of the entry before, its text; zeros for the first
//! ```

use std::fmt;
use std::str::FromStr;

use crate::audit::checkpoint::{Checkpoint, origin};
use crate::audit::note::{Note, VerifierKey, malformed};
use crate::error::{Error, Reason, Result};

/// First line of each entry.
const HEADER: &str = "keyward/audit-trust/v1\n";
/// Most keys that a log can have had.
pub const KEYS_MAX: usize = 100;

/// The history of a log's audit keys, each entry verified. `to_string` gives the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trust {
    log: String,
    entries: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    from: u64,
    key: VerifierKey,
    note: Note,
}

impl Trust {
    /// The first entry of a log's history, to be signed by the key that it names.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if the key does not bear the log's name.
    pub fn first(log: &str, from: u64, key: &VerifierKey) -> Result<Note> {
        entry(log, from, key, [0; 32])
    }

    /// The entry that hands over to another key, to be signed by the last key and by the new one. From `from` records
    /// on the new key signs; up to there, and there itself, the old one does.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if the key does not bear the log's name, or is not later than the last one.
    pub fn hand_over(&self, from: u64, key: &VerifierKey) -> Result<Note> {
        let last = self.last();
        if from <= last.from || self.entries.iter().any(|entry| entry.key == *key) {
            return Err(malformed("a log hands over to a new key, and at a greater size than before"));
        }
        entry(&self.log, from, key, last.note.digest())
    }

    /// Appends a signed entry.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if it is not an entry that continues this history, `SIGNATURE_INVALID` if the new or the last
    /// key did not sign it.
    pub fn add(&mut self, note: Note) -> Result<()> {
        if self.entries.len() >= KEYS_MAX {
            return Err(Error::new(Reason::LimitExceeded, format!("a log has at most {KEYS_MAX} audit keys")));
        }
        let (log, from, key) = read_entry(note.text())?;
        if log != self.log || self.hand_over(from, &key)?.text() != note.text() {
            return Err(malformed("this entry does not continue the history of the log's keys"));
        }
        signed_by(&note, &[self.last().key.clone(), key.clone()])?;
        self.entries.push(Entry { from, key, note });
        Ok(())
    }

    /// Identity of the log.
    #[must_use]
    pub fn log(&self) -> &str {
        &self.log
    }

    /// The key that signs now.
    #[must_use]
    pub fn key(&self) -> &VerifierKey {
        &self.last().key
    }

    /// A later history of the same log, if it continues this one: whoever trusts this one follows it. This one otherwise.
    #[must_use]
    pub fn followed(self, later: Option<Trust>) -> Trust {
        match later {
            Some(later) if later.continues(&self) => later,
            _ => self,
        }
    }

    /// All keys that have signed, the first one first.
    pub fn keys(&self) -> impl Iterator<Item = &VerifierKey> {
        self.entries.iter().map(|entry| &entry.key)
    }

    /// The number of records from which on its last key signs.
    #[must_use]
    pub fn from(&self) -> u64 {
        self.last().from
    }

    /// Whether this history continues an older one, or is it.
    #[must_use]
    pub fn continues(&self, older: &Trust) -> bool {
        // Signatures are left out: the same text may have been signed anew.
        let texts = |trust: &Trust| trust.entries.iter().map(|entry| entry.note.text().to_owned()).collect::<Vec<_>>();
        texts(self).starts_with(&texts(older))
    }

    /// Opens a checkpoint of this log: it must be signed by the key of its size. Where one key hands over to the next,
    /// either will do.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if it is no checkpoint, `SIGNATURE_INVALID` if it is another log's or not signed by that key.
    pub fn checkpoint(&self, note: &Note) -> Result<Checkpoint> {
        let claimed: Checkpoint = note.text().parse()?;
        if claimed.log != self.log {
            let words = format!("the checkpoint is of log {}, the trusted keys are of log {}", claimed.log, self.log);
            return Err(Error::new(Reason::SignatureInvalid, words));
        }
        let nexts = self.entries.iter().skip(1).map(|next| next.from).chain([u64::MAX]);
        let at_size =
            self.entries.iter().zip(nexts).filter(|(entry, next)| (entry.from..=*next).contains(&claimed.size));
        let keys: Vec<VerifierKey> = at_size.map(|(entry, _)| entry.key.clone()).collect();
        Checkpoint::open(note, &keys)
    }

    fn last(&self) -> &Entry {
        // A history is made with its first entry and never shrinks.
        &self.entries[self.entries.len() - 1]
    }
}

impl fmt::Display for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.entries.iter().try_for_each(|entry| write!(f, "{}", entry.note))
    }
}

/// Reads `audit.trust` and verifies every entry. That the first key is the right one, nothing in the file can show.
impl FromStr for Trust {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut notes = text.split_inclusive('\n').fold(Vec::new(), |mut notes: Vec<String>, line| {
            match notes.last_mut() {
                Some(note) if line != HEADER => note.push_str(line),
                _ => notes.push(line.to_owned()),
            }
            notes
        });
        if notes.is_empty() {
            return Err(malformed("a trust file has one entry at least"));
        }
        let first: Note = notes.remove(0).parse()?;
        let (log, from, key) = read_entry(first.text())?;
        if Trust::first(&log, from, &key)?.text() != first.text() {
            return Err(malformed("the first entry of a trust file names an entry before it"));
        }
        signed_by(&first, std::slice::from_ref(&key))?;
        let mut trust = Trust { log, entries: vec![Entry { from, key, note: first }] };
        notes.into_iter().try_for_each(|note| trust.add(note.parse()?))?;
        Ok(trust)
    }
}

fn entry(log: &str, from: u64, key: &VerifierKey, before: [u8; 32]) -> Result<Note> {
    let origin = origin(log);
    if key.name() != origin {
        return Err(malformed("an audit key bears the name of its log"));
    }
    Note::new(format!("{HEADER}{origin}\n{from}\n{key}\n{}\n", hex::encode(before)))
}

/// Log, size and key of an entry. Whether the text is the one that would be written for them, the caller sees to.
fn read_entry(text: &str) -> Result<(String, u64, VerifierKey)> {
    let not = || malformed("not an entry of a trust file");
    let mut lines = text.strip_prefix(HEADER).ok_or_else(not)?.lines();
    let mut line = || lines.next().ok_or_else(not);
    let log = line()?.strip_prefix(&origin("")).ok_or_else(not)?.to_owned();
    let from = line()?.parse().map_err(|_| not())?;
    Ok((log, from, line()?.parse()?))
}

fn signed_by(note: &Note, keys: &[VerifierKey]) -> Result<()> {
    if note.verify(keys)?.len() == keys.len() {
        return Ok(());
    }
    Err(Error::new(Reason::SignatureInvalid, "an audit key must be signed by itself and by the key before it"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use super::*;
    use crate::audit::chain::ChainHash;
    use crate::audit::merkle::TreeHash;
    use crate::audit::note::tests::Signer;

    const LOG: &str = "0b8c64f4";

    pub(in crate::audit) fn begun(signer: &Signer) -> Trust {
        let log = signer.key.name().strip_prefix("keyward/log/").unwrap();
        signed(Trust::first(log, 0, &signer.key).unwrap(), &[signer]).to_string().parse().unwrap()
    }

    fn signer() -> Signer {
        Signer::new(&origin(LOG))
    }

    fn signed(mut note: Note, signers: &[&Signer]) -> Note {
        signers.iter().for_each(|signer| signer.sign(&mut note));
        note
    }

    /// Keys a from 0, b from 10, c from 20.
    fn history(a: &Signer, b: &Signer, c: &Signer) -> Trust {
        let mut trust = begun(a);
        trust.add(signed(trust.hand_over(10, &b.key).unwrap(), &[a, b])).unwrap();
        trust.add(signed(trust.hand_over(20, &c.key).unwrap(), &[c, b])).unwrap();
        trust
    }

    fn checkpoint(log: &str, size: u64, signer: &Signer) -> Note {
        let (log, root, chain) = (log.to_owned(), TreeHash::empty(), ChainHash::ZERO);
        signed(Checkpoint { log, size, root, chain, others: vec![] }.note().unwrap(), &[signer])
    }

    #[test]
    fn a_history_reads_back_from_its_file_and_continues_older_ones() {
        let (a, b, c) = (signer(), signer(), signer());
        let trust = history(&a, &b, &c);
        let read: Trust = trust.to_string().parse().unwrap();
        assert_eq!(read, trust);
        assert_eq!((read.log(), read.key()), (LOG, &c.key));
        assert!(trust.continues(&begun(&a)) && trust.continues(&trust));
        assert!(!begun(&a).continues(&trust) && !trust.continues(&begun(&b)));
    }

    #[test]
    fn an_older_history_is_followed_to_a_later_one_that_continues_it_and_to_no_other() {
        let (a, b, c) = (signer(), signer(), signer());
        let later = history(&a, &b, &c);
        assert_eq!(begun(&a).followed(Some(later.clone())), later);
        // Signatures differ each time they are made.
        let other = begun(&b);
        assert_eq!(other.clone().followed(Some(later.clone())), other, "another beginning");
        assert_eq!(later.clone().followed(Some(begun(&a))), later, "an older one");
        assert_eq!(later.clone().followed(None), later);
    }

    #[test]
    fn a_checkpoint_is_opened_with_the_key_of_its_size_only() {
        let (a, b, c) = (signer(), signer(), signer());
        let trust = history(&a, &b, &c);
        for (size, good) in [(0, "a"), (9, "a"), (10, "ab"), (11, "b"), (20, "bc"), (21, "c"), (u64::MAX, "c")] {
            for (name, signer) in [("a", &a), ("b", &b), ("c", &c)] {
                let opened = trust.checkpoint(&checkpoint(LOG, size, signer));
                assert_eq!(opened.is_ok(), good.contains(name), "{size} by {name}");
            }
        }
        let foreign = trust.checkpoint(&checkpoint("ffff", 3, &a)).unwrap_err();
        assert!(foreign.message().contains("of log ffff"), "{foreign}");
    }

    #[test]
    fn a_new_key_needs_its_own_signature_and_that_of_the_key_before() {
        let (a, b, c) = (signer(), signer(), signer());
        let mut trust = begun(&a);
        let next = trust.hand_over(10, &b.key).unwrap();
        for signers in [vec![], vec![&a], vec![&b], vec![&b, &c], vec![&b, &b]] {
            let error = trust.add(signed(next.clone(), &signers)).unwrap_err();
            assert_eq!(error.reason(), Reason::SignatureInvalid);
        }
        assert!(trust.continues(&begun(&a)) && begun(&a).continues(&trust), "nothing was added");
        let alone = Trust::first(LOG, 0, &a.key).unwrap().to_string();
        assert!(alone.parse::<Trust>().is_err(), "unsigned");
        let by_other = signed(Trust::first(LOG, 0, &a.key).unwrap(), &[&b]).to_string();
        assert!(by_other.parse::<Trust>().is_err(), "signed by another");
    }

    #[test]
    fn entries_that_do_not_continue_the_history_are_refused() {
        let (a, b, c) = (signer(), signer(), signer());
        let trust = history(&a, &b, &c);
        assert!(trust.hand_over(20, &signer().key).is_err(), "not at a greater size");
        assert!(trust.hand_over(30, &a.key).is_err(), "a key of before");
        assert!(trust.hand_over(30, &Signer::new("keyward/log/other").key).is_err(), "a key of another log");
        let (d, other_past) = (signer(), begun(&c));
        let forked = signed(other_past.hand_over(30, &d.key).unwrap(), &[&c, &d]);
        assert!(trust.clone().add(forked).is_err(), "another past");

        let notes: Vec<String> = trust.entries.iter().map(|entry| entry.note.to_string()).collect();
        for (what, file) in [
            ("empty", String::new()),
            ("first entry gone", notes[1..].concat()),
            ("middle entry gone", [&*notes[0], &*notes[2]].concat()),
            ("order changed", [&*notes[0], &*notes[2], &*notes[1]].concat()),
            ("entry twice", [&*notes[0], &*notes[1], &*notes[1]].concat()),
            ("cut", notes.concat().trim_end().to_owned()),
            ("words before", format!("words\n{}", notes.concat())),
        ] {
            assert!(file.parse::<Trust>().is_err(), "{what}");
        }
        assert!(notes[..2].concat().parse::<Trust>().is_ok(), "an older file is a file");
    }

    #[test]
    fn a_history_beyond_its_bound_is_refused() {
        let mut last = signer();
        let mut trust = begun(&last);
        let mut result = Ok(());
        for n in 1..=KEYS_MAX {
            assert_eq!((trust.entries.len(), result.is_ok()), (n, true));
            let next = signer();
            let note = trust.hand_over(n as u64, &next.key).unwrap();
            result = trust.add(signed(note, &[&last, &next]));
            last = next;
        }
        assert_eq!(result.unwrap_err().reason(), Reason::LimitExceeded);
    }

    #[test]
    fn every_flipped_bit_of_a_trust_file_is_refused() {
        let (a, b) = (signer(), signer());
        let mut trust = begun(&a);
        trust.add(signed(trust.hand_over(10, &b.key).unwrap(), &[&a, &b])).unwrap();
        let bytes = trust.to_string().into_bytes();
        for (byte, bit) in (0..bytes.len()).flat_map(|byte| (0..8).map(move |bit| (byte, bit))) {
            let mut changed = bytes.clone();
            changed[byte] ^= 1 << bit;
            let read = std::str::from_utf8(&changed).ok().and_then(|text| text.parse::<Trust>().ok());
            assert!(read.is_none(), "byte {byte} bit {bit}");
        }
    }
}
