//! The conformance suite, over files, over a fake Consul in both of the ways it is watched, over a
//! fake Eureka that tells of changes, that does not, and that writes other JSON, and over a fake
//! Cloud Map with large pages and with small ones.

#![allow(clippy::unwrap_used, reason = "a failure ends the test")]

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use futures_util::future::join_all;
use landfall_core::registry::Health;
use landfall_registry::Source;
use landfall_registry::cloudmap::{CloudMap, CloudMapSettings};
use landfall_registry::consul::{Consul, ConsulSettings};
use landfall_registry::eureka::{Eureka, EurekaLogin, EurekaSettings};
use landfall_registry::file::{File, FileSettings};
use landfall_tests::conformance::{
    self as cases, BREAKS, Break, Facts, Registry, SERVICE_BREAKS, ServiceBreak,
};
use landfall_tests::fake_cloudmap::{self, FakeCloudMap};
use landfall_tests::fake_consul::{FakeConsul, Fault, entry};
use landfall_tests::fake_eureka::{self, FakeEureka, Shape};
use serde_json::{Value, json};

// === Files ===

/// A folder with one file for each service.
struct Files {
    folder: tempfile::TempDir,
    services: std::collections::BTreeMap<String, Vec<Value>>,
    reversed: bool,
    broken: bool,
}

impl Files {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut files =
            Self { folder, services: Default::default(), reversed: false, broken: false };
        fs::create_dir(files.path()).unwrap();
        files.write_all();
        files
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("registry")
    }

    fn replace(&self, name: &str, text: &str) {
        let beside = self.folder.path().join("new");
        fs::write(&beside, text).unwrap();
        fs::rename(beside, self.path().join(name)).unwrap();
    }

    fn write_all(&mut self) {
        if self.broken {
            return;
        }
        // So that a folder without services is a listing.
        self.replace("0.yaml", "services: []\n");
        for (name, instances) in &self.services {
            let mut instances = instances.clone();
            if self.reversed {
                // Not the files as well: for as long as some have their new names and some their
                // old ones, services would be listed twice.
                instances.reverse();
            }
            let listing = json!({"services": [{"name": name, "instances": instances}]});
            self.replace(&format!("{name}.yaml"), &listing.to_string());
        }
        for file in fs::read_dir(self.path()).unwrap() {
            let path = file.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            if !self.services.contains_key(&name) && name != "0" {
                fs::remove_file(path).unwrap();
            }
        }
    }
}

impl Registry for Files {
    fn source(&self) -> Box<dyn Source> {
        Box::new(File::new(FileSettings { path: self.path(), poll: Duration::from_millis(200) }))
    }

    fn put(&mut self, service: &str, id: &str, facts: &Facts) {
        let instance = json!({
            "id": id, "address": facts.address, "port": facts.port,
            "health": facts.health.as_str(), "meta": {"version": facts.version},
        });
        let instances = self.services.entry(service.to_owned()).or_default();
        instances.retain(|known| known["id"] != id);
        instances.push(instance);
        self.write_all();
    }

    fn remove(&mut self, service: &str, id: &str) {
        let instances = self.services.entry(service.to_owned()).or_default();
        instances.retain(|known| known["id"] != id);
        if instances.is_empty() {
            self.services.remove(service);
        }
        self.write_all();
    }

    fn put_malformed(&mut self, service: &str) -> bool {
        let instance = json!({"id": "bad", "address": "10.0.0.99", "port": 99999});
        self.services.entry(service.to_owned()).or_default().push(instance);
        self.write_all();
        true
    }

    fn reorder(&mut self) -> bool {
        self.reversed = true;
        self.write_all();
        true
    }

