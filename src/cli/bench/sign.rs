//! `keyward bench sign`.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::bare::Bare;
use super::load::{self, Load};
use crate::cli::{Global, output, runtime};
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
    /// Seconds for each measurement
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
    let bare = Bare::open(&config, BARE_THREADS)?;
    let before = bare.per_second(seconds)?;
    let fdatasync_us = fdatasync(&place.0)?;
    let runtime = runtime()?;
    let load = Load::prepare(&keyward, &place.0, &data)?;
    let mut measured = Vec::new();
    for callers in &args.callers {
        measured.push(runtime.block_on(load.run(*callers, seconds))?);
    }
    let rss_mib = service.rss_mib()?;
    let after = bare.per_second(seconds)?;
    let raw = f64::midpoint(before, after);
    let rows: Vec<Value> = measured
        .iter()
        .map(|run| {
            json!({
                "callers": run.callers,
                "per_s": round(run.per_second, 0),
                "ratio": round(run.per_second / raw, 3),
                "p50_us": run.p50_us,
                "p99_us": run.p99_us,
            })
        })
        .collect();
    let report = json!({
        "raw_per_s": round(raw, 0),
        "raw_before_per_s": round(before, 0),
        "raw_after_per_s": round(after, 0),
        "body_bytes": load.body_bytes(),
        "fdatasync_us": fdatasync_us,
        "rss_mib": round(rss_mib, 1),
        "callers": rows,
    });
    service.stop()?;
    print(&report, &rows, global);
    Ok(())
}

fn print(report: &Value, rows: &[Value], global: &Global) {
    if global.output == output::Format::Json {
        println!("{report:#}");
        return;
    }
    println!("bare C_Sign loop, RSA-2048, {BARE_THREADS} threads   {} signatures/s", report["raw_per_s"]);
    println!("  before and after              {} and {}", report["raw_before_per_s"], report["raw_after_per_s"]);
    println!("4 KiB write and fdatasync       {} µs (median)", report["fdatasync_us"]);
    println!("memory of the service           {} MiB", report["rss_mib"]);
    println!(
        "the service: mTLS, BODY of {} bytes checked, two durable records for each signature",
        report["body_bytes"]
    );
    output::list(global.output, rows);
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
