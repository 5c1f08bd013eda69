//! The presets for other bridges, as components over a registry, against what those bridges wrote
//! of the same registry.
//!
//! `tests/fixtures/bridges` has both, and says how they were recorded. Each difference is listed
//! here, so that none comes or goes unseen; the policy's README says why.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failure ends the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;

use expect_test::{Expect, expect};
use landfall_tests::binary::Program;
use landfall_tests::repository::component;
use serde_json::{Map, Value};

const LANDFALL: &str = env!("CARGO_BIN_EXE_landfall-under-test");
const CONSUL: &str = include_str!("../fixtures/bridges/consul.yaml");
const EUREKA: &str = include_str!("../fixtures/bridges/eureka.yaml");

#[test]
fn consul2istio() {
    check(
        CONSUL,
        "{preset: consul2istio}",
        include_str!("../fixtures/bridges/consul2istio.yaml"),
        expect![[r#"
            - consul
            db
            -  resolution STATIC
            +  resolution DNS
            + odd-name-qo5r4jdg
              endpoint 10.0.0.13 80>8080 8080>8080 locality="dc1"
              in istio-system
              labels manager="Aeraki"
              labels registry="consul"
              location MESH_INTERNAL
              named odd-name-qo5r4jdg
              port 80 tcp-80 TCP
              port 8080 tcp-8080 TCP
              resolution STATIC
            + outside
              in istio-system
              labels manager="Aeraki"
              labels registry="consul"
              location MESH_EXTERNAL
              named outside
              port 80 tcp-80 TCP
              port 8443 tls-8443 TLS
              resolution NONE
        "#]],
    );
}

#[test]
fn consul2istio_with_its_options() {
    check(
        CONSUL,
        "{preset: consul2istio, fqdn: service.consul, enableDefaultPort: false, namespace: mesh}",
        include_str!("../fixtures/bridges/consul2istio-fqdn.yaml"),
        expect![[r#"
            - consul.service.consul
            db.service.consul
            -  resolution STATIC
            +  resolution DNS
            + odd-name-qo5r4jdg.service.consul
              endpoint 10.0.0.13 8080>8080 locality="dc1"
              in mesh
              labels manager="Aeraki"
              labels registry="consul"
              location MESH_INTERNAL
              named odd-name-qo5r4jdg.service.consul
              port 8080 tcp-8080 TCP
              resolution STATIC
            + outside.service.consul
              in mesh
              labels manager="Aeraki"
              labels registry="consul"
              location MESH_EXTERNAL
              named outside.service.consul
              port 8443 tls-8443 TLS
              resolution NONE
        "#]],
    );
}

#[test]
fn registry_sync() {
    check(
        CONSUL,
        "{preset: registry-sync}",
        include_str!("../fixtures/bridges/registry-sync.yaml"),
        expect![[r#"
            - consul
            db
            -  addresses "10.255.0.1"
            legacy
            -  addresses "10.255.0.1"
            + moving
              endpoint 10.255.0.1 8080>8080
              endpoint 10.255.0.2 8080>9090
              in mesh
              location MESH_EXTERNAL
              named consul-moving
              port 8080 tcp TCP
              resolution STATIC
            + odd-name-qo5r4jdg
              endpoint 10.255.0.1 8080>8080
              in mesh
              location MESH_EXTERNAL
              named consul-odd-name-qo5r4jdg
              port 8080 tcp TCP
              resolution STATIC
            orders
            -  addresses "10.255.0.1"
            outside
            -  addresses "10.255.0.1"
            portless
            -  addresses "10.255.0.1"
            secure
            -  addresses "10.255.0.1"
            thrift
            -  addresses "10.255.0.1"
            torn
            -  addresses "10.255.0.1"
            web
            -  addresses "10.255.0.1"
        "#]],
    );
}

#[test]
fn eureka2istio() {
    check(
        EUREKA,
        "{preset: eureka2istio}",
        include_str!("../fixtures/bridges/eureka2istio.yaml"),
        expect![[r#"
            - vault.example.com
        "#]],
    );
}

/// Istio's adapter wrote no resources to record, so this is what reading it leads one to expect.
#[test]
fn istio_consul() {
    let published = meaning(&planned(CONSUL, "{preset: istio-consul}"));
    let mut text = String::new();
    for host in ["outside.service.consul", "torn.service.consul", "web.service.consul"] {
        let _ = writeln!(text, "{host}\n{}", published[host].join("\n"));
    }
    expect![[r#"
        outside.service.consul
          in default
          location MESH_EXTERNAL
          named outside.service.consul
          port 8443 tls TLS
          resolution NONE
          subjectAltNames "spiffe://cluster.local/ns/default/sa/default"
        torn.service.consul
          endpoint 10.0.0.7 7000>7000 locality="dc1"
          endpoint 10.0.0.8 7000>7000 locality="dc1"
          endpoint 10.0.0.9 7000>7000 locality="dc1"
          in default
          location MESH_INTERNAL
          named torn.service.consul
          port 7000 http HTTP
          resolution STATIC
          subjectAltNames "spiffe://cluster.local/ns/default/sa/default"
        web.service.consul
          endpoint 10.0.0.1 8080>8080 labels={"version":"v1","zone":"a"} locality="dc1"
          endpoint 10.0.0.2 8080>8080 labels={"version":"v2"} locality="dc1"
          in default
          location MESH_INTERNAL
          named web.service.consul
          port 8080 http HTTP
          resolution STATIC
          subjectAltNames "spiffe://cluster.local/ns/default/sa/default"
    "#]]
    .assert_eq(&text);
}

/// Compares what the preset `settings` publishes of `registry` with what the bridge wrote.
#[track_caller]
fn check(registry: &str, settings: &str, recorded: &str, want: Expect) {
    let recorded = meaning(recorded);
    assert!(recorded.len() > 3, "the recording is empty");
    want.assert_eq(&differences(&recorded, &meaning(&planned(registry, settings))));
}

/// What Landfall would write. Bridges did not look at health.
fn planned(registry: &str, settings: &str) -> String {
    let component = component("bridge-presets");
    let folder = tempfile::tempdir().unwrap();
    let config = format!(
        "sources:\n  - {{name: dc1, file: {{path: registry.yaml}}}}\n\
         defaults: {{namespace: mesh, health: [passing, warning, critical, maintenance, unknown]}}\n\
         policies:\n  - {{name: bridge, component: {{file: {}}}, config: {settings}, limits: {{time: 2s}}}}\n\
         sinks:\n  - files: {{path: out}}\n",
        serde_json::to_string(&component).unwrap()
    );
    fs::write(folder.path().join("landfall.yaml"), config).unwrap();
    fs::write(folder.path().join("registry.yaml"), registry).unwrap();
    let output = Program::new(LANDFALL, folder.path()).run(&["plan", "--output", "yaml"]).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

// === What resources mean ===

/// Of each host what Istio makes of its ServiceEntry, a line for each fact: whether a target is
/// said by the endpoint or by the service's port is all the same.
type Meaning = BTreeMap<String, Vec<String>>;

fn meaning(documents: &str) -> Meaning {
    let entries: Vec<Value> = serde_saphyr::from_multiple(documents).unwrap();
    let mut meaning = Meaning::new();
    for entry in &entries {
        let host = entry["spec"]["hosts"][0].as_str().unwrap().to_lowercase();
        let mut facts = facts(entry);
        facts.sort();
        assert!(meaning.insert(host, facts).is_none(), "a host is published twice");
    }
    meaning
}

fn facts(entry: &Value) -> Vec<String> {
    let (metadata, spec) = (&entry["metadata"], &entry["spec"]);
    let word = |value: &Value, default: &str| value.as_str().unwrap_or(default).to_owned();
    let mut facts = vec![
        format!("  in {}", word(&metadata["namespace"], "")),
        format!("  named {}", word(&metadata["name"], "")),
        format!("  location {}", word(&spec["location"], "MESH_EXTERNAL")),
        format!("  resolution {}", word(&spec["resolution"], "NONE")),
    ];
    for kind in ["labels", "annotations"] {
        let own = |key: &str| key.starts_with("landfall.dev/") || key.ends_with("/managed-by");
        let pairs = metadata[kind].as_object().into_iter().flatten();
        facts.extend(
            pairs
                .filter(|(key, _)| !own(key))
                .map(|(key, value)| format!("  {kind} {key}={value}")),
        );
    }
    for list in ["addresses", "exportTo", "subjectAltNames"] {
        let values = spec[list].as_array().into_iter().flatten();
        facts.extend(values.map(|value| format!("  {list} {value}")));
    }
    let mut ports: Vec<&Value> = spec["ports"].as_array().into_iter().flatten().collect();
    // Their order means nothing, and bridges wrote them in that of a hash map.
    ports.sort_by_key(|port| port["number"].as_u64());
    facts.extend(ports.iter().map(|port| {
        format!(
            "  port {} {} {}",
            port["number"],
            word(&port["name"], ""),
            word(&port["protocol"], "")
        )
    }));
    let endpoints = spec["endpoints"].as_array().into_iter().flatten();
    facts.extend(endpoints.map(|endpoint| format!("  endpoint {}", at(endpoint, &ports))));
    facts
}

/// An endpoint, and where a client of each service port ends there.
fn at(endpoint: &Value, ports: &[&Value]) -> String {
    let mut endpoint = endpoint.as_object().cloned().unwrap();
    let targets = endpoint.remove("ports").unwrap_or_else(|| Map::new().into());
    let mut text = endpoint.remove("address").unwrap().as_str().unwrap().to_owned();
    for port in ports {
        let own = &targets[port["name"].as_str().unwrap()];
        let target = [own, &port["targetPort"], &port["number"]].into_iter().find(|t| t.is_u64());
        let _ = write!(text, " {}>{}", port["number"], target.unwrap());
    }
    for (key, value) in endpoint {
        let _ = write!(text, " {key}={value}");
    }
    text
}

/// What the bridge wrote and Landfall does not, behind `-`, and the other way round, behind `+`.
fn differences(bridge: &Meaning, landfall: &Meaning) -> String {
    let mut text = String::new();
    let hosts: BTreeSet<&String> = bridge.keys().chain(landfall.keys()).collect();
    for host in hosts {
        match (bridge.get(host), landfall.get(host)) {
            (Some(old), Some(new)) if old != new => {
                let _ = writeln!(text, "{host}");
                lines(&mut text, '-', old, new);
                lines(&mut text, '+', new, old);
            }
            (Some(_), Some(_)) | (None, None) => (),
            (Some(_), None) => text += &format!("- {host}\n"),
            (None, Some(new)) => text += &format!("+ {host}\n{}\n", new.join("\n")),
        }
    }
    text
}

/// Writes each of `these` that is not among `those`; of equal ones as many as there are more.
fn lines(text: &mut String, sign: char, these: &[String], those: &[String]) {
    let mut rest = those.to_vec();
    for line in these {
        match rest.iter().position(|other| other == line) {
            Some(index) => drop(rest.remove(index)),
            None => {
                let _ = writeln!(text, "{sign}{line}");
            }
        }
    }
}
