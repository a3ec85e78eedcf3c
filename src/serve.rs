//! One running instance: opens the store and the tokens, serves both listeners, and ends in good order.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs::{File, TryLockError};
use std::future::Future;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::audit::chain::Head;
use crate::audit::verify::{Report, Verifier};
use crate::caller::Caller;
use crate::config::{self, Config};
use crate::custody::{self, Custody, Ledger, LogFiles, Pace, Run, Slot, Standing};
use crate::enrollment::cluster::Product;
use crate::enrollment::instance;
use crate::error::{Error, Reason, Result};
use crate::grpc::Door;
use crate::grpc::server::Services;
use crate::policy::{self, Asked, Operation};
use crate::sink::{JsonLines, Sink, Sinks, Syslog};
use crate::store::{self, Sqlite, Store};
use crate::tls::{Authority, Identity};
use crate::token::host::{HostProgram, HostToken};
use crate::token::lane::Lane;
use crate::token::pkcs11::{self, Pkcs11Token};
use crate::token::profile::Profile;
use crate::token::{self, Binding, Token};

/// Jobs that may wait for one working session.
const QUEUE_PER_SESSION: usize = 64;
/// How long calls under way may take when the service stops, in seconds.
pub const DRAIN_S: u64 = 15;
/// How long whoever listens on the operator's socket may take to accept, in seconds.
const PROBE_S: u64 = 2;

/// What an instance listens on, known once it does.
#[derive(Clone, Debug)]
pub struct Bound {
    /// The address for nodes.
    pub api: std::net::SocketAddr,
    /// The address for nodes that join.
    pub join: std::net::SocketAddr,
    /// Intents that an earlier run left open and that this start closed.
    pub closed_intents: usize,
}

