//! One running instance: opens the store and the tokens, serves both listeners, and ends in good order.

use std::fs::{File, TryLockError};
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpSocket, UnixListener};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::audit::chain::Head;
use crate::audit::trust::Trust;
use crate::audit::verify::{Report, Verifier};
use crate::caller::Caller;
use crate::config::{self, Config};
use crate::custody::{Custody, Ledger, LogFiles, Pace, Run};
use crate::enrollment::cluster::Product;
use crate::enrollment::instance;
use crate::error::{Error, Fault, Reason, Result};
use crate::grpc::Door;
use crate::grpc::server::Services;
use crate::policy::Operation;
use crate::sink::{JsonLines, Sink, Sinks, Syslog};
use crate::store::{self, Postgres, STUCK_S, Sqlite, Store, Vouched};
use crate::tls::{Authority, Identity};

mod anchor;
mod socket;
mod tokens;

pub use anchor::{Contradiction, contradiction, re_anchor};
pub use tokens::{Ask, faults, open_for_probe, open_pkcs11, prepare_module, prepare_modules, sessions};

/// How long to wait before this server's certificate is asked for again, when the token could not make it.
const CERTIFY_AGAIN: Duration = Duration::from_millis(250);
/// Longest wait for probe keys to be made before nodes are served.
const PROBE_KEYS: Duration = Duration::from_secs(5);
/// How often health checks learn how tokens stand.
const REPORT: Duration = Duration::from_millis(100);
/// Connections that the kernel keeps until they are accepted.
const BACKLOG: u32 = 1024;
/// How long calls under way may take when the service stops, in seconds.
pub const DRAIN_S: u64 = 15;
/// How often to look whether the store can be written, and to try it: while it can, and while it cannot. In milliseconds.
const WATCH_MS: u64 = 100;
const TRY_WELL_MS: u64 = 5_000;
const TRY_ILL_MS: u64 = 500;

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

/// What [`serve`] tells while it starts.
#[derive(Debug)]
pub enum Told<'a> {
    /// The operator's socket is served; all else waits for a token. This is why.
    Waiting(&'a Error),
    /// Everything is served.
    Ready(Bound),
}

