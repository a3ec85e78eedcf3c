//! Profiles: what a kind of device is like, as data. One TOML file each in `hsm-profiles/`.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Reason, Result};
use crate::key::{Hash, KeyAlgorithm};

/// The profiles that the program brings with it: name and text.
const BUILT_IN: &[(&str, &str)] = &[
    ("softhsm", include_str!("../../hsm-profiles/softhsm.toml")),
    ("kryoptic", include_str!("../../hsm-profiles/kryoptic.toml")),
    ("swtpm", include_str!("../../hsm-profiles/swtpm.toml")),
    ("tpm2", include_str!("../../hsm-profiles/tpm2.toml")),
    ("luna", include_str!("../../hsm-profiles/luna.toml")),
    ("nshield", include_str!("../../hsm-profiles/nshield.toml")),
    ("cloudhsm", include_str!("../../hsm-profiles/cloudhsm.toml")),
    ("yubihsm2", include_str!("../../hsm-profiles/yubihsm2.toml")),
    ("utimaco", include_str!("../../hsm-profiles/utimaco.toml")),
    ("opencryptoki", include_str!("../../hsm-profiles/opencryptoki.toml")),
    ("nethsm", include_str!("../../hsm-profiles/nethsm.toml")),
    ("tpm2-pkcs11", include_str!("../../hsm-profiles/tpm2-pkcs11.toml")),
];

/// A kind of device: how to load it, log in, and what it can do. Nothing of one site: no slot, serial, PIN or path
/// of an instance.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// The name that bindings use; the file's name without `.toml`.
    pub name: String,
    /// What people call it, with the version that was looked at.
    pub title: String,
    /// How it is spoken to.
    pub kind: Kind,
    /// Where the values come from.
    pub verified: Verified,
    /// The PKCS#11 module, if it is one.
    #[serde(default)]
    pub module: Module,
    /// How to reach the TPM, if it is one.
    pub tpm: Option<Tpm>,
    /// What the module needs on disk and in the environment, if its tokens live in a directory of the instance.
    pub directory: Option<Directory>,
    /// How to log in.
    pub login: Login,
    /// How sessions are used.
    pub sessions: Sessions,
    /// What keys it makes and what they do.
    pub keys: Keys,
    /// How a token comes to be.
    pub create: Create,
    /// The source of each table's values: a document with its section, or what was run.
    pub sources: BTreeMap<String, String>,
}

/// How a device is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Through a PKCS#11 module.
    Pkcs11,
    /// A TPM 2.0, through the TCG software stack.
    Tpm,
}

/// Where a profile's values come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verified {
    /// Run by this project against the device.
    Here,
    /// Read in the maker's documentation; nobody of this project ran it.
    Documentation,
}

/// How to reach a TPM.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tpm {
    /// The TCTI, such as `device:/dev/tpmrm0`, or `file:` and a path in the token directory that holds it.
    pub tcti: String,
    /// What to do if it cannot be reached, as an imperative clause.
    pub install: String,
}

/// Where the module is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Module {
    /// Absolute paths where it may be; the first that exists is loaded.
    pub paths: Vec<PathBuf>,
    /// What to do if none exists, as an imperative clause.
    pub install: String,
}

/// Files that a module reads. `{dir}` stands for the token directory of the instance.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Directory {
    /// Folders below it.
    #[serde(default)]
    pub folders: Vec<String>,
    /// Environment variables of the process that loads the module.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// Configuration files below it.
    #[serde(default)]
    pub files: Vec<DirectoryFile>,
}

/// One configuration file of a module.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DirectoryFile {
    /// Its name below the directory.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// How to log in.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// The user type of C_Login.
    pub user: UserType,
    /// What a PIN looks like, where it is more than digits; shown to people.
    pub pin_form: Option<String>,
}

/// User type of C_Login.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UserType {
    /// CKU_USER.
    User,
    /// A maker's own user type, at or above CKU_VENDOR_DEFINED (0x80000000).
    Vendor(u32),
}

