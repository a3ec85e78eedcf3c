//! `keyward token probe`: makes a token in a directory of its own, tries out everything, and says where it differs from
//! its profile.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cli::Global;
use crate::cli::output::{self, Format};
use crate::clock;
use crate::error::{Error, Reason, Result};
use crate::secret::Pin;
use crate::serve;
use crate::token::host::{HostProgram, HostToken};
use crate::token::probe::{permissive, probe};
use crate::token::profile::Profile;
use crate::token::{self, Binding};

/// How long each point of the scaling curve is measured.
const POINT: Duration = Duration::from_millis(500);

#[derive(clap::Args)]
pub(super) struct Args {
    /// The kind of device: a profile's name, or the path of a profile file
    #[arg(long)]
    profile: String,
    /// Where the token is made; it stays there
    #[arg(long, value_name = "DIR")]
    directory: PathBuf,
    /// Points of the scaling curve: numbers of sessions
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 4])]
    sessions: Vec<usize>,
}

pub(super) fn run(args: &Args, global: &Global) -> Result<u8> {
    let profile = Profile::load(&args.profile)?;
    let random_pin = || Ok::<_, Error>(hex::encode(clock::random::<16>()?));
    let user_pin = random_pin()?;
    // No thread runs yet: the module may read its environment.
    serve::prepare_module(&profile, &args.directory)?;
    let label = format!("probe-{}", hex::encode(clock::random::<4>()?));
    let pins = (Pin::new(random_pin()?), Pin::new(user_pin.clone()));
    let made = token::initialise(&profile, &args.directory, &label, &pins.0, &pins.1)?;
    let binding = Binding {
        name: "probe".to_owned(),
        profile: args.profile.clone(),
        directory: Some(args.directory.clone()),
        label,
        serial: made.serial,
        sessions: args.sessions.iter().copied().max().unwrap_or(1),
    };
    let device = HostToken::start(HostProgram::this(), &binding, &permissive(&profile), Pin::new(user_pin))?;
    let report = probe(&device, &profile, &args.sessions, POINT)?;
    let value = serde_json::to_value(&report)
        .map_err(|fault| Error::new(Reason::Internal, "the report cannot be written").detail(fault))?;
    match global.output {
        Format::Json => println!("{value:#}"),
        Format::Table => {
            let rows = value["matrix"].as_array().cloned().unwrap_or_default();
            output::list(Format::Table, &rows);
            let points: Vec<Value> = report
                .curve
                .iter()
                .map(|point| json!({"sessions": point.threads, "signatures_per_second": point.per_second.round()}))
                .collect();
            output::list(Format::Table, &points);
        }
    }
    Ok(u8::from(!report.as_profile))
}
