//! A Eureka that answers as the real one does, counts what it is asked, and misbehaves on demand.
//!
//! It has `/eureka/apps` and `/eureka/apps/delta` with the digest over all that is registered, and
//! nothing else. Whoever registers or leaves is told of as a change until the fake starts anew.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Response, StatusCode};
use serde_json::{Value, json};

use crate::fake_server::{self, FakeRegistry, FakeServer};

/// The server; it listens on an address of its own until it is dropped.
#[derive(Debug)]
pub struct FakeEureka {
    server: FakeServer,
    shared: Arc<Mutex<Registry>>,
}

/// How it misbehaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Every answer is this status.
    Status(u16),
    /// Bodies come a byte at a time, for ever.
    SlowBodies,
    /// Bodies are padded by this many bytes.
    Oversize(usize),
    /// Bodies end in their middle and the connection breaks.
    CutBodies,
    /// Nothing is answered.
    Silence,
    /// It lists nothing and knows of no change, as one that has just started.
    Empty,
    /// The first application is left out of full answers; their digest counts it.
    Lacking,
    /// The digest of changes is of something else.
    WrongHash,
    /// The digest of changes is left out.
    NoHash,
}

/// How it writes JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shape {
    /// As Spring Cloud's server.
    #[default]
    Spring,
    /// As a server that makes it from XML: a list of one stands without brackets, every number is
    /// text, and what is empty is missing.
    Xml,
}

#[derive(Debug, Default)]
struct Registry {
    /// By application and identifier.
    instances: BTreeMap<(String, String), Value>,
    /// The last change of each, whether it is there or not.
    changes: BTreeMap<(String, String), Value>,
    clock_ms: u64,
    reversed: bool,
    shape: Shape,
    fault: Option<Fault>,
    has_no_delta: bool,
    authorization: Option<String>,
    requests: Vec<String>,
}

// === impl FakeEureka ===

impl FakeRegistry for FakeEureka {
    fn server(&self) -> &FakeServer {
        &self.server
    }

    fn server_mut(&mut self) -> &mut FakeServer {
        &mut self.server
    }
}

impl FakeEureka {
    /// Starts an empty Eureka.
    ///
    /// # Panics
    /// The machine has no port or no thread to spare.
    #[must_use]
    pub fn start() -> Self {
        let registry = Registry { clock_ms: 1_795_358_472_000, ..Registry::default() };
        let shared = Arc::new(Mutex::new(registry));
        let app = Router::new().fallback(answer).with_state(Arc::clone(&shared));
        Self { server: FakeServer::start(app), shared }
    }

    /// Where it listens, with the path that Spring Cloud's servers have.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}/eureka", self.server.url())
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        lock(&self.shared)
    }

    /// Registers an instance of an application, or replaces it.
    pub fn register(&self, app: &str, instance: Value) {
        let mut registry = self.registry();
        let now = registry.tick();
        registry.register(app, instance, now);
    }

    /// Removes the instance `id` of `app`.
    pub fn deregister(&self, app: &str, id: &str) {
        let mut registry = self.registry();
        let now = registry.tick();
        let key = (app.to_uppercase(), id.to_owned());
        if let Some(mut gone) = registry.instances.remove(&key) {
            gone["lastUpdatedTimestamp"] = json!(now.to_string());
            gone["actionType"] = json!("DELETED");
            registry.changes.insert(key, gone);
        }
    }

    /// Starts anew, empty.
    pub fn forget_everything(&self) {
        let mut registry = self.registry();
        registry.instances.clear();
        registry.changes.clear();
    }

    /// Starts anew, after one instance registered again.
    pub fn restart_with(&self, app: &str, instance: Value) {
        let mut registry = self.registry();
        registry.instances.clear();
        registry.changes.clear();
        let now = registry.tick();
        registry.register(app, instance, now);
    }

    /// Starts anew, after everybody registered again.
    pub fn forget_changes(&self) {
        let mut registry = self.registry();
        registry.changes.clear();
        let now = registry.tick();
        for ((app, _), instance) in registry.instances.clone() {
            registry.register(&app, instance, now);
        }
    }

    /// Loses what changed, as after the time for which it is kept.
    pub fn lose_changes(&self) {
        self.registry().changes.clear();
    }

    /// Lists everything in the opposite order from now on.
    pub fn reverse(&self) {
        let mut registry = self.registry();
        registry.reversed = !registry.reversed;
    }

    /// Misbehaves from now on.
    pub fn set_fault(&self, fault: Option<Fault>) {
        self.registry().fault = fault;
    }

    /// Refuses to tell what changed, as a server with `disable-delta`.
    pub fn set_no_delta(&self, has_no_delta: bool) {
        self.registry().has_no_delta = has_no_delta;
    }

    /// Writes its JSON so from now on.
    pub fn set_shape(&self, shape: Shape) {
        self.registry().shape = shape;
    }

    /// Refuses everyone without exactly this `Authorization`.
    pub fn set_authorization(&self, authorization: Option<&str>) {
        self.registry().authorization = authorization.map(str::to_owned);
    }

    /// The paths asked for, in order.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        self.registry().requests.clone()
    }
}

/// An instance as Spring Cloud's clients register it.
#[must_use]
pub fn instance(id: &str, address: &str, port: u16) -> Value {
    json!({
        "instanceId": id, "hostName": format!("{id}.local"), "ipAddr": address, "status": "UP",
        "overriddenStatus": "UNKNOWN",
        "port": {"$": port, "@enabled": "true"}, "securePort": {"$": 443, "@enabled": "false"},
        "countryId": 1,
        "dataCenterInfo": {
            "@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo", "name": "MyOwn"
        },
        "leaseInfo": {"renewalIntervalInSecs": 30, "durationInSecs": 90},
        "metadata": {"@class": "java.util.Collections$EmptyMap"},
        "isCoordinatingDiscoveryServer": "false"
    })
}

