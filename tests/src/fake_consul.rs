//! A Consul that answers as the real one does, counts what it is asked, and misbehaves on demand.
//!
//! It has the endpoints that Landfall reads, blocking queries with the indexes that Consul gives
//! them (of the table of services, of the table of checks, of a single service), and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Response};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::fake_server::{self, FakeRegistry, FakeServer};

/// The server; it listens on an address of its own until it is dropped.
#[derive(Debug)]
pub struct FakeConsul {
    server: FakeServer,
    shared: Arc<Shared>,
}

/// The service that Consul's servers register themselves as.
const ITSELF: &str = "consul";

/// How it misbehaves.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Every answer is this status with this text.
    Status(u16, String),
    /// Answers to requests of which path and query contain the text are this status.
    Only(String, u16),
    /// Bodies come a byte at a time, for ever.
    SlowBodies,
    /// Bodies are padded to this many bytes.
    Oversize(usize),
    /// Bodies end in their middle and the connection breaks.
    CutBodies,
    /// Access rules hide everything. The answers say so to who gives a token, as Consul's do, and
    /// to nobody else.
    HiddenByAcl,
    /// As [`Self::HiddenByAcl`], and the answers say so to nobody.
    HiddenUnsaid,
    /// Access rules hide the services whose names contain the text. The answers say so to who
    /// gives a token.
    HiddenInPart(String),
    /// Nobody leads; the answers are empty and say so.
    NoLeader,
    /// Nothing is answered.
    Silence,
}

#[derive(Debug)]
struct Shared {
    catalog: Mutex<Catalog>,
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Catalog {
    index: u64,
    services_index: u64,
    checks_index: u64,
    nodes_index: u64,
    /// When the last service ceased to exist.
    extinction_index: u64,
    service_indexes: BTreeMap<String, u64>,
    /// By node and ID, as `/v1/health/service/<name>` lists them.
    entries: BTreeMap<(String, String), Value>,
    /// Which entries each service has.
    of_service: BTreeMap<String, BTreeSet<(String, String)>>,
    reversed: bool,
    fault: Option<Fault>,
    /// Paths that contain this do not exist.
    missing: Option<String>,
    token: Option<String>,
    namespaces: Option<Vec<String>>,
    requests: Vec<String>,
    waiting: usize,
    waiting_max: usize,
}

/// Counts a request for as long as it is under way.
struct Waiting(Arc<Shared>);

// === impl FakeConsul ===

impl FakeRegistry for FakeConsul {
    fn server(&self) -> &FakeServer {
        &self.server
    }

    fn server_mut(&mut self) -> &mut FakeServer {
        &mut self.server
    }
}

impl FakeConsul {
    /// Starts an empty Consul.
    ///
    /// # Panics
    /// The machine has no port or no thread to spare.
    #[must_use]
    pub fn start() -> Self {
        let catalog = Catalog { index: 10, services_index: 5, ..Catalog::default() };
        let shared =
            Arc::new(Shared { catalog: Mutex::new(catalog), changed: watch::Sender::new(0) });
        let app = Router::new().fallback(answer).with_state(Arc::clone(&shared));
        Self { server: FakeServer::start(app), shared }
    }

    /// Where it listens.
    #[must_use]
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// Nothing is registered any more and all indexes begin anew.
    pub fn lose_everything(&self) {
        self.change(|catalog| {
            catalog.entries.clear();
            catalog.of_service.clear();
            catalog.service_indexes.clear();
            catalog.lose_indexes();
        });
    }

    /// All indexes begin anew, as after a loss of the servers' data; what is registered stays.
    pub fn lose_indexes(&self) {
        self.change(Catalog::lose_indexes);
    }

    /// Registers an entry of `/v1/health/service/<name>`, or replaces it.
    pub fn register(&self, entry: Value) {
        self.register_all([entry]);
    }

