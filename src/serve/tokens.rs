//! The tokens of a configuration: what is wrong with them, how their modules are prepared, and how they are opened.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::future::join_all;

use crate::caller::Caller;
use crate::config::{self, Config, PinSource};
use crate::custody::{self, Device, Slot, Standing, no_token, standing_of};
use crate::error::{Error, Reason, Result};
use crate::key::Hash;
use crate::policy::{self, Asked, Operation};
use crate::secret::Pin;
use crate::store::Store;
use crate::token::host::{HostProgram, HostToken, ReadPin};
use crate::token::pkcs11::{self, Pkcs11Token};
use crate::token::probe::permissive;
use crate::token::profile::{Kind, Profile};
use crate::token::{self, Binding};

/// Asks a person for the PIN of the device that this names. For commands that run once; a service asks nobody.
pub type Ask = fn(&str) -> Result<Pin>;

/// Sets what the modules of the configured tokens read from the environment, and writes what they read from disk.
///
/// Must run before this process has a second thread.
///
/// # Errors
/// `CONFIG_INVALID` for a profile that cannot be used; those of writing the token directory.
pub fn prepare_modules(config: &Config) -> Result<()> {
    for device in config.file.tokens.iter().rev().flat_map(config::Token::devices) {
        let profile = Profile::load(&device.profile)?;
        if let Some(directory) = &device.directory {
            // A directory that is not there is not made: it would look like a token that has lost its keys.
            if config.path(directory).is_dir() {
                prepare_module(&profile, &config.path(directory))?;
            }
        }
    }
    Ok(())
}

/// The same for one token directory, which is made.
///
/// # Errors
/// `DATA_DIRECTORY` if the directory cannot be found or written.
pub fn prepare_module(profile: &Profile, directory: &Path) -> Result<()> {
    token::prepare_directory(profile, directory)?;
    token::require_directory(directory)?;
    token::set_environment(&profile.environment(&absolute(directory)));
    Ok(())
}

/// What is wrong with a configured token beyond the form of its configuration: profiles, PIN sources, and what does not
/// fit together.
#[must_use]
pub fn faults(config: &Config, token: &config::Token) -> Vec<Error> {
    let mut faults = Vec::new();
    let mut profiles = Vec::new();
    for device in token.devices() {
        match Profile::load(&device.profile) {
            Ok(profile) => {
                faults.extend(
                    misfits(token, &device, &profile)
                        .into_iter()
                        .map(|words| Error::new(Reason::ConfigInvalid, format!("token {}: {words}", device.name))),
                );
                profiles.push(profile);
            }
            Err(fault) => faults.push(fault.while_doing(format!("token {}", device.name))),
        }
        // Systemd gives credentials to the service, not to who checks its configuration.
        if matches!(device.pin, PinSource::File(_)) {
            faults.extend(device.read_pin(config).err());
        }
    }
    if !profiles.is_empty() && oaep(&profiles).is_none() {
        let words = format!("token {}: its profiles have no OAEP hash in common, and keys need one", token.name);
        faults.push(Error::new(Reason::ConfigInvalid, words));
    }
    faults
}

fn misfits(token: &config::Token, device: &config::Token, profile: &Profile) -> Vec<&'static str> {
    let tpm = profile.kind == Kind::Tpm;
    let mut words = Vec::new();
    if device.tcti.is_some() && !tpm {
        words.push("tcti is for a TPM, and its profile is of a PKCS#11 module");
    }
    if tpm && device.directory.is_none() {
        words.push("a TPM needs a directory, where its wrapped keys are kept");
    }
    if tpm && device.sessions.is_some_and(|sessions| sessions > 1) {
        words.push("a TPM does one thing at a time: leave sessions out, or set it to 1");
    }
    if tpm && !token.replicas.is_empty() {
        words.push("the keys of a TPM are in that TPM alone; it can be no replica and have none");
    }
    words
}

