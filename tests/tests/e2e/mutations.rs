//! Objects that somebody might refuse.

use std::sync::Arc;

use landfall_core::pairs::Pairs;
use landfall_core::text::Text;
use landfall_mesh::api::{
    Body, EndpointAddress, Endpoints, Location, MeshObject, Resolution, ServiceEntry, ServicePort,
    Spec, WorkloadEntry,
};
use landfall_mesh::testing::Dice;

/// Specs by hand, in YAML's flow style: each next to what the rules turn on.
pub(crate) const TABLE: &[(&str, &str)] = &[
    ("ServiceEntry", "{hosts: [a.b], resolution: STATIC}"),
    ("ServiceEntry", "{hosts: ['*'], resolution: STATIC}"),
    ("ServiceEntry", "{hosts: ['*.a.b'], resolution: STATIC}"),
    ("ServiceEntry", "{hosts: ['*-a.b'], resolution: STATIC}"),
    ("ServiceEntry", "{hosts: ['*a.b'], resolution: STATIC}"),
    ("ServiceEntry", "{hosts: ['a.*.b'], resolution: STATIC}"),
    ("ServiceEntry", "{hosts: [], resolution: STATIC}"),
    ("ServiceEntry", "{hosts: [''], resolution: STATIC}"),
    ("ServiceEntry", "{hosts: [A.b.], resolution: STATIC}"),
    ("ServiceEntry", "{hosts: [a_b.c], resolution: STATIC}"),
    ("ServiceEntry", "{hosts: [a..b], resolution: STATIC}"),
    ("ServiceEntry", "{hosts: [-a.b], resolution: STATIC}"),
    ("ServiceEntry", "{hosts: ['10.0.0.1'], resolution: STATIC}"),
    ("ServiceEntry", "{hosts: ['a.1'], resolution: STATIC}"),
    ("ServiceEntry", "{hosts: ['1.a'], resolution: STATIC}"),
    ("ServiceEntry", "{hosts: [localhost], resolution: STATIC}"),
    ("ServiceEntry", "{hosts: [a.b, a.b], resolution: STATIC}"),
    ("ServiceEntry", "{hosts: [ü.b], resolution: STATIC}"),
    (
        "ServiceEntry",
        "{hosts: [a.b], resolution: STATIC, addresses: ['10.0.0.1', 'fd00::1', '10.0.0.0/8', 'fd00::/64']}",
    ),
    ("ServiceEntry", "{hosts: [a.b], resolution: DNS, addresses: ['10.0.0.0/8']}"),
    ("ServiceEntry", "{hosts: [a.b], resolution: DNS, addresses: ['10.0.0.1']}"),
    ("ServiceEntry", "{hosts: [a.b], resolution: STATIC, addresses: ['10.0.0.0/33']}"),
    ("ServiceEntry", "{hosts: [a.b], resolution: STATIC, addresses: ['10.0.0.0/08']}"),
    ("ServiceEntry", "{hosts: [a.b], resolution: STATIC, addresses: ['010.0.0.1']}"),
    ("ServiceEntry", "{hosts: [a.b], resolution: STATIC, addresses: ['fe80::1%eth0']}"),
    ("ServiceEntry", "{hosts: [a.b], resolution: STATIC, addresses: ['::ffff:10.0.0.1']}"),
    ("ServiceEntry", "{hosts: [a.b], resolution: STATIC, addresses: ['::ffff:10.0.0.0/100']}"),
    ("ServiceEntry", "{hosts: [a.b], resolution: STATIC, addresses: [c.d]}"),
    ("ServiceEntry", "{hosts: [a.b], resolution: STATIC, addresses: ['']}"),
    (
        "ServiceEntry",
        "{hosts: [a.b], resolution: STATIC, ports: [{name: a, number: 80}, {name: a, number: 81}]}",
    ),
    (
        "ServiceEntry",
        "{hosts: [a.b], resolution: STATIC, ports: [{name: a, number: 80}, {name: b, number: 80}]}",
    ),
    ("ServiceEntry", "{hosts: [a.b], resolution: STATIC, ports: [{name: A-1, number: 80}]}"),
    ("ServiceEntry", "{hosts: [a.b], resolution: STATIC, ports: [{name: a_b, number: 80}]}"),
    ("ServiceEntry", "{hosts: [a.b], resolution: STATIC, ports: [{name: '', number: 80}]}"),
    ("ServiceEntry", "{hosts: [a.b], resolution: STATIC, ports: [{name: a, number: 0}]}"),
    ("ServiceEntry", "{hosts: [a.b], resolution: STATIC, ports: [{name: a, number: 65535}]}"),
    ("ServiceEntry", "{hosts: [a.b], resolution: STATIC, ports: [{name: a, number: 65536}]}"),
    (
        "ServiceEntry",
        "{hosts: [a.b], resolution: STATIC, ports: [{name: a, number: 80, targetPort: 65536}]}",
    ),
    (
        "ServiceEntry",
        "{hosts: [a.b], resolution: STATIC, ports: [{name: a, number: 80, protocol: HTTP3}]}",
    ),
    (
        "ServiceEntry",
        "{hosts: [a.b], resolution: STATIC, ports: [{name: a, number: 80, protocol: gRPC-web}]}",
    ),
    (
        "ServiceEntry",
        "{hosts: [a.b], resolution: STATIC, ports: [{name: a, number: 80, protocol: udp}]}",
    ),
    ("ServiceEntry", "{hosts: [a.b], resolution: NONE, endpoints: [{address: 10.0.0.1}]}"),
    ("ServiceEntry", "{hosts: [a.b], endpoints: [{address: 10.0.0.1}]}"),
    ("ServiceEntry", "{hosts: [a.b], resolution: NONE}"),
    ("ServiceEntry", "{hosts: ['*.a.b'], resolution: DNS}"),
    ("ServiceEntry", "{hosts: ['*.a.b'], resolution: DNS, endpoints: [{address: c.d}]}"),
    (
        "ServiceEntry",
        "{hosts: [a.b], resolution: DNS, endpoints: [{address: c.d}, {address: 10.0.0.1}]}",
    ),
    ("ServiceEntry", "{hosts: [a.b], resolution: DNS_ROUND_ROBIN, endpoints: [{address: c.d}]}"),
    (
        "ServiceEntry",
        "{hosts: [a.b], resolution: DNS_ROUND_ROBIN, endpoints: [{address: c.d}, {address: d.e}]}",
    ),
    (
        "ServiceEntry",
        "{hosts: [a.b, c.d], resolution: STATIC, ports: [{name: a, number: 80, protocol: TCP}]}",
    ),
    (
        "ServiceEntry",
        "{hosts: [a.b, c.d], resolution: STATIC, ports: [{name: a, number: 80, protocol: HTTP}]}",
    ),
    ("ServiceEntry", "{hosts: [a.b, c.d], resolution: STATIC, ports: [{name: a, number: 80}]}"),
    (
        "ServiceEntry",
        "{hosts: ['*.a.b'], resolution: DYNAMIC_DNS, ports: [{name: a, number: 80, protocol: HTTP}]}",
    ),
    (
        "ServiceEntry",
        "{hosts: ['*.a.b'], resolution: DYNAMIC_DNS, ports: [{name: a, number: 80, protocol: TCP}]}",
    ),
    (
        "ServiceEntry",
        "{hosts: [a.b], resolution: DYNAMIC_DNS, ports: [{name: a, number: 80, protocol: HTTP}]}",
    ),
    (
        "ServiceEntry",
        "{hosts: ['*.a.b'], resolution: DYNAMIC_DNS, addresses: [10.0.0.1], ports: [{name: a, number: 80, protocol: HTTP}]}",
    ),
    ("ServiceEntry", "{hosts: [a.b], resolution: STATIC, endpoints: [{address: c.d}]}"),
    ("ServiceEntry", "{hosts: [a.b], resolution: STATIC, endpoints: [{address: ''}]}"),
    ("ServiceEntry", "{hosts: [a.b], resolution: STATIC, endpoints: [{network: net}]}"),
    ("ServiceEntry", "{hosts: [a.b], resolution: STATIC, endpoints: [{address: 'fd00::0001'}]}"),
    (
        "ServiceEntry",
        "{hosts: [a.b], resolution: STATIC, endpoints: [{address: 'unix:///a'}], ports: [{name: a, number: 80}]}",
    ),
    (
        "ServiceEntry",
        "{hosts: [a.b], resolution: STATIC, endpoints: [{address: 'unix://a'}], ports: [{name: a, number: 80}]}",
    ),
    (
        "ServiceEntry",
        "{hosts: [a.b], resolution: STATIC, endpoints: [{address: 'unix:///a'}], ports: [{name: a, number: 80}, {name: b, number: 81}]}",
    ),
    (
        "ServiceEntry",
        "{hosts: [a.b], resolution: STATIC, endpoints: [{address: 10.0.0.1, ports: {b: 80}}], ports: [{name: a, number: 80}]}",
    ),
    (
        "ServiceEntry",
        "{hosts: [a.b], resolution: STATIC, endpoints: [{address: 10.0.0.1, ports: {a: 0}}], ports: [{name: a, number: 80}]}",
    ),
    (
        "ServiceEntry",
        "{hosts: [a.b], resolution: STATIC, endpoints: [{address: 10.0.0.1, labels: {a: 'b c'}}]}",
    ),
    (
        "ServiceEntry",
        "{hosts: [a.b], resolution: STATIC, endpoints: [{address: 10.0.0.1, labels: {'A/b': c}}]}",
    ),
    (
        "ServiceEntry",
        "{hosts: [a.b], resolution: STATIC, endpoints: [{address: 10.0.0.1, labels: {'': c}}]}",
    ),
    (
        "ServiceEntry",
        "{hosts: [a.b], resolution: STATIC, endpoints: [{address: 10.0.0.1, labels: {a: ''}}]}",
    ),
    (
        "ServiceEntry",
        "{hosts: [a.b], resolution: STATIC, endpoints: [{address: 10.0.0.1, locality: 'a//b'}]}",
    ),
    (
        "ServiceEntry",
        "{hosts: [a.b], resolution: STATIC, endpoints: [{address: 10.0.0.1, locality: 'a/b/c/d'}]}",
    ),
    (
        "ServiceEntry",
        "{hosts: [a.b], resolution: STATIC, endpoints: [{address: 10.0.0.1, weight: 4294967295}]}",
    ),
    (
        "ServiceEntry",
        "{hosts: [a.b], resolution: STATIC, endpoints: [{address: 10.0.0.1}, {address: 10.0.0.1}]}",
    ),
    ("ServiceEntry", "{hosts: [a.b], resolution: STATIC, workloadSelector: {labels: {a: b}}}"),
    ("ServiceEntry", "{hosts: [a.b], resolution: STATIC, workloadSelector: {}}"),
    ("ServiceEntry", "{hosts: [a.b], resolution: STATIC, workloadSelector: {labels: {a: 'b*'}}}"),
    ("ServiceEntry", "{hosts: [a.b], resolution: STATIC, workloadSelector: {labels: {'a*': b}}}"),
    ("ServiceEntry", "{hosts: [a.b], resolution: STATIC, workloadSelector: {labels: {'': b}}}"),
    ("ServiceEntry", "{hosts: [a.b], resolution: STATIC, exportTo: ['.', default]}"),
    ("ServiceEntry", "{hosts: [a.b], resolution: STATIC, exportTo: ['*', default]}"),
    ("ServiceEntry", "{hosts: [a.b], resolution: STATIC, exportTo: ['~', default]}"),
    ("ServiceEntry", "{hosts: [a.b], resolution: STATIC, exportTo: ['~']}"),
    ("ServiceEntry", "{hosts: [a.b], resolution: STATIC, exportTo: [a, a]}"),
    ("ServiceEntry", "{hosts: [a.b], resolution: STATIC, exportTo: [a_b]}"),
    ("ServiceEntry", "{hosts: [a.b], resolution: STATIC, exportTo: ['']}"),
    ("ServiceEntry", "{hosts: [a.b], resolution: STATIC, subjectAltNames: ['', 'any thing']}"),
    ("WorkloadEntry", "{address: a.b}"),
    ("WorkloadEntry", "{address: a_b}"),
    ("WorkloadEntry", "{}"),
    ("WorkloadEntry", "{network: net}"),
    ("WorkloadEntry", "{address: 'unix:///a'}"),
    ("WorkloadEntry", "{address: 'unix:///a', ports: {a: 1}}"),
    ("WorkloadEntry", "{address: 10.0.0.1, ports: {a_b: 1}}"),
    ("WorkloadEntry", "{address: 10.0.0.1, ports: {a: 65536}}"),
    ("WorkloadEntry", "{address: 10.0.0.1, labels: {a: 'b c'}}"),
    ("WorkloadEntry", "{address: '10.0.0.1 '}"),
    ("WorkloadEntry", "{address: '010.0.0.1'}"),
    ("WorkloadEntry", "{address: 'fe80::1%eth0'}"),
];

