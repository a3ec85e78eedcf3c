//! Our own clients of this door: a node with its certificate, or the operator on the socket.

use std::path::{Path, PathBuf};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
pub use tonic::transport::Channel;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity, Uri};

use crate::error::{Error, Reason, Result};
use crate::grpc::{MESSAGE_BYTES_MAX, status, v1};

pub use v1::audit_client::AuditClient;
pub use v1::clusters_client::ClustersClient;
pub use v1::enrollment_client::EnrollmentClient;
pub use v1::join_client::JoinClient;
pub use v1::keys_client::KeysClient;
pub use v1::licensing_client::LicensingClient;
pub use v1::nodes_client::NodesClient;
pub use v1::tokens_client::TokensClient;

/// An open connection.
#[derive(Clone)]
pub struct Connection {
    channel: Channel,
}

/// What a node needs to connect.
pub struct NodeIdentity {
    /// Where the service listens, such as `https://127.0.0.1:7443`.
    pub server: String,
    /// The authority of the server's certificate, PEM.
    pub ca_pem: String,
    /// The node's certificate, PEM.
    pub certificate_pem: String,
    /// Its private key, PEM.
    pub key_pem: zeroize::Zeroizing<String>,
}

macro_rules! clients {
    ($($name:ident $client:ident)*) => { $(
        /// A client of this service.
        #[must_use]
        pub fn $name(&self) -> $client<Channel> {
            $client::new(self.channel.clone())
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX)
        }
    )* };
}

impl Connection {
    clients! {
        clusters ClustersClient
        keys KeysClient
        nodes NodesClient
        join JoinClient
        enrollment EnrollmentClient
        licensing LicensingClient
        audit AuditClient
        tokens TokensClient
    }

    /// The connection itself, for services beside ours such as health.
    #[must_use]
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Connects as a node.
    ///
    /// # Errors
    /// `PEER_UNREACHABLE`; `INVALID_ARGUMENT` for a server that is no URL.
    pub async fn node(identity: &NodeIdentity) -> Result<Self> {
        let own = Identity::from_pem(&identity.certificate_pem, identity.key_pem.as_bytes());
        Self::tls(&identity.server, &identity.ca_pem, |tls| tls.identity(own)).await
    }

    /// Connects to a join listener, without a certificate of our own.
    ///
    /// # Errors
    /// As [`Connection::node`].
    pub async fn joiner(server: &str, ca_pem: &str) -> Result<Self> {
        Self::tls(server, ca_pem, |tls| tls).await
    }

    async fn tls(server: &str, ca_pem: &str, with: impl FnOnce(ClientTlsConfig) -> ClientTlsConfig) -> Result<Self> {
        let tls = with(ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca_pem)));
        let url = |fault| Error::new(Reason::InvalidArgument, format!("{server} is no URL")).detail(fault);
        let endpoint = Endpoint::from_shared(server.to_owned()).map_err(url)?.tls_config(tls).map_err(url)?;
        let channel = endpoint.tcp_nodelay(true).connect().await.map_err(|fault| {
            unreachable(server, &fault).hint("is the service running, and is this its certificate authority?")
        })?;
        Ok(Connection { channel })
    }

    /// Connects as the local operator.
    ///
    /// # Errors
    /// `PEER_UNREACHABLE` if no service listens there.
    pub async fn operator(socket: &Path) -> Result<Self> {
        let path: PathBuf = socket.to_owned();
        // The URI is never looked up; the connector goes to the socket.
        let endpoint = Endpoint::from_static("http://operator");
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        let channel = endpoint.connect_with_connector(connector).await.map_err(|fault| {
            unreachable(&socket.display().to_string(), &fault).hint("start the service first: keyward serve DIR")
        })?;
        Ok(Connection { channel })
    }
}

/// What a call's status says.
#[must_use]
pub fn failed(status: tonic::Status) -> Error {
    status::error(&status)
}

fn unreachable(place: &str, fault: &tonic::transport::Error) -> Error {
    let mut cause: &dyn std::error::Error = fault;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    Error::new(Reason::PeerUnreachable, format!("no service answers at {place}: {cause}"))
}
