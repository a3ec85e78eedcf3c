//! XrML 1.2 documents of the licensing hierarchy. Pure: no IO, no clock, no token.
//!
//! A received text is kept whole and hashed as it stands; everything typed is a view of it.
//!
//! ```
//! use keyward::key::Hash;
//! use keyward::xrml::{signature, text::Body, ul::UseLicense};
//!
//! # fn check(received: &str) -> keyward::error::Result<Vec<u8>> {
//! let body = Body::read(received)?; // one <BODY>…</BODY>, strictly checked
//! let license = UseLicense::read(&body)?; // DOCUMENT_KIND or DOCUMENT_INCOMPLETE if it is none
//! assert!(license.issuer.object.is_some());
//! let digest = signature::digest(&body, Hash::Sha256);
//! Ok(digest.digest_info()) // what CKM_RSA_PKCS signs
//! # }
//! ```
//!
//! The signature comes back as [`value::SignatureBe`]; [`signature::complete`] writes the document around the BODY.

pub mod ca;
pub mod carrier;
pub mod certificate;
pub mod chain;
pub mod clc;
pub mod content;
pub mod element;
pub mod enrollment_ca;
pub mod enrollment_service;
pub mod kind;
pub mod license;
pub mod markup;
pub mod pl;
pub mod rac;
pub mod revocation;
pub mod signature;
pub mod slc;
pub mod spc;
pub mod text;
pub mod time;
pub mod ul;
pub mod unknown;
pub mod value;
mod write;
