//! One table for each rule, and that what is rendered passes all of them.

use std::sync::Arc;

use landfall_core::finding::Finding;
use landfall_core::mesh::{Body as _, Object, ObjectId};

use super::*;
use crate::api::{Location, MeshObject, from_yaml};
use crate::render::{REFUSED_WHOLE, RenderOptions, Shape, render};
use crate::testing;

/// The rules that a ServiceEntry with this spec, in flow style, breaks.
fn service_entry(spec: &str) -> Vec<&'static str> {
    rules("ServiceEntry", spec)
}

fn workload_entry(spec: &str) -> Vec<&'static str> {
    rules("WorkloadEntry", spec)
}

fn rules(kind: &str, spec: &str) -> Vec<&'static str> {
    let text = format!(
        "apiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: a.b, namespace: ns}}\nspec: {spec}"
    );
    let object = from_yaml(&text).unwrap_or_else(|error| panic!("{text}: {error:?}")).object;
    violated(&object)
}

fn violated(object: &MeshObject) -> Vec<&'static str> {
    let violations = validate(object).err().unwrap_or_default();
    let mut rules: Vec<_> = violations.iter().map(|v| v.rule.as_str()).collect();
    rules.dedup();
    rules
}

const FINE: [&str; 0] = [];

#[test]
fn hosts() {
    for (hosts, fine) in [
        ("[a.b]", true),
        ("[A.b.]", true),
        ("['*.a.b']", true),
        ("['*-a.b']", true),
        ("['*a.b']", true),
        ("[]", false),
        ("['*']", false),
        ("['']", false),
        ("[a_b.c]", false),
        ("[a..b]", false),
        ("[a.*.b]", false),
        ("['10.0.0.1']", false),
        ("[-a.b]", false),
    ] {
        let rules = service_entry(&format!("{{hosts: {hosts}, resolution: STATIC}}"));
        assert_eq!(rules.is_empty(), fine, "{hosts}: {rules:?}");
    }
    let long = format!("{}.b", "a".repeat(64));
    assert_eq!(service_entry(&format!("{{hosts: [{long}]}}")), ["hosts"]);
    let many: Vec<String> = (0..257).map(|n| format!("h{n}.b")).collect();
    assert_eq!(service_entry(&format!("{{hosts: [{}]}}", many.join(","))), ["hosts"]);
}

#[test]
fn addresses() {
    for (addresses, resolution, fine) in [
        ("['10.0.0.1', 'fd00::1', '10.0.0.0/8', 'fd00::/64']", "STATIC", true),
        ("['10.0.0.0/8']", "NONE", true),
        ("['10.0.0.0/8']", "DNS", false),
        ("['10.0.0.1']", "DNS", true),
        ("['10.0.0.0/33']", "STATIC", false),
        ("['10.0.0.0/08']", "STATIC", false),
        ("['10.0.0.0/8/8']", "STATIC", false),
        ("[a.b]", "STATIC", false),
        ("['']", "STATIC", false),
    ] {
        let rules = service_entry(&format!(
            "{{hosts: [a.b], addresses: {addresses}, resolution: {resolution}}}"
        ));
        assert_eq!(rules.is_empty(), fine, "{addresses}: {rules:?}");
    }
}

#[test]
fn ports() {
    for (ports, fine) in [
        ("[{name: http, number: 80}]", true),
        ("[{name: HTTP-1, number: 65535, protocol: gRPC-web, targetPort: 1}]", true),
        ("[{name: a, number: 80}, {name: a, number: 81}]", false),
        ("[{name: a, number: 80}, {name: b, number: 80}]", false),
        ("[{name: a_b, number: 80}]", false),
        ("[{name: '', number: 80}]", false),
        ("[{name: a, number: 0}]", false),
        ("[{name: a, number: 65536}]", false),
        ("[{name: a, number: 80, targetPort: 65536}]", false),
        ("[{name: a, number: 80, protocol: HTTP3}]", false),
    ] {
        let rules = service_entry(&format!("{{hosts: [a.b], resolution: STATIC, ports: {ports}}}"));
        assert_eq!(rules, if fine { FINE.to_vec() } else { vec!["ports"] }, "{ports}");
    }
}

