//! `keyward serve`.

use std::path::PathBuf;

use tokio::signal::unix::{SignalKind, signal};

use crate::cli::{Global, runtime};
use crate::config::Config;
use crate::error::{Error, Reason, Result};
use crate::serve;

#[derive(clap::Args)]
pub(super) struct Args {
    /// The data directory; that of --data if left out
    directory: Option<PathBuf>,
}

pub(super) fn run(args: &Args, global: &Global) -> Result<u8> {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::builder()
                .with_default_directive(tracing_subscriber::filter::LevelFilter::INFO.into())
                .from_env_lossy(),
        )
        .with_writer(std::io::stderr)
        .init();
    let config = Config::load(args.directory.as_ref().unwrap_or(&global.data))?;
    serve::prepare_modules(&config)?;
    let runtime = runtime()?;
    let served = runtime.block_on(async {
        let stop = stop_signal()?;
        serve::serve(&config, stop, |bound| {
            println!("serving nodes on {}", bound.api);
            println!("joining nodes on {}", bound.join);
            println!("serving operators on {}", config.path(&config.file.operator.socket).display());
            if bound.closed_intents > 0 {
                println!("closed {} intents that an earlier run left open", bound.closed_intents);
            }
            println!("ready");
        })
        .await
    });
    // Connections that outlived the drain do not hold the process.
    runtime.shutdown_background();
    served.map(|()| 0)
}

/// Resolves at SIGTERM or SIGINT.
fn stop_signal() -> Result<impl Future<Output = ()> + Send> {
    let fault = |fault| Error::new(Reason::Internal, "signals cannot be received").detail(fault);
    let mut terminate = signal(SignalKind::terminate()).map_err(fault)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(fault)?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping: no new requests, those under way are finished");
    })
}
