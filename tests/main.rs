//! The integration tests, in one binary.

mod cli;
mod enrollment;
mod faults;
mod kit;
mod licensing;
mod merkle;
mod store_contract;
mod tidy;
mod token_contract;
mod xrml;
