//! Tokens in the service that say nothing: what waits for them, and what does not.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::PathBuf;

use crate::kit::Instance;
use crate::kit::token::faulty::faulty_profile;
use crate::tokens::{becomes, sign};

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
