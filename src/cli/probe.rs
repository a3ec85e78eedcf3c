//! `keyward token probe`: tries out everything that a token does, and says where it differs from its profile. With a token
//! of the configuration, or with one that is made for it in a directory of its own.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::caller::Caller;
use crate::cli::output::{self, Format};
use crate::cli::{Global, prompt, runtime};
use crate::clock;
use crate::config::Config;
use crate::error::{Error, Reason, Result};
use crate::secret::Pin;
use crate::serve::{self, Lock};
use crate::token::host::{HostProgram, HostToken};
use crate::token::probe::{KEY_LABEL, Report, Row, permissive, probe};
use crate::token::profile::Profile;
use crate::token::{self, Binding, Class, Failure};

/// How long each point of the scaling curve is measured.
const POINT: Duration = Duration::from_millis(500);

#[derive(clap::Args)]
pub(super) struct Args {
    /// A token or replica of the configuration of a stopped service
    #[arg(required_unless_present = "profile", conflicts_with_all = ["profile", "directory"])]
    token: Option<String>,
    /// Instead: a kind of device in which a token can be made, a profile's name or the path of a profile file
    #[arg(long, requires = "directory")]
    profile: Option<String>,
    /// Where that token is made; it stays there
    #[arg(long, value_name = "DIR", requires = "profile")]
    directory: Option<PathBuf>,
    /// Points of the scaling curve: numbers of sessions
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 4], value_parser = clap::value_parser!(u8).range(1..=64))]
    sessions: Vec<u8>,
}

pub(super) fn run(args: &Args, global: &Global) -> Result<u8> {
    let points: Vec<usize> = args.sessions.iter().map(|sessions| usize::from(*sessions)).collect();
    let sessions = points.iter().copied().max().unwrap_or(1);
    let probed = match (&args.token, &args.profile, &args.directory) {
        (Some(token), ..) => configured(token, sessions, &points, global),
        (None, Some(profile), Some(directory)) => made(profile, directory, sessions, &points),
        _ => Err(Error::new(Reason::InvalidArgument, "name a token, or a profile and a directory")),
    };
    let (report, restarts) = probed.inspect_err(|fault| {
        // A device that does not even open has no report but this.
        if let (Some(answer), Format::Json) = (fault.answer(), global.output) {
            println!("{:#}", json!({"as_profile": false, "reason": fault.reason().code(), "answer": answer}));
        }
    })?;
    if global.output == Format::Json {
        let mut value = serde_json::to_value(&report)
            .map_err(|fault| Error::new(Reason::Internal, "the report cannot be written").detail(fault))?;
        value["host_restarts"] = restarts.into();
        println!("{value:#}");
    } else {
        tell(&report, restarts);
    }
    match report.lost {
        None => Ok(u8::from(!report.as_profile)),
        Some(failure) => Err(lost(failure, args.token.as_deref())),
    }
}

/// The device did not come back: what to do.
fn lost(failure: Failure, token: Option<&str>) -> Error {
    let fault = match failure.class {
        Class::Pin => Error::from(failure),
        _ => Error::new(Reason::TokenUnavailable, "the device failed under the probe and did not come back")
            .detail(failure),
    };
    match (fault.reason(), token) {
        (Reason::PinRefused, Some(token)) => fault.hint(format!(
            "find out why it refused a PIN that it had taken before; then: keyward token unlatch {token}, and probe again"
        )),
        _ => fault.hint("look at the device and at its module's own log, and probe again"),
    }
}

