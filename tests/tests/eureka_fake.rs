//! What is promised of the watch over Eureka, on a fake that counts.

#![allow(clippy::unwrap_used, reason = "a failure ends the test")]

use std::time::Duration;

use landfall_core::registry::{Health, SourceName, SourceState};
use landfall_core::time::Time;
use landfall_registry::eureka::{Eureka, EurekaSettings};
use landfall_registry::{Publisher, Source};
use landfall_tests::conformance::Running;
use landfall_tests::fake_eureka::{FakeEureka, Fault, instance};
use landfall_tests::fake_server::FakeRegistry as _;
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

const POLL: Duration = Duration::from_millis(200);
const FULL: &str = "/eureka/apps";
const DELTA: &str = "/eureka/apps/delta";

/// A Eureka with `apps` applications of two instances each.
fn filled(apps: usize) -> FakeEureka {
    let eureka = FakeEureka::start();
    for app in 0..apps {
        (0..2).for_each(|n| put(&eureka, app, n, 8080));
    }
    eureka
}

fn put(eureka: &FakeEureka, app: usize, n: usize, port: u16) {
    let address = format!("10.{}.{}.{n}", app / 250, app % 250);
    eureka.register(&format!("s{app}"), instance(&format!("s{app}-{n}"), &address, port));
}

fn settings(eureka: &[&FakeEureka]) -> EurekaSettings {
    EurekaSettings {
        poll: POLL,
        poll_in_full: 2 * POLL,
        settle: Duration::from_secs(3),
        lease_max: Duration::from_secs(3),
        timeout: Duration::from_secs(5),
        ..EurekaSettings::new(eureka.iter().map(|one| one.url().parse().unwrap()).collect())
    }
}

fn start(settings: EurekaSettings) -> Running {
    Running::start(Box::new(Eureka::new(settings)))
}

/// Waits until so many instances are listed, with this doubt.
async fn until_instances(running: &mut Running, count: usize, doubt: Option<&str>) {
    let what = format!("{count} instances are listed with doubt {doubt:?}");
    running
        .until(&what, |state| {
            let services = state.snapshot.iter().flat_map(|s| s.services.values());
            services.map(|service| service.instances().len()).sum::<usize>() == count
                && state.doubt.as_ref().map(|doubt| doubt.code) == doubt
        })
        .await;
}

