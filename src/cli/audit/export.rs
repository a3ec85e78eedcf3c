//! `keyward audit export`: goes on where an export that was broken off ended.

use std::fs::{File, TryLockError};
use std::io::{BufRead, BufReader, BufWriter, IsTerminal, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::audit::chain::Head;
use crate::audit::checkpoint::Checkpoint;
use crate::audit::line::Line;
use crate::audit::note::Note;
use crate::audit::verify::LINE_BYTES_MAX;
use crate::cli::audit::{CHECKPOINT, RECORDS, TRUST};
use crate::cli::{Global, connect, output};
use crate::error::{Error, Reason, Result};
use crate::faultpoint;
use crate::grpc::client::failed;
use crate::grpc::v1;

/// Time between two words about how far an export is, in milliseconds.
const PROGRESS_MS: u64 = 1000;

pub(super) async fn export(out: &Path, global: &Global) -> Result<()> {
    let connection = connect::operator(&global.data).await?;
    std::fs::create_dir_all(out).map_err(|fault| output::unwritable(out, &fault))?;
    let whole = out.join(RECORDS);
    let mut partial = Partial::open(vacant(out)?)?;
    faultpoint::reach("begun", "export").await;
    let request = v1::ExportLogRequest {
        start_seq: i64::try_from(partial.records()).unwrap_or(i64::MAX),
        start_sha256: partial.at.as_ref().map(|at| at.chain.to_string()).unwrap_or_default(),
    };
    let mut stream = connection.audit().export_log(request).await.map_err(failed)?.into_inner();
    let mut last = v1::ExportLogResponse::default();
    let mut progress = Progress::default();
    while let Some(message) = stream.message().await.map_err(failed)? {
        for record in &message.records {
            partial.append(record)?;
        }
        progress.tell(partial.records(), message.log_size);
        last = message;
    }
    if last.checkpoint.is_empty() {
        return Err(Error::new(Reason::PeerRefused, "the export ended before its end")
            .hint("run it again: it goes on where it ended"));
    }
    let end: Checkpoint = last.checkpoint.parse::<Note>()?.text().parse()?;
    faultpoint::reach("received", "export").await;
    partial.seal(&end)?;
    // The records get their name last: an export that has it is whole, and one that has not is gone on with.
    for (name, content) in [(TRUST, &last.trust), (CHECKPOINT, &last.checkpoint)] {
        output::write_over(&out.join(name), &partial_path(out, name), content.as_bytes())?;
        faultpoint::reach(name, "export").await;
    }
    partial.name(&whole)?;
    let shown = json!({
        "records": end.size,
        "log": end.log,
        "last_record": end.chain.to_string(),
        "root": end.root.to_string(),
        "directory": out.display().to_string(),
    });
    output::object(global.output, &shown);
    Ok(())
}

/// Where what belongs to an export stands until it is whole.
fn partial_path(out: &Path, name: &str) -> PathBuf {
    out.join(format!("{name}.partial"))
}

/// The file that records are to come into. None of another export, and no checkpoint or trust file that is not of the one
/// that was broken off here, is written over.
fn vacant(out: &Path) -> Result<PathBuf> {
    let partial = partial_path(out, RECORDS);
    let names: &[&str] = if partial.exists() { &[RECORDS] } else { &[RECORDS, CHECKPOINT, TRUST] };
    match names.iter().map(|name| out.join(name)).find(|path| path.exists()) {
        Some(taken) => Err(output::unwritable(&taken, &std::io::ErrorKind::AlreadyExists.into())),
        None => Ok(partial),
    }
}

/// Records that came so far, in a file that gets its name when all are there.
struct Partial {
    path: PathBuf,
    file: BufWriter<File>,
    /// Where the records in it end; none if there are none.
    at: Option<Head>,
}

impl Partial {
    /// Takes up what an earlier export left. Each record is checked; one that is cut off at the end is dropped.
    fn open(path: PathBuf) -> Result<Self> {
        let fault = |fault| output::unwritable(&path, &fault);
        let file = File::options().create(true).read(true).write(true).truncate(false).open(&path).map_err(fault)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::new(Reason::InvalidArgument, format!("another export writes {}", path.display()))
                    .hint("wait for it, or choose another directory"));
            }
            Err(TryLockError::Error(cause)) => return Err(fault(cause)),
        }
        let (at, bytes) = held(&file, &path)?;
        file.set_len(bytes).map_err(fault)?;
        let mut file = file;
        file.seek(SeekFrom::Start(bytes)).map_err(fault)?;
        if let Some(at) = &at {
            eprintln!("going on after {} records of an export that was broken off", at.size);
        }
        Ok(Partial { file: BufWriter::new(file), path, at })
    }

    fn records(&self) -> u64 {
        self.at.as_ref().map_or(0, |at| at.size)
    }

    fn append(&mut self, record: &[u8]) -> Result<()> {
        follow(&mut self.at, record).map_err(|fault| {
            fault.while_doing("the service sent what does not follow").hint("verify its log: keyward audit verify")
        })?;
        let written = self.file.write_all(record).and_then(|()| self.file.write_all(b"\n"));
        written.map_err(|fault| output::unwritable(&self.path, &fault))
    }

    /// Sees to it that the file holds what the checkpoint says, on the disk.
    fn seal(&mut self, end: &Checkpoint) -> Result<()> {
        let is_end = self.at.as_ref().is_some_and(|at| (&at.log, at.size, at.chain) == (&end.log, end.size, end.chain));
        if !is_end {
            return Err(Error::new(Reason::PeerRefused, "the records that came are not those of the checkpoint"));
        }
        let synced = self.file.flush().and_then(|()| self.file.get_ref().sync_all());
        synced.map_err(|fault| output::unwritable(&self.path, &fault))
    }

    /// Gives the file its name.
    fn name(self, whole: &Path) -> Result<()> {
        std::fs::rename(&self.path, whole).map_err(|fault| output::unwritable(whole, &fault))
    }
}

