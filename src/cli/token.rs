//! `keyward token`: how tokens stand, and what a person decides about them. With the running service, or with the data
//! directory of a stopped one.

use serde_json::{Value, json};

use crate::caller::Caller;
use crate::cli::{Global, output, probe, prompt, runtime};
use crate::config::{self, Config, PinSource};
use crate::custody::{Hold, Standing, clear, no_token, standing_of};
use crate::error::{Error, Reason, Result};
use crate::grpc::client::{Connection, failed};
use crate::grpc::v1;
use crate::policy::{self, Asked, Operation};
use crate::serve::{Lock, open_anchored_store, open_store, sessions};
use crate::store::Store;

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// List the tokens and their replicas, and how each does
    List,
    /// Say all that is known of a token, or of all: health and why, queue, restarts, latch, quarantine
    Status {
        /// The token's or the replica's name in the configuration
        token: Option<String>,
    },
    /// Have the running service log in to a token once more, after its latch was cleared or its device came back
    Login {
        /// The token's or the replica's name in the configuration
        token: String,
    },
    /// Allow one more try of a token's PIN, after its source was corrected
    Unlatch {
        /// The token's or the replica's name in the configuration
        token: String,
    },
    /// Take a token out of quarantine, after the device was looked at
    Release {
        /// The token's or the replica's name in the configuration
        token: String,
    },
    /// Try out all that a token does, with keys of role probe, and hold it against its profile
    Probe(probe::Args),
}

pub(super) fn run(command: Command, global: &Global) -> Result<u8> {
    let config = match &command {
        Command::Probe(args) => return probe::run(args, global),
        _ => Config::load(&global.data)?,
    };
    let place = Place::find(&config)?;
    match command {
        Command::List => list(&place, global)?,
        Command::Status { token } => status(&place, token.as_deref(), global)?,
        Command::Login { token } => login(&place, &token, global)?,
        Command::Unlatch { token } => lift(&place, &token, Hold::Latch, global)?,
        Command::Release { token } => lift(&place, &token, Hold::Quarantine, global)?,
        Command::Probe(_) => {}
    }
    Ok(0)
}

/// Where a command works.
struct Place<'a> {
    config: &'a Config,
    runtime: tokio::runtime::Runtime,
    at: At,
}

enum At {
    /// The running service.
    Service(Connection),
    /// The data directory of a stopped one, held as long as this lives.
    Directory(#[allow(dead_code, reason = "it is held")] Lock),
}

impl<'a> Place<'a> {
    fn find(config: &'a Config) -> Result<Self> {
        let runtime = runtime()?;
        let socket = config.path(&config.file.operator.socket);
        let at = match runtime.block_on(Connection::operator(&socket)) {
            Ok(connection) => At::Service(connection),
            Err(fault) if fault.reason() == Reason::PeerUnreachable => At::Directory(Lock::take(&config.directory)?),
            Err(fault) => return Err(fault),
        };
        Ok(Place { config, runtime, at })
    }

