//! What is promised of the watch over Consul, on a fake that counts.

#![allow(clippy::unwrap_used, reason = "a failure ends the test")]

use std::fs;
use std::time::Duration;

use landfall_core::registry::SourceState;
use landfall_registry::consul::{Consul, ConsulSettings};
use landfall_tests::conformance::Running;
use landfall_tests::fake_consul::{FakeConsul, Fault, entry};
use landfall_tests::fake_server::FakeRegistry as _;
use serde_json::json;
use tokio::time::{sleep, timeout};

const CONNECTIONS: usize = 64;

/// A Consul with `services` services of two instances each.
fn filled(services: usize) -> FakeConsul {
    let consul = FakeConsul::start();
    for service in 0..services {
        for instance in 0..2 {
            consul.register(an_entry(service, instance));
        }
    }
    consul
}

fn an_entry(service: usize, instance: usize) -> serde_json::Value {
    let address = format!("10.{}.{}.{instance}", service / 250, service % 250);
    let id = format!("s{service}-{instance}");
    entry(&format!("node-{instance}"), &format!("s{service}"), &id, &address, 8080)
}

fn settings(consul: &FakeConsul) -> ConsulSettings {
    ConsulSettings {
        connections_max: CONNECTIONS,
        wait: Duration::from_secs(3),
        timeout: Duration::from_secs(10),
        ..ConsulSettings::new(vec![consul.url().parse().unwrap()])
    }
}

fn start(settings: ConsulSettings) -> Running {
    Running::start(Box::new(Consul::new(settings)))
}

async fn until_services(running: &mut Running, count: usize) {
    let what = format!("{count} services are listed");
    running
        .until(&what, |state| {
            state.snapshot.as_ref().is_some_and(|s| s.services.len() == count)
                && state.doubt.is_none()
        })
        .await;
}

/// The paths asked for since there were `before` requests.
fn asked_since(consul: &FakeConsul, before: usize) -> Vec<String> {
    consul.requests().split_off(before)
}

