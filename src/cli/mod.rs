//! The command line: one file per subcommand.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::error::{Error, Reason, Result};

// In this room these stand for the standard macros of the same names, which panic when the reader of a stream has gone.
macro_rules! print {
    ($($words:tt)*) => { $crate::cli::output::print(format_args!($($words)*)) };
}
macro_rules! println {
    () => { print!("\n") };
    ($($words:tt)*) => { print!("{}\n", format_args!($($words)*)) };
}
macro_rules! eprintln {
    ($($words:tt)*) => { $crate::cli::output::tell(format_args!("{}\n", format_args!($($words)*))) };
}

mod anchor;
mod audit;
mod authority;
mod backup;
mod bench;
mod cluster;
mod config;
mod connect;
mod enroll;
mod host;
mod init;
mod key;
mod license;
mod node;
mod output;
mod place;
mod probe;
mod prompt;
mod prove;
mod serve;
mod show;
mod token;
mod verify;

/// Custody of the keys behind rights-management licenses: they are made in a token and never leave it.
#[derive(Parser)]
#[command(version, max_term_width = 110, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every subcommand takes.
#[derive(clap::Args)]
struct Global {
    /// The data directory of the service to speak to, or to work on
    #[arg(long, global = true, value_name = "DIR", default_value = ".", display_order = 1000)]
    data: PathBuf,
    /// How to print: a table for people, or json for programs
    #[arg(long, global = true, value_enum, value_name = "FORM", default_value_t = output::Format::Table)]
    #[arg(hide_possible_values = true, display_order = 1001)]
    output: output::Format,
}

#[derive(Subcommand)]
enum Command {
    /// Make a data directory: configuration, store, TLS trust, and a software token to begin with
    Init(init::Args),
    /// Serve licensing nodes until SIGTERM
    Serve(serve::Args),
    /// Clusters and their server licensor keys
    #[command(subcommand)]
    Cluster(cluster::Command),
    /// The way of a cluster to its certificate: request out, response in
    #[command(subcommand)]
    Enroll(enroll::Command),
    /// An enrollment authority, in a directory and a token of its own
    #[command(subcommand)]
    Authority(authority::Command),
    /// The public halves of keys, and the proof of where the private halves are
    #[command(subcommand)]
    Key(key::Command),
    /// Licensing nodes and their certificates
    #[command(subcommand)]
    Node(node::Command),
    /// What a licensing node does
    #[command(subcommand)]
    License(license::Command),
    /// The log: export and offline verification
    #[command(subcommand)]
    Audit(audit::Command),
    /// Tokens: how they stand, what a person decides about them, and what they do when tried out
    #[command(subcommand)]
    Token(token::Command),
    /// Copy the records and the files that belong to them, beside a running service; no token and no PIN
    Backup(backup::Backup),
    /// Make a data directory of a backup, after it was checked against the last checkpoint that is known
    Restore(backup::Restore),
    /// The configuration
    #[command(subcommand)]
    Config(config::Command),
    /// Check documents without a service: signatures, links, trust, and at a time their dates
    Verify(verify::Args),
    /// Say in words what documents say: who may do what, until when, under which conditions
    Show(show::Args),
    /// Measure this machine, in a directory of its own
    #[command(subcommand)]
    Bench(bench::Command),
    /// Hold one token for the service that started this
    #[command(name = "token-host", hide = true)]
    TokenHost,
}

/// Exit code of a command line that cannot be read (EX_USAGE of `sysexits.h`).
const USAGE: u8 = 64;

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(usage) => {
            // Help and version come this way too; they are what was asked for.
            let _ = usage.print();
            return ExitCode::from(if usage.use_stderr() { USAGE } else { 0 });
        }
    };
    match run(cli).and_then(|code| output::whole().map(|()| code)) {
        Ok(code) => ExitCode::from(code),
        Err(fault) => {
            output::fault(&fault);
            ExitCode::from(fault.exit_code())
        }
    }
}

fn run(cli: Cli) -> Result<u8> {
    let global = cli.global;
    match cli.command {
        Command::Init(args) => init::run(&args, &global),
        Command::Serve(args) => serve::run(&args, &global),
        Command::Cluster(command) => wait(cluster::run(command, &global)),
        Command::Enroll(command) => wait(enroll::run(command, &global)),
        Command::Authority(command) => authority::run(command, &global),
        Command::Key(command) => wait(key::run(command, &global)),
        Command::Node(command) => wait(node::run(command, &global)),
        Command::License(command) => wait(license::run(command, &global)),
        Command::Audit(command) => audit::run(command, &global),
        Command::Token(command) => token::run(command, &global),
        Command::Backup(args) => backup::backup(&args, &global),
        Command::Restore(args) => backup::restore(&args, &global),
        Command::Config(command) => config::run(&command, &global),
        Command::Verify(args) => verify::run(&args, &global),
        Command::Show(args) => show::run(&args, &global),
        Command::Bench(command) => bench::run(command, &global),
        Command::TokenHost => host::run(),
    }
}

/// Runs a client's work to its end.
fn wait(work: impl Future<Output = Result<()>>) -> Result<u8> {
    runtime()?.block_on(work)?;
    Ok(0)
}

/// Resolves at SIGTERM or SIGINT, which end the process no more by themselves once this was called.
fn stop_signal() -> Result<impl Future<Output = ()> + Send> {
    use tokio::signal::unix::{SignalKind, signal};
    let fault = |fault| Error::new(Reason::Internal, "signals cannot be received").detail(fault);
    let mut terminate = signal(SignalKind::terminate()).map_err(fault)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(fault)?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// The runtime of a command, made after everything that must happen in a process with one thread.
fn runtime() -> Result<tokio::runtime::Runtime> {
    runtime_of(std::thread::available_parallelism().map_or(1, usize::from))
}

/// A service's threads for all but its tokens: half of the processors. A software token's own work is most of what a
/// signature costs, and each thread more is one more to wake.
fn service_threads() -> usize {
    (std::thread::available_parallelism().map_or(1, usize::from) / 2).max(1)
}

/// A runtime of so many threads.
fn runtime_of(threads: usize) -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .map_err(|fault| Error::new(Reason::Internal, "the runtime cannot start").detail(fault))
}
