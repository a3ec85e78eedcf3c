//! What callers get while nothing can be recorded, and that the service goes on by itself when it can again.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use keyward::error::{Error, Reason};
use keyward::grpc::client::{Connection, failed};
use tonic_types::StatusExt;

use crate::kit::postgres::Postgres;
use crate::kit::token::built;
use crate::kit::token::faulty::fail_by_script;
use crate::kit::{Draft, Instance, KEYWARD, events, eventually, until_serving};

/// A running instance with an enrolled cluster, and a node of it.
struct Place {
    instance: Instance,
    draft: Draft,
    node: Connection,
}

impl Place {
    async fn new(mut instance: Instance, environment: &[(&str, &str)]) -> Self {
        instance.start();
        instance.cluster("demo");
        instance.node("demo", "node-1");
        let draft = instance.draft("demo");
        assert_eq!(instance.stop(), Some(0));
        instance.start_with(environment);
        let node = instance.connect("node-1").await;
        Place { instance, draft, node }
    }

    async fn sign(&self, within: Duration) -> Result<(), Error> {
        let mut request = tonic::Request::new(self.draft.request("clusters/demo"));
        request.set_timeout(within);
        let begun = Instant::now();
        let signed = self.node.licensing().sign_document(request).await;
        assert!(begun.elapsed() < within + Duration::from_secs(2), "{:?}", begun.elapsed());
        signed.map(drop).map_err(|status| {
            assert_eq!(status.code(), tonic::Code::Unavailable, "{status:?}");
            assert!(status.get_details_retry_info().is_some(), "{status:?}");
            failed(status)
        })
    }

    /// Nothing can be recorded: each caller learns so in its time, and readiness is gone.
    async fn is_away(&self) {
        for _ in 0..3 {
            let fault = self.sign(Duration::from_millis(700)).await.unwrap_err();
            assert_eq!(fault.reason(), Reason::StoreUnavailable, "{fault:?}");
            assert!(fault.next_step().is_some());
        }
        until_serving(&self.instance, false).await;
        let fault = self.sign(Duration::from_secs(8)).await.unwrap_err();
        assert_eq!(fault.reason(), Reason::StoreUnavailable, "{fault:?}");
    }

    /// It can again, and nobody did anything.
    async fn is_back(&self) {
        until_serving(&self.instance, true).await;
        self.sign(Duration::from_secs(8)).await.unwrap();
    }

    /// Signatures that the token was asked for.
    fn asked(&self) -> usize {
        let log = self.instance.log();
        let refused = |event: &&serde_json::Value| event["result"]["is"] == "refused";
        let acts = events(&log, "intent").iter().filter(|event| event["act"]["do"] == "sign-document").count();
        acts - events(&log, "outcome").into_iter().filter(refused).count()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_database_server_is_gone_nothing_is_signed_and_afterwards_it_goes_on() {
    let mut server = Postgres::start();
    let place = Place::new(Instance::in_database(&server, "a"), &[]).await;
    place.sign(Duration::from_secs(8)).await.unwrap();
    for _ in 0..2 {
        server.kill();
        place.is_away().await;
        server.restart();
        place.is_back().await;
    }
    assert_eq!(place.asked(), 3);
}

#[test]
fn a_service_whose_database_goes_away_while_it_waits_for_its_token_waits_for_both_and_then_serves() {
    let mut server = Postgres::start();
    let mut instance = Instance::in_database(&server, "a");
    let script = fail_by_script(&instance);
    fs::write(&script, "C_OpenSession always return 0x30").unwrap();
    instance.start_waiting();
    server.kill();
    let said = |words| fs::read_to_string(instance.path("serve.log")).unwrap().contains(words);
    eventually("it knows that the database is away", || said("nothing can be recorded"));
    fs::write(&script, "").unwrap();
    server.restart();
    instance.wait_for_line("ready");
}

/// A failover to a copy that lacks the last records.
#[tokio::test(flavor = "multi_thread")]
async fn over_a_database_that_went_back_in_time_nothing_is_recorded_until_the_newer_one_is_back() {
    let mut server = Postgres::start();
    let place = Place::new(Instance::in_database(&server, "a"), &[]).await;
    server.kill();
    until_serving(&place.instance, false).await;
    server.set_aside();
    server.restart();
    place.is_back().await;
    place.sign(Duration::from_secs(8)).await.unwrap();

    server.kill();
    server.exchange();
    server.restart();
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        let answer = place.node.licensing().sign_document(place.draft.request("clusters/demo")).await;
        let fault = failed(answer.expect_err("nothing is signed over an older log"));
        match fault.reason() {
            Reason::StoreRewound => break assert!(fault.next_step().is_some()),
            Reason::StoreUnavailable => assert!(Instant::now() < end, "{fault:?}"),
            _ => panic!("{fault:?}"),
        }
    }
    until_serving(&place.instance, false).await;

    server.kill();
    server.exchange();
    server.restart();
    place.is_back().await;
    assert_eq!(place.asked(), 3);
}

/// The server ends the connection after the commit and before its answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_answer_alone_is_lost_has_happened() {
    const END_WHO_WAITS: &str = "DO $$ BEGIN \
        LOOP \
            EXIT WHEN (SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'SyncRep') > 0; \
            PERFORM pg_sleep(0.01), pg_stat_clear_snapshot(); \
        END LOOP; END $$";
    let server = Postgres::start();
    let place = Place::new(Instance::in_database(&server, "a"), &[]).await;
    place.sign(Duration::from_secs(8)).await.unwrap();
    server.wait_for_standby("nobody");
    let ended = async {
        tokio::task::block_in_place(|| server.sql(END_WHO_WAITS));
        server.wait_for_standby("");
    };
    let (signed, ()) = tokio::join!(place.sign(Duration::from_secs(20)), ended);
    signed.unwrap();
    assert_eq!(place.asked(), 2);
}

