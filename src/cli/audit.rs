//! `keyward audit`: the log's export, and its verification without a service.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::audit::checkpoint::Checkpoint;
use crate::audit::note::Note;
use crate::audit::trust::Trust;
use crate::audit::verify::{self, Report};
use crate::cli::{Global, anchor, connect, output, prove, runtime};
use crate::error::{Error, Reason, Result};
use crate::grpc::client::failed;
use crate::grpc::v1;

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Write all records of the log, a checkpoint signed over them, and the keys to verify it with
    Export {
        /// The directory for audit.jsonl, audit.checkpoint and audit.trust, which must not be there yet
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Check an export, offline: exit 0 if it holds, 1 if it is broken, 2 if it is incomplete or without trust, 3 if it
    /// cannot be read
    Verify {
        /// audit.jsonl of an export
        file: PathBuf,
        /// Its checkpoint; audit.checkpoint beside the file if left out
        #[arg(long, value_name = "FILE")]
        checkpoint: Option<PathBuf>,
        /// audit.trust as it was given out when the instance was made, not that of the export
        #[arg(long, value_name = "FILE")]
        trust: Option<PathBuf>,
    },
    /// Write a proof that a record is in the log, or that the log continues an earlier checkpoint
    Prove(prove::Args),
    /// Check such a proof, offline: exit 0 if it holds, 1 if not, 3 if something cannot be read
    VerifyProof(prove::VerifyArgs),
    /// Write the signed checkpoint of the log as it ends now
    Checkpoint {
        /// The file to make
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Sign another instance's checkpoint with this instance's audit key, if it continues the one signed before
    Countersign(prove::CountersignArgs),
    /// Put a new key, made in the token, in the place of the audit key; both sign the change
    RotateKey,
    /// Go on from a store that is older than its anchor, or another: shows what is lost. The service must be stopped
    ReAnchor {
        /// The words that this command shows when it is run without them
        #[arg(long, value_name = "WORDS")]
        confirm: Option<String>,
    },
}

pub(super) fn run(command: Command, global: &Global) -> Result<u8> {
    match command {
        Command::Export { out } => {
            runtime()?.block_on(export(&out, global))?;
            Ok(0)
        }
        Command::Verify { file, checkpoint, trust } => {
            let beside = checkpoint.unwrap_or_else(|| file.with_file_name(CHECKPOINT));
            Ok(verify(&file, &beside, trust.as_deref(), global))
        }
        Command::Prove(args) => prove::run(&args, global),
        Command::VerifyProof(args) => Ok(prove::verify(&args, global)),
        Command::Checkpoint { out } => runtime()?.block_on(prove::checkpoint_of_service(&out, global)).map(|()| 0),
        Command::Countersign(args) => runtime()?.block_on(prove::countersign(&args, global)).map(|()| 0),
        Command::RotateKey => runtime()?.block_on(prove::rotate_key(global)).map(|()| 0),
        Command::ReAnchor { confirm } => anchor::re_anchor(confirm.as_deref(), global),
    }
}

const RECORDS: &str = "audit.jsonl";
const CHECKPOINT: &str = "audit.checkpoint";
const TRUST: &str = "audit.trust";

async fn export(out: &Path, global: &Global) -> Result<()> {
    let connection = connect::operator(&global.data).await?;
    std::fs::create_dir_all(out).map_err(|fault| output::unwritable(out, &fault))?;
    // Each is removed again unless all are whole.
    let paths = [RECORDS, CHECKPOINT, TRUST].map(|name| out.join(name));
    let mut records = output::NewFile::create(&paths[0], 0o644)?;
    let checkpoint = output::NewFile::create(&paths[1], 0o644)?;
    let trust = output::NewFile::create(&paths[2], 0o644)?;
    let mut stream = connection.audit().export_log(v1::ExportLogRequest {}).await.map_err(failed)?.into_inner();
    let mut last = v1::ExportLogResponse::default();
    while let Some(message) = stream.message().await.map_err(failed)? {
        for record in &message.records {
            records.write(record)?;
            records.write(b"\n")?;
        }
        last = message;
    }
    if last.checkpoint.is_empty() {
        return Err(Error::new(Reason::PeerRefused, "the export ended before its end").hint("run it again"));
    }
    let end: Checkpoint = last.checkpoint.parse::<Note>()?.text().parse()?;
    records.finish(b"")?;
    trust.finish(last.trust.as_bytes())?;
    checkpoint.finish(last.checkpoint.as_bytes())?;
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

/// Verifies and prints; the result is the exit code.
fn verify(file: &Path, checkpoint: &Path, trust: Option<&Path>, global: &Global) -> u8 {
    match read(file, checkpoint, trust) {
        Ok(report) => {
            print(&report, file, global);
            match (&report.broken, report.complete) {
                (Some(_), _) => 1,
                (None, true) => 0,
                (None, false) => 2,
            }
        }
        Err(fault) => {
            output::fault(&fault);
            if fault.reason() == Reason::SignatureInvalid { 1 } else { 3 }
        }
    }
}

/// Reads what is there. A checkpoint counts only if the trusted keys signed it.
fn read(file: &Path, checkpoint: &Path, trust: Option<&Path>) -> Result<Report> {
    let files = "name the files of one export, and audit.trust as it was given out";
    let unreadable = |path: &Path, fault: std::io::Error| output::unreadable(path, &fault, files);
    let text = |path: &Path| std::fs::read_to_string(path).map_err(|fault| unreadable(path, fault));
    let wrong = |path: &Path, fault: Error| {
        let hint = match fault.reason() {
            Reason::SignatureInvalid => {
                "get audit.trust once more from whoever made the instance: with the right one, this is forged"
            }
            _ => files,
        };
        fault.while_doing(path.display()).hint(hint)
    };
    let checkpoint = match trust {
        None => None,
        Some(trust) => {
            let keys: Trust = text(trust)?.parse().map_err(|fault| wrong(trust, fault))?;
            let note: Note = text(checkpoint)?.parse().map_err(|fault| wrong(checkpoint, fault))?;
            Some(keys.checkpoint(&note).map_err(|fault| wrong(checkpoint, fault))?)
        }
    };
    let lines = File::open(file).map_err(|fault| unreadable(file, fault))?;
    verify::export(BufReader::new(lines), checkpoint.as_ref()).map_err(|fault| unreadable(file, fault))
}

fn print(report: &Report, file: &Path, global: &Global) {
    if global.output == output::Format::Json {
        println!("{:#}", json!(report));
        return;
    }
    println!("log      {}", report.log.as_deref().unwrap_or("unknown"));
    println!("records  {} hold", report.records);
    let events: Vec<String> = report.events.iter().map(|(event, count)| format!("{event} {count}")).collect();
    println!("events   {}", events.join(", "));
    if !report.open_intents.is_empty() {
        println!("open     intents without an outcome: {:?}", report.open_intents);
    }
    match &report.broken {
        Some(broken) => println!("BROKEN   {} line {}: {}", file.display(), broken.line, broken.message),
        None if report.complete => {
            println!("good     every record follows from the one before, up to the signed checkpoint")
        }
        None => {
            println!(
                "partial  the records follow from each other; without --trust nothing shows who wrote them, or lines cut from the end"
            )
        }
    }
}
