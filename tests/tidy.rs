//! Rules about the source itself: rooms and their imports, sizes, leftovers, reasons. Each rule is proved on samples too.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use words::{code_only, words};

mod samples;
mod words;

/// A row: a room, or a part of one (the longest path wins), and the rooms that it may import beside itself.
/// `error`, `secret`, `clock` and `faultpoint` are free to all. `*` is everything.
const ROOMS: &[(&str, &str)] = &[
    ("lib", "*"),
    ("main", "*"),
    ("error", ""),
    ("secret", ""),
    ("clock", ""),
    ("faultpoint", ""),
    ("caller", ""),
    ("key", ""),
    ("tls", "key"),
    ("cluster", "key"),
    ("audit", "caller key"),
    ("policy", "caller key"),
    ("xrml", "key"),
    ("token", "key"),
    ("store", "key audit"),
    ("sink", "audit store"),
    ("custody", "caller key cluster tls policy audit xrml token store"),
    ("approval", "caller key cluster policy audit xrml token store"),
    ("issuance", "caller key cluster policy xrml custody"),
    ("enrollment", "caller key cluster tls policy audit xrml custody store"),
    ("ceremony", "caller key"),
    ("ceremony/run", "caller key cluster policy xrml custody store"),
    ("grpc", "caller key cluster tls policy audit xrml sink custody approval issuance enrollment ceremony"),
    ("http", "caller key cluster tls policy audit xrml custody approval issuance enrollment ceremony"),
    ("cli", "caller key cluster tls audit xrml custody enrollment ceremony grpc config serve"),
    // What these do needs no service: they have a directory of their own, or one that no service has open.
    ("cli/host", "token"),
    ("cli/probe", "caller custody token config serve"),
    ("cli/init", "caller custody enrollment token config serve"),
    ("cli/token", "caller audit custody grpc policy store config serve"),
    ("cli/config", "audit tls config serve"),
    ("cli/backup", "caller audit grpc policy store config serve"),
    ("cli/bench/audit", "caller audit store"),
    ("cli/bench/bare", "key token config serve"),
    ("cli/bench/token", "key token serve"),
    ("config", "cluster"),
    ("serve", "*"),
];
const GROUND: &[&str] = &["error", "secret", "clock", "faultpoint"];

/// Words of code that belong to one room alone.
const ONLY_IN: &[(&str, &str)] = &[
    ("cryptoki", "token"),
    ("tss_esapi", "token"),
    ("unsafe", "token"),
    ("sqlx", "store"),
    ("tonic", "grpc"),
    ("axum", "http"),
];

/// Rooms without IO and waiting, and the words of code that would bring them in.
const PURE: &[&str] = &["policy", "audit", "xrml", "ceremony"];
const IMPURE: &[&str] = &["fs", "net", "process", "env", "tokio", "async", "await"];

const LINES_MAX: usize = 600;

/// Words that say that something is not finished. Written apart, for this file is looked at too.
const LEFTOVERS: &[&str] = &[
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("HA", "CK"),
    concat!("db", "g!"),
    concat!("to", "do!"),
    concat!("unimple", "mented!"),
    concat!("#[ig", "nore"),
];

/// Beginnings of paths and names of hosts that exist on somebody's machine only.
const MACHINES: &[&str] = &[
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
    concat!("/tm", "p/h/"),
    concat!("artif", "actory"),
    concat!("index.crates", ".io"),
    concat!("static.crates", ".io"),
    concat!("pypi", ".org"),
    concat!("npmjs", ".org"),
    concat!("deb.debian", ".org"),
];

#[test]
fn rooms_import_only_what_the_table_allows() {
    none(each(&tree(), |f| f.path.starts_with("src/"), |f| imports(room_path(&f.path), &f.text)));
}

#[test]
fn source_files_have_at_most_600_lines_and_begin_with_their_purpose() {
    none(each(&tree(), |f| f.is_rust(), |f| [too_long(&f.text), no_purpose(&f.text)].concat()));
}

#[test]
fn no_leftovers_and_no_machine_of_ours_in_any_file() {
    let files = tree();
    let mut found = each(&files, |f| f.is_written_by_hand(), |f| leftovers(&f.text));
    found.extend(each(&files, |_| true, |f| machines(&f.text)));
    none(found);
}

#[test]
fn every_source_file_is_declared_by_a_module() {
    none(undeclared(&tree()));
}

#[test]
fn every_dependency_says_why_it_is_there() {
    none(unreasoned_dependencies(&read("Cargo.toml")));
}

#[test]
fn the_readme_states_the_rust_version_of_the_manifest() {
    none(rust_version_unstated(&read("Cargo.toml"), &read("README.md")));
}

#[test]
fn the_documented_error_reasons_are_those_of_the_source() {
    none(reasons_differ(&read("src/error.rs"), &read("docs/errors.md")));
}

/// A text file of the project, by its path from the top.
struct File {
    path: String,
    text: String,
}

