//! The integration tests, in one binary.

mod anchor;
mod audit_log;
mod cli;
mod custody_faults;
mod custody_load;
mod enrollment;
mod faults;
mod kit;
mod licensing;
mod merkle;
mod proofs;
mod sinks;
mod store_contract;
mod tamper;
mod tidy;
mod token_contract;
mod token_faults;
mod token_load;
mod token_probe;
mod token_replicas;
mod token_tpm;
mod token_unseal;
mod tokens;
mod xrml;
