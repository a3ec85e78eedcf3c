//! `keyward serve`.

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::cli::{Global, output, runtime_of, service_threads, stop_signal};
use crate::config::Config;
use crate::error::Result;
use crate::serve::{self, Told};

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
        // A reader of standard error that has gone must not end the service.
        .log_internal_errors(false)
        .init();
    let config = Config::load(args.directory.as_ref().unwrap_or(&global.data))?;
    serve::prepare_modules(&config)?;
    let runtime = runtime_of(service_threads())?;
    let served = runtime.block_on(async {
        let signal = stop_signal()?;
        let stop = async {
            signal.await;
            tracing::info!("stopping: no new requests, those under way are finished");
        };
        let socket = config.path(&config.file.operator.socket);
        serve::serve(&config, stop, |told| tell(told, &socket, &config, global.output)).await
    });
    // Connections that outlived the drain do not hold the process.
    runtime.shutdown_background();
    served.map(|()| 0)
}

/// Says how far the start has come.
fn tell(told: Told<'_>, socket: &Path, config: &Config, format: output::Format) {
    let json = format == output::Format::Json;
    match told {
        // In one line each, so that a program need not guess where it ends.
        Told::Waiting(why) if json => {
            let shown = json!({
                "waiting": why.message(), "reason": why.reason().code(), "operators": socket.display().to_string(),
            });
            println!("{shown}");
        }
        Told::Ready(bound) if json => {
            let shown = json!({
                "nodes": bound.api,
                "join": bound.join,
                "operators": socket.display().to_string(),
                "closed_intents": bound.closed_intents,
            });
            println!("{shown}");
        }
        Told::Waiting(why) => {
            println!("serving operators on {}", socket.display());
            println!("serving no nodes yet: {why}");
            println!("next: keyward token status --data {}", config.directory.display());
            println!("waiting");
        }
        Told::Ready(bound) => {
            println!("serving nodes on {}", bound.api);
            println!("joining nodes on {}", bound.join);
            println!("serving operators on {}", socket.display());
            if bound.closed_intents > 0 {
                println!("closed {} intents that an earlier run left open", bound.closed_intents);
            }
            println!("ready");
        }
    }
}
