//! What custody keeps of keys and tokens.

use serde::{Deserialize, Serialize};

use crate::audit::record::Event;
use crate::caller::CallerNote;
use crate::error::Result;
use crate::key::{KeyId, KeyRole, KeyState, Mode, PublicKey};
use crate::store::{Batch, Kind, Store, Write};
use crate::token::{Evidence, KeyRef};

/// A key's record: all of it but the private half, which is in the token alone.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeyRecord {
    /// Resource name, `clusters/{c}/keys/{k}`.
    pub name: String,
    /// What it is for.
    pub role: KeyRole,
    /// Cryptographic mode.
    pub mode: Mode,
    /// Where in its life it is.
    pub state: KeyState,
    /// CKA_ID in its token.
    pub id: KeyId,
    /// The token's name in the configuration.
    pub token: String,
    /// The public half.
    pub public: PublicKey,
    /// What the token says of the private half.
    pub evidence: Evidence,
    /// When it was made: microseconds since 1970, UTC.
    pub created_us: i64,
}

impl KeyRecord {
    /// The key as a token knows it.
    #[must_use]
    pub fn in_token(&self) -> KeyRef {
        KeyRef { id: self.id, public: self.public.clone() }
    }
}

/// Whether a token may be used, and if not, why. Kept across restarts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Its PIN was refused: nobody tries again before a person clears this.
    pub latched: Option<String>,
    /// It gave a key or a signature that is not the recorded one.
    pub quarantined: Option<String>,
}

impl Standing {
    /// The standing of a token, and the version of its record (0 if it has none).
    ///
    /// # Errors
    /// Those of the store.
    pub async fn of(store: &dyn Store, token: &str) -> Result<(Self, u64)> {
        match store.get(Kind::Token, token).await? {
            Some(object) => Ok((object.read()?, object.version)),
            None => Ok((Standing::default(), 0)),
        }
    }

    /// Changes a token's standing and records who did it and why.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn change(
        store: &dyn Store,
        token: &str,
        state: &str,
        caller: &CallerNote,
        reason: &str,
        change: impl FnOnce(&mut Standing),
    ) -> Result<()> {
        let (mut standing, version) = Standing::of(store, token).await?;
        change(&mut standing);
        let event = Event::TokenState {
            token: token.to_owned(),
            state: state.to_owned(),
            caller: caller.clone(),
            reason: reason.to_owned(),
        };
        let writes = vec![Write::new(Kind::Token, token, version, &standing)?];
        store.commit(Batch { writes, events: vec![event] }).await.map(|_| ())
    }
}