impl File {
    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Neither a lock file nor a licence nor material that tests only read.
    fn is_written_by_hand(&self) -> bool {
        let copied = ["tests/vectors/", "tests/golden/", "LICENSE"];
        !self.path.ends_with(".lock") && !copied.iter().any(|c| self.path.starts_with(c))
    }
}

/// Every text file, but for those of version control and of builds.
fn tree() -> Vec<File> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    let mut folders = vec![top.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(top).unwrap().to_str().unwrap().to_owned();
            if [".git", "target", "fuzz/target", "node_modules"].contains(&name.as_str())
                || name.ends_with("__pycache__")
            {
                continue;
            } else if path.is_dir() {
                folders.push(path);
            } else if let Ok(text) = fs::read_to_string(&path) {
                files.push(File { path: name, text });
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn each(files: &[File], which: impl Fn(&File) -> bool, rule: impl Fn(&File) -> Vec<String>) -> Vec<String> {
    let faults = |f: &File| rule(f).into_iter().map(|fault| format!("{}: {fault}", f.path)).collect::<Vec<_>>();
    files.iter().filter(|f| which(f)).flat_map(faults).collect()
}

#[track_caller]
fn none(faults: Vec<String>) {
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

/// `src/audit/chain.rs` is `audit/chain`, `src/audit/mod.rs` is `audit`.
fn room_path(path: &str) -> &str {
    let path = path.trim_start_matches("src/").trim_end_matches(".rs");
    path.strip_suffix("/mod").unwrap_or(path)
}

fn imports(path: &str, text: &str) -> Vec<String> {
    let row = ROOMS
        .iter()
        .filter(|(room, _)| path == *room || path.strip_prefix(room).is_some_and(|rest| rest.starts_with('/')))
        .max_by_key(|(room, _)| room.len());
    let Some((part, allowed)) = row else {
        return vec!["this room has no row in the table of tests/tidy.rs".into()];
    };
    let room = path.split('/').next().unwrap_or(path);
    let allowed: Vec<&str> = allowed.split(' ').collect();
    let code = without_tests(&code_only(text));
    let words = words(&code);
    let mut faults = BTreeSet::new();
    for head in crate_heads(&words) {
        let free = head == room || GROUND.contains(&head) || allowed == ["*"] || allowed.contains(&head);
        if !free {
            faults.insert(format!("`{part}` may not import `crate::{head}`"));
        }
    }
    for (word, home) in ONLY_IN {
        if room != *home && words.contains(word) {
            faults.insert(format!("`{word}` belongs in `{home}` alone"));
        }
    }
    for word in IMPURE.iter().filter(|_| PURE.contains(&room) && path != "ceremony/run") {
        if words.contains(word) {
            faults.insert(format!("`{room}` is pure: no `{word}`"));
        }
    }
    if room == "xrml" && crate_heads(&words).contains(&"clock") {
        faults.insert("`xrml` has no clock: the time is an argument".into());
    }
    if words.windows(3).any(|w| w == ["super", "::", "super"]) {
        faults.insert("`super::super` hides which room is meant: write `crate::…`".into());
    }
    // In a file directly below `src` the parent is the crate, so `super::store` would name a room unseen.
    let outer = words.windows(3).filter(|w| w[0] == "super" && w[1] == "::").map(|w| w[2]);
    for name in outer.filter(|n| !path.contains('/') && ROOMS.iter().any(|(room, _)| room == n)) {
        faults.insert(format!("write `crate::{name}`, not `super::{name}`"));
    }
    faults.into_iter().collect()
}

/// The rooms named after `crate::`, singly or in braces.
fn crate_heads<'a>(words: &[&'a str]) -> BTreeSet<&'a str> {
    let mut heads = BTreeSet::new();
    for at in (2..words.len()).filter(|at| words[at - 2] == "crate" && words[at - 1] == "::") {
        if words[at] != "{" {
            heads.insert(words[at]);
            continue;
        }
        let mut depth = 0;
        for (i, word) in words.iter().enumerate().skip(at) {
            match *word {
                "{" => depth += 1,
                "}" => depth -= 1,
                head if depth == 1 && matches!(words[i - 1], "{" | ",") => drop(heads.insert(head)),
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    heads
}

/// Unit tests stand at the end of a file and may use what the room may not.
fn without_tests(code: &str) -> String {
    match code.find("#[cfg(test)]\nmod ").or_else(|| code.find("#[cfg(test)]\n#[allow")) {
        Some(at) => code[..at].to_owned(),
        None => code.to_owned(),
    }
}

fn too_long(text: &str) -> Vec<String> {
    let lines = text.lines().count();
    if lines > LINES_MAX { vec![format!("{lines} lines, at most {LINES_MAX}: split it by noun")] } else { vec![] }
}

fn no_purpose(text: &str) -> Vec<String> {
    if text.starts_with("//! ") { vec![] } else { vec!["the first line is not `//!` with the file's purpose".into()] }
}

fn leftovers(text: &str) -> Vec<String> {
    find(text, |line| {
        let whole = |mark: &str, at: usize| {
            let joins = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
            !joins(line[..at].chars().next_back()) && !joins(line[at + mark.len()..].chars().next())
        };
        LEFTOVERS.iter().find(|mark| line.match_indices(**mark).any(|(at, _)| whole(mark, at))).copied()
    })
}

fn machines(text: &str) -> Vec<String> {
    find(text, |line| MACHINES.iter().find(|m| line.contains(**m)).copied())
}

fn find<'a>(text: &str, what: impl Fn(&str) -> Option<&'a str>) -> Vec<String> {
    text.lines().zip(1..).filter_map(|(line, n)| what(line).map(|mark| format!("line {n}: `{mark}`"))).collect()
}

/// Source files that no `mod` names and no `path` of the manifest.
fn undeclared(files: &[File]) -> Vec<String> {
    let text = |path: &str| files.iter().find(|f| f.path == path).map(|f| f.text.as_str());
    let declared = |path: &str| {
        let (folder, file) = path.rsplit_once('/').unwrap_or(("", path));
        let (folder, name) = match file {
            "mod.rs" => folder.rsplit_once('/').unwrap_or(("", folder)),
            _ => (folder, file.trim_end_matches(".rs")),
        };
        let parents = [
            format!("{folder}/lib.rs"),
            format!("{folder}/main.rs"),
            format!("{folder}/mod.rs"),
            format!("{folder}.rs"),
        ];
        parents.iter().filter(|p| *p != path).filter_map(|p| text(p)).any(|parent| {
            let code = code_only(parent);
            words(&code).windows(3).any(|w| w == ["mod", name, ";"])
        })
    };
    let manifest = text("Cargo.toml").unwrap_or_default();
    let roots = ["src/lib.rs", "src/main.rs"];
    // The root of a package of its own is declared by its manifest.
    let is_root = |path: &str| {
        path.strip_suffix("src/lib.rs").is_some_and(|folder| text(&format!("{folder}Cargo.toml")).is_some())
    };
    files
        .iter()
        .filter(|f| f.is_rust() && (f.path.starts_with("src/") || f.path.starts_with("tests/")))
        .filter(|f| !is_root(&f.path))
        .filter(|f| !roots.contains(&f.path.as_str()) && !manifest.contains(&format!("\"{}\"", f.path)))
        .filter(|f| !declared(&f.path))
        .map(|f| format!("{}: no `mod` declares it, so it is never compiled", f.path))
        .collect()
}

/// A comment serves the lines below it up to a blank line.
fn unreasoned_dependencies(manifest: &str) -> Vec<String> {
    let (mut listed, mut reasoned, mut faults) = (false, false, Vec::new());
    for line in manifest.lines() {
        if line.starts_with('[') {
            listed = line.trim_end_matches(']').ends_with("dependencies");
            reasoned = false;
        } else if line.starts_with('#') {
            reasoned = true;
        } else if line.trim().is_empty() {
            reasoned = false;
        } else if listed && !reasoned && line.starts_with(|c: char| c.is_ascii_alphabetic()) {
            faults.push(format!("Cargo.toml: no comment says why: {line}"));
        }
    }
    faults
}

fn rust_version_unstated(manifest: &str, readme: &str) -> Vec<String> {
    let version = manifest.lines().find_map(|l| l.strip_prefix("rust-version = ")).map(|v| v.trim_matches('"'));
    match version {
        Some(version) if readme.contains(&format!("Rust {version}")) => vec![],
        Some(version) => vec![format!("README.md does not say `Rust {version}`")],
        None => vec!["Cargo.toml has no rust-version".into()],
    }
}

/// A reason of the source is a line `Variant "CODE" Fault "meaning"`; a documented one stands in a table row's first cell.
fn reasons_differ(source: &str, docs: &str) -> Vec<String> {
    let is_code = |code: &&str| !code.is_empty() && code.chars().all(|c| c.is_ascii_uppercase() || c == '_');
    let coded = |line: &'_ str| line.split('"').nth(1).map(str::to_owned).filter(|c| is_code(&c.as_str()));
    let real: BTreeSet<String> = source.lines().filter(|l| l.split('"').count() == 5).filter_map(coded).collect();
    let told: BTreeSet<String> = docs
        .lines()
        .filter_map(|l| l.strip_prefix("| `")?.split('`').next())
        .filter(is_code)
        .map(str::to_owned)
        .collect();
    let untold = real.difference(&told).map(|code| format!("docs/errors.md has no row for `{code}`"));
    let unreal = told.difference(&real).map(|code| format!("docs/errors.md has `{code}`, src/error.rs has not"));
    let empty = real.is_empty().then(|| "src/error.rs: no reason found".to_owned());
    untold.chain(unreal).chain(empty).collect()
}
