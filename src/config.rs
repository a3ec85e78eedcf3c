//! The configuration of one instance: `keyward.toml` in its data directory.

use std::path::{Path, PathBuf};

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Reason, Result};
use crate::secret::Pin;

mod pin;
mod store;

pub use pin::PinSource;
pub use store::{Postgres, Store};

/// The configuration file's name inside a data directory.
pub const FILE: &str = "keyward.toml";
/// Longest path of a Unix socket, in bytes (`sun_path` less its end).
const SOCKET_BYTES_MAX: usize = 107;

/// A data directory and what its configuration says. Paths in the file are relative to the directory.
#[derive(Debug)]
pub struct Config {
    /// The data directory.
    pub directory: PathBuf,
    /// The file's content.
    pub file: File,
    /// SHA-256 of the file, hexadecimal.
    pub sha256: String,
}

/// The content of the configuration file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct File {
    /// Where nodes connect.
    pub api: Api,
    /// Where nodes join.
    pub join: Join,
    /// Where people of this machine connect.
    pub operator: Operator,
    /// What clusters are enrolled as.
    #[serde(default)]
    pub enrollment: Enrollment,
    /// Where records are.
    pub store: Store,
    /// How the log is signed.
    #[serde(default)]
    pub audit: Audit,
    /// Who certifies nodes and this server.
    pub tls: Tls,
    /// The tokens.
    #[serde(default, rename = "token")]
    pub tokens: Vec<Token>,
    /// Copies of the log for other programs.
    #[serde(default, rename = "sink", skip_serializing_if = "Vec::is_empty")]
    pub sinks: Vec<Sink>,
}

/// Where nodes connect.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Api {
    /// Address and port; port 0 takes a free one at each start.
    pub listen: String,
    /// DNS names and addresses by which nodes know this server.
    pub server_names: Vec<String>,
}

/// The history of the log's audit keys, inside a data directory.
pub const AUDIT_TRUST: &str = "audit.trust";

/// Where people of this machine connect.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Operator {
    /// A Unix socket, for this service's user and root alone.
    pub socket: PathBuf,
}

/// How the log is signed.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Audit {
    /// The file of the last checkpoint. On another disk than the store, it shows a store that was put back.
    pub anchor: PathBuf,
    /// A checkpoint is made after so many records,
    pub checkpoint_records: u64,
    /// or after so many seconds, if fewer came. While none can be made for ten times as long, nothing is signed.
    pub checkpoint_seconds: u64,
}

impl Default for Audit {
    fn default() -> Self {
        Audit { anchor: "audit.anchor".into(), checkpoint_records: 10_000, checkpoint_seconds: 60 }
    }
}

/// Most records, and most seconds, from one checkpoint to the next.
const CHECKPOINT_RECORDS_MAX: u64 = 1_000_000;
const CHECKPOINT_SECONDS_MAX: u64 = 86_400;

/// Who certifies nodes and this server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Tls {
    /// The authority's certificate, PEM. Its key is in the token.
    pub authority: PathBuf,
}

/// Where nodes join: TLS with a server certificate only, and one service.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Join {
    /// Address and port; port 0 takes a free one at each start.
    pub listen: String,
}

/// What clusters are enrolled as: it goes into their certificates.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Enrollment {
    /// Product (SECURITYLEVEL `Server-SKU`).
    pub sku: String,
    /// Its version (SECURITYLEVEL `Server-Version`).
    pub version: String,
}

impl Default for Enrollment {
    fn default() -> Self {
        Enrollment { sku: "RMS 2.0".into(), version: "6.0.0.0".into() }
    }
}

