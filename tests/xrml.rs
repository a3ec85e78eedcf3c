//! The `xrml` room against its vectors, hostile input and its own writers.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod adversarial;
mod carriers;
mod chains;
mod vectors;
