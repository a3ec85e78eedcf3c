//! The `xrml` room against its vectors, hostile input and its own writers.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod adversarial;
mod carriers;
mod chains;
mod commands;
mod corpus;
mod documentation;
mod forms;
mod independent;
mod kit;
mod licenses;
mod memory;
mod properties;
mod revocation;
mod rights;
mod sealed;
mod vectors;
