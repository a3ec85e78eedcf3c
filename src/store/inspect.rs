//! All that a store holds, held against its log: for a store that nobody has open.

use std::collections::HashMap;

use crate::audit::chain::ChainHash;
use crate::audit::record::{Event, Record};
use crate::audit::verify::{Finding, Report, Verifier};
use crate::error::Result;
use crate::store::signed::Signed;
use crate::store::{Kind, Store, Vouched};

/// Records, or objects, that are read at a time.
const PAGE: u32 = 1000;

/// The last version of an object that the log speaks of, and its hash.
type Recorded = HashMap<(String, String), (u64, String)>;

/// Verifies the log from its first record to the store's head, holds it against all that was signed over it, then every
/// object against the record of its last change.
/// Takes memory for each object, not for each record. Where several instances write, an object that another one changed
/// last is passed over: its record is in the log of that one. Without `vouched` nothing says what was signed.
///
/// # Errors
/// Only those of reading; what is wrong stands in the report.
pub async fn inspect(store: &dyn Store, mut verifier: Verifier, vouched: Option<&Vouched>) -> Result<Report> {
    let head = store.head();
    let mut signed = match vouched {
        Some(vouched) => Some(Signed::read(store, vouched).await?),
        None => None,
    };
    let mut recorded = Recorded::new();
    let mut at = 0;
    while at < head.size {
        let page = store.entries(at, PAGE).await?;
        if page.is_empty() {
            break;
        }
        at += page.len() as u64;
        for bytes in page {
            verifier.line(&bytes);
            if let Some(signed) = signed.as_mut().filter(|_| verifier.holds()) {
                signed.hear(&verifier);
            }
            let Ok(record) = Record::stored(&bytes) else { continue };
            // Where records are missing, places run ahead of the count.
            at = at.max(record.seq.saturating_add(1));
            match record.event {
                Event::Changed { object, name, version, sha256 } => {
                    recorded.insert((object, name), (version, sha256));
                }
                Event::ReAnchored { .. } => signed.iter_mut().for_each(|signed| signed.given_up(record.seq)),
                _ => {}
            }
        }
    }
    let heads = store.heads().await?;
    let holds = verifier.holds();
    let lost = verifier.others().lost(heads.iter().map(|head| (head.log.as_str(), head.size)));
    let report = verifier.finish();
    if report.broken.is_none() && report.records < head.size {
        let words = format!("the store's head says {} records; {} are there", head.size, report.records);
        return Ok(report.with(Some((Finding::Truncated, words))));
    }
    let (is_signed, wrong) = match signed.map(|signed| signed.verdict(head.size)) {
        Some(Ok(is_signed)) => (is_signed, None),
        Some(Err(wrong)) => (false, Some(wrong)),
        None => (false, None),
    };
    let report = report.with(wrong);
    let found = match lost {
        // What the records of that log would say of rows is not known.
        Some(words) => Some((Finding::LogMissing, words)),
        None if holds => altered(store, recorded, heads.len() == 1).await?,
        None => None,
    };
    let report = report.with(found);
    Ok(if is_signed { report.signed() } else { report })
}

/// The first object that is not what the log says of it.
async fn altered(store: &dyn Store, mut recorded: Recorded, alone: bool) -> Result<Option<(Finding, String)>> {
    for kind in Kind::ALL {
        let mut after = String::new();
        loop {
            let page = store.rows(*kind, &after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after.clone_from(&last.name);
            for object in page {
                let name = object.name;
                let said = recorded.remove(&(kind.name().to_owned(), name.clone()));
                let by_another = !alone && said.as_ref().is_none_or(|(version, _)| *version < object.version);
                if by_another {
                    continue;
                }
                let Some((version, sha256)) = said else {
                    let words = format!("the log says nothing of {} {name}", kind.name());
                    return Ok(Some((Finding::RowUnrecorded, words)));
                };
                if version != object.version || sha256 != ChainHash::of(&object.body).to_string() {
                    let words = format!("{} {name} is not what its last record says", kind.name());
                    return Ok(Some((Finding::RowEdited, words)));
                }
            }
        }
    }
    let missing = recorded.into_keys().min();
    Ok(missing.map(|(kind, name)| (Finding::RowMissing, format!("{kind} {name} is in the log and not in the store"))))
}