/// Prints a report for people.
fn tell(report: &Report, restarts: u64) {
    let described = &report.token;
    println!(
        "token    {} serial {} ({} {})",
        described.label, described.serial, described.manufacturer, described.model
    );
    println!("profile  {}\n", report.profile);
    let yes = |is: bool| if is { "yes" } else { "no" };
    let remark = |row: &Row| {
        let answer = row.answer.as_ref().or(row.first.as_ref()).map(|answer| format!(": {answer}"));
        let words = match (row.device, &row.first) {
            (None, _) => "not found out",
            (Some(false), _) if row.must => "MISSING",
            (Some(device), _) if device != row.profile => "DIFFERS",
            (Some(true), Some(_)) => "at the second try; at first",
            (Some(true), None) => "",
            (Some(false), _) => "as expected",
        };
        format!("{words}{}", answer.unwrap_or_default())
    };
    let milliseconds = |row: &Row| match row.device {
        Some(true) => format!("{:.1}", Duration::from_micros(row.microseconds).as_secs_f64() * 1000.0),
        _ => String::new(),
    };
    let rows: Vec<Value> = report
        .matrix
        .iter()
        .map(|row| {
            json!({
                "capability": row.capability,
                "profile": yes(row.profile),
                "device": row.device.map_or("?", yes),
                "milliseconds": milliseconds(row),
                "remark": remark(row),
            })
        })
        .collect();
    output::list(Format::Table, &rows);
    println!();
    let points: Vec<Value> = report
        .curve
        .iter()
        .map(|point| {
            let rate = point.per_second.map(|rate| format!("{rate:.0}"));
            let rate = rate.or(point.answer.as_ref().map(ToString::to_string));
            json!({"sessions": point.threads, "signatures_per_second": rate})
        })
        .collect();
    if points.is_empty() {
        println!("rate     not measured: there is no RSA-2048 key to sign with");
    } else {
        output::list(Format::Table, &points);
    }
    println!();
    for (attribute, answer) in &report.gaps {
        println!("gap      {attribute}: {answer}");
    }
    println!("left     {} keys, labelled {KEY_LABEL:?}, which stay in the token", report.keys.len());
    if restarts > 0 {
        println!("host     the module failed and was started anew, restarts: {restarts}; look at its own log");
    }
    let missing = report.matrix.iter().any(|row| row.must && row.device == Some(false));
    match (&report.lost, report.as_profile) {
        (Some(failure), _) => println!("broken off: {failure}"),
        (None, true) => println!("as its profile says"),
        (None, false) if missing => println!("this token lacks what every one must do: give it no key"),
        (None, false) => println!(
            "not as its profile says: correct a copy of the profile, and name that in the configuration by its path"
        ),
    }
}

/// Says on a terminal what is being tried, line over line: a key may take a device a minute.
fn progress() -> impl FnMut(&str) {
    let (terminal, mut over) = (std::io::stderr().is_terminal(), false);
    move |trying| match (terminal, std::mem::replace(&mut over, true)) {
        (false, _) => {}
        (true, false) => eprintln!("trying: {trying}"),
        (true, true) => output::tell_over(format_args!("trying: {trying}\n")),
    }
}

/// Probes a token of the configuration without the limits of its profile; says how often its host was started anew.
/// The directory is held, and the store open, until that has ended: a module that is started anew logs in anew.
fn configured(name: &str, sessions: usize, points: &[usize], global: &Global) -> Result<(Report, u64)> {
    let config = Config::load(&global.data)?;
    let _lock = Lock::take(&config.directory).map_err(|fault| match fault.reason() {
        Reason::DataDirectoryInUse => fault.hint(
            "a probe needs the token for itself: stop the service first, or look at the token with keyward token status",
        ),
        _ => fault,
    })?;
    serve::prepare_modules(&config)?;
    let caller = Caller::LocalOperator { uid: rustix::process::geteuid().as_raw() };
    let runtime = runtime()?;
    let opening = serve::open_for_probe(&config, name, sessions, &caller, prompt::pin);
    let (profile, device, store) = runtime.block_on(opening)?;
    let report = probe(&device, &profile, points, POINT, progress());
    let restarts = device.restarts();
    drop(device);
    runtime.block_on(store.close());
    Ok((report?, restarts))
}

/// Probes a token that is made for this, with random PINs that nobody keeps.
fn made(profile: &str, directory: &Path, sessions: usize, points: &[usize]) -> Result<(Report, u64)> {
    let (name, profile) = (profile.to_owned(), Profile::load(profile)?);
    let random_pin = || Ok::<_, Error>(hex::encode(clock::random::<16>()?));
    let user_pin = random_pin()?;
    // No thread runs yet: the module may read its environment.
    serve::prepare_module(&profile, directory)?;
    let label = format!("probe-{}", hex::encode(clock::random::<4>()?));
    let pins = (Pin::new(random_pin()?), Pin::new(user_pin.clone()));
    let made = token::initialise(&profile, directory, &label, &pins.0, &pins.1)?;
    let directory = Some(directory.to_owned());
    let binding = Binding { name: "probe".to_owned(), profile: name, directory, label, serial: made.serial, sessions };
    let device = HostToken::start(HostProgram::this(), &binding, &permissive(&profile), Pin::new(user_pin))?;
    let report = probe(&device, &profile, points, POINT, progress())?;
    Ok((report, device.restarts()))
}