/// What a file of records holds: where they end, and how many bytes they take.
fn held(file: &File, path: &Path) -> Result<(Option<Head>, u64)> {
    let mut lines = BufReader::new(file);
    let (mut at, mut bytes, mut line) = (None, 0, Vec::new());
    loop {
        line.clear();
        let read = std::io::Read::take(&mut lines, LINE_BYTES_MAX as u64 + 1).read_until(b'\n', &mut line);
        let read = read.map_err(|fault| output::unwritable(path, &fault))?;
        let Some(record) = line.strip_suffix(b"\n") else { return Ok((at, bytes)) };
        let number = at.as_ref().map_or(0, |at: &Head| at.size);
        follow(&mut at, record).map_err(|fault| {
            let words = format!("{} cannot be gone on with: record {number}", path.display());
            fault.while_doing(words).hint("it was changed since it was written: move it away, then export again")
        })?;
        bytes += read as u64;
    }
}

fn follow(at: &mut Option<Head>, record: &[u8]) -> Result<()> {
    let head = match at {
        Some(head) => head,
        None => at.insert(Head::empty(Line::read(record)?.log)),
    };
    head.follow(record)
}

/// Words about how far it is, for work that takes longer than a moment.
struct Progress {
    told: Instant,
    /// Whether the last line of a terminal is one of these words.
    over: bool,
}

impl Default for Progress {
    fn default() -> Self {
        Progress { told: Instant::now(), over: false }
    }
}

impl Progress {
    fn tell(&mut self, done: u64, all: i64) {
        if self.told.elapsed() < Duration::from_millis(PROGRESS_MS) {
            return;
        }
        self.told = Instant::now();
        match std::mem::replace(&mut self.over, std::io::stderr().is_terminal()) {
            true => output::tell_over(format_args!("{}\n", words(done, all))),
            false => eprintln!("{}", words(done, all)),
        }
    }
}

fn words(done: u64, all: i64) -> String {
    let all = u64::try_from(all).unwrap_or(0).max(done);
    format!("{done} of {all} records, {} %", done * 100 / all.max(1))
}

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn progress_says_how_far_it_is() {
        assert_eq!(words(0, 8), "0 of 8 records, 0 %");
        assert_eq!(words(5, 8), "5 of 8 records, 62 %");
        // A log that grows meanwhile, and one of which nothing is known.
        assert_eq!(words(9, 8), "9 of 9 records, 100 %");
        assert_eq!(words(0, -1), "0 of 0 records, 0 %");
    }
}
