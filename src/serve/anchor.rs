//! What a person decides of a store that does not continue what was signed over it.

use crate::audit::chain::Head;
use crate::caller::Caller;
use crate::config::Config;
use crate::custody::GivenUp;
use crate::error::{Error, Reason, Result};
use crate::policy::{self, Asked, Operation};
use crate::serve::{Ask, begin, log_files, open_store};

/// A store that does not continue what was signed over it.
pub struct Contradiction {
    /// In which way.
    pub why: Error,
    /// The log, and how many records the store has of it.
    pub log: Head,
    /// The anchor: a signed note, if there is one.
    pub anchor: Option<String>,
    /// Logs of other instances that have to be given up.
    pub given_up: Vec<GivenUp>,
}

/// Looks whether the store of a data directory continues its anchor, and its other logs what was signed over them. Writes
/// nothing.
///
/// # Errors
/// Those of opening a store, and whatever no new anchor helps against.
pub async fn contradiction(config: &Config) -> Result<Option<Contradiction>> {
    let store = open_store(config, false).await?;
    let (files, log) = (log_files(config), store.head());
    let checked = files.check_own(store.as_ref()).await;
    let given_up = GivenUp::needed(store.as_ref()).await;
    store.close().await;
    let given_up = given_up?;
    let why = match (checked, given_up.first()) {
        (Ok(()), None) => return Ok(None),
        (Ok(()), Some(lost)) => lost.why.clone(),
        (Err(why), _) => {
            let own = files.read_trust()?.is_some_and(|trust| trust.log() == log.log);
            let helps = [
                Reason::StoreRewound,
                Reason::StoreForked,
                Reason::LogMissing,
                Reason::AnchorInvalid,
                Reason::CheckpointBroken,
            ];
            if !own || !helps.contains(&why.reason()) {
                return Err(why);
            }
            why
        }
    };
    let anchor = files.read_anchor().ok().flatten().map(|note| note.to_string());
    Ok(Some(Contradiction { why, log, anchor, given_up }))
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
    let Contradiction { why, anchor, given_up, .. } = found;
    let (custody, _) = begin(config, store, Some(ask), &given_up).await?;
    let done = custody.re_anchor(permit, &why, anchor.unwrap_or_default(), &given_up).await;
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