    fn break_down(&mut self, how: Break) -> bool {
        match how {
            Break::Cut => self.replace("c.yaml", r#"{"services": [{"name": "c", "instances": ["#),
            Break::Gone => fs::rename(self.path(), self.folder.path().join("elsewhere")).unwrap(),
            Break::Errors => {
                fs::remove_file(self.path().join("c.yaml")).unwrap();
                fs::create_dir(self.path().join("c")).unwrap();
                self.replace("c.yaml", "\u{0}\u{1}");
            }
            Break::Unreachable
            | Break::Refused
            | Break::Hidden
            | Break::Unsaid
            | Break::Limited
            | Break::Leaderless
            | Break::Slow
            | Break::Oversize
            | Break::Silent => return false,
        }
        self.broken = true;
        true
    }

    fn break_service(&mut self, _service: &str, _how: ServiceBreak) -> bool {
        false
    }

    fn mend(&mut self) {
        if !self.path().exists() {
            fs::rename(self.folder.path().join("elsewhere"), self.path()).unwrap();
        }
        let _not_there = fs::remove_dir(self.path().join("c"));
        self.broken = false;
        self.write_all();
    }

    fn restart(&mut self) -> bool {
        false
    }

    fn restart_empty(&mut self) -> bool {
        false
    }
}

// === Consul ===

struct FakeRegistry {
    consul: FakeConsul,
    connections_max: usize,
    _token: tempfile::NamedTempFile,
}

impl FakeRegistry {
    /// With 64 connections each of a few services has a long poll of its own; with 4 the views
    /// must tell what to read.
    fn new(connections_max: usize) -> Self {
        let token = tempfile::NamedTempFile::new().unwrap();
        fs::write(token.path(), "secret\n").unwrap();
        let consul = FakeConsul::start();
        consul.set_token(Some("secret"));
        Self { consul, connections_max, _token: token }
    }

    fn without(connections_max: usize, endpoints: &str) -> Self {
        let registry = Self::new(connections_max);
        registry.consul.set_missing(endpoints);
        registry
    }
}

impl Registry for FakeRegistry {
    fn source(&self) -> Box<dyn Source> {
        let settings = ConsulSettings {
            connections_max: self.connections_max,
            token_file: Some(self._token.path().to_owned()),
            wait: Duration::from_secs(2),
            timeout: Duration::from_millis(700),
            // Longer than a case looks for something wrong to happen.
            settle: Duration::from_secs(4),
            body_bytes_max: 64 << 10,
            ..ConsulSettings::new(vec![self.consul.url().parse().unwrap()])
        };
        Box::new(Consul::new(settings))
    }

    fn put(&mut self, service: &str, id: &str, facts: &Facts) {
        let mut entry = entry("n1", service, id, &facts.address, facts.port);
        entry["Service"]["Meta"] = json!({"version": facts.version});
        match facts.health {
            Health::Maintenance => {
                entry["Checks"][0]["CheckID"] = json!(format!("_service_maintenance:{id}"));
                entry["Checks"][0]["Status"] = json!("critical");
            }
            health => entry["Checks"][0]["Status"] = json!(health.as_str()),
        }
        self.consul.register(entry);
    }

    fn remove(&mut self, _service: &str, id: &str) {
        self.consul.deregister("n1", id);
    }

    fn put_malformed(&mut self, service: &str) -> bool {
        let mut entry = entry("n1", service, "bad", "10.0.0.99", 80);
        entry["Service"]["Port"] = json!("eighty");
        self.consul.register(entry);
        true
    }

    fn reorder(&mut self) -> bool {
        self.consul.reverse();
        true
    }

    fn break_down(&mut self, how: Break) -> bool {
        let fault = match how {
            Break::Unreachable => {
                self.consul.stop();
                return true;
            }
            Break::Refused => {
                self.consul.set_token(Some("another"));
                return true;
            }
            Break::Errors => Fault::Status(500, "rpc error making call: EOF".to_owned()),
            Break::Hidden => Fault::HiddenByAcl,
            Break::Unsaid => Fault::HiddenUnsaid,
            Break::Limited => Fault::Status(429, "rate limit exceeded".to_owned()),
            Break::Leaderless => Fault::NoLeader,
            Break::Slow => Fault::SlowBodies,
            Break::Oversize => Fault::Oversize(100 << 10),
            Break::Cut => Fault::CutBodies,
            Break::Silent => Fault::Silence,
            Break::Gone => Fault::Status(404, "no such page".to_owned()),
        };
        self.consul.set_fault(Some(fault));
        true
    }

    fn break_service(&mut self, service: &str, how: ServiceBreak) -> bool {
        let status = match how {
            ServiceBreak::Errors => 500,
            ServiceBreak::Limited => 429,
            ServiceBreak::Unavailable => 503,
        };
        self.consul.set_fault(Some(Fault::Only(service.to_owned(), status)));
        true
    }

    fn mend(&mut self) {
        self.consul.set_fault(None);
        self.consul.set_token(Some("secret"));
        if !self.consul.is_listening() {
            self.consul.listen();
        }
    }

    fn restart(&mut self) -> bool {
        self.consul.stop();
        self.consul.lose_indexes();
        self.consul.listen();
        true
    }

