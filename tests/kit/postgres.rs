//! A private PostgreSQL server for one test: a cluster, a socket and a server of its own, gone when the test is.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Where Debian and others keep the server's programs.
const PROGRAMS: &[&str] = &["/usr/lib/postgresql", "/usr/pgsql"];
const PATIENCE: Duration = Duration::from_secs(30);

/// A running server.
pub(crate) struct Postgres {
    directory: TempDir,
    server: Child,
}

impl Postgres {
    pub(crate) fn start() -> Self {
        let directory = tempfile::Builder::new().prefix("kwpg").tempdir().unwrap();
        if let Some(user) = user() {
            std::os::unix::fs::chown(directory.path(), Some(user), None).unwrap();
        }
        good(Command::new("cp").arg("-a").arg(template()).arg(directory.path().join("data")));
        let server = serve(directory.path());
        Postgres { directory, server }
    }

    /// How to connect.
    pub(crate) fn url(&self) -> String {
        format!("postgres://keyward@localhost/postgres?host={}", self.directory.path().display())
    }

    /// Ends the server and all that belongs to it at once, as a power cut does.
    pub(crate) fn kill(&mut self) {
        let id = self.server.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
        self.server.kill().unwrap();
        self.server.wait().unwrap();
        // Some may have ended by themselves meanwhile.
        let _ = Command::new("kill").arg("-KILL").args(children.split_whitespace()).stderr(Stdio::null()).status();
    }

    /// Sends a signal to the server and to all that belongs to it.
    pub(crate) fn signal(&self, signal: &str) {
        let id = self.server.id().to_string();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
        good(Command::new("kill").arg(signal).arg(&id).args(children.split_whitespace()));
    }

    /// Starts the server again after that.
    pub(crate) fn restart(&mut self) {
        self.server = serve(self.directory.path());
    }

    /// Keeps a copy of the database of a server that was killed.
    pub(crate) fn set_aside(&self) {
        good(
            Command::new("cp")
                .arg("-a")
                .arg(self.directory.path().join("data"))
                .arg(self.directory.path().join("aside")),
        );
    }

    /// Puts that copy in the place of the database, and the database aside.
    pub(crate) fn exchange(&self) {
        let [data, aside, held] = ["data", "aside", "held"].map(|name| self.directory.path().join(name));
        fs::rename(&data, &held).unwrap();
        fs::rename(&aside, &data).unwrap();
        fs::rename(&held, &aside).unwrap();
    }

    /// Runs SQL as the database's owner.
    pub(crate) fn sql(&self, statements: &str) {
        let mut psql = Command::new(programs().join("psql"));
        good(psql.args(["-q", "-v", "ON_ERROR_STOP=1", "-c", statements, &self.url()]));
    }

    /// Has commits wait for a standby of this name before they are answered; for none if it is empty.
    pub(crate) fn wait_for_standby(&self, name: &str) {
        self.sql(&format!("ALTER SYSTEM SET synchronous_standby_names = '{name}'"));
        self.sql("SELECT pg_reload_conf()");
    }

    /// Runs a file of SQL as the database's owner.
    pub(crate) fn sql_file(&self, file: &Path) {
        let mut psql = Command::new(programs().join("psql"));
        good(psql.args(["-q", "-v", "ON_ERROR_STOP=1", "-f"]).arg(file).arg(self.url()));
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
        // What served its connections notices and leaves by itself.
        let end = Instant::now() + PATIENCE;
        while fs::remove_dir_all(self.directory.path()).is_err() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A cluster as `initdb` makes it, made once for all tests of this build and copied by each.
fn template() -> PathBuf {
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let version = programs().parent().unwrap().file_name().unwrap().to_owned();
    let template = kept.join(format!("postgres-{}", version.display()));
    let lock = File::create(kept.join("postgres.lock")).unwrap();
    lock.lock().unwrap();
    if !template.exists() {
        let made = tempfile::tempdir().unwrap();
        if let Some(user) = user() {
            std::os::unix::fs::chown(made.path(), Some(user), None).unwrap();
        }
        let mut initdb = unprivileged();
        initdb.arg(programs().join("initdb")).args(["-A", "trust", "-U", "keyward", "-E", "UTF8", "--no-locale"]);
        good(initdb.args(["--no-sync", "--wal-segsize", "1", "-D"]).arg(made.path().join("data")));
        let copied = kept.join("postgres.new");
        let _ = fs::remove_dir_all(&copied);
        good(Command::new("cp").arg("-a").arg(made.path().join("data")).arg(&copied));
        fs::rename(&copied, &template).unwrap();
    }
    template
}

fn serve(directory: &Path) -> Child {
    let end = Instant::now() + PATIENCE;
    let mut postgres = unprivileged();
    postgres.arg(programs().join("postgres")).arg("-D").arg(directory.join("data")).arg("-k").arg(directory);
    postgres.args(["-c", "listen_addresses=", "-c", "shared_buffers=16MB", "-c", "max_connections=60"]);
    let log = File::options().create(true).append(true).open(directory.join("log")).unwrap();
    postgres.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let mut server = postgres.spawn().unwrap();
    loop {
        let state = fs::read_to_string(directory.join("data/postmaster.pid")).unwrap_or_default();
        let mut lines = state.lines();
        if lines.next() == Some(&server.id().to_string()) && lines.nth(6).is_some_and(|line| line.trim() == "ready") {
            return server;
        }
        assert!(Instant::now() < end, "{}", fs::read_to_string(directory.join("log")).unwrap());
        // A server that was killed leaves processes behind for a moment, and the next one refuses to start beside them.
        if server.try_wait().unwrap().is_some() {
            server = postgres.spawn().unwrap();
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What PostgreSQL's programs are run with: they refuse to run as root, and must not outlive the test.
fn unprivileged() -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "QUIT"]).current_dir("/");
    if user().is_some() {
        command.args(["--reuid", "postgres", "--regid", "postgres", "--init-groups"]);
    }
    command.arg("--");
    command
}

/// The user that the server runs as, where the tests run as root.
fn user() -> Option<u32> {
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        return None;
    }
    let id = Command::new("id").args(["-u", "postgres"]).output().unwrap().stdout;
    Some(String::from_utf8(id).unwrap().trim().parse().expect("the Debian package postgresql is installed"))
}

/// The newest server's programs.
fn programs() -> PathBuf {
    let versions = PROGRAMS.iter().filter_map(|place| fs::read_dir(place).ok()).flatten();
    let found = versions.map(|version| version.unwrap().path().join("bin")).filter(|bin| bin.join("initdb").exists());
    found.max_by_key(|bin| version(bin)).expect("the Debian package postgresql is installed")
}

fn version(bin: &Path) -> u32 {
    bin.parent().and_then(Path::file_name).and_then(|name| name.to_str()?.parse().ok()).unwrap_or(0)
}

#[track_caller]
fn good(command: &mut Command) {
    let ran = command.output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
}
