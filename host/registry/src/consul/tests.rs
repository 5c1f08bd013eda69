//! What Consul's answers mean. The fixtures were recorded from Consul 1.22.0.

use expect_test::{Expect, expect};
use landfall_core::registry::Snapshot;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::convert::{checks_view, names_view, namespaces, service, summary_view};
use super::*;

const WEB: &[u8] = include_bytes!("../../../../tests/fixtures/consul/service-web.json");
const MULTI: &[u8] = include_bytes!("../../../../tests/fixtures/consul/service-multi.json");
const DB: &[u8] = include_bytes!("../../../../tests/fixtures/consul/service-db.json");
const GATEWAY: &[u8] = include_bytes!("../../../../tests/fixtures/consul/service-gw.json");
const SIDECAR: &[u8] =
    include_bytes!("../../../../tests/fixtures/consul/service-web-sidecar-proxy.json");
const NAMES: &[u8] = include_bytes!("../../../../tests/fixtures/consul/names.json");
const SUMMARY: &[u8] = include_bytes!("../../../../tests/fixtures/consul/summary.json");
const CHECKS: &[u8] = include_bytes!("../../../../tests/fixtures/consul/checks.json");

const ALL: Kinds = Kinds { proxies: true, gateways: true };

fn read(body: &[u8], kinds: Kinds) -> String {
    let read = match service(body, "x", &Scope::default(), kinds) {
        Ok(read) => read,
        Err(error) => return format!("refused: {error}\n"),
    };
    let services = read.service.into_iter().map(|service| (service.key.clone(), service));
    let snapshot = Snapshot { services: services.collect() };
    let mut text = Vec::new();
    crate::file::write(&snapshot, &mut text).unwrap();
    let mut text = String::from_utf8(text).unwrap();
    for finding in read.findings {
        text.push_str(&format!("{finding}\n"));
    }
    text
}

fn check(body: &[u8], want: Expect) {
    want.assert_eq(&read(body, Kinds::default()));
}

/// The database with `change` made to its only entry.
fn changed(change: impl Fn(&mut Value)) -> Vec<u8> {
    let mut entries: Value = serde_json::from_slice(DB).unwrap();
    change(&mut entries[0]);
    entries.to_string().into_bytes()
}

