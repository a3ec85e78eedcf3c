//! `keyward init`: makes a data directory, whole or not at all.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;

use crate::caller::Caller;
use crate::cli::output::{self, write_new};
use crate::cli::place::{Place, private_directory, unusable};
use crate::cli::{Global, prompt, stop_signal};
use crate::clock;
use crate::config::{self, Api, Audit, Config, Enrollment, File, Join, Operator, PinSource, Postgres, Store, Tls};
use crate::custody::Custody;
use crate::enrollment::instance;
use crate::error::{Error, Reason, Result};
use crate::secret::Pin;
use crate::serve;
use crate::token;
use crate::token::profile::Profile;

#[derive(clap::Args)]
pub(super) struct Args {
    /// The directory to make; it must not exist, or be empty
    pub(super) directory: PathBuf,
    /// Where nodes will connect; port 0 takes a free one at each start
    #[arg(long, default_value = "127.0.0.1:7443")]
    pub(super) listen: String,
    /// Where nodes will join; port 0 takes a free one at each start
    #[arg(long, default_value = "127.0.0.1:7444")]
    pub(super) join_listen: String,
    /// A DNS name or address by which nodes know this server (may be repeated; the first is told to nodes)
    #[arg(long = "server-name", value_name = "NAME", default_values_t = ["localhost".to_owned(), "127.0.0.1".to_owned()])]
    pub(super) server_names: Vec<String>,
    /// The kind of software token to make
    #[arg(long, default_value = "softhsm")]
    pub(super) profile: String,
    /// Working sessions with the token, each on a thread of its own; as many as the profile recommends if left out
    #[arg(long)]
    pub(super) sessions: Option<usize>,
    /// How to reach the TPM, where that is not as its profile says, such as swtpm:path=/run/swtpm/tpm
    #[arg(long)]
    pub(super) tcti: Option<String>,
    /// Instead of making a token: the label of one that is there
    #[arg(long, requires_all = ["serial", "pin_file"])]
    pub(super) label: Option<String>,
    /// Its serial number
    #[arg(long, requires = "label")]
    pub(super) serial: Option<String>,
    /// The file with its user PIN
    #[arg(long, value_name = "FILE", requires = "label")]
    pub(super) pin_file: Option<PathBuf>,
    /// Its directory, if it is a token in software
    #[arg(long, value_name = "DIR", requires = "label")]
    pub(super) token_directory: Option<PathBuf>,
    /// Keep the records in this PostgreSQL database and not in a file: a URL without a password
    #[arg(long, value_name = "URL", requires = "called", conflicts_with = "beside")]
    pub(super) postgres: Option<String>,
    /// A file with the password of the database's user
    #[arg(long, value_name = "FILE", requires = "postgres")]
    pub(super) postgres_password: Option<PathBuf>,
    /// What this instance is called in the database
    #[arg(id = "called", long = "instance", value_name = "NAME")]
    pub(super) called: Option<String>,
    /// Make one more instance on the database of that data directory, with its tokens, PIN files and TLS authority
    #[arg(long, value_name = "DIR", requires = "called")]
    pub(super) beside: Option<PathBuf>,
}

pub(super) fn run(args: &Args, global: &Global) -> Result<u8> {
    let file = new_directory(args, async |_| Ok(()))?;
    let (directory, token) = (args.directory.display(), &file.tokens[0]);
    let store = match &file.store.postgres {
        Some(database) => format!("{} instance {}", database.url, database.instance),
        None => STORE.to_owned(),
    };
    if global.output == output::Format::Json {
        let shown = json!({
            "directory": directory.to_string(),
            "configuration": config::FILE,
            "store": store,
            "token": { "name": token.name, "label": token.label, "serial": token.serial, "profile": token.profile },
            "pins": "pins",
            "tls_authority": file.tls.authority,
            "audit_trust": config::AUDIT_TRUST,
            "audit_anchor": file.audit.anchor,
        });
        output::object(global.output, &shown);
        return Ok(0);
    }
    println!("made {directory}");
    println!("  configuration  {}", config::FILE);
    println!("  store          {store}");
    println!("  token          {}: {} serial {}, profile {}", token.name, token.label, token.serial, token.profile);
    match &token.pin {
        PinSource::File(file) if file.is_relative() => {
            println!("  PINs           in pins/, random, readable by you alone")
        }
        source => println!("  PIN            {source}"),
    }
    println!("  TLS authority  {}, its key in the token", file.tls.authority.display());
    println!("  log            {}: give it to whoever is to verify exports", config::AUDIT_TRUST);
    println!("  anchor         {}: set audit.anchor to a file on another disk", file.audit.anchor.display());
    println!("next: keyward serve {directory}");
    Ok(0)
}

