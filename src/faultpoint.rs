//! Named points at which a test can hold the service in order to kill it. Empty in a release build.

/// Waits here as long as the build has the `faultpoints` feature and `KEYWARD_FAULTPOINT` names this point of this act,
/// as `point:act`; or names, as `@path`, a file that has just that in it.
#[cfg(feature = "faultpoints")]
#[allow(clippy::print_stdout, clippy::disallowed_methods)]
pub async fn reach(point: &str, act: &str) {
    let name = format!("{point}:{act}");
    let is_wanted = || {
        let wanted = std::env::var("KEYWARD_FAULTPOINT").unwrap_or_default();
        match wanted.strip_prefix('@') {
            Some(path) => std::fs::read_to_string(path).is_ok_and(|wanted| wanted == name),
            None => wanted == name,
        }
    };
    if !is_wanted() {
        return;
    }
    println!("faultpoint {name}");
    while is_wanted() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// Does nothing: this build has no fault points.
#[cfg(not(feature = "faultpoints"))]
#[inline(always)]
pub async fn reach(_point: &str, _act: &str) {}
