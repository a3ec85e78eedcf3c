//! The bare token of a bench: the module's own signing loop, with a key made for it.

use std::time::Duration;

use crate::config::Config;
use crate::error::{Error, Reason, Result};
use crate::key::{KeyAlgorithm, KeyId, KeyRole};
use crate::serve;
use crate::token::pkcs11::Pkcs11Token;
use crate::token::{Generate, KeyRef, Token};

/// A token with a probe key.
pub(super) struct Bare {
    token: Pkcs11Token,
    key: KeyRef,
}

impl Bare {
    /// Opens the first token of a configuration and makes a probe key of 2048 bits in it.
    pub(super) fn open(config: &Config) -> Result<Self> {
        let binding = config
            .file
            .tokens
            .first()
            .ok_or_else(|| Error::new(Reason::ConfigInvalid, "the configuration has no token"))?;
        let token = serve::open_pkcs11(config, binding)?;
        let request = Generate {
            id: KeyId::random()?,
            label: "bench".into(),
            algorithm: KeyAlgorithm::Rsa(2048),
            sign: KeyRole::Probe.signs(),
            decrypt: KeyRole::Probe.decrypts(),
        };
        let made = token.generate(&request)?;
        Ok(Bare { token, key: KeyRef { id: request.id, public: made.public } })
    }

    /// Signatures per second of so many threads over this time.
    pub(super) fn per_second(&self, threads: usize, duration: Duration) -> Result<f64> {
        Ok(self.token.bare(&self.key, threads, duration)?.per_second)
    }
}
