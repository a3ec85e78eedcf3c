//! The service `Tokens`.

use std::fmt;
use std::time::Instant;

use tonic::transport::server::UdsConnectInfo;
use tonic::{Request, Response, Status};

use crate::caller::Caller;
use crate::custody::{ReplicaStatus, TokenStatus};
use crate::error::{Error, Reason, Result};
use crate::grpc::{Door, check_name, v1};
use crate::policy::{Asked, Operation, Permit, permit};
use crate::secret::Pin;

/// What stands before a token's name.
const TOKENS: &str = "tokens/";

#[tonic::async_trait]
impl v1::tokens_server::Tokens for Door {
    async fn list_tokens(
        &self,
        request: Request<v1::ListTokensRequest>,
    ) -> Result<Response<v1::ListTokensResponse>, Status> {
        let caller = self.caller(&request).await?;
        let listed = async {
            may(&caller, Operation::ReadToken)?;
            Ok(v1::ListTokensResponse { tokens: self.custody.tokens().await?.iter().map(message).collect() })
        };
        self.answer(&caller, Operation::ReadToken, "tokens", listed.await).await
    }

    async fn get_token(&self, request: Request<v1::GetTokenRequest>) -> Result<Response<v1::Token>, Status> {
        let caller = self.caller(&request).await?;
        let name = request.into_inner().name;
        let found = async {
            may(&caller, Operation::ReadToken)?;
            Ok(message(&self.custody.token(device(&name)?).await?))
        };
        self.answer(&caller, Operation::ReadToken, &name, found.await).await
    }

    async fn log_in_token(&self, request: Request<v1::LogInTokenRequest>) -> Result<Response<v1::Token>, Status> {
        let caller = self.caller(&request).await?;
        let here = request.extensions().get::<UdsConnectInfo>().is_some();
        let v1::LogInTokenRequest { name, pin } = request.into_inner();
        let pin = Some(Pin::new(pin)).filter(|pin| !pin.expose().is_empty());
        let done = async {
            let permit = may(&caller, Operation::LogInToken)?;
            if pin.is_some() && !here {
                return Err(Error::new(Reason::PermissionDenied, "a PIN is taken on the operator's socket only"));
            }
            Ok(message(&self.custody.log_in(permit, device(&name)?, pin).await?))
        };
        self.answer(&caller, Operation::LogInToken, &name, done.await).await
    }

    async fn unlatch_token(
        &self,
        request: Request<v1::UnlatchTokenRequest>,
    ) -> Result<Response<v1::UnlatchTokenResponse>, Status> {
        let caller = self.caller(&request).await?;
        let name = request.into_inner().name;
        let done = async {
            let was = self.custody.unlatch(may(&caller, Operation::UnlatchToken)?, device(&name)?).await?;
            Ok(v1::UnlatchTokenResponse { was_latched: was.unwrap_or_default() })
        };
        self.answer(&caller, Operation::UnlatchToken, &name, done.await).await
    }

    async fn release_token(
        &self,
        request: Request<v1::ReleaseTokenRequest>,
    ) -> Result<Response<v1::ReleaseTokenResponse>, Status> {
        let caller = self.caller(&request).await?;
        let name = request.into_inner().name;
        let done = async {
            let was = self.custody.release(may(&caller, Operation::ReleaseToken)?, device(&name)?).await?;
            Ok(v1::ReleaseTokenResponse { was_quarantined: was.unwrap_or_default() })
        };
        self.answer(&caller, Operation::ReleaseToken, &name, done.await).await
    }
}

fn may(caller: &Caller, operation: Operation) -> Result<Permit> {
    permit(caller, &Asked { operation, cluster: None, signs: None })
}

/// The name of a token or a replica in the configuration, from its resource name.
fn device(name: &str) -> Result<&str> {
    check_name(name)?;
    let malformed = || {
        Error::new(Reason::InvalidArgument, format!("{name} is no token"))
            .hint("name it as it is listed, such as tokens/main or tokens/main/replicas/b")
    };
    let rest = name.strip_prefix(TOKENS).ok_or_else(malformed)?;
    Ok(rest.split_once("/replicas/").map_or(rest, |(_, replica)| replica))
}

fn message(token: &TokenStatus) -> v1::Token {
    let name = format!("{TOKENS}{}", token.name);
    v1::Token {
        serves: token.serves,
        needed: token.needed,
        replicas: token.replicas.iter().map(|replica| replica_message(&name, replica)).collect(),
        name,
    }
}

fn replica_message(token: &str, replica: &ReplicaStatus) -> v1::Replica {
    let ReplicaStatus { binding, description, status, .. } = replica;
    let device = description.as_ref();
    let answer = status.as_ref().and_then(|status| status.health.answer());
    let age = |since: Instant| prost_types::Duration::try_from(since.elapsed()).ok();
    let count = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
    let running = status.as_ref().map_or(0, |status| status.busy.saturating_sub(status.waiting));
    v1::Replica {
        name: format!("{token}/replicas/{}", binding.name),
        profile: binding.profile.clone(),
        label: binding.label.clone(),
        serial: binding.serial.clone(),
        manufacturer: device.map(|d| d.manufacturer.clone()).unwrap_or_default(),
        model: device.map(|d| d.model.clone()).unwrap_or_default(),
        firmware: device.map(|d| d.firmware.clone()).unwrap_or_default(),
        module_sha256: device.map(|d| d.module_sha256.clone()).unwrap_or_default(),
        health: status.as_ref().map_or("stopped", |status| status.health.name()).to_owned(),
        reason: status.as_ref().map(|status| status.health.why().to_owned()).unwrap_or_default(),
        answer_value: answer.map(|answer| answer.value.clone()).unwrap_or_default(),
        answer_function: answer.map(|answer| answer.function.to_owned()).unwrap_or_default(),
        age: status.as_ref().and_then(|status| age(status.since)),
        queue_depth: count(status.as_ref().map_or(0, |status| status.waiting)),
        running: count(running),
        sessions: count(binding.sessions),
        host_restarts: i32::try_from(replica.restarts).unwrap_or(i32::MAX),
        host_pid: replica.pid.and_then(|pid| i32::try_from(pid).ok()).unwrap_or(0),
        last_probe_age: status.as_ref().and_then(|status| age(status.probed?)),
        last_answer_age: status.as_ref().and_then(|status| age(status.answered?)),
        login_under_way: replica.login_under_way,
        latched: replica.latched.clone().unwrap_or_default(),
        quarantined: replica.quarantined.clone().unwrap_or_default(),
    }
}

/// Without the PIN. The generated form would show it.
impl fmt::Debug for v1::LogInTokenRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogInTokenRequest").field("name", &self.name).finish_non_exhaustive()
    }
}
