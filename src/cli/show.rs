//! `keyward show`: a license or certificate in words, without a service or a token.

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use crate::cli::verify::read_documents;
use crate::cli::{Global, output};
use crate::error::Result;
use crate::key::RsaPublicKey;
use crate::xrml::certificate::ISSUE;
use crate::xrml::content::Content;
use crate::xrml::element::{DistributionPoint, Object, Principal};
use crate::xrml::kind::Kind;
use crate::xrml::license::{Conditions, Refresh, Right, Work};
use crate::xrml::pl::RIGHTS_DATA;
use crate::xrml::policy::{PolicyKind, PolicyList};
use crate::xrml::revocation::{RevocationList, Revoke};
use crate::xrml::text::{Body, Document};
use crate::xrml::time::{Interval, Range};
use crate::xrml::unknown;

/// Say in words what documents say: who may do what, until when, under which conditions. Nothing is verified
#[derive(clap::Args)]
pub(super) struct Args {
    /// Files of documents: one or several in a file, UTF-8 or UTF-16, plain or inside SOAP
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// Longest value of an application's data that is printed, in characters.
const VALUE_CHARS_MAX: usize = 80;

/// Prints each document as a list of facts.
pub(super) fn run(args: &Args, global: &Global) -> Result<u8> {
    let mut shown = Vec::new();
    for path in &args.files {
        for document in read_documents(path)? {
            shown.push(facts(&document));
        }
    }
    match global.output {
        output::Format::Json => println!("{:#}", Value::Array(shown.iter().map(|facts| as_json(facts)).collect())),
        output::Format::Table => {
            println!("{}", shown.iter().map(|facts| as_text(facts)).collect::<Vec<_>>().join("\n"));
        }
    }
    Ok(0)
}

/// A name and what is said under it; names may come again.
type Fact = (&'static str, String);

fn as_text(facts: &[Fact]) -> String {
    facts.iter().map(|(name, words)| format!("{name:<12}{}\n", output::clean(words))).collect()
}

/// Facts that may come again are lists, whether or not they do.
fn as_json(facts: &[Fact]) -> Value {
    const LISTS: [&str; 9] =
        ["address", "right", "condition", "revocation", "application", "data", "revokes", "unknown", "fault"];
    let mut object = Map::new();
    for (name, words) in facts {
        if LISTS.contains(name) {
            let list = object.entry(*name).or_insert_with(|| json!([]));
            if let Some(list) = list.as_array_mut() {
                list.push(json!(words));
            }
        } else {
            object.insert((*name).to_owned(), json!(words));
        }
    }
    Value::Object(object)
}

fn facts(document: &Document) -> Vec<Fact> {
    let body = document.body();
    let mut facts: Vec<Fact> = Vec::new();
    let kind = Kind::of(body);
    match &kind {
        Ok(kind) => facts.push(("document", kind.words().to_owned())),
        Err(fault) => {
            facts.extend([("document", "of no known kind".to_owned()), ("fault", fault.message().to_owned())])
        }
    }
    if document.signature().is_err() {
        facts.push(("signed", "no".to_owned()));
    }
    // One part that cannot be read hides no other.
    let (content, whole) = Content::read_or_salvage(body);
    facts.extend(whole.err().map(|fault| ("fault", fault.message().to_owned())));
    if let Ok(content) = content {
        tell(&content, kind.ok(), &mut facts);
    }
    tell_revocations(body, &mut facts);
    facts.extend(unknown::paths(document).into_iter().map(|path| ("unknown", path)));
    facts
}

fn tell(content: &Content, kind: Option<Kind>, facts: &mut Vec<Fact>) {
    if let Some(descriptor) = &content.descriptor {
        facts.push(("id", descriptor.id.value.clone()));
        facts.extend(descriptor.name.clone().map(|name| ("name", name)));
    }
    facts.extend(content.issued.map(|time| ("issued", format!("{time} UTC"))));
    facts.extend(content.validity.map(|range| ("valid", span(&range))));
    facts.extend(content.issuer.as_ref().map(|issuer| ("issuer", principal(issuer))));
    let to = if kind == Some(Kind::Pl) { "server" } else { "for" };
    facts.extend(content.principal.as_ref().map(|who| (to, principal(who))));
    facts.extend(content.federation.as_ref().map(|machine| ("machine", principal(machine))));
    facts.extend(content.points.iter().map(|at| ("address", point(at))));
    if let Some(work) = &content.work {
        tell_work(work, facts);
    }
    content.conditions.iter().for_each(|conditions| tell_conditions(conditions, facts));
    facts.extend(content.policies.iter().flat_map(policy).map(|words| ("application", words)));
    for data in &content.data {
        if data.id == RIGHTS_DATA {
            facts.push(("rights", "encrypted; only the server can read them".to_owned()));
        } else {
            let value: String = data.value.chars().take(VALUE_CHARS_MAX).collect();
            let cut = if data.value.chars().nth(VALUE_CHARS_MAX).is_some() { "…" } else { "" };
            facts.push(("data", format!("{} = {value}{cut}", data.name.as_deref().unwrap_or(&data.id))));
        }
    }
}

fn tell_work(work: &Work, facts: &mut Vec<Fact>) {
    let is_certificate = work.rights.iter().any(|right| right.name == ISSUE);
    if let Some(object) = work.object.as_ref().filter(|_| !is_certificate) {
        facts.push(("content", object.id.value.clone()));
    }
    facts.extend(work.owner.as_ref().map(|owner| ("owner", object(owner))));
    [&work.preconditions, &work.conditions].into_iter().flatten().for_each(|list| tell_conditions(list, facts));
    facts.extend(work.rights.iter().map(|given| ("right", right(given))));
}

/// Conditions on the whole document: all that they say.
fn tell_conditions(conditions: &Conditions, facts: &mut Vec<Fact>) {
    facts.extend(holders(&conditions.access).map(|whom| ("condition", format!("only for {whom}"))));
    facts.extend(restrictions(conditions).into_iter().map(|words| ("condition", words)));
    facts.extend(conditions.refresh.as_deref().into_iter().flat_map(refresh).map(|words| ("revocation", words)));
}

/// One right in words: its name, to whom, and every restriction.
fn right(right: &Right) -> String {
    let conditions = &right.conditions;
    let whom = holders(&conditions.access).map_or_else(String::new, |whom| format!(" for {whom}"));
    let mut words = restrictions(conditions);
    if conditions.ranges.is_empty() && conditions.interval.and_then(|interval| interval.length()).is_none() {
        words.insert(0, "without limit in time".to_owned());
    }
    let lists = conditions.refresh.as_deref().into_iter().flat_map(refresh);
    words.extend(lists.map(|list| format!("under the revocation list of {list}")));
    if right.has_enabling_bits() {
        words.push("with a sealed key".to_owned());
    }
    let is_usual = right.name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'));
    let name = if is_usual { right.name.clone() } else { quoted(&right.name) };
    format!("{name}{whom}: {}", words.join(", "))
}

/// A text that somebody chose, in quotes.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// A text that somebody chose, in quotes where it could be taken for words of this command.
fn told(text: &str) -> String {
    let begins = |word: &str| text.get(..word.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(word));
    let is_odd = text.contains([',', '(', ')', '"'])
        || text.contains(": ")
        || text.ends_with(':')
        || ["everybody", "the owner", "nobody"].into_iter().any(begins);
    if is_odd { quoted(text) } else { text.to_owned() }
}

/// Those whom a list of principals names in words; references to the document's own principal are left out.
fn holders(access: &[Principal]) -> Option<String> {
    let named = access.iter().filter_map(|who| who.object.as_ref()).map(object).collect::<Vec<_>>();
    (!named.is_empty()).then(|| named.join(", "))
}

/// Times, named conditions, and whether there is more that is not understood.
fn restrictions(conditions: &Conditions) -> Vec<String> {
    let ranges = conditions.ranges.iter().map(span);
    let interval = conditions.interval.iter().filter_map(|interval| Some(format!("for {}", length(interval)?)));
    let named = conditions.named.iter().map(|c| format!("{} ({}) {}", told(&c.name), told(&c.kind), told(&c.value)));
    let unknown = (!conditions.unknown.is_empty()).then(|| "a condition of unknown meaning".to_owned());
    ranges.chain(interval).chain(named).chain(unknown).collect()
}

fn span(range: &Range) -> String {
    format!("from {} until {} UTC", range.from, range.until)
}

/// The parts of an interval that are not zero, none if it bounds nothing.
fn length(interval: &Interval) -> Option<String> {
    interval.length()?;
    let parts =
        [(interval.days, "day"), (interval.hours, "hour"), (interval.minutes, "minute"), (interval.seconds, "second")];
    let parts = parts.iter().filter(|(n, _)| *n != 0);
    Some(parts.map(|(n, unit)| format!("{n} {unit}{}", if *n == 1 { "" } else { "s" })).collect::<Vec<_>>().join(" "))
}

fn principal(principal: &Principal) -> String {
    let mut words = vec![principal.object.as_ref().map_or_else(|| "nobody named".to_owned(), object)];
    words.extend(principal.key.as_ref().map(|key| format!("RSA-{}", key.bits())));
    words.extend(principal.levels.iter().map(|level| format!("{} {}", level.name, level.value)));
    if principal.enabling.is_some() {
        words.push("with a sealed key".to_owned());
    }
    words.join(", ")
}

/// The name first, where there is one, then the ID and the addresses. The two principals that stand for others are told in
/// words that nobody has who only bears their name.
fn object(object: &Object) -> String {
    let (kind, value) = (object.id.kind.as_str(), told(&object.id.value));
    let name = object.name.as_deref().map(told);
    let typed = |text: &str| match kind {
        "" => text.to_owned(),
        "Windows" | "Federation" | "Passport" | "Unspecified" | "Internal" => format!("{kind} {text}"),
        _ => format!("{} {text}", quoted(kind)),
    };
    let mut words = match (kind, name) {
        ("Internal", name) => {
            let whom = match value.to_ascii_lowercase().as_str() {
                "anyone" => format!("everybody (Internal {value})"),
                "owner" => format!("the owner (Internal {value})"),
                _ => typed(&value),
            };
            [Some(whom), name.map(|name| format!("by the name of {name}"))]
        }
        (_, None) if value.is_empty() => [None, None],
        (_, Some(name)) if value.is_empty() => [Some(typed(&name)), None],
        ("MS-GUID" | "ascii-tag" | "filename", name) => [name.filter(|name| *name != value), Some(value)],
        (_, name) => [name, Some(typed(&value))],
    }
    .into_iter()
    .flatten()
    .collect::<Vec<_>>();
    words.extend(object.addresses.iter().map(|address| told(&address.value)));
    if words.is_empty() { "nobody named".to_owned() } else { words.join(" ") }
}

fn point(point: &DistributionPoint) -> String {
    let url = point.object.url().map_or_else(|| "without an address".to_owned(), told);
    format!("{}: {url}", told(point.object.kind()))
}

fn key(key: &RsaPublicKey) -> String {
    format!("RSA-{} key {}…", key.bits(), hex::encode(&key.modulus_be()[..8]))
}

/// The lists that must be at hand, one for each address or key, and how old they may be.
fn refresh(refresh: &Refresh) -> Vec<String> {
    let age = length(&refresh.interval).map_or_else(String::new, |length| format!(", not older than {length}"));
    let signer =
        |point: &DistributionPoint| point.key.as_ref().map_or(String::new(), |by| format!(", signed by {}", key(by)));
    if refresh.points.is_empty() {
        return vec![format!("nobody named{age}")];
    }
    refresh.points.iter().map(|at| format!("{}{}{age}", object(&at.object), signer(at))).collect()
}

fn policy(list: &PolicyList) -> Vec<String> {
    let verb = match list.kind {
        PolicyKind::Exclusion => "shut out",
        PolicyKind::Inclusion => "let in",
    };
    if list.policies.is_empty() {
        return vec![format!("{verb}: an empty list, which says nothing")];
    }
    let versions = |versions: &Option<(String, String)>| match versions {
        Some((least, most)) => format!(" {} to {}", told(least), told(most)),
        None => String::new(),
    };
    let policies = list.policies.iter();
    policies.map(|policy| format!("{verb}: {}{}", told(&policy.id.value), versions(&policy.versions))).collect()
}

fn tell_revocations(body: &Body, facts: &mut Vec<Fact>) {
    let Ok(list) = RevocationList::read(body) else { return };
    facts.extend(list.entries.iter().map(|entry| {
        let words = match entry {
            Revoke::LicenseId(named) => format!("the document {}", named.id.value),
            Revoke::LicenseHash(digest) => format!("the document with digest {}", hex::encode(digest.bytes())),
            Revoke::IssuerKey(named) => format!("documents issued under {}", key(named)),
            Revoke::IssuerId(named) => format!("documents issued by {}", object(named)),
            Revoke::PrincipalKey(named) => format!("documents issued to {}", key(named)),
            Revoke::PrincipalId(named) => format!("documents issued to {}", object(named)),
            Revoke::ContentId(named) => format!("licenses for the content {}", named.id.value),
            Revoke::Unknown(_) => "something of unknown meaning".to_owned(),
        };
        ("revokes", words)
    }));
}
