//! Looking through the log: records that match a filter, page by page, with bounded work for each page.

use std::collections::HashMap;

use crate::audit::filter::Filter;
use crate::audit::record::{Event, Record};
use crate::custody::Custody;
use crate::error::{Error, Reason, Result};
use crate::policy::Permit;

/// Records that are looked at for one page. A filter that few records match gives short pages, and empty ones, each with
/// the place to go on from; so a page costs the same in a log of any length.
const SCAN_RECORDS_MAX: u64 = 4000;
/// Records that are read at a time.
const CHUNK_RECORDS: u64 = 500;
/// Most bytes of records in one page.
const PAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A page that is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// Which records.
    pub filter: &'a Filter,
    /// From the newest to the oldest.
    pub newest_first: bool,
    /// Where the page before ended.
    pub at: Option<u64>,
    /// Most records.
    pub size: u32,
}

/// A page of the log.
#[derive(Debug)]
pub struct Found {
    /// Records with their canonical bytes.
    pub records: Vec<(Vec<u8>, Record)>,
    /// Where the next page begins, if there is one.
    pub next: Option<u64>,
    /// Records in the log when it was looked through.
    pub size: u64,
}

impl Custody {
    /// Looks for records.
    ///
    /// # Errors
    /// `RECORD_BROKEN` if a record is missing or is none; those of the store.
    pub async fn entries(&self, _permit: Permit, query: Query<'_>) -> Result<Found> {
        let size = self.store.head().size;
        let Query { filter, newest_first, at, size: wanted } = query;
        let mut low = filter.from_seq.unwrap_or(0);
        let mut high = filter.until_seq.unwrap_or(size).min(size);
        // Times never run back within a log, so that they can be looked up by halving.
        if let Some(from_us) = filter.from_us {
            low = low.max(self.first_at(from_us, size).await?);
        }
        if let Some(until_us) = filter.until_us {
            high = high.min(self.first_at(until_us, size).await?);
        }
        match at {
            Some(at) if newest_first => high = high.min(at),
            Some(at) => low = low.max(at),
            None => {}
        }
        let mut found = Found { records: Vec::new(), next: None, size };
        let (mut looked_at, mut bytes) = (0, 0);
        while low < high {
            if looked_at >= SCAN_RECORDS_MAX || found.records.len() >= wanted as usize || bytes >= PAGE_BYTES_MAX {
                found.next = Some(if newest_first { high } else { low });
                break;
            }
            let count = (high - low).min(CHUNK_RECORDS).min(SCAN_RECORDS_MAX - looked_at);
            let first = if newest_first { high - count } else { low };
            let mut chunk = self.chunk(first, count, filter).await?;
            if newest_first {
                chunk.reverse();
            }
            for (bytes_of, record, wanted_one) in chunk {
                looked_at += 1;
                if newest_first {
                    high = record.seq
                } else {
                    low = record.seq + 1
                }
                if wanted_one {
                    bytes += bytes_of.len();
                    found.records.push((bytes_of, record));
                }
                if found.records.len() >= wanted as usize || bytes >= PAGE_BYTES_MAX {
                    break;
                }
            }
        }
        Ok(found)
    }

    /// Some records and whether each is wanted.
    async fn chunk(&self, first: u64, count: u64, filter: &Filter) -> Result<Vec<(Vec<u8>, Record, bool)>> {
        let records = self.read(first, count).await?;
        let mut intents: HashMap<u64, Event> = HashMap::new();
        if filter.asks_of_intents() {
            for (_, record) in &records {
                if let Event::Outcome { intent, .. } = &record.event {
                    // Most intents stand in the same chunk.
                    let near = intent.checked_sub(first).and_then(|at| records.get(usize::try_from(at).ok()?));
                    let event = match near {
                        Some((_, near)) => near.event.clone(),
                        None => self.one_record(*intent).await?.event,
                    };
                    intents.insert(record.seq, event);
                }
            }
        }
        let chosen = |record: &Record| filter.matches(&record.event, intents.get(&record.seq));
        Ok(records
            .into_iter()
            .map(|(bytes, record)| {
                let is = chosen(&record);
                (bytes, record, is)
            })
            .collect())
    }

    /// The first place whose record is not before a time; the log's size if there is none.
    async fn first_at(&self, time_us: i64, size: u64) -> Result<u64> {
        let (mut low, mut high) = (0, size);
        while low < high {
            let middle = low.midpoint(high);
            if self.one_record(middle).await?.time_us()? < time_us { low = middle + 1 } else { high = middle }
        }
        Ok(low)
    }

    async fn one_record(&self, seq: u64) -> Result<Record> {
        let mut records = self.read(seq, 1).await?;
        records.pop().map(|(_, record)| record).ok_or_else(|| missing(seq))
    }

    /// Consecutive records.
    async fn read(&self, first: u64, count: u64) -> Result<Vec<(Vec<u8>, Record)>> {
        let stored =
            self.store.entries(&self.store.head().log, first, u32::try_from(count).unwrap_or(u32::MAX)).await?;
        if (stored.len() as u64) < count {
            return Err(missing(first + stored.len() as u64));
        }
        let mut records = Vec::with_capacity(stored.len());
        for (seq, bytes) in (first..).zip(stored) {
            let record = Record::stored(&bytes).map_err(|fault| fault.while_doing(format!("record {seq}")))?;
            if record.seq != seq {
                return Err(missing(seq));
            }
            records.push((bytes, record));
        }
        Ok(records)
    }
}

fn missing(seq: u64) -> Error {
    Error::new(Reason::RecordBroken, format!("record {seq} is missing from the store"))
        .hint("verify the log: keyward audit verify")
}
