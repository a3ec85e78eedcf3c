//! The listeners of this door: mTLS for nodes and for those that join, a Unix socket for people of this machine.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tonic::service::Routes;
use tonic::transport::{Certificate, Identity as TlsIdentity, Server, ServerTlsConfig};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tower::layer::util::{Identity as NoLayer, Stack};
use tower::limit::GlobalConcurrencyLimitLayer;

use crate::caller::Caller;
use crate::error::{Error, Reason, Result};
use crate::grpc::incoming::{Room, Tell, bounded};
use crate::grpc::patience::Patience;
use crate::grpc::{Door, MESSAGE_BYTES_MAX, v1};
use crate::policy::Operation;
use crate::tls::Identity;

/// Requests that one connection may have under way.
const STREAMS_MAX: u32 = 128;
/// Requests that a listener's connections may have under way together. One more is refused at once. A request holds at
/// most [`MESSAGE_BYTES_MAX`], so this bounds the memory that callers can make this process take.
const REQUESTS_MAX: usize = 256;
/// Time for a TLS handshake, in seconds: who sends nothing loses the connection.
const HANDSHAKE_S: u64 = 5;
/// A connection on which nothing came for so long is asked whether it lives, in seconds.
const KEEPALIVE_S: u64 = 30;
/// And ended if there is no answer after so long, in seconds.
const KEEPALIVE_ANSWER_S: u64 = 10;
/// Time for a request over TLS from its first to its last byte and to its answer, in seconds. Acts have a shorter
/// deadline of their own.
const REQUEST_S: u64 = 30;
/// Life of a connection of those that join, in seconds: they have one question, and no certificate yet.
const JOIN_CONNECTION_S: u64 = 30;

/// Services that use keys, and the instance as a whole.
const USE_KEYS: &[&str] = &["", "keyward.v1.Licensing", "keyward.v1.Enrollment"];
/// Services that use records, and keys for some requests only.
const USE_RECORDS: &[&str] =
    &["keyward.v1.Clusters", "keyward.v1.Keys", "keyward.v1.Nodes", "keyward.v1.Audit", "keyward.v1.Tokens"];
/// What health checks ask for to learn whether the disk of the store has room.
pub const STORE_SPACE: &str = "store-space";

/// All services, ready to be served.
pub struct Services {
    routes: Routes,
    join: Routes,
    health: HealthReporter,
    room: Room,
    patience: Patience,
}