fn lock(shared: &Mutex<Registry>) -> MutexGuard<'_, Registry> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn answer(State(shared): State<Arc<Mutex<Registry>>>, request: Request) -> Response<Body> {
    let (fault, answered) = {
        let mut registry = lock(&shared);
        let path = request.uri().path().to_owned();
        registry.requests.push(path.clone());
        (registry.fault.clone(), registry.answer(&path, request.headers()))
    };
    let body = match answered {
        Ok(value) => value.to_string(),
        Err(status) => return fake_server::answer(status.as_u16(), "refused"),
    };
    match fault {
        Some(Fault::Status(code)) => fake_server::answer(code, "misbehaving"),
        Some(Fault::SlowBodies) => fake_server::answer(200, fake_server::endless()),
        Some(Fault::Oversize(bytes)) => fake_server::answer(200, fake_server::padded(&body, bytes)),
        Some(Fault::CutBodies) => fake_server::answer(200, fake_server::cut(&body)),
        Some(Fault::Silence) => std::future::pending().await,
        Some(Fault::Empty | Fault::Lacking | Fault::WrongHash | Fault::NoHash) | None => {
            fake_server::answer(200, body)
        }
    }
}

impl Registry {
    fn tick(&mut self) -> u64 {
        self.clock_ms += 1;
        self.clock_ms
    }

    fn register(&mut self, app: &str, mut instance: Value, now: u64) {
        let app = app.to_uppercase();
        instance["app"] = json!(app);
        instance["lastUpdatedTimestamp"] = json!(now.to_string());
        instance["lastDirtyTimestamp"] = json!(now.to_string());
        instance["leaseInfo"]["registrationTimestamp"] = json!(now);
        instance["actionType"] = json!("ADDED");
        let key = (app, instance["instanceId"].as_str().unwrap_or_default().to_owned());
        self.instances.insert(key.clone(), instance.clone());
        self.changes.insert(key, instance);
    }

    fn answer(&self, path: &str, headers: &HeaderMap) -> Result<Value, StatusCode> {
        let given = headers.get("authorization").and_then(|value| value.to_str().ok());
        if self.authorization.is_some() && self.authorization.as_deref() != given {
            return Err(StatusCode::UNAUTHORIZED);
        }
        if headers.get("accept").is_none_or(|accept| accept != "application/json") {
            // The real one answers with XML.
            return Err(StatusCode::NOT_ACCEPTABLE);
        }
        let hash = || self.hash();
        match (path, &self.fault) {
            ("/eureka/apps" | "/eureka/apps/delta", Some(Fault::Empty)) => {
                Ok(self.shaped(Some(String::new()), &BTreeMap::new()))
            }
            ("/eureka/apps", Some(Fault::Lacking)) => {
                let mut instances = self.instances.clone();
                let first = instances.keys().next().map(|(app, _)| app.clone());
                instances.retain(|(app, _), _| Some(app) != first.as_ref());
                Ok(self.shaped(Some(hash()), &instances))
            }
            ("/eureka/apps", _) => Ok(self.shaped(Some(hash()), &self.instances)),
            ("/eureka/apps/delta", _) if self.has_no_delta => Err(StatusCode::FORBIDDEN),
            ("/eureka/apps/delta", Some(Fault::WrongHash)) => {
                Ok(self.shaped(Some("UP_9999_".to_owned()), &self.changes))
            }
            ("/eureka/apps/delta", Some(Fault::NoHash)) => Ok(self.shaped(None, &self.changes)),
            ("/eureka/apps/delta", _) => Ok(self.shaped(Some(hash()), &self.changes)),
            _ => Err(StatusCode::NOT_FOUND),
        }
    }

    fn hash(&self) -> String {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for instance in self.instances.values() {
            *counts.entry(instance["status"].as_str().unwrap_or("UNKNOWN")).or_default() += 1;
        }
        counts.into_iter().map(|(status, count)| format!("{status}_{count}_")).collect()
    }

    fn shaped(&self, hash: Option<String>, listed: &BTreeMap<(String, String), Value>) -> Value {
        let mut apps: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
        for ((app, _), instance) in listed {
            apps.entry(app).or_default().push(instance.clone());
        }
        let mut apps: Vec<Value> = apps
            .into_iter()
            .map(|(name, mut instances)| {
                if self.reversed {
                    instances.reverse();
                }
                json!({"name": name, "instance": instances})
            })
            .collect();
        if self.reversed {
            apps.reverse();
        }
        let mut answer = json!({"applications": {
            "versions__delta": "1", "apps__hashcode": hash, "application": apps
        }});
        if hash.is_none()
            && let Some(fields) = answer["applications"].as_object_mut()
        {
            fields.remove("apps__hashcode");
        }
        if self.shape == Shape::Xml {
            as_from_xml(&mut answer);
        }
        answer
    }
}

/// What is left of JSON that was XML in between.
fn as_from_xml(value: &mut Value) {
    match value {
        Value::Number(number) => *value = json!(number.to_string()),
        Value::Object(fields) => {
            fields.values_mut().for_each(as_from_xml);
            fields.retain(|key, value| {
                let is_list = key == "application" || key == "instance";
                !(is_list && value.as_array().is_some_and(Vec::is_empty)) && key != "@class"
            });
        }
        Value::Array(items) => {
            items.iter_mut().for_each(as_from_xml);
            if items.len() == 1 {
                *value = items.remove(0);
            }
        }
        _ => (),
    }
}
