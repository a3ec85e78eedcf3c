//! All that a store holds, held against its logs. Others may write meanwhile.

use crate::audit::chain::{ChainHash, Head};
use crate::audit::checkpoint::OtherHead;
use crate::audit::others::Others;
use crate::audit::record::{Event, Record};
use crate::audit::trust::Trust;
use crate::audit::verify::{Finding, Report, Verifier};
use crate::error::Result;
use crate::store::meanwhile::{Meanwhile, Told};
use crate::store::recorded::{Recorded, follow};
use crate::store::signed::{Seen, Signed, Signers, Wrong};
use crate::store::{Kind, Store, Vouched};

/// Records, or objects, that are read at a time.
const PAGE: u32 = 1000;

/// One log of the store.
struct Looked {
    /// Where it was found to end.
    head: Head,
    report: Report,
    holds: bool,
    /// Whether anything says who signs for it.
    vouched: bool,
    /// Whether a person has given it up here.
    given_up: bool,
    /// What its records tell of the other logs.
    told: Others,
    /// What its newest checkpoint says of them.
    named: Vec<OtherHead>,
    /// What was signed of it, as another one has seen, and is gone.
    missing: Option<Wrong>,
}

/// Verifies every log of the store from its first record to its head, holds each against all that was signed over it and
/// against what the others say of it, then every object against the record of its last change. The report is that of the
/// store's own log, and those of the others stand in it.
///
/// Takes bounded memory, however many records, objects and checkpoints the store holds, but for what the logs tell of while
/// it reads, and for each log a little. If there are very many objects, the logs are read once more for each
/// stretch of their names. What says who signs for the own log, and its anchor, stands in
/// `vouched`; for the others it is `others`, or what the own log has seen of them. One that a person has given up here is
/// looked at, and left out of the verdict.
///
/// # Errors
/// Only those of reading; what is wrong stands in the report.
pub async fn inspect(
    store: &dyn Store,
    verifier: Verifier,
    vouched: Option<&Vouched>,
    others: &[Trust],
) -> Result<Report> {
    let mut recorded = Recorded::default();
    let log = store.head().log;
    let signed = match vouched {
        Some(vouched) => {
            let mut signed = Signed::of(store, &log, Signers::History(vouched.trust.clone())).await?;
            signed.anchored(vouched.anchor.as_deref(), store.head().size);
            Some(signed)
        }
        None => None,
    };
    // Each log is read as far as it goes once it is known what was signed over it: instances may write and sign meanwhile.
    let own = store.head();
    let mut logs = vec![look(store, own.clone(), verifier, signed, &mut recorded).await?];
    for mut head in store.heads().await?.into_iter().filter(|head| head.log != own.log) {
        let given = others.iter().find(|trust| trust.log() == head.log).cloned().map(Signers::History);
        let seen = if given.is_some() { None } else { Seen::of(store, &own.log, &head.log).await? };
        let given_up = seen.as_ref().is_some_and(|seen| seen.given_up);
        let signers = given.or_else(|| seen.filter(|seen| !seen.given_up).map(Signers::Seen));
        let signed = match signers {
            Some(signers) => Some(Signed::of(store, &head.log, signers).await?),
            None => None,
        };
        if let Some(now) = store.heads().await?.into_iter().find(|now| now.log == head.log && now.size > head.size) {
            head = now;
        }
        logs.push(Looked { given_up, ..look(store, head, Verifier::new(None), signed, &mut recorded).await? });
    }
    let (mut all_hold, mut lost) = (true, Vec::new());
    // What they say of each other may have been said since they were read.
    let now = store.heads().await?;
    for log in logs.iter().filter(|log| !log.given_up) {
        let found = contradicted(store, &now, log).await?;
        all_hold &= log.holds && found.is_none();
        let found = found.or_else(|| log.missing.clone());
        lost.push(found);
    }
    // What the records would say of rows that are missing, or do not follow from each other, is not known.
    let found = if all_hold { altered(store, &mut recorded, &logs).await? } else { None };
    // What is wrong with a log says more than that another one tells otherwise of it.
    let own = logs.remove(0).report;
    let report = logs.into_iter().fold(own, |report, other| match other.given_up {
        true => report.aside(other.report),
        false => report.beside(other.report),
    });
    Ok(lost.into_iter().chain([found]).fold(report, Report::with))
}

