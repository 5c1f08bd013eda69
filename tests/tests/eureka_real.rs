//! The conformance suite over a real Eureka, Spring Cloud's.
//!
//! Needs `LANDFALL_EUREKA` and java; `make e2e` sets it.

#![allow(clippy::unwrap_used, reason = "a failure ends the test")]

use std::collections::BTreeMap;
use std::time::Duration;

use landfall_core::registry::Health;
use landfall_registry::Source;
use landfall_registry::eureka::{Eureka, EurekaSettings};
use landfall_tests::conformance::{
    self as cases, BREAKS, Break, Facts, Listed, Registry, Running, facts,
};
use landfall_tests::fake_eureka;
use landfall_tests::servers::{Eureka as EurekaServer, Fault, Proxy, process};
use serde_json::json;
use tokio::task::block_in_place;

/// A server behind a proxy that fails. A Java machine takes seconds to start, so the cases share
/// it.
struct Real {
    server: EurekaServer,
    proxy: Proxy,
    registered: BTreeMap<(String, String), Facts>,
}

impl Real {
    fn start(more: &'static [&'static str]) -> Self {
        block_in_place(|| {
            let server = EurekaServer::start(&process::folder(), more);
            let (proxy, registered) = (Proxy::start(server.port), BTreeMap::new());
            Self { server, proxy, registered }
        })
    }

    fn register(&self, service: &str, id: &str, facts: &Facts) {
        let mut instance = fake_eureka::instance(id, &facts.address, facts.port);
        instance["metadata"] = json!({"version": facts.version});
        // Nobody renews it while the tests run.
        instance["leaseInfo"] = json!({"renewalIntervalInSecs": 30, "durationInSecs": 3600});
        instance["status"] = json!(match facts.health {
            Health::Passing => "UP",
            Health::Maintenance => "OUT_OF_SERVICE",
            Health::Critical | Health::Warning | Health::Unknown => "DOWN",
        });
        self.server.register(service, &instance);
    }

    fn deregister(&self, service: &str, id: &str) {
        self.server.deregister(service, id);
    }

    /// Removes everything, for the next case.
    fn clear(&mut self) -> &mut Self {
        self.proxy.set(Fault::None);
        block_in_place(|| {
            for (service, id) in std::mem::take(&mut self.registered).into_keys() {
                self.deregister(&service, &id);
            }
            self.deregister("a", "bad");
        });
        self
    }
}

impl Registry for Real {
    fn source(&self) -> Box<dyn Source> {
        let url = format!("{}/eureka", self.proxy.url());
        Box::new(Eureka::new(EurekaSettings {
            poll: Duration::from_millis(200),
            poll_in_full: Duration::from_millis(200),
            settle: Duration::from_secs(5),
            lease_max: Duration::from_secs(5),
            timeout: Duration::from_secs(3),
            ..EurekaSettings::new(vec![url.parse().unwrap()])
        }))
    }

    fn healths(&self) -> &'static [Health] {
        &[Health::Critical, Health::Maintenance, Health::Passing]
    }

    fn put(&mut self, service: &str, id: &str, facts: &Facts) {
        block_in_place(|| {
            let key = (service.to_owned(), id.to_owned());
            let before = self.registered.insert(key, facts.clone());
            if before.is_some_and(|before| before.health != facts.health) {
                // The status of a lease that exists goes before that of a registration.
                self.deregister(service, id);
            }
            self.register(service, id, facts);
        });
    }

    fn remove(&mut self, service: &str, id: &str) {
        self.registered.remove(&(service.to_owned(), id.to_owned()));
        block_in_place(|| self.deregister(service, id));
    }

    fn put_malformed(&mut self, service: &str) -> bool {
        // Eureka takes this one, which nothing can connect to.
        let mut instance = fake_eureka::instance("bad", "10.0.0.99", 80);
        instance["port"]["$"] = json!(99_999);
        block_in_place(|| self.server.register(service, &instance));
        true
    }

    fn break_down(&mut self, how: Break) -> bool {
        let own = match how {
            Break::Refused => Some(Fault::Status(401)),
            Break::Limited => Some(Fault::Status(503)),
            _ => Fault::of(how),
        };
        own.map(|fault| self.proxy.set(fault)).is_some()
    }

    fn mend(&mut self) {
        self.proxy.set(Fault::None);
    }

    fn restart(&mut self) -> bool {
        block_in_place(|| {
            self.server.restart();
            for ((service, id), facts) in &self.registered {
                self.register(service, id, facts);
            }
        });
        true
    }

    fn restart_empty(&mut self) -> bool {
        self.registered.clear();
        self.restart()
    }
}

async fn suite(more: &'static [&'static str]) {
    let mut real = Real::start(more);
    cases::lists_and_sees_changes(real.clear()).await;
    cases::an_emptied_registry_is_empty(real.clear()).await;
    assert!(cases::a_malformed_instance_harms_no_other(real.clear()).await);
    for how in BREAKS {
        // The proxy hands on what Eureka says, whole or cut; and Eureka has no access rules.
        let able = !matches!(
            how,
            Break::Hidden | Break::Unsaid | Break::Leaderless | Break::Slow | Break::Oversize
        );
        assert_eq!(cases::a_broken_registry_loses_nothing(real.clear(), how).await, able);
        assert_eq!(cases::nothing_is_listed_before_all_is(real.clear(), how).await, able);
    }
    assert!(cases::a_restarted_registry_is_followed(real.clear()).await);
    assert!(cases::an_empty_restart_is_believed_when_it_lasts(real.clear()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn conformance() {
    suite(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conformance_of_a_server_that_does_not_tell_of_changes() {
    suite(&["--eureka.server.disable-delta=true"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_told_once_and_an_eviction_is_a_change() {
    let mut real = Real::start(&[
        // A client that is away for longer than this misses changes.
        "--eureka.server.retentionTimeInMSInDeltaQueue=3000",
        "--eureka.server.deltaRetentionTimerIntervalInMs=1000",
    ]);
    let mut want = Listed::new();
    for n in 1..4 {
        real.put("a", &format!("a{n}"), &facts(n));
        want.entry("a".to_owned()).or_default().insert(facts(n));
    }
    let mut running = Running::start(real.source());
    running.until_listed(&want).await;
    let full = |real: &Real| {
        real.proxy.asked().iter().filter(|asked| asked.path == "/eureka/apps").count()
    };
    assert_eq!(full(&real), 1);
    let mut short = fake_eureka::instance("short", "10.0.0.77", 80);
    short["leaseInfo"] = json!({"renewalIntervalInSecs": 1, "durationInSecs": 2});
    block_in_place(|| real.server.register("b", &short));
    running.until("it is there", |state| cases::seen(state).is_some_and(|s| s.len() == 2)).await;
    // Nobody renews its lease. Its end is told, so nothing is in doubt and nothing is read anew.
    running.until_listed(&want).await;
    assert_eq!(full(&real), 1);
    // What is told while nobody can listen shows in the digest. What left is not told of any more.
    real.proxy.set(Fault::Down);
    running.until_doubted().await;
    real.put("a", "a4", &facts(4));
    real.remove("a", "a1");
    tokio::time::sleep(Duration::from_secs(6)).await;
    real.proxy.set(Fault::None);
    // The server remembers the others, so whoever is not listed has left.
    let instances = want.get_mut("a").unwrap();
    instances.remove(&facts(1));
    instances.insert(facts(4));
    running.until_listed(&want).await;
}
