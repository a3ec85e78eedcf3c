//! Where a PIN or a password comes from.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::error::{Error, Reason, Result};
use crate::secret::Pin;

/// Where a PIN comes from. Never from the configuration itself, an argument or the environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PinSource {
    /// A file that only its owner can read; one end of line after the PIN is dropped.
    File(PathBuf),
    /// A credential that systemd hands to the service (`LoadCredential=`, `LoadCredentialEncrypted=`), by its name.
    Credential(String),
    /// A person types it: `keyward token login`. Until then a service waits.
    Prompt,
}

impl std::fmt::Display for PinSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            PinSource::File(path) => write!(f, "{}", path.display()),
            PinSource::Credential(name) => write!(f, "the systemd credential {name}"),
            PinSource::Prompt => f.write_str("whoever types it"),
        }
    }
}

impl PinSource {
    /// Reads the PIN, which `what` names in errors.
    ///
    /// # Errors
    /// `PIN_SOURCE` if it cannot be read, is open to others, or is empty; `TOKEN_WAITING` if it must be typed.
    pub fn read(&self, config: &Config, what: &str) -> Result<Pin> {
        match self {
            // The mask of an access control list, by which systemd lets the service's user read, looks like a group.
            PinSource::Credential(name) => read_private(&credentials(what)?.join(name), 0o007, what),
            PinSource::File(path) => read_private(&config.path(path), 0o077, what),
            PinSource::Prompt => {
                let words = format!("{what} is typed by a person, and nobody was asked yet");
                Err(Error::new(Reason::TokenWaiting, words))
            }
        }
    }
}

/// Where systemd has put this service's credentials.
#[allow(clippy::disallowed_methods, reason = "the environment is how systemd says it; it holds no secret")]
fn credentials(what: &str) -> Result<PathBuf> {
    std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from).ok_or_else(|| {
        Error::new(Reason::PinSource, format!("{what} is a systemd credential, and systemd gave this process none"))
            .hint("add LoadCredential=NAME:FILE to the unit, or name a file: pin = { file = \"…\" }")
    })
}

/// Reads a PIN from a file, which nobody may access by `others`' bits of its mode.
fn read_private(path: &Path, others: u32, what: &str) -> Result<Pin> {
    use std::os::unix::fs::MetadataExt;
    let fault = |words: String| {
        Error::new(Reason::PinSource, format!("{what} in {} {words}", path.display()))
            .hint(format!("write the PIN into that file, then: chmod 600 {}", path.display()))
    };
    let mode = std::fs::metadata(path).map_err(|cause| fault(format!("cannot be read: {cause}")))?.mode();
    if mode & others != 0 {
        return Err(fault(format!("can be read by others (mode {:o})", mode & 0o777))
            .hint(format!("chmod 600 {}", path.display())));
    }
    let mut text = std::fs::read_to_string(path).map_err(|cause| fault(format!("cannot be read: {cause}")))?;
    if text.ends_with('\n') {
        text.pop();
    }
    if text.is_empty() {
        return Err(fault("is empty".to_owned()));
    }
    Ok(Pin::new(text))
}
