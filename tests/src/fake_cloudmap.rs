//! A Cloud Map that answers as AWS does, counts what it is asked and when, refuses more than AWS
//! allows, and misbehaves on demand.
//!
//! It has the six operations that list and discover, in JSON 1.1, with their pages, their limits and
//! their order, which is another one each time. A revision moves when an instance is registered or
//! deregistered and not with its health.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::Response;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::fake_server::{self, FakeRegistry, FakeServer};

/// The access key that it knows.
pub const ACCESS_KEY: &str = "AKIAIOSFODNN7EXAMPLE";

/// AWS' quotas for an account: how many at once, and how many a second.
const QUOTAS: [(&str, u32, u32); 2] =
    [("DiscoverInstances", 2000, 1000), ("DiscoverInstancesRevision", 3000, 3000)];

const TARGET: &str = "Route53AutoNaming_v20170314.";

/// The server; it listens on an address of its own until it is dropped.
#[derive(Debug)]
pub struct FakeCloudMap {
    server: FakeServer,
    shared: Arc<Mutex<Registry>>,
}

/// How it misbehaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Every answer is this status, with this word for it.
    Status(u16, &'static str),
    /// One operation is answered so.
    Operation(&'static str, u16, &'static str),
    /// What is asked of one service is answered so.
    Only(String, u16, &'static str),
    /// The second page of anything is answered so.
    SecondPage(u16, &'static str),
    /// Bodies come a byte at a time, for ever.
    SlowBodies,
    /// Bodies are padded by this many bytes.
    Oversize(usize),
    /// Bodies end in their middle and the connection breaks.
    CutBodies,
    /// Nothing is answered.
    Silence,
    /// One operation is not answered.
    SilenceOn(&'static str),
    /// It lists nothing and knows of nothing, as another account.
    Empty,
    /// Every answer is an object without anything in it.
    NoFields,
}

/// A question.
#[derive(Clone, Debug)]
struct Asked {
    at: Instant,
    operation: String,
    /// The namespace and the service, where it is about one.
    about: String,
}

#[derive(Clone, Debug, Default)]
struct Service {
    id: String,
    is_checked: bool,
    revision: i64,
    /// Attributes and health by identifier.
    instances: BTreeMap<String, (Value, String)>,
}

#[derive(Debug, Default)]
struct Registry {
    /// Identifiers by name.
    namespaces: BTreeMap<String, String>,
    /// By namespace and name.
    services: BTreeMap<(String, String), Service>,
    /// What is listed instead of what there is.
    stale: Option<BTreeMap<(String, String), Service>>,
    page_max: usize,
    made: usize,
    draws: usize,
    reversed: bool,
    fault: Option<Fault>,
    access_key: String,
    asked: Vec<Asked>,
    refused: usize,
    tokens: BTreeMap<&'static str, (f64, Instant)>,
}

/// A status and the word for it.
type Refusal = (u16, &'static str);

// === impl FakeCloudMap ===

impl FakeRegistry for FakeCloudMap {
    fn server(&self) -> &FakeServer {
        &self.server
    }

    fn server_mut(&mut self) -> &mut FakeServer {
        &mut self.server
    }
}

impl FakeCloudMap {
    /// Starts an empty Cloud Map.
    ///
    /// # Panics
    /// The machine has no port or no thread to spare.
    #[must_use]
    pub fn start() -> Self {
        let registry =
            Registry { page_max: 100, access_key: ACCESS_KEY.to_owned(), ..Registry::default() };
        let shared = Arc::new(Mutex::new(registry));
        let app = Router::new().fallback(answer).with_state(Arc::clone(&shared));
        Self { server: FakeServer::start(app), shared }
    }

    /// Where it listens.
    #[must_use]
    pub fn url(&self) -> String {
        self.server.url()
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        lock(&self.shared)
    }

    /// Makes a namespace, if there is none of that name.
    pub fn create_namespace(&self, name: &str) {
        self.registry().create_namespace(name);
    }

    /// Makes a service, if there is none of that name, with or without health checks.
    pub fn create_service(&self, namespace: &str, name: &str, is_checked: bool) {
        self.registry().create_service(namespace, name, is_checked);
    }

    /// Registers an instance, or replaces it, in a service that is made with health checks where
    /// there is none.
    pub fn register(&self, namespace: &str, service: &str, id: &str, attributes: Value) {
        let mut registry = self.registry();
        registry.create_service(namespace, service, true);
        let key = (namespace.to_owned(), service.to_owned());
        if let Some(service) = registry.services.get_mut(&key) {
            service.revision += 1;
            service.instances.insert(id.to_owned(), (attributes, "HEALTHY".to_owned()));
        }
    }

    /// Sets the health of an instance, which moves no revision.
    pub fn set_health(&self, namespace: &str, service: &str, id: &str, health: &str) {
        let mut registry = self.registry();
        let key = (namespace.to_owned(), service.to_owned());
        if let Some(one) =
            registry.services.get_mut(&key).and_then(|service| service.instances.get_mut(id))
        {
            one.1 = health.to_owned();
        }
    }

    /// Removes an instance. Says whether its service has others.
    pub fn deregister(&self, namespace: &str, service: &str, id: &str) -> bool {
        let mut registry = self.registry();
        let key = (namespace.to_owned(), service.to_owned());
        let Some(service) = registry.services.get_mut(&key) else { return false };
        if service.instances.remove(id).is_some() {
            service.revision += 1;
        }
        !service.instances.is_empty()
    }

    /// Removes a service with all that is registered in it.
    pub fn delete_service(&self, namespace: &str, service: &str) {
        self.registry().services.remove(&(namespace.to_owned(), service.to_owned()));
    }

    /// Removes a namespace with all that is in it.
    pub fn delete_namespace(&self, namespace: &str) {
        let mut registry = self.registry();
        registry.namespaces.remove(namespace);
        registry.services.retain(|(of, _), _| of != namespace);
    }

    /// Removes every service.
    pub fn forget_everything(&self) {
        self.registry().services.clear();
    }

    /// Begins all revisions anew, which may have some be what they were for other instances.
    pub fn lose_revisions(&self) {
        self.registry().services.values_mut().for_each(|service| service.revision = 1);
    }

    /// From now on, or until now, lists the services of this moment, whatever becomes of them.
    pub fn set_stale(&self, is_stale: bool) {
        let mut registry = self.registry();
        registry.stale = is_stale.then(|| registry.services.clone());
    }

    /// Has pages of at most this many entries.
    pub fn set_page_max(&self, page_max: usize) {
        self.registry().page_max = page_max;
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

    /// Knows this access key only.
    pub fn set_access_key(&self, key: &str) {
        self.registry().access_key = key.to_owned();
    }

    /// What was asked for, in order: the operation, and behind it the service that it is about.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        let told = |asked: &Asked| format!("{} {}", asked.operation, asked.about);
        self.registry().asked.iter().map(|asked| told(asked).trim_end().to_owned()).collect()
    }

    /// When it was last asked for this operation about this service.
    #[must_use]
    pub fn asked_about(&self, operation: &str, about: &str) -> Option<Instant> {
        let registry = self.registry();
        let is_it = |asked: &&Asked| asked.operation == operation && asked.about == about;
        registry.asked.iter().rev().find(is_it).map(|asked| asked.at)
    }

    /// How many questions were refused for there being more than AWS allows.
    #[must_use]
    pub fn refused(&self) -> usize {
        self.registry().refused
    }

    /// The most that one operation was asked for within any second.
    #[must_use]
    pub fn most_in_a_second(&self, operation: &str) -> usize {
        let registry = self.registry();
        let times: Vec<Instant> = registry
            .asked
            .iter()
            .filter(|asked| asked.operation == operation)
            .map(|asked| asked.at)
            .collect();
        let until = |begin: usize| {
            times.partition_point(|at| *at < times[begin] + Duration::from_secs(1)) - begin
        };
        (0..times.len()).map(until).max().unwrap_or_default()
    }
}

/// The attributes of an instance with an address and a port.
#[must_use]
pub fn attributes(address: &str, port: u16) -> Value {
    json!({"AWS_INSTANCE_IPV4": address, "AWS_INSTANCE_PORT": port.to_string()})
}

fn lock(shared: &Mutex<Registry>) -> MutexGuard<'_, Registry> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn answer(State(shared): State<Arc<Mutex<Registry>>>, request: Request) -> Response<Body> {
    let (head, body) = request.into_parts();
    let header = |name: &str| {
        let value = head.headers.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    let operation = header("x-amz-target").strip_prefix(TARGET).unwrap_or_default().to_owned();
    let authorization = header("authorization");
    let asked = to_bytes(body, 1 << 20).await.unwrap_or_default();
    let asked: Value = serde_json::from_slice(&asked).unwrap_or_default();
    let (fault, answered) = {
        let mut registry = lock(&shared);
        let answered = registry.answer(&operation, &asked, &authorization, Instant::now());
        (registry.fault.clone(), answered)
    };
    let body = match answered {
        Ok(value) => value.to_string(),
        Err((status, word)) => {
            let body = json!({"__type": word, "Message": format!("{word} was made up")});
            return json_answer(status, body.to_string());
        }
    };
    match fault {
        Some(Fault::SlowBodies) => json_answer(200, fake_server::endless()),
        Some(Fault::Oversize(bytes)) => json_answer(200, fake_server::padded(&body, bytes)),
        Some(Fault::CutBodies) => json_answer(200, fake_server::cut(&body)),
        Some(Fault::Silence) => std::future::pending().await,
        Some(Fault::SilenceOn(of)) if of == operation => std::future::pending().await,
        Some(Fault::NoFields) => json_answer(200, "{}"),
        _ => json_answer(200, body),
    }
}

fn json_answer(status: u16, body: impl Into<Body>) -> Response<Body> {
    let mut response = fake_server::answer(status, body);
    if let Ok(value) = "application/x-amz-json-1.1".parse() {
        response.headers_mut().insert("content-type", value);
    }
    response
}

// === impl Registry ===

impl Registry {
    fn make_id(&mut self, prefix: &str) -> String {
        self.made += 1;
        format!("{prefix}-{:016}", self.made)
    }

    fn create_namespace(&mut self, name: &str) {
        if !self.namespaces.contains_key(name) {
            let id = self.make_id("ns");
            self.namespaces.insert(name.to_owned(), id);
        }
    }

    fn create_service(&mut self, namespace: &str, name: &str, is_checked: bool) {
        self.create_namespace(namespace);
        let key = (namespace.to_owned(), name.to_owned());
        if !self.services.contains_key(&key) {
            let id = self.make_id("srv");
            self.services.insert(key, Service { id, is_checked, ..Service::default() });
        }
    }

    fn answer(
        &mut self,
        operation: &str,
        asked: &Value,
        authorization: &str,
        now: Instant,
    ) -> Result<Value, Refusal> {
        let about = self.about(asked);
        let named = about.clone().map_or_else(String::new, |(of, name)| format!("{of}/{name}"));
        self.asked.push(Asked { at: now, operation: operation.to_owned(), about: named });
        let known = format!("Credential={}/", self.access_key);
        if !authorization.starts_with("AWS4-HMAC-SHA256 ") || !authorization.contains(&known) {
            return Err((400, "UnrecognizedClientException"));
        }
        if !self.is_within_quota(operation, now) {
            self.refused += 1;
            return Err((400, "RequestLimitExceeded"));
        }
        let name = about.as_ref().map(|(_, name)| name.as_str());
        match &self.fault {
            Some(Fault::Status(status, word)) => return Err((*status, word)),
            Some(Fault::Operation(of, status, word)) if *of == operation => {
                return Err((*status, word));
            }
            Some(Fault::Only(of, status, word)) if name == Some(of) => {
                return Err((*status, word));
            }
            Some(Fault::SecondPage(status, word)) if asked.get("NextToken").is_some() => {
                return Err((*status, word));
            }
            _ => (),
        }
        match operation {
            "ListNamespaces" => self.list_namespaces(asked),
            "ListServices" => self.list_services(asked),
            "ListInstances" => {
                let instances = self.service_by_id(asked)?.instances.clone();
                let told = |(id, (attributes, _)): (String, (Value, String))| json!({"Id": id, "Attributes": attributes});
                self.page(asked, "Instances", instances.into_iter().map(told).collect())
            }
            "GetInstancesHealthStatus" => {
                let instances = self.service_by_id(asked)?.instances.clone();
                let told = |(id, (_, health)): (String, (Value, String))| json!([id, health]);
                let listed = instances.into_iter().map(told).collect();
                let mut page = self.page(asked, "Status", listed)?;
                let pairs = page["Status"].as_array().cloned().unwrap_or_default();
                let word = |pair: &Value| pair[0].as_str().unwrap_or_default().to_owned();
                page["Status"] = pairs
                    .iter()
                    .map(|pair| (word(pair), pair[1].clone()))
                    .collect::<Map<_, _>>()
                    .into();
                Ok(page)
            }
            "DiscoverInstances" => self.discover(asked, about),
            "DiscoverInstancesRevision" => {
                let revision = self.discovered(about)?.revision;
                Ok(json!({"InstancesRevision": revision}))
            }
            _ => Err((400, "UnknownOperationException")),
        }
    }

    /// The namespace and the name of the service that a question is about.
    fn about(&self, asked: &Value) -> Option<(String, String)> {
        let word = |key: &str| Some(asked.get(key)?.as_str()?.to_owned());
        if let Some(id) = word("ServiceId") {
            return self.services.iter().find(|(_, one)| one.id == id).map(|(key, _)| key.clone());
        }
        Some((word("NamespaceName")?, word("ServiceName")?))
    }

    fn is_within_quota(&mut self, operation: &str, now: Instant) -> bool {
        let Some((name, burst, rate)) = QUOTAS.iter().find(|(name, ..)| *name == operation) else {
            return true;
        };
        let (tokens, at) = self.tokens.entry(name).or_insert((f64::from(*burst), now));
        let refilled = *tokens + (now - *at).as_secs_f64() * f64::from(*rate);
        *at = now;
        *tokens = refilled.min(f64::from(*burst));
        let has_one = *tokens >= 1.0;
        if has_one {
            *tokens -= 1.0;
        }
        has_one
    }

    fn list_namespaces(&mut self, asked: &Value) -> Result<Value, Refusal> {
        let told = |(name, id): (&String, &String)| {
            json!({
                "Id": id, "Name": name, "Type": "HTTP", "ResourceOwner": "123456789012",
                "Properties": {"HttpProperties": {"HttpName": name}},
            })
        };
        let listed = match self.fault {
            Some(Fault::Empty) => Vec::new(),
            _ => self.namespaces.iter().map(told).collect(),
        };
        self.page(asked, "Namespaces", listed)
    }

    /// As AWS: a page is filled first and filtered then, so it may be empty and not the last.
    fn list_services(&mut self, asked: &Value) -> Result<Value, Refusal> {
        let wanted = asked.pointer("/Filters/0/Values/0").and_then(Value::as_str);
        let wanted = wanted.ok_or((400, "InvalidInput"))?.to_owned();
        let told = |((namespace, name), service): (&(String, String), &Service)| {
            let mut told = json!({
                "Id": service.id, "Name": name, "Type": "HTTP",
                "InstanceCount": service.instances.len(),
                "of": self.namespaces.get(namespace),
            });
            if service.is_checked {
                told["HealthCheckCustomConfig"] = json!({"FailureThreshold": 1});
            }
            told
        };
        let listed = match self.fault {
            Some(Fault::Empty) => Vec::new(),
            _ => self.stale.as_ref().unwrap_or(&self.services).iter().map(told).collect(),
        };
        let mut page = self.page(asked, "Services", listed)?;
        if let Some(services) = page["Services"].as_array_mut() {
            services.retain(|service| service["of"] == wanted);
        }
        Ok(page)
    }

    fn service_by_id(&self, asked: &Value) -> Result<&Service, Refusal> {
        let id = asked["ServiceId"].as_str().unwrap_or_default();
        self.services.values().find(|one| one.id == id).ok_or((400, "ServiceNotFound"))
    }

    fn discovered(&self, about: Option<(String, String)>) -> Result<&Service, Refusal> {
        let key = about.ok_or((400, "InvalidInput"))?;
        if self.fault == Some(Fault::Empty) || !self.namespaces.contains_key(&key.0) {
            return Err((400, "NamespaceNotFound"));
        }
        self.services.get(&key).ok_or((400, "ServiceNotFound"))
    }

    fn discover(
        &mut self,
        asked: &Value,
        about: Option<(String, String)>,
    ) -> Result<Value, Refusal> {
        let most = asked["MaxResults"].as_u64().unwrap_or(100);
        if !(1..=1000).contains(&most) {
            return Err((400, "InvalidInput"));
        }
        let service = self.discovered(about.clone())?;
        let (of, name) = about.unwrap_or_default();
        let told = |(id, (attributes, health)): (&String, &(Value, String))| {
            json!({
                "InstanceId": id, "NamespaceName": of, "ServiceName": name,
                "HealthStatus": if service.is_checked { health.as_str() } else { "UNKNOWN" },
                "Attributes": attributes,
            })
        };
        let mut listed: Vec<Value> = service.instances.iter().map(told).collect();
        let is_healthy = |one: &Value| one["HealthStatus"] != "UNHEALTHY";
        let some_healthy = listed.iter().any(is_healthy);
        match asked["HealthStatus"].as_str().unwrap_or("HEALTHY_OR_ELSE_ALL") {
            "ALL" => (),
            "HEALTHY_OR_ELSE_ALL" if !some_healthy => (),
            "HEALTHY" | "HEALTHY_OR_ELSE_ALL" => listed.retain(is_healthy),
            "UNHEALTHY" => listed.retain(|one| !is_healthy(one)),
            _ => return Err((400, "InvalidInput")),
        }
        let revision = service.revision;
        // Another order each time.
        self.draws += 7;
        let len = listed.len().max(1);
        listed.rotate_left(self.draws % len);
        if self.reversed {
            listed.reverse();
        }
        listed.truncate(usize::try_from(most).unwrap_or(usize::MAX));
        Ok(json!({"Instances": listed, "InstancesRevision": revision}))
    }

    fn page(&self, asked: &Value, field: &str, mut listed: Vec<Value>) -> Result<Value, Refusal> {
        if self.reversed {
            listed.reverse();
        }
        let most = asked["MaxResults"].as_u64().unwrap_or(100);
        if !(1..=100).contains(&most) {
            return Err((400, "InvalidInput"));
        }
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(self.page_max);
        let begin = asked["NextToken"].as_str().map_or(Ok(0), str::parse::<usize>);
        let begin = begin.map_err(|_| (400, "InvalidInput"))?.min(listed.len());
        let end = (begin + most).min(listed.len());
        let mut page = json!({});
        page[field] = listed[begin..end].into();
        if end < listed.len() {
            page["NextToken"] = json!(end.to_string());
        }
        Ok(page)
    }
}