/// Verifies one log. Only of a log for which somebody vouches the changes count.
async fn look(
    store: &dyn Store,
    head: Head,
    mut verifier: Verifier,
    mut signed: Option<Signed<'_>>,
    recorded: &mut Recorded,
) -> Result<Looked> {
    let is_own = head.log == store.head().log;
    let vouched = is_own || signed.is_some();
    verifier = verifier.of(&head.log);
    if let Some(signed) = &mut signed {
        signed.hear(&verifier).await?;
    }
    let mut at = 0;
    // Behind the head something may stand that fits: one record of it says so. What does not fit stands in the report.
    'log: while at < head.size || verifier.holds() {
        let page = store.entries(&head.log, at, PAGE).await?;
        if page.is_empty() {
            break;
        }
        at += page.len() as u64;
        for bytes in page {
            // Its instance may write meanwhile; with each record the head moves in one commit.
            if verifier.size() >= head.size && verifier.holds() {
                let now = store.heads().await?.into_iter().find(|now| now.log == head.log);
                if verifier.size() > head.size || now.is_some_and(|now| now.size > head.size) {
                    break 'log;
                }
            }
            verifier.line(&bytes);
            let record = Record::stored(&bytes).ok();
            if let Some(signed) = signed.as_mut().filter(|_| verifier.holds()) {
                if let Some(Record { event: Event::ReAnchored { checkpoints, .. }, .. }) = &record {
                    signed.given_up(*checkpoints).await?;
                }
                signed.hear(&verifier).await?;
            }
            if let Some(record) = record {
                // Where records are missing, places run ahead of the count.
                at = at.max(record.seq.saturating_add(1));
                if vouched {
                    recorded.hear(&head.log, record.event);
                }
            }
        }
    }
    let (holds, told) = (verifier.holds(), verifier.others().clone());
    let end = verifier.head().cloned();
    let report = verifier.finish().of(&head.log);
    if let Some(signed) = &mut signed {
        signed.end().await?;
    }
    let missing = signed.as_ref().and_then(Signed::missing);
    let (is_signed, wrong, named) = match signed.map(|signed| signed.verdict(head.size)) {
        _ if report.broken.is_none() && report.records < head.size => {
            let words = format!("the store's head says {} records; {} are there", head.size, report.records);
            (false, Some((Finding::Truncated, words)), Vec::new())
        }
        Some(Ok(Some(newest))) => (newest.size == head.size, None, newest.others),
        Some(Ok(None)) | None => (false, None, Vec::new()),
        Some(Err(wrong)) => (false, Some(wrong), Vec::new()),
    };
    let more = || (Finding::Extended, format!("the store's head says {} records; there are more", head.size));
    let wrong = wrong.or_else(|| (report.records > head.size).then(more));
    let holds = holds && report.records == head.size;
    // From which place on intents are open, the store does not check when it is opened.
    let unknown = is_own && holds && report.open_intents != store.open_intents().await? && store.head() == head;
    let unclosed =
        || (Finding::StoreBroken, format!("intents {:?} are open, and others by its head", report.open_intents));
    let wrong = wrong.or_else(|| unknown.then(unclosed));
    let report = report.with(wrong);
    let report = if is_signed { report.signed() } else { report };
    let head = end.filter(|_| holds).unwrap_or(head);
    Ok(Looked { head, report, holds, vouched, given_up: false, told, named, missing })
}

/// Which other log is not what this one says of it: by its records, or by its newest checkpoint.
async fn contradicted(store: &dyn Store, heads: &[Head], log: &Looked) -> Result<Option<Wrong>> {
    if let Some(words) = log.told.lost(heads.iter().map(|head| (head.log.as_str(), head.size))) {
        return Ok(Some((Finding::LogMissing, words)));
    }
    let told = log.told.last().map(|(other, seq, sha256)| (other, seq + 1, sha256.to_owned(), "tells of"));
    let named =
        log.named.iter().map(|other| (other.log.as_str(), other.size, other.chain.to_string(), "has signed for"));
    for (other, size, sha256, says) in told.chain(named).filter(|(_, size, ..)| *size > 0) {
        let by = &log.head.log;
        let Some(last) = store.entries(other, size - 1, 1).await?.pop() else {
            let words = format!("log {other} has not {size} records, which log {by} {says}");
            return Ok(Some((Finding::LogMissing, words)));
        };
        if ChainHash::of(&last).to_string() != sha256 {
            let words = format!("log {other} is another than the one that log {by} {says}, at its record {}", size - 1);
            return Ok(Some((Finding::Forked, words)));
        }
    }
    Ok(None)
}