    fn restart_empty(&mut self) -> bool {
        self.consul.stop();
        self.consul.lose_everything();
        self.consul.listen();
        true
    }
}

// === Eureka ===

struct FakeEurekaRegistry {
    eureka: FakeEureka,
    password: tempfile::NamedTempFile,
}

/// `landfall:secret`.
const AUTHORIZATION: &str = "Basic bGFuZGZhbGw6c2VjcmV0";

impl FakeEurekaRegistry {
    fn new() -> Self {
        let password = tempfile::NamedTempFile::new().unwrap();
        fs::write(password.path(), "secret\n").unwrap();
        let eureka = FakeEureka::start();
        eureka.set_authorization(Some(AUTHORIZATION));
        Self { eureka, password }
    }

    fn without_delta() -> Self {
        let registry = Self::new();
        registry.eureka.set_no_delta(true);
        registry
    }

    fn with_shape(shape: Shape) -> Self {
        let registry = Self::new();
        registry.eureka.set_shape(shape);
        registry
    }
}

impl Registry for FakeEurekaRegistry {
    fn source(&self) -> Box<dyn Source> {
        let login = EurekaLogin {
            user: "landfall".to_owned(),
            password_file: self.password.path().to_owned(),
        };
        Box::new(Eureka::new(EurekaSettings {
            login: Some(login),
            poll: Duration::from_millis(50),
            poll_in_full: Duration::from_millis(50),
            // Longer than a case looks for something wrong to happen.
            settle: Duration::from_secs(4),
            lease_max: Duration::from_secs(4),
            timeout: Duration::from_millis(700),
            body_bytes_max: 64 << 10,
            ..EurekaSettings::new(vec![self.eureka.url().parse().unwrap()])
        }))
    }

    fn healths(&self) -> &'static [Health] {
        &[Health::Critical, Health::Maintenance, Health::Passing]
    }

    fn put(&mut self, service: &str, id: &str, facts: &Facts) {
        let mut instance = fake_eureka::instance(id, &facts.address, facts.port);
        instance["metadata"] = json!({"version": facts.version});
        instance["status"] = json!(match facts.health {
            Health::Passing => "UP",
            Health::Maintenance => "OUT_OF_SERVICE",
            Health::Critical | Health::Warning | Health::Unknown => "DOWN",
        });
        self.eureka.register(service, instance);
    }

    fn remove(&mut self, service: &str, id: &str) {
        self.eureka.deregister(service, id);
    }

    fn put_malformed(&mut self, service: &str) -> bool {
        let mut instance = fake_eureka::instance("bad", "10.0.0.99", 80);
        instance["port"]["$"] = json!("eighty");
        self.eureka.register(service, instance);
        true
    }

    fn reorder(&mut self) -> bool {
        self.eureka.reverse();
        true
    }

    fn break_down(&mut self, how: Break) -> bool {
        use fake_eureka::Fault;
        let fault = match how {
            Break::Unreachable => {
                self.eureka.stop();
                return true;
            }
            Break::Refused => {
                self.eureka.set_authorization(Some("Basic another"));
                return true;
            }
            Break::Errors => Fault::Status(500),
            // It has no rules for who sees what, so none that say so.
            Break::Hidden | Break::Leaderless => return false,
            Break::Unsaid => Fault::Empty,
            Break::Limited => Fault::Status(503),
            Break::Slow => Fault::SlowBodies,
            Break::Oversize => Fault::Oversize(100 << 10),
            Break::Cut => Fault::CutBodies,
            Break::Silent => Fault::Silence,
            Break::Gone => Fault::Status(404),
        };
        self.eureka.set_fault(Some(fault));
        true
    }

    fn break_service(&mut self, _service: &str, _how: ServiceBreak) -> bool {
        false
    }

    fn mend(&mut self) {
        self.eureka.set_fault(None);
        self.eureka.set_authorization(Some(AUTHORIZATION));
        if !self.eureka.is_listening() {
            self.eureka.listen();
        }
    }

    fn restart(&mut self) -> bool {
        self.eureka.stop();
        self.eureka.forget_changes();
        self.eureka.listen();
        true
    }

    fn restart_empty(&mut self) -> bool {
        self.eureka.stop();
        self.eureka.forget_everything();
        self.eureka.listen();
        true
    }
}

// === Cloud Map ===

