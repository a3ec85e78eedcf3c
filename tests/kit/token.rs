//! Tokens for tests: one private token directory per process and profile, a fresh token per test.

pub(crate) mod between;
pub(crate) mod faulty;
pub(crate) mod manager;

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use keyward::error::Result;
use keyward::secret::Pin;
use keyward::token::host::{HostProgram, HostToken};
use keyward::token::profile::{Kind, Profile};
use keyward::token::{self, Binding, Token};
use tempfile::TempDir;

/// PIN of every test token's user.
pub(crate) const USER_PIN: &str = "user-pin-of-a-test-of-keyward";
const SO_PIN: &str = "so-pin-of-a-test";

/// How a test holds its token.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Held {
    InProcess,
    InHost,
}

/// A token that one test made for itself.
pub(crate) struct TestToken {
    pub(crate) profile: Profile,
    pub(crate) binding: Binding,
    pub(crate) held: Held,
    /// The device itself, if it is a process.
    pub(crate) device: Option<Swtpm>,
}

impl TestToken {
    /// Makes a token of a device that lets itself be made.
    pub(crate) fn make(profile: &str, held: Held) -> TestToken {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let profile = profile_of(profile);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let mut directory = directory(&profile);
        let device = (profile.kind == Kind::Tpm).then(|| {
            directory = directory.join(number.to_string());
            // Either way to one, in turn.
            if held == Held::InHost { Swtpm::start_on_sockets(&directory) } else { Swtpm::start(&directory) }
        });
        let label = format!("test {number}");
        let made = token::initialise(&profile, &directory, &label, &pin(SO_PIN), &pin(USER_PIN)).unwrap();
        let binding = Binding {
            name: "under-test".to_owned(),
            profile: profile.name.clone(),
            directory: Some(directory),
            label,
            serial: made.serial,
            sessions: 2,
        };
        TestToken { profile, binding, held, device }
    }

    /// The same token under another description.
    pub(crate) fn described_as(&self, profile: Profile, binding: Binding) -> TestToken {
        TestToken { profile, binding, held: self.held, device: None }
    }

    /// Opens it with the right PIN.
    pub(crate) fn open(&self) -> Box<dyn Token> {
        self.try_open(USER_PIN).unwrap()
    }

    /// Opens it.
    pub(crate) fn try_open(&self, user_pin: &str) -> Result<Box<dyn Token>> {
        match self.held {
            Held::InProcess => token::open(&self.binding, &self.profile, || Ok(pin(user_pin))),
            Held::InHost => Ok(Box::new(self.host(user_pin)?)),
        }
    }

    /// Opens it in a host.
    pub(crate) fn host(&self, user_pin: &str) -> Result<HostToken> {
        HostToken::start(host_program(), &self.binding, &self.profile, pin(user_pin))
    }
}

/// The program under test as a token host.
pub(crate) fn host_program() -> HostProgram {
    HostProgram { path: env!("CARGO_BIN_EXE_keyward").into(), arguments: vec!["token-host".into()] }
}

/// The profile of a device as this machine has it: Kryoptic is built by the tests and has a slot for every test.
pub(crate) fn profile_of(name: &str) -> Profile {
    let mut profile = Profile::load(name).unwrap();
    if name == "kryoptic" {
        profile.module.paths.insert(0, built("kryoptic", "libkryoptic_pkcs11.so"));
        let file = &mut profile.directory.as_mut().unwrap().files[0];
        for slot in 3..64 {
            let name = format!("{{dir}}/token-{slot}.sql");
            file.text += &format!("[[slots]]\nslot = {slot}\ndbtype = \"sqlite\"\ndbargs = \"{name}\"\n");
        }
    }
    profile
}

/// A library of the test kit, built if it is not there. `make test` brings it up to date.
pub(crate) fn built(package: &str, library: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("kit");
    let built = target.join("release").join(library);
    if !built.is_file() {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kit").join(package).join("Cargo.toml");
        let status = Command::new(env!("CARGO"))
            .args(["build", "--release", "--quiet", "--locked", "--manifest-path"])
            .arg(manifest)
            .arg("--target-dir")
            .arg(&target)
            .status()
            .unwrap();
        assert!(status.success(), "the test kit's {package} does not build");
    }
    built
}

pub(crate) fn pin(text: &str) -> Pin {
    Pin::new(text.to_owned())
}

/// The token directory of this process for a profile, with the environment set for it. Modules read their
/// configuration once a process, so the directory belongs to the process; directories of dead ones are removed.
pub(crate) fn directory(profile: &Profile) -> PathBuf {
    static MADE: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());
    let mut made = MADE.lock().unwrap();
    if let Some(directory) = made.get(&profile.name) {
        return directory.clone();
    }
    let all = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tokens");
    for old in fs::read_dir(&all).into_iter().flatten().flatten() {
        if !Path::new("/proc").join(old.file_name()).exists() {
            let _ = fs::remove_dir_all(old.path());
        }
    }
    let directory = all.join(std::process::id().to_string()).join(&profile.name);
    token::prepare_directory(profile, &directory).unwrap();
    token::set_environment(&profile.environment(&directory));
    made.insert(profile.name.clone(), directory.clone());
    directory
}

