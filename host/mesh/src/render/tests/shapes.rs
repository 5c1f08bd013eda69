//! Which endpoints stand inline, and which in objects of their own.

use landfall_core::mesh::Body as _;

use super::*;

#[test]
fn many_endpoints_go_into_workload_entries() {
    let many = |count: usize, label: &str| {
        let text: Vec<String> = (0..count)
            .map(|n| format!("10.0.{}.{} http:80::http {label}", n / 256, n % 256))
            .collect();
        service("pay.dc1.mesh", &text.join(";"))
    };
    let shape = |service: &MeshService, options: &RenderOptions| {
        let rendered = render(service, options);
        let inline = match &rendered.objects[0].body.service_entry().unwrap().endpoints {
            Endpoints::Inline(list) => list.len(),
            Endpoints::Selected(_) => 0,
        };
        (rendered.objects.len(), inline, rendered.findings.len())
    };
    assert_eq!(shape(&many(4096, ""), &auto()), (1, 4096, 0));
    assert_eq!(shape(&many(4097, ""), &auto()), (4098, 0, 0));
    let inline = RenderOptions { shape: Shape::Inline, ..auto() };
    assert_eq!(shape(&many(4097, ""), &inline), (1, 4096, 1));
    // 1,200 endpoints with 1,300 bytes of labels are too large though they are few.
    let labels: Vec<String> = (0..10).map(|n| format!("k{n:0>62}={n:0>63}")).collect();
    let (objects, _, findings) = shape(&many(1200, &labels.join(",")), &auto());
    assert_eq!((objects, findings), (1201, 0));
}

#[test]
fn ambient_tells_inline_endpoints_apart_by_address() {
    let ambient = RenderOptions { ambient: true, ..auto() };
    let twins = service("pay.dc1.mesh", "10.0.0.1 http:80:8080; 10.0.0.1 http:80:8081");
    assert_eq!(render(&twins, &ambient).objects.len(), 3);
    assert_eq!(render(&twins, &auto()).objects.len(), 1);
    let others = service("pay.dc1.mesh", "10.0.0.1 http:80; 10.0.0.2 http:80");
    assert_eq!(render(&others, &ambient).objects.len(), 1);
}

#[test]
fn ambient_takes_a_network_for_that_of_the_next_too() {
    let in_networks = |networks: &[&str]| {
        let text: Vec<String> =
            (1..=networks.len()).map(|n| format!("10.0.0.{n} http:80")).collect();
        let mut service = service("pay.dc1.mesh", &text.join(";"));
        let part = &mut service.parts[0];
        let endpoints = part.endpoints.iter().zip(networks).map(|(endpoint, network)| {
            let mapping = Mapping { network: Text::from(*network), ..(*endpoint.mapping).clone() };
            Endpoint { mapping: Arc::new(mapping), ..endpoint.clone() }
        });
        part.endpoints = endpoints.collect();
        service
    };
    let ambient = RenderOptions { ambient: true, ..auto() };
    let inline = RenderOptions { shape: Shape::Inline, ..ambient.clone() };
    // Objects in shape auto; endpoints and findings of the one in shape inline.
    for (networks, objects, endpoints, findings) in [
        (["", "", "n"], 1, 3, 0),
        (["n", "n", "m"], 1, 3, 0),
        (["n", "", "m"], 4, 2, 1),
        (["", "n", ""], 4, 2, 1),
    ] {
        let service = in_networks(&networks);
        assert_eq!(render(&service, &ambient).objects.len(), objects, "{networks:?}");
        let rendered = render(&service, &inline);
        let count = rendered.objects[0].body.endpoint_count();
        assert_eq!((count, rendered.findings.len()), (endpoints, findings), "{networks:?}");
        // Sidecars make no such mistake.
        assert_eq!(render(&service, &auto()).objects[0].body.endpoint_count(), 3);
    }
}

#[test]
fn only_endpoints_of_the_same_owner_are_selected() {
    let owner = Owner::parse("home").unwrap();
    let options = RenderOptions { owner: Some(owner.clone()), ..selected() };
    let objects = render(&service("pay.dc1.mesh", "10.0.0.1 http:80"), &options).objects;
    let labels_of = |owner: &str, object: &MeshObject| -> Pairs {
        let owner = Owner::parse(owner).unwrap();
        let manifest = crate::api::to_json(object, &owner, ApiVersion::V1).unwrap();
        let labels = manifest["metadata"]["labels"].as_object().unwrap().clone();
        labels.iter().map(|(k, v)| (k.as_str(), v.as_str().unwrap())).collect()
    };
    let Endpoints::Selected(selector) = &objects[0].body.service_entry().unwrap().endpoints else {
        panic!("it selects")
    };
    let selects = |labels: &Pairs| selector.iter().all(|(k, v)| labels.get(k) == Some(v));
    assert!(selects(&labels_of("home", &objects[1])));
    assert!(!selects(&labels_of("other", &objects[1])));
}

#[test]
fn what_an_endpoint_has_too_much_of_is_told() {
    let many = |count: usize, text: &dyn Fn(usize) -> String| {
        (1..=count).map(text).collect::<Vec<_>>().join(",")
    };
    let ports = |count| many(count, &|n| format!("p{n}:{n}:{}:TCP", 1000 + n));
    let labels = |count| many(count, &|n| format!("l{n}=v"));
    for (text, findings) in [
        (format!("10.0.0.1 {} {}", ports(128), labels(256)), 0),
        (format!("10.0.0.1 {}", ports(129)), 1),
        (format!("10.0.0.1 http:80 {}", labels(257)), 1),
    ] {
        let rendered = render(&service("pay.dc1.mesh", &text), &auto());
        assert_eq!((rendered.objects.len(), rendered.findings.len()), (1, findings));
    }
}
