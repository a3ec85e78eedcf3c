//! What the file named by `STRANGE_SIGNATURES` says becomes of the RSA signatures that this process makes with OpenSSL:
//! `wrong` changes a byte, `short` leaves half of them out, `pss` pads by RSASSA-PSS. A TPM in software that makes such
//! ones authenticates them as its own.
#![allow(clippy::missing_safety_doc)]

use std::ffi::{CStr, c_char, c_int, c_uchar, c_void};

const PKCS1_PADDING: c_int = 1;
const PSS_PADDING: c_int = 6;

unsafe extern "C" {
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
}

/// OpenSSL's own function, which comes after this one.
fn next(name: &CStr) -> *mut c_void {
    // SAFETY: RTLD_NEXT and a name that ends.
    let found = unsafe { dlsym(-1isize as *mut c_void, name.as_ptr()) };
    assert!(!found.is_null());
    found
}

fn says(what: &str) -> bool {
    std::env::var("STRANGE_SIGNATURES").is_ok_and(|file| std::fs::read_to_string(file).is_ok_and(|text| text == what))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn EVP_PKEY_sign(
    context: *mut c_void,
    signature: *mut c_uchar,
    length: *mut usize,
    digest: *const c_uchar,
    digest_length: usize,
) -> c_int {
    type Own = unsafe extern "C" fn(*mut c_void, *mut c_uchar, *mut usize, *const c_uchar, usize) -> c_int;
    // SAFETY: the function of this name has this form.
    let own = unsafe { std::mem::transmute::<*mut c_void, Own>(next(c"EVP_PKEY_sign")) };
    // SAFETY: as it was called.
    let done = unsafe { own(context, signature, length, digest, digest_length) };
    if done == 1 && !signature.is_null() {
        if says("wrong") {
            // SAFETY: a signature has at least one byte.
            unsafe { *signature ^= 1 };
        }
        if says("short") {
            // SAFETY: the length was given to be written.
            unsafe { *length /= 2 };
        }
    }
    done
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn EVP_PKEY_CTX_set_rsa_padding(context: *mut c_void, padding: c_int) -> c_int {
    type Own = unsafe extern "C" fn(*mut c_void, c_int) -> c_int;
    let padding = if padding == PKCS1_PADDING && says("pss") { PSS_PADDING } else { padding };
    // SAFETY: the function of this name has this form.
    unsafe { std::mem::transmute::<*mut c_void, Own>(next(c"EVP_PKEY_CTX_set_rsa_padding"))(context, padding) }
}