    /// Registers several before anybody who waits is answered.
    pub fn register_all(&self, entries: impl IntoIterator<Item = Value>) {
        self.change(|catalog| entries.into_iter().for_each(|entry| catalog.register(entry)));
    }

    /// Removes the instance `id` on `node`.
    pub fn deregister(&self, node: &str, id: &str) {
        self.change(|catalog| {
            let key = (node.to_owned(), id.to_owned());
            let Some(gone) = catalog.entries.remove(&key) else { return };
            catalog.index += 1;
            catalog.services_index = catalog.index;
            catalog.checks_index = catalog.index;
            let name = service_name(&gone);
            let left = catalog.of_service.entry(name.clone()).or_default();
            left.remove(&key);
            if left.is_empty() {
                catalog.of_service.remove(&name);
            }
            if catalog.of_service.contains_key(&name) {
                catalog.service_indexes.insert(name, catalog.index);
            } else {
                catalog.service_indexes.remove(&name);
                catalog.extinction_index = catalog.index;
            }
        });
    }

    /// Writes the output of a check: every view of checks wakes, no state differs.
    pub fn touch_checks(&self) {
        self.change(|catalog| {
            catalog.index += 1;
            catalog.checks_index = catalog.index;
        });
    }

    /// Lists everything in the opposite order from now on.
    pub fn reverse(&self) {
        self.change(|catalog| catalog.reversed = !catalog.reversed);
    }

    /// Misbehaves from now on, also towards those that are waiting.
    pub fn set_fault(&self, fault: Option<Fault>) {
        self.change(|catalog| catalog.fault = fault);
    }

    /// Has no paths that contain `part`, for good.
    pub fn set_missing(&self, part: &str) {
        self.change(|catalog| catalog.missing = Some(part.to_owned()));
    }

    /// Refuses everyone without this token.
    pub fn set_token(&self, token: Option<&str>) {
        self.change(|catalog| catalog.token = token.map(str::to_owned));
    }

    /// Has these namespaces, as Consul Enterprise does. Instances are in them by their
    /// `Service.Namespace`.
    pub fn set_namespaces(&self, namespaces: &[&str]) {
        let namespaces = namespaces.iter().map(|&name| name.to_owned()).collect();
        self.change(|catalog| catalog.namespaces = Some(namespaces));
    }

    /// The path and query of every request so far, in the order of their arrival.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        self.shared.catalog().requests.clone()
    }

    /// The most requests that were under way at once.
    #[must_use]
    pub fn waiting_max(&self) -> usize {
        self.shared.catalog().waiting_max
    }

    fn change(&self, change: impl FnOnce(&mut Catalog)) {
        change(&mut self.shared.catalog());
        self.shared.changed.send_modify(|times| *times += 1);
    }
}

/// An entry as Consul 1.22 lists one, passing, on a node of its own.
#[must_use]
pub fn entry(node: &str, service: &str, id: &str, address: &str, port: u16) -> Value {
    json!({
        "Node": {
            "ID": "", "Node": node, "Address": "10.255.0.1", "Datacenter": "dc1",
            "TaggedAddresses": null, "Meta": null, "CreateIndex": 1, "ModifyIndex": 1
        },
        "Service": {
            "ID": id, "Service": service, "Tags": [], "Address": address, "Meta": null,
            "Port": port, "Weights": {"Passing": 1, "Warning": 1}, "EnableTagOverride": false,
            "Proxy": {"Mode": "", "MeshGateway": {}, "Expose": {}}, "Connect": {},
            "PeerName": "", "CreateIndex": 2, "ModifyIndex": 2
        },
        "Checks": [{
            "Node": node, "CheckID": format!("service:{id}"), "Name": "alive",
            "Status": "passing", "Notes": "", "Output": "", "ServiceID": id,
            "ServiceName": service, "ServiceTags": [], "Type": "ttl", "ExposedPort": 0,
            "Definition": {}, "CreateIndex": 2, "ModifyIndex": 2
        }]
    })
}

