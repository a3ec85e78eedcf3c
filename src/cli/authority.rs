//! `keyward authority`: an enrollment authority in a directory and a token of its own. No service runs on it.

use std::path::PathBuf;

use serde_json::json;

use crate::caller::Caller;
use crate::cli::{Global, init, output, prompt, runtime};
use crate::config::Config;
use crate::enrollment::authority::{self, Authority, Hierarchy, NewAuthority};
use crate::error::{Error, Reason, Result};
use crate::key::PublicKey;
use crate::serve::{self, Lock};

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Found an authority: root, CA, enrollment CA and enrollment service, their keys in a token of its own
    Init(Box<Init>),
    /// Answer an enrollment request, after its words were compared by voice
    Process {
        /// The authority's directory
        directory: PathBuf,
        /// The request's file
        request: PathBuf,
        /// The words that the sender read out. Without them, the words of the file are shown and nothing is done
        #[arg(long)]
        words: Option<String>,
        /// The response's file, to be made
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// How long the certificate may issue
        #[arg(long, value_name = "DAYS", default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=36500))]
        valid_days: u32,
    },
}

#[derive(clap::Args)]
pub(super) struct Init {
    #[command(flatten)]
    instance: init::Args,
    /// Production, or pre-production for trying out
    #[arg(long, value_enum, default_value_t = Hierarchy::Production)]
    hierarchy: Hierarchy,
    /// Whose authority it is: the first word of every name in the hierarchy
    #[arg(long, default_value = "Keyward")]
    organisation: String,
    /// How long the authority's certificates may issue
    #[arg(long, value_name = "YEARS", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=100))]
    years: u16,
    /// Write the root's public key here, PEM: what verifiers pin
    #[arg(long, value_name = "FILE")]
    pin: PathBuf,
}

pub(super) fn run(command: Command, global: &Global) -> Result<u8> {
    match command {
        Command::Init(args) => found(&args, global),
        Command::Process { directory, request, words, out, valid_days } => {
            let config = Config::load(&directory)?;
            let _lock = Lock::take(&directory)?;
            serve::prepare_modules(&config)?;
            let document = std::fs::read(&request).map_err(|fault| {
                output::unreadable(&request, &fault, "name the file that the sender's server has written")
            })?;
            let file = words.is_some().then(|| output::NewFile::create(&out, 0o644)).transpose()?;
            let response = runtime()?.block_on(async {
                let custody = serve::open_custody(&config, false, prompt::pin).await?;
                let done = process(&custody, &document, words.as_deref(), valid_days, global).await;
                custody.stop().await;
                done
            })?;
            if let (Some(file), Some(response)) = (file, response) {
                file.finish(&response)?;
                output::object(global.output, &json!({"response": out.display().to_string()}));
            }
            Ok(0)
        }
    }
}

fn found(args: &Init, global: &Global) -> Result<u8> {
    let pin = output::NewFile::create(&args.pin, 0o644)?;
    let new = NewAuthority { organisation: args.organisation.clone(), hierarchy: args.hierarchy, years: args.years };
    let mut founded: Option<Authority> = None;
    init::new_directory(&args.instance, async |custody| {
        founded = Some(authority::found(custody, &local(), new).await?);
        Ok(())
    })?;
    let authority = founded.ok_or_else(|| Error::new(Reason::Internal, "the authority was not founded"))?;
    pin.finish(PublicKey::Rsa(authority.root.clone()).pem().as_bytes())?;
    let shown = json!({
        "root": authority.root_name,
        "pin": crate::xrml::chain::Pin::of(&authority.root).to_string(),
        "pin_file": args.pin.display().to_string(),
        "directory": args.instance.directory.display().to_string(),
    });
    output::object(global.output, &shown);
    Ok(0)
}

async fn process(
    custody: &std::sync::Arc<crate::custody::Custody>,
    document: &[u8],
    words: Option<&str>,
    valid_days: u32,
    global: &Global,
) -> Result<Option<Vec<u8>>> {
    let received = authority::receive(custody, &local(), document).await?;
    let request = &received.request;
    let shown = json!({
        "server": format!("{{{}}}", request.guid),
        "name": request.name,
        "url": request.url,
        "product": format!("{} {}", request.sku, request.version),
        "revocation": if request.revocation.is_empty() {
            "standard".to_owned()
        } else {
            format!("custom, {} authorities", request.revocation.len())
        },
        "sha256": received.fingerprint.sha256,
        "words": received.fingerprint.words,
    });
    output::object(global.output, &shown);
    let Some(words) = words else {
        eprintln!("next: have the sender read out the words, then run this again with --words \"…\"");
        return Ok(None);
    };
    authority::process(custody, &local(), received, words, valid_days).await.map(Some)
}

fn local() -> Caller {
    Caller::LocalOperator { uid: rustix::process::geteuid().as_raw() }
}
