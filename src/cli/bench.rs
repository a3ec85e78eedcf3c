//! `keyward bench`: measures this machine, everything in one run, in a directory of its own.

use crate::cli::Global;
use crate::error::Result;

mod bare;
mod load;
mod sign;

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Signatures: the bare token, the disk, and the whole service over mTLS with both records durable
    Sign(sign::Args),
}

pub(super) fn run(command: Command, global: &Global) -> Result<u8> {
    let Command::Sign(args) = command;
    sign::run(&args, global).map(|()| 0)
}