/// Serves until `stop` resolves, then drains and closes. Operators are served at once, nodes as soon as the token of the
/// TLS authority can be used; `told` is called for both.
///
/// # Errors
/// Whatever keeps the instance from serving: configuration, store, address; a token or a PIN only if that is a fault of
/// the configuration and no token at all can be used.
pub async fn serve(
    config: &Config,
    stop: impl Future<Output = ()> + Send + 'static,
    told: impl Fn(Told<'_>),
) -> Result<()> {
    let _lock = Lock::take(&config.directory)?;
    let nodes = bind_tcp("api.listen", &config.file.api.listen)?;
    let joiners = bind_tcp("join.listen", &config.file.join.listen)?;
    let (operators, _socket) = socket::open(config).await?;
    let listeners = Listeners { nodes, joiners, operators };
    let (custody, closed_intents) = start_custody(config, false, None).await?;
    let sinks = Arc::new(Sinks::start(custody.store(), copies(config)));
    let served = open(config, &custody, &sinks, listeners, closed_intents, stop, told).await;
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

/// Puts the doors together and serves them.
async fn open(
    config: &Config,
    custody: &Arc<Custody>,
    sinks: &Arc<Sinks>,
    listeners: Listeners,
    closed_intents: usize,
    stop: impl Future<Output = ()> + Send + 'static,
    told: impl Fn(Told<'_>),
) -> Result<()> {
    let authority = authority(config, custody).await?;
    let names = &config.file.api.server_names;
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
    let caller = Caller::LocalOperator { uid: rustix::process::geteuid().as_raw() };
    // What was missing when the last run ended, and what is now, before anybody asks; what takes long goes on beside.
    let _looking = custody.look_for_all_keys().await;
    services.report(false, &custody.readiness()).await;
    let tending = tokio::spawn(Arc::clone(custody).tend(caller.clone()));
    let bound = Bound { api, join, closed_intents };
    let served = run(&services, &door, listeners, Start { caller, names, told, bound }, stop).await;
    tending.abort();
    served
}

/// What an instance listens with. The addresses for nodes are taken, so that nobody else has them, and refuse connections
/// until [`listen`].
struct Listeners {
    nodes: TcpSocket,
    joiners: TcpSocket,
    operators: UnixListener,
}

/// What opening the doors for nodes needs.
struct Start<'a, T> {
    caller: Caller,
    names: &'a [String],
    told: T,
    bound: Bound,
}

/// Runs all listeners until `stop`; then no new requests, and a bounded time for those under way.
async fn run(
    services: &Services,
    door: &Door,
    listeners: Listeners,
    start: Start<'_, impl Fn(Told<'_>)>,
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
    let Listeners { nodes, joiners, operators } = listeners;
    let (opened, records) = (AtomicBool::new(false), AtomicBool::new(true));
    let for_nodes = async {
        let server = tokio::select! {
            certified = certify(door, &start) => certified?,
            () = until(stopped.clone()) => return Ok(()),
        };
        let probe_keys = tokio::spawn(Arc::clone(&door.custody).make_probe_keys(start.caller.clone()));
        // A token that says nothing keeps no node waiting: its key comes when it can.
        tokio::select! {
            _ = tokio::time::timeout(PROBE_KEYS, probe_keys) => {}
            () = until(stopped.clone()) => return Ok(()),
        }
        let (nodes, joiners) = (listen("api.listen", nodes)?, listen("join.listen", joiners)?);
        opened.store(true, Ordering::Relaxed);
        services.report(is_open(&door.custody, &opened, &records), &door.custody.readiness()).await;
        (start.told)(Told::Ready(start.bound.clone()));
        tokio::try_join!(
            services.nodes(nodes, &server, door.authority.certificate_pem(), until(stopped.clone())),
            services.joiners(joiners, &server, until(stopped.clone())),
            async {
                tokio::select! { () = keep_signed(&door.custody) => {}, () = until(stopped.clone()) => {} }
                Ok(())
            },
        )
        .map(|_| ())
    };
    let reported = async {
        tokio::select! {
            () = report(services, &door.custody, &opened, &records) => {}
            () = watch_store(services, &door.custody, &records) => {}
            () = until(stopped.clone()) => {}
        }
        Ok(())
    };
    let all = async { tokio::try_join!(services.operators(operators, until(stopped.clone())), for_nodes, reported) };
    let grace = async {
        until(stopped.clone()).await;
        services.stop(&door.custody.readiness()).await;
        tokio::time::sleep(Duration::from_secs(DRAIN_S)).await;
    };
    tokio::select! {
        served = all => served.map(|_| ()),
        () = grace => {
            let words = "calls or connections are left; they are cut off, and outcomes are recorded";
            tracing::warn!("after {DRAIN_S} s {words}");
            Ok(())
        }
    }
}

/// Keeps looking whether the store can be written, and says so to health checks. A store that cannot is tried until it
/// can: it needs nobody's hand.
async fn watch_store(services: &Services, custody: &Custody, records: &AtomicBool) {
    let (mut serving, mut low) = (true, false);
    services.set_room(true).await;
    let mut tried = Instant::now();
    loop {
        tokio::time::sleep(Duration::from_millis(WATCH_MS)).await;
        let mut trouble = custody.store_trouble(Duration::from_secs(STUCK_S));
        let due = Duration::from_millis(if serving { TRY_WELL_MS } else { TRY_ILL_MS });
        if (trouble.is_some() && serving) || tried.elapsed() > due {
            tried = Instant::now();
            let answer = tokio::time::timeout(Duration::from_secs(STUCK_S), custody.try_store()).await;
            trouble = match answer {
                Ok(answer) => answer.err(),
                Err(_) => custody.store_trouble(Duration::ZERO),
            };
        }
        if trouble.is_none() != serving {
            serving = trouble.is_none();
            match &trouble {
                Some(fault) => tracing::error!(?fault, "nothing can be recorded: nothing is signed until it can"),
                None => tracing::info!("records can be written again"),
            }
            records.store(serving, Ordering::Relaxed);
        }
        if custody.store().is_low() != low {
            low = !low;
            services.set_room(!low).await;
        }
    }
}

/// Has this server certified, as soon as the token of the TLS authority can be used.
async fn certify(door: &Door, start: &Start<'_, impl Fn(Told<'_>)>) -> Result<Identity> {
    let mut waits = false;
    loop {
        // The log by which the key's row stands may not count yet, because a token cannot be asked for its audit keys.
        let asked = door.custody.readiness().iter().all(|(_, serves, _)| *serves);
        let certified = match usable(&door.custody).await {
            Ok(()) => certify_now(door, start).await,
            Err(fault) => Err(fault),
        };
        match certified {
            Err(fault) if may_pass(&fault, asked) => {
                if !waits {
                    (start.told)(Told::Waiting(&fault));
                }
                waits = true;
                tokio::time::sleep(CERTIFY_AGAIN).await;
            }
            certified => return certified,
        }
    }
}

/// Whether what keeps this server from being certified may be over by itself, or by a person's login.
fn may_pass(fault: &Error, asked: bool) -> bool {
    let is_away = fault.fault() == Fault::Token || fault.reason() == Reason::StoreUnavailable;
    is_away || (!asked && fault.reason() == Reason::ObjectAltered)
}

/// Whether the TLS authority's key can be used. With a token that could not be asked before, other logs may count now.
async fn usable(custody: &Custody) -> Result<()> {
    custody.tell_of_others().await?;
    custody.usable(instance::TLS_KEY).await
}