/// One token: which device it is, and where its PIN comes from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Token {
    /// What this instance calls it.
    pub name: String,
    /// The kind of device: the name of a shipped profile, or the path of a profile file.
    pub profile: String,
    /// Directory of a software token, or of a TPM's wrapped keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<PathBuf>,
    /// How this site reaches its TPM, where that is not as the profile says: a TCTI such as `device:/dev/tpmrm1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcti: Option<String>,
    /// The token's label. Label and serial must both match.
    pub label: String,
    /// The token's serial number.
    pub serial: String,
    /// Working sessions, each with a thread of its own; as many as the profile recommends if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions: Option<usize>,
    /// Where the PIN comes from.
    pub pin: PinSource,
    /// Further devices that hold the same keys, made by the device's own cloning.
    #[serde(default, rename = "replica", skip_serializing_if = "Vec::is_empty")]
    pub replicas: Vec<Replica>,
}

/// A further device that holds the same keys as a token. What is left out is as in the token.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Replica {
    /// What this instance calls it: no token and no other replica has this name.
    pub name: String,
    /// The kind of device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// Directory of a software token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<PathBuf>,
    /// Its label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Its serial number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Working sessions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions: Option<usize>,
    /// Where its PIN comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pin: Option<PinSource>,
}

/// A copy of the log: a file of JSON lines, or syslog.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sink {
    /// What this instance calls it.
    pub name: String,
    /// The file, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub json_lines: Option<PathBuf>,
    /// The file is turned over before it gets longer than this, in MiB.
    #[serde(default = "rotate_mib")]
    pub rotate_mib: u32,
    /// Turned files that are kept.
    #[serde(default = "keep")]
    pub keep: u32,
    /// The Unix datagram socket of a syslog service, if it is one, such as `/dev/log`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub syslog: Option<PathBuf>,
}

fn rotate_mib() -> u32 {
    64
}

fn keep() -> u32 {
    8
}

/// Largest file of a copy, in MiB.
const ROTATE_MIB_MAX: u32 = 4096;
/// Most turned files of a copy.
const KEEP_MAX: u32 = 1000;

impl Sink {
    /// What it is and where.
    #[must_use]
    pub fn place(&self) -> String {
        match (&self.json_lines, &self.syslog) {
            (Some(path), _) => format!("json-lines {}", path.display()),
            (None, Some(socket)) => format!("syslog {}", socket.display()),
            (None, None) => String::new(),
        }
    }

    fn faults(&self) -> Vec<String> {
        let name = &self.name;
        let mut faults = Vec::new();
        if crate::cluster::check_id("name", name).is_err() {
            faults.push(format!("sink {name:?}: a name is lower-case letters, digits and hyphens"));
        }
        if self.json_lines.is_some() == self.syslog.is_some() {
            faults.push(format!("sink {name}: give it json_lines or syslog, one of the two"));
        }
        if !(1..=ROTATE_MIB_MAX).contains(&self.rotate_mib) || self.keep > KEEP_MAX {
            faults.push(format!("sink {name}: rotate_mib is 1 to {ROTATE_MIB_MAX}, keep at most {KEEP_MAX}"));
        }
        faults
    }
}

/// Most working sessions of one token.
const SESSIONS_MAX: usize = 64;

impl Config {
    /// Reads and checks the configuration of a data directory. Names every fault that it finds, not just the first.
    ///
    /// # Errors
    /// `DATA_DIRECTORY` if there is none, `CONFIG_INVALID` for its faults.
    pub fn load(directory: &Path) -> Result<Self> {
        let path = directory.join(FILE);
        let text = std::fs::read_to_string(&path).map_err(|fault| {
            let hint = match fault.kind() {
                std::io::ErrorKind::NotFound => "name a data directory with --data DIR; `keyward init DIR` makes one",
                _ => "make it readable for the user that runs this command",
            };
            Error::new(Reason::DataDirectory, format!("{} cannot be read: {fault}", path.display())).hint(hint)
        })?;
        let (file, faults) = parse(&text);
        let config = file.map(|file| Config::new(directory.to_owned(), file, &text));
        let faults = match &config {
            Some(config) => faults.into_iter().chain(config.faults()).collect(),
            None => faults,
        };
        match config {
            Some(config) if faults.is_empty() => Ok(config),
            _ => Err(Error::new(Reason::ConfigInvalid, format!("{}: {}", path.display(), faults.join("; ")))
                .hint(format!("correct the file, then: keyward config check --data {}", directory.display()))),
        }
    }

