//! The corpora of the fuzz targets and all vectors, replayed through the same functions without a fuzzer.

use std::path::{Path, PathBuf};

use super::vectors;

#[path = "../../fuzz/src/lib.rs"]
#[allow(unreachable_pub, reason = "a library of its own for the fuzzer, a module here")]
pub(super) mod fuzz;

type Target = fn(&[u8]);

/// The targets by their names.
const TARGETS: [(&str, Target); 7] = [
    ("documents", fuzz::documents),
    ("markup", fuzz::markup),
    ("kinds", fuzz::kinds),
    ("sealed", fuzz::sealed),
    ("rights_data", fuzz::rights_data),
    ("request", fuzz::request),
    ("response", fuzz::response),
];

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let (folders, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    folders.iter().flat_map(|folder| self::files(folder)).chain(files).collect()
}

#[test]
fn every_corpus_and_vector_goes_through_every_target() {
    let corpus: PathBuf = [env!("CARGO_MANIFEST_DIR"), "fuzz", "corpus"].iter().collect();
    let inputs = [files(&corpus), files(&vectors::path(""))].concat();
    assert!(inputs.len() > 80, "{} inputs", inputs.len());
    for input in inputs {
        let bytes = std::fs::read(&input).unwrap();
        for (name, target) in TARGETS {
            let outcome = std::panic::catch_unwind(|| target(&bytes));
            assert!(outcome.is_ok(), "{name} over {}", input.display());
        }
    }
}

#[test]
fn every_target_has_its_file_and_its_seeds() {
    for (name, _) in TARGETS {
        let at = |parts: &[&str]| [env!("CARGO_MANIFEST_DIR"), "fuzz"].iter().chain(parts).collect::<PathBuf>();
        assert!(at(&["fuzz_targets", &format!("{name}.rs")]).is_file(), "{name}");
        assert!(!files(&at(&["corpus", name])).is_empty(), "{name}");
    }
}

/// A target that turned every seed away at the door would look at nothing.
#[test]
fn the_seeds_of_request_and_response_are_taken() {
    let seeds = |name: &str| {
        let folder = [env!("CARGO_MANIFEST_DIR"), "fuzz", "corpus", name].iter().collect::<PathBuf>();
        files(&folder).into_iter().map(|path| (std::fs::read(&path).unwrap(), path)).collect::<Vec<_>>()
    };
    for (bytes, path) in seeds("request") {
        let is_good = keyward::enrollment::request::Request::read(&bytes).is_ok();
        assert_eq!(is_good, !path.ends_with("standard-with-authorities"), "{}", path.display());
    }
    assert!(seeds("documents").iter().any(|(bytes, _)| fuzz::is_vouched_for(bytes)), "no seed reaches the pin");
    for (bytes, path) in seeds("response") {
        assert_eq!(fuzz::is_taken(&bytes), !path.ends_with("another-order"), "{}", path.display());
    }
}
