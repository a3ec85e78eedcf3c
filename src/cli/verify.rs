//! `keyward verify`: documents, their signatures, links and trust, without a service or a token.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::cli::{Global, output};
use crate::error::{Error, Reason, Result};
use crate::key::RsaPublicKey;
use crate::xrml::carrier;
use crate::xrml::chain::{self, Finding, Link, Pin};
use crate::xrml::content::Content;
use crate::xrml::revocation::{self, RevocationList};
use crate::xrml::text::Document;
use crate::xrml::time::XrmlTime;
use crate::xrml::value::key_from_der;

/// Check signatures and links of documents: exit 0 if all is good and pinned, 1 if something is wrong, 2 if all is good
/// and not pinned, 3 if a file cannot be read
#[derive(clap::Args)]
pub(super) struct Args {
    /// Files of documents, each before its issuer: one or several in a file, UTF-8 or UTF-16, plain or inside SOAP
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// A trusted root: SHA-256 of its modulus (64 hexadecimal digits), or a file that holds that, a public key in PEM, or
    /// the certificate whose ISSUER it is
    #[arg(long, value_name = "FILE|HEX")]
    pin: Vec<String>,
    /// Judge the dates of each document that issued none of the others at this time, UTC (2026-01-02T03:04), and the age of
    /// the revocation lists that a license demands; without it dates are not judged
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
    /// A revocation list to apply; it counts where its own issuer may revoke
    #[arg(long, value_name = "FILE")]
    revocation_list: Vec<PathBuf>,
}

/// Checks, prints, and gives the exit code.
pub(super) fn run(args: &Args, global: &Global) -> Result<u8> {
    // Not left to the command line's parser: its exit code for a wrong value means "not pinned" here.
    let at = args.at.as_deref().map(str::parse::<XrmlTime>).transpose()?;
    match read(args) {
        Ok(material) => Ok(judge(at, global, &material)),
        Err(fault) => {
            eprintln!("error: {}", output::clean(fault.message()));
            output::next_step(&fault);
            // A list that was read and does not hold is something wrong, not something unreadable.
            Ok(if fault.reason() == Reason::SignatureInvalid { 1 } else { 3 })
        }
    }
}

struct Material {
    documents: Vec<(String, Document)>,
    pins: Vec<Pin>,
    lists: Vec<RevocationList>,
}

fn read(args: &Args) -> Result<Material> {
    let mut documents = Vec::new();
    for path in &args.files {
        let found = read_documents(path)?;
        let alone = found.len() == 1;
        let name =
            |at: usize| if alone { path.display().to_string() } else { format!("{}:{}", path.display(), at + 1) };
        documents.extend(found.into_iter().enumerate().map(|(at, document)| (name(at), document)));
    }
    let pins = args.pin.iter().map(|pin| read_pin(pin)).collect::<Result<_>>()?;
    let mut lists = Vec::new();
    for path in &args.revocation_list {
        for document in read_documents(path)? {
            lists.push(RevocationList::verified(&document).map_err(|e| e.while_doing(path.display()))?);
        }
    }
    Ok(Material { documents, pins, lists })
}

pub(super) fn read_documents(path: &Path) -> Result<Vec<Document>> {
    carrier::read(&read_file(path)?).map_err(|e| e.while_doing(path.display()))
}

