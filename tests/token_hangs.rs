//! Tokens in the service that say nothing: what waits for them, and what does not.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::kit::token::faulty::faulty_profile;
use crate::kit::{Instance, eventually};
use crate::tokens::{becomes, replica, sign, with_copy};

/// Puts the faulty module in front of a token that has this profile in the configuration; gives its script.
fn behind_faulty(instance: &Instance, configured: &str, name: &str) -> PathBuf {
    let script = instance.path(&format!("script-{name}"));
    let profile = instance.path(&format!("{name}.toml"));
    fs::rename(faulty_profile(instance, &script), &profile).unwrap();
    instance.reconfigure(configured, &format!("profile = \"{}\"", profile.display()));
    script
}

/// The `[[token]]` table of an instance as another one may have it, under this name.
fn table_of(other: &Instance, name: &str) -> String {
    let text = fs::read_to_string(other.data().join("keyward.toml")).unwrap();
    let there = |path: &str| format!("\"{}\"", other.data().join(path).display());
    text[text.find("[[token]]").unwrap()..]
        .replace("name = \"main\"", &format!("name = \"{name}\""))
        .replace("\"token\"", &there("token"))
        .replace("\"pins/main.user\"", &there("pins/main.user"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_says_nothing_delays_neither_the_start_nor_the_return_of_another() {
    let (mut instance, other) = (Instance::with_cluster(), Instance::new());
    let draft = instance.draft("demo");
    assert_eq!(instance.stop(), Some(0));
    let main = behind_faulty(&instance, "profile = \"softhsm\"", "main");
    instance.configure(&format!("\n{}", table_of(&other, "second")));
    let second = behind_faulty(&instance, "profile = \"softhsm\"", "second");
    // Its probe key is being made for as long as this test takes.
    fs::write(&second, "C_GenerateKeyPair always hang").unwrap();
    instance.start();
    let node = instance.connect("node-1").await;
    sign(&node, &draft).await.unwrap();
    fs::write(&main, "* always return 0x32").unwrap();
    sign(&node, &draft).await.unwrap_err();
    becomes(&instance, "main", "failed");
    fs::write(&main, "").unwrap();
    becomes(&instance, "main", "healthy");
    sign(&node, &draft).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_callers_get_their_signatures_while_one_of_two_replicas_hangs() {
    let (mut instance, draft) = with_copy("profile = \"softhsm-copy\"\n");
    let script = behind_faulty(&instance, "profile = \"softhsm-copy\"", "copy");
    instance.start();
    let (signed, over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let mut callers = Vec::new();
    for _ in 0..8 {
        let (node, draft) = (instance.connect("node-1").await, draft.clone());
        let (signed, over) = (Arc::clone(&signed), Arc::clone(&over));
        callers.push(tokio::spawn(async move {
            while !over.load(Ordering::Relaxed) {
                sign(&node, &draft).await.unwrap();
                signed.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    for _ in 0..2 {
        let restarts = becomes(&instance, "copy", "healthy")["host_restarts"].as_u64();
        fs::write(&script, "C_Sign always hang").unwrap();
        becomes(&instance, "copy", "failed");
        // While it hangs, again and again, all go on.
        let so_far = signed.load(Ordering::Relaxed);
        eventually("they sign on", || signed.load(Ordering::Relaxed) >= so_far + 50);
        assert!(replica(&instance, "copy")["host_restarts"].as_u64() > restarts);
        fs::write(&script, "").unwrap();
    }
    becomes(&instance, "copy", "healthy");
    over.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.unwrap();
    }
    assert_eq!(replica(&instance, "main")["health"], "healthy");
    instance.log();
}