#[test]
fn resolutions() {
    let http = "ports: [{name: http, number: 80, protocol: HTTP}]";
    let tcp = "ports: [{name: tcp, number: 80, protocol: TCP}]";
    for (spec, fine) in [
        ("hosts: [a.b], resolution: NONE".to_owned(), true),
        ("hosts: [a.b], resolution: NONE, endpoints: [{address: 10.0.0.1}]".to_owned(), false),
        ("hosts: [a.b], endpoints: [{address: 10.0.0.1}]".to_owned(), false),
        ("hosts: [a.b], resolution: NONE, workloadSelector: {labels: {a: b}}".to_owned(), false),
        ("hosts: [a.b], resolution: DNS".to_owned(), true),
        ("hosts: ['*.a.b'], resolution: DNS".to_owned(), false),
        ("hosts: ['*.a.b'], resolution: DNS, endpoints: [{address: c.d}]".to_owned(), true),
        ("hosts: ['*.a.b'], resolution: DNS, workloadSelector: {labels: {a: b}}".to_owned(), false),
        ("hosts: [a.b], resolution: DNS_ROUND_ROBIN, endpoints: [{address: c.d}]".to_owned(), true),
        ("hosts: [a.b], resolution: DNS_ROUND_ROBIN, endpoints: [{address: c.d}, {address: d.e}]".to_owned(), false),
        (format!("hosts: [a.b, c.d], resolution: STATIC, {http}"), true),
        (format!("hosts: [a.b, c.d], resolution: STATIC, {tcp}"), false),
        (format!("hosts: [a.b, c.d], resolution: NONE, {tcp}"), true),
        (format!("hosts: ['*.a.b'], resolution: DYNAMIC_DNS, {http}"), true),
        (format!("hosts: [a.b], resolution: DYNAMIC_DNS, {http}"), false),
        (format!("hosts: ['*.a.b'], resolution: DYNAMIC_DNS, {tcp}"), false),
        (format!("hosts: ['*.a.b'], resolution: DYNAMIC_DNS, addresses: [10.0.0.1], {http}"), false),
        (format!("hosts: ['*.a.b'], resolution: DYNAMIC_DNS, endpoints: [{{address: c.d}}], {http}"), false),
    ] {
        let rules = service_entry(&format!("{{{spec}}}"));
        assert_eq!(rules, if fine { FINE.to_vec() } else { vec!["resolution"] }, "{spec}");
    }
}

#[test]
fn endpoints() {
    for (endpoint, fine) in [
        ("{address: 10.0.0.1}", true),
        ("{address: 'fd00::0001'}", true),
        ("{address: a.b}", false),
        ("{address: ''}", false),
        ("{network: net}", true),
        ("{address: 'unix:///a'}", true),
        ("{address: 'unix://@a'}", true),
        ("{address: 'unix://a'}", false),
        ("{address: 'unix:///a/'}", false),
        ("{address: 'unix:///a', ports: {http: 1}}", false),
        ("{address: 10.0.0.1, ports: {http: 8080}}", true),
        ("{address: 10.0.0.1, ports: {http: 0}}", false),
        ("{address: 10.0.0.1, ports: {other: 8080}}", false),
        ("{address: 10.0.0.1, labels: {'a/b': c}}", true),
        ("{address: 10.0.0.1, labels: {a: ''}}", true),
        ("{address: 10.0.0.1, labels: {a: 'b c'}}", false),
        ("{address: 10.0.0.1, labels: {'': b}}", false),
        ("{address: 10.0.0.1, labels: {'A/b': c}}", false),
    ] {
        let rules = service_entry(&format!(
            "{{hosts: [a.b], resolution: STATIC, ports: [{{name: http, number: 80}}], endpoints: [{endpoint}]}}"
        ));
        assert_eq!(rules.is_empty(), fine, "{endpoint}: {rules:?}");
    }
    let list = vec!["{address: 10.0.0.1}"; 4097].join(",");
    assert_eq!(
        service_entry(&format!("{{hosts: [a.b], resolution: STATIC, endpoints: [{list}]}}")),
        ["endpoints"]
    );
}

#[test]
fn what_dns_resolves() {
    for (endpoint, fine) in [
        ("{address: 10.0.0.1}", true),
        ("{address: a.b}", true),
        ("{address: 'unix:///a'}", false),
        ("{network: net}", false),
        ("{address: a_b}", false),
    ] {
        for resolution in ["DNS", "DNS_ROUND_ROBIN"] {
            let rules = service_entry(&format!(
                "{{hosts: [a.b], resolution: {resolution}, ports: [{{name: http, number: 80}}], endpoints: [{endpoint}]}}"
            ));
            assert_eq!(rules.is_empty(), fine, "{endpoint}: {rules:?}");
        }
    }
}

#[test]
fn workload_entries() {
    assert_eq!(workload_entry("{address: a.b}"), FINE);
    assert_eq!(workload_entry("{address: a_b}"), ["endpoints"]);
    assert_eq!(workload_entry("{}"), ["endpoints"]);
    let name = "p".repeat(62);
    assert_eq!(workload_entry(&format!("{{address: a.b, ports: {{{name}: 1}}}}")), FINE);
    assert_eq!(workload_entry(&format!("{{address: a.b, ports: {{p{name}: 1}}}}")), ["endpoints"]);
    let ports: Vec<String> = (0..129).map(|n| format!("p{n}: 1")).collect();
    assert_eq!(
        workload_entry(&format!("{{address: a.b, ports: {{{}}}}}", ports.join(","))),
        ["endpoints"]
    );
    let labels: Vec<String> = (0..257).map(|n| format!("p{n}: a")).collect();
    assert_eq!(
        workload_entry(&format!("{{address: a.b, labels: {{{}}}}}", labels.join(","))),
        ["labels"]
    );
    for (field, len) in [("network", 2049), ("locality", 2049), ("serviceAccount", 254)] {
        let long = "ü".repeat(len);
        assert_eq!(workload_entry(&format!("{{address: a.b, {field}: {long}}}")), ["endpoints"]);
        let fits = "ü".repeat(len - 1);
        assert_eq!(workload_entry(&format!("{{address: a.b, {field}: {fits}}}")), FINE);
    }
}