/// The hash that all of a token's devices do OAEP with: the best of the first one's.
fn oaep(profiles: &[Profile]) -> Option<Hash> {
    let (first, others) = profiles.split_first()?;
    first.keys.oaep.iter().copied().find(|hash| others.iter().all(|other| other.keys.oaep.contains(hash)))
}

/// Opens every configured token and logs in to each of its devices, once, in all of them at once. With it come the
/// faults of devices that cannot be used: they keep neither other devices nor other tokens from being used.
pub(super) async fn open(
    config: &Config,
    store: &Arc<dyn Store>,
    ask: Option<Ask>,
) -> Result<(BTreeMap<String, Slot>, Vec<Error>)> {
    let (mut slots, mut faults) = (BTreeMap::new(), Vec::new());
    let mut openings = Vec::new();
    for token in &config.file.tokens {
        let (devices, oaep) = devices(config, store, token, ask)?;
        openings.push(Slot::open(store.as_ref(), &token.name, oaep, devices));
    }
    // In one task, so that a person is asked for one PIN at a time; each to its end, since a login that is left latches.
    for (token, opened) in config.file.tokens.iter().zip(join_all(openings).await) {
        let (slot, its_faults) = opened?;
        faults.extend(its_faults);
        slots.insert(token.name.clone(), slot);
    }
    Ok((slots, faults))
}

/// The devices of a token, not opened yet, and the hash that they all do OAEP with.
fn devices(
    config: &Config,
    store: &Arc<dyn Store>,
    token: &config::Token,
    ask: Option<Ask>,
) -> Result<(Vec<Device>, Hash)> {
    let (mut devices, mut profiles) = (Vec::new(), Vec::new());
    for (settings, twin) in token.devices().into_iter().zip(token.twins()) {
        let (profile, binding) = bind(config, &settings)?;
        if let Some(words) = misfits(token, &settings, &profile).first() {
            return Err(Error::new(Reason::ConfigInvalid, format!("token {}: {words}", settings.name)));
        }
        let around_login = Standing::around_login(Arc::clone(store), standing(&settings, twin));
        let host = HostToken::waiting(HostProgram::this(), &binding, &profile).around_logins(around_login);
        let (host, ask_pin) = with_pin(host, config, &settings, ask);
        devices.push(Device { binding, twin, host: Arc::new(host), ask_pin });
        profiles.push(profile);
    }
    let oaep = oaep(&profiles).ok_or_else(|| {
        let words = format!("token {} does no OAEP, which content keys are sealed with", token.name);
        Error::new(Reason::TokenUnsupported, words)
    })?;
    Ok((devices, oaep))
}

/// Gives a host the source of its PIN; with it comes who is asked for the PIN, if it is one that a person types.
fn with_pin(
    host: HostToken,
    config: &Config,
    settings: &config::Token,
    ask: Option<Ask>,
) -> (HostToken, Option<ReadPin>) {
    let Config { directory, file, sha256 } = config;
    let config = Config { directory: directory.clone(), file: file.clone(), sha256: sha256.clone() };
    let settings = settings.clone();
    match (&settings.pin, ask) {
        (PinSource::Prompt, Some(ask)) => (host, Some(Box::new(move || ask(&settings.name)))),
        (PinSource::Prompt, None) => (host, Some(Box::new(move || settings.read_pin(&config)))),
        _ => (host.reading_pin(Box::new(move || settings.read_pin(&config))), None),
    }
}