    /// A configuration with the text of its file.
    #[must_use]
    pub fn new(directory: PathBuf, file: File, text: &str) -> Self {
        Config { directory, file, sha256: hex::encode(digest::digest(&digest::SHA256, text.as_bytes())) }
    }

    /// What holds, as the log says it: settings and whether they name devices and places, never a secret.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        let File { api, join, operator, enrollment, store, audit, tls, tokens, sinks } = &self.file;
        let mut words = vec![
            format!("api.listen {}", api.listen),
            format!("api.server_names {}", api.server_names.join(" ")),
            format!("join.listen {}", join.listen),
            format!("operator.socket {}", operator.socket.display()),
            format!("enrollment {} {}", enrollment.sku, enrollment.version),
            match (&store.sqlite, &store.postgres) {
                (Some(file), _) => format!("store.sqlite {}", file.display()),
                (None, Some(database)) => format!("store.postgres {} instance {}", database.url, database.instance),
                (None, None) => "store none".to_owned(),
            },
            format!("audit.anchor {}", audit.anchor.display()),
            format!("tls.authority {}", tls.authority.display()),
        ];
        words.extend(tokens.iter().flat_map(Token::devices).map(|token| {
            let Token { name, profile, label, serial, sessions, .. } = token;
            let sessions = sessions.map_or("as recommended".to_owned(), |sessions| sessions.to_string());
            format!("token {name}: profile {profile}, label {label}, serial {serial}, sessions {sessions}")
        }));
        words.extend(sinks.iter().map(|sink| format!("sink {}: {}", sink.name, sink.place())));
        words
    }

    /// Checks a configuration that was not read from a file.
    ///
    /// # Errors
    /// `CONFIG_INVALID` for all its faults.
    pub fn check(&self) -> Result<()> {
        let faults = self.faults();
        if faults.is_empty() { Ok(()) } else { Err(Error::new(Reason::ConfigInvalid, faults.join("; "))) }
    }

    /// A path of the configuration, resolved against the data directory.
    #[must_use]
    pub fn path(&self, path: &Path) -> PathBuf {
        self.directory.join(path)
    }

    fn faults(&self) -> Vec<String> {
        let file = &self.file;
        let mut faults = Vec::new();
        for (name, address) in [("api.listen", &file.api.listen), ("join.listen", &file.join.listen)] {
            if address.parse::<std::net::SocketAddr>().is_err() {
                faults.push(format!("{name}: {address:?} is not an address and port"));
            }
        }
        for (name, text) in [("enrollment.sku", &file.enrollment.sku), ("enrollment.version", &file.enrollment.version)]
        {
            faults.extend(crate::cluster::check_text(name, text).err().map(|fault| fault.message().to_owned()));
        }
        if file.api.server_names.is_empty() {
            faults.push("api.server_names: name at least one".into());
        }
        for name in &file.api.server_names {
            if !is_server_name(name) {
                faults.push(format!("api.server_names: {name:?} is no DNS name or address"));
            }
        }
        let socket = self.path(&file.operator.socket);
        if socket.as_os_str().len() > SOCKET_BYTES_MAX {
            faults.push(format!(
                "operator.socket: {} is longer than {SOCKET_BYTES_MAX} bytes, the most that a socket's path may have",
                socket.display()
            ));
        }
        for (name, value, most) in [
            ("audit.checkpoint_records", file.audit.checkpoint_records, CHECKPOINT_RECORDS_MAX),
            ("audit.checkpoint_seconds", file.audit.checkpoint_seconds, CHECKPOINT_SECONDS_MAX),
        ] {
            if !(1..=most).contains(&value) {
                faults.push(format!("{name}: 1 to {most}"));
            }
        }
        if file.store.sqlite.is_some() == file.store.postgres.is_some() {
            faults.push("store: set either sqlite or postgres".into());
        }
        faults.extend(file.store.postgres.iter().flat_map(Postgres::faults));
        let devices: Vec<Token> = file.tokens.iter().flat_map(Token::devices).collect();
        for (place, device) in devices.iter().enumerate() {
            let name = &device.name;
            if devices[..place].iter().any(|other| other.name == *name) {
                faults.push(format!("token {name}: two tokens or replicas have this name"));
            }
            if crate::cluster::check_id("name", name).is_err() {
                faults.push(format!("token {name:?}: a name is lower-case letters, digits and hyphens"));
            }
            if device.sessions.is_some_and(|sessions| !(1..=SESSIONS_MAX).contains(&sessions)) {
                faults.push(format!("token {name}: sessions is 1 to {SESSIONS_MAX}"));
            }
            if matches!(&device.pin, PinSource::Credential(name) if name.contains('/') || name.starts_with('.')) {
                faults.push(format!("token {name}: pin.credential is a plain name"));
            }
        }
        for (place, sink) in file.sinks.iter().enumerate() {
            if file.sinks[..place].iter().any(|other| other.name == sink.name) {
                faults.push(format!("sink {}: two sinks have this name", sink.name));
            }
            faults.extend(sink.faults());
        }
        faults
    }
}

