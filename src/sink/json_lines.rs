//! The log as JSON lines in a file, which is turned over when it has its size.
//!
//! A line is `{"seq":4,"sha256":"…","record":{…}}`, the record in its canonical bytes. Where the copy ended stands in
//! the file itself: its last whole line. So it has no gap and no record twice, whatever happens in between. What a power cut
//! takes of it is copied once more; a file is on the disk before the next one is begun.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::audit::chain::ChainHash;
use crate::error::{Error, Reason, Result};
use crate::sink::{Copied, End, Sink};

/// Bytes at the end of a file among which its last whole line is looked for: more than the longest line.
const TAIL_BYTES: u64 = 1024 * 1024;

/// How every line begins.
const LINE_BEGINS: &[u8] = b"{\"seq\":";

/// A file of JSON lines.
pub struct JsonLines {
    path: PathBuf,
    bytes_max: u64,
    keep: u32,
    open: Option<Open>,
    /// Where what was written in this run ends.
    written: Option<End>,
}

struct Open {
    file: File,
    bytes: u64,
    buffer: Vec<u8>,
    /// Where what is in the buffer ends.
    end: End,
}

/// What the end of a file shows.
#[derive(Deserialize)]
struct Last {
    seq: u64,
    sha256: ChainHash,
    record: LastRecord,
}

#[derive(Deserialize)]
struct LastRecord {
    log: String,
}

impl JsonLines {
    /// A file that is turned over when it would get longer than so many bytes; so many older ones are kept, as `.1`, `.2`
    /// and so on.
    #[must_use]
    pub fn new(path: PathBuf, bytes_max: u64, keep: u32) -> Self {
        JsonLines { path, bytes_max, keep, open: None, written: None }
    }

    fn turned(&self, age: u32) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{age}"));
        name.into()
    }

    /// Puts the file behind the others and begins a new one.
    fn turn_over(&mut self) -> Result<()> {
        self.flush()?;
        let fault = |fault| unusable(&self.path, &fault);
        self.open.as_ref().map_or(Ok(()), |open| open.file.sync_all()).map_err(fault)?;
        for age in (1..=self.keep).rev() {
            let from = if age == 1 { self.path.clone() } else { self.turned(age - 1) };
            match std::fs::rename(&from, self.turned(age)) {
                Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => return Err(fault(cause)),
                _ => {}
            }
        }
        if self.keep == 0 {
            std::fs::remove_file(&self.path).map_err(fault)?;
        }
        let end = self.written.clone().unwrap_or_default();
        self.open = Some(Open { file: appendable(&self.path)?, bytes: 0, buffer: Vec::new(), end });
        Ok(())
    }

    /// Whether the file that is written is still the one of this name.
    fn is_in_place(&self) -> bool {
        let Some(open) = &self.open else { return false };
        let (Ok(ours), Ok(there)) = (open.file.metadata(), std::fs::metadata(&self.path)) else { return false };
        (ours.dev(), ours.ino()) == (there.dev(), there.ino())
    }
}

impl Sink for JsonLines {
    fn open(&mut self, log: &str) -> Result<End> {
        self.open = None;
        if let Some(directory) = self.path.parent() {
            std::fs::create_dir_all(directory).map_err(|fault| unusable(&self.path, &fault))?;
        }
        let mut file = appendable(&self.path)?;
        let (mut last, bytes) = last_line(&mut file, &self.path)?;
        // Another program may have turned it over, or we were ended in doing so.
        let older = self.turned(1);
        if last.is_none() && older.exists() {
            let mut file = File::open(&older).map_err(|fault| unusable(&older, &fault))?;
            last = last_line(&mut file, &older)?.0;
        }
        if let Some(last) = &last
            && last.record.log != log
        {
            let words = format!("{} is a copy of log {}, not of {log}", self.path.display(), last.record.log);
            return Err(Error::new(Reason::ConfigInvalid, words).hint("move it away, or name another file"));
        }
        // What a crash left of a line goes.
        file.set_len(bytes).map_err(|fault| unusable(&self.path, &fault))?;
        // A file that another program took away while we wrote it is gone on from in a new one.
        let written = || self.written.clone().unwrap_or_default();
        let end = last.map_or_else(written, |last| End::behind(last.seq, last.sha256));
        self.open = Some(Open { file, bytes, buffer: Vec::new(), end: end.clone() });
        Ok(end)
    }

    fn copy(&mut self, record: &Copied) -> Result<()> {
        let Copied { seq, sha256, record, .. } = record;
        let mut line = format!("{{\"seq\":{seq},\"sha256\":\"{sha256}\",\"record\":").into_bytes();
        line.extend_from_slice(record);
        line.extend_from_slice(b"}\n");
        let held = self.open.as_ref().map_or(0, |open| open.bytes);
        if held > 0 && held + line.len() as u64 > self.bytes_max {
            self.turn_over()?;
        }
        let open = self.open.as_mut().ok_or_else(|| Error::new(Reason::Internal, "the copy is not open"))?;
        open.bytes += line.len() as u64;
        open.buffer.extend_from_slice(&line);
        open.end = End::behind(*seq, *sha256);
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        if !self.is_in_place() {
            self.open = None;
            return Err(Error::new(Reason::ConfigInvalid, format!("{} was moved or removed", self.path.display())));
        }
        let Some(open) = &mut self.open else { return Ok(()) };
        let written = open.file.write_all(&open.buffer);
        open.buffer.clear();
        written.map_err(|fault| unusable(&self.path, &fault))?;
        self.written = Some(open.end.clone());
        Ok(())
    }
}

fn appendable(path: &Path) -> Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let options = File::options().create(true).append(true).read(true).mode(0o640).open(path);
    options.map_err(|fault| unusable(path, &fault))
}

/// The last whole line of a file, and how many bytes there are up to its end. What a crash leaves behind that is no line of
/// ours: a part of one, or blocks that were never written, which read as zeros; in a line there are none.
fn last_line(file: &mut File, path: &Path) -> Result<(Option<Last>, u64)> {
    let fault = |fault| unusable(path, &fault);
    let mut end = file.seek(SeekFrom::End(0)).map_err(fault)?;
    let mut blank = true;
    loop {
        let begin = end.saturating_sub(TAIL_BYTES);
        file.seek(SeekFrom::Start(begin)).map_err(fault)?;
        let mut tail = Vec::new();
        Read::take(&mut *file, end - begin).read_to_end(&mut tail).map_err(fault)?;
        blank &= tail.iter().all(|byte| *byte == 0);
        if let Some(zero) = tail.iter().position(|byte| *byte == 0) {
            end = begin + zero as u64;
            continue;
        }
        let Some(feed) = tail.iter().rposition(|byte| *byte == b'\n') else {
            // Nothing, or what is left of a first line; else it is somebody else's.
            let is_begun = tail.iter().zip(LINE_BEGINS).all(|(there, ours)| there == ours) && blank == tail.is_empty();
            return if begin == 0 && is_begun { Ok((None, 0)) } else { Err(not_ours(path)) };
        };
        let line = tail[..feed].rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
        let last = serde_json::from_slice(line).map_err(|_| not_ours(path))?;
        return Ok((Some(last), begin + feed as u64 + 1));
    }
}

fn not_ours(path: &Path) -> Error {
    Error::new(Reason::ConfigInvalid, format!("{} is no copy of a log, and is left as it is", path.display()))
        .hint("move it away, or name another file")
}

fn unusable(path: &Path, fault: &std::io::Error) -> Error {
    Error::new(Reason::ConfigInvalid, format!("{} cannot be written: {fault}", path.display()))
}