/// How sessions are used.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sessions {
    /// Working sessions that are worth opening on one token.
    pub recommended: usize,
    /// Whether signing and decrypting work in read-only sessions.
    pub read_only: bool,
    /// Longest signature or decryption in milliseconds; a host that takes longer hangs and is killed.
    pub call_ms_max: u64,
    /// The same of a generation.
    #[serde(default = "generate_ms_max")]
    pub generate_ms_max: u64,
}

/// Slow devices take a minute for RSA-4096.
fn generate_ms_max() -> u64 {
    120_000
}

/// What keys a device makes and what they do.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keys {
    /// RSA modulus lengths that it generates.
    pub rsa_bits: Vec<u32>,
    /// Whether it generates P-256 keys and signs with ECDSA.
    pub p256: bool,
    /// Whether it decrypts RSAES-PKCS1-v1_5.
    pub pkcs1_decrypt: bool,
    /// OAEP hashes (MGF1 with the same) that it decrypts, best first.
    pub oaep: Vec<Hash>,
    /// Optional template attributes that it does not take. Each becomes a gap in the evidence.
    #[serde(default)]
    pub omit: Vec<Optional>,
}

/// Template attributes that may be left out. Those that custody rests on are not in this list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Optional {
    /// CKA_MODIFIABLE.
    Modifiable,
    /// CKA_COPYABLE.
    Copyable,
    /// CKA_DERIVE.
    Derive,
    /// CKA_SIGN_RECOVER.
    SignRecover,
    /// CKA_WRAP_WITH_TRUSTED.
    WrapWithTrusted,
    /// CKA_ALWAYS_AUTHENTICATE.
    AlwaysAuthenticate,
    /// CKA_ALLOWED_MECHANISMS.
    AllowedMechanisms,
}

/// How a token comes to be.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Create {
    /// By whom.
    pub by: CreateBy,
    /// How, where it is the maker's tool; shown to people.
    pub how: Option<String>,
}

/// Who makes a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CreateBy {
    /// This program, by C_InitToken in a slot without an initialised token.
    FreeSlot,
    /// The maker's own tool.
    Maker,
}