// === Answers ===

impl Waiting {
    fn begin(shared: &Arc<Shared>) -> Self {
        let mut catalog = shared.catalog();
        catalog.waiting += 1;
        catalog.waiting_max = catalog.waiting_max.max(catalog.waiting);
        Self(Arc::clone(shared))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.catalog().waiting -= 1;
    }
}

impl Shared {
    fn catalog(&self) -> std::sync::MutexGuard<'_, Catalog> {
        self.catalog.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response<Body> {
    let path = percent_decoded(request.uri().path());
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let line = request.uri().to_string();
    let token = request.headers().get("x-consul-token").and_then(|value| value.to_str().ok());
    let token = token.map(str::to_owned);
    shared.catalog().requests.push(line.clone());
    let _waiting = Waiting::begin(&shared);
    let deadline = Instant::now() + query.wait + query.wait / 16;
    let mut changed = shared.changed.subscribe();
    loop {
        changed.mark_unchanged();
        let (fault, answered) = {
            let catalog = shared.catalog();
            if catalog.token.is_some() && catalog.token != token {
                let text = "rpc error making call: ACL not found".to_owned();
                return fake_server::answer(403, text);
            }
            (catalog.fault.clone(), catalog.answer(&path, &query))
        };
        if let Some(fault) = &fault
            && let Some(response) = misbehave(fault, &line, answered.as_ref()).await
        {
            return response;
        }
        let Some((index, body)) = answered else {
            let text = "Invalid URL path: not a recognized HTTP API endpoint";
            return fake_server::answer(404, text);
        };
        let waits = query.index > 0 && index <= query.index && Instant::now() < deadline;
        if !waits || timeout_at(deadline, changed.changed()).await.is_err() {
            let streamed = query.index > 0 && path.starts_with("/v1/health/service/");
            let told = token.is_some();
            return json_answer(index, &body, &fault, streamed, told);
        }
    }
}

impl Catalog {
    fn lose_indexes(&mut self) {
        self.index = 20;
        (self.services_index, self.checks_index, self.nodes_index) = (15, 15, 15);
        self.extinction_index = 0;
        self.service_indexes.values_mut().for_each(|index| *index = 15);
    }

    fn register(&mut self, entry: Value) {
        let id = entry_id(&entry);
        let before = self.entries.get(&id);
        if before == Some(&entry) {
            return;
        }
        let differs = |part: &str| before.map(|before| &before[part]) != Some(&entry[part]);
        let [service, checks, node] = ["Service", "Checks", "Node"].map(differs);
        self.index += 1;
        if service {
            self.services_index = self.index;
        }
        if checks {
            self.checks_index = self.index;
        }
        if node {
            self.nodes_index = self.index;
        }
        let name = service_name(&entry);
        self.of_service.entry(name.clone()).or_default().insert(id.clone());
        self.service_indexes.insert(name, self.index);
        self.entries.insert(id, entry);
    }

    /// The index and the body, or `None` for what does not exist.
    fn answer(&self, path: &str, query: &Query) -> Option<(u64, Value)> {
        if self.missing.as_ref().is_some_and(|missing| path.contains(missing)) {
            return None;
        }
        let views_index = self.services_index.max(self.checks_index).max(self.nodes_index);
        match path {
            "/v1/catalog/services" => Some((self.services_index, self.names(query))),
            "/v1/catalog/nodes" => Some((self.nodes_index, json!([]))),
            "/v1/internal/ui/services" => Some((views_index, self.summary(query))),
            "/v1/health/state/any" => {
                let checks = self.listed(query).flat_map(|entry| match &entry["Checks"] {
                    Value::Array(checks) => checks.clone(),
                    _ => Vec::new(),
                });
                Some((self.checks_index, checks.collect()))
            }
            "/v1/namespaces" => {
                let names = self.namespaces.as_ref()?;
                Some((self.index, names.iter().map(|name| json!({"Name": name})).collect()))
            }
            _ => {
                let name = path.strip_prefix("/v1/health/service/")?;
                if name == ITSELF && self.lists_itself(query) {
                    let own = entry("n1", ITSELF, ITSELF, "127.0.0.1", 8300);
                    return Some((self.index, json!([own])));
                }
                let index = self.service_indexes.get(name).copied();
                let index = index.unwrap_or(self.extinction_index);
                let keys = self.of_service.get(name).into_iter().flatten();
                let entries = keys.filter_map(|key| self.entries.get(key)).collect();
                Some((index, self.visible(query, entries).cloned().collect()))
            }
        }
    }