/// Opens one device of the configuration without the limits of its profile, to try it out: one login, recorded as any,
/// and one record that it is tried out with keys of role `probe`. Gives its profile too, and the store, in which each
/// further login is recorded: it is to be closed when the device is no longer used, and the runtime to be kept until then.
///
/// # Errors
/// `NOT_FOUND`; `PIN_LATCHED`; those of the device and of the store.
pub async fn open_for_probe(
    config: &Config,
    name: &str,
    sessions: usize,
    caller: &Caller,
    ask: Ask,
) -> Result<(Profile, HostToken, Arc<dyn Store>)> {
    let all = config.file.tokens.iter().flat_map(|token| token.devices().into_iter().zip(token.twins()));
    let all: Vec<_> = all.collect();
    let names: Vec<&str> = all.iter().map(|(settings, _)| settings.name.as_str()).collect();
    let found = all.iter().find(|(settings, _)| settings.name == name);
    let (settings, twin) = found.ok_or_else(|| no_token(name, &names))?;
    let (profile, mut binding) = bind(config, settings)?;
    binding.sessions = sessions;
    let store = super::open_anchored_store(config, false).await?;
    let opened = async {
        let asked = Asked { operation: Operation::ProbeToken, cluster: None, signs: None };
        custody::record_probe(store.as_ref(), policy::permit(caller, &asked)?, name).await?;
        let around_login = Standing::around_login(Arc::clone(&store), standing(settings, *twin));
        let host = HostToken::waiting(HostProgram::this(), &binding, &permissive(&profile));
        let (host, ask_pin) = with_pin(host.around_logins(around_login), config, settings, Some(ask));
        let pin = ask_pin.map(|ask| ask()).transpose()?;
        let logged_in = tokio::task::spawn_blocking(move || host.login(pin).map(|()| host)).await;
        logged_in.map_err(|fault| Error::new(Reason::Internal, "the login broke off").detail(fault))?
    };
    match opened.await {
        Ok(device) => Ok((profile.clone(), device, store)),
        Err(fault) => {
            store.close().await;
            let token = format!("token {name}");
            let fault = if fault.message().contains(&token) { fault } else { fault.while_doing(token) };
            Err(match fault.reason() {
                Reason::PinRefused | Reason::PinLatched => fault.hint(format!(
                    "no PIN is tried twice; put the right one into its source, then: keyward token unlatch {name}, and \
                     probe again"
                )),
                _ => fault,
            })
        }
    }
}

/// Opens a PKCS#11 token in this process and logs in, once.
///
/// # Errors
/// Whatever is wrong with its profile, PIN source, module or device.
pub fn open_pkcs11(config: &Config, token: &config::Token) -> Result<Pkcs11Token> {
    let (profile, binding) = bind(config, token)?;
    pkcs11::open(&binding, &profile, || token.read_pin(config))
}

/// How many sessions a device is used with: as its configuration says, or as its profile recommends.
///
/// # Errors
/// `CONFIG_INVALID` for its profile.
pub fn sessions(config: &Config, token: &config::Token) -> Result<usize> {
    bind(config, token).map(|(_, binding)| binding.sessions)
}

/// A device of the configuration as the tokens' room knows it, with its profile as it is at this site.
///
/// # Errors
/// `CONFIG_INVALID` for its profile.
fn bind(config: &Config, token: &config::Token) -> Result<(Profile, Binding)> {
    let mut profile = Profile::load(&token.profile)?;
    if let (Some(tcti), Some(tpm)) = (&token.tcti, &mut profile.tpm) {
        tpm.tcti.clone_from(tcti);
    }
    let binding = Binding {
        name: token.name.clone(),
        profile: token.profile.clone(),
        directory: token.directory.as_deref().map(|directory| absolute(&config.path(directory))),
        label: token.label.clone(),
        serial: token.serial.clone(),
        sessions: token.sessions.unwrap_or(profile.sessions.recommended),
    };
    Ok((profile, binding))
}

/// Where a device's latch and quarantine are recorded.
fn standing(device: &config::Token, twin: bool) -> String {
    standing_of(&device.serial, &device.label, twin.then_some(&device.name))
}

/// Modules want absolute paths.
fn absolute(directory: &Path) -> PathBuf {
    let absolute = directory.canonicalize().or_else(|_| std::path::absolute(directory));
    absolute.unwrap_or_else(|_| directory.to_owned())
}
