//! The conformance suite over a real Consul, and what watching a thousand services there costs.
//!
//! Needs `LANDFALL_CONSUL`; `make e2e` sets it.

#![allow(clippy::unwrap_used, reason = "a failure ends the test")]
#![allow(clippy::disallowed_methods, reason = "what is promised of time is measured")]
#![allow(clippy::print_stdout, reason = "the figures are for people")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use landfall_core::registry::Health;
use landfall_registry::consul::{Consul, ConsulSettings};
use landfall_registry::{Source, TlsFiles};
use landfall_tests::conformance::{
    self as cases, BREAKS, Break, Facts, Registry, Running, SERVICE_BREAKS, ServiceBreak,
};
use landfall_tests::servers::consul::{MANAGER, READER};
use landfall_tests::servers::process::{self, free_port};
use landfall_tests::servers::{self, Fault, Http, Proxy};
use serde_json::{Value, json};
use tokio::task::block_in_place;
use tokio::time::timeout;

// === A Consul with access rules, behind a proxy that fails ===

struct Real {
    folder: PathBuf,
    server: servers::Consul,
    proxy: Proxy,
    connections_max: usize,
    registered: BTreeMap<(String, String), Facts>,
}

impl Real {
    fn start(connections_max: usize) -> Self {
        block_in_place(|| {
            let folder = process::folder();
            fs::write(folder.join("token"), READER).unwrap();
            let server = servers::Consul::guarded(&folder);
            let proxy = Proxy::start(server.port);
            Self { folder, server, proxy, connections_max, registered: BTreeMap::new() }
        })
    }

    fn register(&self, service: &str, id: &str, facts: &Facts) {
        let (check, status) = match facts.health {
            Health::Maintenance => (format!("_service_maintenance:{id}"), "critical"),
            health => (format!("service:{id}"), health.as_str()),
        };
        let entry = json!({
            "Node": "remote", "Address": "10.255.0.1",
            "Service": {
                "ID": id, "Service": service, "Address": facts.address, "Port": facts.port,
                "Meta": {"version": facts.version},
            },
            "Checks": [{"Node": "remote", "CheckID": check, "Name": "alive", "Status": status, "ServiceID": id}],
        });
        self.server.put("/v1/catalog/register", &entry);
    }

    fn deregister(&self, id: &str) {
        self.server.put("/v1/catalog/deregister", &json!({"Node": "remote", "ServiceID": id}));
    }
}

impl Registry for Real {
    fn source(&self) -> Box<dyn Source> {
        let settings = ConsulSettings {
            connections_max: self.connections_max,
            token_file: Some(self.folder.join("token")),
            wait: Duration::from_secs(5),
            timeout: Duration::from_secs(3),
            settle: Duration::from_secs(5),
            body_bytes_max: 1 << 20,
            ..ConsulSettings::new(vec![self.proxy.url().parse().unwrap()])
        };
        Box::new(Consul::new(settings))
    }

    fn put(&mut self, service: &str, id: &str, facts: &Facts) {
        block_in_place(|| {
            let key = (service.to_owned(), id.to_owned());
            let before = self.registered.insert(key, facts.clone());
            if before.is_some_and(|before| before.health == Health::Maintenance) {
                // Its check has another name and would stay.
                self.deregister(id);
            }
            self.register(service, id, facts);
        });
    }

    fn remove(&mut self, service: &str, id: &str) {
        self.registered.remove(&(service.to_owned(), id.to_owned()));
        block_in_place(|| self.deregister(id));
    }

    fn put_malformed(&mut self, _service: &str) -> bool {
        // Consul takes this one, which nothing can connect to.
        let entry = json!({
            "Node": "remote", "Address": "10.255.0.1",
            "Service": {"ID": "bad", "Service": "a", "Port": 99999},
        });
        block_in_place(|| self.server.put("/v1/catalog/register", &entry));
        true
    }

    fn break_down(&mut self, how: Break) -> bool {
        block_in_place(|| {
            match how {
                Break::Hidden => self.server.revoke(),
                Break::Refused => {
                    let path = "/v1/acl/token/self";
                    let own =
                        Http::plain(self.server.port).with("x-consul-token", READER).get(path);
                    let id = own.unwrap().json()["AccessorID"].as_str().unwrap().to_owned();
                    let gone =
                        self.server.http.send("DELETE", &format!("/v1/acl/token/{id}"), &[], "");
                    assert_eq!(gone.unwrap().status, 200);
                }
                Break::Limited => self.proxy.set(Fault::Status(429)),
                _ => return Fault::of(how).map(|fault| self.proxy.set(fault)).is_some(),
            }
            true
        })
    }

