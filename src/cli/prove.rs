//! `keyward audit prove` and `verify-proof`: proofs that somebody else can check, with a service, from an export, or with
//! neither.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use time::{Duration as Span, OffsetDateTime};

use crate::audit::checkpoint::Checkpoint;
use crate::audit::cosignature;
use crate::audit::note::Note;
use crate::audit::proof::{self, ConsistencyProof, LogProof};
use crate::audit::prove;
use crate::audit::record::{Event, Record, time_text};
use crate::audit::trust::Trust;
use crate::cli::verify::read_documents;
use crate::cli::{Global, connect, output, runtime};
use crate::clock;
use crate::error::{Error, Reason, Result};
use crate::grpc::client::failed;
use crate::grpc::v1;
use crate::xrml::content::Content;
use crate::xrml::signature::{self, Signature};

#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("what").required(true))]
pub(super) struct Args {
    /// The record at this place of the log
    #[arg(long, value_name = "SEQ", group = "what")]
    entry: Option<u64>,
    /// The record that says that the document with this GUID was signed, the newest if there are several
    #[arg(long, value_name = "GUID", group = "what", conflicts_with = "export")]
    certificate: Option<String>,
    /// The record that says that this document was signed
    #[arg(long, value_name = "LICENSE", group = "what")]
    file: Option<PathBuf>,
    /// That the log continues this earlier checkpoint
    #[arg(long, value_name = "CHECKPOINT", group = "what", conflicts_with = "export")]
    since: Option<PathBuf>,
    /// Prove from an export, audit.jsonl with audit.checkpoint beside it; without a service
    #[arg(long, value_name = "FILE")]
    export: Option<PathBuf>,
    /// The file to make
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

#[derive(clap::Args)]
pub(super) struct VerifyArgs {
    /// What `keyward audit prove`, `checkpoint` or `countersign` has written
    proof: PathBuf,
    /// audit.trust as it was given out when the instance was made, or later
    #[arg(long, value_name = "FILE")]
    trust: PathBuf,
    /// A later audit.trust of the same log, such as that of an export: followed if it continues the trusted one
    #[arg(long, value_name = "FILE")]
    later_trust: Option<PathBuf>,
    /// The document that the record must speak of
    #[arg(long, value_name = "LICENSE")]
    file: Option<PathBuf>,
    /// For a proof that the log continues: the earlier checkpoint
    #[arg(long, value_name = "CHECKPOINT", conflicts_with = "file")]
    since: Option<PathBuf>,
    /// audit.trust of an instance that must have countersigned the checkpoint (may be repeated)
    #[arg(long, value_name = "FILE")]
    witness: Vec<PathBuf>,
}

#[derive(clap::Args)]
pub(super) struct CountersignArgs {
    /// A checkpoint of another instance; after the first time, its proof that it continues the last one:
    /// keyward audit prove --since
    proof: PathBuf,
    /// audit.trust of that instance. The first one is kept, and later ones must continue it
    #[arg(long, value_name = "FILE")]
    trust: PathBuf,
    /// The file to make: the checkpoint with one more signature
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub(super) fn run(args: &Args, global: &Global) -> Result<u8> {
    let out = output::NewFile::create(&args.out, 0o644)?;
    let proof = match (&args.export, &args.since, args.entry) {
        (Some(export), _, entry) => from_export(export, entry, args.file.as_deref())?,
        (None, Some(since), _) => {
            let old = i64::try_from(checkpoint(since)?.size).unwrap_or(i64::MAX);
            let asked = v1::ProveConsistencyRequest { old_size: old };
            runtime()?.block_on(async {
                let answer = connect::operator(&global.data).await?.audit().prove_consistency(asked).await;
                answer.map(|answer| answer.into_inner().proof).map_err(failed)
            })?
        }
        (None, None, entry) => {
            let wanted = match (entry, &args.certificate, &args.file) {
                (Some(seq), _, _) => Wanted::Entry(seq),
                (None, Some(guid), _) => Wanted::Guid(guid.clone()),
                (None, None, Some(file)) => Wanted::of(file)?,
                (None, None, None) => return Err(Error::new(Reason::Internal, "nothing to prove was named")),
            };
            runtime()?.block_on(from_service(wanted, global))?
        }
    };
    out.finish(proof.as_bytes())?;
    output::object(global.output, &json!({ "proof": args.out.display().to_string() }));
    Ok(0)
}

/// A record that a service is to prove.
enum Wanted {
    Entry(u64),
    /// That a document of this GUID was signed.
    Guid(String),
    /// That this document was signed: its GUID, its time and its signature.
    Document {
        guid: String,
        issued: OffsetDateTime,
        signature: String,
    },
}

impl Wanted {
    fn of(file: &Path) -> Result<Self> {
        let signature = signature_of(file)?;
        let documents = read_documents(file)?;
        let lacks = || Error::new(Reason::DocumentIncomplete, "the document has no GUID or no date to look for");
        let content = Content::read(documents.first().ok_or_else(lacks)?.body())?;
        let guid = content.descriptor.ok_or_else(lacks)?.id.value;
        Ok(Wanted::Document { guid, issued: content.issued.ok_or_else(lacks)?.moment(), signature })
    }

