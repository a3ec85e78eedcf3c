//! `keyward audit`: the log's export, and its verification without a service.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::audit::chain::{ChainHash, Head};
use crate::audit::verify::{self, Report};
use crate::cli::{Global, connect, output, runtime};
use crate::error::{Error, Reason, Result};
use crate::grpc::client::failed;
use crate::grpc::v1;

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Write all records of the log, and where the log ends, to a new directory's files
    Export {
        /// The directory for audit.jsonl and audit.head
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Check an export, offline: exit 0 if it holds, 1 if it is broken, 2 without its head, 3 if it cannot be read
    Verify {
        /// audit.jsonl of an export
        file: PathBuf,
        /// Where the log ended: audit.head of the same export
        #[arg(long, value_name = "FILE")]
        head: Option<PathBuf>,
    },
}

pub(super) fn run(command: Command, global: &Global) -> Result<u8> {
    match command {
        Command::Export { out } => {
            runtime()?.block_on(export(&out, global))?;
            Ok(0)
        }
        Command::Verify { file, head } => Ok(verify(&file, head.as_deref(), global)),
    }
}

async fn export(out: &Path, global: &Global) -> Result<()> {
    std::fs::create_dir_all(out).map_err(|fault| unwritable(out, &fault))?;
    let path = out.join("audit.jsonl");
    let partial = out.join(".audit.jsonl.partial");
    let file = File::create(&partial).map_err(|fault| unwritable(&partial, &fault))?;
    let mut file = BufWriter::new(file);
    let connection = connect::operator(&global.data).await?;
    let mut stream =
        connection.audit().export_log(v1::ExportLogRequest { start: 0 }).await.map_err(failed)?.into_inner();
    let mut head = None;
    while let Some(message) = stream.message().await.map_err(failed)? {
        for record in &message.records {
            file.write_all(record)
                .and_then(|()| file.write_all(b"\n"))
                .map_err(|fault| unwritable(&partial, &fault))?;
        }
        head = message.head.or(head);
    }
    let head = head.ok_or_else(|| Error::new(Reason::PeerRefused, "the export ended before its end"))?;
    let chain = <[u8; 32]>::try_from(head.chain.as_slice())
        .map_err(|_| Error::new(Reason::PeerRefused, "the export's head has no hash"))?;
    let head = Head { log: head.log, size: head.size, chain: ChainHash(chain), time_us: head.time_us };
    file.into_inner()
        .map_err(std::io::IntoInnerError::into_error)
        .and_then(|file| file.sync_all())
        .and_then(|()| std::fs::rename(&partial, &path))
        .map_err(|fault| unwritable(&path, &fault))?;
    let text = serde_json_canonicalizer::to_string(&head)
        .map_err(|fault| Error::new(Reason::Internal, "the head cannot be written").detail(fault))?;
    let head_path = out.join("audit.head");
    std::fs::write(&head_path, text + "\n").map_err(|fault| unwritable(&head_path, &fault))?;
    let shown = json!({
        "records": head.size,
        "log": head.log,
        "last_record": head.chain.to_string(),
        "file": path.display().to_string(),
        "head": head_path.display().to_string(),
    });
    output::object(global.output, &shown);
    Ok(())
}

fn unwritable(path: &Path, fault: &std::io::Error) -> Error {
    Error::new(Reason::InvalidArgument, format!("{} cannot be written: {fault}", path.display()))
        .hint("choose a place that this user may write, with enough space")
}

/// Verifies and prints; the result is the exit code.
fn verify(file: &Path, head: Option<&Path>, global: &Global) -> u8 {
    match read(file, head) {
        Ok(report) => {
            print(&report, file, global);
            match (&report.broken, report.complete) {
                (Some(_), _) => 1,
                (None, true) => 0,
                (None, false) => 2,
            }
        }
        Err(fault) => {
            eprintln!("error: {fault}");
            3
        }
    }
}

fn read(file: &Path, head: Option<&Path>) -> Result<Report> {
    let unreadable = |path: &Path, words: &dyn std::fmt::Display| {
        Error::new(Reason::InvalidArgument, format!("{} cannot be read: {words}", path.display()))
    };
    let head: Option<Head> = match head {
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|fault| unreadable(path, &fault))?;
            Some(serde_json::from_str(&text).map_err(|fault| unreadable(path, &fault))?)
        }
        None => None,
    };
    let lines = File::open(file).map_err(|fault| unreadable(file, &fault))?;
    verify::export(BufReader::new(lines), head.as_ref()).map_err(|fault| unreadable(file, &fault))
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
        None if report.complete => println!("good     every record follows from the one before, up to the given head"),
        None => {
            println!("partial  the records follow from each other; without --head, lines cut from the end do not show")
        }
    }
}