/// The data directory, held by this process alone until it ends.
pub struct Lock(#[allow(dead_code, reason = "the open file is the lock")] File);

impl Lock {
    /// Takes hold of a data directory.
    ///
    /// # Errors
    /// `DATA_DIRECTORY_IN_USE` if another process holds it, `DATA_DIRECTORY` if there is none.
    pub fn take(directory: &Path) -> Result<Self> {
        let path = directory.join("lock");
        let file = File::options().create(true).write(true).truncate(false).open(&path).map_err(|fault| {
            Error::new(Reason::DataDirectory, format!("{} cannot be opened: {fault}", path.display()))
                .hint("name a directory that `keyward init` has made and that this user may write")
        })?;
        match file.try_lock() {
            Ok(()) => Ok(Lock(file)),
            Err(TryLockError::WouldBlock) => Err(Error::new(
                Reason::DataDirectoryInUse,
                format!("another keyward process holds {}", directory.display()),
            )
            .hint("stop that process, or use it: most commands speak to the running service")),
            Err(TryLockError::Error(fault)) => {
                Err(Error::new(Reason::DataDirectory, format!("{} cannot be locked: {fault}", path.display())))
            }
        }
    }
}

/// Sets what the modules of the configured tokens read from the environment.
///
/// Must run before this process has a second thread.
///
/// # Errors
/// `CONFIG_INVALID` for a profile that cannot be used; those of writing the token directory.
pub fn prepare_modules(config: &Config) -> Result<()> {
    for token in &config.file.tokens {
        let profile = Profile::load(&token.profile)?;
        if let Some(directory) = &token.directory {
            prepare_module(&profile, &config.path(directory))?;
        }
    }
    Ok(())
}

/// The same for one token directory.
///
/// # Errors
/// `DATA_DIRECTORY` if the directory cannot be found or written.
pub fn prepare_module(profile: &Profile, directory: &Path) -> Result<()> {
    token::prepare_directory(profile, directory)?;
    // Modules want absolute paths.
    let absolute = directory.canonicalize().map_err(|fault| {
        Error::new(Reason::DataDirectory, format!("{} cannot be found: {fault}", directory.display()))
    })?;
    token::set_environment(&profile.environment(&absolute));
    Ok(())
}

/// Serves until `stop` resolves, then drains and closes. `bound` is called once, when all listeners are open.
///
/// # Errors
/// Whatever keeps the instance from serving: configuration, PIN, token, store, address.
pub async fn serve(
    config: &Config,
    stop: impl Future<Output = ()> + Send + 'static,
    bound: impl FnOnce(&Bound),
) -> Result<()> {
    let _lock = Lock::take(&config.directory)?;
    let nodes = listen("api.listen", &config.file.api.listen).await?;
    let joiners = listen("join.listen", &config.file.join.listen).await?;
    let (operators, _socket) = operator_socket(config).await?;
    let listeners = Listeners { nodes, joiners, operators };
    let (custody, closed_intents) = start_custody(config, false, in_host).await?;
    let sinks = Arc::new(Sinks::start(custody.store(), copies(config)));
    let served = open(config, &custody, &sinks, listeners, closed_intents, stop, bound).await;
    custody.end().await;
    sinks.finish().await;
    custody.store().close().await;
    served
}

/// The copies of the log, as they are configured.
fn copies(config: &Config) -> Vec<(String, String, Box<dyn Sink>)> {
    let copy = |sink: &config::Sink| -> Option<Box<dyn Sink>> {
        let sent = config.directory.join("sinks").join(format!("{}.sent", sink.name));
        match (&sink.json_lines, &sink.syslog) {
            (Some(path), _) => {
                let bytes_max = u64::from(sink.rotate_mib) * 1024 * 1024;
                Some(Box::new(JsonLines::new(config.path(path), bytes_max, sink.keep)))
            }
            (None, Some(socket)) => Some(Box::new(Syslog::new(config.path(socket), sent))),
            (None, None) => None,
        }
    };
    config.file.sinks.iter().filter_map(|sink| Some((sink.name.clone(), sink.place(), copy(sink)?))).collect()
}

/// Certifies this server and serves.
async fn open(
    config: &Config,
    custody: &Arc<Custody>,
    sinks: &Arc<Sinks>,
    listeners: Listeners,
    closed_intents: usize,
    stop: impl Future<Output = ()> + Send + 'static,
    bound: impl FnOnce(&Bound),
) -> Result<()> {
    let authority = authority(config, custody).await?;
    let caller = Caller::LocalOperator { uid: rustix::process::geteuid().as_raw() };
    let names = &config.file.api.server_names;
    let server = authority.server(names)?;
    let issued = instance::sign(custody, &caller, Operation::Serve, &names.join(" "), server).await?;
    let key_pem = issued.key_pem.ok_or_else(|| Error::new(Reason::Internal, "a server certificate without a key"))?;
    let identity = Identity { certificate_pem: issued.certificate_pem, key_pem };
    let (api, join) = (address(&listeners.nodes)?, address(&listeners.joiners)?);
    let door = Door {
        custody: custody.clone(),
        authority: Arc::new(authority),
        endpoint: format!("https://{}:{}", names[0], api.port()).into(),
        join_endpoint: format!("https://{}:{}", names[0], join.port()).into(),
        product: Arc::new(Product {
            sku: config.file.enrollment.sku.clone(),
            version: config.file.enrollment.version.clone(),
        }),
        sinks: Arc::clone(sinks),
    };
    let services = Services::new(&door)?;
    // From here on what this run begins with is signed, or it does not begin.
    custody.checkpoint().await?;
    services.set_serving(true).await;
    bound(&Bound { api, join, closed_intents });
    tokio::select! {
        served = run(&services, listeners, &identity, door.authority.certificate_pem(), stop) => served,
        never = keep_signed(custody, &services) => match never {},
    }
}

/// Has the log signed at its pace, and says to health checks when it is not.
async fn keep_signed(custody: &Custody, services: &Services) -> Infallible {
    let mut every = tokio::time::interval(Duration::from_secs(1));
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut serving = true;
    loop {
        every.tick().await;
        custody.keep_signed().await;
        let now = custody.require_signed().is_ok();
        if now != serving {
            serving = now;
            services.set_serving(serving).await;
        }
    }
}

/// What an instance listens with.
struct Listeners {
    nodes: TcpListener,
    joiners: TcpListener,
    operators: UnixListener,
}

/// Runs all listeners until `stop`; then no new requests, and a bounded time for those under way.
async fn run(
    services: &Services,
    listeners: Listeners,
    server: &Identity,
    client_ca_pem: &str,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<()> {
    let (stopping, stopped) = watch::channel(false);
    tokio::spawn(async move {
        stop.await;
        stopping.send_replace(true);
    });
    let until = |mut stopped: watch::Receiver<bool>| async move {
        let _ = stopped.wait_for(|stop| *stop).await;
    };
    let both = async {
        tokio::try_join!(
            services.nodes(listeners.nodes, server, client_ca_pem, until(stopped.clone())),
            services.joiners(listeners.joiners, server, until(stopped.clone())),
            services.operators(listeners.operators, until(stopped.clone())),
        )
    };
    let grace = async {
        until(stopped.clone()).await;
        services.set_serving(false).await;
        tokio::time::sleep(Duration::from_secs(DRAIN_S)).await;
    };
    tokio::select! {
        served = both => served.map(|_| ()),
        () = grace => {
            tracing::warn!("calls are still under way after {DRAIN_S} s; they are cut off, their outcomes are recorded");
            Ok(())
        }
    }
}

async fn listen(setting: &str, address: &str) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|fault| {
        let (reason, hint) = match fault.kind() {
            std::io::ErrorKind::AddrInUse => {
                (Reason::AddressInUse, format!("stop the process that listens there, or set {setting} to another port"))
            }
            _ => (Reason::ConfigInvalid, format!("set {setting} to an address of this machine")),
        };
        Error::new(reason, format!("cannot listen on {address}: {fault}")).hint(hint)
    })
}