struct FakeCloudMapRegistry {
    map: FakeCloudMap,
    credentials: tempfile::NamedTempFile,
}

impl FakeCloudMapRegistry {
    fn new(page_max: usize) -> Self {
        let credentials = tempfile::NamedTempFile::new().unwrap();
        let profile = format!(
            "[default]\naws_access_key_id = {}\naws_secret_access_key = secret\n",
            fake_cloudmap::ACCESS_KEY
        );
        fs::write(credentials.path(), profile).unwrap();
        let map = FakeCloudMap::start();
        map.set_page_max(page_max);
        map.create_namespace("prod");
        map.create_namespace("stage");
        Self { map, credentials }
    }
}

impl Registry for FakeCloudMapRegistry {
    fn source(&self) -> Box<dyn Source> {
        Box::new(CloudMap::new(CloudMapSettings {
            endpoint: Some(self.map.url().parse().unwrap()),
            credentials_file: Some(self.credentials.path().to_owned()),
            poll: Duration::from_millis(50),
            health_poll: Duration::from_millis(100),
            service_poll: Duration::from_millis(100),
            // Longer than a case looks for something wrong to happen, and than it takes to list
            // services by small pages.
            settle: Duration::from_secs(6),
            timeout: Duration::from_millis(700),
            body_bytes_max: 64 << 10,
            ..CloudMapSettings::new("eu-central-1")
        }))
    }

    fn healths(&self) -> &'static [Health] {
        &[Health::Critical, Health::Unknown, Health::Passing]
    }

    fn put(&mut self, service: &str, id: &str, facts: &Facts) {
        let mut attributes = fake_cloudmap::attributes(&facts.address, facts.port);
        attributes["version"] = json!(facts.version);
        self.map.register("prod", service, id, attributes);
        let health = match facts.health {
            Health::Passing => "HEALTHY",
            Health::Unknown => "UNKNOWN",
            Health::Critical | Health::Warning | Health::Maintenance => "UNHEALTHY",
        };
        self.map.set_health("prod", service, id, health);
    }

    fn remove(&mut self, service: &str, id: &str) {
        if !self.map.deregister("prod", service, id) {
            self.map.delete_service("prod", service);
        }
    }

    fn put_malformed(&mut self, service: &str) -> bool {
        let mut attributes = fake_cloudmap::attributes("10.0.0.99", 80);
        attributes["AWS_INSTANCE_PORT"] = json!("eighty");
        self.map.register("prod", service, "bad", attributes);
        true
    }

    fn reorder(&mut self) -> bool {
        self.map.reverse();
        true
    }

    fn break_down(&mut self, how: Break) -> bool {
        use fake_cloudmap::Fault;
        let fault = match how {
            Break::Unreachable => {
                self.map.stop();
                return true;
            }
            Break::Refused => {
                self.map.set_access_key("another");
                return true;
            }
            Break::Errors => Fault::Status(500, "InternalFailure"),
            // Its rules for who may see what refuse whole questions, and it has no leader.
            Break::Hidden | Break::Leaderless => return false,
            Break::Unsaid => Fault::Empty,
            Break::Limited => Fault::Status(400, "ThrottlingException"),
            Break::Slow => Fault::SlowBodies,
            Break::Oversize => Fault::Oversize(100 << 10),
            Break::Cut => Fault::CutBodies,
            Break::Silent => Fault::Silence,
            Break::Gone => Fault::Status(404, "NotFound"),
        };
        self.map.set_fault(Some(fault));
        true
    }

    fn break_service(&mut self, service: &str, how: ServiceBreak) -> bool {
        let (status, word) = match how {
            ServiceBreak::Errors => (500, "InternalFailure"),
            ServiceBreak::Limited => (400, "RequestLimitExceeded"),
            ServiceBreak::Unavailable => (503, "ServiceUnavailable"),
        };
        self.map.set_fault(Some(fake_cloudmap::Fault::Only(service.to_owned(), status, word)));
        true
    }

    fn mend(&mut self) {
        self.map.set_fault(None);
        self.map.set_access_key(fake_cloudmap::ACCESS_KEY);
        if !self.map.is_listening() {
            self.map.listen();
        }
    }

    fn restart(&mut self) -> bool {
        self.map.stop();
        self.map.lose_revisions();
        self.map.listen();
        true
    }

    fn restart_empty(&mut self) -> bool {
        self.map.stop();
        self.map.forget_everything();
        self.map.listen();
        true
    }
}

// === The suite ===