impl Profile {
    /// The names of the profiles that the program brings with it.
    pub fn built_in() -> impl Iterator<Item = &'static str> {
        BUILT_IN.iter().map(|(name, _)| *name)
    }

    /// Takes a profile that the program brings with it, by name, or a file, by a path with a slash or `.toml` in it.
    ///
    /// # Errors
    /// `CONFIG_INVALID` with the file's name and what is wrong in it.
    pub fn load(name_or_path: &str) -> Result<Profile> {
        if !Profile::is_path(name_or_path) {
            let Some((_, text)) = BUILT_IN.iter().find(|(name, _)| *name == name_or_path) else {
                let names: Vec<_> = Profile::built_in().collect();
                return Err(Error::new(Reason::ConfigInvalid, format!("no device profile is named {name_or_path:?}"))
                    .hint(format!("Name one of {}, or give the path of a profile file.", names.join(", "))));
            };
            return Profile::parse(text, &format!("profile {name_or_path}"));
        }
        let text = fs::read_to_string(name_or_path).map_err(|e| {
            Error::new(Reason::ConfigInvalid, format!("the device profile {name_or_path} cannot be read: {e}"))
        })?;
        Profile::parse(&text, name_or_path)
    }

    /// Whether what a binding calls its profile is the path of a file, and not a name.
    #[must_use]
    pub fn is_path(name_or_path: &str) -> bool {
        name_or_path.contains('/') || name_or_path.ends_with(".toml")
    }

    fn parse(text: &str, whence: &str) -> Result<Profile> {
        let fault = |what: &dyn std::fmt::Display| Error::new(Reason::ConfigInvalid, format!("{whence}: {what}"));
        let profile: Profile = toml::from_str(text).map_err(|e| fault(&e.to_string().trim_end()))?;
        let mut faults = Vec::new();
        if let Some(path) = profile.module.paths.iter().find(|p| !p.is_absolute()) {
            faults.push(format!("module.paths: {} is not absolute", path.display()));
        }
        if (profile.kind == Kind::Pkcs11) == profile.module.paths.is_empty() {
            faults.push("module.paths: a PKCS#11 device has one or more, a TPM none".to_owned());
        }
        if (profile.kind == Kind::Tpm) != profile.tpm.is_some() {
            faults.push("tpm: a TPM has this table, a PKCS#11 device does not".to_owned());
        }
        if let UserType::Vendor(number) = profile.login.user
            && number < 0x8000_0000
        {
            faults.push(format!("login.user: {number:#x} is below CKU_VENDOR_DEFINED"));
        }
        if profile.sessions.recommended == 0 {
            faults.push("sessions.recommended is 0".to_owned());
        }
        if profile.kind == Kind::Tpm && profile.sessions.recommended > 1 {
            faults.push("sessions.recommended: a TPM does one command at a time".to_owned());
        }
        if profile.sessions.generate_ms_max < profile.sessions.call_ms_max {
            faults.push("sessions.generate_ms_max is below call_ms_max".to_owned());
        }
        for file in profile.directory.iter().flat_map(|d| &d.files).map(|f| &f.name).chain(profile.folders()) {
            if file.contains('/') || file.starts_with('.') || file.is_empty() {
                faults.push(format!("directory: {file:?} is not a plain name"));
            }
        }
        let device = if profile.kind == Kind::Tpm { "tpm" } else { "module" };
        let directory = profile.directory.as_ref().map(|_| "directory");
        for table in [device, "login", "sessions", "keys", "create"].into_iter().chain(directory) {
            if profile.sources.get(table).is_none_or(|source| source.trim().is_empty()) {
                faults.push(format!("sources.{table} is missing"));
            }
        }
        if faults.is_empty() { Ok(profile) } else { Err(fault(&faults.join("; "))) }
    }

    fn folders(&self) -> impl Iterator<Item = &String> {
        self.directory.iter().flat_map(|d| &d.folders)
    }

    /// The environment that the module needs, for a token directory.
    #[must_use]
    pub fn environment(&self, dir: &Path) -> Vec<(String, String)> {
        let fill = |text: &String| text.replace("{dir}", &absolute(dir));
        self.directory.iter().flat_map(|d| &d.environment).map(|(name, value)| (name.clone(), fill(value))).collect()
    }

    /// How to reach the TPM.
    ///
    /// # Errors
    /// `TOKEN_UNAVAILABLE` if the file that holds the TCTI cannot be read.
    pub fn tcti(&self, dir: &Path) -> Result<String> {
        let text = self.tpm.as_ref().map(|tpm| tpm.tcti.replace("{dir}", &absolute(dir))).unwrap_or_default();
        let Some(file) = text.strip_prefix("file:") else { return Ok(text) };
        let fault = |e: std::io::Error| {
            let install = self.tpm.as_ref().map_or("", |tpm| &tpm.install);
            Error::new(Reason::TokenUnavailable, format!("{file}, which says how to reach the TPM: {e}"))
                .hint(format!("For {}: {install}, then write its TCTI into that file.", self.name))
        };
        fs::read_to_string(file).map(|text| text.trim().to_owned()).map_err(fault)
    }

    /// Whether keys of this kind can be made.
    #[must_use]
    pub fn makes(&self, algorithm: KeyAlgorithm) -> bool {
        match algorithm {
            KeyAlgorithm::Rsa(bits) => self.keys.rsa_bits.contains(&bits),
            KeyAlgorithm::P256 => self.keys.p256,
        }
    }
}

