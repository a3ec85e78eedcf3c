//! What a person decides of a store that does not continue what was signed over it.

use crate::audit::chain::Head;
use crate::caller::Caller;
use crate::config::Config;
use crate::custody::Loss;
use crate::error::Result;
use crate::policy::{self, Asked, Operation};
use crate::serve::{Ask, begin, log_files, open_store};

/// A store that does not continue what was signed over it.
pub struct Contradiction {
    /// What is wrong, and what is lost by that.
    pub loss: Loss,
    /// The log, and how many records the store has of it.
    pub log: Head,
    /// The anchor: a signed note, if there is one.
    pub anchor: Option<String>,
}

/// Looks whether the store of a data directory continues its anchor, and its other logs what was signed over them. Writes
/// nothing.
///
/// # Errors
/// Those of opening a store, and whatever no new anchor helps against.
pub async fn contradiction(config: &Config) -> Result<Option<Contradiction>> {
    let store = open_store(config, false).await?;
    let (files, log) = (log_files(config), store.head());
    let loss = Loss::of(store.as_ref(), &files).await;
    store.close().await;
    let anchor = files.read_anchor().ok().flatten().map(|note| note.to_string());
    Ok(loss?.map(|loss| Contradiction { loss, log, anchor }))
}

/// Has a person decide that the log goes on from the store as it is; gives the new anchor.
///
/// # Errors
/// As [`open_custody`](crate::serve::open_custody), and [`Custody::re_anchor`](crate::custody::Custody::re_anchor): then
/// nothing is signed, and it is to be decided once more.
pub async fn re_anchor(config: &Config, caller: &Caller, found: Contradiction, ask: Ask) -> Result<String> {
    let asked = Asked { operation: Operation::ReAnchor, cluster: None, signs: None };
    let permit = policy::permit(caller, &asked)?;
    let store = open_store(config, false).await?;
    let Contradiction { loss, anchor, .. } = found;
    let (custody, _) = begin(config, store, Some(ask), |ledger| ledger.without(&loss.logs)).await?;
    let done = custody.re_anchor(permit, anchor.unwrap_or_default(), &loss).await;
    match done {
        Ok(note) => {
            custody.stop().await;
            Ok(note.to_string())
        }
        Err(fault) => {
            custody.stop_unsigned().await;
            Err(fault)
        }
    }
}
