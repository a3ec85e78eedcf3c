//! Compiles the protocol files, without an installed protoc.

use std::path::PathBuf;

#[allow(clippy::disallowed_methods, reason = "cargo tells a build script by the environment where to write")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["clusters", "nodes", "licensing", "enrollment", "audit", "tokens"]
        .map(|name| format!("keyward/v1/{name}.proto"));
    println!("cargo::rerun-if-changed=proto");
    println!("cargo::rerun-if-changed=migrations");
    let descriptors = protox::compile(&files, ["proto"])?;
    // A request that carries a PIN has a Debug of its own, which does not show it.
    tonic_prost_build::configure().skip_debug([".keyward.v1.LogInTokenRequest"]).compile_fds(descriptors.clone())?;
    // Reflection serves the same descriptors.
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo names no OUT_DIR")?);
    std::fs::write(out.join("keyward.v1.bin"), prost::Message::encode_to_vec(&descriptors))?;
    Ok(())
}