    fn listed(&self, query: &Query) -> impl Iterator<Item = &Value> {
        self.visible(query, self.entries.values().collect())
    }

    fn visible<'a>(
        &self,
        query: &Query,
        mut all: Vec<&'a Value>,
    ) -> impl Iterator<Item = &'a Value> {
        let part = match &self.fault {
            Some(Fault::HiddenByAcl | Fault::HiddenUnsaid | Fault::NoLeader) => Some(String::new()),
            Some(Fault::HiddenInPart(part)) => Some(part.clone()),
            _ => None,
        };
        let (namespace, datacenter) = (query.namespace.clone(), query.datacenter.clone());
        if self.reversed {
            all.reverse();
        }
        all.into_iter().filter(move |entry| {
            let own = entry["Service"]["Namespace"].as_str().unwrap_or("default");
            let hidden = part.as_ref().is_some_and(|part| service_name(entry).contains(part));
            let is_here = datacenter.as_deref().is_none_or(|dc| entry["Node"]["Datacenter"] == dc);
            !hidden && is_here && namespace.as_deref().is_none_or(|asked| asked == own)
        })
    }

    fn names(&self, query: &Query) -> Value {
        let mut names = BTreeMap::new();
        if self.lists_itself(query) {
            names.insert(ITSELF.to_owned(), Vec::new());
        }
        for entry in self.listed(query) {
            let tags = names.entry(service_name(entry)).or_default();
            if let Value::Array(more) = &entry["Service"]["Tags"] {
                tags.extend(more.iter().cloned());
            }
        }
        json!(names)
    }

    /// Whether its own server is among the services.
    fn lists_itself(&self, query: &Query) -> bool {
        let namespace = query.namespace.as_deref().unwrap_or("default");
        let hidden = matches!(self.fault, Some(Fault::HiddenByAcl | Fault::HiddenUnsaid));
        namespace == "default" && !hidden
    }

    fn summary(&self, query: &Query) -> Value {
        let mut summaries: BTreeMap<String, Value> = BTreeMap::new();
        if self.lists_itself(query) {
            let own = json!({
                "Kind": "", "Name": ITSELF, "Datacenter": "dc1", "Tags": [], "Nodes": ["n1"],
                "InstanceCount": 1, "ChecksPassing": 1, "ChecksWarning": 0, "ChecksCritical": 0
            });
            summaries.insert(ITSELF.to_owned(), own);
        }
        for entry in self.listed(query) {
            let name = service_name(entry);
            let summary = summaries.entry(name.clone()).or_insert_with(|| {
                json!({
                    "Kind": entry["Service"]["Kind"], "Name": name, "Datacenter": "dc1",
                    "Tags": [], "Nodes": [], "InstanceCount": 0, "ChecksPassing": 0,
                    "ChecksWarning": 0, "ChecksCritical": 0
                })
            });
            let mut add = |key: &str| summary[key] = json!(summary[key].as_u64().unwrap_or(0) + 1);
            add("InstanceCount");
            for check in entry["Checks"].as_array().into_iter().flatten() {
                match check["Status"].as_str() {
                    Some("passing") => add("ChecksPassing"),
                    Some("warning") => add("ChecksWarning"),
                    _ => add("ChecksCritical"),
                }
            }
            if let Some(nodes) = summary["Nodes"].as_array_mut()
                && !nodes.contains(&entry["Node"]["Node"])
            {
                nodes.push(entry["Node"]["Node"].clone());
            }
        }
        summaries.into_values().collect()
    }
}

