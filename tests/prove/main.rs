//! The long proofs: `make prove`. Each prints the figures that it found; the last ones stand in `docs/`.

mod disk;
mod kills;
#[path = "../kit/mod.rs"]
mod kit;

mod log;
mod service_cycles;
mod size;
mod token_cycles;
mod unseal_timing;
mod verify;
