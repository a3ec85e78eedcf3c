//! Where records are: a file, or a database.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::{Config, PinSource};
use crate::error::Result;
use crate::secret::Pin;

/// Where records are: one of the two.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Store {
    /// A SQLite file, for one instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sqlite: Option<PathBuf>,
    /// A PostgreSQL database, for several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postgres: Option<Postgres>,
}

/// A PostgreSQL database, and who this instance is in it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Postgres {
    /// Server, user and database: a `postgres://` URL without a password. `?host=/run/postgresql` names a Unix socket.
    pub url: String,
    /// What this instance's log is known by: each instance has a name of its own.
    pub instance: String,
    /// The password of the database's user, where the server asks for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<PinSource>,
}

impl Postgres {
    /// Reads the password, if one is configured.
    ///
    /// # Errors
    /// `PIN_SOURCE` if the file cannot be read, is open to others, or is empty.
    pub fn read_password(&self, config: &Config) -> Result<Option<Pin>> {
        self.password.as_ref().map(|source| source.read(config, "the password of the database")).transpose()
    }

    pub(super) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let place = self.url.strip_prefix("postgres://").or_else(|| self.url.strip_prefix("postgresql://"));
        if place.is_none() {
            faults.push("store.postgres.url: a URL begins with postgres://".into());
        }
        let (authority, query) = self.url.split_once('?').unwrap_or((&self.url, ""));
        let user = place.and_then(|_| authority.split_once("://")?.1.rsplit_once('@'));
        if user.is_some_and(|(user, _)| user.contains(':'))
            || query.split('&').any(|part| part.starts_with("password="))
        {
            faults.push("store.postgres.url: holds a password; put it into a file: password = { file = ... }".into());
        }
        if crate::cluster::check_id("instance", &self.instance).is_err() {
            faults.push(format!(
                "store.postgres.instance: {:?} is not lower-case letters, digits and hyphens, a letter first",
                self.instance
            ));
        }
        faults
    }
}