/// What the fault makes of the answer to the request `line`; `None` when it does not touch it.
async fn misbehave(
    fault: &Fault,
    line: &str,
    answer: Option<&(u64, Value)>,
) -> Option<Response<Body>> {
    let body = answer.map(|(_, body)| body.to_string()).unwrap_or_default();
    let index = answer.map_or(1, |(index, _)| *index);
    match fault {
        Fault::Status(code, text) => Some(fake_server::answer(*code, text.clone())),
        Fault::Only(part, code) if line.contains(part) => {
            Some(fake_server::answer(*code, "rpc error: EOF"))
        }
        Fault::SlowBodies => Some(with_index(index, fake_server::endless())),
        Fault::Oversize(bytes) => Some(with_index(index, fake_server::padded(&body, *bytes))),
        Fault::CutBodies => Some(with_index(index, fake_server::cut(&body))),
        Fault::Silence => {
            std::future::pending::<()>().await;
            None
        }
        Fault::Only(..)
        | Fault::HiddenByAcl
        | Fault::HiddenUnsaid
        | Fault::HiddenInPart(_)
        | Fault::NoLeader => None,
    }
}

fn with_index(index: u64, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert("x-consul-index", index.into());
    response
}

/// With the headers of Consul 1.22: an answer from a stream knows of no leader and of no rules.
/// Who is `told` of access rules has a token.
fn json_answer(
    index: u64,
    body: &Value,
    fault: &Option<Fault>,
    streamed: bool,
    told: bool,
) -> Response<Body> {
    let mut response = with_index(index.max(1), Body::from(body.to_string()));
    let headers = response.headers_mut();
    let mut set = |name, value: &'static str| {
        headers.insert(name, HeaderValue::from_static(value));
    };
    let leads = !streamed && !matches!(fault, Some(Fault::NoLeader));
    set("x-consul-knownleader", if leads { "true" } else { "false" });
    set("x-consul-lastcontact", "0");
    set("x-consul-query-backend", if streamed { "streaming" } else { "blocking-query" });
    if told && !streamed && matches!(fault, Some(Fault::HiddenByAcl | Fault::HiddenInPart(_))) {
        set("x-consul-results-filtered-by-acls", "true");
    }
    response
}

// === Requests ===

#[derive(Debug)]
struct Query {
    index: u64,
    wait: Duration,
    namespace: Option<String>,
    datacenter: Option<String>,
}

impl Query {
    fn parse(raw: &str) -> Self {
        let wait = Duration::from_secs(300);
        let mut query = Self { index: 0, wait, namespace: None, datacenter: None };
        for pair in raw.split('&') {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            match key {
                "index" => query.index = value.parse().unwrap_or(0),
                "wait" => {
                    let millis = value.strip_suffix("ms").and_then(|ms| ms.parse().ok());
                    query.wait = millis.map_or(query.wait, Duration::from_millis);
                }
                "ns" => query.namespace = Some(value.to_owned()),
                "dc" => query.datacenter = Some(value.to_owned()),
                _ => (),
            }
        }
        query
    }
}

fn percent_decoded(raw: &str) -> String {
    let mut bytes = Vec::with_capacity(raw.len());
    let mut rest = raw.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) if first == b'%' => {
                bytes.push(byte);
                rest = &after[2..];
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn entry_id(entry: &Value) -> (String, String) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    (text(&entry["Node"]["Node"]), text(&entry["Service"]["ID"]))
}

fn service_name(entry: &Value) -> String {
    entry["Service"]["Service"].as_str().unwrap_or_default().to_owned()
}
