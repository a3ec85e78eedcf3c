//! Who a request comes from, by the connection it came on.

use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo, UdsConnectInfo};
use tonic::{Request, Status};

use crate::caller::Caller;
use crate::error::{Error, Result};
use crate::grpc::{Door, status};
use crate::policy::Operation;
use crate::tls::fingerprint;

impl Door {
    /// The caller of a request. A certificate of our authority that is not recorded for an active principal makes a
    /// stranger, whom no rule allows anything.
    pub(super) async fn caller<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        self.identify(request).await.map_err(status::status)
    }

    async fn identify<T>(&self, request: &Request<T>) -> Result<Caller> {
        let address = address(request);
        if let Some(uds) = request.extensions().get::<UdsConnectInfo>() {
            let own = rustix::process::geteuid().as_raw();
            return match uds.peer_cred {
                Some(peer) if peer.uid() == own || peer.uid() == 0 => Ok(Caller::LocalOperator { uid: peer.uid() }),
                _ => Ok(Caller::Stranger { certificate_sha256: String::new(), address }),
            };
        }
        let tls = request.extensions().get::<TlsConnectInfo<TcpConnectInfo>>();
        let Some(certificates) = tls.and_then(TlsConnectInfo::peer_certs) else {
            return Ok(Caller::Stranger { certificate_sha256: String::new(), address });
        };
        let certificate = certificates.first().map(|leaf| fingerprint(leaf)).unwrap_or_default();
        self.custody.caller(&certificate, address).await
    }

    /// A request that was refused: recorded, then told.
    pub(super) async fn refused(&self, caller: &Caller, operation: Operation, target: &str, refusal: Error) -> Status {
        status::status(self.custody.refuse(caller, operation, target, refusal).await)
    }
}

/// The network address that a request comes from, without its port; empty on a socket of this machine.
pub(super) fn address<T>(request: &Request<T>) -> String {
    request.remote_addr().map(|address| address.ip().to_string()).unwrap_or_default()
}