/// What a registry can do, besides what all can. A case about anything else passes in vain.
struct Able {
    breaks: &'static [Break],
    service_breaks: &'static [ServiceBreak],
    restarts: bool,
}

const FILES: Able = Able {
    breaks: &[Break::Errors, Break::Cut, Break::Gone],
    service_breaks: &[],
    restarts: false,
};

const CONSUL: Able = Able { breaks: &BREAKS, service_breaks: &SERVICE_BREAKS, restarts: true };

const EUREKA: Able = Able {
    breaks: &[
        Break::Unreachable,
        Break::Errors,
        Break::Refused,
        Break::Unsaid,
        Break::Limited,
        Break::Slow,
        Break::Oversize,
        Break::Cut,
        Break::Silent,
        Break::Gone,
    ],
    service_breaks: &[],
    restarts: true,
};

const CLOUD_MAP: Able = Able { service_breaks: &SERVICE_BREAKS, ..EUREKA };

/// Those of `all` for which `case` says that it could be tried. At once, for each mostly waits.
async fn tried<T: Copy, const N: usize, F: Future<Output = bool>>(
    all: [T; N],
    case: impl Fn(T) -> F,
) -> Vec<T> {
    let tried = join_all(all.map(&case)).await;
    all.into_iter().zip(tried).filter(|(_, tried)| *tried).map(|(how, _)| how).collect()
}

macro_rules! suite {
    ($($name:ident: $registry:expr, $able:expr;)*) => {$(
        mod $name {
            use super::*;

            #[tokio::test(flavor = "multi_thread")]
            async fn lists_and_sees_changes() {
                cases::lists_and_sees_changes(&mut $registry).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn an_emptied_registry_is_empty() {
                cases::an_emptied_registry_is_empty(&mut $registry).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_broken_registry_loses_nothing() {
                let tried = tried(BREAKS, |how| async move {
                    cases::a_broken_registry_loses_nothing(&mut $registry, how).await
                });
                assert_eq!(tried.await, $able.breaks);
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn nothing_is_listed_before_all_is() {
                let tried = tried(BREAKS, |how| async move {
                    cases::nothing_is_listed_before_all_is(&mut $registry, how).await
                });
                assert_eq!(tried.await, $able.breaks);
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_start_with_a_broken_service_lists_the_others() {
                let tried = tried(SERVICE_BREAKS, |how| async move {
                    cases::a_start_with_a_broken_service_lists_the_others(&mut $registry, how).await
                });
                assert_eq!(tried.await, $able.service_breaks);
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_restarted_registry_is_followed() {
                let tried = cases::a_restarted_registry_is_followed(&mut $registry).await;
                assert_eq!(tried, $able.restarts);
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn an_empty_restart_is_believed_when_it_lasts() {
                let tried = cases::an_empty_restart_is_believed_when_it_lasts(&mut $registry).await;
                assert_eq!(tried, $able.restarts);
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_restart_with_a_broken_service_is_followed() {
                let tried = tried(SERVICE_BREAKS, |how| async move {
                    cases::a_restart_with_a_broken_service_is_followed(&mut $registry, how).await
                });
                assert_eq!(tried.await, $able.service_breaks);
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_broken_service_harms_no_other() {
                let tried = tried(SERVICE_BREAKS, |how| async move {
                    cases::a_broken_service_harms_no_other(&mut $registry, how).await
                });
                assert_eq!(tried.await, $able.service_breaks);
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_malformed_instance_harms_no_other() {
                assert!(cases::a_malformed_instance_harms_no_other(&mut $registry).await);
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn order_means_nothing() {
                assert!(cases::order_means_nothing(&mut $registry).await);
            }
        }
    )*};
}

suite! {
    files: Files::new(), FILES;
    consul_narrow: FakeRegistry::new(64), CONSUL;
    consul_wide: FakeRegistry::new(4), CONSUL;
    consul_wide_without_summary: FakeRegistry::without(4, "internal/ui"), CONSUL;
    eureka: FakeEurekaRegistry::new(), EUREKA;
    eureka_without_delta: FakeEurekaRegistry::without_delta(), EUREKA;
    eureka_from_xml: FakeEurekaRegistry::with_shape(Shape::Xml), EUREKA;
    cloud_map: FakeCloudMapRegistry::new(100), CLOUD_MAP;
    cloud_map_with_small_pages: FakeCloudMapRegistry::new(2), CLOUD_MAP;
}
