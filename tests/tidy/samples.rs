//! The rules themselves on samples: each must find what it is for, and nothing else.

use super::*;

fn file(path: &str, text: &str) -> File {
    File { path: path.into(), text: text.into() }
}

#[test]
fn an_import_that_goes_up_is_found_in_every_way_of_writing_it() {
    for text in [
        "use crate::store::Batch;",
        "use crate::{key::KeyId, store};",
        "use crate::{\n    error::{Error, Result},\n    store::{Batch, Store},\n};",
        "fn f(s: &crate::store::Store) {}",
        "use super::super::store;",
    ] {
        assert_eq!(imports("audit/chain", text).len(), 1, "{text}");
    }
    assert_eq!(imports("policy", "use super::store::Batch;").len(), 1);
    assert_eq!(imports("attic", ""), ["this room has no row in the table of tests/tidy.rs"]);
}

#[test]
fn allowed_imports_comments_strings_and_unit_tests_are_not_found() {
    let text = r##"
            //! Not crate::store.
            use crate::{clock, error::{Error, Result}, key::KeyId};
            use super::record::Record; /* crate::token /* crate::store */ */
            const A: (&str, char, &str) = ("crate::store", '"', r#"crate::token "quoted" unsafe"#);
            fn f<'a>(x: &'a str) -> char { '\'' }
"##;
    assert_eq!(imports("audit/chain", text), Vec::<String>::new());
    assert_eq!(
        imports("audit/chain", "fn f() {}\n#[cfg(test)]\nmod tests { use crate::store; }"),
        Vec::<String>::new()
    );
    assert_eq!(imports("serve", "use crate::{store, token};"), Vec::<String>::new());
}

#[test]
fn the_longest_row_decides() {
    assert_eq!(imports("ceremony/run", "use crate::store::Store;"), Vec::<String>::new());
    assert_eq!(imports("ceremony/script", "use crate::store::Store;").len(), 1);
    assert_eq!(imports("ceremony/runner", "use crate::store::Store;").len(), 1);
}

#[test]
fn libraries_of_one_room_and_unsafe_are_found_elsewhere() {
    for (word, home) in ONLY_IN {
        let text = format!("use {word}::x;");
        assert_eq!(imports("serve", &text).len(), 1, "{word}");
        assert_eq!(imports(&format!("{home}/part"), &text), Vec::<String>::new(), "{word}");
    }
    assert_eq!(imports("serve", "fn f() { unsafe { g() } }").len(), 1);
    assert_eq!(imports("serve", "#![deny(unsafe_code)]"), Vec::<String>::new());
}

#[test]
fn pure_rooms_have_no_io_and_no_async_and_xrml_no_clock() {
    assert_eq!(imports("audit/verify", "use std::fs::File;").len(), 1);
    assert_eq!(imports("xrml/text", "pub async fn f() {}").len(), 1);
    assert_eq!(imports("xrml/text", "use crate::clock;").len(), 1);
    assert_eq!(imports("audit/verify", "use std::io::BufRead; use crate::clock;"), Vec::<String>::new());
}

#[test]
fn length_and_first_line_are_checked() {
    assert_eq!(too_long(&"\n".repeat(LINES_MAX)), Vec::<String>::new());
    assert_eq!(too_long(&"\n".repeat(LINES_MAX + 1)).len(), 1);
    assert_eq!(no_purpose("//! Why.\n"), Vec::<String>::new());
    assert_eq!(no_purpose("\n//! Why.\n").len(), 1);
    assert_eq!(no_purpose("//!\n").len(), 1);
}

#[test]
fn leftovers_and_machines_are_found_as_words_and_paths() {
    for mark in LEFTOVERS {
        assert_eq!(leftovers(&format!("a\n  {mark} b")), [format!("line 2: `{mark}`")], "{mark}");
    }
    assert_eq!(leftovers(concat!("a{XX", "XX} METHO", "DO HA", "CKNEY")), Vec::<String>::new());
    for name in MACHINES {
        assert_eq!(machines(&format!("see https://x{name}y")).len(), 1, "{name}");
    }
}

#[test]
fn a_file_without_a_declaration_is_found() {
    let files = [
        file("Cargo.toml", "path = \"tests/main.rs\""),
        file("src/lib.rs", "//! Map.\npub mod audit;\nmod key;\n// mod lost;"),
        file("src/audit/mod.rs", "//! A.\nmod chain;"),
        file("src/audit/chain.rs", "//! C."),
        file("src/audit/lost.rs", "//! L."),
        file("src/key.rs", "//! K."),
        file("src/lost.rs", "//! L."),
        file("src/empty/mod.rs", "//! E."),
        file("tests/main.rs", "//! T.\nmod tidy;\nmod kit;"),
        file("tests/tidy.rs", "//! T."),
        file("tests/kit/mod.rs", "//! K."),
        file("tests/kit/lost.rs", "//! L."),
    ];
    let lost: Vec<String> = undeclared(&files).iter().map(|f| f.split(':').next().unwrap().to_owned()).collect();
    assert_eq!(lost, ["src/audit/lost.rs", "src/lost.rs", "src/empty/mod.rs", "tests/kit/lost.rs"]);
}

#[test]
fn a_dependency_without_a_reason_is_found() {
    let manifest = "[package]\nname = \"a\"\n[dependencies]\n# Why.\na = \"1\"\nb = \"1\"\n\nc = \"1\"\n[dev-dependencies]\nd = \"1\"\n";
    let found: Vec<char> = unreasoned_dependencies(manifest).iter().filter_map(|f| f.chars().rev().nth(6)).collect();
    assert_eq!(found, ['c', 'd']);
}

#[test]
fn a_rust_version_that_differs_is_found() {
    let manifest = "rust-version = \"1.95\"\n";
    assert_eq!(rust_version_unstated(manifest, "Needs Rust 1.95."), Vec::<String>::new());
    assert_eq!(rust_version_unstated(manifest, "Needs Rust 1.94.").len(), 1);
    assert_eq!(rust_version_unstated("", "Rust 1.95").len(), 1);
}

#[test]
fn reasons_missing_on_either_side_are_found() {
    let source = "    NotFound \"NOT_FOUND\" Caller \"No object.\"\n    Lost \"LOST\" Bug \"Gone.\"\n";
    let docs = "| `NOT_FOUND` | caller |\n| `OLD` | caller |\n";
    assert_eq!(reasons_differ(source, docs).len(), 2);
    assert_eq!(reasons_differ(source, "| `LOST` |\n| `NOT_FOUND` |\n"), Vec::<String>::new());
    assert_eq!(reasons_differ("", "").len(), 1);
}
