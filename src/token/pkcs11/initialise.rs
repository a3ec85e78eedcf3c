//! Makes a token of a software device or a fresh slot: C_InitToken, then C_InitPIN.

use std::path::Path;

use cryptoki::session::UserType;
use cryptoki::types::AuthPin;

use super::fault::{Act, failure};
use super::module::Module;
use crate::error::{Error, Reason, Result};
use crate::secret::Pin;
use crate::token::profile::{Profile, prepare_directory};
use crate::token::{Description, Failure};

/// Bytes of a token label (PKCS#11 2.40, CK_TOKEN_INFO).
const LABEL_BYTES_MAX: usize = 32;

/// Makes a token in a free slot. See [`crate::token::initialise`].
pub(in crate::token) fn initialise(
    profile: &Profile,
    dir: &Path,
    label: &str,
    so_pin: &Pin,
    user_pin: &Pin,
) -> Result<Description> {
    if label.is_empty() || label.len() > LABEL_BYTES_MAX || label.trim() != label {
        return Err(Error::new(
            Reason::InvalidArgument,
            format!("a token label has 1 to {LABEL_BYTES_MAX} bytes and no blanks at its ends"),
        ));
    }
    prepare_directory(profile, dir)?;
    let module = Module::load(profile)?;
    if module.tokens()?.0.iter().any(|seen| seen.info.label() == label) {
        return Err(Error::new(Reason::AlreadyExists, format!("a token with label {label:?} exists"))
            .hint("Choose another label, or use the token that is there."));
    }
    let making = |e: cryptoki::error::Error| failure(Act::Make, &e);
    let slots = module.context.get_slots_with_token().map_err(making)?;
    let free = slots.into_iter().find(|s| module.context.get_token_info(*s).is_ok_and(|i| !i.token_initialized()));
    let Some(slot) = free else {
        return Err(Error::new(Reason::TokenMissing, format!("{} shows no slot without a token", profile.title))
            .hint("Free a slot with the tool of the device's maker."));
    };
    let so_pin = AuthPin::new(so_pin.expose().into());
    module.context.init_token(slot, &so_pin, label).map_err(making)?;
    // The slot's number may be another now; the label was nobody's before.
    let made = module.tokens()?.0.into_iter().find(|seen| seen.info.label() == label).ok_or_else(|| {
        Error::new(Reason::TokenMissing, format!("the token {label:?} was made but the module does not show it"))
    })?;
    let set_pin = || -> std::result::Result<(), Failure> {
        let session = module.context.open_rw_session(made.slot).map_err(making)?;
        session.login(UserType::So, Some(&so_pin)).map_err(making)?;
        session.init_pin(&AuthPin::new(user_pin.expose().into())).map_err(making)?;
        session.logout().map_err(making)
    };
    set_pin().map_err(|f| {
        Error::from(f).while_doing(format!("the token {label:?} was made, but its user PIN could not be set"))
    })?;
    Ok(module.description(&made.info))
}