fn count(requests: &[String], path: &str) -> usize {
    requests.iter().filter(|request| *request == path).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_services_cost_one_small_question_a_poll() {
    let eureka = filled(1000);
    let mut running = start(settings(&[&eureka]));
    until_instances(&mut running, 2000, None).await;
    assert_eq!(eureka.requests(), [FULL]);
    running.state.mark_unchanged();
    let began = Instant::now();
    sleep(10 * POLL).await;
    let asked = eureka.requests().split_off(1);
    // A pause is up to a tenth shorter than the poll. A busy machine may make it longer.
    let most = (began.elapsed().as_secs_f64() / POLL.as_secs_f64() / 0.9).ceil() as usize;
    assert_eq!(count(&asked, DELTA), asked.len(), "{asked:?}");
    assert!((2..=most).contains(&asked.len()), "{} and not up to {most}", asked.len());
    assert!(!running.state.has_changed().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_costs_nothing_more() {
    let eureka = filled(1000);
    let mut running = start(settings(&[&eureka]));
    until_instances(&mut running, 2000, None).await;
    running.state.mark_unchanged();
    put(&eureka, 500, 7, 8080);
    timeout(Duration::from_secs(10), running.state.changed()).await.unwrap().unwrap();
    until_instances(&mut running, 2001, None).await;
    eureka.deregister("s500", "s500-7");
    until_instances(&mut running, 2000, None).await;
    assert_eq!(count(&eureka.requests(), FULL), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_digest_that_differs_has_everything_read() {
    let eureka = filled(3);
    let mut running = start(settings(&[&eureka]));
    until_instances(&mut running, 6, None).await;
    // A change that was told while nobody listened.
    put(&eureka, 3, 0, 8080);
    eureka.lose_changes();
    until_instances(&mut running, 7, None).await;
    sleep(3 * POLL).await;
    assert_eq!(count(&eureka.requests(), FULL), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn digests_that_always_differ_are_given_up() {
    for fault in [Fault::WrongHash, Fault::NoHash] {
        let eureka = filled(3);
        let mut running = start(settings(&[&eureka]));
        until_instances(&mut running, 6, None).await;
        let useful = eureka.requests().len();
        eureka.set_fault(Some(fault.clone()));
        // Each that is of no use costs a full answer; two of those in a row are without any.
        let is_given_up = |asked: &[String]| asked.ends_with(&[FULL.to_owned(), FULL.to_owned()]);
        let given_up = async {
            while !is_given_up(&eureka.requests()[useful..]) {
                sleep(POLL / 4).await;
            }
        };
        timeout(Duration::from_secs(30), given_up).await.unwrap();
        let asked = eureka.requests();
        let before = count(&asked, DELTA);
        // Four of no use, and maybe one that was answered before the fault.
        assert!(count(&asked[useful..], DELTA) <= 5, "{fault:?}: {asked:?}");
        put(&eureka, 3, 0, 8080);
        until_instances(&mut running, 7, None).await;
        assert_eq!(count(&eureka.requests(), DELTA), before, "{fault:?}: {asked:?}");
        eureka.deregister("s3", "s3-0");
        until_instances(&mut running, 6, None).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_that_no_digest_shows_is_found() {
    let eureka = filled(3);
    let resync = Duration::from_secs(1);
    let mut running = start(EurekaSettings { resync, ..settings(&[&eureka]) });
    until_instances(&mut running, 6, None).await;
    put(&eureka, 1, 0, 9);
    eureka.lose_changes();
    running
        .until("the new port is listed", |state| {
            state.snapshot.iter().flat_map(|s| s.services.values()).any(|service| {
                service.instances().iter().any(|i| i.ports.iter().any(|port| port.number == 9))
            })
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_is_over_makes_critical_until_it_is_renewed() {
    const NOW_MS: u64 = 1_795_358_600_000;
    let eureka = FakeEureka::start();
    let renewed = |ago_ms: u64| {
        let mut one = instance("s0-0", "10.0.0.1", 8080);
        one["leaseInfo"]["lastRenewalTimestamp"] = json!(NOW_MS - ago_ms);
        eureka.register("s0", one);
        // As with a real renewal, nothing tells of it and no digest shows it.
        eureka.lose_changes();
    };
    renewed(1600);
    let stale_after = Some(Duration::from_millis(1500));
    let settings = EurekaSettings { stale_after, ..settings(&[&eureka]) };
    let name = SourceName::parse("dc1").unwrap();
    let (out, mut state) = Publisher::new(name, || Time::from_millis(NOW_MS));
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    tokio::spawn(Box::new(Eureka::new(settings)).run(out, stop));
    for (health, stale) in [(Health::Critical, Some("true")), (Health::Passing, None)] {
        let wanted = |state: &SourceState| {
            state.snapshot.iter().flat_map(|s| s.services.values()).any(|service| {
                let one = &service.instances()[0];
                one.health == health && one.ext.get("eureka.stale").map(|said| &**said) == stale
            })
        };
        timeout(Duration::from_secs(20), state.wait_for(wanted)).await.unwrap().unwrap();
        renewed(1400);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_started_empty_removes_nothing() {
    let eureka = filled(3);
    let mut running = start(settings(&[&eureka]));
    until_instances(&mut running, 6, None).await;
    eureka.forget_everything();
    until_instances(&mut running, 6, Some("eureka_empty")).await;
    // They register again, one after another.
    put(&eureka, 0, 0, 8080);
    until_instances(&mut running, 6, Some("eureka_forgotten")).await;
    (0..2).for_each(|n| put(&eureka, 1, n, 8080));
    put(&eureka, 0, 1, 8080);
    (0..2).for_each(|n| put(&eureka, 2, n, 8080));
    until_instances(&mut running, 6, None).await;
    // And again, with one of them back before anybody asked.
    let began = Instant::now();
    eureka.forget_everything();
    put(&eureka, 0, 0, 8080);
    until_instances(&mut running, 6, Some("eureka_forgotten")).await;
    // Whoever does not come is gone when a lease is over.
    until_instances(&mut running, 1, None).await;
    assert!(began.elapsed() >= Duration::from_secs(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_that_started_empty_tells_of_is_no_memory() {
    let eureka = filled(3);
    let mut running = start(settings(&[&eureka]));
    until_instances(&mut running, 6, None).await;
    // Its first answer is to what changed, and names one that has registered again.
    eureka.restart_with("s0", instance("s0-0", "10.0.0.0", 8080));
    until_instances(&mut running, 6, Some("eureka_forgotten")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_word_of_changes_a_lost_server_is_told_from_one_that_left() {
    let eureka = filled(3);
    eureka.set_no_delta(true);
    let settings = EurekaSettings { settle: Duration::from_secs(60), ..settings(&[&eureka]) };
    let mut running = start(settings);
    until_instances(&mut running, 6, None).await;
    // The server remembers the others, so nothing is waited for.
    eureka.deregister("s0", "s0-0");
    until_instances(&mut running, 5, None).await;
    // It started anew, and everybody but two registered again.
    eureka.forget_everything();
    (0..2).for_each(|app| put(&eureka, app, 1, 8080));
    put(&eureka, 1, 0, 8080);
    until_instances(&mut running, 5, Some("eureka_forgotten")).await;
    sleep(6 * POLL).await;
    until_instances(&mut running, 5, Some("eureka_forgotten")).await;
    // Whoever leaves from now on is remembered, and whoever comes back too.
    eureka.deregister("s1", "s1-0");
    (0..2).for_each(|n| put(&eureka, 2, n, 8080));
    until_instances(&mut running, 4, None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn time_without_an_answer_does_not_settle_anything() {
    let settle = Duration::from_secs(3);
    let mut eureka = filled(3);
    let mut running = start(settings(&[&eureka]));
    until_instances(&mut running, 6, None).await;
    eureka.forget_everything();
    let mut fresh = start(settings(&[&eureka]));
    until_instances(&mut running, 6, Some("eureka_empty")).await;
    fresh.until_doubted().await;
    eureka.stop();
    sleep(settle).await;
    let answers_from = Instant::now();
    eureka.listen();
    let again = async {
        until_instances(&mut running, 0, None).await;
        assert!(answers_from.elapsed() >= settle);
    };
    let first = async {
        fresh.until("it is believed", |s| s.snapshot.is_some() && s.doubt.is_none()).await;
        assert!(answers_from.elapsed() >= settle);
    };
    tokio::join!(again, first);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_first_listing_is_believed_after_a_lease() {
    let eureka = FakeEureka::start();
    let began = Instant::now();
    let mut running = start(settings(&[&eureka]));
    running.until_doubted().await;
    assert_eq!(running.state.borrow().snapshot, None);
    running.until("it is believed", |s| s.snapshot.is_some() && s.doubt.is_none()).await;
    assert!(began.elapsed() >= Duration::from_secs(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn less_than_the_digest_counts_is_no_listing() {
    let eureka = filled(3);
    eureka.set_fault(Some(Fault::Lacking));
    let mut running = start(settings(&[&eureka]));
    running.until_doubted().await;
    let state = running.state.borrow().clone();
    assert_eq!((state.snapshot, state.doubt.map(|d| d.code)), (None, Some("eureka_incomplete")));
    eureka.set_fault(None);
    until_instances(&mut running, 6, None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_server_takes_over_and_is_read_in_full() {
    let (mut first, second) = (filled(3), filled(3));
    let mut running = start(settings(&[&first, &second]));
    until_instances(&mut running, 6, None).await;
    sleep(3 * POLL).await;
    assert!(second.requests().is_empty());
    first.stop();
    put(&second, 3, 0, 8080);
    until_instances(&mut running, 7, None).await;
    sleep(3 * POLL).await;
    let asked = second.requests();
    assert_eq!((asked.first().map(String::as_str), count(&asked, FULL)), (Some(FULL), 1));
    // It stays with the one it has.
    first.listen();
    let before = first.requests().len();
    sleep(3 * POLL).await;
    assert_eq!(first.requests().len(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_ready_or_empty_is_passed_over() {
    for fault in [Fault::Status(403), Fault::Empty] {
        let (first, second) = (filled(3), filled(3));
        let mut running = start(settings(&[&first, &second]));
        until_instances(&mut running, 6, None).await;
        first.set_fault(Some(fault));
        put(&second, 3, 0, 8080);
        until_instances(&mut running, 7, None).await;
        let mut fresh = start(settings(&[&first, &second]));
        until_instances(&mut fresh, 7, None).await;
    }
}
