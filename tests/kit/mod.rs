//! The kit of the integration tests: a real instance in a directory of its own, and callers of its doors.

#![allow(clippy::unwrap_used, clippy::expect_used, dead_code)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use keyward::grpc::client::{Connection, NodeIdentity};
use keyward::grpc::v1;
use serde_json::Value;
use tempfile::TempDir;
use time::{Duration as Span, OffsetDateTime};

pub(crate) mod load;
pub(crate) mod postgres;
pub(crate) mod sealing;
pub(crate) mod signer;
pub(crate) mod token;

/// How long anything may take before a test calls it hung.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The program under test.
pub(crate) const KEYWARD: &str = env!("CARGO_BIN_EXE_keyward");

/// A data directory, and the service that runs on it, if one does.
pub(crate) struct Instance {
    pub(crate) directory: TempDir,
    service: Option<Service>,
}

struct Service {
    child: Child,
    lines: mpsc::Receiver<String>,
    seen: Vec<String>,
}

/// What a command left behind.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// The command succeeded; gives its standard output.
    #[track_caller]
    pub(crate) fn good(self) -> String {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self.stdout
    }

    /// The command failed with this exit code and this reason, and says what to do next if `hint`.
    #[track_caller]
    pub(crate) fn refused(self, code: i32, reason: &str) -> String {
        assert_eq!(self.code, Some(code), "{self:#?}");
        assert!(self.stderr.contains(&format!("[{reason}]")), "{self:#?}");
        self.stderr
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Ran {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// Runs the program.
pub(crate) fn keyward<S: AsRef<std::ffi::OsStr>>(args: &[S]) -> Ran {
    ends(Command::new(KEYWARD).args(args))
}

/// Runs a command that must end by itself; one that does not is ended, and fails the test.
pub(crate) fn ends(command: &mut Command) -> Ran {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let end = Instant::now() + PATIENCE;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > end {
            child.kill().unwrap();
            panic!("it did not end: {:#?}", Ran::from(child.wait_with_output().unwrap()));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().unwrap().into()
}

impl Instance {
    /// Makes a data directory as people do.
    pub(crate) fn new() -> Self {
        let instance = Instance::nothing();
        instance.init(&[]).good();
        instance
    }

    /// A place for a data directory, which is not made yet.
    pub(crate) fn nothing() -> Self {
        let directory = tempfile::Builder::new().prefix("kw").tempdir().unwrap();
        Instance { directory, service: None }
    }

    /// Makes the data directory with more options.
    pub(crate) fn init(&self, more: &[&str]) -> Ran {
        let data = self.data();
        let free = ["--listen", "127.0.0.1:0", "--join-listen", "127.0.0.1:0"];
        keyward(&[&["init"], &free[..], more, &[data.to_str().unwrap()]].concat())
    }

    /// Changes the configuration.
    #[track_caller]
    pub(crate) fn reconfigure(&self, from: &str, to: &str) {
        let path = self.data().join("keyward.toml");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{from} is not in {text}");
        fs::write(&path, text.replace(from, to)).unwrap();
    }

    /// Adds to the end of the configuration.
    pub(crate) fn configure(&self, more: &str) {
        let path = self.data().join("keyward.toml");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text + more).unwrap();
    }

    /// The same with more to say.
    pub(crate) fn made_with(more: &[&str]) -> Self {
        let instance = Instance::nothing();
        instance.init(more).good();
        instance
    }

    /// An instance whose records are in a database, under this name.
    pub(crate) fn in_database(server: &postgres::Postgres, name: &str) -> Self {
        Instance::made_with(&["--postgres", &server.url(), "--instance", name])
    }

    /// One more instance on the database of another.
    pub(crate) fn beside(other: &Instance, name: &str) -> Self {
        Instance::made_with(&["--beside", other.data().to_str().unwrap(), "--instance", name])
    }

    /// A running instance with one cluster, `clusters/demo`, and one node of it.
    pub(crate) fn with_cluster() -> Self {
        let mut instance = Instance::new();
        instance.start();
        instance.cluster("demo");
        instance.node("demo", "node-1");
        instance
    }

    /// Makes a cluster and enrolls it with an authority of this test's own.
    pub(crate) fn cluster(&self, id: &str) {
        let made = self.create_cluster(id, &[]);
        self.authority();
        let response = self.process(id, &made);
        self.import(id, &response, &[]).good();
    }

    /// Makes a cluster and its enrollment request, `{id}.request.xml`; gives what the command says.
    pub(crate) fn create_cluster(&self, id: &str, more: &[&str]) -> Value {
        let (url, request) = (format!("https://{id}.example.test/_wmcs"), self.path(&format!("{id}.request.xml")));
        let args = ["cluster", "create", id, "--url", &url, "--offline", "--request", request.to_str().unwrap()];
        self.json(&[&args, more].concat())
    }

    /// The authority of this test, founded when it is first needed; its root is in `root.pem`.
    pub(crate) fn authority(&self) -> PathBuf {
        let (directory, pin) = (self.path("authority"), self.path("root.pem"));
        if !directory.exists() {
            let args = ["authority", "init", directory.to_str().unwrap(), "--pin", pin.to_str().unwrap()];
            keyward(&args).good();
        }
        directory
    }

    /// Has the authority answer the request of a cluster; gives the response's file.
    pub(crate) fn process(&self, id: &str, made: &Value) -> PathBuf {
        let words = made["enrollment_request"]["words"].as_str().unwrap();
        let request = self.path(&format!("{id}.request.xml"));
        let response = self.path(&format!("{id}.response.xml"));
        let authority = self.authority();
        let (authority, request) = (authority.to_str().unwrap(), request.to_str().unwrap());
        let out = response.to_str().unwrap();
        keyward(&["authority", "process", authority, request, "--words", words, "--out", out]).good();
        response
    }

    /// Has the authority answer whatever stands in the request's file, by the words that it shows itself.
    pub(crate) fn process_as_shown(&self, id: &str) -> PathBuf {
        let (authority, request) = (self.authority(), self.path(&format!("{id}.request.xml")));
        let (authority, request) = (authority.to_str().unwrap(), request.to_str().unwrap());
        let args = ["authority", "process", authority, request, "--out", "none", "--output", "json"];
        let shown: Value = serde_json::from_str(&keyward(&args).good()).unwrap();
        self.process(id, &serde_json::json!({ "enrollment_request": shown }))
    }

    /// Has the cluster take in a response.
    pub(crate) fn import(&self, id: &str, response: &Path, more: &[&str]) -> Ran {
        let pin = self.path("root.pem");
        let args = ["enroll", "import", id, response.to_str().unwrap(), "--pin", pin.to_str().unwrap()];
        self.cli(&[&args, more].concat())
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Runs the program on this data directory.
    pub(crate) fn cli(&self, args: &[&str]) -> Ran {
        let data = self.data();
        keyward(&[args, &["--data", data.to_str().unwrap()]].concat())
    }

    /// The same, with JSON as its output.
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.cli(&[args, &["--output", "json"]].concat()).good()).unwrap()
    }

    /// Starts the service and waits until it is ready.
    pub(crate) fn start(&mut self) {
        self.start_with(&[]);
    }

    /// The same with more in its environment.
    pub(crate) fn start_with(&mut self, environment: &[(&str, &str)]) {
        self.start_as(Command::new(KEYWARD).arg("serve").arg(self.data()).envs(environment.iter().copied()));
    }

    /// Starts the service, which cannot serve nodes yet and says so.
    pub(crate) fn start_waiting(&mut self) {
        let data = self.data();
        self.launch(Command::new(KEYWARD).arg("serve").arg(data));
        self.wait_for_line("waiting");
    }

    /// Starts a command that becomes the service, and waits until it is ready.
    pub(crate) fn start_as(&mut self, command: &mut Command) {
        self.launch(command);
        self.wait_for_line("ready");
    }

    /// Starts a command that becomes the service, and waits for nothing.
    pub(crate) fn launch(&mut self, command: &mut Command) {
        assert!(self.service.is_none(), "the service runs already");
        let log = fs::File::options().create(true).append(true).open(self.path("serve.log")).unwrap();
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let stdout = child.stdout.take().unwrap();
        let (send, lines) = mpsc::sync_channel(1024);
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                let Ok(line) = line else { return };
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        self.service = Some(Service { child, lines, seen: Vec::new() });
    }

    /// Runs the service to its end: for starts that must fail.
    pub(crate) fn serve_fails(&self) -> Ran {
        ends(Command::new(KEYWARD).arg("serve").arg(self.data()))
    }

    /// Waits until the service prints this line.
    #[track_caller]
    pub(crate) fn wait_for_line(&mut self, wanted: &str) {
        let log = self.path("serve.log");
        let service = self.service.as_mut().unwrap();
        let end = Instant::now() + PATIENCE;
        loop {
            let line = service.lines.recv_timeout(end.saturating_duration_since(Instant::now()));
            let line = line.unwrap_or_else(|fault| {
                panic!("no line {wanted:?} ({fault}): {:?}\n{}", service.seen, fs::read_to_string(&log).unwrap())
            });
            let found = line == wanted;
            service.seen.push(line);
            if found {
                return;
            }
        }
    }

    /// What the service printed so far.
    pub(crate) fn printed(&self) -> &[String] {
        &self.service.as_ref().unwrap().seen
    }

    pub(crate) fn pid(&self) -> u32 {
        self.service.as_ref().unwrap().child.id()
    }

    /// Sends a signal to the service.
    pub(crate) fn signal(&self, signal: &str) {
        let done = Command::new("kill").arg(signal).arg(self.pid().to_string()).status().unwrap();
        assert!(done.success());
    }

    /// Kills the service as a power cut would.
    pub(crate) fn kill(&mut self) {
        let mut service = self.service.take().unwrap();
        service.child.kill().unwrap();
        service.child.wait().unwrap();
    }

    /// Stops the service in good order; gives its exit code.
    pub(crate) fn stop(&mut self) -> Option<i32> {
        self.signal("-TERM");
        let mut service = self.service.take().unwrap();
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if let Some(status) = service.child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = service.child.kill();
        panic!("the service did not stop");
    }

    /// Has a node join and leave its identity directory.
    pub(crate) fn node(&self, cluster: &str, id: &str) -> PathBuf {
        let (token, out) = (self.path(&format!("{id}.join.toml")), self.path(id));
        self.cli(&["node", "invite", id, "--cluster", cluster, "--out", token.to_str().unwrap()]).good();
        keyward(&["node", "join", token.to_str().unwrap(), "--out", out.to_str().unwrap()]).good();
        out
    }

    /// The identity of a node that was made before. A restarted service has another port: the caller gets the present.
    pub(crate) fn identity(&self, id: &str) -> NodeIdentity {
        let read = |name: &str| fs::read_to_string(self.path(id).join(name)).unwrap();
        NodeIdentity {
            server: self.server(),
            ca_pem: read("ca.pem"),
            certificate_pem: read("node.pem"),
            key_pem: zeroize::Zeroizing::new(read("node-key.pem")),
        }
    }

    /// Where nodes connect.
    pub(crate) fn server(&self) -> String {
        let line = self.printed().iter().find_map(|line| line.strip_prefix("serving nodes on ")).unwrap();
        format!("https://{line}")
    }

    /// Runs SQL on the store of this instance past the service, as whoever may write the database can: on the file while
    /// nobody has it open, on a server at any time.
    pub(crate) fn sql(&self, server: Option<&postgres::Postgres>, statements: &str) {
        match server {
            Some(server) => server.sql(statements),
            None => {
                let script = "import sqlite3,sys; sqlite3.connect(sys.argv[1]).executescript(sys.argv[2])";
                let store = self.data().join("keyward.db");
                ends(Command::new("python3").args(["-c", script]).arg(&store).arg(statements)).good();
            }
        }
    }

    /// What health checks of the service say, by the operator's socket.
    pub(crate) async fn is_serving(&self, service: &str) -> bool {
        use tonic_health::pb::health_check_response::ServingStatus;
        use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
        let connection = Connection::operator(&self.data().join("operator.sock")).await.unwrap();
        let request = HealthCheckRequest { service: service.to_owned() };
        let health = HealthClient::new(connection.channel()).check(request).await.unwrap().into_inner();
        health.status() == ServingStatus::Serving
    }

    /// Connects as a node.
    pub(crate) async fn connect(&self, id: &str) -> Connection {
        Connection::node(&self.identity(id)).await.unwrap()
    }

    /// A draft of a use license of this cluster.
    pub(crate) fn draft(&self, cluster: &str) -> Draft {
        let cluster = self.json(&["cluster", "get", cluster]);
        let key = self.json(&["key", "get", cluster["slc_key"].as_str().unwrap()]);
        Draft {
            guid: cluster["guid"].as_str().unwrap().to_owned(),
            modulus: key["public_key"]["modulus_le_base64"].as_str().unwrap().to_owned(),
            issued: keyward::clock::now(),
            until: keyward::clock::now() + Span::days(30),
            user: "alice@example.test".to_owned(),
        }
    }

    /// Exports the log into a directory of its own; gives that.
    pub(crate) fn export(&self) -> PathBuf {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let out = self.path(&format!("export-{}", COUNT.fetch_add(1, Ordering::Relaxed)));
        self.cli(&["audit", "export", "--out", out.to_str().unwrap()]).good();
        out
    }

    /// Exports the log and verifies the export; gives its records.
    pub(crate) fn log(&self) -> Vec<Value> {
        let out = self.export();
        let verdict = self.verify(&out);
        let report: Value = serde_json::from_str(&verdict.good()).unwrap();
        assert_eq!(report["open_intents"], serde_json::json!([]), "{report}");
        let text = fs::read_to_string(out.join("audit.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The same once no intent is open: what could not be recorded in time is recorded a little later.
    pub(crate) fn closed_log(&self) -> Vec<Value> {
        let end = Instant::now() + PATIENCE;
        loop {
            let report: Value = serde_json::from_str(&self.verify(&self.export()).good()).unwrap();
            if report["open_intents"] == serde_json::json!([]) {
                return self.log();
            }
            assert!(Instant::now() < end, "{report}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Verifies an export with the trust file that was given out when the instance was made.
    pub(crate) fn verify(&self, export: &Path) -> Ran {
        let (file, trust) = (export.join("audit.jsonl"), self.data().join("audit.trust"));
        keyward(&["audit", "verify", file.to_str().unwrap(), "--trust", trust.to_str().unwrap(), "--output", "json"])
    }
}

/// Waits until the service says of itself that it is ready, or that it is not.
pub(crate) async fn until_serving(instance: &Instance, serving: bool) {
    let end = Instant::now() + PATIENCE;
    while instance.is_serving("").await != serving {
        assert!(Instant::now() < end, "it does not say that serving is {serving}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until something holds.
#[track_caller]
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if let Some(mut service) = self.service.take() {
            let _ = service.child.kill();
            let _ = service.child.wait();
        }
    }
}

/// A use license before it is signed.
#[derive(Clone)]
pub(crate) struct Draft {
    pub(crate) guid: String,
    pub(crate) modulus: String,
    pub(crate) issued: OffsetDateTime,
    pub(crate) until: OffsetDateTime,
    pub(crate) user: String,
}

impl Draft {
    /// The BODY element.
    pub(crate) fn body(&self) -> String {
        let minute = |time: OffsetDateTime| {
            let form = time::macros::format_description!("[year]-[month]-[day]T[hour]:[minute]");
            time.format(form).unwrap()
        };
        let key = |modulus: &str| {
            format!(
                r#"<PUBLICKEY><ALGORITHM>RSA</ALGORITHM><PARAMETER name="public-exponent"><VALUE encoding="integer32">65537</VALUE></PARAMETER><PARAMETER name="modulus"><VALUE encoding="base64" size="2048">{modulus}</VALUE></PARAMETER></PUBLICKEY>"#
            )
        };
        let Draft { guid, modulus, user, .. } = self;
        let (issued, until) = (minute(self.issued), minute(self.until));
        let (issuer, licensee) = (key(modulus), key(modulus));
        let seal = "QUJD";
        format!(
            r#"<BODY type="LICENSE" version="3.0"><ISSUEDTIME>{issued}</ISSUEDTIME><DESCRIPTOR><OBJECT type="Content-License"><ID type="MS-GUID">{{7a925b0c-b918-450b-8b7f-33719847a8b2}}</ID></OBJECT></DESCRIPTOR><ISSUER><OBJECT type="MS-DRM-Server"><ID type="MS-GUID">{guid}</ID></OBJECT>{issuer}</ISSUER><ISSUEDPRINCIPALS><PRINCIPAL internal-id="1"><OBJECT type="Group-Identity"><ID type="Windows">S-1-5-21-1</ID><NAME>{user}</NAME></OBJECT>{licensee}</PRINCIPAL></ISSUEDPRINCIPALS><WORK><OBJECT><ID type="MS-GUID">{{8d161ff4-11ee-4d93-b1f8-fc490150dcaf}}</ID></OBJECT><METADATA><OWNER><OBJECT><ID type="Windows" /><NAME>{user}</NAME></OBJECT></OWNER></METADATA><RIGHTSGROUP name="Main-Rights"><RIGHTSLIST><VIEW><CONDITIONLIST><ACCESS><PRINCIPAL internal-id="1"><ENABLINGBITS type="sealed-key-v2"><VALUE encoding="base64" size="24">{seal}</VALUE></ENABLINGBITS></PRINCIPAL></ACCESS><TIME><RANGETIME><FROM>2020-01-01T00:00</FROM><UNTIL>{until}</UNTIL></RANGETIME></TIME></CONDITIONLIST></VIEW></RIGHTSLIST></RIGHTSGROUP></WORK></BODY>"#
        )
    }

    /// The request for its signature.
    pub(crate) fn request(&self, cluster: &str) -> v1::SignDocumentRequest {
        v1::SignDocumentRequest { cluster: cluster.to_owned(), body: self.body() }
    }
}

/// Runs a Python example.
pub(crate) fn python(script: &str, args: &[&Path]) -> Ran {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(script);
    Command::new("python3").arg(script).args(args).output().unwrap().into()
}

/// The events of one type in a log.
pub(crate) fn events<'a>(log: &'a [Value], kind: &str) -> Vec<&'a Value> {
    log.iter().map(|record| &record["event"]).filter(|event| event["type"] == kind).collect()
}
