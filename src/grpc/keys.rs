//! The service `Keys`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tonic::{Request, Response, Status};

use crate::audit::chain::ChainHash;
use crate::caller::Caller;
use crate::custody::{KeyRecord, Page};
use crate::error::Result;
use crate::grpc::{Door, check_name, next_page, page, timestamp, v1};
use crate::key::PublicKey;
use crate::policy::{Asked, Operation, permit};
use crate::xrml::value::ModulusLe;

#[tonic::async_trait]
impl v1::keys_server::Keys for Door {
    async fn get_key(&self, request: Request<v1::GetKeyRequest>) -> Result<Response<v1::Key>, Status> {
        let caller = self.caller(&request).await?;
        let name = request.into_inner().name;
        match self.key(&caller, &name).await {
            Ok(key) => Ok(Response::new(key)),
            Err(refusal) => Err(self.refused(&caller, Operation::ReadCluster, &name, refusal).await),
        }
    }

    async fn list_keys(&self, request: Request<v1::ListKeysRequest>) -> Result<Response<v1::ListKeysResponse>, Status> {
        let caller = self.caller(&request).await?;
        let request = request.into_inner();
        let page = page(request.page_size, &request.page_token);
        let found = match self.keys(&caller, &request.parent, page).await {
            Ok(found) => found,
            Err(refusal) => {
                return Err(self.refused(&caller, Operation::ReadCluster, &request.parent, refusal).await);
            }
        };
        let next_page_token = next_page(&found, page, |key| &key.name);
        let keys = found.iter().map(message).collect();
        Ok(Response::new(v1::ListKeysResponse { keys, next_page_token }))
    }
}

impl Door {
    async fn keys(&self, caller: &Caller, cluster: &str, page: Page<'_>) -> Result<Vec<KeyRecord>> {
        check_name(cluster)?;
        permit(caller, &Asked { operation: Operation::ReadCluster, cluster: Some(cluster), signs: None })?;
        // A list of nothing would say that the cluster has no keys.
        self.custody.cluster(cluster).await?;
        self.custody.keys(cluster, page).await
    }

    async fn key(&self, caller: &Caller, name: &str) -> Result<v1::Key> {
        check_name(name)?;
        let cluster = name.split_once("/keys/").map(|(cluster, _)| cluster);
        permit(caller, &Asked { operation: Operation::ReadCluster, cluster, signs: None })?;
        Ok(message(&self.custody.key(name).await?.record))
    }
}

fn message(key: &KeyRecord) -> v1::Key {
    let device = &key.evidence.token;
    v1::Key {
        name: key.name.clone(),
        role: key.role.name().to_owned(),
        mode: key.mode.name().to_owned(),
        state: key.state.name().to_owned(),
        id: key.id.to_string(),
        token: key.token.clone(),
        public_key: Some(public(&key.public)),
        evidence: Some(v1::Evidence {
            token_label: device.label.clone(),
            token_serial: device.serial.clone(),
            manufacturer: device.manufacturer.clone(),
            model: device.model.clone(),
            firmware: device.firmware.clone(),
            module_sha256: device.module_sha256.clone(),
            attributes: attributes(&key.evidence.attributes),
            gaps: attributes(&key.evidence.gaps),
        }),
        create_time: Some(timestamp(key.created_us)),
    }
}

fn attributes(pairs: &[(String, String)]) -> Vec<v1::Attribute> {
    pairs.iter().map(|(name, value)| v1::Attribute { name: name.clone(), value: value.clone() }).collect()
}

fn public(key: &PublicKey) -> v1::PublicKey {
    let spki = key.spki_der();
    let base = v1::PublicKey { pem: key.pem(), sha256: ChainHash::of(&spki).to_string(), ..Default::default() };
    match key {
        PublicKey::Rsa(rsa) => v1::PublicKey {
            pkcs1_der: rsa.pkcs1_der(),
            modulus_le_base64: STANDARD.encode(ModulusLe::of(rsa).as_bytes()),
            bits: i32::try_from(rsa.bits()).unwrap_or(i32::MAX),
            ..base
        },
        PublicKey::P256 { .. } => v1::PublicKey { bits: 256, ..base },
    }
}