fn read_file(path: &Path) -> Result<Vec<u8>> {
    let unreadable = |fault: std::io::Error| {
        Error::new(Reason::InvalidArgument, format!("{} cannot be read: {fault}", path.display()))
    };
    const MOST: u64 = carrier::CARRIER_BYTES_MAX as u64;
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    // What says no size, or a wrong one, is not read for ever.
    file.take(MOST + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MOST {
        let message = format!("{} has more than {MOST} bytes", path.display());
        return Err(Error::new(Reason::LimitExceeded, message));
    }
    Ok(bytes)
}

/// A pin from its digits, or from a file of digits, of a public key, or of the certificate below the root.
pub(super) fn read_pin(text: &str) -> Result<Pin> {
    if let Ok(pin) = text.parse() {
        return Ok(pin);
    }
    let path = Path::new(text);
    let bytes = read_file(path)?;
    let content = carrier::decode(&bytes)?;
    if let Ok(pin) = content.trim().parse() {
        return Ok(pin);
    }
    if content.contains("-----BEGIN") {
        return Ok(Pin::of(&key_from_pem(&content).map_err(|e| e.while_doing(path.display()))?));
    }
    let documents = carrier::read(&bytes).map_err(|e| e.while_doing(path.display()))?;
    let issuer = chain::check(&documents, &[]).pop().and_then(|finding| finding.content.ok()?.issuer?.key);
    issuer
        .map(|key| Pin::of(&key))
        .ok_or_else(|| Error::new(Reason::DocumentIncomplete, format!("{} names no issuer with a key", path.display())))
}

pub(super) fn key_from_pem(text: &str) -> Result<RsaPublicKey> {
    use base64::Engine;
    let lines = text.lines().map(str::trim).skip_while(|line| !line.starts_with("-----BEGIN"));
    let base64: String = lines.skip(1).take_while(|line| !line.starts_with("-----END")).collect();
    let der = base64::engine::general_purpose::STANDARD.decode(base64);
    key_from_der(&der.map_err(|_| Error::new(Reason::InvalidArgument, "the PEM text is no base64"))?)
}

fn judge(at: Option<XrmlTime>, global: &Global, material: &Material) -> u8 {
    let documents: Vec<Document> = material.documents.iter().map(|(_, document)| document.clone()).collect();
    let findings = chain::check(&documents, &material.pins);
    let revoked = revocation::apply(&material.lists, &documents, &findings);
    let moment = at.map(XrmlTime::moment);
    let demanding = findings.iter().any(revocation::demands);
    // Lists that a license demands are asked for where lists are given, or a time at which they must be young enough.
    let is_judging_lists = moment.is_some() || !material.lists.is_empty();
    let mut is_all_good = true;
    let mut rows = Vec::new();
    let mut notes = Vec::new();
    let kinds = chain::names(&findings);
    for (at, ((name, _), finding)) in material.documents.iter().zip(&findings).enumerate() {
        let revoked = &revoked[at];
        let time = moment.map(|moment| finding.check_time(moment));
        let lists = revocation::require_demanded(finding, &material.lists, moment);
        is_all_good &= finding.is_good() && revoked.is_ok() && time.as_ref().is_none_or(Result::is_ok);
        is_all_good &= lists.is_ok() || !is_judging_lists;
        let mut row = json!({
            "document": name,
            "kind": kinds[at],
            "form": words(&finding.form),
            "signature": words(&finding.signature),
            "link": link(&finding.link),
            "trust": if finding.is_pinned { "pinned" } else { "unpinned" },
        });
        if let Some(time) = &time {
            row["time"] = json!(words(time));
        }
        if !material.lists.is_empty() {
            row["revoked"] = json!(revoked.as_ref().map_or_else(|fault| fault.message(), |()| "no"));
        }
        if demanding {
            row["lists"] = if revocation::demands(finding) { words(&lists) } else { Value::Null };
        }
        let hints = hints(finding, moment);
        if global.output == output::Format::Json {
            row["guid"] = json!(finding.guid);
            row["issued"] = json!(finding.content.as_ref().ok().and_then(|c| c.issued).map(|t| t.to_string()));
            row["unknown"] = json!(finding.unknown);
            row["notes"] = json!(hints);
        }
        notes.extend(hints.into_iter().map(|note| format!("{name}: {note}")));
        rows.push(row);
    }
    output::list(global.output, &rows);
    if global.output == output::Format::Table {
        notes.iter().for_each(|note| println!("{}", output::clean(note)));
    }
    match (is_all_good, findings.iter().all(|finding| finding.is_pinned)) {
        (true, true) => 0,
        (false, _) => 1,
        (true, false) => 2,
    }
}

fn words(outcome: &Result<()>) -> Value {
    json!(outcome.as_ref().map_or_else(|fault| fault.message(), |()| "ok"))
}

fn link(link: &Link) -> Value {
    match link {
        Link::Document(_) | Link::Pin => json!("ok"),
        Link::None => json!("none"),
        Link::Broken(fault) => json!(fault.message()),
    }
}

/// What to do about what is wrong, and what was not understood.
fn hints(finding: &Finding, moment: Option<OffsetDateTime>) -> Vec<String> {
    let faults = [finding.form.as_ref().err(), finding.signature.as_ref().err()];
    let mut hints: Vec<String> =
        faults.into_iter().flatten().filter_map(|fault| fault.next_step()).map(str::to_owned).collect();
    let idle = moment.filter(|_| finding.is_leaf).map(|moment| finding.idle_rights(moment)).unwrap_or_default();
    if !idle.is_empty() {
        hints.push(format!("rights that may not be used then: {}", idle.join(", ")));
    }
    let content = finding.content.as_ref().ok().filter(|_| moment.is_some() && finding.is_leaf);
    let unjudged = content.map(Content::unjudged).unwrap_or_default();
    if !unjudged.is_empty() {
        hints.push(format!("conditions that are not judged here: {}", unjudged.join(", ")));
    }
    if !finding.differences.is_empty() {
        hints.push(format!("ISSUER is not a copy of the issuer's principal: {}", finding.differences.join(", ")));
    }
    if !finding.unknown.is_empty() {
        hints
            .push(format!("of unknown meaning, or without a place in such a document: {}", finding.unknown.join(", ")));
    }
    hints
}
