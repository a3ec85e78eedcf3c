//! `keyward license`: what a licensing node does, with its own certificate.

use std::path::PathBuf;

use serde_json::json;

use crate::cli::{Global, connect, output};
use crate::error::{Error, Reason, Result};
use crate::grpc::client::failed;
use crate::grpc::v1;
use crate::xrml::text::DOCUMENT_BYTES_MAX;

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Have the BODY of a license signed by the cluster's key
    Sign {
        /// A file that holds the BODY element and nothing around it (UTF-8)
        body: PathBuf,
        /// The node's identity directory, as made by `keyward node join`
        #[arg(long = "as", value_name = "DIR")]
        identity: PathBuf,
        /// The cluster to sign for; the node's own if left out
        #[arg(long)]
        cluster: Option<String>,
        /// Write the signed license here (a new file) instead of to standard output
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

pub(super) async fn run(command: Command, global: &Global) -> Result<()> {
    let Command::Sign { body, identity, cluster, out } = command;
    let bytes = std::fs::read(&body)
        .map_err(|fault| output::unreadable(&body, &fault, "name a file that holds the BODY of a license"))?;
    let text = String::from_utf8(bytes).map_err(|fault| {
        Error::new(
            Reason::DocumentMalformed,
            format!("{} is not UTF-8: byte {} begins no character", body.display(), fault.utf8_error().valid_up_to()),
        )
        .hint("convert it to UTF-8 first; the signature is over its characters, not its bytes")
    })?;
    let (node, connection) = connect::node(&identity).await?;
    let own = node.split_once("/nodes/").map(|(cluster, _)| cluster.to_owned()).unwrap_or_default();
    let cluster = cluster.map_or(own, |cluster| crate::cli::cluster::name(&cluster));
    // An editor's line end after the element is not part of it.
    let body = text.trim_end_matches(['\r', '\n']).to_owned();
    if body.len() > DOCUMENT_BYTES_MAX {
        return Err(Error::new(
            Reason::LimitExceeded,
            format!("the BODY has {} bytes; a document has at most {DOCUMENT_BYTES_MAX}", body.len()),
        )
        .hint("a license of this size is no license: look at what was written into it"));
    }
    // Made first: a signature is not spent on what cannot be kept.
    let file = out.as_deref().map(|path| output::NewFile::create(path, 0o644)).transpose()?;
    let wanted = v1::GetClusterRequest { name: cluster.clone() };
    let request = v1::SignDocumentRequest { cluster, body };
    let signed = connection.licensing().sign_document(request).await.map_err(failed)?.into_inner();
    // The license, and behind it the certificates up to the root: what a verifier needs.
    let chain = connection.clusters().get_cluster(wanted).await.map_err(failed)?.into_inner().certificate_chain;
    let documents = signed.document + &chain.concat();
    match (file, &out) {
        (Some(file), Some(out)) => {
            file.finish(documents.as_bytes())?;
            let shown = json!({
                "kind": signed.kind,
                "guid": signed.guid,
                "certificates": chain.len(),
                "file": out.display().to_string(),
            });
            output::object(global.output, &shown);
        }
        _ if global.output == output::Format::Json => {
            let shown = json!({
                "kind": signed.kind,
                "guid": signed.guid,
                "certificates": chain.len(),
                "documents": documents,
            });
            output::object(global.output, &shown);
        }
        _ => output::raw(&documents),
    }
    Ok(())
}
