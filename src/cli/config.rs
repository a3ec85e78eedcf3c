//! `keyward config`.

use std::path::Path;

use serde_json::{Value, json};

use crate::audit::trust::Trust;
use crate::cli::{Global, output};
use crate::config::{AUDIT_TRUST, Config, FILE};
use crate::error::{Error, Reason, Result};
use crate::serve;
use crate::tls;

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Read the configuration and the files that it names, and report all that is wrong
    Check,
}

pub(super) fn run(command: &Command, global: &Global) -> Result<u8> {
    let Command::Check = command;
    let config = Config::load(&global.data)?;
    let faults = faults(&config);
    if !faults.is_empty() {
        let words: Vec<&str> = faults.iter().map(Error::message).collect();
        let mut hints: Vec<&str> = faults.iter().filter_map(Error::next_step).collect();
        hints.dedup();
        return Err(Error::new(Reason::ConfigInvalid, words.join("; ")).hint(hints.join("; ")));
    }
    let path = config.directory.join(FILE);
    let tokens: Vec<_> = config.file.tokens.iter().flat_map(crate::config::Token::devices).collect();
    if global.output == output::Format::Json {
        let row = |token: &crate::config::Token| json!({ "name": token.name, "profile": token.profile, "label": token.label, "serial": token.serial });
        let tokens: Vec<Value> = tokens.iter().map(row).collect();
        output::object(global.output, &json!({ "file": path, "good": true, "tokens": tokens }));
        return Ok(0);
    }
    for token in &tokens {
        println!("token {}: profile {}, label {}, serial {}", token.name, token.profile, token.label, token.serial);
    }
    println!("{}: good", path.display());
    Ok(0)
}

/// What is wrong with the files that a configuration names.
fn faults(config: &Config) -> Vec<Error> {
    let mut faults = Vec::new();
    for token in &config.file.tokens {
        faults.extend(serve::faults(config, token));
    }
    let read = |path: &Path| {
        let path = config.path(path);
        std::fs::read_to_string(&path).map_err(|fault| output::unreadable(&path, &fault, "bring it back from a backup"))
    };
    let authority = read(&config.file.tls.authority).and_then(|pem| tls::Authority::check(&pem));
    faults.extend(authority.err().map(|fault| fault.while_doing("tls.authority")));
    let trust = read(AUDIT_TRUST.as_ref()).and_then(|text| text.parse::<Trust>());
    faults.extend(trust.err().map(|fault| fault.while_doing(AUDIT_TRUST)));
    faults
}