/// Metadata by hand besides name and namespace, in YAML's flow style.
pub(crate) const METADATA: &[&str] = &[
    "annotations: {istio.io/dry-run: 'true'}",
    "annotations: {istio.io/dry-run: ''}",
    "annotations: {internal.istio.io/webhook-always-reject: ''}",
    "annotations: {internal.istio.io/parent-namespace: other}",
    "annotations: {internal.istio.io/parents: HTTPRoute/a.b}",
    "annotations: {internal.istio.io/route-semantics: gateway}",
    "annotations: {istio.io/rev: canary}",
    "annotations: {a b: c}",
    "annotations: {'': c}",
    "annotations: {a: \"c\\nd\"}",
    "labels: {istio.io/dry-run: 'true'}",
    "labels: {internal.istio.io/webhook-always-reject: ''}",
    "labels: {networking.istio.io/enable-autoallocate-ip: maybe}",
    "labels: {a: 'b c'}",
    "labels: {A/b: c}",
];

/// Changes one thing of an object, and says which.
pub(crate) fn mutate(object: &mut MeshObject, dice: &mut Dice) -> &'static str {
    let mut body = Body::clone(&object.body);
    let what = match dice.below(6) {
        0 => metadata(object, &mut body, dice),
        _ => match &mut body.spec {
            Spec::ServiceEntry(entry) => service_entry(entry, dice),
            Spec::WorkloadEntry(entry) => endpoint(entry, dice),
        },
    };
    object.body = Arc::new(body);
    what
}