#[test]
fn selectors_and_visibility() {
    for (spec, rule) in [
        ("workloadSelector: {labels: {a: b}}", ""),
        ("workloadSelector: {}", "selector"),
        ("workloadSelector: {labels: {a: 'b*'}}", "selector"),
        ("exportTo: ['.', default]", ""),
        ("exportTo: ['*']", ""),
        ("exportTo: ['~']", ""),
        ("exportTo: ['*', default]", "export_to"),
        ("exportTo: ['~', default]", "export_to"),
        ("exportTo: ['.', ns]", "export_to"),
        ("exportTo: [a, a]", "export_to"),
        ("exportTo: [a_b]", "export_to"),
    ] {
        let rules = service_entry(&format!("{{hosts: [a.b], resolution: STATIC, {spec}}}"));
        assert_eq!(rules.join(","), rule, "{spec}");
    }
}

#[test]
fn metadata() {
    let object = |namespace: &str, name: &str, labels: Pairs, annotations: Pairs| {
        let spec = ServiceEntry {
            hosts: Box::from([Text::from("a.b")]),
            location: Location::MeshInternal,
            ..ServiceEntry::default()
        };
        let id =
            ObjectId { kind: Kind::ServiceEntry, namespace: namespace.into(), name: name.into() };
        let body = Body { labels, annotations, spec: Spec::ServiceEntry(spec) };
        violated(&Object { id, sources: Arc::from([]), removal: None, body: Arc::new(body) })
            .join(",")
    };
    let none = Pairs::default;
    let one = |key: &str, value: &str| -> Pairs { [(key, value)].into_iter().collect() };
    assert_eq!(object("ns", "a.b", none(), none()), "");
    assert_eq!(object("ns", "A.b", none(), none()), "name");
    assert_eq!(object("ns", "a..b", none(), none()), "name");
    assert_eq!(object("ns", "*.b", none(), none()), "name");
    assert_eq!(object("ns", &"a".repeat(254), none(), none()), "name");
    assert_eq!(object("n.s", "a", none(), none()), "name");
    assert_eq!(object("ns", "a", one("a b", "c"), none()), "labels");
    assert_eq!(object("ns", "a", none(), one("a/b/c", "any\nthing")), "annotations");
    assert_eq!(object("ns", "a", none(), one("a/b", "any\nthing")), "");
    assert_eq!(object("ns", "a", none(), one("a", &"x".repeat(262_145))), "annotations");
    for key in REFUSED_ANNOTATIONS {
        assert_eq!(object("ns", "a", none(), one(key, "true")), "annotations", "{key}");
        assert_eq!(object("ns", "a", one(key, "true"), none()), "", "{key}");
    }
}

#[test]
fn too_large() {
    let endpoint = format!("{{address: 10.0.0.1, network: {}}}", "n".repeat(2000));
    let list = vec![endpoint.as_str(); 800].join(",");
    assert_eq!(
        service_entry(&format!("{{hosts: [a.b], resolution: STATIC, endpoints: [{list}]}}")),
        ["size"]
    );
}

#[test]
fn what_is_rendered_passes() {
    let mut objects = 0;
    for seed in 0..40 {
        for service in testing::services(seed, 60) {
            let mut endpoints = Vec::new();
            for shape in [Shape::Auto, Shape::Inline, Shape::WorkloadEntries] {
                let rendered =
                    render(&service, &RenderOptions { shape, ..RenderOptions::default() });
                assert!(!rendered.objects.is_empty(), "{:?}", rendered.findings);
                let whole = |finding: &Finding| !finding.message.starts_with(REFUSED_WHOLE);
                assert!(rendered.findings.iter().all(whole), "{:?}", rendered.findings);
                for object in &rendered.objects {
                    assert_eq!(validate(object), Ok(()));
                    objects += 1;
                }
                let counts = rendered.objects.iter().map(|object| object.body.endpoint_count());
                endpoints.push(counts.sum::<usize>());
            }
            // Wherever they stand, none is lost: all services are small enough to be inline.
            assert!(endpoints.iter().all(|count| *count == endpoints[0]), "{endpoints:?}");
        }
    }
    assert!(objects > 10_000, "{objects}");
}
