//! While the file named by `READONLY_WHEN` exists, this process can write no file: what the C library is asked for that
//! would change one fails with EROFS, also on files that are open already. The kernel does the same once a file system
//! has become read-only under a process, and refuses to make one so by hand while files in it are open for writing.
#![allow(clippy::missing_safety_doc)]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::OnceLock;

const EROFS: c_int = 30;
/// O_WRONLY, O_RDWR, O_CREAT and O_TRUNC.
const WRITES: c_int = 0o1 | 0o2 | 0o100 | 0o1000;

unsafe extern "C" {
    fn __errno_location() -> *mut c_int;
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
    fn access(path: *const c_char, mode: c_int) -> c_int;
}

/// The C library's own function, which comes after this one.
fn next(name: &CStr) -> *mut c_void {
    // SAFETY: RTLD_NEXT and a name that ends.
    let found = unsafe { dlsym(-1isize as *mut c_void, name.as_ptr()) };
    assert!(!found.is_null());
    found
}

fn is_read_only() -> bool {
    static WHEN: OnceLock<Option<CString>> = OnceLock::new();
    let when = WHEN.get_or_init(|| std::env::var("READONLY_WHEN").ok().and_then(|path| CString::new(path).ok()));
    // SAFETY: a path that ends.
    let there = when.as_ref().is_some_and(|path| unsafe { access(path.as_ptr(), 0) } == 0);
    if there {
        // SAFETY: this thread's own.
        unsafe { *__errno_location() = EROFS };
    }
    there
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwrite64(file: c_int, bytes: *const c_void, count: usize, offset: i64) -> isize {
    if is_read_only() {
        return -1;
    }
    type Own = unsafe extern "C" fn(c_int, *const c_void, usize, i64) -> isize;
    // SAFETY: the function of this name has this form.
    unsafe { std::mem::transmute::<*mut c_void, Own>(next(c"pwrite64"))(file, bytes, count, offset) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ftruncate64(file: c_int, length: i64) -> c_int {
    if is_read_only() {
        return -1;
    }
    type Own = unsafe extern "C" fn(c_int, i64) -> c_int;
    // SAFETY: as above.
    unsafe { std::mem::transmute::<*mut c_void, Own>(next(c"ftruncate64"))(file, length) }
}

/// In C the mode is given only where a file may be made; here it is passed on as it comes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn open64(path: *const c_char, flags: c_int, mode: u32) -> c_int {
    if flags & WRITES != 0 && is_read_only() {
        return -1;
    }
    type Own = unsafe extern "C" fn(*const c_char, c_int, ...) -> c_int;
    // SAFETY: as above.
    unsafe { std::mem::transmute::<*mut c_void, Own>(next(c"open64"))(path, flags, mode) }
}
