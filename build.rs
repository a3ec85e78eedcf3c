//! Compiles the protocol files, without an installed protoc.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["clusters", "nodes", "licensing", "audit"].map(|name| format!("keyward/v1/{name}.proto"));
    println!("cargo::rerun-if-changed=proto");
    println!("cargo::rerun-if-changed=migrations");
    let descriptors = protox::compile(&files, ["proto"])?;
    tonic_prost_build::configure().compile_fds(descriptors.clone())?;
    // Reflection serves the same descriptors.
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("keyward.v1.bin"), prost::Message::encode_to_vec(&descriptors))?;
    Ok(())
}