fn metadata(object: &mut MeshObject, body: &mut Body, dice: &mut Dice) -> &'static str {
    match dice.below(3) {
        0 => {
            // An empty name is another path of the API: there is nothing to be judged.
            object.id.name = Some(text(dice)).filter(|name| !name.is_empty()).unwrap_or_default();
            if object.id.name.is_empty() {
                object.id.name = Text::from("-");
            }
            "metadata.name"
        }
        1 => {
            body.labels = with(&body.labels, dice);
            "metadata.labels"
        }
        _ => {
            body.annotations = with(&body.annotations, dice);
            "metadata.annotations"
        }
    }
}

fn service_entry(entry: &mut ServiceEntry, dice: &mut Dice) -> &'static str {
    match dice.below(12) {
        0 => {
            entry.hosts = replaced(&entry.hosts, host(dice), dice);
            "spec.hosts"
        }
        1 => {
            entry.addresses = replaced(&entry.addresses, address(dice), dice);
            "spec.addresses"
        }
        2 => {
            entry.ports = ports(&entry.ports, dice);
            "spec.ports"
        }
        3 => {
            entry.resolution = *dice.one_of(&[
                Resolution::None,
                Resolution::Static,
                Resolution::Dns,
                Resolution::DnsRoundRobin,
                Resolution::DynamicDns,
            ]);
            "spec.resolution"
        }
        4 => {
            entry.location = *dice.one_of(&[Location::MeshExternal, Location::MeshInternal]);
            "spec.location"
        }
        5 => {
            let word = *dice.one_of(&[".", "*", "~", "default", "Default", "a.b", ""]);
            entry.export_to = replaced(&entry.export_to, Text::from(word), dice);
            "spec.exportTo"
        }
        6 => {
            entry.subject_alt_names = replaced(&entry.subject_alt_names, text(dice), dice);
            "spec.subjectAltNames"
        }
        7 => {
            let labels = with(&Pairs::default(), dice);
            entry.endpoints = Endpoints::Selected(labels);
            "spec.workloadSelector"
        }
        _ => match &mut entry.endpoints {
            Endpoints::Inline(list) if !list.is_empty() => {
                let at = usize::try_from(dice.below(list.len() as u64)).unwrap();
                endpoint(&mut list[at], dice)
            }
            Endpoints::Inline(_) | Endpoints::Selected(_) => {
                let mut new = WorkloadEntry {
                    address: EndpointAddress::of("10.0.0.1"),
                    ..WorkloadEntry::default()
                };
                let what = endpoint(&mut new, dice);
                entry.endpoints = Endpoints::Inline(Box::from([new]));
                what
            }
        },
    }
}

