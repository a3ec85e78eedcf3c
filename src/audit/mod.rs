//! The log of who did what with which key and why: records, their chain, and their verifier. No IO, no clock.

pub mod canonical;
pub mod chain;
pub mod checkpoint;
pub mod cosignature;
mod doubt;
pub mod filter;
pub mod form;
pub mod gathered;
pub mod line;
pub mod merkle;
pub mod note;
pub mod others;
pub mod proof;
pub mod prove;
pub mod record;
pub mod trust;
pub mod verify;