/// The server makes commits durable and does not say so: it waits for a standby that there is not.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_happened_and_was_not_answered_leaves_no_intent_open_and_no_outcome_twice() {
    let server = Postgres::start();
    let place = Place::new(Instance::in_database(&server, "a"), &[]).await;
    let mut signed = 0;
    server.wait_for_standby("nobody");
    let fault = loop {
        match place.sign(Duration::from_secs(8)).await {
            Ok(()) => signed += 1,
            Err(fault) => break fault,
        }
    };
    assert_eq!(fault.reason(), Reason::StoreUnavailable, "{fault:?}");
    place.is_away().await;
    server.wait_for_standby("");
    place.is_back().await;
    let log = place.instance.closed_log();
    let done = events(&log, "outcome").into_iter().filter(|event| event["result"]["is"] == "done").count();
    assert!(done > signed, "{done} outcomes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_server_that_hangs_costs_its_callers_their_deadline_and_no_more() {
    let server = Postgres::start();
    let place = Place::new(Instance::in_database(&server, "a"), &[]).await;
    place.sign(Duration::from_secs(8)).await.unwrap();
    server.signal("-STOP");
    until_serving(&place.instance, false).await;
    place.is_away().await;
    server.signal("-CONT");
    place.is_back().await;
    assert_eq!(place.asked(), 2);
}

/// The disk takes a commit and does not end it: held at the point where the records go to the database.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_hangs_costs_its_callers_their_deadline_and_no_more() {
    let instance = Instance::new();
    let held = instance.path("held");
    let wanted = format!("@{}", held.display());
    let mut place = Place::new(instance, &[("KEYWARD_FAULTPOINT", &wanted)]).await;
    place.sign(Duration::from_secs(8)).await.unwrap();
    fs::write(&held, "before-commit:sign-document").unwrap();
    place.is_away().await;
    place.instance.wait_for_line("faultpoint before-commit:sign-document");
    fs::remove_file(&held).unwrap();
    place.is_back().await;
    assert_eq!(place.asked(), 2, "what was recorded late was not done late");
}

/// Another process writes the file and does not end.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_another_process_holds_is_waited_for_no_longer_than_callers_have() {
    let place = Place::new(Instance::new(), &[]).await;
    place.sign(Duration::from_secs(8)).await.unwrap();
    let mut holder = Holder::new(&place.instance);
    place.is_away().await;
    holder.end();
    place.is_back().await;
    assert_eq!(place.asked(), 2);
}

/// A process in the middle of a write transaction.
pub(crate) struct Holder(Child);

