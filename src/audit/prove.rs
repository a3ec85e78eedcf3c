//! Proofs from an export alone, for who has no store and no service: the export is read twice, in constant memory.

use std::io::BufRead;

use crate::audit::checkpoint::Checkpoint;
use crate::audit::gathered::Gathered;
use crate::audit::merkle::{Frontier, TreeHash, inclusion_path, verify_inclusion};
use crate::audit::note::Note;
use crate::audit::proof::LogProof;
use crate::audit::record::{Event, OutcomeNote, Record};
use crate::audit::verify::LINE_BYTES_MAX;
use crate::error::{Error, Reason, Result};

/// Whether a record says that a token made this signature, given in base64 as records have it.
#[must_use]
pub fn tells_of_signature(record: &[u8], signature: &str) -> bool {
    // Reading every record of a long log as JSON would take most of the time.
    std::str::from_utf8(record).is_ok_and(|text| text.contains(signature))
        && Record::read(record).is_ok_and(|record| match record.event {
            Event::Outcome { result: OutcomeNote::Done { result }, .. } => result == signature,
            _ => false,
        })
}

/// The first record of an export that is the one looked for, and its place.
///
/// # Errors
/// `INVALID_ARGUMENT` if the export cannot be read.
pub fn find(lines: impl BufRead, is_it: impl Fn(&[u8]) -> bool) -> Result<Option<(u64, Vec<u8>)>> {
    let (mut place, mut found) = (0, None);
    each(lines, |record| {
        if is_it(record) {
            found = Some((place, record.to_vec()));
        }
        place += 1;
        found.is_none()
    })?;
    Ok(found)
}

/// The proof that the record at a place of an export is in the log, under the export's checkpoint.
///
/// # Errors
/// `INVALID_ARGUMENT` if the export cannot be read or has no such record; `RECORD_BROKEN` if it is not what the checkpoint
/// was signed over.
pub fn inclusion(lines: impl BufRead, place: u64, checkpoint: Note) -> Result<LogProof> {
    let signed: Checkpoint = checkpoint.text().parse()?;
    let mut gathered = Gathered::default();
    // The first time only to learn which subtrees it takes.
    inclusion_path(place, signed.size, &mut gathered)?;
    let mut tree = Frontier::default();
    let mut found = None;
    each(lines, |record| {
        if tree.size() == place {
            found = Some(record.to_vec());
        }
        tree.append(TreeHash::leaf(record), |level, index, hash| gathered.learn(level, index, hash));
        tree.size() < signed.size
    })?;
    let path = inclusion_path(place, signed.size, &mut gathered)?;
    let record = found.unwrap_or_default();
    if tree.root() != signed.root {
        return Err(Error::new(Reason::RecordBroken, "this export is not what its checkpoint was signed over")
            .hint("see what is wrong with it: keyward audit verify"));
    }
    verify_inclusion(TreeHash::leaf(&record), place, signed.size, &path, signed.root)?;
    Ok(LogProof { extra: Some(record), index: place, path, checkpoint })
}

/// Gives each record of an export, without the end of its line, until one is enough.
fn each(mut lines: impl BufRead, mut next: impl FnMut(&[u8]) -> bool) -> Result<()> {
    let unreadable = |words: String| Error::new(Reason::InvalidArgument, format!("the export cannot be read: {words}"));
    let mut line = Vec::new();
    loop {
        line.clear();
        let limited = std::io::Read::take(&mut lines, LINE_BYTES_MAX as u64 + 1).read_until(b'\n', &mut line);
        match limited.map_err(|fault| unreadable(fault.to_string()))? {
            0 => return Ok(()),
            _ => match line.strip_suffix(b"\n") {
                Some(record) if next(record) => {}
                Some(_) => return Ok(()),
                None => return Err(unreadable("a line is cut off, or longer than any record".to_owned())),
            },
        }
    }
}
