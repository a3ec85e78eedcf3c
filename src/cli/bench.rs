//! `keyward bench`: measures this machine, everything in one run, in a directory of its own.

use crate::cli::Global;
use crate::error::Result;

mod audit;
mod bare;
mod load;
mod sign;
mod token;

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Signatures: the bare token, the disk, and the whole service over mTLS with both records durable
    Sign(sign::Args),
    /// Signatures of a token through lane and host, beside its bare loop
    Token(token::Args),
    /// Records: what the store makes durable, beside bare commits of the database
    Audit(audit::Args),
}

pub(super) fn run(command: Command, global: &Global) -> Result<u8> {
    match command {
        Command::Sign(args) => sign::run(&args, global),
        Command::Token(args) => token::run(&args, global),
        Command::Audit(args) => audit::run(&args, global),
    }
    .map(|()| 0)
}

/// Rounds of one measurement: what the machine does meanwhile falls on all sides.
const ROUNDS: u32 = 8;

/// The middle of some values.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    if values.len().is_multiple_of(2) { f64::midpoint(values[half - 1], values[half]) } else { values[half] }
}
