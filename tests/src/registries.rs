//! The fakes of registries as the conformance suite and the tests of failures have them: filled,
//! broken and mended by one trait, watched by a source of their own or by the program.
#![allow(clippy::unwrap_used, reason = "part of tests: a failure is theirs")]
#![allow(clippy::missing_panics_doc, reason = "what a machine lacks ends the test")]

use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use landfall_core::registry::Health;
use landfall_registry::Source;
use landfall_registry::cloudmap::{CloudMap, CloudMapSettings};
use landfall_registry::consul::{Consul, ConsulSettings};
use landfall_registry::eureka::{Eureka, EurekaLogin, EurekaSettings};
use serde_json::{Value, json};

use crate::conformance::{Break, Facts, Registry, ServiceBreak};
use crate::fake_cloudmap::{self, FakeCloudMap};
use crate::fake_consul::{FakeConsul, Fault, entry};
use crate::fake_eureka::{self, FakeEureka, Shape};
use crate::fake_server::FakeRegistry as _;

/// A fake that counts, and that the program can be told to watch.
pub trait Fake: Registry {
    /// An entry of `sources` in a configuration, without its name.
    fn configured(&self) -> Value;
    /// How many requests there were so far.
    fn asked(&self) -> usize;
    /// From now on, or until now, what is asked is answered so much later.
    fn set_late(&self, late: Option<Duration>);
}

// === Consul ===

/// A Consul with a token.
#[derive(Debug)]
pub struct ConsulRegistry {
    /// The server.
    pub consul: FakeConsul,
    connections_max: usize,
    token: tempfile::NamedTempFile,
}

impl ConsulRegistry {
    /// With 64 connections each of a few services has a long poll of its own; with 4 the views
    /// must tell what to read.
    #[must_use]
    pub fn new(connections_max: usize) -> Self {
        let token = tempfile::NamedTempFile::new().unwrap();
        fs::write(token.path(), "secret\n").unwrap();
        let consul = FakeConsul::start();
        consul.set_token(Some("secret"));
        Self { consul, connections_max, token }
    }

    /// The same, which does not have these endpoints.
    #[must_use]
    pub fn without(connections_max: usize, endpoints: &str) -> Self {
        let registry = Self::new(connections_max);
        registry.consul.set_missing(endpoints);
        registry
    }
}

impl Registry for ConsulRegistry {
    fn source(&self) -> Box<dyn Source> {
        let settings = ConsulSettings {
            connections_max: self.connections_max,
            token_file: Some(self.token.path().to_owned()),
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

impl Fake for ConsulRegistry {
    fn configured(&self) -> Value {
        json!({"consul": {
            "url": self.consul.url(),
            "tokenFile": self.token.path(),
            "connectionsMax": self.connections_max,
        }})
    }

    fn asked(&self) -> usize {
        self.consul.asked()
    }

    fn set_late(&self, late: Option<Duration>) {
        self.consul.set_late(late);
    }
}

// === Eureka ===

/// A Eureka with a password.
#[derive(Debug)]
pub struct EurekaRegistry {
    /// The server.
    pub eureka: FakeEureka,
    password: tempfile::NamedTempFile,
}

/// `landfall:secret`.
const AUTHORIZATION: &str = "Basic bGFuZGZhbGw6c2VjcmV0";

impl EurekaRegistry {
    /// One that tells of changes.
    #[must_use]
    pub fn start() -> Self {
        let password = tempfile::NamedTempFile::new().unwrap();
        fs::write(password.path(), "secret\n").unwrap();
        let eureka = FakeEureka::start();
        eureka.set_authorization(Some(AUTHORIZATION));
        Self { eureka, password }
    }

    /// One that does not tell of changes.
    #[must_use]
    pub fn without_delta() -> Self {
        let registry = Self::start();
        registry.eureka.set_no_delta(true);
        registry
    }

    /// One that writes its JSON so.
    #[must_use]
    pub fn with_shape(shape: Shape) -> Self {
        let registry = Self::start();
        registry.eureka.set_shape(shape);
        registry
    }
}

impl Registry for EurekaRegistry {
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

impl Fake for EurekaRegistry {
    fn configured(&self) -> Value {
        json!({"eureka": {
            "url": self.eureka.url(),
            "user": "landfall",
            "passwordFile": self.password.path(),
            "poll": "1s",
        }})
    }

    fn asked(&self) -> usize {
        self.eureka.asked()
    }

    fn set_late(&self, late: Option<Duration>) {
        self.eureka.set_late(late);
    }
}

// === Cloud Map ===

/// A Cloud Map of two namespaces.
#[derive(Debug)]
pub struct CloudMapRegistry {
    /// The server.
    pub map: FakeCloudMap,
    credentials: tempfile::NamedTempFile,
}

impl CloudMapRegistry {
    /// With pages of so many entries.
    #[must_use]
    pub fn new(page_max: usize) -> Self {
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

impl Registry for CloudMapRegistry {
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
        if facts.address.parse::<IpAddr>().is_err() {
            attributes = json!({
                "AWS_INSTANCE_CNAME": facts.address,
                "AWS_INSTANCE_PORT": facts.port.to_string(),
            });
        }
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

impl Fake for CloudMapRegistry {
    fn configured(&self) -> Value {
        json!({"cloudMap": {
            "region": "eu-central-1",
            "endpoint": self.map.url(),
            "credentialsFile": self.credentials.path(),
            "poll": "1s",
            "healthPoll": "5s",
            "servicePoll": "5s",
        }})
    }

    fn asked(&self) -> usize {
        self.map.asked()
    }

    fn set_late(&self, late: Option<Duration>) {
        self.map.set_late(late);
    }
}