    /// The outcomes among which it is.
    fn filter(&self) -> String {
        let of = |guid: &str| format!("kind = \"outcome\" AND outcome = \"done\" AND guid = \"{guid}\"");
        match self {
            Wanted::Entry(_) => String::new(),
            Wanted::Guid(guid) => of(guid),
            Wanted::Document { guid, issued, .. } => {
                let at = |time: OffsetDateTime| time_text(clock::micros(time));
                let (from, until) = (at(*issued - NEAR), at(*issued + NEAR));
                format!("{} AND time >= \"{from}\" AND time < \"{until}\"", of(guid))
            }
        }
    }

    fn is(&self, record: &[u8]) -> bool {
        match self {
            Wanted::Document { signature, .. } => prove::tells_of_signature(record, signature),
            _ => true,
        }
    }
}

/// How far from its own date a document may have been signed: more than the service allows.
const NEAR: Span = Span::hours(1);
/// Entries that are looked at in one page.
const PAGE: i32 = 100;

async fn from_service(wanted: Wanted, global: &Global) -> Result<String> {
    let mut audit = connect::operator(&global.data).await?.audit();
    let name = match wanted {
        Wanted::Entry(seq) => format!("logs/-/entries/{seq}"),
        wanted => {
            let mut asked = v1::ListEntriesRequest {
                parent: "logs/-".into(),
                page_size: PAGE,
                filter: wanted.filter(),
                order_by: "seq desc".into(),
                ..Default::default()
            };
            loop {
                let page = audit.list_entries(asked.clone()).await.map_err(failed)?.into_inner();
                if let Some(entry) = page.entries.iter().find(|entry| wanted.is(&entry.record)) {
                    break entry.name.clone();
                }
                if page.next_page_token.is_empty() {
                    return Err(Error::new(
                        Reason::NotFound,
                        "no record of this log says that this document was signed",
                    )
                    .hint("ask the instance whose cluster issued it, or an authority's own log"));
                }
                asked.page_token = page.next_page_token;
            }
        }
    };
    let answer = audit.prove_entry(v1::ProveEntryRequest { name }).await.map_err(failed)?;
    Ok(answer.into_inner().proof)
}

fn from_export(export: &Path, entry: Option<u64>, file: Option<&Path>) -> Result<String> {
    let open = || match File::open(export) {
        Ok(file) => Ok(BufReader::new(file)),
        Err(fault) => Err(output::unreadable(export, &fault, "name audit.jsonl of an export")),
    };
    let place = match (entry, file) {
        (Some(entry), _) => entry,
        (None, Some(file)) => {
            let signature = signature_of(file)?;
            let found = prove::find(open()?, |record| prove::tells_of_signature(record, &signature))?;
            let none = Error::new(Reason::NotFound, "no record of this export says that this document was signed")
                .hint("take a later export, or that of the instance whose cluster issued it");
            found.ok_or(none)?.0
        }
        (None, None) => return Err(Error::new(Reason::Internal, "nothing to prove was named")),
    };
    let checkpoint: Note = parse(&export.with_file_name("audit.checkpoint"))?;
    prove::inclusion(open()?, place, checkpoint).map(|proof| proof.to_string())
}

/// The signature of a document, as records have it, once its text is the one that was signed.
fn signature_of(file: &Path) -> Result<String> {
    let documents = read_documents(file)?;
    let document = documents.first().ok_or_else(|| Error::new(Reason::DocumentMalformed, "no document"))?;
    let signature = Signature::read(document.signature()?)?;
    if signature::digest(document.body(), signature.digest.hash()) != signature.digest {
        return Err(Error::new(Reason::SignatureInvalid, "the document was changed after it was signed")
            .hint("get the original"));
    }
    Ok(STANDARD.encode(signature.value.as_bytes()))
}

/// Exit 0 if the proof holds; 1 if not, or if it is of another document; 3 if something cannot be read.
pub(super) fn verify(args: &VerifyArgs, global: &Global) -> u8 {
    match checked(args) {
        Ok(shown) => {
            output::object(global.output, &shown);
            0
        }
        Err(fault) => {
            output::fault(&fault);
            if fault.reason() == Reason::SignatureInvalid { 1 } else { 3 }
        }
    }
}

fn checked(args: &VerifyArgs) -> Result<Value> {
    let later = args.later_trust.as_deref().map(parse).transpose()?;
    let trust = parse::<Trust>(&args.trust)?.followed(later);
    if let Some(since) = &args.since {
        let earlier = trust.checkpoint(&parse(since)?)?;
        let proof: ConsistencyProof = parse(&args.proof)?;
        let later = proof.verify(&earlier, &trust)?;
        let witnesses = witnesses(&proof.checkpoint, &args.witness)?;
        return Ok(
            json!({ "log": later.log, "records": later.size, "continues": earlier.size, "witnesses": witnesses }),
        );
    }
    let text = output::read(&args.proof, AS_WRITTEN)?;
    if let Ok(note) = text.parse::<Note>()
        && !text.starts_with(proof::HEADER)
    {
        let signed = trust.checkpoint(&note)?;
        return Ok(json!({ "log": signed.log, "records": signed.size, "witnesses": witnesses(&note, &args.witness)? }));
    }
    let proof: LogProof = text.parse().map_err(|fault: Error| fault.while_doing(args.proof.display()))?;
    let bytes = proof.extra.clone().unwrap_or_default();
    let signed = proof.verify(&bytes, &trust)?;
    if let Some(file) = &args.file
        && !prove::tells_of_signature(&bytes, &signature_of(file)?)
    {
        return Err(Error::new(Reason::SignatureInvalid, "the record is in the log, but it is not of this document"));
    }
    let record = Record::read(&bytes)?;
    let intent = match &record.event {
        Event::Outcome { intent, .. } => Some(*intent),
        _ => None,
    };
    Ok(json!({
        "log": signed.log,
        "record": proof.index,
        "of": signed.size,
        "time": record.time,
        "intent": intent,
        "event": record.event,
        "witnesses": witnesses(&proof.checkpoint, &args.witness)?,
    }))
}

/// Requires that every witness has countersigned; gives their logs.
fn witnesses(note: &Note, files: &[PathBuf]) -> Result<Vec<String>> {
    let mut logs = Vec::new();
    for file in files {
        let trust: Trust = parse(file)?;
        let keys: Vec<_> = trust.keys().cloned().collect();
        // Earlier versions countersigned the checkpoint's own text.
        let cosigned = cosignature::verify(note, &keys).map(drop);
        let holds = cosigned.or_else(|fault| note.verify(&keys).map(drop).map_err(|_| fault));
        holds.map_err(|fault| fault.while_doing(format!("the witness of {}", file.display())))?;
        logs.push(trust.log().to_owned());
    }
    Ok(logs)
}

/// Has the service countersign another log's checkpoint.
pub(super) async fn countersign(args: &CountersignArgs, global: &Global) -> Result<()> {
    let out = output::NewFile::create(&args.out, 0o644)?;
    let text = output::read(&args.proof, AS_WRITTEN)?;
    // The first time there is nothing that the checkpoint must be proved to continue.
    let proof = match text.parse::<ConsistencyProof>() {
        Ok(_) => text,
        Err(_) => ConsistencyProof { old: 0, path: Vec::new(), checkpoint: parse(&args.proof)? }.to_string(),
    };
    let asked = v1::CountersignCheckpointRequest { proof, trust: output::read(&args.trust, AS_WRITTEN)? };
    let answer = connect::operator(&global.data).await?.audit().countersign_checkpoint(asked).await.map_err(failed)?;
    out.finish(answer.into_inner().note.as_bytes())?;
    output::object(global.output, &json!({ "checkpoint": args.out.display().to_string() }));
    Ok(())
}

fn checkpoint(path: &Path) -> Result<Checkpoint> {
    parse::<Note>(path)?.text().parse()
}

const AS_WRITTEN: &str = "name files as keyward audit has written them";

/// Reads a file of one thing in text form.
fn parse<T: std::str::FromStr<Err = Error>>(path: &Path) -> Result<T> {
    output::read(path, AS_WRITTEN)?.parse().map_err(|fault: Error| fault.while_doing(path.display()))
}

/// The checkpoint of the running service, for witnesses.
pub(super) async fn checkpoint_of_service(out: &Path, global: &Global) -> Result<()> {
    let out_file = output::NewFile::create(out, 0o644)?;
    let answer = connect::operator(&global.data).await?.audit().get_checkpoint(v1::GetCheckpointRequest {}).await;
    let note = answer.map_err(failed)?.into_inner().note;
    out_file.finish(note.as_bytes())?;
    let end: Checkpoint = note.parse::<Note>()?.text().parse()?;
    output::object(
        global.output,
        &json!({ "checkpoint": out.display().to_string(), "log": end.log, "records": end.size }),
    );
    Ok(())
}

/// Has the service put a new key in the place of its audit key.
pub(super) async fn rotate_key(global: &Global) -> Result<()> {
    let answer = connect::operator(&global.data).await?.audit().rotate_audit_key(v1::RotateAuditKeyRequest {}).await;
    let rotated = answer.map_err(failed)?.into_inner();
    let from = rotated.trust.parse::<Trust>()?;
    output::object(
        global.output,
        &json!({ "key": rotated.key, "log": from.log(), "verifier_key": from.key().to_string() }),
    );
    if global.output == output::Format::Table {
        println!(
            "next: give audit.trust of the data directory to whoever verifies; an older one still holds for older exports"
        );
    }
    Ok(())
}