/// Opens the operator's socket. One that an earlier run left behind, on which nobody answers, is replaced; anything else
/// that stands in its place is left alone.
async fn operator_socket(config: &Config) -> Result<(UnixListener, SocketFile)> {
    let path = config.path(&config.file.operator.socket);
    let elsewhere = "set operator.socket to a name that is free";
    let fault = |fault: std::io::Error| {
        Error::new(Reason::ConfigInvalid, format!("cannot listen on {}: {fault}", path.display())).hint(elsewhere)
    };
    match std::fs::symlink_metadata(&path) {
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {}
        Err(cause) => return Err(fault(cause)),
        Ok(found) if found.file_type().is_socket() => {
            let answer = tokio::time::timeout(Duration::from_secs(PROBE_S), UnixStream::connect(&path)).await;
            let nobody = matches!(answer, Ok(Err(cause)) if cause.kind() == std::io::ErrorKind::ConnectionRefused);
            if !nobody {
                let words = format!("another process listens on {}", path.display());
                return Err(Error::new(Reason::AddressInUse, words).hint(format!("stop that process, or {elsewhere}")));
            }
            std::fs::remove_file(&path).map_err(fault)?;
        }
        Ok(_) => {
            let words = format!("operator.socket: {} exists and is no socket; it is left as it is", path.display());
            return Err(Error::new(Reason::ConfigInvalid, words).hint(elsewhere));
        }
    }
    let socket = UnixListener::bind(&path).map_err(fault)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(fault)?;
    let made = std::fs::symlink_metadata(&path).map_err(fault)?;
    Ok((socket, SocketFile { inode: (made.dev(), made.ino()), path }))
}

