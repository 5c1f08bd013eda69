//! The conformance suite over moto, which stands in for AWS Cloud Map.
//!
//! Needs `LANDFALL_MOTO` and Python; `make e2e` sets it.

#![allow(clippy::unwrap_used, reason = "a failure ends the test")]

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use landfall_core::registry::Health;
use landfall_registry::Source;
use landfall_registry::cloudmap::{CloudMap, CloudMapSettings};
use landfall_tests::conformance::{
    self as cases, BREAKS, Break, Facts, Listed, Registry, Running, facts,
};
use landfall_tests::fake_cloudmap::attributes;
use landfall_tests::servers::{Fault, Moto, Proxy, process};
use serde_json::json;
use tempfile::NamedTempFile;
use tokio::task::block_in_place;

/// A server behind a proxy that fails.
struct Real {
    moto: Moto,
    proxy: Proxy,
    credentials: NamedTempFile,
    registered: BTreeMap<(String, String), Facts>,
}

impl Real {
    fn start() -> Self {
        block_in_place(|| {
            let credentials = NamedTempFile::new().unwrap();
            let profile = "[default]\naws_access_key_id = key\naws_secret_access_key = secret\n";
            fs::write(credentials.path(), profile).unwrap();
            let moto = Moto::start(&process::folder());
            let (proxy, registered) = (Proxy::start(moto.port), BTreeMap::new());
            Self { moto, proxy, credentials, registered }
        })
    }

    fn register(&mut self, service: &str, id: &str, facts: &Facts) {
        let mut attributes = attributes(&facts.address, facts.port);
        attributes["version"] = json!(facts.version);
        self.moto.register(service, id, &attributes);
        if facts.health == Health::Critical {
            self.moto.set_health(service, id, "UNHEALTHY");
        }
    }

    /// Removes everything, for the next case.
    fn clear(&mut self) -> &mut Self {
        self.proxy.set(Fault::None);
        self.registered.clear();
        block_in_place(|| self.moto.reset());
        self
    }
}

impl Registry for Real {
    fn source(&self) -> Box<dyn Source> {
        Box::new(CloudMap::new(CloudMapSettings {
            endpoint: Some(self.proxy.url().parse().unwrap()),
            credentials_file: Some(self.credentials.path().to_owned()),
            poll: Duration::from_millis(200),
            // One that came and one that left may have the revision be what it was.
            health_poll: Duration::from_secs(1),
            service_poll: Duration::from_millis(400),
            settle: Duration::from_secs(5),
            timeout: Duration::from_secs(3),
            ..CloudMapSettings::new("eu-central-1")
        }))
    }

    fn healths(&self) -> &'static [Health] {
        &[Health::Critical, Health::Passing]
    }

    fn put(&mut self, service: &str, id: &str, facts: &Facts) {
        let key = (service.to_owned(), id.to_owned());
        let before = self.registered.insert(key, facts.clone());
        block_in_place(|| {
            if before.is_some() {
                // It would be there twice.
                self.moto.deregister(service, id);
            }
            self.register(service, id, facts);
        });
    }

    fn remove(&mut self, service: &str, id: &str) {
        self.registered.remove(&(service.to_owned(), id.to_owned()));
        block_in_place(|| {
            self.moto.deregister(service, id);
            if !self.registered.keys().any(|(of, _)| of == service) {
                self.moto.delete(service);
            }
        });
    }

    fn put_malformed(&mut self, service: &str) -> bool {
        let mut attributes = attributes("10.0.0.99", 80);
        attributes["AWS_INSTANCE_PORT"] = json!("eighty");
        block_in_place(|| self.moto.register(service, "bad", &attributes));
        true
    }

    fn break_down(&mut self, how: Break) -> bool {
        let own = match how {
            Break::Refused => Some(Fault::Status(403)),
            Break::Limited => Some(Fault::Status(429)),
            _ => Fault::of(how),
        };
        own.map(|fault| self.proxy.set(fault)).is_some()
    }

    fn mend(&mut self) {
        self.proxy.set(Fault::None);
    }

    fn restart(&mut self) -> bool {
        block_in_place(|| {
            self.moto.restart();
            for ((service, id), facts) in self.registered.clone() {
                self.register(&service, &id, &facts);
            }
        });
        true
    }

    fn restart_empty(&mut self) -> bool {
        self.registered.clear();
        self.restart()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conformance() {
    let mut real = Real::start();
    cases::lists_and_sees_changes(real.clear()).await;
    cases::an_emptied_registry_is_empty(real.clear()).await;
    assert!(cases::a_malformed_instance_harms_no_other(real.clear()).await);
    for how in BREAKS {
        // The proxy hands on what moto says, whole or cut; and moto has no access rules.
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
async fn more_instances_than_one_answer_may_have_are_all_listed() {
    let mut real = Real::start();
    let mut want = Listed::new();
    block_in_place(|| {
        for n in 0..1005_u16 {
            let address = format!("10.1.{}.{}", n / 250, n % 250);
            let facts = Facts { address, port: 80, ..facts(1) };
            real.register("large", &format!("i{n}"), &facts);
            want.entry("large".to_owned()).or_default().insert(facts);
        }
        real.moto.set_health("large", "i7", "UNHEALTHY");
    });
    let seven = Facts { address: "10.1.0.7".to_owned(), port: 80, ..facts(1) };
    let instances = want.get_mut("large").unwrap();
    instances.remove(&seven);
    instances.insert(Facts { health: Health::Critical, ..seven });
    let mut running = Running::start(real.source());
    running.until_listed(&want).await;
}
