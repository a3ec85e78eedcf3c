//! Named points at which a test can hold the service in order to kill it. Empty in a release build.

/// Waits here for ever if the build has the `faultpoints` feature and the environment names this point of this act, as
/// `point:act`.
#[cfg(feature = "faultpoints")]
#[allow(clippy::print_stdout, clippy::disallowed_methods)]
pub async fn reach(point: &str, act: &str) {
    let name = format!("{point}:{act}");
    if std::env::var("KEYWARD_FAULTPOINT").is_ok_and(|wanted| wanted == name) {
        println!("faultpoint {name}");
        std::future::pending::<()>().await;
    }
}

/// Does nothing: this build has no fault points.
#[cfg(not(feature = "faultpoints"))]
#[inline(always)]
pub async fn reach(_point: &str, _act: &str) {}