/// Copies a directory with all that is in it: how SoftHSM imitates the cloning of a token.
pub(crate) fn copy_files(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(|entry| entry.unwrap()) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_files(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Where it is said what becomes of the RSA signatures of a TPM in software, beside its state.
const SIGNS: &str = "signs";

/// A TPM in software, on two ports of the loopback interface or on two Unix sockets; ends with its test.
pub(crate) struct Swtpm {
    directory: PathBuf,
    /// A directory whose name is short enough for sockets.
    sockets: Option<Arc<TempDir>>,
    process: Child,
}

impl Swtpm {
    /// Starts one on ports, whose state is in a token directory, and says there how to reach it.
    pub(crate) fn start(directory: &Path) -> Swtpm {
        Swtpm::start_by(directory, None)
    }

    /// The same on sockets.
    pub(crate) fn start_on_sockets(directory: &Path) -> Swtpm {
        Swtpm::start_by(directory, Some(Arc::new(tempfile::tempdir().unwrap())))
    }

    fn start_by(directory: &Path, sockets: Option<Arc<TempDir>>) -> Swtpm {
        fs::create_dir_all(directory.join("swtpm")).unwrap();
        let (process, tcti) = match &sockets {
            Some(sockets) => Swtpm::on_sockets(directory, sockets.path()),
            None => (0..100).find_map(|_| Swtpm::on_ports(directory)).expect("swtpm starts on some port"),
        };
        fs::write(directory.join("tcti"), tcti).unwrap();
        Swtpm { directory: directory.to_owned(), sockets, process }
    }

    fn run(directory: &Path, server: &str, control: &str) -> Child {
        let mut command = Command::new("setpriv");
        let says = directory.join(SIGNS);
        if says.exists() {
            let library = built("strange", "libstrange_signatures.so");
            command.env("LD_PRELOAD", library).env("STRANGE_SIGNATURES", says);
        }
        command
            .args(["--pdeathsig", "KILL", "swtpm", "socket", "--tpm2", "--tpmstate"])
            .arg(format!("dir={}", directory.join("swtpm").display()))
            .args(["--server", server, "--ctrl", control, "--flags", "not-need-init,startup-clear"])
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    fn on_ports(directory: &Path) -> Option<(Child, String)> {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let _next_is_free_too = TcpListener::bind(("127.0.0.1", port.checked_add(1)?)).ok()?.local_addr().ok()?;
        let on = |port| format!("type=tcp,port={port},bindaddr=127.0.0.1");
        let mut process = Swtpm::run(directory, &on(port), &on(port + 1));
        for _ in 0..500 {
            if process.try_wait().unwrap().is_some() {
                return None;
            }
            if listening(port) && listening(port + 1) {
                return Some((process, format!("swtpm:host=127.0.0.1,port={port}")));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = process.kill();
        let _ = process.wait();
        None
    }

    fn on_sockets(directory: &Path, within: &Path) -> (Child, String) {
        let sockets = [within.join("tpm"), within.join("tpm.ctrl")];
        for socket in &sockets {
            let _ = fs::remove_file(socket);
        }
        let on = |socket: &PathBuf| format!("type=unixio,path={}", socket.display());
        let process = Swtpm::run(directory, &on(&sockets[0]), &on(&sockets[1]));
        let begun = (0..500).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            sockets.iter().all(|socket| listening_on(socket))
        });
        assert!(begun, "swtpm does not start");
        (process, format!("swtpm:path={}", sockets[0].display()))
    }

    /// Stops it as a power cut does and starts it again; on other ports, if it is on ports.
    pub(crate) fn restart(&mut self) {
        self.stop();
        *self = Swtpm::start_by(&self.directory, self.sockets.clone());
    }

    /// Starts it again as one that signs as this file says from now on: see `tests/kit/strange`.
    pub(crate) fn sign_as_said(&mut self) -> PathBuf {
        let says = self.directory.join(SIGNS);
        fs::write(&says, "").unwrap();
        self.restart();
        says
    }

    /// Replaces it by a fresh one: what TPM2_Clear does to keys.
    pub(crate) fn clear(&mut self) {
        self.stop();
        fs::remove_dir_all(self.state()).unwrap();
        *self = Swtpm::start_by(&self.directory, self.sockets.clone());
    }

    /// Replaces it by the one whose state is in another directory.
    pub(crate) fn replace(&mut self, state: &Path) {
        self.stop();
        let own = self.state();
        fs::remove_dir_all(&own).unwrap();
        copy_files(state, &own);
        *self = Swtpm::start_by(&self.directory, self.sockets.clone());
    }

    /// Where its state is.
    pub(crate) fn state(&self) -> PathBuf {
        self.directory.join("swtpm")
    }

    pub(crate) fn stop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Whether somebody listens on this socket (proc(5), /proc/net/unix: the flag of one that accepts).
fn listening_on(socket: &Path) -> bool {
    let table = fs::read_to_string("/proc/net/unix").unwrap();
    let socket = socket.display().to_string();
    table.lines().any(|line| line.contains(" 00010000 ") && line.ends_with(&socket))
}

/// Whether somebody listens on this port: looked up, since a connection would be the TPM's only one.
fn listening(port: u16) -> bool {
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    table.lines().any(|line| line.contains(&format!("0100007F:{port:04X} 00000000:0000 0A")))
}
