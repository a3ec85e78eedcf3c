//! What instances that run write while a store is verified: the records behind those that were, and the rows that they
//! tell of.

use std::collections::{BTreeSet, HashMap};

use crate::audit::chain::{ChainHash, Head};
use crate::audit::record::Event;
use crate::error::Result;
use crate::store::recorded::follow;
use crate::store::signed::Wrong;
use crate::store::{Kind, Object, Store};

/// Records that were written since the logs were verified.
pub(super) struct Meanwhile<'s> {
    store: &'s dyn Store,
    /// The logs that were verified, whether or not they count.
    verified: BTreeSet<String>,
    /// Up to where each log is known that counts, or has begun since.
    ends: Vec<Head>,
    /// What they tell of objects, by kind and name.
    changes: HashMap<(String, String), Vec<Change>>,
}

/// A version of an object, its hash, and the log that tells of it.
type Change = (u64, String, String);

/// Which record of those that were written since says what a row is.
pub(super) enum Told {
    /// None.
    Nowhere,
    /// One of a log that counts.
    There,
    /// Only one of this log, which has begun since: nothing says yet whose it is.
    ByNew(String),
}

impl<'s> Meanwhile<'s> {
    /// Begins where the logs that count were found to end, with the names of all that were verified.
    pub(super) fn new(store: &'s dyn Store, ends: Vec<Head>, verified: BTreeSet<String>) -> Self {
        Meanwhile { store, verified, ends, changes: HashMap::new() }
    }

    /// Whether a row that was read is what some record says that was written since. What is wrong with such a record comes
    /// as an `Err` within.
    ///
    /// # Errors
    /// Those of reading.
    pub(super) async fn tells_of(&mut self, kind: Kind, row: &Object) -> Result<Result<Told, Wrong>> {
        if matches!(self.told(kind, row), Told::Nowhere)
            && let Some(wrong) = self.read().await?
        {
            return Ok(Err(wrong));
        }
        Ok(Ok(self.told(kind, row)))
    }

    fn told(&self, kind: Kind, row: &Object) -> Told {
        let of = (kind.name().to_owned(), row.name.clone());
        let (this, sha256) = (row.version, ChainHash::of(&row.body).to_string());
        let changes = self.changes.get(&of).into_iter().flatten();
        let mut logs = changes.filter(|(version, hash, _)| (*version, hash) == (this, &sha256)).map(|(.., log)| log);
        if logs.clone().any(|log| self.verified.contains(log)) {
            Told::There
        } else {
            logs.next().map_or(Told::Nowhere, |log| Told::ByNew(log.clone()))
        }
    }

    /// Reads up to the present ends. A row was written in one commit with its record, so that this is there when the row is.
    async fn read(&mut self) -> Result<Option<Wrong>> {
        let now = self.store.heads().await?;
        let is_new =
            |head: &&Head| !self.verified.contains(&head.log) && self.ends.iter().all(|end| end.log != head.log);
        let begun: Vec<_> = now.iter().filter(is_new).map(|head| Head::empty(head.log.clone())).collect();
        self.ends.extend(begun);
        for end in &mut self.ends {
            let size = now.iter().find(|head| head.log == end.log).map_or(0, |head| head.size);
            let changes = &mut self.changes;
            let heard = |log: &str, event| {
                if let Event::Changed { object, name, version, sha256 } = event {
                    changes.entry((object, name)).or_default().push((version, sha256, log.to_owned()));
                }
            };
            if let Some(wrong) = follow(self.store, end, size, heard).await? {
                return Ok(Some(wrong));
            }
        }
        Ok(None)
    }
}
