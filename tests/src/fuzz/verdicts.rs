//! Verdicts: whatever policies say of whatever instances, what comes out is fit for Istio and does
//! not depend on the order in which it came about.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use landfall_core::decision::{DecidedService, Outcome};
use landfall_core::defaults::Defaults;
use landfall_core::finding::Finding;
use landfall_core::group::{MeshServices, Redecided, group};
use landfall_core::mapping::{Edit, PortEdit, Protocol, Verdict};
use landfall_core::mesh::{Body as _, MeshService, ObjectId, Setting};
use landfall_core::pairs::Pairs;
use landfall_core::registry::{
    Health, Instance, InstancePort, Locality, Service, ServiceId, ServiceKey, SourceName,
};
use landfall_core::sharing::Sharing;
use landfall_core::template::Template;
use landfall_core::text::Text;
use landfall_mesh::api::{ApiVersion, Location, MeshObject, Owner, from_json, to_json, to_yaml};
use landfall_mesh::render::{REFUSED_WHOLE, RenderOptions, Shape, given_name, render};
use landfall_mesh::validate::validate;
use landfall_policy_host::{MAPPINGS_PER_INSTANCE_MAX, Work, probe};

use super::draw::Draw;

/// More than what fits inline, where it shall.
const INSTANCES_MAX: usize = 1500;

/// What is decided, and how it is rendered.
#[derive(Debug)]
struct Case {
    services: Vec<(ServiceId, Service, Vec<Verdict>)>,
    defaults: Defaults,
    settings: Arc<[Setting]>,
    options: RenderOptions,
}

/// The case, as Rust prints it.
#[must_use]
pub fn text(bytes: &[u8]) -> String {
    format!("{:#?}", case(&mut Draw::new(bytes)))
}

/// Takes the verdicts that `bytes` stand for through grouping and rendering.
///
/// # Panics
/// Something comes out that Istio would refuse, or that depends on the order of its input.
pub fn run(bytes: &[u8]) {
    let case = case(&mut Draw::new(bytes));
    let decided = decided(&case);
    let (together, _) = grouped(MeshServices::new(), &decided);
    let mut apart = MeshServices::new();
    for service in decided.iter().rev() {
        (apart, _) = grouped(apart, [service]);
    }
    assert_eq!(together, apart, "the order of decisions matters");
    let mut objects: BTreeMap<ObjectId, MeshObject> = BTreeMap::new();
    for service in together.values() {
        let service = MeshService { settings: Arc::clone(&case.settings), ..(**service).clone() };
        // A name that policies give is shared out by whoever knows all services.
        let is_named = usize::from(given_name(&service).is_some());
        for object in checked(&case, &service).into_iter().skip(is_named) {
            let twin = objects.insert(object.id.clone(), object);
            assert!(twin.is_none(), "two objects have one name: {twin:?}");
        }
    }
    for service in &decided {
        let gone = Redecided { before: Some(service), now: None };
        (apart, _) = group(apart, &[gone], &Sharing::default());
    }
    assert!(apart.is_empty(), "something stays of services that are gone");
}

/// The objects of a service, which are legal, and the same when they are rendered or read again.
fn checked(case: &Case, service: &MeshService) -> Vec<MeshObject> {
    let owner = Owner::parse("fuzz").expect("a legal name");
    let (first, second) = (render(service, &case.options), render(service, &case.options));
    assert_eq!(first.findings, second.findings);
    assert_eq!(first.objects.len(), second.objects.len());
    // What could be left out alone must not take the rest along.
    let is_whole = |finding: &Finding| !finding.message.starts_with(REFUSED_WHOLE);
    assert!(first.findings.iter().all(is_whole), "{:?}", first.findings);
    let inline = RenderOptions { shape: Shape::Inline, ambient: false, ..case.options.clone() };
    let inline = render(service, &inline);
    if first.objects.len() > 1 && inline.findings.len() <= first.findings.len() {
        let inline: usize = inline.objects.iter().map(|o| o.body.endpoint_count()).sum();
        assert_eq!(first.objects.len() - 1, inline, "an endpoint is lost between the shapes");
    }
    for (object, again) in first.objects.iter().zip(&second.objects) {
        assert_eq!(validate(object), Ok(()), "{object:?}");
        let yaml = |object| to_yaml(object, &owner, ApiVersion::V1).expect("it prints");
        assert_eq!(yaml(object), yaml(again));
        let json = to_json(object, &owner, ApiVersion::V1).expect("it prints");
        let read = from_json(json).expect("it reads back");
        assert_eq!(read.object, *object, "it reads back differently");
    }
    first.objects
}

fn grouped<'a>(
    services: MeshServices,
    decided: impl IntoIterator<Item = &'a DecidedService>,
) -> (MeshServices, BTreeSet<landfall_core::mesh::HostKey>) {
    let redecided: Vec<Redecided<'_>> =
        decided.into_iter().map(|now| Redecided { before: None, now: Some(now) }).collect();
    group(services, &redecided, &Sharing::default())
}