    /// How the tokens stand.
    fn tokens(&self) -> Result<Vec<v1::Token>> {
        self.runtime.block_on(async {
            match &self.at {
                At::Service(connection) => {
                    let listed = connection.tokens().list_tokens(v1::ListTokensRequest {}).await.map_err(failed)?;
                    Ok(listed.into_inner().tokens)
                }
                At::Directory(_) => {
                    let store = open_store(self.config, false).await?;
                    let tokens = recorded(self.config, store.as_ref()).await;
                    store.close().await;
                    tokens
                }
            }
        })
    }
}

/// What is configured and recorded of the tokens of a stopped service.
async fn recorded(config: &Config, store: &dyn Store) -> Result<Vec<v1::Token>> {
    let mut tokens = Vec::new();
    for token in &config.file.tokens {
        let mut replicas = Vec::new();
        for (member, twin) in token.devices().into_iter().zip(token.twins()) {
            // Another instance on the same database may be at it.
            let (standing, _, login_under_way) = Standing::seen(store, &standing(&member, twin), || false).await?;
            let sessions = sessions(config, &member)?;
            replicas.push(v1::Replica {
                name: format!("tokens/{}/replicas/{}", token.name, member.name),
                sessions: i32::try_from(sessions).unwrap_or(i32::MAX),
                profile: member.profile,
                label: member.label,
                serial: member.serial,
                health: "stopped".to_owned(),
                login_under_way,
                latched: standing.latched.filter(|_| !login_under_way).unwrap_or_default(),
                quarantined: standing.quarantined.unwrap_or_default(),
                ..v1::Replica::default()
            });
        }
        tokens.push(v1::Token { name: format!("tokens/{}", token.name), replicas, ..v1::Token::default() });
    }
    Ok(tokens)
}

/// Where a device's latch and quarantine are recorded.
fn standing(member: &config::Token, twin: bool) -> String {
    standing_of(&member.serial, &member.label, twin.then_some(&member.name))
}

fn list(place: &Place<'_>, global: &Global) -> Result<()> {
    let tokens = place.tokens()?;
    let rows: Vec<Value> = tokens
        .iter()
        .flat_map(|token| &token.replicas)
        .map(|replica| {
            let (token, name) = names(replica);
            json!({
                "token": token,
                "replica": name,
                "profile": replica.profile,
                "label": replica.label,
                "serial": replica.serial,
                "health": replica.health,
                "since": age(replica.age),
                "held": held(replica),
            })
        })
        .collect();
    output::list(global.output, &rows);
    let ails =
        |replica: &&v1::Replica| !matches!(replica.health.as_str(), "healthy" | "stopped") || !held(replica).is_empty();
    let ailing = tokens.iter().flat_map(|token| &token.replicas).find(ails);
    if let (Some(replica), output::Format::Table) = (ailing, global.output) {
        println!("next: keyward token status {}", names(replica).1);
    }
    Ok(())
}

/// Token and replica, as the configuration names them.
fn names(replica: &v1::Replica) -> (&str, &str) {
    let rest = replica.name.strip_prefix("tokens/").unwrap_or(&replica.name);
    rest.split_once("/replicas/").unwrap_or((rest, rest))
}

/// What a person must clear before it serves.
fn held(replica: &v1::Replica) -> String {
    let words = [("latched", &replica.latched), ("quarantined", &replica.quarantined)];
    words.iter().filter(|(_, why)| !why.is_empty()).map(|(word, _)| *word).collect::<Vec<_>>().join(", ")
}

/// A time that has passed, in the largest unit that says it; empty if there is none.
fn age(age: Option<prost_types::Duration>) -> String {
    let Some(age) = age else { return String::new() };
    match age.seconds {
        s @ ..120 => format!("{s} s"),
        s @ 120..7200 => format!("{} min", s / 60),
        s @ 7200..172_800 => format!("{} h", s / 3600),
        s => format!("{} d", s / 86_400),
    }
}

fn status(place: &Place<'_>, wanted: Option<&str>, global: &Global) -> Result<()> {
    let tokens = place.tokens()?;
    let all: Vec<&v1::Replica> = tokens.iter().flat_map(|token| &token.replicas).collect();
    let shown: Vec<&v1::Replica> = match wanted {
        None => all.clone(),
        Some(wanted) => {
            all.iter().copied().filter(|replica| names(replica).0 == wanted || names(replica).1 == wanted).collect()
        }
    };
    if let (Some(wanted), true) = (wanted, shown.is_empty()) {
        return Err(no_token(wanted, &all.iter().map(|replica| names(replica).1).collect::<Vec<_>>()));
    }
    if global.output == output::Format::Json {
        println!("{:#}", Value::Array(shown.iter().map(|replica| view(replica, &tokens)).collect()));
        return Ok(());
    }
    for (number, replica) in shown.iter().enumerate() {
        if number > 0 {
            println!();
        }
        describe(replica, &tokens);
    }
    Ok(())
}

fn view(replica: &v1::Replica, tokens: &[v1::Token]) -> Value {
    let (token, name) = names(replica);
    let of = tokens.iter().find(|candidate| candidate.name == format!("tokens/{token}"));
    let answered = !replica.answer_value.is_empty();
    let seconds = |age: Option<prost_types::Duration>| age.map(|age| age.seconds);
    json!({
        "token": token,
        "replica": name,
        "profile": replica.profile,
        "label": replica.label,
        "serial": replica.serial,
        "manufacturer": replica.manufacturer,
        "model": replica.model,
        "firmware": replica.firmware,
        "module_sha256": replica.module_sha256,
        "health": replica.health,
        "reason": replica.reason,
        "answer": answered.then(|| json!({"function": replica.answer_function, "value": replica.answer_value})),
        "age_seconds": seconds(replica.age),
        "token_serves": of.map(|token| token.serves),
        "token_needed": of.map(|token| token.needed),
        "queue_depth": replica.queue_depth,
        "running": replica.running,
        "sessions": replica.sessions,
        "host_restarts": replica.host_restarts,
        "host_pid": replica.host_pid,
        "last_probe_seconds": seconds(replica.last_probe_age),
        "last_answer_seconds": seconds(replica.last_answer_age),
        "login_under_way": replica.login_under_way,
        "latched": replica.latched,
        "quarantined": replica.quarantined,
    })
}

/// Prints a replica for people, and the next step where one is needed.
fn describe(replica: &v1::Replica, tokens: &[v1::Token]) {
    let (token, name) = names(replica);
    let of = tokens.iter().find(|candidate| candidate.name == format!("tokens/{token}"));
    let ago = |since| if age(since).is_empty() { "not in this run".to_owned() } else { format!("{} ago", age(since)) };
    println!("token        {token}{}", if name == token { String::new() } else { format!(", replica {name}") });
    println!("device       {} serial {}, profile {}", replica.label, replica.serial, replica.profile);
    if !replica.model.is_empty() {
        println!("             {} {}, firmware {}", replica.manufacturer, replica.model, replica.firmware);
    }
    let since = if age(replica.age).is_empty() { String::new() } else { format!(" for {}", age(replica.age)) };
    println!("health       {}{since}{}", replica.health, sentence(&replica.reason));
    if replica.health != "stopped" {
        println!(
            "queue        {} waiting, {} running, {} sessions",
            replica.queue_depth, replica.running, replica.sessions
        );
        let process = if replica.host_pid == 0 { "none now".into() } else { format!("process {}", replica.host_pid) };
        println!("host         {process}, {} restarts", replica.host_restarts);
        println!("last probe   {}", ago(replica.last_probe_age));
        println!("last answer  {}", ago(replica.last_answer_age));
    }
    let pin = match (replica.login_under_way, replica.latched.as_str()) {
        (true, _) => "a login is under way".to_owned(),
        (false, "") => "not latched".to_owned(),
        (false, why) => format!("latched: {why}"),
    };
    println!("PIN          {pin}");
    println!("quarantine   {}", if replica.quarantined.is_empty() { "none" } else { &replica.quarantined });
    if let Some(next) = next(replica, of.is_some_and(|token| token.serves)) {
        println!("next         {next}");
    }
}

fn sentence(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(": {reason}") }
}