    fn break_service(&mut self, service: &str, how: ServiceBreak) -> bool {
        let status = match how {
            ServiceBreak::Errors => 500,
            ServiceBreak::Limited => 429,
            ServiceBreak::Unavailable => 503,
        };
        self.proxy.set(Fault::OnlyPath(service.to_owned(), status));
        true
    }

    fn mend(&mut self) {
        block_in_place(|| {
            self.proxy.set(Fault::None);
            let own = Http::plain(self.server.port).with("x-consul-token", READER);
            match own.is_ok("/v1/acl/token/self") {
                true => self.server.grant(),
                false => self.server.make_reader(),
            }
        });
    }

    fn restart(&mut self) -> bool {
        block_in_place(|| {
            self.server.lose_everything();
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

// === The suite ===

async fn suite(connections_max: usize) {
    let start = || Real::start(connections_max);
    cases::lists_and_sees_changes(&mut start()).await;
    cases::an_emptied_registry_is_empty(&mut start()).await;
    assert!(cases::a_malformed_instance_harms_no_other(&mut start()).await);
    assert!(cases::a_restarted_registry_is_followed(&mut start()).await);
    assert!(cases::an_empty_restart_is_believed_when_it_lasts(&mut start()).await);
    for how in BREAKS {
        // The proxy hands on what Consul says, whole or cut.
        let able =
            !matches!(how, Break::Unsaid | Break::Leaderless | Break::Slow | Break::Oversize);
        assert_eq!(cases::a_broken_registry_loses_nothing(&mut start(), how).await, able);
        assert_eq!(cases::nothing_is_listed_before_all_is(&mut start(), how).await, able);
    }
    for how in SERVICE_BREAKS {
        assert!(cases::a_broken_service_harms_no_other(&mut start(), how).await);
        assert!(cases::a_start_with_a_broken_service_lists_the_others(&mut start(), how).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conformance_with_a_long_poll_for_each_service() {
    suite(64).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conformance_with_few_connections() {
    suite(4).await;
}

// === TLS ===

#[tokio::test(flavor = "multi_thread")]
async fn certificates_of_both_sides() {
    let folder = process::folder();
    certificates(&folder);
    let at = |name: &str| folder.join(name).display().to_string();
    let https = free_port();
    let tls = format!(
        r#"
ports {{ https = {https} }}
tls {{ https {{ ca_file = "{}" cert_file = "{}" key_file = "{}" verify_incoming = true }} }}
"#,
        at("ca.pem"),
        at("server.pem"),
        at("server.key"),
    );
    let _server = block_in_place(|| servers::Consul::guarded_with(&folder, &tls));
    fs::write(folder.join("token"), MANAGER).unwrap();
    let url = format!("https://localhost:{https}");
    let settings = |tls: TlsFiles| ConsulSettings {
        tls,
        // It has no services.
        settle: Duration::from_secs(1),
        token_file: Some(folder.join("token")),
        ..ConsulSettings::new(vec![url.parse().unwrap()])
    };
    let known = TlsFiles { ca_file: Some(folder.join("ca.pem")), ..TlsFiles::default() };
    let both = TlsFiles {
        client_cert_file: Some(folder.join("client.pem")),
        client_key_file: Some(folder.join("client.key")),
        ..known.clone()
    };
    let start = |tls: TlsFiles| Running::start(Box::new(Consul::new(settings(tls))));
    start(both).until_listed(&cases::Listed::new()).await;
    // Without the authority, and without the client's certificate.
    for tls in [TlsFiles::default(), known] {
        let mut running = start(tls);
        running.until_doubted().await;
        let code = running.state.borrow().doubt.clone().unwrap().code;
        assert_eq!(code, "consul_unreachable");
    }
    let missing = TlsFiles { ca_file: Some(folder.join("nothing.pem")), ..TlsFiles::default() };
    let mut running = start(missing);
    running.until_doubted().await;
    let doubt = running.state.borrow().doubt.clone().unwrap();
    assert!(
        doubt.code == "consul_credentials" && doubt.message.contains("nothing.pem"),
        "{doubt:?}"
    );
}

fn certificates(folder: &Path) {
    let script = r#"
set -e
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=ca -keyout ca.key -out ca.pem
for who in server client; do
    openssl req -newkey rsa:2048 -nodes -subj /CN=$who -keyout $who.key -out $who.csr
    printf 'subjectAltName=DNS:localhost,DNS:server.dc1.consul\nextendedKeyUsage=serverAuth,clientAuth\n' > ext
    openssl x509 -req -in $who.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out $who.pem
done
"#;
    let made = Command::new("sh").args(["-c", script]).current_dir(folder).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

// === What it costs ===

/// Prints how long after its registration an instance is listed, and how often Consul is asked.
async fn measure(services: usize, rounds: usize) {
    let folder = process::folder();
    let consul = block_in_place(|| {
        let consul = servers::Consul::start(&folder);
        let instances: Vec<Value> = (0..services)
            .flat_map(|service| (0..10).map(move |instance| an_instance(service, instance)))
            .collect();
        consul.register_remote(&instances);
        consul
    });
    let proxy = Proxy::start(consul.port);
    let http = Http::plain(consul.port);
    let began = Instant::now();
    let settings = ConsulSettings::new(vec![proxy.url().parse().unwrap()]);
    let mut running = Running::start(Box::new(Consul::new(settings)));
    running
        .until("all are listed", |s| {
            s.snapshot.as_ref().is_some_and(|s| s.services.len() == services)
        })
        .await;
    println!(
        "{services} services of 10 instances: listed after {:?} with {} requests",
        began.elapsed(),
        proxy.asked().len()
    );
    for (what, place) in [("a service that did not change before", 0), ("one that did", 1)] {
        let mut latencies = Vec::new();
        let mut requests = Vec::new();
        for round in 0..rounds {
            let quiet = || proxy.is_quiet(Duration::from_millis(400), Duration::from_secs(60));
            assert!(block_in_place(quiet), "it never rests");
            let service = if place == 0 { round * (services / rounds) } else { 0 };
            let instance = an_instance(service, 100 + place * 50 + round);
            running.state.mark_unchanged();
            let before = proxy.asked().len();
            let began = Instant::now();
            let body = instance.to_string().into_bytes();
            let registered = async {
                let reply = http.ask("PUT", "/v1/catalog/register", &[], body).await;
                assert_eq!(reply.unwrap().status, 200);
            };
            let listed = async {
                timeout(Duration::from_secs(30), running.state.changed()).await.unwrap().unwrap();
                began.elapsed()
            };
            let ((), latency) = futures_util::future::join(registered, listed).await;
            latencies.push(latency);
            // The view is waited for again a moment later.
            tokio::time::sleep(Duration::from_millis(300)).await;
            requests.push(proxy.asked().len() - before);
        }
        latencies.sort();
        requests.sort_unstable();
        println!(
            "an instance more at {what}: listed after {:?} (median of {rounds}; least {:?}, most \
             {:?}); {} requests (median; most {})",
            latencies[rounds / 2],
            latencies[0],
            latencies[rounds - 1],
            requests[rounds / 2],
            requests[rounds - 1],
        );
        if place == 0 {
            assert!(requests[rounds / 2] <= 3, "{requests:?}");
        }
    }
    let began = Instant::now();
    let mut edited = an_instance(services - 1, 3);
    edited["Service"]["Port"] = json!(9);
    let body = edited.to_string().into_bytes();
    running.state.mark_unchanged();
    let before = proxy.asked().len();
    http.ask("PUT", "/v1/catalog/register", &[], body).await.unwrap();
    timeout(Duration::from_secs(60), running.state.changed()).await.unwrap().unwrap();
    println!(
        "a port edited in place: listed after {:?} with {} requests",
        began.elapsed(),
        proxy.asked().len() - before
    );
}

fn an_instance(service: usize, instance: usize) -> Value {
    let id = format!("s{service}-{instance}");
    let address = format!("10.{}.{}.{}", service / 250, service % 250, instance % 250);
    json!({
        "Node": format!("node-{}", instance % 10), "Address": format!("10.255.0.{}", instance % 10),
        // Naming the node again would be a change of the node.
        "SkipNodeUpdate": service > 0 || instance >= 10,
        "Service": {
            "ID": id, "Service": format!("s{service}"), "Address": address, "Port": 8080,
            "Meta": {"version": "1"},
        },
        "Checks": [{"CheckID": format!("service:{id}"), "Name": "alive", "Status": "passing", "ServiceID": id}],
    })
}

/// `LANDFALL_CONSUL_SERVICES` asks for another number of services: 10,000 take Consul minutes.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_services() {
    let services = std::env::var("LANDFALL_CONSUL_SERVICES").ok();
    measure(services.and_then(|count| count.parse().ok()).unwrap_or(1000), 20).await;
}
