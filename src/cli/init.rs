//! `keyward init`: makes a data directory, whole or not at all.

use std::fs::{self, DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;

use crate::caller::Caller;
use crate::cli::output::{self, write_new};
use crate::cli::{Global, prompt, stop_signal};
use crate::clock;
use crate::config::{self, Api, Audit, Config, Enrollment, File, Join, Operator, PinSource, Store, Tls};
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
    /// How to reach the TPM, where that is not as its profile says, such as swtpm:host=127.0.0.1,port=2321
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
}

pub(super) fn run(args: &Args, global: &Global) -> Result<u8> {
    let file = new_directory(args, async |_| Ok(()))?;
    let (directory, token) = (args.directory.display(), &file.tokens[0]);
    if global.output == output::Format::Json {
        let shown = json!({
            "directory": directory.to_string(),
            "configuration": config::FILE,
            "store": file.store.sqlite,
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
    println!("  store          {} (SQLite)", file.store.sqlite.display());
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
    let planned = Config::new(target, plan(args, &profile), "");
    // Before anything is made: what holds for the directory's final name.
    planned.check().map_err(|fault| {
        fault.while_doing("this data directory cannot be made").hint(
            "correct the options of this command; where a path is too long, make the data directory in a shorter one",
        )
    })?;
    let place = Place::begin(&planned.directory)?;
    let file = make(&place.partial, &profile, planned.file, more)?;
    place.finish()?;
    Ok(file)
}

/// The configuration, but for what the token will say of itself.
fn plan(args: &Args, profile: &Profile) -> File {
    File {
        api: Api { listen: args.listen.clone(), server_names: args.server_names.clone() },
        operator: Operator { socket: "operator.sock".into() },
        store: Store { sqlite: "keyward.db".into() },
        join: Join { listen: args.join_listen.clone() },
        enrollment: Enrollment::default(),
        audit: Audit::default(),
        tls: Tls { authority: "tls/authority.pem".into() },
        tokens: vec![config::Token {
            name: "main".into(),
            profile: args.profile.clone(),
            directory: match (&args.label, &args.token_directory) {
                (None, _) => Some("token".into()),
                (Some(_), there) => there.as_deref().map(absolute),
            },
            tcti: args.tcti.clone(),
            label: args.label.clone().unwrap_or_default(),
            serial: args.serial.clone().unwrap_or_default(),
            sessions: args.sessions.unwrap_or(profile.sessions.recommended),
            pin: PinSource::File(args.pin_file.as_deref().map_or_else(|| "pins/main.user".into(), absolute)),
            replicas: Vec::new(),
        }],
        sinks: Vec::new(),
    }
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
            format!("{}, then name it: --tcti swtpm:host=127.0.0.1,port=2321", tpm.install),
        ),
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

/// Fills the directory.
fn make(
    directory: &Path,
    profile: &Profile,
    mut file: File,
    more: impl AsyncFnOnce(&Arc<Custody>) -> Result<()>,
) -> Result<File> {
    // A runtime without threads, so that modules may read their environment. From here on a signal does not end the
    // process, but this work, so that no PINs are left behind.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|fault| Error::new(Reason::Internal, "the runtime cannot start").detail(fault))?;
    let stop = runtime.block_on(async { stop_signal() })?;
    private_directory(&directory.join("tls"))?;
    if file.tokens[0].label.is_empty() {
        make_token(directory, profile, &mut file.tokens[0])?;
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
            founded = found(&config, more) => founded,
        }
    })?;
    Ok(config.file)
}

async fn found(config: &Config, more: impl AsyncFnOnce(&Arc<Custody>) -> Result<()>) -> Result<()> {
    let custody = serve::open_custody(config, true, prompt::pin).await?;
    let caller = Caller::LocalOperator { uid: rustix::process::geteuid().as_raw() };
    let founded = match instance::found(&custody, &caller).await {
        Ok(founded) => more(&custody).await.map(|()| founded),
        Err(fault) => Err(fault),
    };
    custody.stop().await;
    let founded = founded?;
    write_new(&config.path(&config.file.tls.authority), founded.tls_authority_pem.as_bytes(), 0o644)?;
    write_new(&config.directory.join(config::AUDIT_TRUST), founded.audit_trust.as_bytes(), 0o644)
}

const HEADER: &str = "# Keyward's configuration. Paths are relative to this file's directory; unknown settings are refused.\n\
                      # Check it after a change, from this directory: keyward config check --data .\n\n";

/// A random PIN of 32 hexadecimal digits, in a file of its own.
fn random_pin(path: &Path) -> Result<Pin> {
    let text = hex::encode(clock::random::<16>()?);
    write_new(path, text.as_bytes(), 0o600)?;
    Ok(Pin::new(text))
}

fn private_directory(path: &Path) -> Result<()> {
    DirBuilder::new().mode(0o700).create(path).map_err(|fault| unusable(path, &fault))
}

fn unusable(directory: &Path, fault: &std::io::Error) -> Error {
    Error::new(Reason::DataDirectory, format!("{} cannot be used: {fault}", directory.display()))
        .hint("name a new directory in one that is there and that this user may write")
}

/// What the name of an unfinished directory begins with.
const PARTIAL: &str = ".partial-";

/// A directory that is filled in a part of its own, and gets its content when that is whole. Dropped before that,
/// everything is removed again.
struct Place {
    target: PathBuf,
    partial: PathBuf,
    /// Whether the target was not there before.
    new: bool,
    moved: Vec<PathBuf>,
    done: bool,
}

impl Place {
    fn begin(target: &Path) -> Result<Self> {
        let partial = target.join(format!("{PARTIAL}{}", hex::encode(clock::random::<4>()?)));
        let new = match fs::read_dir(target) {
            Ok(mut entries) => match entries.next() {
                None => false,
                Some(entry) => return Err(occupied(target, &entry.map_err(|fault| unusable(target, &fault))?.path())),
            },
            Err(fault) if fault.kind() == std::io::ErrorKind::NotFound => true,
            Err(fault) => return Err(unusable(target, &fault)),
        };
        if new {
            private_directory(target)?;
        }
        let place = Place { target: target.to_owned(), partial, new, moved: Vec::new(), done: false };
        private_directory(&place.partial)?;
        Ok(place)
    }

    /// Moves the content into its place, the configuration last: a directory without it is no data directory.
    fn finish(mut self) -> Result<()> {
        let fault = |fault| unusable(&self.target, &fault);
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.partial).map_err(fault)? {
            names.push(entry.map_err(fault)?.file_name());
        }
        names.sort_by_key(|name| name == config::FILE);
        fs::set_permissions(&self.target, Permissions::from_mode(0o700)).map_err(fault)?;
        for name in names {
            let to = self.target.join(&name);
            fs::rename(self.partial.join(&name), &to).map_err(fault)?;
            self.moved.push(to);
        }
        self.done = true;
        fs::remove_dir(&self.partial).map_err(fault)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        for path in self.moved.iter().chain([&self.partial]) {
            let _ = fs::remove_dir_all(path).or_else(|_| fs::remove_file(path));
        }
        if self.new {
            let _ = fs::remove_dir(&self.target);
        }
    }
}

fn occupied(target: &Path, found: &Path) -> Error {
    let fault = Error::new(Reason::DataDirectory, format!("{} is not empty", target.display()));
    if found.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(PARTIAL.as_bytes())) {
        let found = found.display();
        return fault
            .hint(format!("an earlier run was broken off and left PINs in {found}; remove that, then try again"));
    }
    fault.hint("name a new directory")
}