fn endpoint(endpoint: &mut WorkloadEntry, dice: &mut Dice) -> &'static str {
    match dice.below(7) {
        0 | 1 => {
            endpoint.address = EndpointAddress::of(&address(dice));
            "endpoint.address"
        }
        2 => {
            let number = *dice.one_of(&[0, 1, 65_535, 65_536]);
            let mut ports: Vec<(Text, u32)> = endpoint.ports.to_vec();
            ports.retain(|_| dice.once_in(2));
            ports.push((text(dice), number));
            ports.sort();
            ports.dedup_by(|a, b| a.0 == b.0);
            endpoint.ports = ports.into();
            "endpoint.ports"
        }
        3 => {
            endpoint.labels = with(&endpoint.labels, dice);
            "endpoint.labels"
        }
        4 => {
            endpoint.network = text(dice);
            "endpoint.network"
        }
        5 => {
            endpoint.locality = text(dice);
            "endpoint.locality"
        }
        _ => {
            endpoint.service_account = text(dice);
            "endpoint.serviceAccount"
        }
    }
}

fn ports(ports: &[ServicePort], dice: &mut Dice) -> Box<[ServicePort]> {
    let mut ports = ports.to_vec();
    let port = ServicePort {
        name: text(dice),
        number: *dice.one_of(&[0, 1, 80, 443, 8080, 65_535, 65_536]),
        protocol: Text::from(*dice.one_of(&["", "HTTP", "tcp", "UDP", "HTTP_PROXY", "x", " "])),
        target_port: *dice.one_of(&[0, 1, 65_535, 65_536]),
    };
    match ports.last_mut() {
        Some(last) if dice.once_in(2) => *last = port,
        _ => ports.push(port),
    }
    ports.into()
}

