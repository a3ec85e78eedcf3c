//! A token that fails by script: a real one behind the faulty module, in a host, with one key.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::{digest, signature};
use keyward::key::{Hash, KeyAlgorithm, KeyId, PublicKey};
use keyward::token::host::HostToken;
use keyward::token::{Failure, Generate, KeyRef, Token};

use crate::kit::Instance;
use crate::kit::token::{Held, TestToken, USER_PIN, built};

const MESSAGE: &[u8] = b"a message under a faulty token";

/// A real token behind the faulty module, in a host, with one key.
pub(crate) struct Faulty {
    pub(crate) test: TestToken,
    script: PathBuf,
    pub(crate) token: Arc<HostToken>,
    pub(crate) key: KeyRef,
}

impl Faulty {
    pub(crate) fn new() -> Faulty {
        Faulty::over("softhsm")
    }

    /// Over the device of this profile.
    pub(crate) fn over(profile: &str) -> Faulty {
        Faulty::before(TestToken::make(profile, Held::InHost))
    }

    /// Before this token.
    pub(crate) fn before(mut test: TestToken) -> Faulty {
        let real = test.profile.module.paths.iter().find(|p| p.is_file()).unwrap().clone();
        let script = test.binding.directory.as_ref().unwrap().join(format!("script-{}", test.binding.serial));
        fs::write(&script, "").unwrap();
        test.profile.module.paths = vec![built("faulty", "libfaulty_pkcs11.so")];
        let environment = &mut test.profile.directory.as_mut().unwrap().environment;
        environment.insert("FAULTY_MODULE".to_owned(), real.display().to_string());
        environment.insert("FAULTY_SCRIPT".to_owned(), script.display().to_string());
        let token = Arc::new(test.host(USER_PIN).unwrap());
        let key = make(&*token);
        Faulty { test, script, token, key }
    }

    /// From now on the module does this. What an earlier script had counted is forgotten.
    pub(crate) fn script(&self, text: &str) {
        fs::write(&self.script, "").unwrap();
        for marker in self.markers() {
            fs::remove_file(marker).unwrap();
        }
        fs::write(&self.script, text).unwrap();
    }

    /// The functions called so far under lines that say `log`, in order; they are forgotten.
    pub(crate) fn calls(&self) -> Vec<String> {
        let file = self.script.with_extension("calls");
        let calls = fs::read_to_string(&file).unwrap_or_default();
        let _ = fs::remove_file(file);
        calls.lines().map(str::to_owned).collect()
    }

    /// The module leaves a marker for each fault with a count that happened.
    pub(crate) fn markers(&self) -> Vec<PathBuf> {
        let name = format!("{}.line", self.script.file_name().unwrap().to_str().unwrap());
        let files = fs::read_dir(self.script.parent().unwrap()).unwrap().map(|entry| entry.unwrap());
        files.filter(|f| f.file_name().to_str().unwrap().starts_with(&name)).map(|f| f.path()).collect()
    }

    pub(crate) fn sign(&self) -> Result<Vec<u8>, Failure> {
        self.token.sign(&self.key, Hash::Sha256, Self::digest().as_ref())
    }

    /// What is signed.
    pub(crate) fn digest() -> digest::Digest {
        digest::digest(&digest::SHA256, MESSAGE)
    }

    pub(crate) fn verifies(&self, signature: &[u8]) -> bool {
        let PublicKey::Rsa(rsa) = &self.key.public else { panic!("the key is RSA") };
        let algorithm = &signature::RSA_PKCS1_2048_8192_SHA256;
        signature::UnparsedPublicKey::new(algorithm, rsa.pkcs1_der()).verify(MESSAGE, signature).is_ok()
    }

    /// Signs until it works; gives the time it took.
    pub(crate) fn signs_again_within(&self, limit: Duration) {
        let begin = Instant::now();
        loop {
            match self.sign() {
                Ok(signature) => {
                    assert!(self.verifies(&signature));
                    assert!(begin.elapsed() < limit, "it took {:?}", begin.elapsed());
                    return;
                }
                Err(f) => assert!(begin.elapsed() < limit, "after {:?}: {f}", begin.elapsed()),
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// How often the fault in the script's first line happened.
    pub(crate) fn happened(&self) -> usize {
        self.happened_in(0)
    }

    /// How often the fault in this line of the script happened.
    pub(crate) fn happened_in(&self, line: usize) -> usize {
        let name = format!(".line{line}.");
        self.markers().iter().filter(|marker| marker.to_str().unwrap().contains(&name)).count()
    }
}

/// Writes a profile of SoftHSM behind the faulty module, which does what this script says, beside an instance.
pub(crate) fn faulty_profile(instance: &Instance, script: &Path) -> PathBuf {
    fs::write(script, "").unwrap();
    let profile = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/hsm-profiles/softhsm.toml")).unwrap();
    let from = profile.find("paths = [").unwrap();
    let to = from + profile[from..].find(']').unwrap() + 1;
    let real = profile[from..to].split('"').skip(1).step_by(2).find(|path| fs::metadata(path).is_ok()).unwrap();
    let module = built("faulty", "libfaulty_pkcs11.so");
    let environment = format!("FAULTY_MODULE = \"{real}\", FAULTY_SCRIPT = \"{}\", SOFTHSM2_CONF", script.display());
    let module = format!("paths = [\"{}\"]", module.display());
    let faulty = profile.replace(&profile[from..to], &module).replacen("SOFTHSM2_CONF", &environment, 1);
    let path = instance.path("faulty.toml");
    fs::write(&path, faulty).unwrap();
    path
}

/// Puts the token of a stopped instance on SoftHSM behind the faulty module; gives its script.
pub(crate) fn fail_by_script(instance: &Instance) -> PathBuf {
    let script = instance.path("script");
    let profile = faulty_profile(instance, &script);
    instance.reconfigure("profile = \"softhsm\"", &format!("profile = \"{}\"", profile.display()));
    script
}

pub(crate) fn make(token: &dyn Token) -> KeyRef {
    let id = KeyId::random().unwrap();
    let request =
        Generate { id, label: "faults".to_owned(), algorithm: KeyAlgorithm::Rsa(2048), sign: true, decrypt: true };
    KeyRef { id, public: token.generate(&request).unwrap().public }
}
