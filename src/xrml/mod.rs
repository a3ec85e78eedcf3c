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
//!
//! | to | use |
//! |---|---|
//! | take text from outside | [`text::Body`], [`text::Document`], [`text::documents`]; any file or SOAP message: [`carrier::read`] |
//! | know what it is | [`kind::Kind::of`], and the reader of its kind, which refuses every other |
//! | write a document | the kind's own module (`certificate` or a struct with `write`), then sign the digest |
//! | judge a chain | [`chain::check`] for findings, [`chain::require`] for yes or why not; [`revocation::apply`] |
//! | seal and open keys | [`sealed::seal`], [`sealed::open`]; bound to [`pl::bound_text`] or the text of ISSUER |
//! | turn rights data into rights | [`rights_data::decrypt`], [`rights::evaluate`]; for applications [`policy::admits`] |
//!
//! Whatever is written goes through the same strict reader as what comes from outside. Random bytes, the time, and the
//! private half of a decryption are arguments. What a text may be made of is bounded in [`markup`] and [`text`], and the
//! memory that reading it takes in [`weight`].

pub mod ca;
pub mod carrier;
pub mod certificate;
pub mod chain;
pub mod clc;
pub mod content;
pub mod element;
pub mod enrollment_ca;
pub mod enrollment_service;
mod form;
pub mod kind;
pub mod license;
pub mod markup;
pub mod message;
pub mod pl;
pub mod policy;
pub mod rac;
pub mod revocation;
pub mod rights;
pub mod rights_data;
pub mod sealed;
pub mod signature;
pub mod slc;
pub mod spc;
pub mod template;
pub mod text;
pub mod time;
pub mod ul;
pub mod unknown;
pub mod value;
pub mod weight;
mod write;