/// The file of a socket that this process listens on: removed when this is dropped, if it is still that file.
struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if std::fs::symlink_metadata(&self.path).is_ok_and(|now| (now.dev(), now.ino()) == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

async fn authority(config: &Config, custody: &Custody) -> Result<Authority> {
    let key = custody
        .key(instance::TLS_KEY)
        .await
        .map_err(|fault| fault.hint("this data directory was never founded whole: make a new one with keyward init"))?;
    Authority::open(read(config, &config.file.tls.authority)?, &key.record.public)
}

fn read(config: &Config, path: &Path) -> Result<String> {
    let path = config.path(path);
    std::fs::read_to_string(&path)
        .map_err(|fault| Error::new(Reason::ConfigInvalid, format!("{} cannot be read: {fault}", path.display())))
}

fn address(listener: &TcpListener) -> Result<std::net::SocketAddr> {
    listener.local_addr().map_err(|fault| Error::new(Reason::Internal, "the listener has no address").detail(fault))
}

/// The custody of a data directory that no service holds, for commands that work on it themselves.
///
/// # Errors
/// As [`serve`], but for listeners.
pub async fn open_custody(config: &Config, create: bool) -> Result<Arc<Custody>> {
    start_custody(config, create, in_process).await.map(|(custody, _)| custody)
}

/// A store that does not continue what was signed over it.
pub struct Contradiction {
    /// In which way.
    pub why: Error,
    /// The log, and how many records the store has of it.
    pub log: Head,
    /// The anchor: a signed note, if there is one.
    pub anchor: Option<String>,
}

/// Looks whether the store of a data directory continues its anchor. Writes nothing.
///
/// # Errors
/// Those of opening a store, and whatever no new anchor helps against.
pub async fn contradiction(config: &Config) -> Result<Option<Contradiction>> {
    let store: Arc<dyn Store> = Arc::new(Sqlite::open(&config.path(&config.file.store.sqlite), false).await?);
    let (files, log) = (log_files(config), store.head());
    let checked = files.check(store.as_ref()).await;
    store.close().await;
    let why = match checked {
        Ok(()) => return Ok(None),
        Err(why) => why,
    };
    let own = files.read_trust()?.is_some_and(|trust| trust.log() == log.log);
    let helps = [Reason::StoreRewound, Reason::StoreForked, Reason::LogMissing, Reason::AnchorInvalid];
    if !own || !helps.contains(&why.reason()) {
        return Err(why);
    }
    let anchor = files.read_anchor().ok().flatten().map(|note| note.to_string());
    Ok(Some(Contradiction { why, log, anchor }))
}

/// Has a person decide that the log goes on from the store as it is; gives the new anchor.
///
/// # Errors
/// As [`open_custody`]; those of signing the log.
pub async fn re_anchor(config: &Config, caller: &Caller, given_up: Contradiction) -> Result<String> {
    let asked = Asked { operation: Operation::ReAnchor, cluster: None, signs: None };
    let permit = policy::permit(caller, &asked)?;
    let store: Arc<dyn Store> = Arc::new(Sqlite::open(&config.path(&config.file.store.sqlite), false).await?);
    let (custody, _) = begin(config, store, in_process).await?;
    let done = custody.re_anchor(permit, &given_up.why, given_up.anchor.unwrap_or_default()).await;
    custody.stop().await;
    done.map(|note| note.to_string())
}

/// Checks all that the store of a stopped service holds, log and objects.
///
/// # Errors
/// Whatever keeps the store from being read; what is wrong with its content stands in the report.
pub async fn inspect_store(config: &Config, verifier: Verifier) -> Result<Report> {
    let _lock = Lock::take(&config.directory)?;
    let store = Sqlite::open(&config.path(&config.file.store.sqlite), false).await?;
    let report = store::inspect(&store, verifier).await;
    store.close().await;
    report
}

/// How a configured token is opened and logged in to.
type OpenToken = fn(&Config, &config::Token) -> Result<Arc<dyn Token>>;

/// Opens store and tokens and begins a run; gives the number of intents that were left open before.
async fn start_custody(config: &Config, create: bool, open: OpenToken) -> Result<(Arc<Custody>, usize)> {
    let store: Arc<dyn Store> = Arc::new(Sqlite::open(&config.path(&config.file.store.sqlite), create).await?);
    if let Err(fault) = log_files(config).check(store.as_ref()).await {
        store.close().await;
        return Err(fault);
    }
    begin(config, store, open).await
}

/// Opens the tokens and begins a run on a store.
async fn begin(config: &Config, store: Arc<dyn Store>, open: OpenToken) -> Result<(Arc<Custody>, usize)> {
    let tokens = match open_tokens(config, &store, open).await {
        Ok(tokens) => tokens,
        Err(fault) => {
            store.close().await;
            return Err(fault);
        }
    };
    let pace = Pace {
        records: config.file.audit.checkpoint_records,
        time: Duration::from_secs(config.file.audit.checkpoint_seconds),
    };
    let custody = Arc::new(Custody::new(store, tokens, Ledger::open(log_files(config), pace)?));
    let run = Run {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        settings: config.words(),
        configuration_sha256: config.sha256.clone(),
    };
    let closed_intents = custody.start(run).await?;
    Ok((custody, closed_intents))
}

/// What stands beside the store.
fn log_files(config: &Config) -> LogFiles {
    LogFiles { trust: config.path(config::AUDIT_TRUST.as_ref()), anchor: config.path(&config.file.audit.anchor) }
}

/// Opens every configured token. The first that cannot be opened ends the start.
async fn open_tokens(config: &Config, store: &Arc<dyn Store>, open: OpenToken) -> Result<BTreeMap<String, Slot>> {
    let mut slots = BTreeMap::new();
    for token in &config.file.tokens {
        let device = custody::device(&token.serial, &token.label);
        let opened = Standing::log_in(store.as_ref(), &device, || open(config, token)).await;
        let opened = opened.map_err(|fault| match fault.reason() {
            Reason::PinRefused | Reason::PinLatched => {
                let fault = if fault.reason() == Reason::PinLatched { fault.while_doing(&token.name) } else { fault };
                let hint = format!(
                    "no PIN is tried twice; put the right one into {}, then: keyward token unlatch {} --data {}",
                    config.path(&token.pin.file).display(),
                    token.name,
                    config.directory.display()
                );
                fault.hint(hint)
            }
            _ => fault,
        })?;
        let description = opened.describe()?;
        let oaep = *Profile::load(&token.profile)?.keys.oaep.first().ok_or_else(|| {
            Error::new(Reason::TokenUnsupported, "the token does no OAEP, which content keys are sealed with")
        })?;
        let lane = Lane::start(opened, token.sessions, token.sessions * QUEUE_PER_SESSION)?;
        slots.insert(token.name.clone(), Slot::new(store.as_ref(), lane, description, oaep).await?);
    }
    Ok(slots)
}

/// Opens a token in a child process: a module that hangs or crashes takes nothing but that with it.
fn in_host(config: &Config, token: &config::Token) -> Result<Arc<dyn Token>> {
    let (profile, binding) = bind(config, token)?;
    // The child is bound to the life of the thread that starts it; here that is the main thread.
    Ok(Arc::new(HostToken::start(HostProgram::this(), &binding, &profile, token.read_pin(config)?)?))
}

/// Opens a token in this process, for commands that use it once. Its environment must be prepared.
fn in_process(config: &Config, token: &config::Token) -> Result<Arc<dyn Token>> {
    let (profile, binding) = bind(config, token)?;
    Ok(token::open(&binding, &profile, token.read_pin(config)?)?.into())
}

/// Opens a PKCS#11 token in this process and logs in, once.
///
/// # Errors
/// Whatever is wrong with its profile, PIN source, module or device.
pub fn open_pkcs11(config: &Config, token: &config::Token) -> Result<Pkcs11Token> {
    let (profile, binding) = bind(config, token)?;
    pkcs11::open(&binding, &profile, token.read_pin(config)?)
}

fn bind(config: &Config, token: &config::Token) -> Result<(Profile, Binding)> {
    let absolute = |directory: &PathBuf| {
        let directory = config.path(directory);
        directory.canonicalize().map_err(|fault| {
            Error::new(Reason::DataDirectory, format!("{} cannot be found: {fault}", directory.display()))
        })
    };
    let binding = Binding {
        name: token.name.clone(),
        profile: token.profile.clone(),
        directory: token.directory.as_ref().map(absolute).transpose()?,
        label: token.label.clone(),
        serial: token.serial.clone(),
        sessions: token.sessions,
    };
    Ok((Profile::load(&token.profile)?, binding))
}
