//! What instances that run write while a store is verified: the records behind those that were, and the rows that they
//! tell of.

use std::collections::HashMap;

use crate::audit::chain::{ChainHash, Head};
use crate::audit::record::{Event, Record};
use crate::audit::verify::Finding;
use crate::error::Result;
use crate::store::{Kind, Object, Store};

/// Records that are read at a time.
const PAGE: u32 = 1000;

/// Records that were written since the logs were verified.
pub(super) struct Meanwhile<'s> {
    store: &'s dyn Store,
    /// Up to where each log is known.
    ends: Vec<Head>,
    /// Versions of objects that they tell of, by kind and name: each with its hash.
    changes: HashMap<(String, String), Vec<(u64, String)>>,
}

impl<'s> Meanwhile<'s> {
    /// Begins where the logs that count were found to end.
    pub(super) fn new(store: &'s dyn Store, ends: Vec<Head>) -> Self {
        Meanwhile { store, ends, changes: HashMap::new() }
    }

    /// Whether a row that was read is what some record says that was written since. What is wrong with such a record comes
    /// as an `Err` within.
    ///
    /// # Errors
    /// Those of reading.
    pub(super) async fn tells_of(&mut self, kind: Kind, row: &Object) -> Result<Result<bool, (Finding, String)>> {
        if !self.told(kind, row)
            && let Some(wrong) = self.read().await?
        {
            return Ok(Err(wrong));
        }
        Ok(Ok(self.told(kind, row)))
    }

    fn told(&self, kind: Kind, row: &Object) -> bool {
        let of = (kind.name().to_owned(), row.name.clone());
        let this = (row.version, ChainHash::of(&row.body).to_string());
        self.changes.get(&of).is_some_and(|changes| changes.contains(&this))
    }

    /// Reads up to the present ends. A row was written in one commit with its record, so that this is there when the row is.
    async fn read(&mut self) -> Result<Option<(Finding, String)>> {
        let now = self.store.heads().await?;
        for end in &mut self.ends {
            let size = now.iter().find(|head| head.log == end.log).map_or(0, |head| head.size);
            while end.size < size {
                let page = self.store.entries(&end.log, end.size, PAGE).await?;
                if page.is_empty() {
                    let words = format!("record {} of log {} is missing", end.size, end.log);
                    return Ok(Some((Finding::Deleted, words)));
                }
                for bytes in page {
                    let seq = end.size;
                    if let Err(fault) = end.follow(&bytes) {
                        let words = format!("record {seq} of log {} {}", end.log, fault.message());
                        return Ok(Some((Finding::Edited, words)));
                    }
                    if let Ok(Event::Changed { object, name, version, sha256 }) =
                        Record::stored(&bytes).map(|r| r.event)
                    {
                        self.changes.entry((object, name)).or_default().push((version, sha256));
                    }
                }
            }
        }
        Ok(None)
    }
}
