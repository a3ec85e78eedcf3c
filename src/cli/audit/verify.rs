//! `keyward audit verify`: an export, offline, or all that the store of a stopped service holds.

use std::fs::File;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::audit::checkpoint::Checkpoint;
use crate::audit::note::Note;
use crate::audit::trust::Trust;
use crate::audit::verify::{self, Finding, Report, Verifier};
use crate::cli::audit::ahead::Ahead;
use crate::cli::audit::{CHECKPOINT, TRUST};
use crate::cli::{Global, output, runtime};
use crate::config::Config;
use crate::error::{Error, Reason};
use crate::serve;

/// What to do about a file that cannot be read.
const FILES: &str = "name the files of one export, and audit.trust as it was given out";

#[derive(clap::Args)]
pub(in crate::cli) struct Args {
    /// audit.jsonl of an export. Without it, the store of the data directory is checked, log and objects, while its service
    /// is stopped
    file: Option<PathBuf>,
    /// Its checkpoint; audit.checkpoint beside the file if left out
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    /// audit.trust as it was given out when the instance was made, not that of the export. For a store, that of the data
    /// directory if left out; that of each other log of its database too (may be repeated), of which otherwise counts what
    /// the own log has seen
    #[arg(long, value_name = "FILE")]
    trust: Vec<PathBuf>,
    /// A checkpoint of this log that is known from elsewhere, such as an earlier export (may be repeated): with it, a log
    /// that was put back to an older state or signed twice is found out
    #[arg(long, value_name = "FILE", requires = "trust")]
    seen: Vec<PathBuf>,
}

/// Verifies and prints; the result is the exit code.
pub(super) fn run(args: &Args, global: &Global) -> u8 {
    match verify(args, global) {
        Ok(report) => {
            print(&report, args, global);
            match report.finding {
                Finding::Good => 0,
                Finding::Untrusted | Finding::Torn => 2,
                _ => 1,
            }
        }
        Err(fault) => {
            output::fault(&fault);
            3
        }
    }
}

/// What is there; an error only if it cannot be read.
fn verify(args: &Args, global: &Global) -> Result<Report, Error> {
    let mut verifier = Verifier::new(None);
    let mut trusted = Vec::new();
    if args.file.is_some() && args.trust.len() > 1 {
        return Err(Error::new(Reason::InvalidArgument, "an export is of one log, and has one audit.trust").hint(FILES));
    }
    for trust in &args.trust {
        let keys: Trust =
            text(trust)?.parse().map_err(|fault: Error| fault.while_doing(trust.display()).hint(FILES))?;
        trusted.push(keys);
    }
    // A checkpoint that is named beside a store is of the log that is named first.
    if let Some(keys) = trusted.first().cloned() {
        // The keys may have changed since: those of the export count if they continue the trusted ones.
        let later = args.file.as_ref().and_then(|file| text(&file.with_file_name(TRUST)).ok()?.parse().ok());
        let keys = keys.followed(later);
        let beside = || args.file.as_ref().map(|file| file.with_file_name(CHECKPOINT));
        if let Some(own) = args.checkpoint.clone().or_else(beside) {
            match open(&own, &keys)? {
                Ok(checkpoint) => verifier = Verifier::new(Some(checkpoint)),
                Err(report) => return Ok(report),
            }
        }
        for seen in &args.seen {
            match open(seen, &keys)? {
                Ok(checkpoint) => verifier = verifier.seen(checkpoint),
                Err(report) => return Ok(report),
            }
        }
    }
    let Some(file) = &args.file else {
        let config = Config::load(&global.data)?;
        return runtime()?.block_on(serve::inspect_store(&config, verifier, trusted)).or_else(|fault| {
            match fault.reason() {
                Reason::RecordBroken => {
                    output::fault(&fault);
                    Ok(Report::without_records(Finding::StoreBroken, fault.message().to_owned()))
                }
                _ => Err(fault),
            }
        });
    };
    let lines = File::open(file).and_then(Ahead::of);
    lines.and_then(|lines| verify::export(lines, verifier)).map_err(|fault| unreadable(file, &fault))
}

/// A checkpoint counts only if the trusted keys signed it. The report says why it does not.
fn open(path: &Path, trust: &Trust) -> Result<Result<Checkpoint, Report>, Error> {
    let note: Note = text(path)?.parse().map_err(|fault: Error| fault.while_doing(path.display()).hint(FILES))?;
    match verify::open_checkpoint(&note, trust) {
        Ok(checkpoint) => Ok(Ok(checkpoint)),
        Err((_, fault)) if fault.reason() == Reason::InvalidArgument => {
            Err(fault.while_doing(path.display()).hint(FILES))
        }
        Err((finding, fault)) => {
            let fault = fault
                .while_doing(path.display())
                .hint("get audit.trust once more from whoever made the instance: with the right one, this is forged");
            output::fault(&fault);
            Ok(Err(Report::without_records(finding, fault.message().to_owned())))
        }
    }
}

fn text(path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|fault| unreadable(path, &fault))
}

fn unreadable(path: &Path, fault: &std::io::Error) -> Error {
    output::unreadable(path, fault, FILES)
}

fn print(report: &Report, args: &Args, global: &Global) {
    if global.output == output::Format::Json {
        println!("{:#}", json!(report));
        return;
    }
    println!("log      {}", output::clean(report.log.as_deref().unwrap_or("unknown")));
    println!("records  {} hold", report.records);
    let events: Vec<String> = report.events.iter().map(|(event, count)| format!("{event} {count}")).collect();
    println!("events   {}", output::clean(&events.join(", ")));
    if !report.open_intents.is_empty() {
        println!("open     intents without an outcome: {:?}", report.open_intents);
    }
    for other in &report.beside {
        let log = output::clean(other.log.as_deref().unwrap_or("unknown"));
        println!("beside   log {log}: {} records hold, {}", other.records, name(other.finding));
    }
    if !report.others.is_empty() {
        println!(
            "others   logs of the same store, to be verified as well: {}",
            output::clean(&report.others.join(", "))
        );
    }
    match (&report.broken, report.finding) {
        (Some(why), Finding::Untrusted) => println!("partial  {}", output::clean(&why.message)),
        (Some(broken), finding) => {
            let line = if broken.line == 0 { String::new() } else { format!(" line {}", broken.line) };
            let place = args.file.as_ref().map_or(line.clone(), |file| format!(" {}{line}", file.display()));
            println!("BROKEN   {}{place}: {}", name(finding), output::clean(&broken.message));
        }
        (None, Finding::Good) => {
            println!("good     every record follows from the one before, up to the signed checkpoint");
            if args.trust.is_empty() {
                println!("trust    the keys are those of the data directory: give --trust the file that was given out");
            }
        }
        (None, Finding::Torn) => {
            println!(
                "torn     the last record is cut off, as a crash leaves it; those before it follow from each other"
            );
        }
        (None, _) if args.file.is_none() => {
            println!(
                "partial  the records of each log follow from each other; the last ones of one are not signed yet, or nobody \
                 vouches for its key: give its audit.trust with --trust"
            );
        }
        (None, _) => println!(
            "partial  the records follow from each other; without --trust nothing shows who wrote them, or lines cut from the end"
        ),
    }
}

/// The name of a finding, as it stands in the JSON form.
fn name(finding: Finding) -> String {
    json!(finding).as_str().unwrap_or_default().to_owned()
}
