//! Sets what PKCS#11 modules read from the process environment.
#![allow(unsafe_code)]

/// Sets environment variables of this process, as [`super::profile::Profile::environment`] gives them.
///
/// Modules read their configuration through the C library's `getenv`, which knows no lock. So this is for `main`,
/// before it starts the runtime or any other thread, and for a token host, which has one thread at that time.
pub fn set_environment(variables: &[(String, String)]) {
    for (name, value) in variables {
        // SAFETY: the caller is the only thread, as the function's contract demands, so nobody reads the
        // environment while it changes.
        unsafe { std::env::set_var(name, value) }
    }
}