impl Token {
    /// Its devices, each as a token of its own: itself, then its replicas.
    #[must_use]
    pub fn devices(&self) -> Vec<Token> {
        let own = Token { replicas: Vec::new(), ..self.clone() };
        let replica = |replica: &Replica| Token {
            name: replica.name.clone(),
            profile: replica.profile.clone().unwrap_or_else(|| own.profile.clone()),
            directory: replica.directory.clone().or_else(|| own.directory.clone()),
            tcti: None,
            label: replica.label.clone().unwrap_or_else(|| own.label.clone()),
            serial: replica.serial.clone().unwrap_or_else(|| own.serial.clone()),
            sessions: replica.sessions.or(own.sessions),
            pin: replica.pin.clone().unwrap_or_else(|| own.pin.clone()),
            replicas: Vec::new(),
        };
        let replicas: Vec<Token> = self.replicas.iter().map(replica).collect();
        [vec![own], replicas].concat()
    }

    /// Of each of its devices, whether one before it has the same label and serial: then only its name tells them apart.
    #[must_use]
    pub fn twins(&self) -> Vec<bool> {
        let devices = self.devices();
        let same = |one: &Token, other: &Token| one.serial == other.serial && one.label == other.label;
        let twin = |(place, device): (usize, &Token)| devices[..place].iter().any(|before| same(before, device));
        devices.iter().enumerate().map(twin).collect()
    }

    /// Reads the PIN.
    ///
    /// # Errors
    /// As [`PinSource::read`].
    pub fn read_pin(&self, config: &Config) -> Result<Pin> {
        self.pin.read(config, &format!("the PIN of token {}", self.name))
    }
}

/// Whether this is an address, or a host name (RFC 1123, 2.1) as certificates carry it.
fn is_server_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    name.parse::<std::net::IpAddr>().is_ok() || name.len() <= 253 && name.split('.').all(is_label)
}

/// The content, if it can be read as such, and what is wrong with it.
fn parse(text: &str) -> (Option<File>, Vec<String>) {
    let mut faults = Vec::new();
    let document = match toml::Deserializer::parse(text) {
        Ok(document) => document,
        Err(fault) => return (None, vec![one_line(&fault)]),
    };
    let file = serde_ignored::deserialize(document, |key| faults.push(format!("{key}: there is no such setting")));
    match file {
        Ok(file) => (Some(file), faults),
        Err(fault) => {
            faults.push(one_line(&fault));
            (None, faults)
        }
    }
}