/// What a person does about it.
fn next(replica: &v1::Replica, serves: bool) -> Option<String> {
    let (_, name) = names(replica);
    let others = if serves { " (another replica serves meanwhile)" } else { "" };
    if !replica.quarantined.is_empty() {
        return Some(format!("find out what happened to the device, then: keyward token release {name}{others}"));
    }
    if replica.login_under_way {
        return Some(format!("wait for the end of the login{others}"));
    }
    if !replica.latched.is_empty() {
        let login =
            if replica.health == "stopped" { String::new() } else { format!(", then: keyward token login {name}") };
        return Some(format!("put the right PIN into its source, then: keyward token unlatch {name}{login}{others}"));
    }
    match replica.health.as_str() {
        "waiting" => Some(format!("keyward token login {name}{others}")),
        "failed" => Some(format!(
            "bring the device back, or what else the reason names; it is tried all the time and serves then{others}"
        )),
        _ => None,
    }
}

fn login(place: &Place<'_>, name: &str, global: &Global) -> Result<()> {
    let At::Service(connection) = &place.at else {
        return Err(Error::new(
            Reason::PeerUnreachable,
            "no service runs on this data directory, and a login is one of a service",
        )
        .hint("start it, which logs in: keyward serve DIR"));
    };
    let settings = find(place.config, name)?;
    let typed = settings.1.pin == PinSource::Prompt;
    let pin = if typed { prompt::pin(name)?.expose().to_owned() } else { String::new() };
    let request = v1::LogInTokenRequest { name: resource(&settings, name), pin };
    let token = place.runtime.block_on(connection.tokens().log_in_token(request)).map_err(failed)?.into_inner();
    if global.output == output::Format::Json {
        let replicas: Vec<Value> =
            token.replicas.iter().map(|replica| view(replica, std::slice::from_ref(&token))).collect();
        println!("{:#}", Value::Array(replicas));
    } else {
        println!("token {name} is logged in");
    }
    Ok(())
}