/// Makes the token directory (0700) and writes the files (0600) that the module reads. What is there already is
/// brought to the profile's text; tokens are never touched.
///
/// # Errors
/// `DATA_DIRECTORY` if the disk refuses.
pub fn prepare_directory(profile: &Profile, dir: &Path) -> Result<()> {
    let fault = |path: &Path, e: std::io::Error| {
        Error::new(Reason::DataDirectory, format!("{} cannot be written: {e}", path.display()))
    };
    let mut folders = fs::DirBuilder::new();
    folders.recursive(true).mode(0o700);
    folders.create(dir).map_err(|e| fault(dir, e))?;
    for folder in profile.folders() {
        let path = dir.join(folder);
        folders.create(&path).map_err(|e| fault(&path, e))?;
    }
    for file in profile.directory.iter().flat_map(|d| &d.files) {
        let path = dir.join(&file.name);
        let text = file.text.replace("{dir}", &absolute(dir));
        if fs::read_to_string(&path).is_ok_and(|present| present == text) {
            continue;
        }
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        options.open(&path).and_then(|mut f| f.write_all(text.as_bytes())).map_err(|e| fault(&path, e))?;
    }
    Ok(())
}

/// Whether a token directory is there. One that is not would look like a token that has lost its keys.
///
/// # Errors
/// `DATA_DIRECTORY`.
pub fn require_directory(dir: &Path) -> Result<()> {
    dir.canonicalize().map(|_| ()).map_err(|fault| {
        Error::new(Reason::DataDirectory, format!("{} cannot be found: {fault}", dir.display()))
            .hint("bring the token's directory back, or correct the setting `directory`")
    })
}

/// The absolute form of a path: modules do not start in our working directory.
fn absolute(dir: &Path) -> String {
    std::path::absolute(dir).unwrap_or_else(|_| dir.to_path_buf()).display().to_string()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_profile_parses_and_is_named_as_its_file() {
        for (name, _) in BUILT_IN {
            assert_eq!(&Profile::load(name).unwrap().name, name);
        }
    }

    #[test]
    fn every_value_of_a_built_in_profile_has_a_source_and_what_was_only_read_says_so() {
        const HERE: [&str; 3] = ["softhsm", "kryoptic", "swtpm"];
        for (name, text) in BUILT_IN {
            let profile = Profile::load(name).unwrap();
            let table: toml::Table = toml::from_str(text).unwrap();
            for (key, value) in table.iter().filter(|(key, value)| value.is_table() && *key != "sources") {
                let whole = profile.sources.contains_key(key);
                let fields = value.as_table().unwrap().keys();
                let missing: Vec<_> =
                    fields.filter(|field| !whole && !profile.sources.contains_key(&format!("{key}.{field}"))).collect();
                assert!(missing.is_empty(), "{name}: no source for {key}.{missing:?}");
            }
            let here = profile.sources.values().any(|source| source.contains("run here"));
            assert_eq!(profile.verified == Verified::Here, HERE.contains(name), "{name}");
            assert!(here || profile.verified == Verified::Documentation, "{name}");
        }
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_file_and_the_key() {
        let text = format!("slot = 1\n{}", BUILT_IN[0].1);
        let error = Profile::parse(&text, "mine.toml").unwrap_err();
        assert_eq!(error.reason(), Reason::ConfigInvalid);
        assert!(error.message().starts_with("mine.toml:"), "{error}");
        assert!(error.message().contains("slot"), "{error}");
    }

    #[test]
    fn faults_of_a_profile_are_told_all_at_once() {
        let text = BUILT_IN[0].1.replace("recommended = 2", "recommended = 0").replace("module = \"", "other = \"");
        let error = Profile::parse(&text, "mine.toml").unwrap_err();
        assert!(error.message().contains("recommended") && error.message().contains("sources.module"), "{error}");
    }

    #[test]
    fn a_prepared_directory_is_private_and_repeatable() {
        use std::os::unix::fs::PermissionsExt;
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("tokens");
        let profile = Profile::load("softhsm").unwrap();
        for _ in 0..2 {
            prepare_directory(&profile, &dir).unwrap();
        }
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&dir), mode(&dir.join("tokens"))), (0o700, 0o700));
        assert_eq!(mode(&dir.join("softhsm2.conf")), 0o600);
        let (name, value) = profile.environment(&dir).remove(0);
        assert_eq!(name, "SOFTHSM2_CONF");
        assert!(fs::read_to_string(value).unwrap().contains(&format!("{}/tokens", dir.display())));
    }
}
