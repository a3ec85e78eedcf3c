//! `keyward init`: makes a data directory, whole or not at all.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::caller::Caller;
use crate::cli::output::write_new;
use crate::cli::runtime;
use crate::clock;
use crate::config::{self, Api, Config, Enrollment, File, Join, Operator, PinSource, Store, Tls};
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
    /// Working sessions with the token, each on a thread of its own
    #[arg(long, default_value_t = 2)]
    pub(super) sessions: usize,
}

pub(super) fn run(args: &Args) -> Result<u8> {
    let file = new_directory(args, |_| Ok(()))?;
    let token = &file.tokens[0];
    println!("made {}", args.directory.display());
    println!("  configuration  {}", config::FILE);
    println!("  store          {} (SQLite)", file.store.sqlite.display());
    println!("  token          {}: {} serial {}, profile {}", token.name, token.label, token.serial, token.profile);
    println!("  PINs           {} and pins/{}.so, random, readable by you alone", token.pin.file.display(), token.name);
    println!("  TLS authority  {}, its key in the token", file.tls.authority.display());
    println!("  log            {}: give it to whoever is to verify exports", config::AUDIT_TRUST);
    println!("next: keyward serve {}", args.directory.display());
    Ok(0)
}

/// Makes a data directory, lets `more` work on it, and puts it in its place: whole, or not at all.
pub(super) fn new_directory(args: &Args, more: impl FnOnce(&Path) -> Result<()>) -> Result<File> {
    let place = Place::begin(&args.directory)?;
    let file = make(&place.partial, args)?;
    more(&place.partial)?;
    place.finish()?;
    Ok(file)
}

/// Fills the directory.
fn make(directory: &Path, args: &Args) -> Result<File> {
    for part in ["pins", "tls", "token"] {
        private_directory(&directory.join(part))?;
    }
    let profile = Profile::load(&args.profile)?;
    let token_directory = directory.join("token");
    let so_pin = random_pin(&directory.join("pins/main.so"))?;
    let user_pin = random_pin(&directory.join("pins/main.user"))?;
    let label = format!("keyward-{}", hex::encode(clock::random::<4>()?));
    // No thread runs yet: the module may read its environment.
    serve::prepare_module(&profile, &token_directory)?;
    let description = token::initialise(&profile, &token_directory, &label, &so_pin, &user_pin)?;

    let file = File {
        api: Api { listen: args.listen.clone(), server_names: args.server_names.clone() },
        operator: Operator { socket: "operator.sock".into() },
        store: Store { sqlite: "keyward.db".into() },
        join: Join { listen: args.join_listen.clone() },
        enrollment: Enrollment::default(),
        tls: Tls { authority: "tls/authority.pem".into() },
        tokens: vec![config::Token {
            name: "main".into(),
            profile: args.profile.clone(),
            directory: Some("token".into()),
            label: description.label,
            serial: description.serial,
            pin: PinSource { file: "pins/main.user".into() },
            sessions: args.sessions,
        }],
    };
    let text = toml::to_string(&file)
        .map_err(|fault| Error::new(Reason::Internal, "the configuration cannot be written").detail(fault))?;
    write_new(&directory.join(config::FILE), format!("{HEADER}{text}").as_bytes(), 0o600)?;
    let config = Config::load(directory)?;
    runtime()?.block_on(async {
        let custody = serve::open_custody(&config, true).await?;
        let caller = Caller::LocalOperator { uid: rustix::process::geteuid().as_raw() };
        let founded = instance::found(&custody, &caller).await;
        custody.stop().await;
        let founded = founded?;
        write_new(&config.path(&file.tls.authority), founded.tls_authority_pem.as_bytes(), 0o644)?;
        write_new(&directory.join(config::AUDIT_TRUST), founded.audit_trust.as_bytes(), 0o644)
    })?;
    Ok(file)
}

const HEADER: &str = "# Keyward's configuration. Paths are relative to this file's directory; unknown settings are refused.\n\
                      # Check it after a change: keyward config check\n\n";

/// A random PIN of 32 hexadecimal digits, in a file of its own.
fn random_pin(path: &Path) -> Result<Pin> {
    let text = hex::encode(clock::random::<16>()?);
    write_new(path, text.as_bytes(), 0o600)?;
    Ok(Pin::new(text))
}

fn private_directory(path: &Path) -> Result<()> {
    DirBuilder::new().mode(0o700).create(path).map_err(|fault| {
        Error::new(Reason::DataDirectory, format!("{} cannot be made: {fault}", path.display()))
            .hint("choose a place that this user may write")
    })
}

/// A directory under another name until it is whole. Dropped before that, it is removed.
struct Place {
    partial: PathBuf,
    target: PathBuf,
    done: bool,
}

impl Place {
    fn begin(target: &Path) -> Result<Self> {
        let fault = |words: String| Error::new(Reason::DataDirectory, format!("{} {words}", target.display()));
        match fs::read_dir(target).map(|mut entries| entries.next().is_none()) {
            Ok(true) => {}
            Ok(false) => return Err(fault("is not empty".into()).hint("name a new directory")),
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {}
            Err(cause) => return Err(fault(format!("cannot be used: {cause}"))),
        }
        let name = target.file_name().ok_or_else(|| fault("has no name".into()))?.to_string_lossy();
        let partial = target.with_file_name(format!(".{name}.partial-{}", hex::encode(clock::random::<4>()?)));
        private_directory(&partial)?;
        Ok(Place { partial, target: target.to_owned(), done: false })
    }

    fn finish(mut self) -> Result<()> {
        fs::rename(&self.partial, &self.target).map_err(|fault| {
            Error::new(Reason::DataDirectory, format!("{} cannot be made: {fault}", self.target.display()))
        })?;
        self.done = true;
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.done {
            let _ = fs::remove_dir_all(&self.partial);
        }
    }
}
