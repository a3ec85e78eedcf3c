//! A loaded PKCS#11 module and the tokens it shows.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error as Cryptoki, RvError};
use cryptoki::slot::{Slot, TokenInfo};

use super::fault::{Act, failure, says_no_token};
use super::raw::OneShotCalls;
use crate::error::{Error, Reason, Result};
use crate::token::profile::Profile;
use crate::token::{Description, Failure};

/// A module, loaded and initialised once for the life of the process.
pub(super) struct Module {
    pub(super) context: Pkcs11,
    pub(super) one_shot: OneShotCalls,
    sha256: String,
}

/// One token that a module shows.
pub(super) struct Seen {
    pub(super) slot: Slot,
    pub(super) info: TokenInfo,
}

/// Modules stay loaded: C_Finalize and unloading are unsafe while anything else of the process may use the module.
static LOADED: Mutex<BTreeMap<PathBuf, Arc<Module>>> = Mutex::new(BTreeMap::new());

impl Module {
    /// Loads the first module of the profile that exists.
    pub(super) fn load(profile: &Profile) -> Result<Arc<Module>> {
        let paths = &profile.module.paths;
        let Some(path) = paths.iter().find(|p| p.is_file()) else {
            let tried: Vec<_> = paths.iter().map(|p| p.display().to_string()).collect();
            return Err(Error::new(
                Reason::ModuleMissing,
                format!("no PKCS#11 module of {} is installed; looked at {}", profile.title, tried.join(", ")),
            )
            .hint(format!(
                "For {}: {}; or put the module's path into a profile of your own.",
                profile.name, profile.module.install
            )));
        };
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(module) = loaded.get(path) {
            return Ok(Arc::clone(module));
        }
        let module = Arc::new(Module::open(path)?);
        loaded.insert(path.clone(), Arc::clone(&module));
        Ok(module)
    }

    fn open(path: &Path) -> Result<Module> {
        let unloadable = |e: &dyn std::fmt::Display| {
            Error::new(Reason::ModuleMissing, format!("the PKCS#11 module {} cannot be used", path.display()))
                .detail(e)
                .hint("Check that the file is a PKCS#11 module for this machine.")
        };
        let bytes = std::fs::read(path).map_err(|e| unloadable(&e))?;
        let sha256 = hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &bytes));
        let context = Pkcs11::new(path).map_err(|e| unloadable(&e))?;
        let one_shot = OneShotCalls::load(path).map_err(|e| unloadable(&e))?;
        match context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
            Ok(()) | Err(Cryptoki::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
            // The module is there: its device, its daemon or its network may not be, and come back.
            Err(e) => {
                return Err(Error::from(failure(Act::Look, &e))
                    .while_doing(format!("the PKCS#11 module {} does not start", path.display()))
                    .hint("Check its device, its daemon, and that its own configuration is right."));
            }
        }
        Ok(Module { context, one_shot, sha256 })
    }

    /// The initialised tokens, in the module's order, and the first answer of a slot that could not say what is in it.
    pub(super) fn tokens(&self) -> std::result::Result<(Vec<Seen>, Option<Failure>), Failure> {
        let slots = self.context.get_slots_with_token().map_err(|e| failure(Act::Look, &e))?;
        let (mut seen, mut silent) = (Vec::new(), None);
        for slot in slots {
            match self.context.get_token_info(slot).map_err(|e| failure(Act::Look, &e)) {
                Ok(info) if info.token_initialized() => seen.push(Seen { slot, info }),
                Ok(_) => {}
                // A slot whose token goes away between the two calls is as good as one without.
                Err(f) if says_no_token(&f.code) => {}
                Err(f) => silent = silent.or(Some(f)),
            }
        }
        Ok((seen, silent))
    }

    /// The one token with this label and serial.
    pub(super) fn find(&self, label: &str, serial: &str) -> Result<Seen> {
        let (seen, silent) = self.tokens()?;
        let (mut wanted, others): (Vec<_>, Vec<_>) =
            seen.into_iter().partition(|s| s.info.label() == label && s.info.serial_number() == serial);
        let sought = format!("with label {label:?} and serial {serial:?}");
        match (wanted.pop(), wanted.is_empty(), silent) {
            (Some(token), true, _) => Ok(token),
            (Some(_), false, _) => Err(Error::new(
                Reason::TokenAmbiguous,
                format!("the module shows {} tokens {sought}", wanted.len() + 1),
            )
            .hint("Take the copies away, or give each its own module configuration.")),
            // The token may be in a slot that does not answer: nobody knows that it is missing.
            (None, _, Some(silent)) => Err(silent.into()),
            (None, _, None) => {
                let seen: Vec<_> = others
                    .iter()
                    .map(|s| format!("{:?} with serial {:?}", s.info.label(), s.info.serial_number()))
                    .collect();
                let seen = if seen.is_empty() { "no token at all".to_owned() } else { seen.join(", ") };
                Err(Error::new(Reason::TokenMissing, format!("no token {sought}; the module shows {seen}"))
                    .hint("Connect the token, or correct its label and serial in the configuration."))
            }
        }
    }

    /// What a token says of itself.
    pub(super) fn description(&self, info: &TokenInfo) -> Description {
        let firmware = info.firmware_version();
        Description {
            label: info.label().to_owned(),
            serial: info.serial_number().to_owned(),
            manufacturer: info.manufacturer_id().to_owned(),
            model: info.model().to_owned(),
            firmware: format!("{}.{}", firmware.major(), firmware.minor()),
            module_sha256: self.sha256.clone(),
        }
    }
}
