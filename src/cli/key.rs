//! `keyward key`.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::cli::{Global, cluster, connect, output};
use crate::error::Result;
use crate::grpc::client::failed;
use crate::grpc::v1;

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Show a key: its public half, and what the token says of the private half
    Get {
        /// Resource name, such as clusters/emea/keys/slc-1
        key: String,
        /// Write the public key here too, as PEM: what verifiers pin
        #[arg(long, value_name = "FILE")]
        pem: Option<PathBuf>,
    },
    /// List the keys of a cluster
    List {
        /// The cluster's id or resource name
        cluster: String,
    },
}

pub(super) async fn run(command: Command, global: &Global) -> Result<()> {
    let mut keys = connect::operator(&global.data).await?.keys();
    match command {
        Command::Get { key, pem } => {
            let found = keys.get_key(v1::GetKeyRequest { name: key }).await.map_err(failed)?.into_inner();
            if let Some(path) = pem {
                let text = found.public_key.clone().unwrap_or_default().pem;
                output::write_new(&path, text.as_bytes(), 0o644)?;
            }
            match global.output {
                output::Format::Json => output::object(global.output, &view(&found)),
                output::Format::Table => evidence(&found),
            }
        }
        Command::List { cluster } => {
            let mut rows = Vec::new();
            let mut page_token = String::new();
            loop {
                let request = v1::ListKeysRequest { parent: cluster::name(&cluster), page_size: 0, page_token };
                let page = keys.list_keys(request).await.map_err(failed)?.into_inner();
                rows.extend(page.keys.iter().map(|key| {
                    json!({
                        "name": key.name, "role": key.role, "mode": key.mode, "state": key.state,
                        "token": key.token, "created": output::time(key.create_time),
                    })
                }));
                page_token = page.next_page_token;
                if page_token.is_empty() {
                    break;
                }
            }
            output::list(global.output, &rows);
        }
    }
    Ok(())
}

/// A key with all that is known of it.
pub(super) fn view(key: &v1::Key) -> Value {
    let public = key.public_key.clone().unwrap_or_default();
    let evidence = key.evidence.clone().unwrap_or_default();
    let pairs = |pairs: &[v1::Attribute]| -> Value {
        pairs.iter().map(|pair| (pair.name.clone(), Value::String(pair.value.clone()))).collect()
    };
    json!({
        "name": key.name,
        "role": key.role,
        "mode": key.mode,
        "state": key.state,
        "id": key.id,
        "token": key.token,
        "created": output::time(key.create_time),
        "public_key": {
            "sha256": public.sha256,
            "bits": public.bits,
            "modulus_le_base64": public.modulus_le_base64,
            "pem": public.pem,
        },
        "evidence": {
            "token_label": evidence.token_label,
            "token_serial": evidence.token_serial,
            "manufacturer": evidence.manufacturer,
            "model": evidence.model,
            "firmware": evidence.firmware,
            "module_sha256": evidence.module_sha256,
            "attributes": pairs(&evidence.attributes),
            "gaps": pairs(&evidence.gaps),
        },
    })
}

/// Prints the proof of custody for people.
pub(super) fn evidence(key: &v1::Key) {
    let evidence = key.evidence.clone().unwrap_or_default();
    let public = key.public_key.clone().unwrap_or_default();
    println!("key          {} ({}, {}, {})", key.name, key.role, key.mode, key.state);
    println!("public key   sha256 {}", public.sha256);
    println!("id in token  {}", key.id);
    println!(
        "made in      token {} serial {} ({} {}, firmware {})",
        evidence.token_label, evidence.token_serial, evidence.manufacturer, evidence.model, evidence.firmware
    );
    println!("module       sha256 {}", evidence.module_sha256);
    println!("read back from the token:");
    let width = evidence.attributes.iter().chain(&evidence.gaps).map(|pair| pair.name.len()).max().unwrap_or(0);
    for pair in &evidence.attributes {
        println!("  {:width$}  {}", pair.name, pair.value);
    }
    if evidence.gaps.is_empty() {
        println!("gaps: none, the token takes and shows every attribute");
    } else {
        println!("gaps, which this token does not take or does not show:");
        for pair in &evidence.gaps {
            println!("  {:width$}  {}", pair.name, pair.value);
        }
    }
}
