//! The two calls that the safe binding makes twice: C_Sign and C_Decrypt straight into a buffer of known size.
//!
//! The binding asks the module for the length first, which doubles the calls of the hot path, and returns plaintext
//! in a vector that is not wiped.
#![allow(unsafe_code)]

use std::path::Path;

use cryptoki::context::Function;
use cryptoki::error::{Error as Cryptoki, Rv};
use cryptoki::session::Session;
use cryptoki_sys::{CK_BYTE, CK_FUNCTION_LIST, CK_RV, CK_SESSION_HANDLE, CK_ULONG};

/// Shape that C_Sign and C_Decrypt share: session, input, input length, output, output length.
type OneShot = unsafe extern "C" fn(CK_SESSION_HANDLE, *mut CK_BYTE, CK_ULONG, *mut CK_BYTE, *mut CK_ULONG) -> CK_RV;

/// The module's C_Sign and C_Decrypt.
pub(super) struct OneShotCalls {
    sign: OneShot,
    decrypt: OneShot,
    /// Keeps the module loaded for as long as the pointers above are held.
    _library: cryptoki_sys::Pkcs11,
}

impl OneShotCalls {
    /// Loads the module a second time (the loader gives the same one) for its 2.40 function list.
    pub(super) fn load(path: &Path) -> Result<Self, Cryptoki> {
        // SAFETY: the same file was loaded by the safe binding before; its initialisers have run.
        let library = unsafe { cryptoki_sys::Pkcs11::new(path) }.map_err(Cryptoki::LibraryLoading)?;
        let Ok(get_function_list) = library.C_GetFunctionList.as_ref() else {
            return Err(Cryptoki::MissingSymbol("C_GetFunctionList"));
        };
        let mut list: *mut CK_FUNCTION_LIST = std::ptr::null_mut();
        // SAFETY: C_GetFunctionList may be called at any time and writes one pointer (PKCS#11 2.40, 5.4).
        Rv::from(unsafe { get_function_list(&raw mut list) }).into_result(Function::GetFunctionList)?;
        if list.is_null() {
            return Err(Cryptoki::NullFunctionPointer);
        }
        // SAFETY: the module succeeded, so the pointer is to its static function list.
        let list = unsafe { *list };
        match (list.C_Sign, list.C_Decrypt) {
            (Some(sign), Some(decrypt)) => Ok(OneShotCalls { sign, decrypt, _library: library }),
            _ => Err(Cryptoki::NullFunctionPointer),
        }
    }

    /// One C_Sign after C_SignInit on the same session; gives the bytes written to `out`.
    pub(super) fn sign_into(&self, session: &Session, data: &[u8], out: &mut [u8]) -> Result<usize, Cryptoki> {
        Self::call(self.sign, Function::Sign, session, data, out)
    }

    /// One C_Decrypt after C_DecryptInit on the same session; gives the bytes written to `out`.
    pub(super) fn decrypt_into(&self, session: &Session, data: &[u8], out: &mut [u8]) -> Result<usize, Cryptoki> {
        Self::call(self.decrypt, Function::Decrypt, session, data, out)
    }

    fn call(act: OneShot, name: Function, session: &Session, data: &[u8], out: &mut [u8]) -> Result<usize, Cryptoki> {
        let mut written = CK_ULONG::try_from(out.len())?;
        let data_len = CK_ULONG::try_from(data.len())?;
        // SAFETY: both buffers live through the call and their true lengths are given; the module does not write to
        // the input (PKCS#11 2.40, 5.2 takes it as a pointer without const for historical reasons). `Session` is not
        // `Sync`, so no other thread uses this session.
        let value =
            unsafe { act(session.handle(), data.as_ptr().cast_mut(), data_len, out.as_mut_ptr(), &raw mut written) };
        Rv::from(value).into_result(name)?;
        let written = usize::try_from(written)?;
        if written > out.len() { Err(Cryptoki::InvalidValue) } else { Ok(written) }
    }
}