async fn certify_now(door: &Door, start: &Start<'_, impl Fn(Told<'_>)>) -> Result<Identity> {
    let server = door.authority.server(start.names)?;
    let (custody, names) = (&door.custody, start.names.join(" "));
    if !door.authority.has(&custody.key(instance::TLS_KEY).await?.record.public) {
        let words = format!("{} was another key when this run began", instance::TLS_KEY);
        return Err(
            Error::new(Reason::ObjectAltered, words).hint("find out who wrote to the database, and start again")
        );
    }
    let issued = instance::sign(custody, &start.caller, Operation::Serve, &names, server).await?;
    let key_pem = issued.key_pem.ok_or_else(|| Error::new(Reason::Internal, "a server certificate without a key"))?;
    // From here on what this run begins with is signed, or it does not begin.
    custody.checkpoint().await?;
    Ok(Identity { certificate_pem: issued.certificate_pem, key_pem })
}

/// Has the log tell of others and signed at its pace, for ever.
async fn keep_signed(custody: &Custody) {
    let mut every = tokio::time::interval(Duration::from_secs(1));
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = true;
    loop {
        every.tick().await;
        let telling = custody.tell_of_others().await;
        if let (true, Err(fault)) = (told, &telling) {
            tracing::warn!(?fault, "nothing can be told of the other logs of the store");
        }
        told = telling.is_ok();
        custody.keep_signed().await;
    }
}

/// Whether nodes are served: their doors are open, records can be written, and the log is signed as far as it must be.
fn is_open(custody: &Custody, opened: &AtomicBool, records: &AtomicBool) -> bool {
    opened.load(Ordering::Relaxed) && records.load(Ordering::Relaxed) && custody.require_signed().is_ok()
}

/// Tells health checks which tokens can be used, for ever.
async fn report(services: &Services, custody: &Custody, opened: &AtomicBool, records: &AtomicBool) {
    let mut last = None;
    loop {
        let now = (is_open(custody, opened, records), custody.readiness());
        if last.as_ref() != Some(&now) {
            services.report(now.0, &now.1).await;
            last = Some(now);
        }
        tokio::time::sleep(REPORT).await;
    }
}

/// Takes an address, without listening yet.
fn bind_tcp(setting: &str, address: &str) -> Result<TcpSocket> {
    let fault = |fault: std::io::Error| not_listening(setting, address, &fault);
    let parsed: std::net::SocketAddr = address.parse().map_err(|_| fault(std::io::ErrorKind::InvalidInput.into()))?;
    let socket = if parsed.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.map_err(fault)?;
    socket.set_reuseaddr(true).and_then(|()| socket.bind(parsed)).map_err(fault)?;
    Ok(socket)
}

fn listen(setting: &str, socket: TcpSocket) -> Result<TcpListener> {
    let address = address(&socket)?.to_string();
    socket.listen(BACKLOG).map_err(|fault| not_listening(setting, &address, &fault))
}

fn not_listening(setting: &str, address: &str, fault: &std::io::Error) -> Error {
    let (reason, hint) = match fault.kind() {
        std::io::ErrorKind::AddrInUse => {
            (Reason::AddressInUse, format!("stop the process that listens there, or set {setting} to another port"))
        }
        _ => (Reason::ConfigInvalid, format!("set {setting} to an address of this machine")),
    };
    Error::new(reason, format!("cannot listen on {address}: {fault}")).hint(hint)
}

/// The authority of this server. The row of its key may stand by another log, which nobody vouches for before a token can
/// be asked: it is taken as it stands then, and [`certify`] waits and looks again before any node is served.
async fn authority(config: &Config, custody: &Custody) -> Result<Authority> {
    let key = match custody.key(instance::TLS_KEY).await {
        Ok(key) => key.record.public.clone(),
        Err(fault) if fault.reason() == Reason::ObjectAltered => {
            custody.key_as_it_stands(instance::TLS_KEY).await?.ok_or(fault)?.public
        }
        Err(fault) if fault.reason() == Reason::NotFound => {
            return Err(fault.hint("this data directory was never founded whole: make a new one with keyward init"));
        }
        Err(fault) => return Err(fault),
    };
    Authority::open(read(config, &config.file.tls.authority)?, &key)
}

fn read(config: &Config, path: &Path) -> Result<String> {
    let path = config.path(path);
    std::fs::read_to_string(&path)
        .map_err(|fault| Error::new(Reason::ConfigInvalid, format!("{} cannot be read: {fault}", path.display())))
}

fn address(socket: &TcpSocket) -> Result<std::net::SocketAddr> {
    socket.local_addr().map_err(|fault| Error::new(Reason::Internal, "the listener has no address").detail(fault))
}