/// Whether such a row is what a log knew that a person has given up, whether or not it is there still.
async fn is_of_given_up(store: &dyn Store, logs: &[Looked], row: &str) -> Result<bool> {
    let Some(log) = Seen::whose(row) else { return Ok(false) };
    if let Some(there) = logs.iter().find(|there| there.head.log == log) {
        return Ok(there.given_up);
    }
    let seen = Seen::of(store, &store.head().log, log).await?;
    Ok(seen.is_some_and(|seen| seen.given_up))
}

/// The first object that is not what the logs say of it.
async fn altered(store: &dyn Store, recorded: &mut Recorded, logs: &[Looked]) -> Result<Option<Wrong>> {
    let ends = logs.iter().filter(|log| log.vouched).map(|log| log.head.clone()).collect();
    let verified = logs.iter().map(|log| log.head.log.clone()).collect();
    let mut meanwhile = Meanwhile::new(store, ends, verified);
    let mut by_new = None;
    loop {
        if let Some(wrong) = altered_within(store, recorded, logs, &mut meanwhile, &mut by_new).await? {
            return Ok(Some(wrong));
        }
        if let Some((kind, name)) = recorded.left() {
            return Ok(Some((Finding::RowMissing, format!("{kind} {name} is in a log and not in the store"))));
        }
        if !recorded.go_on() {
            break;
        }
        for log in logs.iter().filter(|log| log.vouched) {
            let mut end = Head::empty(&*log.head.log);
            let wrong = follow(store, &mut end, log.head.size, |log, event| recorded.hear(log, event)).await?;
            let changed = || (Finding::Edited, format!("log {} was changed while it was verified", end.log));
            if let Some(wrong) = wrong.or_else(|| (end != log.head).then(changed)) {
                return Ok(Some(wrong));
            }
        }
    }
    Ok(by_new.map(|(kind, name, log)| {
        let words = format!("log {log} has begun since the logs were read, and only it tells of {kind} {name}");
        (Finding::Untrusted, format!("{words}: verify once more"))
    }))
}

/// The first row that is not what is recorded of one stretch of names. What is recorded of the others is taken. An object
/// that only a log tells of that has begun since goes to `by_new`: its kind, its name, the log.
async fn altered_within(
    store: &dyn Store,
    recorded: &mut Recorded,
    logs: &[Looked],
    meanwhile: &mut Meanwhile<'_>,
    by_new: &mut Option<(&'static str, String, String)>,
) -> Result<Option<Wrong>> {
    for kind in Kind::ALL {
        let Some(begin) = recorded.begin(*kind) else { continue };
        let mut after = begin.to_owned();
        'rows: loop {
            let page = store.rows(*kind, &after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after.clone_from(&last.name);
            for object in page {
                if recorded.ends_before(*kind, &object.name) {
                    break 'rows;
                }
                let said = recorded.take(*kind, &object.name);
                let is_later = said.as_ref().is_none_or(|said| said.version < object.version);
                // It may have been changed since its log was read.
                if is_later {
                    match meanwhile.tells_of(*kind, &object).await? {
                        Ok(Told::There) => continue,
                        Ok(Told::ByNew(log)) => {
                            by_new.get_or_insert((kind.name(), object.name, log));
                            continue;
                        }
                        Ok(Told::Nowhere) => {}
                        Err(wrong) => return Ok(Some(wrong)),
                    }
                }
                let name = object.name;
                // What a log that was given up knew of others stands by nothing else, and nobody goes by it.
                if said.is_none() && *kind == Kind::Beside && is_of_given_up(store, logs, &name).await? {
                    continue;
                }
                let Some(said) = said else {
                    let unknown: Vec<_> = logs.iter().filter(|log| !log.vouched).map(|log| &*log.head.log).collect();
                    let but = match unknown.as_slice() {
                        [] => String::new(),
                        logs => format!(" but that of {}, for which nobody vouches", logs.join(", ")),
                    };
                    let words = format!("no log says anything of {} {name}{but}", kind.name());
                    return Ok(Some((Finding::RowUnrecorded, words)));
                };
                if said.version != object.version || said.sha256 != ChainHash::of(&object.body).to_string() {
                    let words = format!("{} {name} is not what its last record says", kind.name());
                    return Ok(Some((Finding::RowEdited, words)));
                }
            }
        }
    }
    Ok(None)
}
