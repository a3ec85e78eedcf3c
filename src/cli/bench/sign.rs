//! `keyward bench sign`.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::bare::Bare;
use super::load::{self, Callers, Load, Measured};
use super::{ROUNDS, median};
use crate::cli::{Global, output};
use crate::clock;
use crate::config::Config;
use crate::error::{Error, Reason, Result};
use crate::serve;

/// Threads of the bare loop: what two cores can use.
const BARE_THREADS: usize = 2;
/// Writes that the disk is timed with.
const FDATASYNC_WRITES: usize = 200;

#[derive(clap::Args)]
pub(in crate::cli) struct Args {
    /// Seconds for each side of each measurement
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Callers at a time
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8, 32])]
    callers: Vec<usize>,
    /// The kind of software token
    #[arg(long, default_value = "softhsm")]
    profile: String,
    /// Where to make the directory: on the disk that is to be measured
    #[arg(long, value_name = "DIR", default_value_os_t = std::env::temp_dir())]
    within: PathBuf,
}

pub(super) fn run(args: &Args, global: &Global) -> Result<()> {
    if args.callers.iter().any(|callers| *callers == 0 || *callers > load::CALLERS_MAX) {
        return Err(Error::new(Reason::InvalidArgument, format!("callers are 1 to {}", load::CALLERS_MAX)));
    }
    let place = Place(args.within.join(format!("keyward-bench-{}", hex::encode(clock::random::<4>()?))));
    let data = place.0.join("data");
    std::fs::create_dir(&place.0).map_err(|fault| {
        Error::new(Reason::InvalidArgument, format!("{} cannot be made: {fault}", place.0.display()))
            .hint("name a directory that this user may write: --within DIR")
    })?;
    let keyward = std::env::current_exe().map_err(|fault| internal("this program cannot be found", fault))?;
    let made = Command::new(&keyward)
        .args(["init", "--listen", "127.0.0.1:0", "--join-listen", "127.0.0.1:0", "--profile", &args.profile])
        .arg(&data)
        .stdout(Stdio::null())
        .status()
        .map_err(|fault| internal("keyward init cannot be run", fault))?;
    if !made.success() {
        return Err(Error::new(Reason::Internal, "keyward init failed; its words stand above"));
    }
    let config = Config::load(&data)?;
    serve::prepare_modules(&config)?;
    let seconds = Duration::from_secs(args.seconds);

    let service = Service::start(&keyward, &data)?;
    let bare = Bare::open(&config)?;
    let token_us = 1e6 / bare.per_second(1, seconds / 2)?;
    let fdatasync_us = fdatasync(&place.0)?;
    // The callers share the machine with what they measure: one thread is enough for them.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|fault| internal("the runtime cannot start", fault))?;
    let load = Load::prepare(&keyward, &place.0, &data)?;
    let (mut rows, mut raws, mut lone_call) = (Vec::new(), Vec::new(), None);
    for callers in &args.callers {
        let asking = runtime.block_on(load.callers(*callers))?;
        let mut beside = compare(&runtime, &asking, &service, &bare, seconds / ROUNDS)?;
        if *callers == 1 {
            lone_call = Some(lone(beside.run.percentile_us(50), token_us, fdatasync_us));
        }
        rows.push(row(*callers, &mut beside));
        raws.extend(beside.raws);
    }
    let rss_mib = service.rss_mib()?;
    let report = json!({
        "raw_per_s": round(median(raws), 0),
        "body_bytes": load.body_bytes(),
        "token_us": round(token_us, 0),
        "fdatasync_us": fdatasync_us,
        "rss_mib": round(rss_mib, 1),
        "lone_call_us": lone_call,
        "callers": rows,
    });
    // The callers hang up first: a service that is told to stop waits for them.
    drop(runtime);
    service.stop()?;
    print(&report, &rows, global);
    Ok(())
}

/// Callers of the service beside the bare loop.
struct Beside {
    run: Measured,
    /// The bare loop in each round, in signatures per second.
    raws: Vec<f64>,
    spent: Spent,
}