/// Every verdict taken by the chain of policies: two of them, of which the second has the verdicts of
/// the first in another order.
fn decided(case: &Case) -> Vec<DecidedService> {
    let of = |(id, service, verdicts): &(ServiceId, Service, Vec<Verdict>)| {
        let instances = service.instances().iter().map(|instance| &*instance.id);
        let numbers: BTreeMap<&str, usize> = instances.zip(0..).collect();
        let first = |instance: &Instance| verdicts[numbers[&*instance.id] % verdicts.len()].clone();
        let second =
            |instance: &Instance| verdicts[(numbers[&*instance.id] + 1) % verdicts.len()].clone();
        let work = Work {
            id: Arc::new(id.clone()),
            registry: "fuzz",
            service: Arc::new(service.clone()),
            before: None,
        };
        let decided = probe::decided(case.defaults.clone(), work, &[&first, &second]);
        // A hundred, and one for those that are not listed.
        assert!(decided.findings.len() <= 101, "{}", decided.findings.len());
        for decision in &decided.decisions {
            if let Outcome::Published(mappings) = &decision.outcome {
                assert!((1..=MAPPINGS_PER_INSTANCE_MAX).contains(&mappings.len()));
            }
        }
        decided
    };
    case.services.iter().map(of).collect()
}

// === Generators ===

fn case(draw: &mut Draw<'_>) -> Case {
    let template = |draw: &mut Draw<'_>, of: &[&str]| {
        Template::parse(draw.one_of::<&str>(of)).expect("a legal template")
    };
    let hosts = ["{service}.{source}.mesh", "{group}.{service}", "{meta.a}.mesh", "same.mesh"];
    let namespaces = ["mesh", "ns-{source}", "{meta.a}", "{service}"];
    let defaults = Defaults {
        host: template(draw, &hosts),
        namespace: template(draw, &namespaces),
        labels: vec![(Text::from("version"), template(draw, &["{meta.a}", "{service}", ""]))],
        health: Health::ALL.to_vec(),
        own_mark: None,
    };
    let options = RenderOptions {
        shape: *draw.one_of(&[Shape::Auto, Shape::Inline, Shape::WorkloadEntries]),
        location: *draw.one_of(&[Location::MeshInternal, Location::MeshExternal]),
        ambient: draw.once_in(3),
        owner: draw.once_in(3).then(|| Owner::parse("fuzz").expect("a legal name")),
        ..RenderOptions::default()
    };
    let settings = (0..draw.below(8)).map(|_| setting(draw)).collect();
    let mut services = BTreeMap::new();
    for _ in 0..=draw.below(4) {
        let (id, service, verdicts) = service(draw);
        services.insert(id, (service, verdicts));
    }
    let services = services.into_iter().map(|(id, (s, v))| (id, s, v)).collect();
    Case { services, defaults, settings, options }
}

fn service(draw: &mut Draw<'_>) -> (ServiceId, Service, Vec<Verdict>) {
    let source = SourceName::parse(draw.one_of::<&str>(&["dc1", "legacy"])).expect("a legal name");
    let mut text = |of: usize| if draw.once_in(of) { draw.word().into() } else { Text::from("") };
    let (datacenter, partition, group) = (text(4), text(8), text(4));
    let key = ServiceKey { datacenter, partition, group, name: draw.word().into() };
    let mut instances: Vec<Arc<Instance>> =
        (0..=draw.below(5)).map(|_| Arc::new(instance(draw))).collect();
    if draw.once_in(40) {
        // So many that objects reach their bounds.
        let like = Arc::clone(&instances[0]);
        let ids = (0..draw.below(INSTANCES_MAX)).map(|n| Text::from(n.to_string()));
        instances.extend(ids.map(|id| Arc::new(Instance { id, ..Instance::clone(&like) })));
    }
    let meta = pairs(draw);
    let (service, _) = Service::new(key.clone(), meta, Pairs::default(), instances);
    let verdicts = (0..=draw.below(5)).map(|_| verdict(draw)).collect();
    (ServiceId { source, key }, service, verdicts)
}

fn instance(draw: &mut Draw<'_>) -> Instance {
    Instance {
        ports: (0..draw.below(4)).map(|_| instance_port(draw)).collect(),
        health: *draw.one_of(&Health::ALL),
        weight: *draw.one_of(&[1, 0, 2, 65535, 65536, u32::MAX]),
        meta: pairs(draw),
        locality: draw.once_in(2).then(|| locality(draw)),
        ..Instance::new(draw.word(), address(draw))
    }
}

fn instance_port(draw: &mut Draw<'_>) -> InstancePort {
    InstancePort {
        name: if draw.once_in(2) { draw.word().into() } else { Text::from("") },
        number: *draw.one_of(&[80, 443, 1, 65535, 15001]),
        protocol: protocol(draw).into(),
    }
}