impl Services {
    /// Puts the services together.
    ///
    /// # Errors
    /// `INTERNAL` if the compiled descriptors do not parse.
    pub fn new(door: &Door) -> Result<Self> {
        let (health, health_service) = tonic_health::server::health_reporter();
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(v1::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()
            .map_err(|fault| Error::new(Reason::Internal, "the protocol's descriptors are damaged").detail(fault))?;
        macro_rules! sized {
            ($service:ident, $server:ident) => {
                v1::$service::$server::new(door.clone())
                    .max_decoding_message_size(MESSAGE_BYTES_MAX)
                    .max_encoding_message_size(MESSAGE_BYTES_MAX)
            };
        }
        let routes = Routes::new(health_service)
            .add_service(reflection)
            .add_service(sized!(clusters_server, ClustersServer))
            .add_service(sized!(keys_server, KeysServer))
            .add_service(sized!(nodes_server, NodesServer))
            .add_service(sized!(licensing_server, LicensingServer))
            .add_service(sized!(enrollment_server, EnrollmentServer))
            .add_service(sized!(audit_server, AuditServer))
            .add_service(sized!(tokens_server, TokensServer))
            .prepare();
        let join = Routes::new(v1::join_server::JoinServer::new(door.clone())).prepare();
        Ok(Services { routes, join, health, room: Room::here(), patience: Patience(door.custody.clone()) })
    }

    /// Says to health checks whether the doors for nodes are open, and how the tokens stand: by name, whether each serves
    /// and whether it is needed. Services that use keys serve if every needed token does; each token is a service of its
    /// own, `tokens/{name}`.
    pub async fn report(&self, open: bool, tokens: &[(String, bool, bool)]) {
        let ready = open && tokens.iter().all(|(_, serves, needed)| *serves || !needed);
        for service in USE_KEYS {
            self.set(service, ready).await;
        }
        for service in USE_RECORDS {
            self.set(service, true).await;
        }
        for (name, serves, _) in tokens {
            self.set(&format!("tokens/{name}"), *serves).await;
        }
    }

    /// Says to health checks that this instance serves no more, and ends the streams of those that watch: they would keep
    /// it from ending. Who asks once more on an old connection hears `NOT_FOUND`. Tokens are given as to [`Services::report`].
    pub async fn stop(&self, tokens: &[(String, bool, bool)]) {
        let tokens = tokens.iter().map(|(name, ..)| format!("tokens/{name}"));
        let services = USE_KEYS.iter().chain(USE_RECORDS).chain([&STORE_SPACE]).map(|service| (*service).to_owned());
        let mut health = self.health.clone();
        for service in services.chain(tokens) {
            self.set(&service, false).await;
            health.clear_service_status(&service).await;
        }
    }

    async fn set(&self, service: &str, serving: bool) {
        let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
        self.health.set_service_status(service, status).await;
    }

    /// Says to health checks, as the service `store-space`, whether there is room for records to come.
    pub async fn set_room(&self, enough: bool) {
        let status = if enough { ServingStatus::Serving } else { ServingStatus::NotServing };
        self.health.set_service_status(STORE_SPACE, status).await;
    }

    /// Serves nodes: TLS on both sides, until `stop` resolves and what is under way is answered.
    ///
    /// # Errors
    /// `INTERNAL` if the listener fails.
    pub async fn nodes(
        &self,
        listener: TcpListener,
        identity: &Identity,
        client_ca_pem: &str,
        stop: impl Future<Output = ()> + Send,
    ) -> Result<()> {
        let tls = ServerTlsConfig::new()
            .identity(TlsIdentity::from_pem(&identity.certificate_pem, identity.key_pem.as_bytes()))
            .client_ca_root(Certificate::from_pem(client_ca_pem))
            .timeout(Duration::from_secs(HANDSHAKE_S));
        self.server()
            .timeout(Duration::from_secs(REQUEST_S))
            .tls_config(tls)
            .map_err(|fault| failed(&fault))?
            .add_routes(self.routes.clone())
            .serve_with_incoming_shutdown(bounded(listener, self.room.nodes, Some(self.tell("nodes"))), stop)
            .await
            .map_err(|fault| failed(&fault))
    }

    /// Serves those who hold a join token: TLS with a server certificate, and the one service `Join`.
    ///
    /// # Errors
    /// `INTERNAL` if the listener fails.
    pub async fn joiners(
        &self,
        listener: TcpListener,
        identity: &Identity,
        stop: impl Future<Output = ()> + Send,
    ) -> Result<()> {
        let tls = ServerTlsConfig::new()
            .identity(TlsIdentity::from_pem(&identity.certificate_pem, identity.key_pem.as_bytes()))
            .timeout(Duration::from_secs(HANDSHAKE_S));
        self.server()
            .timeout(Duration::from_secs(REQUEST_S))
            .max_connection_age(Duration::from_secs(JOIN_CONNECTION_S))
            .max_connection_age_grace(Duration::ZERO)
            .tls_config(tls)
            .map_err(|fault| failed(&fault))?
            .add_routes(self.join.clone())
            .serve_with_incoming_shutdown(bounded(listener, self.room.joiners, Some(self.tell("joiners"))), stop)
            .await
            .map_err(|fault| failed(&fault))
    }

    /// Serves people of this machine, until `stop` resolves and what is under way is answered.
    ///
    /// # Errors
    /// `INTERNAL` if the listener fails.
    pub async fn operators(&self, listener: UnixListener, stop: impl Future<Output = ()> + Send) -> Result<()> {
        self.server()
            .add_routes(self.routes.clone())
            .serve_with_incoming_shutdown(bounded(listener, self.room.operators, None), stop)
            .await
            .map_err(|fault| failed(&fault))
    }

    /// Records, or in a flood counts, that a connection to a listener ended within its handshake.
    fn tell(&self, listener: &'static str) -> Tell {
        let custody = self.patience.0.clone();
        Arc::new(move |peer| {
            let custody = custody.clone();
            tokio::spawn(async move {
                let stranger =
                    Caller::Stranger { certificate_sha256: String::new(), address: peer.to_canonical().to_string() };
                let words = "the TLS handshake failed: no certificate of this instance's authority, or no TLS at all";
                let refusal = Error::new(Reason::Unauthenticated, words);
                custody.refuse(&stranger, Operation::Connect, listener, refusal).await;
            });
        })
    }

    /// What all listeners have in common.
    fn server(&self) -> Server<Stack<GlobalConcurrencyLimitLayer, Stack<Patience, NoLayer>>> {
        Server::builder()
            .max_concurrent_streams(STREAMS_MAX)
            .http2_keepalive_interval(Some(Duration::from_secs(KEEPALIVE_S)))
            .http2_keepalive_timeout(Some(Duration::from_secs(KEEPALIVE_ANSWER_S)))
            .load_shed(true)
            .layer(self.patience.clone())
            .layer(GlobalConcurrencyLimitLayer::new(REQUESTS_MAX))
    }
}

fn failed(fault: &tonic::transport::Error) -> Error {
    use std::error::Error as _;
    let cause = fault.source().map(ToString::to_string).unwrap_or_default();
    Error::new(Reason::Internal, "a listener of this service failed").detail(format!("{fault}: {cause}"))
}