/// Makes a data directory, lets `more` work on what it holds, and puts all in its place: whole, or not at all.
pub(super) fn new_directory(args: &Args, more: impl AsyncFnOnce(&Arc<Custody>) -> Result<()>) -> Result<File> {
    let profile = Profile::load(&args.profile)?;
    check_device(args, &profile)?;
    let target = std::path::absolute(&args.directory).map_err(|fault| unusable(&args.directory, &fault))?;
    let other = args.beside.as_deref().map(Config::load).transpose()?;
    let file = match &other {
        Some(other) => plan_beside(args, &profile, other)?,
        None => plan(args, &profile),
    };
    let planned = Config::new(target, file, "");
    // Before anything is made: what holds for the directory's final name.
    planned.check().map_err(|fault| {
        fault.while_doing("this data directory cannot be made").hint(
            "correct the options of this command; where a path is too long, make the data directory in a shorter one",
        )
    })?;
    let place = Place::begin(&planned.directory)?;
    let new = New { directory: &place.partial, profile: &profile, other: other.as_ref() };
    let file = make(&new, planned.file, more)?;
    place.finish()?;
    Ok(file)
}

/// The configuration, but for what the token will say of itself.
/// What the configuration calls a profile: of a file the whole path, so that it is found wherever a service starts.
fn lasting(profile: &str) -> String {
    match std::path::absolute(profile) {
        Ok(path) if Profile::is_path(profile) => path.display().to_string(),
        _ => profile.to_owned(),
    }
}

fn plan(args: &Args, profile: &Profile) -> File {
    File {
        api: Api { listen: args.listen.clone(), server_names: args.server_names.clone() },
        operator: Operator { socket: "operator.sock".into() },
        store: match &args.postgres {
            None => Store { sqlite: Some(STORE.into()), postgres: None },
            Some(url) => {
                let password = args.postgres_password.as_ref().map(|file| PinSource::File(absolute(file)));
                let instance = args.called.clone().unwrap_or_default();
                Store { sqlite: None, postgres: Some(Postgres { url: url.clone(), instance, password }) }
            }
        },
        join: Join { listen: args.join_listen.clone() },
        enrollment: Enrollment::default(),
        audit: Audit::default(),
        tls: Tls { authority: "tls/authority.pem".into() },
        tokens: vec![config::Token {
            name: "main".into(),
            profile: lasting(&args.profile),
            directory: match (&args.label, &args.token_directory) {
                (None, _) => Some("token".into()),
                (Some(_), there) => there.as_deref().map(absolute),
            },
            tcti: args.tcti.clone(),
            label: args.label.clone().unwrap_or_default(),
            serial: args.serial.clone().unwrap_or_default(),
            sessions: Some(args.sessions.unwrap_or(profile.sessions.recommended)),
            pin: PinSource::File(args.pin_file.as_deref().map_or_else(|| "pins/main.user".into(), absolute)),
            replicas: Vec::new(),
        }],
        sinks: Vec::new(),
    }
}

/// The configuration of one more instance on the database of another: with the tokens of that, where they are.
fn plan_beside(args: &Args, profile: &Profile, other: &Config) -> Result<File> {
    let Some(database) = other.file.store.postgres.clone() else {
        let words = format!("the records of {} are in a file, which serves one instance", other.directory.display());
        return Err(Error::new(Reason::ConfigInvalid, words)
            .hint("several instances need a PostgreSQL database: keyward init DIR --postgres URL --instance NAME"));
    };
    let there = |source: PinSource| match source {
        PinSource::File(file) => PinSource::File(absolute(&other.path(&file))),
        other => other,
    };
    let mut file = plan(args, profile);
    file.enrollment = other.file.enrollment.clone();
    file.store.sqlite = None;
    file.store.postgres = Some(Postgres {
        instance: args.called.clone().unwrap_or_default(),
        password: database.password.map(there),
        url: database.url,
    });
    file.tokens = other.file.tokens.clone();
    for token in &mut file.tokens {
        token.directory = token.directory.take().map(|directory| absolute(&other.path(&directory)));
        token.pin = there(token.pin.clone());
        for replica in &mut token.replicas {
            replica.directory = replica.directory.take().map(|directory| absolute(&other.path(&directory)));
            replica.pin = replica.pin.take().map(there);
        }
    }
    Ok(file)
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// Whether a token can be made or found as these options say.
fn check_device(args: &Args, profile: &Profile) -> Result<()> {
    let no = |words: &str, hint: String| Err(Error::new(Reason::ConfigInvalid, words).hint(hint));
    match &profile.tpm {
        Some(tpm) if args.tcti.is_none() && tpm.tcti.starts_with("file:") => no(
            &format!("the profile {} does not say where the TPM is", profile.name),
            format!(
                "{}, then name it: --tcti swtpm:path=/run/swtpm/tpm, or swtpm:host=127.0.0.1,port=2321",
                tpm.install
            ),
        ),
        Some(_) if args.sessions.is_some_and(|sessions| sessions > 1) => {
            no("a TPM does one thing at a time, in one session", "leave --sessions out".into())
        }
        None if args.tcti.is_some() => no("--tcti is for a TPM", "leave it out, or name a profile of a TPM".into()),
        _ => Ok(()),
    }
}

/// Makes the first token of a configuration, with random PINs, in a directory of its own.
fn make_token(directory: &Path, profile: &Profile, token: &mut config::Token) -> Result<()> {
    for part in ["pins", "token"] {
        private_directory(&directory.join(part))?;
    }
    let mut profile = profile.clone();
    if let (Some(tpm), Some(tcti)) = (&mut profile.tpm, &token.tcti) {
        tpm.tcti.clone_from(tcti);
    }
    let token_directory = directory.join("token");
    let user_pin = random_pin(&directory.join("pins/main.user"))?;
    // A TPM token has no security officer.
    let so_pin = match profile.tpm {
        Some(_) => Pin::new(String::new()),
        None => random_pin(&directory.join("pins/main.so"))?,
    };
    let label = format!("keyward-{}", hex::encode(clock::random::<4>()?));
    serve::prepare_module(&profile, &token_directory)?;
    let made = token::initialise(&profile, &token_directory, &label, &so_pin, &user_pin);
    let description = made.map_err(|fault| match (fault.reason(), fault.next_step()) {
        (Reason::TokenUnsupported, Some(how)) => {
            let name = &profile.name;
            let hint = format!("{how} Then: keyward init DIR --profile {name} --label … --serial … --pin-file FILE");
            fault.hint(hint)
        }
        _ => fault,
    })?;
    (token.label, token.serial) = (description.label, description.serial);
    Ok(())
}

/// What is being made.
struct New<'a> {
    directory: &'a Path,
    profile: &'a Profile,
    /// Whose database it shares.
    other: Option<&'a Config>,
}

