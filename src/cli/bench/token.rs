//! `keyward bench token`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use super::{ROUNDS, median};
use crate::cli::{Global, output, runtime_of, service_threads};
use crate::clock;
use crate::error::{Error, Reason, Result};
use crate::key::{Hash, KeyAlgorithm, KeyId, KeyRole};
use crate::secret::Pin;
use crate::serve;
use crate::token::bare::{Rate, bare};
use crate::token::host::{HostProgram, HostToken};
use crate::token::lane::{Lane, LaneError};
use crate::token::profile::{Kind, Profile};
use crate::token::{self, Binding, Generate, KeyRef, Token};

/// Callers at a time for each session, so that no session waits for one.
const CALLERS_PER_SESSION: usize = 4;
/// Longest signature that is waited for.
const SIGNATURE_MAX: Duration = Duration::from_secs(10);

#[derive(clap::Args)]
pub(in crate::cli) struct Args {
    /// Seconds for each side of each measurement
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Sessions at a time; a TPM has one
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2])]
    sessions: Vec<usize>,
    /// The kind of device: a profile's name, or the path of a profile file
    #[arg(long, default_value = "softhsm")]
    profile: String,
    /// Where the token is made; it stays there. Without: in a directory that is removed
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
}

pub(super) fn run(args: &Args, global: &Global) -> Result<()> {
    if args.sessions.iter().any(|sessions| !(1..=64).contains(sessions)) {
        return Err(Error::new(Reason::InvalidArgument, "sessions are 1 to 64"));
    }
    let place = Place::new(args.directory.clone())?;
    let bench = Bench::prepare(&args.profile, &place.path, Duration::from_secs(args.seconds) / ROUNDS)?;
    let (per_second, micros) = (|rate: f64| rate.round(), |time: Duration| time.as_secs_f64() * 1e6);
    let mut rows = Vec::new();
    for sessions in &args.sessions {
        if bench.profile.kind == Kind::Tpm && *sessions > 1 {
            continue;
        }
        let run = bench.compare(*sessions, *sessions * CALLERS_PER_SESSION)?;
        rows.push(json!({
            "sessions": sessions,
            "callers": sessions * CALLERS_PER_SESSION,
            "bare_per_s": per_second(run.bare.per_second),
            "per_s": per_second(run.held.per_second),
            "ratio": (run.ratio * 1000.0).round() / 1000.0,
        }));
    }
    let lone = bench.compare(1, 1)?;
    let lone = json!({
        "bare_p50_us": micros(lone.bare.p50).round(),
        "p50_us": micros(lone.held.p50).round(),
        "added_p50_us": (micros(lone.held.p50) - micros(lone.bare.p50)).round(),
    });
    let report = json!({ "profile": bench.profile.name, "key": "RSA-2048", "sessions": rows, "one_caller": lone });
    if global.output == output::Format::Json {
        println!("{report:#}");
        return Ok(());
    }
    println!("{}, RSA-2048: through lane and host, beside the bare loop in this process", bench.profile.title);
    output::list(global.output, report["sessions"].as_array().map_or(&[], Vec::as_slice));
    println!("one caller");
    output::object(global.output, &report["one_caller"]);
    Ok(())
}

/// A token made for the bench, with one probe key.
struct Bench {
    profile: Profile,
    binding: Binding,
    pin: String,
    key: KeyRef,
    /// How long one side of one round is measured.
    slice: Duration,
}

/// Both sides of a measurement: medians over its rounds, the ratio's too.
struct Compared {
    bare: Rate,
    held: Rate,
    ratio: f64,
}

