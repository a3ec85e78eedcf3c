//! `keyward enroll`: a cluster's way to its certificate, by files.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::cli::{Global, cluster, connect, output, verify};
use crate::error::Result;
use crate::grpc::client::{Connection, failed};
use crate::grpc::v1;

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Write a cluster's enrollment request, to be carried to the authority
    Export {
        /// The cluster's id or resource name
        cluster: String,
        /// The request's file, to be made
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Check the authority's response and take in the certificates: all or nothing
    Import {
        /// The cluster's id or resource name
        cluster: String,
        /// The response's file
        response: PathBuf,
        /// The authority's root, got by another way than the response: a public key in PEM, or its pin in hexadecimal
        #[arg(long, value_name = "FILE|HEX", required = true)]
        pin: Vec<String>,
        /// A field that may differ from the request: sku, version, name or url. It is recorded
        #[arg(long, value_name = "FIELD")]
        accept_difference: Vec<String>,
    },
}

pub(super) async fn run(command: Command, global: &Global) -> Result<()> {
    let connection = connect::operator(&global.data).await?;
    match command {
        Command::Export { cluster, out } => {
            output::object(global.output, &export(&connection, &cluster::name(&cluster), &out).await?);
            Ok(())
        }
        Command::Import { cluster, response, pin, accept_difference } => {
            let document = std::fs::read(&response)
                .map_err(|fault| output::unreadable(&response, &fault, "name the file that the authority has sent"))?;
            let pins = pin.iter().map(|pin| read_pin(pin)).collect::<Result<_>>()?;
            let request = v1::ImportEnrollmentResponseRequest {
                cluster: cluster::name(&cluster),
                document,
                pins,
                accept_differences: accept_difference,
            };
            let enrolled =
                connection.enrollment().import_enrollment_response(request).await.map_err(failed)?.into_inner();
            output::object(global.output, &cluster::row(&enrolled));
            Ok(())
        }
    }
}

fn read_pin(pin: &str) -> Result<String> {
    let known = verify::read_pin(pin).map_err(|fault| {
        fault
            .hint("give the file that `keyward authority init --pin FILE` has made, or the pin's 64 hexadecimal digits")
    });
    Ok(known?.to_string())
}

/// Writes the request of a cluster; gives what people must know of it.
pub(super) async fn export(connection: &Connection, cluster: &str, out: &Path) -> Result<Value> {
    let request = v1::ExportEnrollmentRequestRequest { cluster: cluster.to_owned() };
    let exported = connection.enrollment().export_enrollment_request(request).await.map_err(failed)?.into_inner();
    output::write_new(out, &exported.document, 0o644)?;
    Ok(json!({
        "request": out.display().to_string(),
        "sha256": exported.sha256,
        "words": exported.words,
    }))
}
