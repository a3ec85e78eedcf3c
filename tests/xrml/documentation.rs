//! `docs/xrml.md` as a reader follows it.

use std::process::Command;

/// The fenced blocks of a text, each with the word that stands behind its fence.
fn blocks(text: &str) -> Vec<(&str, &str)> {
    let parts: Vec<&str> = text.split("```").collect();
    parts.iter().skip(1).step_by(2).filter_map(|block| block.split_once('\n')).collect()
}

#[test]
fn the_worked_example_prints_what_it_says() {
    let root = env!("CARGO_MANIFEST_DIR");
    let text = std::fs::read_to_string(format!("{root}/docs/xrml.md")).unwrap();
    let example = text.split_once("### By hand").unwrap().1.split_once("\n## ").unwrap().0;
    let blocks = blocks(example);
    let [("sh", hash), ("", digest), ("sh", check)] = blocks[..] else { panic!("{blocks:?}") };
    // The reader goes on in the same shell. The folder that the example makes is taken away again.
    let script = format!("set -euo pipefail\n{hash}\n{check}\nrm -r \"$out\"\n");
    let output = Command::new("bash").args(["-c", &script]).current_dir(root).output().expect("bash is needed");
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{printed}{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(printed, format!("{digest}Verified OK\n"));
    assert!(example.contains("`Verified OK`"));
    let license = std::fs::read_to_string(format!("{root}/tests/vectors/mode2/ul.xml")).unwrap();
    assert!(license.contains(digest.trim()), "the digest of the example is the one in the document");
}
