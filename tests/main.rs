//! The integration tests, in one binary.

mod anchor;
mod cli;
mod custody_faults;
mod enrollment;
mod faults;
mod kit;
mod licensing;
mod merkle;
mod proofs;
mod store_contract;
mod tidy;
mod token_contract;
mod token_faults;
mod token_load;
mod token_probe;
mod token_replicas;
mod token_tpm;
mod xrml;
