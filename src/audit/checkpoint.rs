//! Checkpoints (C2SP tlog-checkpoint): how long a log is, its root, its chain, and how far the other logs are.
//!
//! ```text
//! keyward/log/0b8c64f4-2f3f-4c33-9d4f-0d53c3a5a1c7     origin: the log
//! 5                                                    records
//! CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=         root of the Merkle tree
//! chain 9f86…0a08                                      SHA-256 of the last record
//! other 5f0d2b1e-… 17 60303ae2…                        another log of the same store: records, SHA-256 of its last
//! ```
//! There is no time in it: a time that the log itself states proves nothing.

use std::fmt;
use std::str::FromStr;

use crate::audit::chain::ChainHash;
use crate::audit::merkle::{TreeHash, verify_consistency};
use crate::audit::note::{Note, VerifierKey, is_key_name, malformed};
use crate::error::{Error, Reason, Result};

/// What the origin line begins with; the log's id follows.
const ORIGIN: &str = "keyward/log/";

/// The name of a log in checkpoints, and of its audit keys in signature lines.
#[must_use]
pub fn origin(log: &str) -> String {
    format!("{ORIGIN}{log}")
}

/// What a log states about itself. Its text form is exact: it reads back only from what it writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Identity of the log.
    pub log: String,
    /// Number of records.
    pub size: u64,
    /// Root of the Merkle tree over them.
    pub root: TreeHash,
    /// SHA-256 of the last record; zeros for an empty log.
    pub chain: ChainHash,
    /// The other logs of the store, ordered by their ids: a log that is missing later shows here.
    pub others: Vec<OtherHead>,
}

/// The last known head of another log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherHead {
    /// Identity of the log.
    pub log: String,
    /// Number of records.
    pub size: u64,
    /// SHA-256 of its last record.
    pub chain: ChainHash,
}

impl Checkpoint {
    /// The note to be signed.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if a log's id cannot stand in a note, or the others are not in the order of their ids.
    pub fn note(&self) -> Result<Note> {
        let text = self.to_string();
        if text.parse::<Checkpoint>()? != *self {
            return Err(malformed("this checkpoint does not read back as it is written"));
        }
        Note::new(text)
    }

    /// Reads a signed checkpoint. One of the keys that signed must bear the log's own name; countersignatures of other
    /// keys among those given must hold too.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if it is no checkpoint, `SIGNATURE_INVALID` if none of the keys made it.
    pub fn open(note: &Note, keys: &[VerifierKey]) -> Result<Self> {
        let checkpoint: Checkpoint = note.text().parse()?;
        let origin = origin(&checkpoint.log);
        if note.verify(keys)?.iter().any(|key| key.name() == origin) {
            Ok(checkpoint)
        } else {
            Err(Error::new(Reason::SignatureInvalid, "a checkpoint must be signed by a key of its own log"))
        }
    }