fn pairs(draw: &mut Draw<'_>) -> Pairs {
    let key = |draw: &mut Draw<'_>| if draw.once_in(3) { draw.word() } else { "a".to_owned() };
    (0..draw.below(4)).map(|_| (Text::from(key(draw)), Text::from(draw.word()))).collect()
}

fn locality(draw: &mut Draw<'_>) -> Locality {
    let mut part = || if draw.once_in(4) { Text::from("") } else { draw.word().into() };
    Locality { region: part(), zone: part(), subzone: part() }
}

fn address(draw: &mut Draw<'_>) -> String {
    let plain = ["10.0.0.1", "10.0.0.2", "fd00::1", "[fd00::2]", "a.example.com", "::ffff:1.2.3.4"];
    let odd = ["0.0.0.0", "::", "127.0.0.1", "255.255.255.255", "fe80::1%eth0", "224.0.0.1"];
    match draw.below(6) {
        0..4 => (*draw.one_of(&plain)).to_owned(),
        4 => (*draw.one_of(&odd)).to_owned(),
        _ => draw.word(),
    }
}

fn protocol(draw: &mut Draw<'_>) -> String {
    match draw.below(8) {
        0 => draw.word(),
        _ => draw.one_of(&Protocol::ALL).as_str().to_owned(),
    }
}

fn verdict(draw: &mut Draw<'_>) -> Verdict {
    let edits = |draw: &mut Draw<'_>| (0..draw.below(6)).map(|_| edit(draw)).collect();
    match draw.below(8) {
        0..2 => Verdict::Keep,
        2 => Verdict::Drop(draw.word().into()),
        3..6 => Verdict::Edit(edits(draw)),
        _ => Verdict::Split((0..draw.below(4)).map(|_| edits(draw)).collect()),
    }
}

fn edit(draw: &mut Draw<'_>) -> Edit {
    match draw.below(14) {
        0 => Edit::Host(draw.word()),
        1 => Edit::Host(format!("*.{}", draw.word())),
        2 => Edit::Host((*draw.one_of(&["same.mesh", "*.mesh", "other.mesh"])).to_owned()),
        3 => Edit::Namespace(draw.word()),
        4 => Edit::Address(address(draw)),
        5 => {
            // Mostly few; at times more than fit.
            let count = if draw.once_in(10) { draw.below(140) } else { draw.below(4) };
            Edit::Ports((0..count).map(|_| port_edit(draw)).collect())
        }
        6 => Edit::Label(draw.word(), draw.word()),
        7 => Edit::Label(format!("{}/{}", draw.word(), draw.word()), draw.word()),
        8 => Edit::RemoveLabel(draw.word()),
        9 => Edit::Locality(locality(draw)),
        10 => Edit::Weight(*draw.one_of(&[1, 2, 65535, 65536, 0, u32::MAX])),
        11 => Edit::Network(draw.word()),
        12 => Edit::ServiceAccount(draw.word()),
        _ => Edit::Address(format!("10.0.0.{}", draw.byte())),
    }
}

fn port_edit(draw: &mut Draw<'_>) -> PortEdit {
    let number = |draw: &mut Draw<'_>| *draw.one_of(&[80, 443, 8080, 1, 65535, 0]);
    let any = |draw: &mut Draw<'_>| {
        if draw.once_in(2) { 1 + draw.number() as u16 % 999 } else { number(draw) }
    };
    PortEdit { name: draw.word(), number: any(draw), target: any(draw), protocol: protocol(draw) }
}

fn setting(draw: &mut Draw<'_>) -> Setting {
    let word = |draw: &mut Draw<'_>, of: &[&str]| match draw.below(4) {
        0 => draw.word(),
        _ => (*draw.one_of(of)).to_owned(),
    };
    let addresses =
        ["240.0.0.1", "fd00::1", "10.0.0.0/8", "10.0.0.0/08", "10.0.0.1/33", "::/0", "1.2.3.4/0"];
    match draw.below(10) {
        0..2 => Setting::Alias(word(draw, &["alias.mesh", "*.mesh", "same.mesh", "a"])),
        2 => Setting::Address(word(draw, &addresses)),
        3 => Setting::Location(word(draw, &["internal", "external", "INTERNAL"])),
        4 => Setting::Resolution(word(draw, &["static", "dns", "dns-round-robin", "none"])),
        5 => Setting::ExportTo(word(draw, &[".", "*", "~", "mesh", "default"])),
        6 => Setting::SubjectAltName(word(draw, &["spiffe://a/b"])),
        7 => Setting::Label(word(draw, &["a/b", "landfall.dev/owner"]), draw.word()),
        8 => Setting::Name(word(draw, &["consul-same.mesh", "same.mesh", "Same", "a..b", ""])),
        _ => Setting::Annotation(word(draw, &["a/b", "landfall.dev/origins"]), draw.word()),
    }
}