#[test]
fn a_service_with_all_that_consul_has() {
    check(
        WEB,
        expect![[r#"
        services:
          - name: web
            datacenter: dc1
            instances:
              - id: n1/web-1
                address: "10.0.0.1"
                port: 8080
                health: passing
                weight: 10
                tags: [v1, v2]
                meta: {version: "1.2"}
                ext: {consul.node: n1, consul.node-address: "127.0.0.1", consul.tagged.lan: 10.0.0.1:8080, consul.tagged.lan_ipv4: 10.0.0.1:8080, consul.tagged.wan: 203.0.113.5:80, consul.tagged.wan_ipv4: 10.0.0.1:8080}
                locality: {region: eu, zone: eu-1a}
              - id: n1/web-2
                address: "127.0.0.1"
                port: 8081
                health: warning
                ext: {consul.node: n1, consul.node-address: "127.0.0.1"}
              - id: n1/web-3
                address: "10.0.0.3"
                port: 8082
                health: maintenance
                ext: {consul.node: n1, consul.node-address: "127.0.0.1", consul.tagged.lan_ipv4: 10.0.0.3:8082, consul.tagged.wan_ipv4: 10.0.0.3:8082}
    "#]],
    );
}

#[test]
fn several_ports() {
    check(
        MULTI,
        expect![[r#"
        services:
          - name: multi
            datacenter: dc1
            instances:
              - id: n1/multi-1
                address: "10.0.0.4"
                ports: [{name: admin, port: 9000}, {name: http, port: 80}]
                health: passing
                ext: {consul.node: n1, consul.node-address: "127.0.0.1", consul.tagged.lan_ipv4: 10.0.0.4:80, consul.tagged.wan_ipv4: 10.0.0.4:80}
    "#]],
    );
}

#[test]
fn an_instance_without_an_address_is_at_its_node() {
    check(
        DB,
        expect![[r#"
        services:
          - name: db
            datacenter: dc1
            instances:
              - id: ext/db-1
                address: db.example.com
                port: 5432
                health: passing
                ext: {consul.node: ext, consul.node-address: db.example.com, consul.node-meta.rack: r1}
    "#]],
    );
}

#[test]
fn proxies_and_gateways_are_listed_when_asked_for() {
    check(
        GATEWAY,
        expect![[r#"
        services: []
    "#]],
    );
    check(
        SIDECAR,
        expect![[r#"
        services: []
    "#]],
    );
    expect![[r#"
        services:
          - name: gw
            datacenter: dc1
            instances:
              - id: ext2/gw-1
                address: "10.9.9.9"
                port: 443
                health: passing
                ext: {consul.kind: mesh-gateway, consul.node: ext2, consul.node-address: "10.9.9.9"}
        services:
          - name: web-sidecar-proxy
            datacenter: dc1
            instances:
              - id: n1/web-1-sidecar-proxy
                address: "10.0.0.1"
                port: 21000
                health: passing
                tags: [v1, v2]
                meta: {version: "1.2"}
                ext: {consul.destination: web, consul.destination-id: web-1, consul.kind: connect-proxy, consul.node: n1, consul.node-address: "127.0.0.1", consul.tagged.consul-virtual: 240.0.0.1:21000, consul.tagged.lan_ipv4: 10.0.0.1:21000, consul.tagged.wan_ipv4: 10.0.0.1:21000}
                locality: {region: eu, zone: eu-1a}
    "#]].assert_eq(&(read(GATEWAY, ALL) + &read(SIDECAR, ALL)));
}

#[test]
fn the_scope_names_what_the_answer_does_not() {
    let scope = Scope {
        datacenter: Some("eu".to_owned()),
        partition: Some("p".to_owned()),
        namespace: Some("n".to_owned()),
    };
    let of = |body: &[u8]| {
        service(body, "db", &scope, Kinds::default()).unwrap().service.unwrap().key.to_string()
    };
    assert_eq!(of(DB), "dc1/p/n/db");
    assert_eq!(of(&changed(|entry| entry["Node"]["Datacenter"] = json!(""))), "eu/p/n/db");
    assert_eq!(of(&changed(|entry| entry["Service"]["Namespace"] = json!("x"))), "dc1/p/x/db");
}

#[test]
fn a_malformed_entry_is_a_finding() {
    let mut entries: Value = serde_json::from_slice(WEB).unwrap();
    let break_at = |at: usize, path: &str, value: Value, entries: &mut Value| {
        *entries[at].pointer_mut(path).unwrap() = value;
    };
    break_at(0, "/Service/Port", json!("eighty"), &mut entries);
    break_at(1, "/Service/Port", json!(65536), &mut entries);
    let extra = [
        json!(null),
        json!({}),
        json!({"Node": {"Node": "n"}, "Service": {"ID": "i", "Service": "web"}}),
        json!({"Node": {"Node": "", "Address": "a"}, "Service": {"ID": "i", "Service": "web"}}),
        json!({
            "Node": {"Node": "n", "Address": "a"},
            "Service": {"ID": "i", "Service": "web", "Weights": {"Passing": -1, "Warning": 0}}
        }),
    ];
    entries.as_array_mut().unwrap().extend(extra);
    check(
        entries.to_string().as_bytes(),
        expect![[r#"
        services:
          - name: web
            datacenter: dc1
            instances:
              - id: n1/web-3
                address: "10.0.0.3"
                port: 8082
                health: maintenance
                ext: {consul.node: n1, consul.node-address: "127.0.0.1", consul.tagged.lan_ipv4: 10.0.0.3:8082, consul.tagged.wan_ipv4: 10.0.0.3:8082}
        malformed_instance x//: invalid type: null, expected struct Entry at line 1 column 4; it is left out. Register it again with what Consul documents
        malformed_instance x//: missing field `Node` at line 1 column 2; it is left out. Register it again with what Consul documents
        malformed_instance x//i: it has no node, no ID or no name; it is left out. Register it again with what Consul documents
        malformed_instance x/n/i: neither it nor its node has an address; it is left out. Register it again with what Consul documents
        malformed_instance x/n/i: weight -1 is below zero or too large; it is left out. Register it again with what Consul documents
        malformed_instance x/n1/web-1: invalid type: string "eighty", expected i64 at line 1 column 1098; it is left out. Register it again with what Consul documents
        malformed_instance x/n1/web-2: port 65536 is not between 1 and 65535; it is left out. Register it again with what Consul documents
    "#]],
    );
}

#[test]
fn answers_that_are_no_list() {
    check(
        b"",
        expect![[r#"
        refused: EOF while parsing a value at line 1 column 0
    "#]],
    );
    check(
        b"{}",
        expect![[r#"
        refused: invalid type: map, expected a sequence at line 1 column 0
    "#]],
    );
    check(
        b"null",
        expect![[r#"
        services: []
    "#]],
    );
    check(
        &WEB[..WEB.len() / 2],
        expect![[r#"
        refused: EOF while parsing a value at line 144 column 24
    "#]],
    );
    assert!(names_view(b"[]").is_err());
    assert!(summary_view(b"{}", ALL).is_err());
    assert!(checks_view(b"{}").is_err());
    assert!(namespaces(b"null").is_err());
}

#[test]
fn an_instance_is_where_it_says_or_where_its_node_does() {
    let of = |own: Value, node: Value| {
        let body = changed(|entry| {
            entry["Service"]["Locality"] = own.clone();
            entry["Node"]["Locality"] = node.clone();
            entry["Node"]["Meta"] = json!({"region": "meta"});
        });
        let read = service(&body, "db", &Scope::default(), Kinds::default()).unwrap();
        let place = read.service.unwrap().instances()[0].locality.clone();
        place.map(|place| format!("{}/{}", place.region, place.zone))
    };
    let place = |region: &str, zone: &str| json!({"Region": region, "Zone": zone});
    assert_eq!(of(place("a", "1"), place("b", "2")).as_deref(), Some("a/1"));
    assert_eq!(of(json!(null), place("b", "2")).as_deref(), Some("b/2"));
    assert_eq!(of(place("", ""), place("b", "")).as_deref(), Some("b/"));
    // Neither the datacenter nor a node's metadata is a place.
    assert_eq!(of(place("", ""), json!(null)), None);
}

#[test]
fn a_node_has_addresses_for_others() {
    let body = changed(|entry| {
        let own = entry["Node"]["Address"].clone();
        entry["Node"]["TaggedAddresses"] = json!({"lan": own, "wan": "203.0.113.7"});
    });
    let read = service(&body, "db", &Scope::default(), Kinds::default()).unwrap();
    let ext = read.service.unwrap().instances()[0].ext.clone();
    let told: Vec<_> = ext.iter().filter(|(key, _)| key.contains("node-tagged")).collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!((&**told[0].0, &**told[0].1), ("consul.node-tagged.wan", "203.0.113.7"));
}

#[test]
fn a_summary_hides_health_unless_all_is_well() {
    let of = |passing: u64, warning: u64, critical: u64| {
        let summary = json!([{
            "Name": "s", "InstanceCount": 2, "ChecksPassing": passing,
            "ChecksWarning": warning, "ChecksCritical": critical,
        }]);
        let view = summary_view(summary.to_string().as_bytes(), ALL).unwrap();
        view.values().any(|shown| shown.hides_health)
    };
    assert!(!of(2, 0, 0) && !of(0, 0, 0));
    assert!(of(1, 1, 0) && of(1, 0, 1) && of(0, 0, 2));
}

#[test]
fn the_worst_check_counts() {
    let of = |checks: Value| {
        let body = changed(|entry| entry["Checks"] = checks.clone());
        let read = service(&body, "db", &Scope::default(), Kinds::default()).unwrap();
        read.service.unwrap().instances()[0].health.as_str()
    };
    let status = |status: &str| json!({"CheckID": "c", "Status": status});
    let node = json!({"CheckID": "_node_maintenance", "Status": "critical"});
    let service = json!({"CheckID": "_service_maintenance:db-1", "Status": "critical"});
    assert_eq!(of(json!(null)), "passing");
    assert_eq!(of(json!([])), "passing");
    assert_eq!(of(json!([status("passing"), status("warning")])), "warning");
    assert_eq!(of(json!([status("critical"), status("warning")])), "critical");
    assert_eq!(of(json!([status("passing"), status("odd")])), "unknown");
    assert_eq!(of(json!([node, status("critical")])), "maintenance");
    assert_eq!(of(json!([status("passing"), service])), "maintenance");
}

#[test]
fn views_show_what_is_registered() {
    let names = |view: convert::View| view.into_keys().map(|k| k.to_string()).collect::<Vec<_>>();
    assert_eq!(
        names(names_view(NAMES).unwrap()),
        ["consul", "db", "gw", "multi", "web", "web-sidecar-proxy"]
    );
    assert_eq!(
        names(summary_view(SUMMARY, Kinds::default()).unwrap()),
        ["consul", "db", "multi", "web"]
    );
    assert_eq!(names(summary_view(SUMMARY, ALL).unwrap()).len(), 6);
    let mut reversed: Vec<Value> = serde_json::from_slice(CHECKS).unwrap();
    reversed.reverse();
    let reversed = serde_json::to_vec(&reversed).unwrap();
    assert_eq!(checks_view(CHECKS).unwrap(), checks_view(&reversed).unwrap());
    reversed_lists_are_equal(SUMMARY, |body| summary_view(body, ALL).unwrap());
    reversed_lists_are_equal(NAMES, |body| names_view(body).unwrap());
}

/// Nodes and tags come in no order.
fn reversed_lists_are_equal(body: &[u8], view: impl Fn(&[u8]) -> convert::View) {
    fn reverse(value: &mut Value) {
        match value {
            Value::Array(items) => {
                items.reverse();
                items.iter_mut().for_each(reverse);
            }
            Value::Object(fields) => fields.values_mut().for_each(reverse),
            _ => (),
        }
    }
    let mut reversed: Value = serde_json::from_slice(body).unwrap();
    reverse(&mut reversed);
    assert_eq!(view(body), view(reversed.to_string().as_bytes()));
}

#[test]
fn order_means_nothing() {
    let mut entries: Vec<Value> = serde_json::from_slice(WEB).unwrap();
    let before = read(WEB, ALL);
    entries.reverse();
    assert_eq!(read(&serde_json::to_vec(&entries).unwrap(), ALL), before);
}

#[test]
fn scopes() {
    let mut settings = ConsulSettings::new(vec![]);
    assert_eq!(settings.scopes(|_| vec![]), [Scope::default()]);
    settings.datacenters = vec!["b".to_owned(), "a".to_owned(), "a".to_owned()];
    settings.namespaces = vec!["*".to_owned()];
    let told: Vec<String> = settings
        .scopes(|place| vec![format!("of-{}", place.datacenter.as_deref().unwrap_or_default())])
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(told, ["datacenter a, namespace of-a", "datacenter b, namespace of-b"]);
}

fn never_panics(bytes: &[u8]) {
    let scope = Scope::default();
    let _ = (service(bytes, "x", &scope, ALL), names_view(bytes), summary_view(bytes, ALL));
    let _ = (checks_view(bytes), namespaces(bytes));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn no_bytes_break_a_reader(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        never_panics(&bytes);
    }

    #[test]
    fn no_damage_to_an_answer_breaks_a_reader(
        which in prop::sample::select(vec![WEB, MULTI, DB, SIDECAR, NAMES, SUMMARY, CHECKS]),
        at in any::<prop::sample::Index>(),
        len in 0..30_usize,
        with in "[-0-9eE.\"\\[\\]{}:,a-z\\\\]{0,10}",
    ) {
        let mut bytes = which.to_vec();
        let at = at.index(bytes.len());
        let end = (at + len).min(bytes.len());
        bytes.splice(at..end, with.into_bytes());
        never_panics(&bytes);
    }

    /// Every value replaced by any other: the types are wrong, the JSON is not.
    #[test]
    fn no_wrong_type_breaks_a_reader(
        which in prop::sample::select(vec![WEB, MULTI, DB, SIDECAR, NAMES, SUMMARY, CHECKS]),
        at in any::<prop::sample::Index>(),
        with in prop::sample::select(vec![
            json!(null), json!(true), json!(-1), json!(1e300), json!(u64::MAX), json!(""),
            json!([]), json!({}), json!([null]), json!({"": null}),
        ]),
    ) {
        fn places(value: &Value, here: String, all: &mut Vec<String>) {
            all.push(here.clone());
            match value {
                Value::Array(items) => {
                    items.iter().enumerate().for_each(|(i, v)| places(v, format!("{here}/{i}"), all));
                }
                Value::Object(fields) => fields.iter().for_each(|(key, v)| {
                    places(v, format!("{here}/{}", key.replace('~', "~0").replace('/', "~1")), all);
                }),
                _ => (),
            }
        }
        let mut value: Value = serde_json::from_slice(which).unwrap();
        let mut all = Vec::new();
        places(&value, String::new(), &mut all);
        *value.pointer_mut(&all[at.index(all.len())]).unwrap() = with;
        never_panics(value.to_string().as_bytes());
    }
}