/// Fills the directory.
fn make(new: &New, mut file: File, more: impl AsyncFnOnce(&Arc<Custody>) -> Result<()>) -> Result<File> {
    let directory = new.directory;
    // A runtime without threads, so that modules may read their environment. From here on a signal does not end the
    // process, but this work, so that no PINs are left behind.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|fault| Error::new(Reason::Internal, "the runtime cannot start").detail(fault))?;
    let stop = runtime.block_on(async { stop_signal() })?;
    private_directory(&directory.join("tls"))?;
    if file.tokens[0].label.is_empty() {
        make_token(directory, new.profile, &mut file.tokens[0])?;
    }
    let text = toml::to_string(&file)
        .map_err(|fault| Error::new(Reason::Internal, "the configuration cannot be written").detail(fault))?;
    let text = format!("{HEADER}{text}");
    write_new(&directory.join(config::FILE), text.as_bytes(), 0o600)?;
    let config = Config::new(directory.to_owned(), file, &text);
    serve::prepare_modules(&config)?;
    runtime.block_on(async {
        tokio::select! {
            biased;
            () = stop => Err(Error::new(Reason::DataDirectory, "a signal ended this; the directory was not made")),
            founded = found(&config, new.other, more) => founded,
        }
    })?;
    Ok(config.file)
}

async fn found(
    config: &Config,
    other: Option<&Config>,
    more: impl AsyncFnOnce(&Arc<Custody>) -> Result<()>,
) -> Result<()> {
    let pem = other.map(|other| {
        let path = other.path(&other.file.tls.authority);
        fs::read_to_string(&path).map_err(|fault| output::unreadable(&path, &fault, "bring it back from a backup"))
    });
    let pem = pem.transpose()?;
    let custody = serve::open_custody(config, true, prompt::pin).await?;
    let caller = Caller::LocalOperator { uid: rustix::process::geteuid().as_raw() };
    let founded = match pem {
        Some(pem) => instance::found_beside(&custody, &caller, pem).await,
        None => instance::found(&custody, &caller).await,
    };
    let founded = match founded {
        Ok(founded) => more(&custody).await.map(|()| founded),
        Err(fault) => Err(fault),
    };
    custody.stop().await;
    let founded = founded?;
    write_new(&config.path(&config.file.tls.authority), founded.tls_authority_pem.as_bytes(), 0o644)?;
    write_new(&config.directory.join(config::AUDIT_TRUST), founded.audit_trust.as_bytes(), 0o644)
}

/// The SQLite file's name inside a data directory.
const STORE: &str = "keyward.db";
const HEADER: &str = "# Keyward's configuration. Paths are relative to this file's directory; unknown settings are refused.\n\
                      # Check it after a change, from this directory: keyward config check --data .\n\n";

/// A random PIN of 32 hexadecimal digits, in a file of its own.
fn random_pin(path: &Path) -> Result<Pin> {
    let text = hex::encode(clock::random::<16>()?);
    write_new(path, text.as_bytes(), 0o600)?;
    Ok(Pin::new(text))
}