impl Bench {
    fn prepare(profile: &str, directory: &std::path::Path, slice: Duration) -> Result<Self> {
        let loaded = Profile::load(profile)?;
        // No thread runs yet: the module may read its environment.
        serve::prepare_module(&loaded, directory)?;
        let random = || Ok::<_, Error>(hex::encode(clock::random::<16>()?));
        let (label, pin) = (format!("bench-{}", hex::encode(clock::random::<4>()?)), random()?);
        let made = token::initialise(&loaded, directory, &label, &Pin::new(random()?), &Pin::new(pin.clone()))?;
        let binding = Binding {
            name: "bench".to_owned(),
            profile: profile.to_owned(),
            directory: Some(directory.to_owned()),
            label,
            serial: made.serial,
            sessions: 1,
        };
        let request = Generate {
            id: KeyId::random()?,
            label: "bench".to_owned(),
            algorithm: KeyAlgorithm::Rsa(2048),
            sign: KeyRole::Probe.signs(),
            decrypt: KeyRole::Probe.decrypts(),
        };
        let made = token::open(&binding, &loaded, || Ok(Pin::new(pin.clone())))?.generate(&request)?;
        let key = KeyRef { id: request.id, public: made.public };
        Ok(Bench { profile: loaded, binding, pin, key, slice })
    }

    /// Bare and held in turn. Each side opens the token anew: a TPM may serve one connection at a time.
    fn compare(&self, sessions: usize, callers: usize) -> Result<Compared> {
        let (mut bares, mut held, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let before = self.bare(sessions, self.slice / 2)?;
            let through = self.held(sessions, callers)?;
            let after = self.bare(sessions, self.slice / 2)?;
            ratios.push(through.per_second / f64::midpoint(before.per_second, after.per_second));
            bares.extend([before, after]);
            held.push(through);
        }
        Ok(Compared { bare: middle(bares), held: middle(held), ratio: median(ratios) })
    }

    fn bare(&self, sessions: usize, duration: Duration) -> Result<Rate> {
        bare(&self.binding, &self.profile, Pin::new(self.pin.clone()), &self.key, sessions, duration)
    }

    /// Callers that each wait for their signature, through the lane in front of a host, as the service has it.
    fn held(&self, sessions: usize, callers: usize) -> Result<Rate> {
        let binding = Binding { sessions, ..self.binding.clone() };
        let host = HostToken::start(HostProgram::this(), &binding, &self.profile, Pin::new(self.pin.clone()))?;
        let lane = Arc::new(Lane::start(Arc::new(host), sessions, callers)?);
        let sign = |lane: Arc<Lane>, key: KeyRef| async move {
            let deadline = Instant::now() + SIGNATURE_MAX;
            lane.run(deadline, move |token: &dyn Token| token.sign(&key, Hash::Sha256, &[0x5a; 32])).await
        };
        runtime_of(service_threads())?.block_on(async {
            // One each before the clock starts: the token finds its key.
            for _ in 0..sessions {
                sign(Arc::clone(&lane), self.key.clone()).await?;
            }
            let start = Instant::now();
            let tasks: Vec<_> = (0..callers)
                .map(|_| {
                    let (lane, key, slice) = (Arc::clone(&lane), self.key.clone(), self.slice);
                    tokio::spawn(async move {
                        let mut times = Vec::new();
                        let mut begin = start;
                        while begin.duration_since(start) < slice {
                            sign(Arc::clone(&lane), key.clone()).await?;
                            let end = Instant::now();
                            times.push(end.duration_since(begin));
                            begin = end;
                        }
                        Ok::<_, LaneError>(times)
                    })
                })
                .collect();
            let mut times = Vec::new();
            for task in tasks {
                let of_one =
                    task.await.map_err(|fault| Error::new(Reason::Internal, "a caller broke off").detail(fault))?;
                times.extend(of_one?);
            }
            Ok(Rate::of(times, start))
        })
    }
}

fn middle(rates: Vec<Rate>) -> Rate {
    let per_second = median(rates.iter().map(|rate| rate.per_second).collect());
    let p50 = median(rates.iter().map(|rate| rate.p50.as_secs_f64()).collect());
    Rate { per_second, p50: Duration::from_secs_f64(p50) }
}

/// The token's directory; removed at the end unless a person named it.
struct Place {
    path: PathBuf,
    named: bool,
}

impl Place {
    fn new(named: Option<PathBuf>) -> Result<Self> {
        if let Some(path) = named {
            return Ok(Place { path, named: true });
        }
        let path = std::env::temp_dir().join(format!("keyward-bench-{}", hex::encode(clock::random::<4>()?)));
        Ok(Place { path, named: false })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.named {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}
