//! What objects come of which services, as YAML.

use std::num::NonZeroU16;

use expect_test::{Expect, expect};
use landfall_core::group::gathered;
use landfall_core::mapping::{Address, Mapping, Protocol, ports_by_name};
use landfall_core::mesh::{Contribution, HostKey, Setting};
use landfall_core::name::{Hostname, Namespace, PortName};
use landfall_core::registry::{Instance, Locality, ServiceKey, SourceName};

use super::*;
use crate::api::{ApiVersion, Owner, to_yaml};

mod shapes;

/// A service as `address port-name:number:target:protocol,.. label=value,..; next`, one
/// contribution per source.
fn service(host: &str, text: &str) -> MeshService {
    service_with(host, text, &[])
}

fn service_with(host: &str, text: &str, settings: &[Setting]) -> MeshService {
    let key = HostKey {
        namespace: Namespace::parse("mesh-registry").unwrap(),
        host: Hostname::parse(host).unwrap(),
    };
    let endpoints: Vec<Endpoint> = text
        .split(';')
        .enumerate()
        .filter(|(_, text)| !text.trim().is_empty())
        .map(|(index, text)| endpoint(&key, index, text.trim()))
        .collect();
    let name = host.split('.').next().unwrap();
    let id = ServiceId {
        source: SourceName::parse("dc1").unwrap(),
        key: ServiceKey { name: Text::from(name), ..ServiceKey::default() },
    };
    let parts = vec![Contribution { origin: Arc::new(id), endpoints: endpoints.into() }];
    MeshService { settings: settings.into(), ..gathered(key, parts, &Arc::default()) }
}

fn endpoint(key: &HostKey, index: usize, text: &str) -> Endpoint {
    let mut words = text.split(' ');
    let address = words.next().unwrap();
    let ports = words.next().unwrap().split(',').map(|port| {
        let mut parts = port.split(':');
        let name = PortName::legalize(parts.next().unwrap()).name;
        let number: NonZeroU16 = parts.next().unwrap().parse().unwrap();
        let target = parts.next().filter(|t| !t.is_empty()).map_or(number, |t| t.parse().unwrap());
        let protocol = Protocol::parse(parts.next().unwrap_or("")).unwrap();
        Port { name, number, target, protocol }
    });
    let labels = words.next().unwrap_or("");
    let mapping = Mapping {
        host: key.host.clone(),
        namespace: key.namespace.clone(),
        address: Address::parse(address).ok(),
        ports: ports_by_name(ports.collect(), &"", &mut Vec::new()),
        labels: labels.split(',').filter_map(|pair| pair.split_once('=')).collect(),
        locality: (index == 1).then(|| Locality {
            region: Text::from("eu"),
            zone: Text::from("eu-1a"),
            subzone: Text::from(""),
        }),
        weight: NonZeroU16::new(1 + u16::try_from(index).unwrap_or(0)).unwrap(),
        network: Text::from(""),
        service_account: Text::from(""),
    };
    let instance = Instance::new(format!("i{index}"), address);
    Endpoint { instance: Arc::new(instance), mapping_index: 0, mapping: Arc::new(mapping) }
}

fn check(service: &MeshService, options: &RenderOptions, expected: &Expect) {
    let rendered = render(service, options);
    let owner = Owner::parse("home").unwrap();
    let mut text = String::new();
    for object in &rendered.objects {
        text += &to_yaml(object, &owner, ApiVersion::V1).unwrap();
        text += "---\n";
    }
    for finding in &rendered.findings {
        text += &format!("{finding}\n");
    }
    expected.assert_eq(&text);
}

fn auto() -> RenderOptions {
    RenderOptions::default()
}

fn selected() -> RenderOptions {
    RenderOptions { shape: Shape::WorkloadEntries, ..auto() }
}