/// The bare loop and the callers in turn: what the machine does meanwhile falls on both.
fn compare(
    runtime: &tokio::runtime::Runtime,
    callers: &Callers,
    service: &Service,
    bare: &Bare,
    slice: Duration,
) -> Result<Beside> {
    let mut beside = Beside { run: Measured::default(), raws: Vec::new(), spent: Spent::default() };
    for _ in 0..ROUNDS {
        let before = bare.per_second(BARE_THREADS, slice / 2)?;
        let begin = Spent::now(service)?;
        runtime.block_on(callers.run(slice, &mut beside.run))?;
        beside.spent.add(&begin, &Spent::now(service)?);
        let after = bare.per_second(BARE_THREADS, slice / 2)?;
        beside.raws.push(f64::midpoint(before, after));
    }
    Ok(beside)
}

/// A measurement as it is shown: medians of the rounds, the ratio's too, and the processor time that each signature took
/// where.
fn row(callers: usize, beside: &mut Beside) -> Value {
    let Beside { run, raws, spent } = beside;
    #[allow(clippy::cast_precision_loss, reason = "a day is below 2^52 ns")]
    let each = |ns: u64| round(ns as f64 / 1000.0 / run.times_us.len().max(1) as f64, 0);
    let [host, service, own] = [spent.host_ns, spent.service_ns, spent.callers_ns].map(each);
    json!({
        "callers": callers,
        "per_s": round(median(run.rates.clone()), 0),
        "ratio": round(median(run.rates.iter().zip(raws).map(|(rate, raw)| *rate / *raw).collect()), 3),
        "p50_us": run.percentile_us(50),
        "p99_us": run.percentile_us(99),
        "token_host_cpu_us": host,
        "service_cpu_us": service,
        "callers_cpu_us": own,
    })
}

/// What a lone call waits for: the token, the disk twice, and the rest.
fn lone(p50: u64, token_us: f64, fdatasync_us: u64) -> Value {
    #[allow(clippy::cast_precision_loss, reason = "a call is far below 2^52 µs")]
    let (p50_us, disk_us) = (p50 as f64, 2.0 * fdatasync_us as f64);
    json!({
        "p50": p50,
        "token": round(token_us, 0),
        "two_fdatasync": round(disk_us, 0),
        "rest": round(p50_us - token_us - disk_us, 0),
    })
}

fn print(report: &Value, rows: &[Value], global: &Global) {
    if global.output == output::Format::Json {
        println!("{report:#}");
        return;
    }
    println!("bare C_Sign loop, RSA-2048, {BARE_THREADS} threads   {} signatures/s", report["raw_per_s"]);
    println!("4 KiB write and fdatasync       {} µs (median)", report["fdatasync_us"]);
    println!("memory of the service           {} MiB", report["rss_mib"]);
    println!(
        "the service: mTLS, BODY of {} bytes checked, two durable records for each signature",
        report["body_bytes"]
    );
    output::list(global.output, rows);
    if let Some(lone) = report["lone_call_us"].as_object() {
        println!(
            "a lone call, µs: p50 {} = token {} + twice fdatasync {} + the rest {}",
            lone["p50"], lone["token"], lone["two_fdatasync"], lone["rest"]
        );
    }
}

/// Processor time that the parts of a bench have spent, in nanoseconds.
#[derive(Default)]
struct Spent {
    host_ns: u64,
    service_ns: u64,
    callers_ns: u64,
}

impl Spent {
    /// Adds what was spent between two moments.
    fn add(&mut self, begin: &Spent, end: &Spent) {
        self.host_ns += end.host_ns.saturating_sub(begin.host_ns);
        self.service_ns += end.service_ns.saturating_sub(begin.service_ns);
        self.callers_ns += end.callers_ns.saturating_sub(begin.callers_ns);
    }

