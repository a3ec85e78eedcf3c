//! A disk that is really full: a small file system in memory. Needs root, to mount it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::kit::load::{Load, all_recorded};
use crate::kit::{Instance, events, until_serving};

/// A file system of so many MiB, gone when this is.
struct Mount(PathBuf);

impl Mount {
    fn new(path: &Path, mebibytes: u32) -> Self {
        fs::create_dir(path).unwrap();
        let size = format!("size={mebibytes}m");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "keyward-test"]).arg(path).status().unwrap();
        assert!(mounted.success(), "this proof mounts a file system: run it as root");
        Mount(path.to_owned())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// Takes all room that is left.
fn fill(path: &Path) {
    let mut file = File::create(path).unwrap();
    for bytes in [1 << 20, 4096, 1] {
        while file.write_all(&vec![0; bytes]).and_then(|()| file.flush()).is_ok() {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_full_stops_signing_loses_nothing_and_signing_goes_on_when_there_is_room() {
    let mut instance = Instance::new();
    instance.start();
    instance.cluster("demo");
    instance.node("demo", "node-1");
    let draft = instance.draft("demo");
    assert_eq!(instance.stop(), Some(0));
    // The data directory moves onto the small file system.
    let (kept, data) = (instance.path("kept"), instance.data());
    fs::rename(&data, &kept).unwrap();
    let mount = Mount::new(&data, 48);
    let copied = Command::new("cp").arg("-a").arg(kept.join(".")).arg(&data).status().unwrap();
    assert!(copied.success());
    instance.start();
    let mut answered = Vec::new();
    for round in 0..5 {
        let load = Load::start(&instance, &draft, round, 8).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let filler = data.join("filler");
        fill(&filler);
        until_serving(&instance, false).await;
        assert!(!data.join("keyward.db-reserve").exists(), "the reserve is used");
        answered.extend(load.end().await);
        let node = instance.connect("node-1").await;
        assert!(node.licensing().sign_document(draft.request("clusters/demo")).await.is_err());
        fs::remove_file(&filler).unwrap();
        until_serving(&instance, true).await;
        assert!(data.join("keyward.db-reserve").exists(), "and set aside again");
        node.licensing().sign_document(draft.request("clusters/demo")).await.unwrap();
        let log = instance.closed_log();
        all_recorded(&log, &answered);
        let lost = events(&log, "outcome").iter().filter(|event| event["result"]["is"] == "unknown").count();
        println!(
            "full for the {}. time: {} answers, {} records, {lost} outcomes not known",
            round + 1,
            answered.len(),
            log.len()
        );
    }
    assert_eq!(instance.stop(), Some(0));
    drop(mount);
}