/// The token that a name means, or whose replica it means, and that device.
fn find(config: &Config, name: &str) -> Result<(config::Token, config::Token)> {
    let mut names = Vec::new();
    for token in &config.file.tokens {
        for member in token.devices() {
            if member.name == name {
                return Ok((token.clone(), member));
            }
            names.push(member.name);
        }
    }
    Err(no_token(name, &names.iter().map(String::as_str).collect::<Vec<_>>()))
}

fn resource((token, _): &(config::Token, config::Token), name: &str) -> String {
    if token.name == name { format!("tokens/{name}") } else { format!("tokens/{}/replicas/{name}", token.name) }
}

/// Clears what holds a token or a replica back.
fn lift(place: &Place<'_>, name: &str, hold: Hold, global: &Global) -> Result<()> {
    let settings = find(place.config, name)?;
    let was = place.runtime.block_on(async {
        match &place.at {
            At::Service(connection) => {
                let (mut tokens, name) = (connection.tokens(), resource(&settings, name));
                Ok(match hold {
                    Hold::Latch => {
                        let done = tokens.unlatch_token(v1::UnlatchTokenRequest { name }).await.map_err(failed)?;
                        done.into_inner().was_latched
                    }
                    Hold::Quarantine => {
                        let done = tokens.release_token(v1::ReleaseTokenRequest { name }).await.map_err(failed)?;
                        done.into_inner().was_quarantined
                    }
                })
            }
            At::Directory(_) => {
                let store = open_anchored_store(place.config, false).await?;
                let was = lift_recorded(store.as_ref(), &settings, name, hold).await;
                store.close().await;
                was
            }
        }
    })?;
    let state = if hold == Hold::Latch { "unlatched" } else { "released" };
    let held = !was.is_empty();
    if global.output == output::Format::Json {
        let said = |words: &str| held.then(|| words.to_owned());
        let shown = json!({ "token": name, "state": said(state), "was_held_because": said(&was), "by": "operator" });
        output::object(global.output, &shown);
        return Ok(());
    }
    if !held {
        println!("token {name} was not held; nothing is changed");
        return Ok(());
    }
    println!("token {name} is {state}, as you are an operator; it was held because: {was}");
    match (&place.at, hold) {
        (At::Directory(_), _) => println!("next: keyward serve {}", place.config.directory.display()),
        (At::Service(_), Hold::Latch) => println!("next: keyward token login {name}"),
        (At::Service(_), Hold::Quarantine) => println!("next: keyward token status {name}"),
    }
    Ok(())
}

/// Clears all that holds these tokens or replicas back, in a store that a person has decided to go on from.
pub(super) async fn lift_all(config: &Config, names: &[String]) -> Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    let found: Vec<_> = names.iter().map(|name| find(config, name)).collect::<Result<_>>()?;
    let store = open_store(config, false).await?;
    let lifting = async {
        for (settings, name) in found.iter().zip(names) {
            for hold in [Hold::Latch, Hold::Quarantine] {
                lift_recorded(store.as_ref(), settings, name, hold).await?;
            }
        }
        Ok(())
    };
    let lifted = lifting.await;
    store.close().await;
    lifted
}

/// The same in the records of a stopped service. A token's name means all its replicas.
async fn lift_recorded(
    store: &dyn Store,
    (token, member): &(config::Token, config::Token),
    name: &str,
    hold: Hold,
) -> Result<String> {
    let caller = Caller::LocalOperator { uid: rustix::process::geteuid().as_raw() };
    let operation = if hold == Hold::Latch { Operation::UnlatchToken } else { Operation::ReleaseToken };
    let permit = policy::permit(&caller, &Asked { operation, cluster: None, signs: None })?;
    let mut was = None;
    for (device, twin) in token.devices().iter().zip(token.twins()) {
        if name == token.name || device.name == member.name {
            was = clear(store, &permit, &standing(device, twin), hold, || false).await?.or(was);
        }
    }
    Ok(was.unwrap_or_default())
}
