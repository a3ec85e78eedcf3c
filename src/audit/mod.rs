//! The log of who did what with which key and why: records, their chain, and their verifier. No IO, no clock.

pub mod chain;
pub mod record;
pub mod verify;