fn one_line(fault: &toml::de::Error) -> String {
    fault.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        [api]
        listen = "127.0.0.1:7443"
        server_names = ["localhost"]
        [operator]
        socket = "operator.sock"
        [store]
        sqlite = "keyward.db"
        [tls]
        authority = "a.pem"
        [join]
        listen = "127.0.0.1:7444"
        [[token]]
        name = "main"
        profile = "softhsm"
        label = "l"
        serial = "s"
        pin = { file = "pin" }
    "#;

    fn faults(text: &str) -> Vec<String> {
        let (file, mut faults) = parse(text);
        if let Some(file) = file {
            faults.extend(Config::new("d".into(), file, text).faults());
        }
        faults
    }

    #[test]
    fn a_good_file_has_no_faults() {
        assert_eq!(faults(GOOD), Vec::<String>::new());
    }

    #[test]
    fn what_a_replica_does_not_say_is_as_in_its_token() {
        let text = GOOD.to_owned()
            + "sessions = 7\n[[token.replica]]\n name = \"b\"\n serial = \"t\"\n[[token.replica]]\n name = \"c\"\n pin = \"prompt\"";
        assert_eq!(faults(&text), Vec::<String>::new());
        let devices = parse(&text).0.unwrap().tokens[0].devices();
        let seen: Vec<_> = devices.iter().map(|d| (d.name.as_str(), d.serial.as_str(), d.sessions, &d.pin)).collect();
        let file = PinSource::File("pin".into());
        assert_eq!(
            seen,
            [("main", "s", Some(7), &file), ("b", "t", Some(7), &file), ("c", "s", Some(7), &PinSource::Prompt)]
        );
    }

    #[test]
    fn records_are_in_one_place_and_the_configuration_holds_no_password() {
        let in_database = |place: &str| GOOD.replace("sqlite = \"keyward.db\"", &format!("postgres = {{ {place} }}"));
        let socket = "url = \"postgres://k@localhost/k?host=/run/postgresql\", instance = \"a\"";
        assert_eq!(faults(&in_database(socket)), Vec::<String>::new());
        let both = GOOD.replace("sqlite =", &format!("postgres = {{ {socket} }}\n sqlite ="));
        assert!(faults(&both).join("\n").contains("either sqlite or postgres"));
        for (place, words) in [
            ("url = \"postgres://k:word@h/k\", instance = \"a\"", "holds a password"),
            ("url = \"postgres://h/k?user=k&password=word\", instance = \"a\"", "holds a password"),
            ("url = \"h/k\", instance = \"a\"", "begins with postgres://"),
            ("url = \"postgres://h/k\", instance = \"A b\"", "store.postgres.instance"),
            ("url = \"postgres://h/k\", instance = \"a\", colour = 1", "colour"),
        ] {
            let found = faults(&in_database(place)).join("\n");
            assert!(found.contains(words) && !found.contains("word@"), "{words} in\n{found}");
        }
    }

    #[test]
    fn all_faults_are_named_at_once() {
        let text = GOOD
            .replace("127.0.0.1:7443", "here")
            .replace("\"localhost\"", "\"localhost\", \"a name\"")
            .replace("sqlite =", "sqlight = 1\n sqlite =")
            .replace("label =", "colour = 1\n sessions = 0\n label =")
            + "[[sink]]\n name = \"copy\"\n rotate_mib = 0\n lines = 1\n"
            + "[[token.replica]]\n name = \"main\"\n pin = { credential = \"../x\" }";
        let found = faults(&text).join("\n");
        for words in [
            "store.sqlight",
            "token.0.colour",
            "api.listen",
            "\"a name\" is no DNS name",
            "sessions is 1 to 64",
            "sink copy: give it json_lines or syslog",
            "sink copy: rotate_mib is 1 to 4096",
            "sink.0.lines",
            "two tokens or replicas have this name",
            "pin.credential is a plain name",
        ] {
            assert!(found.contains(words), "{words} in\n{found}");
        }
    }
}
