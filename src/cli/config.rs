//! `keyward config`.

use crate::cli::Global;
use crate::config::Config;
use crate::error::Result;
use crate::token::profile::Profile;

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Read the configuration and every profile it names, and report all that is wrong
    Check,
}

pub(super) fn run(command: &Command, global: &Global) -> Result<u8> {
    let Command::Check = command;
    let config = Config::load(&global.data)?;
    for token in &config.file.tokens {
        Profile::load(&token.profile)?;
        token.read_pin(&config)?;
        println!("token {}: profile {}, label {}, serial {}", token.name, token.profile, token.label, token.serial);
    }
    println!("{}: good", config.directory.join(crate::config::FILE).display());
    Ok(0)
}
