//! `keyward audit`: the log read, exported, and verified without a service.

use std::path::PathBuf;

use crate::cli::{Global, anchor, prove, runtime};
use crate::error::Result;

mod ahead;
mod export;
mod list;
mod verify;

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Look for records, the oldest first
    List(list::List),
    /// Show the last records, and with --follow those that come
    Tail(list::Tail),
    /// Write all records of the log, a checkpoint signed over them, and the keys to verify it with. An export that was
    /// broken off goes on where it ended
    Export {
        /// The directory for audit.jsonl, audit.checkpoint and audit.trust, which must not be there yet
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// The copies of the log that the service keeps, and how each stands
    Sinks,
    /// Check an export, offline: exit 0 if it holds, 1 if it is broken, 2 if it is incomplete or without trust, 3 if it
    /// cannot be read
    Verify(verify::Args),
    /// Write a proof that a record is in the log, or that the log continues an earlier checkpoint
    Prove(prove::Args),
    /// Check such a proof, offline: exit 0 if it holds, 1 if not, 3 if something cannot be read
    VerifyProof(prove::VerifyArgs),
    /// Write the signed checkpoint of the log as it ends now
    Checkpoint {
        /// The file to make
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Sign another instance's checkpoint with this instance's audit key, if it continues the one signed before
    Countersign(prove::CountersignArgs),
    /// Put a new key, made in the token, in the place of the audit key; both sign the change
    RotateKey,
    /// Go on from a store that is older than its anchor, or another: shows what is lost. The service must be stopped
    ReAnchor {
        /// The words that this command shows when it is run without them
        #[arg(long, value_name = "WORDS")]
        confirm: Option<String>,
        /// Also clear the latch and the quarantine of this token or replica: the log is signed anew with it (may be
        /// repeated)
        #[arg(long, value_name = "TOKEN", requires = "confirm")]
        lift: Vec<String>,
    },
}

pub(super) fn run(command: Command, global: &Global) -> Result<u8> {
    match command {
        Command::List(args) => runtime()?.block_on(list::list(&args, global)).map(|()| 0),
        Command::Tail(args) => runtime()?.block_on(list::tail(&args, global)).map(|()| 0),
        Command::Export { out } => runtime()?.block_on(export::export(&out, global)).map(|()| 0),
        Command::Sinks => runtime()?.block_on(list::sinks(global)).map(|()| 0),
        Command::Verify(args) => Ok(verify::run(&args, global)),
        Command::Prove(args) => prove::run(&args, global),
        Command::VerifyProof(args) => Ok(prove::verify(&args, global)),
        Command::Checkpoint { out } => runtime()?.block_on(prove::checkpoint_of_service(&out, global)).map(|()| 0),
        Command::Countersign(args) => runtime()?.block_on(prove::countersign(&args, global)).map(|()| 0),
        Command::RotateKey => runtime()?.block_on(prove::rotate_key(global)).map(|()| 0),
        Command::ReAnchor { confirm, lift } => anchor::re_anchor(confirm.as_deref(), &lift, global),
    }
}

/// Names of the files of an export.
const RECORDS: &str = "audit.jsonl";
const CHECKPOINT: &str = "audit.checkpoint";
const TRUST: &str = "audit.trust";
