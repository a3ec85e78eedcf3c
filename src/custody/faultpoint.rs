//! Named points at which a test can hold the service in order to kill it. Empty in a release build.

/// Waits here for ever if the build has the `faultpoints` feature and the environment names this point.
#[cfg(feature = "faultpoints")]
#[allow(clippy::print_stdout, clippy::disallowed_methods)]
pub async fn reach(name: &str) {
    if std::env::var("KEYWARD_FAULTPOINT").is_ok_and(|point| point == name) {
        println!("faultpoint {name}");
        std::future::pending::<()>().await;
    }
}

/// Does nothing: this build has no fault points.
#[cfg(not(feature = "faultpoints"))]
#[inline(always)]
pub async fn reach(_name: &str) {}