/// The list with `item` in it, instead of another or besides.
fn replaced(list: &[Text], item: Text, dice: &mut Dice) -> Box<[Text]> {
    let mut list = list.to_vec();
    match list.last_mut() {
        Some(last) if dice.once_in(2) => *last = item,
        _ => list.push(item),
    }
    list.into()
}

fn with(pairs: &Pairs, dice: &mut Dice) -> Pairs {
    let key = match dice.below(3) {
        0 => Text::from(format!("{}/{}", dice.word(), dice.word())),
        _ => text(dice),
    };
    let more = (key, text(dice));
    pairs.iter().map(|(k, v)| (Text::clone(k), Text::clone(v))).chain([more]).collect()
}

fn text(dice: &mut Dice) -> Text {
    Text::from(dice.word())
}

fn host(dice: &mut Dice) -> Text {
    match dice.below(4) {
        0 => Text::from(format!("{}.mesh", dice.word())),
        1 => Text::from(format!("*.{}", dice.word())),
        2 => Text::from(format!("*{}.mesh", dice.word())),
        _ => text(dice),
    }
}

fn address(dice: &mut Dice) -> Text {
    const ADDRESSES: [&str; 24] = [
        "10.0.0.1",
        "10.0.0.1/32",
        "10.0.0.0/8",
        "10.0.0.1/8",
        "10.0.0.0/33",
        "10.0.0.0/-1",
        "10.0.0.0/+8",
        "010.0.0.1",
        "10.0.0.256",
        "10.0.0",
        "::",
        "fd00::1",
        "FD00::1",
        "fd00::1/64",
        "fd00::/129",
        "::ffff:10.0.0.1",
        "::ffff:10.0.0.1/104",
        "fe80::1%eth0",
        "[::1]",
        "unix:///a/b",
        "unix://@a",
        "unix://",
        "a.b",
        "a_b.c",
    ];
    match dice.below(4) {
        0 => text(dice),
        _ => Text::from(*dice.one_of(&ADDRESSES)),
    }
}