impl Holder {
    pub(crate) fn new(instance: &Instance) -> Self {
        use std::io::Read;
        let script = "import sqlite3,sys; d=sqlite3.connect(sys.argv[1], isolation_level=None); \
                      d.execute('BEGIN IMMEDIATE'); print('x', end='', flush=True); sys.stdin.read()";
        let store = instance.data().join("keyward.db");
        let mut python = Command::new("python3");
        python.args(["-c", script]).arg(store).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = python.spawn().unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        Holder(child)
    }

    pub(crate) fn end(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.end();
    }
}

/// Every write of the service is refused with EROFS, also to files that it has open.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_system_that_becomes_read_only_stops_signing_until_it_can_be_written_again() {
    let instance = Instance::new();
    let (when, library) = (instance.path("read-only"), built("readonly", "libreadonly_files.so"));
    let environment = [("LD_PRELOAD", library.to_str().unwrap()), ("READONLY_WHEN", when.to_str().unwrap())];
    let place = Place::new(instance, &environment).await;
    place.sign(Duration::from_secs(8)).await.unwrap();
    for _ in 0..2 {
        fs::write(&when, "").unwrap();
        place.is_away().await;
        fs::remove_file(&when).unwrap();
        place.is_back().await;
    }
    assert_eq!(place.asked(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_said_so_and_signing_goes_on_when_there_is_room_again() {
    let mut place = Place::new(Instance::new(), &[]).await;
    assert_eq!(place.instance.stop(), Some(0));
    // No file may grow beyond 1 MiB: what a full disk does to the database, without filling one. A soft limit, so that it
    // can be lifted from a process that runs.
    let data = place.instance.data();
    let script = format!("trap '' XFSZ; ulimit -S -f 1024; exec {KEYWARD} serve {}", data.display());
    place.instance.start_as(Command::new("bash").arg("-c").arg(script));
    place.node = place.instance.connect("node-1").await;
    let mut signed = 0;
    let fault = loop {
        match place.sign(Duration::from_secs(8)).await {
            Ok(()) => signed += 1,
            Err(fault) => break fault,
        }
        assert!(signed < 4000, "the limit was never reached");
    };
    assert_eq!(fault.reason(), Reason::StoreUnavailable, "{fault:?}");
    place.is_away().await;
    let pid = place.instance.pid().to_string();
    let lifted = Command::new("prlimit").args(["--pid", &pid, "--fsize=unlimited:"]).status().unwrap();
    assert!(lifted.success());
    place.is_back().await;
    assert!(place.asked() > signed);
}

/// A minute passes before counts are recorded, and this waits for it.
#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_counted_once_though_nobody_knows_at_first_whether_the_count_was_recorded() {
    const FLOOD: u64 = 60;
    let mut server = Postgres::start();
    let instance = Instance::in_database(&server, "a");
    let held = instance.path("held");
    let wanted = format!("@{}", held.display());
    // So that nothing else is committed meanwhile.
    instance.reconfigure("checkpoint_seconds = 60", "checkpoint_seconds = 86400");
    let mut place = Place::new(instance, &[("KEYWARD_FAULTPOINT", &wanted)]).await;
    for _ in 0..FLOOD {
        let asked = place.draft.request("clusters/other");
        let refused = failed(place.node.licensing().sign_document(asked).await.unwrap_err());
        assert_eq!(refused.reason(), Reason::PermissionDenied);
    }
    fs::write(&held, "before-commit:record").unwrap();
    // The kit has less patience.
    tokio::time::sleep(Duration::from_secs(45)).await;
    place.instance.wait_for_line("faultpoint before-commit:record");
    // The commit happens, and neither its answer comes nor that to the question what became of it.
    server.wait_for_standby("nobody");
    fs::remove_file(&held).unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    server.kill();
    until_serving(&place.instance, false).await;
    server.restart();
    server.wait_for_standby("");
    place.is_back().await;
    let said = fs::read_to_string(place.instance.path("serve.log")).unwrap();
    assert!(
        !said.contains("no transaction in progress"),
        "the server warns of what is done while nothing is to be done"
    );
    let counted = || {
        let log = place.instance.log();
        let counts = events(&log, "refusals-counted").into_iter();
        counts.filter_map(|event| event["counts"]["sign-document PERMISSION_DENIED"].as_u64()).sum::<u64>()
    };
    // Longer than it waits before it tries again.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let log = place.instance.log();
    let single =
        events(&log, "refusal").into_iter().filter(|event| event["operation"] == "sign-document").count() as u64;
    assert_eq!(single + counted(), FLOOD);
}