/// Waits until nothing but long polls is under way.
async fn until_quiet(consul: &FakeConsul) {
    let mut known = 0;
    loop {
        sleep(Duration::from_millis(300)).await;
        let now = consul.requests().iter().filter(|request| !request.contains("index=")).count();
        if now == known {
            return;
        }
        known = now;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_among_a_thousand_services_costs_three_requests() {
    let consul = filled(1000);
    let mut running = start(settings(&consul));
    until_services(&mut running, 1000).await;
    until_quiet(&consul).await;
    let before = consul.requests().len();
    running.state.mark_unchanged();
    consul.register(an_entry(500, 7));
    timeout(Duration::from_secs(10), running.state.changed()).await.unwrap().unwrap();
    sleep(Duration::from_millis(200)).await;
    let asked = asked_since(&consul, before);
    // The service, its long poll, the summary again.
    assert_eq!(asked.len(), 3, "{asked:#?}");
    assert!(consul.waiting_max() <= CONNECTIONS, "{}", consul.waiting_max());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_takes_no_more_connections_than_allowed() {
    let consul = filled(300);
    let mut running = start(ConsulSettings { connections_max: 8, ..settings(&consul) });
    until_services(&mut running, 300).await;
    assert!(consul.waiting_max() <= 8, "{}", consul.waiting_max());
    // The names, the summary, the two revisions, and each service once.
    assert!(consul.requests().len() < 310, "{}", consul.requests().len());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_in_place_is_found() {
    let consul = filled(200);
    let mut running = start(settings(&consul));
    until_services(&mut running, 200).await;
    until_quiet(&consul).await;
    let mut edited = an_entry(123, 1);
    edited["Service"]["Port"] = json!(9);
    consul.register(edited);
    running
        .until("the new port is listed", |state| {
            state.snapshot.iter().flat_map(|s| s.services.values()).any(|service| {
                service.instances().iter().any(|i| i.ports.iter().any(|port| port.number == 9))
            })
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_output_of_checks_makes_nothing_be_read() {
    let consul = filled(200);
    let mut running = start(settings(&consul));
    until_services(&mut running, 200).await;
    until_quiet(&consul).await;
    running.state.mark_unchanged();
    let before = consul.requests().len();
    for _ in 0..20 {
        consul.touch_checks();
        sleep(Duration::from_millis(30)).await;
    }
    sleep(Duration::from_millis(300)).await;
    let asked = asked_since(&consul, before);
    assert!(!asked.iter().any(|request| request.contains("/health/service/")), "{asked:#?}");
    assert!(!running.state.has_changed().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn indexes_that_went_back_unseen_are_noticed() {
    for connections_max in [4, 64] {
        let consul = filled(20);
        let settle = Duration::from_secs(1);
        let mut running = start(ConsulSettings { connections_max, settle, ..settings(&consul) });
        until_services(&mut running, 20).await;
        until_quiet(&consul).await;
        // As behind a load balancer: no connection breaks.
        consul.lose_indexes();
        consul.register(an_entry(50, 0));
        until_services(&mut running, 21).await;
        consul.deregister("node-0", "s50-0");
        until_services(&mut running, 20).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consul_that_is_empty_at_the_start_is_doubted_for_a_while() {
    let consul = FakeConsul::start();
    let settle = Duration::from_secs(3);
    let mut running = start(ConsulSettings { settle, ..settings(&consul) });
    for count in [0, 1] {
        let what = format!("{count} services are listed in doubt");
        let is_doubted = |state: &SourceState| {
            state.snapshot.as_ref().is_some_and(|snapshot| snapshot.services.len() == count)
                && state.doubt.as_ref().is_some_and(|doubt| doubt.code == "consul_empty")
        };
        running.until(&what, is_doubted).await;
        consul.register(an_entry(0, 0));
    }
    until_services(&mut running, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_token_is_taken_up() {
    let consul = filled(3);
    consul.set_token(Some("first"));
    let token = tempfile::NamedTempFile::new().unwrap();
    fs::write(token.path(), "first").unwrap();
    let token_file = Some(token.path().to_owned());
    let mut running = start(ConsulSettings { token_file, ..settings(&consul) });
    until_services(&mut running, 3).await;
    consul.set_token(Some("second"));
    running.until_doubted().await;
    assert_eq!(running.state.borrow().doubt.as_ref().map(|d| d.code), Some("consul_forbidden"));
    fs::write(token.path(), "second\n").unwrap();
    until_services(&mut running, 3).await;
    fs::write(token.path(), "").unwrap();
    consul.register(an_entry(4, 0));
    running
        .until("the empty file is told", |s| {
            s.doubt.as_ref().is_some_and(|d| d.code == "consul_credentials")
        })
        .await;
    fs::write(token.path(), "second").unwrap();
    until_services(&mut running, 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn access_rules_that_hide_everything_remove_nothing() {
    let token = tempfile::NamedTempFile::new().unwrap();
    fs::write(token.path(), "reader").unwrap();
    let token_file = Some(token.path().to_owned());
    for (token_file, code) in [(token_file, "consul_filtered"), (None, "consul_nothing_listed")] {
        // With a long poll for each service, and with the summary.
        for connections_max in [64, 4] {
            let consul = filled(20);
            consul.set_token(token_file.as_ref().map(|_| "reader"));
            let wait = Duration::from_millis(300);
            let token_file = token_file.clone();
            let settings =
                ConsulSettings { connections_max, wait, token_file, ..settings(&consul) };
            let mut running = start(settings);
            until_services(&mut running, 20).await;
            consul.set_fault(Some(Fault::HiddenByAcl));
            running.until_doubted().await;
            sleep(4 * wait).await;
            let state = running.state.borrow().clone();
            assert_eq!(state.snapshot.map(|s| s.services.len()), Some(20));
            assert_eq!(state.doubt.map(|doubt| doubt.code), Some(code));
            // What is gone meanwhile goes once it can be seen again that it is.
            consul.deregister("node-0", "s7-0");
            consul.deregister("node-1", "s7-1");
            consul.set_fault(None);
            until_services(&mut running, 19).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_address_takes_over() {
    let (mut first, second) = (filled(3), filled(3));
    let nobody = "http://127.0.0.1:1/".parse().unwrap();
    let urls = vec![nobody, first.url().parse().unwrap(), second.url().parse().unwrap()];
    let mut running = start(ConsulSettings { urls, ..settings(&first) });
    until_services(&mut running, 3).await;
    assert!(second.requests().is_empty());
    first.stop();
    second.register(an_entry(4, 0));
    until_services(&mut running, 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_namespace_is_watched() {
    let consul = FakeConsul::start();
    consul.set_namespaces(&["default", "team"]);
    for (n, namespace) in ["default", "team"].into_iter().enumerate() {
        let mut entry = an_entry(n, 0);
        entry["Service"]["Namespace"] = json!(namespace);
        consul.register(entry);
    }
    let namespaces = vec!["*".to_owned()];
    let mut running = start(ConsulSettings { namespaces, ..settings(&consul) });
    until_services(&mut running, 2).await;
    let keys: Vec<String> = {
        let state = running.state.borrow();
        state.snapshot.iter().flat_map(|s| s.services.keys()).map(ToString::to_string).collect()
    };
    assert_eq!(keys, ["dc1/default/s0", "dc1/team/s1"]);
}

/// An instance in another datacenter.
fn an_entry_in(datacenter: &str, service: usize) -> serde_json::Value {
    let mut entry = an_entry(service, 0);
    entry["Node"]["Datacenter"] = json!(datacenter);
    entry
}

#[tokio::test(flavor = "multi_thread")]
async fn a_datacenter_that_is_lost_at_the_start_keeps_no_other_silent() {
    let consul = FakeConsul::start();
    consul.register_all([an_entry(0, 0), an_entry_in("dc2", 1)]);
    consul.set_fault(Some(Fault::Only("dc=dc2".to_owned(), 500)));
    let datacenters = vec!["dc1".to_owned(), "dc2".to_owned()];
    let wait = Duration::from_millis(300);
    let mut running = start(ConsulSettings { datacenters, wait, ..settings(&consul) });
    for count in [1, 2] {
        let what = format!("{count} services are listed");
        let is_listed = |state: &SourceState| {
            state.snapshot.as_ref().is_some_and(|snapshot| snapshot.services.len() == count)
        };
        running.until(&what, is_listed).await;
        // Though the one that answers says again and again that it has nothing new.
        sleep(4 * wait).await;
        let doubt = running.state.borrow().doubt.clone();
        assert_eq!(doubt.map(|doubt| doubt.code), Some("consul_status"), "{count}");
        consul.register(an_entry(7, 0));
    }
    consul.set_fault(None);
    until_services(&mut running, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_datacenter_that_does_not_tell_its_namespaces_keeps_no_other_silent() {
    let consul = FakeConsul::start();
    consul.set_namespaces(&["default"]);
    consul.register(an_entry(0, 0));
    consul.set_fault(Some(Fault::Only("dc=dc2".to_owned(), 500)));
    let datacenters = vec!["dc1".to_owned(), "dc2".to_owned()];
    let namespaces = vec!["*".to_owned()];
    let mut running = start(ConsulSettings { datacenters, namespaces, ..settings(&consul) });
    running.until("one service is listed", |state| state.snapshot.is_some()).await;
    let state = running.state.borrow().clone();
    assert_eq!(state.snapshot.map(|snapshot| snapshot.services.len()), Some(1));
    assert_eq!(state.doubt.map(|doubt| doubt.code), Some("consul_status"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_without_namespaces_says_so() {
    let consul = filled(1);
    let namespaces = vec!["*".to_owned()];
    let mut running = start(ConsulSettings { namespaces, ..settings(&consul) });
    running.until_doubted().await;
    let message = running.state.borrow().doubt.clone().unwrap().message;
    assert!(message.contains("Consul Enterprise"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_summary_falls_back_to_the_other_views() {
    let consul = filled(200);
    let mut running = start(settings(&consul));
    until_services(&mut running, 200).await;
    consul.set_fault(Some(Fault::Only("internal".to_owned(), 500)));
    consul.register(an_entry(300, 0));
    until_services(&mut running, 201).await;
    consul.deregister("node-0", "s300-0");
    until_services(&mut running, 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_namespaces_share_the_connections() {
    let consul = FakeConsul::start();
    let names: Vec<String> = (0..20).map(|n| format!("team-{n}")).collect();
    let mut namespaces: Vec<&str> = names.iter().map(String::as_str).collect();
    namespaces.push("default");
    consul.set_namespaces(&namespaces);
    // Without a service of its own it would be in doubt.
    consul.register(an_entry(9000, 0));
    let put = |n: usize, service: usize| {
        let mut entry = an_entry(100 * n + service, 0);
        entry["Service"]["Namespace"] = json!(names[n]);
        consul.register(entry);
    };
    for n in 0..20 {
        (0..5).for_each(|service| put(n, service));
    }
    let settings = ConsulSettings {
        connections_max: 8,
        namespaces: vec!["*".to_owned()],
        wait: Duration::from_millis(300),
        ..settings(&consul)
    };
    let mut running = start(settings);
    until_services(&mut running, 101).await;
    // Their long polls take turns.
    (0..20).for_each(|n| put(n, 7));
    until_services(&mut running, 121).await;
    assert!(consul.waiting_max() <= 8, "{}", consul.waiting_max());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_namespaces_without_the_default_one_is_no_list() {
    let consul = filled(3);
    consul.set_namespaces(&["default"]);
    let namespaces = vec!["*".to_owned()];
    let mut running = start(ConsulSettings { namespaces: namespaces.clone(), ..settings(&consul) });
    until_services(&mut running, 3).await;
    for visible in [&[][..], &["team"]] {
        consul.set_namespaces(visible);
        let mut fresh =
            start(ConsulSettings { namespaces: namespaces.clone(), ..settings(&consul) });
        fresh.until_doubted().await;
        let state = fresh.state.borrow().clone();
        assert_eq!(state.doubt.map(|doubt| doubt.code), Some("consul_filtered"), "{visible:?}");
        assert_eq!(state.snapshot, None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_sees_a_part_is_a_doubt_unless_it_is_meant_so() {
    let token = tempfile::NamedTempFile::new().unwrap();
    fs::write(token.path(), "reader").unwrap();
    for connections_max in [64, 4] {
        for partial_view in [false, true] {
            let consul = filled(20);
            consul.set_token(Some("reader"));
            consul.set_fault(Some(Fault::HiddenInPart("s1".to_owned())));
            let token_file = Some(token.path().to_owned());
            let settings =
                ConsulSettings { connections_max, token_file, partial_view, ..settings(&consul) };
            // As after a restart: s1 and s10 to s19 are not known from before.
            let mut running = start(settings);
            let listed = running.until("nine are listed", |state| {
                state.snapshot.as_ref().is_some_and(|s| s.services.len() == 9)
            });
            listed.await;
            until_quiet(&consul).await;
            let doubt = running.state.borrow().doubt.clone();
            let code = (!partial_view).then_some("consul_filtered");
            assert_eq!(doubt.as_ref().map(|doubt| doubt.code), code);
            assert!(doubt.is_none_or(|doubt| doubt.message.contains("partialView")));
            consul.set_fault(None);
            until_services(&mut running, 20).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_that_trade_their_health_among_many_services_are_seen() {
    let consul = FakeConsul::start();
    let with_health = |instance: usize, status: &str| {
        let mut entry = an_entry(123, instance);
        entry["Checks"][0]["Status"] = json!(status);
        entry
    };
    for service in 0..200 {
        (0..2).for_each(|instance| consul.register(an_entry(service, instance)));
    }
    consul.register(with_health(0, "critical"));
    let mut running = start(settings(&consul));
    until_services(&mut running, 200).await;
    until_quiet(&consul).await;
    consul.register_all([with_health(0, "passing"), with_health(1, "critical")]);
    running
        .until("the other instance is well", |state| {
            let services = state.snapshot.iter().flat_map(|s| s.services.values());
            services.flat_map(|service| service.instances()).any(|instance| {
                &*instance.id == "node-1/s123-1" && instance.health.as_str() == "critical"
            })
        })
        .await;
}
