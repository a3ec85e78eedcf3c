//! Keyward: custody of the keys behind rights-management licenses.
//!
//! The map. A request comes in at a door ([`grpc`], [`cli`]), an operation ([`issuance`], [`enrollment`]) checks what
//! it asks, [`policy`] gives a permit, and [`custody`] does the act: durable intent, token, verification with the
//! recorded public key, durable outcome. Below lie two ports, [`token`] and [`store`], and pure rooms: [`xrml`]
//! documents, [`audit`] records, [`key`]s, [`cluster`]s and [`caller`]s. [`serve`] puts it all together.

pub mod audit;
pub mod caller;
pub mod cli;
pub mod clock;
pub mod cluster;
pub mod config;
pub mod custody;
pub mod enrollment;
pub mod error;
pub mod faultpoint;
pub mod grpc;
pub mod issuance;
pub mod key;
pub mod policy;
pub mod secret;
pub mod serve;
pub mod sink;
pub mod store;
pub mod tls;
pub mod token;
pub mod xrml;