/// The custody of a data directory that no service holds, for commands that work on it themselves. All its tokens must be
/// usable; a PIN that is typed is asked for.
///
/// # Errors
/// As [`serve`], but for listeners.
pub async fn open_custody(config: &Config, create: bool, ask: Ask) -> Result<Arc<Custody>> {
    let (custody, _) = start_custody(config, create, Some(ask)).await?;
    Ok(custody)
}

/// Checks all that the store of a stopped service holds, logs and objects, against all that was signed over them: by the
/// keys of `trusted`, or of the history in the data directory, or as the own log has seen the others sign.
///
/// # Errors
/// Whatever keeps the store from being read; what is wrong with its content stands in the report.
pub async fn inspect_store(config: &Config, verifier: Verifier, mut trusted: Vec<Trust>) -> Result<Report> {
    let _lock = Lock::take(&config.directory)?;
    let files = log_files(config);
    let own = files.read_trust()?;
    let anchor = files.read_anchor_text()?;
    let store = open_store(config, false).await?;
    let log = store.head().log;
    // One that is of none of the logs stands for the own one, and shows that this is another.
    let given = trusted.iter().position(|trust| trust.log() == log).or((!trusted.is_empty()).then_some(0));
    let trust = match given {
        Some(given) => Some(trusted.remove(given).followed(own)),
        None => own,
    };
    let vouched = trust.map(|trust| Vouched { trust, anchor });
    let report = store::inspect(store.as_ref(), verifier, vouched.as_ref(), &trusted).await;
    store.close().await;
    report
}

/// Opens the configured store; makes a new one, or a new log in it, if `create` says so.
///
/// # Errors
/// `CONFIG_INVALID` and `PIN_SOURCE` for how it is configured; those of opening a store.
pub async fn open_store(config: &Config, create: bool) -> Result<Arc<dyn Store>> {
    match (&config.file.store.sqlite, &config.file.store.postgres) {
        (Some(file), None) => Ok(Arc::new(Sqlite::open(&config.path(file), create).await?)),
        (None, Some(database)) => {
            let password = database.read_password(config)?;
            let store = Postgres::open(&database.url, password.as_ref(), &database.instance, create).await;
            Ok(Arc::new(store.map_err(|fault| fault.while_doing("store.postgres"))?))
        }
        _ => Err(Error::new(Reason::ConfigInvalid, "store: set either sqlite or postgres")),
    }
}

/// The same, of a store that continues what was signed over it. Nothing is written into one that does not.
///
/// # Errors
/// As [`open_store`]; `STORE_REWOUND`, `STORE_FORKED`, `LOG_MISSING`, `ANCHOR_INVALID`.
pub async fn open_anchored_store(config: &Config, create: bool) -> Result<Arc<dyn Store>> {
    anchored(config, create).await.map(|(store, _)| store)
}

/// The same, with where its other logs ended.
async fn anchored(config: &Config, create: bool) -> Result<(Arc<dyn Store>, Vec<Head>)> {
    let store = open_store(config, create).await?;
    match log_files(config).check(store.as_ref()).await {
        Ok(ends) => Ok((store, ends)),
        Err(fault) => {
            store.close().await;
            Err(fault)
        }
    }
}

/// Opens a store that continues what was signed over it, and begins a run.
async fn start_custody(config: &Config, create: bool, ask: Option<Ask>) -> Result<(Arc<Custody>, usize)> {
    let (store, ends) = anchored(config, create).await?;
    begin(config, store, ask, |ledger| ledger.following(ends)).await
}

/// Opens the tokens and begins a run on a store; gives the number of intents that were left open before. A service, which
/// asks nobody for PINs, starts with what can be used, and even with nothing but tokens that wait for a person or for
/// their device; what was set up wrong is said at once if nothing else is there. What is known of the other logs already is
/// told the ledger by `told`.
async fn begin(
    config: &Config,
    store: Arc<dyn Store>,
    ask: Option<Ask>,
    told: impl FnOnce(Ledger) -> Ledger,
) -> Result<(Arc<Custody>, usize)> {
    let (slots, faults) = match tokens::open(config, &store, ask).await {
        Ok(opened) => opened,
        Err(fault) => {
            store.close().await;
            return Err(fault);
        }
    };
    let pace = Pace {
        records: config.file.audit.checkpoint_records,
        time: Duration::from_secs(config.file.audit.checkpoint_seconds),
    };
    let custody = Arc::new(Custody::new(store, slots, told(Ledger::open(log_files(config), pace)?)));
    let hopeless = custody.readiness().iter().all(|(_, serves, _)| !serves)
        && faults.iter().all(|fault| fault.fault() == Fault::Config);
    for fault in &faults {
        if ask.is_some() || hopeless {
            custody.abandon().await;
            return Err(fault.clone());
        }
        tracing::error!(reason = fault.reason().code(), next = fault.next_step(), "{fault}");
    }
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
