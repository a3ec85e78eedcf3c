//! Tokens for tests: one private token directory per process and profile, a fresh token per test.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use keyward::secret::Pin;
use keyward::token::pkcs11::{self, Pkcs11Token};
use keyward::token::profile::Profile;
use keyward::token::{self, Binding};

/// PIN of every test token's user.
pub(crate) const USER_PIN: &str = "user-pin-of-a-test";
const SO_PIN: &str = "so-pin-of-a-test";

/// A token that one test made for itself.
pub(crate) struct TestToken {
    pub(crate) profile: Profile,
    pub(crate) binding: Binding,
}

impl TestToken {
    /// Makes a token of a device that lets itself be made.
    pub(crate) fn make(profile: &str) -> TestToken {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let profile = Profile::load(profile).unwrap();
        let directory = directory(&profile);
        let label = format!("test {}", COUNT.fetch_add(1, Ordering::Relaxed));
        let made = token::initialise(&profile, &directory, &label, &pin(SO_PIN), &pin(USER_PIN)).unwrap();
        let binding = Binding {
            name: "under-test".to_owned(),
            profile: profile.name.clone(),
            directory: Some(directory),
            label,
            serial: made.serial,
            sessions: 2,
        };
        TestToken { profile, binding }
    }

    /// Opens it with the right PIN.
    pub(crate) fn open(&self) -> Pkcs11Token {
        pkcs11::open(&self.binding, &self.profile, pin(USER_PIN)).unwrap()
    }
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
