//! `keyward token`: what a person decides about a token, while the service is stopped.

use std::sync::Arc;

use serde_json::json;

use crate::caller::Caller;
use crate::cli::{Global, output, probe, runtime};
use crate::config::Config;
use crate::custody::{self, Standing};
use crate::error::{Error, Reason, Result};
use crate::serve::Lock;
use crate::store::{Sqlite, Store};

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Allow one more try of a token's PIN, after its source was corrected
    Unlatch {
        /// The token's name in the configuration
        token: String,
    },
    /// Take a token out of quarantine, after the device was looked at
    Release {
        /// The token's name in the configuration
        token: String,
    },
    /// Make a token in a directory of its own, try out all that it does, and hold it against its profile
    Probe(probe::Args),
}

/// What holds a token back, and is cleared by a person.
#[derive(Clone, Copy)]
enum Hold {
    Latch,
    Quarantine,
}

pub(super) fn run(command: Command, global: &Global) -> Result<u8> {
    let (token, hold) = match command {
        Command::Probe(args) => return probe::run(&args, global),
        Command::Unlatch { token } => (token, Hold::Latch),
        Command::Release { token } => (token, Hold::Quarantine),
    };
    let config = Config::load(&global.data)?;
    let _lock = Lock::take(&config.directory)?;
    runtime()?.block_on(async {
        let store: Arc<dyn Store> = Arc::new(Sqlite::open(&config.path(&config.file.store.sqlite), false).await?);
        let done = clear(&token, hold, &config, store.as_ref(), global.output).await;
        store.close().await;
        done
    })?;
    Ok(0)
}

async fn clear(token: &str, hold: Hold, config: &Config, store: &dyn Store, format: output::Format) -> Result<()> {
    let known = config.file.tokens.iter().find(|known| known.name == token);
    let known = known.ok_or_else(|| {
        let names: Vec<&str> = config.file.tokens.iter().map(|token| token.name.as_str()).collect();
        Error::new(Reason::NotFound, format!("the configuration has no token {token}"))
            .hint(format!("name one of: {}", names.join(", ")))
    })?;
    let device = custody::device(&known.serial, &known.label);
    let (standing, _) = Standing::of(store, &device).await?;
    let caller = Caller::LocalOperator { uid: rustix::process::geteuid().as_raw() }.note();
    let (was, state) = match hold {
        Hold::Latch => (standing.latched, "unlatched"),
        Hold::Quarantine => (standing.quarantined, "released"),
    };
    let json = format == output::Format::Json;
    let Some(was) = was else {
        if json {
            output::object(format, &json!({ "token": token, "state": null, "was_held_because": null }));
        } else {
            println!("token {token} was not held; nothing is changed");
        }
        return Ok(());
    };
    let change = |standing: &mut Standing| match hold {
        Hold::Latch => standing.latched = None,
        Hold::Quarantine => standing.quarantined = None,
    };
    Standing::change(store, &device, state, &caller, &was, change).await?;
    if json {
        output::object(format, &json!({ "token": token, "state": state, "was_held_because": was }));
        return Ok(());
    }
    println!("token {token} is {state}; it was held because: {was}");
    println!("next: keyward serve {}", config.directory.display());
    Ok(())
}
