//! Killed under load, again and again: the service, and the database server under it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::time::{Duration, Instant};

use crate::kit::load::{Load, all_recorded};
use crate::kit::postgres::Postgres;
use crate::kit::{Instance, until_serving};

const CYCLES: usize = 100;
const CALLERS: usize = 8;

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Victim {
    Service,
    Server,
}

/// After each kill, the log verifies, no intent stays open, and every answer that a caller ever received is in it.
async fn killed(victim: Victim, mut server: Option<Postgres>) {
    let begun = Instant::now();
    let mut instance = server.as_ref().map_or_else(Instance::new, |server| Instance::in_database(server, "a"));
    instance.start();
    instance.cluster("demo");
    instance.node("demo", "node-1");
    let draft = instance.draft("demo");
    let mut answered = Vec::new();
    for cycle in 0..CYCLES {
        let load = Load::start(&instance, &draft, cycle, CALLERS).await;
        let [random]: [u8; 1] = keyward::clock::random().unwrap();
        tokio::time::sleep(Duration::from_micros(50_000 + u64::from(random) * 1_000)).await;
        match (victim, &mut server) {
            (Victim::Server, Some(server)) => {
                server.kill();
                tokio::time::sleep(Duration::from_micros(u64::from(random) * 100)).await;
                server.restart();
                until_serving(&instance, true).await;
                answered.extend(load.end().await);
            }
            _ => {
                instance.kill();
                answered.extend(load.end().await);
                instance.start();
            }
        }
        all_recorded(&instance.closed_log(), &answered);
    }
    let log = instance.log();
    println!(
        "{victim:?} killed {CYCLES} times under {CALLERS} callers, {}: {} answers, all in a log of {} records that \
         verifies; {:.0?}",
        if server.is_some() { "records in PostgreSQL" } else { "records in SQLite" },
        answered.len(),
        log.len(),
        begun.elapsed(),
    );
    assert!(answered.len() > CYCLES);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_killed_on_a_file() {
    killed(Victim::Service, None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_killed_on_a_database() {
    killed(Victim::Service, Some(Postgres::start())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_server_killed_under_the_service() {
    killed(Victim::Server, Some(Postgres::start())).await;
}