    /// Checks that this checkpoint continues an earlier one of the same log: the earlier tree is the beginning of this
    /// one, and no other log got shorter or lost.
    ///
    /// # Errors
    /// `SIGNATURE_INVALID`, saying in which way the two contradict each other.
    pub fn continues(&self, earlier: &Checkpoint, path: &[TreeHash]) -> Result<()> {
        let contradiction = |words: String| Err(Error::new(Reason::SignatureInvalid, words));
        if self.log != earlier.log {
            return contradiction(format!("checkpoints of two logs, {} and {}", earlier.log, self.log));
        }
        if self.size == earlier.size && (self.root, self.chain) != (earlier.root, earlier.chain) {
            return contradiction(format!("two different logs of {} records were signed: a fork", self.size));
        }
        verify_consistency((earlier.size, earlier.root), (self.size, self.root), path)?;
        for before in &earlier.others {
            match self.others.iter().find(|now| now.log == before.log) {
                None => return contradiction(format!("log {} is missing from the later checkpoint", before.log)),
                Some(now) if now.size < before.size || now.size == before.size && now.chain != before.chain => {
                    return contradiction(format!(
                        "log {} does not continue what an earlier checkpoint says",
                        before.log
                    ));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{ORIGIN}{}\n{}\n{}\nchain {}", self.log, self.size, self.root, self.chain)?;
        self.others.iter().try_for_each(|other| writeln!(f, "other {} {} {}", other.log, other.size, other.chain))
    }
}

impl FromStr for Checkpoint {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let not = || malformed("not a checkpoint of a log");
        let mut lines = text.lines();
        let mut line = |start: &str| lines.next().and_then(|line| line.strip_prefix(start)).ok_or_else(not);
        let log = line(ORIGIN)?.to_owned();
        let size = line("")?.parse().map_err(|_| not())?;
        let root = line("")?.parse()?;
        let chain = chain_hash(line("chain ")?).ok_or_else(not)?;
        let others: Vec<OtherHead> = lines.map(other_head).collect::<Option<_>>().ok_or_else(not)?;
        let checkpoint = Checkpoint { log, size, root, chain, others };
        let ordered = checkpoint.others.is_sorted_by(|a, b| a.log < b.log);
        let names = checkpoint.others.iter().map(|other| &other.log).chain([&checkpoint.log]);
        // Numbers and hashes have other spellings too; only the one that we write counts.
        if ordered && names.into_iter().all(|name| is_key_name(name)) && checkpoint.to_string() == text {
            Ok(checkpoint)
        } else {
            Err(not())
        }
    }
}

fn other_head(line: &str) -> Option<OtherHead> {
    let mut words = line.strip_prefix("other ")?.split(' ');
    let (log, size, chain) = (words.next()?.to_owned(), words.next()?.parse().ok()?, chain_hash(words.next()?)?);
    words.next().is_none().then_some(OtherHead { log, size, chain })
}

fn chain_hash(text: &str) -> Option<ChainHash> {
    let mut hash = [0; 32];
    hex::decode_to_slice(text, &mut hash).ok().map(|()| ChainHash(hash))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::audit::merkle::{Frontier, consistency_path};
    use crate::audit::note::tests::Signer;

    const LOG: &str = "0b8c64f4-2f3f-4c33-9d4f-0d53c3a5a1c7";

    fn leaves() -> Vec<TreeHash> {
        (0..9u8).map(|n| TreeHash::leaf(&[n])).collect()
    }

    fn checkpoint(size: u8) -> Checkpoint {
        let mut tree = Frontier::default();
        leaves()[..size.into()].iter().for_each(|leaf| tree.append(*leaf, |_, _, _| {}));
        let other = |log: &str, size| OtherHead { log: log.into(), size, chain: ChainHash([7; 32]) };
        let others = vec![other("5f0d2b1e", 17), other("77aa", 3)];
        Checkpoint { log: LOG.into(), size: size.into(), root: tree.root(), chain: ChainHash([size; 32]), others }
    }

    #[test]
    fn a_checkpoint_is_written_as_documented_and_reads_back() {
        let root = TreeHash::leaf(&[0]);
        let (one, seven) = ("01".repeat(32), "07".repeat(32));
        let text =
            format!("keyward/log/{LOG}\n1\n{root}\nchain {one}\nother 5f0d2b1e 17 {seven}\nother 77aa 3 {seven}\n");
        assert_eq!(checkpoint(1).to_string(), text);
        assert_eq!(text.parse::<Checkpoint>().unwrap(), checkpoint(1));
        assert_eq!(checkpoint(1).note().unwrap().text(), text);
        let alone = Checkpoint { others: vec![], ..checkpoint(0) };
        assert_eq!(alone.to_string().parse::<Checkpoint>().unwrap(), alone);
    }

    #[test]
    fn any_other_spelling_of_a_checkpoint_is_refused() {
        let good = checkpoint(1).to_string();
        for (what, text) in [
            ("empty", String::new()),
            ("cut", good.lines().take(3).map(|line| format!("{line}\n")).collect()),
            ("no last newline", good.trim_end().into()),
            ("a line more", format!("{good}time 2026-11-23\n")),
            ("an empty line more", format!("{good}\n")),
            ("another origin", good.replace("keyward/log", "example.com/log")),
            ("no id", good.replace(LOG, "")),
            ("an id of two words", good.replace(LOG, "a b")),
            ("zeros in front", good.replace("\n1\n", "\n01\n")),
            ("a sign in front", good.replace("\n1\n", "\n+1\n")),
            ("a short root", good.replacen('=', "", 1)),
            ("capital digits", good.replace("0707", "0a0a").replace("0a0a", "0A0A")),
            ("carriage returns", good.replace('\n', "\r\n")),
            ("others out of order", good.replace("5f0d2b1e", "99")),
            ("an other twice", good.replace("77aa", "5f0d2b1e")),
            ("an other cut", good.replace(" 17 ", " ")),
        ] {
            assert_eq!(text.parse::<Checkpoint>().unwrap_err().reason(), Reason::InvalidArgument, "{what}");
        }
        let unsorted = Checkpoint { others: checkpoint(1).others.into_iter().rev().collect(), ..checkpoint(1) };
        assert!(unsorted.note().is_err());
        assert!(Checkpoint { log: "a\nb".into(), ..checkpoint(1) }.note().is_err());
    }

    #[test]
    fn a_checkpoint_needs_the_signature_of_its_own_log() {
        let (own, witness) = (Signer::new(&origin(LOG)), Signer::new(&origin("5f0d2b1e")));
        let keys = [own.key.clone(), witness.key.clone()];
        let mut note = checkpoint(4).note().unwrap();
        witness.sign(&mut note);
        assert_eq!(Checkpoint::open(&note, &keys).unwrap_err().reason(), Reason::SignatureInvalid);
        own.sign(&mut note);
        assert_eq!(Checkpoint::open(&note, &keys).unwrap(), checkpoint(4));
        assert!(Checkpoint::open(&note, &keys[1..]).is_err());
        let imitation = Signer::new(&origin(LOG));
        assert!(Checkpoint::open(&note, &[imitation.key]).is_err());
    }

    #[test]
    fn every_flipped_bit_of_a_signed_checkpoint_is_refused() {
        let own = Signer::new(&origin(LOG));
        let mut note = checkpoint(4).note().unwrap();
        own.sign(&mut note);
        let bytes = note.to_string().into_bytes();
        for (byte, bit) in (0..bytes.len()).flat_map(|byte| (0..8).map(move |bit| (byte, bit))) {
            let mut changed = bytes.clone();
            changed[byte] ^= 1 << bit;
            let read = std::str::from_utf8(&changed).ok().and_then(|text| text.parse::<Note>().ok());
            let opened = read.and_then(|note| Checkpoint::open(&note, std::slice::from_ref(&own.key)).ok());
            assert!(opened.is_none(), "byte {byte} bit {bit}");
        }
    }

    #[test]
    fn checkpoints_that_contradict_an_earlier_one_are_told_apart() {
        let later = checkpoint(7);
        let path = consistency_path(4, 7, &mut &leaves()[..]).unwrap();
        later.continues(&checkpoint(4), &path).unwrap();
        later.continues(&later.clone(), &[]).unwrap();
        let with = |change: fn(&mut Checkpoint)| {
            let mut changed = checkpoint(4);
            change(&mut changed);
            changed
        };
        for (earlier, words) in [
            (with(|c| c.log = "x".into()), "two logs"),
            (with(|c| c.root = TreeHash([0; 32])), "does not continue"),
            (with(|c| c.size = 5), "does not continue"),
            (with(|c| c.others[1].size = 4), "log 77aa does not continue"),
            (with(|c| c.others[1].chain = ChainHash::ZERO), "log 77aa does not continue"),
            (with(|c| c.others[1].log = "88".into()), "log 88 is missing"),
        ] {
            let error = later.continues(&earlier, &path).unwrap_err();
            assert!(error.message().contains(words), "{words}: {error}");
        }
        let fork = Checkpoint { chain: ChainHash::ZERO, ..later.clone() };
        assert!(later.continues(&fork, &[]).unwrap_err().message().contains("a fork"));
        assert!(checkpoint(4).continues(&later, &path).is_err(), "backwards");
    }
}