    fn now(service: &Service) -> Result<Self> {
        let service = service.child.id();
        let mut host_ns = 0;
        for child in children(service)? {
            host_ns += processor_ns(child)?;
        }
        Ok(Spent { host_ns, service_ns: processor_ns(service)?, callers_ns: processor_ns(std::process::id())? })
    }
}

/// Processes that a process has started and that still run.
fn children(process: u32) -> Result<Vec<u32>> {
    let mut children = Vec::new();
    for thread in threads(process)? {
        let listed = std::fs::read_to_string(thread.join("children")).unwrap_or_default();
        children.extend(listed.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
    }
    Ok(children)
}

/// Processor time of a process's threads.
fn processor_ns(process: u32) -> Result<u64> {
    let spent = |thread: PathBuf| {
        std::fs::read_to_string(thread.join("schedstat")).ok()?.split(' ').next()?.parse::<u64>().ok()
    };
    Ok(threads(process)?.into_iter().filter_map(spent).sum())
}

fn threads(process: u32) -> Result<Vec<PathBuf>> {
    let fault = |fault| internal("this system does not tell what a process does", fault);
    let listed = std::fs::read_dir(format!("/proc/{process}/task")).map_err(fault)?;
    Ok(listed.filter_map(|entry| Some(entry.ok()?.path())).collect())
}

#[allow(clippy::cast_possible_truncation, reason = "figures for people, far below the bounds of the type")]
fn round(value: f64, digits: i32) -> Value {
    let scale = 10f64.powi(digits);
    let rounded = (value * scale).round() / scale;
    if digits == 0 { json!(rounded as i64) } else { json!(rounded) }
}

/// The median time of an appended 4 KiB write with fdatasync, in microseconds.
fn fdatasync(directory: &Path) -> Result<u64> {
    let fault = |fault| Error::new(Reason::StoreUnavailable, "the disk cannot be timed").detail(fault);
    let mut file = File::create(directory.join("fdatasync")).map_err(fault)?;
    let mut times = Vec::with_capacity(FDATASYNC_WRITES);
    for _ in 0..FDATASYNC_WRITES {
        let start = Instant::now();
        file.write_all(&[0x5a; 4096]).and_then(|()| file.sync_data()).map_err(fault)?;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    Ok(u64::try_from(times[FDATASYNC_WRITES / 2].as_micros()).unwrap_or(u64::MAX))
}

/// The service under measurement: a process of its own.
struct Service {
    child: Child,
}

impl Service {
    fn start(keyward: &Path, data: &Path) -> Result<Self> {
        let mut child = Command::new(keyward)
            .arg("serve")
            .arg(data)
            .env("RUST_LOG", "warn")
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|fault| internal("keyward serve cannot be run", fault))?;
        let lines = child.stdout.take().map(BufReader::new).map(BufRead::lines);
        let ready = lines.into_iter().flatten().map_while(std::result::Result::ok).any(|line| line == "ready");
        let service = Service { child };
        if ready { Ok(service) } else { Err(Error::new(Reason::Internal, "keyward serve did not get ready")) }
    }

    /// Resident memory now.
    fn rss_mib(&self) -> Result<f64> {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).map_err(|fault| internal("the service is gone", fault))?;
        let kib =
            status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix("kB")?.trim().parse().ok());
        let kib: u32 =
            kib.ok_or_else(|| Error::new(Reason::Internal, "this system does not tell a process's memory"))?;
        Ok(f64::from(kib) / 1024.0)
    }

    fn stop(mut self) -> Result<()> {
        self.terminate();
        let status = self.child.wait().map_err(|fault| internal("the service cannot be waited for", fault))?;
        if status.success() { Ok(()) } else { Err(Error::new(Reason::Internal, "the service did not end well")) }
    }

    fn terminate(&self) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.terminate();
            let _ = self.child.wait();
        }
    }
}

/// The run's directory, removed at its end.
struct Place(PathBuf);

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn internal(words: &str, fault: std::io::Error) -> Error {
    Error::new(Reason::Internal, words).detail(fault)
}