#[test]
fn inline() {
    check(
        &service(
            "pay.dc1.mesh",
            "10.0.0.1 http:80::http version=1; 10.0.0.2 http:80::http version=2",
        ),
        &auto(),
        &expect![[r#"
            apiVersion: networking.istio.io/v1
            kind: ServiceEntry
            metadata:
              name: pay.dc1.mesh
              namespace: mesh-registry
              annotations:
                landfall.dev/origins: dc1/pay
                landfall.dev/sources: dc1
              labels:
                app.kubernetes.io/managed-by: landfall
                landfall.dev/owner: home
            spec:
              hosts:
              - pay.dc1.mesh
              ports:
              - name: http
                number: 80
                protocol: HTTP
              location: MESH_INTERNAL
              resolution: STATIC
              endpoints:
              - address: "10.0.0.1"
                labels:
                  version: "1"
              - address: "10.0.0.2"
                labels:
                  version: "2"
                locality: eu/eu-1a
                weight: 2
            ---
        "#]],
    );
}

#[test]
fn targets_that_differ_from_the_number() {
    check(
        &service(
            "pay.dc1.mesh",
            "10.0.0.1 http:80:8080:http; 10.0.0.2 http:80:8081:http; 10.0.0.3 http:80::http",
        ),
        &auto(),
        &expect![[r#"
            apiVersion: networking.istio.io/v1
            kind: ServiceEntry
            metadata:
              name: pay.dc1.mesh
              namespace: mesh-registry
              annotations:
                landfall.dev/origins: dc1/pay
                landfall.dev/sources: dc1
              labels:
                app.kubernetes.io/managed-by: landfall
                landfall.dev/owner: home
            spec:
              hosts:
              - pay.dc1.mesh
              ports:
              - name: http
                number: 80
                protocol: HTTP
              location: MESH_INTERNAL
              resolution: STATIC
              endpoints:
              - address: "10.0.0.1"
                ports:
                  http: 8080
              - address: "10.0.0.2"
                ports:
                  http: 8081
                locality: eu/eu-1a
                weight: 2
              - address: "10.0.0.3"
                weight: 3
            ---
        "#]],
    );
}

#[test]
fn workload_entries() {
    check(
        &service(
            "pay.dc1.mesh",
            "10.0.0.1 http:80:8080:http version=1; db.example.com http:80::http",
        ),
        &selected(),
        &expect![[r#"
            apiVersion: networking.istio.io/v1
            kind: ServiceEntry
            metadata:
              name: pay.dc1.mesh
              namespace: mesh-registry
              annotations:
                landfall.dev/origins: dc1/pay
                landfall.dev/sources: dc1
              labels:
                app.kubernetes.io/managed-by: landfall
                landfall.dev/owner: home
            spec:
              hosts:
              - pay.dc1.mesh
              ports:
              - name: http
                number: 80
                protocol: HTTP
              location: MESH_INTERNAL
              resolution: DNS
              workloadSelector:
                labels:
                  landfall.dev/service: pay.dc1.mesh
            ---
            apiVersion: networking.istio.io/v1
            kind: WorkloadEntry
            metadata:
              name: pay.dc1.mesh-nkimct5euxzjs5du
              namespace: mesh-registry
              annotations:
                landfall.dev/origins: dc1/pay
                landfall.dev/sources: dc1
              labels:
                app.kubernetes.io/managed-by: landfall
                landfall.dev/owner: home
                landfall.dev/service: pay.dc1.mesh
            spec:
              address: "10.0.0.1"
              ports:
                http: 8080
              labels:
                version: "1"
            ---
            apiVersion: networking.istio.io/v1
            kind: WorkloadEntry
            metadata:
              name: pay.dc1.mesh-4kxuazkni4dnsawc
              namespace: mesh-registry
              annotations:
                landfall.dev/origins: dc1/pay
                landfall.dev/sources: dc1
              labels:
                app.kubernetes.io/managed-by: landfall
                landfall.dev/owner: home
                landfall.dev/service: pay.dc1.mesh
            spec:
              address: db.example.com
              ports:
                http: 80
              locality: eu/eu-1a
              weight: 2
            ---
        "#]],
    );
}

#[test]
fn names_and_addresses_together_are_dns() {
    check(
        &service(
            "db.dc1.mesh",
            "10.0.0.1 tcp:5432::tcp; db.example.com tcp:5432::tcp; fd00::1 tcp:5432::tcp",
        ),
        &auto(),
        &expect![[r#"
            apiVersion: networking.istio.io/v1
            kind: ServiceEntry
            metadata:
              name: db.dc1.mesh
              namespace: mesh-registry
              annotations:
                landfall.dev/origins: dc1/db
                landfall.dev/sources: dc1
              labels:
                app.kubernetes.io/managed-by: landfall
                landfall.dev/owner: home
            spec:
              hosts:
              - db.dc1.mesh
              ports:
              - name: tcp
                number: 5432
                protocol: TCP
              location: MESH_INTERNAL
              resolution: DNS
              endpoints:
              - address: "10.0.0.1"
              - address: db.example.com
                locality: eu/eu-1a
                weight: 2
              - address: "fd00::1"
                weight: 3
            ---
        "#]],
    );
}

#[test]
fn mixed_ports() {
    check(
        &service(
            "pay.dc1.mesh",
            "10.0.0.1 http:80::http,admin:9090::http; 10.0.0.2 http:80::http; 10.0.0.3 web:80:8080:http",
        ),
        &auto(),
        &expect![[r#"
            apiVersion: networking.istio.io/v1
            kind: ServiceEntry
            metadata:
              name: pay.dc1.mesh
              namespace: mesh-registry
              annotations:
                landfall.dev/origins: dc1/pay
                landfall.dev/sources: dc1
              labels:
                app.kubernetes.io/managed-by: landfall
                landfall.dev/owner: home
            spec:
              hosts:
              - pay.dc1.mesh
              ports:
              - name: admin
                number: 9090
                protocol: HTTP
              - name: http
                number: 80
                protocol: HTTP
              location: MESH_INTERNAL
              resolution: STATIC
              endpoints:
              - address: "10.0.0.1"
              - address: "10.0.0.2"
                locality: eu/eu-1a
                weight: 2
              - address: "10.0.0.3"
                ports:
                  http: 8080
                weight: 3
            ---
            endpoint_conflict mesh-registry/pay.dc1.mesh: 2 of 3 endpoints do not have every port of the service, such as admin; Istio sends its traffic to them all the same. Give them a host of their own by a policy
        "#]],
    );
}

#[test]
fn wildcards() {
    check(
        &service("*.pay.mesh", "10.0.0.1 https:443::tls"),
        &auto(),
        &expect![[r#"
        apiVersion: networking.istio.io/v1
        kind: ServiceEntry
        metadata:
          name: wildcard.pay.mesh.0
          namespace: mesh-registry
          annotations:
            landfall.dev/origins: "dc1/*"
            landfall.dev/sources: dc1
          labels:
            app.kubernetes.io/managed-by: landfall
            landfall.dev/owner: home
        spec:
          hosts:
          - "*.pay.mesh"
          ports:
          - name: https
            number: 443
            protocol: TLS
          location: MESH_INTERNAL
          resolution: STATIC
          endpoints:
          - address: "10.0.0.1"
        ---
    "#]],
    );
    check(
        &service("*.pay.mesh", "a.example.com https:443::tls"),
        &selected(),
        &expect![[r#"
        apiVersion: networking.istio.io/v1
        kind: ServiceEntry
        metadata:
          name: wildcard.pay.mesh.0
          namespace: mesh-registry
          annotations:
            landfall.dev/origins: "dc1/*"
            landfall.dev/sources: dc1
          labels:
            app.kubernetes.io/managed-by: landfall
            landfall.dev/owner: home
        spec:
          hosts:
          - "*.pay.mesh"
          ports:
          - name: https
            number: 443
            protocol: TLS
          location: MESH_INTERNAL
          resolution: DNS
          endpoints:
          - address: a.example.com
        ---
    "#]],
    );
}

#[test]
fn settings() {
    let settings = [
        Setting::Alias("pay.example.com".to_owned()),
        Setting::Alias("pay_2.example.com".to_owned()),
        Setting::Address("240.240.1.1".to_owned()),
        Setting::Address("240.240.1.1".to_owned()),
        Setting::Address("nowhere".to_owned()),
        Setting::Location("external".to_owned()),
        Setting::Location("outer space".to_owned()),
        Setting::ExportTo("mesh-registry".to_owned()),
        Setting::ExportTo("default".to_owned()),
        Setting::SubjectAltName("spiffe://cluster.local/ns/pay/sa/pay".to_owned()),
        Setting::Label("team".to_owned(), "pay".to_owned()),
        Setting::Label("landfall.dev/owner".to_owned(), "me".to_owned()),
        Setting::Annotation("example.com/why".to_owned(), "because: of\nthis".to_owned()),
        Setting::Annotation("landfall.dev/sources".to_owned(), "none".to_owned()),
        Setting::Annotation("istio.io/dry-run".to_owned(), "true".to_owned()),
        Setting::Annotation("internal.istio.io/parents".to_owned(), "a".to_owned()),
    ];
    check(
        &service_with("pay.dc1.mesh", "10.0.0.1 http:80::http", &settings),
        &auto(),
        &expect![[r#"
            apiVersion: networking.istio.io/v1
            kind: ServiceEntry
            metadata:
              name: pay.dc1.mesh
              namespace: mesh-registry
              annotations:
                example.com/why: "because: of\x0Athis"
                landfall.dev/origins: dc1/pay
                landfall.dev/sources: dc1
              labels:
                app.kubernetes.io/managed-by: landfall
                landfall.dev/owner: home
                team: pay
            spec:
              hosts:
              - pay.dc1.mesh
              - pay.example.com
              addresses:
              - "240.240.1.1"
              ports:
              - name: http
                number: 80
                protocol: HTTP
              location: MESH_EXTERNAL
              resolution: STATIC
              endpoints:
              - address: "10.0.0.1"
              exportTo:
              - "."
              - default
              subjectAltNames:
              - "spiffe://cluster.local/ns/pay/sa/pay"
            ---
            refused mesh-registry/pay.dc1.mesh: alias "pay_2.example.com" is not taken: labels consist of letters, digits and dashes. It was left out; mend the service policy that sets it
            refused mesh-registry/pay.dc1.mesh: address "nowhere" is not taken: it is not an IP address or CIDR block. It was left out; mend the service policy that sets it
            refused mesh-registry/pay.dc1.mesh: location "outer space" is not taken: it must be internal or external. It was left out; mend the service policy that sets it
            refused mesh-registry/pay.dc1.mesh: label "landfall.dev/owner: me" is not taken: Landfall itself uses the key. It was left out; mend the service policy that sets it
            refused mesh-registry/pay.dc1.mesh: annotation "landfall.dev/sources" is not taken: Landfall itself uses the key. It was left out; mend the service policy that sets it
            refused mesh-registry/pay.dc1.mesh: annotation "istio.io/dry-run" is not taken: Istio refuses whatever carries it. It was left out; mend the service policy that sets it
            refused mesh-registry/pay.dc1.mesh: annotation "internal.istio.io/parents" is not taken: Istio refuses whatever carries it. It was left out; mend the service policy that sets it
        "#]],
    );
}

#[test]
fn the_object_has_the_name_that_it_was_given_last() {
    let named = |names: &[&str]| {
        let settings: Vec<Setting> =
            names.iter().map(|name| Setting::Name((*name).to_owned())).collect();
        let service = service_with("pay.mesh", "10.0.0.1 http:80::http", &settings);
        let Rendered { objects, findings } = render(&service, &auto());
        assert_eq!(given_name(&service).unwrap_or_else(|| "pay.mesh".into()), objects[0].id.name);
        (objects[0].id.name.to_string(), findings.iter().map(Finding::to_string).collect())
    };
    let none: Vec<String> = Vec::new();
    assert_eq!(named(&[]), ("pay.mesh".to_owned(), none.clone()));
    assert_eq!(named(&["a", "asm-pay-mesh"]), ("asm-pay-mesh".to_owned(), none));
    let (name, findings) = named(&["Pay_Mesh", ""]);
    expect!["pay-mesh-exoi5n3n"].assert_eq(&name);
    expect![[r#"
        refused mesh-registry/pay.mesh: object name "" is not taken: it is empty. It was left out; mend the service policy that sets it
        name_altered mesh-registry/pay.mesh: the object name "Pay_Mesh" is not legal and became pay-mesh-exoi5n3n"#]]
    .assert_eq(&findings.join("\n"));
}

#[test]
fn settings_that_the_endpoints_forbid() {
    let settings = [
        Setting::Alias("pay.example.com".to_owned()),
        Setting::Address("10.0.0.0/8".to_owned()),
        Setting::Resolution("static".to_owned()),
        Setting::ExportTo("*".to_owned()),
        Setting::ExportTo("default".to_owned()),
    ];
    check(
        &service_with("pay.dc1.mesh", "a.example.com tcp:80::tcp", &settings),
        &auto(),
        &expect![[r#"
            apiVersion: networking.istio.io/v1
            kind: ServiceEntry
            metadata:
              name: pay.dc1.mesh
              namespace: mesh-registry
              annotations:
                landfall.dev/origins: dc1/pay
                landfall.dev/sources: dc1
              labels:
                app.kubernetes.io/managed-by: landfall
                landfall.dev/owner: home
            spec:
              hosts:
              - pay.dc1.mesh
              ports:
              - name: tcp
                number: 80
                protocol: TCP
              location: MESH_INTERNAL
              resolution: DNS
              endpoints:
              - address: a.example.com
            ---
            refused mesh-registry/pay.dc1.mesh: exportTo has * or ~ beside other namespaces; they must stand alone. It was left out; mend the service policy that sets it
            refused mesh-registry/pay.dc1.mesh: resolution static is not taken: an endpoint's address is a DNS name. It was left out; mend the service policy that sets it
            refused mesh-registry/pay.dc1.mesh: aliases are not taken: a port's protocol is neither HTTP nor TLS, so hosts cannot be told apart. It was left out; mend the service policy that sets it
            refused mesh-registry/pay.dc1.mesh: CIDR blocks as addresses are not taken: an endpoint's address is a DNS name. It was left out; mend the service policy that sets it
        "#]],
    );
    let robin = [Setting::Resolution("dns-round-robin".to_owned())];
    let one = service_with("pay.dc1.mesh", "a.example.com tcp:80::tcp", &robin);
    assert_eq!(resolution_of(&one), Resolution::DnsRoundRobin);
    let two = service_with("pay.dc1.mesh", "a.example.com tcp:80; b.example.com tcp:80", &robin);
    assert_eq!(resolution_of(&two), Resolution::Dns);
    let none = [Setting::Resolution("none".to_owned())];
    assert_eq!(resolution_of(&service_with("a.mesh", "10.0.0.1 tcp:80", &none)), Resolution::None);
    let dns = [Setting::Resolution("dns".to_owned())];
    assert_eq!(resolution_of(&service_with("a.mesh", "10.0.0.1 tcp:80", &dns)), Resolution::Dns);
}

#[test]
fn no_virtual_address_stands_for_all() {
    for (address, is_taken) in [
        ("0.0.0.0/0", false),
        ("::/0", false),
        ("10.0.0.0/0", false),
        ("0.0.0.0", false),
        ("::ffff:0.0.0.0", false),
        ("10.0.0.0/8", true),
        ("240.0.0.1", true),
    ] {
        let settings = [Setting::Address(address.to_owned())];
        let rendered = render(&service_with("a.mesh", "10.0.0.1 tcp:80", &settings), &auto());
        let entry = rendered.objects[0].body.service_entry().unwrap();
        assert_eq!(!entry.addresses.is_empty(), is_taken, "{address}");
        assert_eq!(rendered.findings.is_empty(), is_taken, "{address}");
    }
}

fn resolution_of(service: &MeshService) -> Resolution {
    let objects = render(service, &auto()).objects;
    objects[0].body.service_entry().unwrap().resolution
}

#[test]
fn without_endpoints_nobody_resolves_the_host() {
    use landfall_core::mesh::Body as _;
    let objects = render(&service("pay.dc1.mesh", "a.example.com tcp:80"), &auto()).objects;
    let empty = objects[0].body.without_endpoints().unwrap();
    let entry = empty.service_entry().unwrap();
    assert_eq!(entry.resolution, Resolution::Static);
    assert_eq!(empty.endpoint_count(), 0);
}

/// A service of the mesh to which each of `names` contributes an endpoint.
fn shared(names: &[&str]) -> MeshService {
    let one = service("pay.dc1.mesh", "10.0.0.1 http:80::http");
    let parts = names.iter().map(|name| {
        let key = ServiceKey { name: Text::from(*name), ..ServiceKey::default() };
        let id = ServiceId { source: SourceName::parse("dc1").unwrap(), key };
        Contribution { origin: Arc::new(id), endpoints: Arc::clone(&one.parts[0].endpoints) }
    });
    gathered(one.key.clone(), parts.collect(), &Arc::default())
}

#[test]
fn origins_are_whole_or_not_said() {
    use landfall_core::mesh::{Body as _, Stays};
    let long = "n".repeat(600);
    let long = long.as_str();
    let many: Vec<String> = (0..4000).map(|n| format!("{n:04}-{:x>20}", "")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let wide: Vec<String> = (0..300).map(|n| format!("{n:03}-{:x>450}", "")).collect();
    let wide: Vec<&str> = wide.iter().map(String::as_str).collect();
    for (names, whole) in [
        (vec!["a"], true),
        (vec!["a, b", "c and 3 more", "d\"/e", "ü "], true),
        (vec![""], true),
        (vec!["a\nb"], false),
        (vec!["a\u{7f}"], false),
        (vec!["a", long], false),
        (vec![long], false),
        (many, true),
        (wide[..200].to_vec(), true),
        (wide, false),
    ] {
        let service = shared(&names);
        let expected: Vec<String> =
            service.parts.iter().map(|part| part.origin.to_string()).collect();
        let objects = render(&service, &selected()).objects;
        let entry = &objects[0].body;
        let read = entry.origins().map(|list| list.map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(read, whole.then(|| expected.clone()), "{names:?}");
        // And each endpoint says its own.
        let of_endpoints = objects[1..].iter().map(|object| object.body.origins());
        let said: Vec<String> = of_endpoints.flatten().flatten().map(str::to_owned).collect();
        assert!(said.iter().all(|origin| expected.contains(origin)), "{said:?}");
        let text = entry.annotations.get(ORIGINS_ANNOTATION).unwrap();
        assert!(text.len() < (128 << 10) + 100, "{text}");
    }
    // What stays together for a while has the origins of both, within the same bound.
    let names: Vec<String> = (0..600).map(|n| format!("{n:03}-{:x>450}", "")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let body = |names: &[&str]| Arc::clone(&render(&shared(names), &auto()).objects[0].body);
    let together = |one: &[&str], other: &[&str]| {
        let joined = body(one).with_endpoints_of(&body(other), &Stays::all()).unwrap();
        let text = joined.annotations.get(ORIGINS_ANNOTATION).unwrap();
        assert!(text.len() < (128 << 10) + 100, "{text}");
        joined.origins().map(Iterator::count)
    };
    // All have one instance here.
    assert_eq!(together(&names[..100], &names[50..200]), Some(200));
    assert_eq!(together(&names[..200], &names[100..400]), None);
    let stranger = Body {
        annotations: Pairs::default(),
        ..(*render(&shared(&["a"]), &auto()).objects[0].body).clone()
    };
    assert!(stranger.origins().is_none());
}

#[test]
fn objects_of_one_service_have_one_label() {
    let long = format!("{}x", "a.".repeat(40));
    for host in ["pay.dc1.mesh", "*.pay.mesh", long.as_str()] {
        let service = service(host, "10.0.0.1 http:80::http; 10.0.0.2 http:80::http");
        let objects = render(&service, &selected()).objects;
        assert_eq!(objects.len(), 3);
        let label = objects[0].body.service_label();
        assert_eq!(label, Some(name::service_label(&service.key.host)));
        let inline = render(&service, &auto()).objects;
        assert!(objects.iter().chain(&inline).all(|object| object.body.service_label() == label));
    }
}

#[test]
fn rendering_is_deterministic_and_names_are_unique() {
    let mut ids = std::collections::BTreeSet::new();
    for service in crate::testing::services(3, 500) {
        let first = render(&service, &selected());
        let second = render(&service, &selected());
        assert_eq!(first.objects, second.objects);
        // A name that policies give is shared out by whoever knows all services.
        let own = first.objects.iter().skip(usize::from(given_name(&service).is_some()));
        for object in own {
            assert!(ids.insert(object.id.clone()), "{}", object.id);
        }
    }
}
