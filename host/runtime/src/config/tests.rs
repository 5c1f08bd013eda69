//! Tests of the configuration: what is legal, and what is told of what is not.

use expect_test::{Expect, expect};
use serde_json::Value;

use super::tree::{Document, child};
use super::*;

fn check(text: &str, want: Expect) {
    let seen = match parse(text, Path::new("")) {
        Ok(_) => "ok".to_owned(),
        Err(problems) => problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
    };
    want.assert_eq(&seen);
}

#[test]
fn an_empty_file_is_a_legal_configuration() {
    check("", expect!["ok"]);
    check("policies:\nsources: []\n", expect!["ok"]);
}

#[test]
fn every_problem_is_told_at_once_with_its_place() {
    check(
        r#"sorces: []
sources:
  - name: Not_Legal
    file: {path: a.yaml, pth: b}
  - name: twice
    file: {path: a.yaml}
    consul: {url: "http://127.0.0.1:8500"}
  - name: twice
guard: {removalShare: 20, grace: "30"}
sinks:
  - files: {path: out}
    mode: sink
"#,
        expect![[r#"
            1:1: unknown key "sorces"; did you mean "sources"?
            3:5: source name: "Not_Legal" is not a legal DNS label: labels consist of letters, digits and dashes
            4:26: unknown key "pth"; did you mean "path"?
            7:5: a source is of one kind only: keep one of file, consul, eureka, cloudMap
            8:5: a source needs one of: file, consul, eureka, cloudMap
            8:5: the name "twice" is used twice in sources; each needs its own
            9:9: "removalShare" must be of type string, but is 20
            9:27: "grace" is "30", which does not fit: A length of time, such as `50ms`, `30s`, `10m` or `1h`.
            12:5: "mode" is "sink", but must be one of sync, upsert-only, create-only"#]],
    );
    check(
        r#"sources:
  - name: Not_Legal
    file: {path: a.yaml}
  - name: twice
    file: {path: a.yaml}
    consul: {url: "127.0.0.1:8500"}
  - name: twice
defaults: {host: "{servce}.mesh", labels: {"a b": "x"}}
policies:
  - name: p
    component: {}
sinks:
  - {}
"#,
        expect![[r#"
            2:5: source name: "Not_Legal" is not a legal DNS label: labels consist of letters, digits and dashes
            6:5: a source is of one kind only: keep one of file, consul, eureka, cloudMap
            7:5: a source needs one of: file, consul, eureka, cloudMap
            7:5: the name "twice" is used twice in sources; each needs its own
            8:12: "servce" is not a variable; there are {service}, {source}, {group}, {datacenter}, {partition} and {meta.KEY}
            8:44: "a b" is not a legal label key in Kubernetes
            11:5: set one of: file, configMap
            13:5: a sink is of one kind: kubernetes, files or mcp"#]],
    );
}

#[test]
fn reading_all_anew_must_not_fill_the_time() {
    let of = |resync: &str| {
        format!(
            "sources:\n  - name: a\n    consul: {{url: \"http://127.0.0.1:8500\", resync: {resync}}}\n"
        )
    };
    check(
        &of("0s"),
        expect![
            "3:44: resync is 0s; reading all anew takes a registry seconds, so set 10s or more"
        ],
    );
    check(
        &of("9999ms"),
        expect![
            "3:44: resync is 9999ms; reading all anew takes a registry seconds, so set 10s or more"
        ],
    );
    check(&of("10s"), expect!["ok"]);
}

#[test]
fn a_cloud_map_has_a_region_and_polls_that_aws_can_bear() {
    let of = |map: &str| format!("sources:\n  - name: a\n    cloudMap: {{{map}}}\n");
    check(&of("region: eu-central-1"), expect!["ok"]);
    check(
        &of("region: eu-central-1, namespaces: [prod], endpoint: \"http://127.0.0.1:5000\", \
             roleArn: \"arn:aws-cn:iam::123456789012:role/a/b\", externalId: x, poll: 1s"),
        expect!["ok"],
    );
    check(&of("namespaces: [prod]"), expect![[r#"3:5: key "region" is missing"#]]);
    check(
        &of("region: \"eu-central-1.example.com/\", namespaces: [\"\"], externalId: x, \
             dataEndpoint: \"https://u:hush@h/?hush\""),
        expect![[r#"
            3:5: dataEndpoint goes with endpoint; set both, or endpoint alone
            3:5: externalId goes with roleArn; set both or none
            3:16: region is "eu-central-1.example.com/", but must be like eu-central-1
            3:66: a namespace has a name; leave namespaces out to list all of them
            3:86: dataEndpoint has a query or a fragment; take it out, and use credentialsFile if it is a secret
            3:86: dataEndpoint has a user or a password in it; use credentialsFile"#]],
    );
    check(
        &of("region: a, roleArn: \"arn:aws:iam::1:user/a\", poll: 10ms, healthPoll: 1s, \
             servicePoll: 1s, resync: 10s, endpoint: h"),
        expect![[r#"
            3:27: roleArn is not one, such as arn:aws:iam::123456789012:role/landfall
            3:61: poll is 10ms; each service costs a request that AWS charges for, so set 1s or more
            3:73: healthPoll is 1s; each service costs a request that AWS charges for, so set 5s or more
            3:89: servicePoll is 1s; AWS names no rate for it, so set 5s or more
            3:106: resync is 10s; each service costs a request that AWS charges for, so set 30s or more
            3:119: endpoint is not an http:// or https:// address, such as https://vpce-0a1b.servicediscovery.eu-central-1.vpce.amazonaws.com"#]],
    );
}

#[test]
fn a_login_of_eureka_is_whole_and_its_password_is_not_told() {
    let of = |eureka: &str| format!("sources:\n  - name: a\n    eureka: {{{eureka}, poll: 2s}}\n");
    check(&of("url: http://127.0.0.1:8761/eureka"), expect!["ok"]);
    check(&of("url: http://u@127.0.0.1:8761/eureka, passwordFile: p"), expect!["ok"]);
    check(
        &of("urls: [\"http://u:hush@a/eureka\", \"ftp://b\"], user: w, certFile: c"),
        expect![[r#"
            3:21: the addresses and user name different users; name one
            3:21: urls has a password in it; use passwordFile
            3:47: urls is not an http:// or https:// address, such as http://127.0.0.1:8761/eureka
            3:59: user and passwordFile go together; set both or none
            3:68: certFile and keyFile go together; set both or none"#]],
    );
    check(
        &of("passwordFile: p, resync: 1s, staleAfter: 30s"),
        expect![[r#"
            3:5: url is missing, such as http://127.0.0.1:8761/eureka
            3:14: user and passwordFile go together; set both or none
            3:31: resync is 1s; reading all anew takes a registry seconds, so set 10s or more
            3:43: staleAfter is 30s; instances renew their leases every 30s and may fail to once, so set 1m or more"#]],
    );
    check(
        &of("url: http://a%20b@h/eureka, user: \"a:b\""),
        expect![[r#"
            3:14: an address has a user with special letters; set user instead
            3:14: the addresses and user name different users; name one
            3:42: user and passwordFile go together; set both or none
            3:42: user has a colon, which HTTP takes for the end of the user's name"#]],
    );
}

#[test]
fn no_address_of_a_registry_carries_a_secret_and_none_is_repeated() {
    let all = [
        ("consul", "htps://user:hush@consul:8500"),
        ("consul", "hush"),
        ("consul", "https://hush@consul:8500"),
        ("consul", "https://:hush@consul:8500"),
        ("consul", "https://consul:8500/?token=hush"),
        ("consul", "https://consul:8500/#hush"),
        ("eureka", "htps://user:hush@eureka/eureka"),
        ("eureka", "https://user:hush@eureka/eureka"),
        ("eureka", "https://eureka/eureka?password=hush"),
        ("eureka", "https://eureka/eureka#hush"),
    ];
    let mut seen = String::new();
    for (kind, url) in all {
        for key in [format!("url: {url:?}"), format!("urls: [{url:?}]")] {
            let text = format!("sources:\n  - {{name: a, {kind}: {{{key}}}}}\n");
            let problems = parse(&text, Path::new("")).unwrap_err();
            let told: Vec<_> = problems.iter().map(ToString::to_string).collect();
            let told = told.join("; ");
            assert!(!told.contains("hush"), "{told}");
            seen.push_str(&format!("{told}\n"));
        }
    }
    for way in
        ["is not an http:// or https:// address", "a query or a fragment", "a password in it"]
    {
        assert!(seen.contains(way), "{way} is not in {seen}");
    }
}

#[test]
fn what_is_not_yaml_is_told_with_its_place() {
    check("sources: [\n", expect!["1:10: unclosed bracket '['"]);
    check("sources:\n  - name: a\n    name: b\n", expect![[r#"3:5: the key "name" stands twice"#]]);
    check(
        "sources: []\n---\nsinks: []\n",
        expect!["3:1: a second document begins; a configuration is one"],
    );
    check(
        "sources:\n  - name: a\n name: b\n",
        expect!["3:2: while parsing a block mapping, did not find expected key"],
    );
}

#[test]
fn the_schema_and_the_types_agree_on_the_defaults() {
    let defaults = serde_json::to_string(&wire::Config::default()).unwrap();
    check(&defaults, expect!["ok"]);
}

#[test]
fn what_the_schema_refuses_hides_nothing_else_and_blames_nothing_else() {
    check(
        r#"sources:
  - file: {path: a.yaml}
  - {name: b, file: 5}
  - {name: c, consul: {ulr: "http://127.0.0.1:8500"}}
  - {name: C, consul: {url: 5, urls: ["x:1"]}}
policies:
  - component: {file: 5}
    limits: {time: 1h}
  - {name: p}
  - {name: p, component: {configMap: {}}}
sinks:
  - file: {path: a}
  - files: {}
  - files: {}
"#,
        expect![[r#"
            2:5: key "name" is missing
            3:15: "file" must be of type object, but is 5
            4:24: unknown key "ulr"; did you mean "urls"?
            5:6: source name: "C" is not a legal DNS label: it has upper-case letters
            5:24: "url" must be of type string, but is 5
            5:39: urls is not an http:// or https:// address, such as http://127.0.0.1:8500
            7:5: key "name" is missing
            7:17: "file" must be of type string, but is 5
            8:14: time is 1h, but must be 5s or less: everything waits for the call, which decides at most 256 instances
            9:5: key "component" is missing
            10:6: the name "p" is used twice in policies; each needs its own
            10:27: key "name" is missing
            10:27: key "namespace" is missing
            12:5: unknown key "file"; did you mean "files"?
            13:5: key "path" is missing
            14:5: key "path" is missing"#]],
    );
    check("- 1\n", expect!["1:1: the configuration must be of type object, but is [1]"]);
}

#[test]
fn resources_are_as_istio_takes_them() {
    let resources = |text: &str| format!("resources: {text}\n");
    check(
        &resources("{exportTo: [shop, \".\"], location: external, ambient: true}"),
        expect!["ok"],
    );
    check(
        &resources("{exportTo: [Shop, shop, shop, \"*\"], location: extern, ambient: 1}"),
        expect![[r#"
            1:24: "Shop" is not a namespace, ".", "*" or "~"
            1:36: "shop" stands twice in exportTo
            1:42: "*" must stand alone in exportTo
            1:48: "location" is "extern", but must be one of internal, external; did you mean "external"?
            1:66: "ambient" must be of type boolean, but is 1"#]],
    );
    let config =
        parse(&resources("{exportTo: [\"~\"], location: external, ambient: true}"), Path::new(""));
    let resources = config.unwrap().resources;
    assert_eq!(resources.location, Location::MeshExternal);
    assert_eq!(resources.export_to.as_ref(), [Text::from("~")]);
    assert!(resources.ambient);
}

#[test]
fn limits_have_ceilings() {
    let limits = |text: &str| {
        format!("policies:\n  - {{name: p, component: {{file: p.wasm}}, limits: {text}}}\n")
    };
    check(&limits("{time: 5s, memory: 1Gi, logLines: 1000000}"), expect!["ok"]);
    check(
        &limits("{time: 5001ms, memory: 1025Mi, logLines: 5000000000}"),
        expect![[r#"
        2:51: time is 5001ms, but must be 5s or less: everything waits for the call, which decides at most 256 instances
        2:65: memory is 1025Mi, but must be 1Gi or less: each worker thread may use as much
        2:81: "logLines" is 5000000000, but must be 1000000 or less"#]],
    );
    check(&limits("{time: 0s}"), expect!["2:51: time is 0; no policy can answer in that"]);
}

#[test]
fn sinks_have_places_of_their_own() {
    check(
        r#"owner: me
sinks:
  - files: {path: out}
  - {files: {path: ./out}, mode: create-only}
  - kubernetes: {namespaces: [a, b]}
  - kubernetes: {context: other}
  - kubernetes: {namespaces: [c]}
  - kubernetes: {namespaces: [b, d]}
  - {kubernetes: {}, mode: upsert-only}
  - files: {path: out/inner}
  - files: {path: beside/../out}
  - files: {path: outer}
  - files: {path: .}
  - files: {path: /elsewhere}
  - {files: {path: one}, kubernetes: {}}
"#,
        expect![[r#"
            4:14: a sink above has this folder already; keep one of them
            8:18: a sink above writes to namespaces of this cluster that this one writes to; keep one of them
            9:6: a sink above writes to namespaces of this cluster that this one writes to; keep one of them
            10:13: this folder is inside that of a sink above, which would take what is written here for somebody else's; put them side by side
            11:13: a sink above has this folder already; keep one of them
            13:13: the folder of a sink above is inside this one, which would take what is written there for somebody else's; put them side by side
            15:6: a sink is of one kind: kubernetes, files or mcp; keep one"#]],
    );
}

#[test]
fn no_path_is_empty() {
    check(
        r#"sources:
  - {name: a, file: {path: ""}}
  - {name: b, consul: {url: "http://b", tokenFile: ""}}
policies:
  - {name: p, component: {file: ""}}
sinks:
  - files: {path: ""}
  - files: {path: ""}
"#,
        expect![[r#"
            2:22: "path" is empty, but must name a file or a folder
            3:41: "tokenFile" is empty, but must name a file or a folder
            5:27: "file" is empty, but must name a file or a folder
            7:13: "path" is empty, but must name a file or a folder
            8:13: "path" is empty, but must name a file or a folder"#]],
    );
}

#[test]
fn what_would_be_no_legal_name_of_any_service_is_refused() {
    let defaults = |text: &str| format!("defaults: {text}\n");
    for legal in [
        r#"{host: "{service}.mesh"}"#,
        r#"{host: "*.{service}.mesh", namespace: "{group}-apps"}"#,
        r#"{host: "{meta.host}", namespace: "{meta.namespace}"}"#,
        r#"{host: "{service}-{datacenter}..Mesh."}"#,
    ] {
        check(&defaults(legal), expect!["ok"]);
    }
    let mut told = String::new();
    for illegal in [
        r#"{host: ""}"#,
        r#"{host: "*"}"#,
        r#"{host: "{service}.my_mesh"}"#,
        r#"{host: ".."}"#,
        r#"{namespace: ""}"#,
        r#"{namespace: "{service}.x"}"#,
    ] {
        let problems = parse(&defaults(illegal), Path::new("")).unwrap_err();
        told.extend(problems.iter().map(|problem| format!("{problem}\n")));
    }
    expect![[r#"
        1:12: "host" makes no legal host name of any service: "" is not a legal host name: it is empty; write one such as {service}.{source}.mesh
        1:12: "host" makes no legal host name of any service: "*" is not a legal host name: a wildcard needs a domain below it, as in *.example.com; write one such as {service}.{source}.mesh
        1:12: "host" makes no legal host name of any service: "x.my_mesh" is not a legal host name: labels consist of letters, digits and dashes; write one such as {service}.{source}.mesh
        1:12: "host" makes no legal host name of any service: "" is not a legal host name: it is empty; write one such as {service}.{source}.mesh
        1:12: "namespace" makes no legal namespace of any service: "" is not a legal namespace: a label is empty; write one such as mesh-registry
        1:12: "namespace" makes no legal namespace of any service: "x.x" is not a legal namespace: labels consist of letters, digits and dashes; write one such as mesh-registry
    "#]].assert_eq(&told);
}

#[test]
fn servers_have_addresses_of_their_own() {
    check(
        r#"sinks:
  - mcp: {listen: "127.0.0.1:18000", journal: a}
  - mcp: {listen: "127.0.0.1:18001", journal: a}
  - mcp: {listen: "127.0.0.1:18002", journal: b, virtualAddresses: 240.241.0.1/16, certFile: c}
  - mcp: {listen: here, journal: c, certFile: c}
"#,
        expect![[r#"
            3:38: a sink above has this journal already; give each its own
            4:50: "virtualAddresses": "240.241.0.1/16" is not a range of addresses; it must be an address with its host part zero, a slash and the length of the network, such as 240.241.0.0/16
            4:84: certFile and keyFile go together; set both or none
            5:11: "listen" is "here", but must be an IP address and a port, such as 127.0.0.1:18000 or [::]:18000
            5:37: certFile and keyFile go together; set both or none"#]],
    );
}

#[test]
fn a_cluster_is_written_under_a_name() {
    check("sinks:\n  - files: {path: out}\n", expect!["ok"]);
    check("owner: Blue_1.b\nsinks:\n  - kubernetes: {}\n", expect!["ok"]);
    check(
        "sinks:\n  - files: {path: out}\n  - kubernetes: {}\n",
        expect![[
            r#"3:5: a kubernetes sink needs "owner" at the top level, such as `owner: dc1`: it marks the objects that are this installation's, and two installations with the same mark in one cluster delete each other's"#
        ]],
    );
    check(
        "owner: [1]\nsinks: [{kubernetes: {}}]\n",
        expect![[r#"1:1: "owner" must be of type string, but is [1]"#]],
    );
    check(
        "owner: a b\nsinks: [{kubernetes: {}}]\n",
        expect![[
            r#"1:1: owner: "a b" is not a legal owner: it must be 1 to 63 letters, digits, dashes, dots and underscores, and begin and end with a letter or digit"#
        ]],
    );
}

#[test]
fn addresses_to_listen_on_are_told_with_their_place() {
    check(
        "admin:\n  listen: localhost:15080\n",
        expect![[
            r#"2:3: "listen" is "localhost:15080", but must be an IP address and a port, such as 127.0.0.1:15080 or [::1]:15080"#
        ]],
    );
    check("admin: {listen: \"[::1]:0\"}\n", expect!["ok"]);
}

#[test]
fn a_whole_number_may_be_written_with_a_point() {
    check("guard: {removalMin: 5.0}\n", expect!["ok"]);
    check(
        "guard: {removalMin: 5.5}\n",
        expect![[r#"1:9: "removalMin" must be of type integer, but is 5.5"#]],
    );
    check(
        "guard: {removalMin: 99999999999999999999}\n",
        expect![[r#"1:9: "removalMin" is 1e+20, but must be 1000000 or less"#]],
    );
}

#[test]
fn a_file_that_is_no_configuration_is_not_read_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("landfall.yaml");
    let largest = "#".repeat(usize::try_from(CONFIG_BYTES_MAX).unwrap());
    std::fs::write(&path, &largest).unwrap();
    assert!(load(&path).is_ok());
    std::fs::write(&path, format!("{largest}é")).unwrap();
    let error = load(&path).unwrap_err();
    assert!(matches!(error, ConfigError::TooLarge { .. }), "{error}");
}

/// Every key of the configuration, each with a legal value.
#[test]
fn rules_of_sharing_name_sources_that_are_there() {
    let sources = "sources:\n- {name: dc1, file: {path: a}}\n- {name: dc2, file: {path: b}}\n";
    check(
        &format!(
            "{sources}sharing:\n- {{precedence: [dc2], weights: {{dc1: 9}}}}\n- {{hosts: [a.mesh]}}\n"
        ),
        expect![
            "6:3: this rule holds for no host, since rule 1 before it is for all; put it before that one"
        ],
    );
    check(
        &format!(
            "{sources}sharing:\n- hosts: [a.mesh]\n  precedence: [dc3, dc1, dc1]\n  weights: \
             {{dc2: 0, dc4: 1}}\n"
        ),
        expect![[r#"
            6:16: there is no source "dc3"; there are dc1, dc2
            6:26: source "dc1" is listed twice
            7:13: a weight is 1 to 65535, for to Istio none is the same as 1; to publish nothing of a source use mode first
            7:21: there is no source "dc4"; there are dc1, dc2"#]],
    );
}

const EVERY_KEY: &str = r#"
sources:
  - name: dc1
    consul:
      url: http://127.0.0.1:8500
      urls: ["http://127.0.0.1:8501"]
      tokenFile: token
      caFile: ca.pem
      certFile: cert.pem
      keyFile: key.pem
      datacenters: [dc1]
      partitions: [default]
      namespaces: [default]
      includeProxies: true
      connectionsMax: 10
      resync: 10m
      partialView: true
  - name: spring
    eureka:
      url: http://127.0.0.1:8761/eureka
      urls: ["http://127.0.0.1:8762/eureka"]
      user: me
      passwordFile: password
      caFile: ca.pem
      certFile: cert.pem
      keyFile: key.pem
      poll: 5s
      resync: 10m
      preferHostname: true
      staleAfter: 5m
  - name: aws
    cloudMap:
      region: eu-central-1
      namespaces: [prod]
      endpoint: http://127.0.0.1:5000
      dataEndpoint: http://127.0.0.1:5001
      credentialsFile: credentials
      roleArn: arn:aws:iam::123456789012:role/landfall
      externalId: x
      poll: 10s
      healthPoll: 60s
      servicePoll: 30s
      resync: 10m
  - name: by-hand
    file: {path: registry.yaml}
defaults:
  host: "{service}.mesh"
  namespace: mesh-registry
  labels: {version: v1}
  health: [passing]
policies:
  - name: a
    component: {file: a.wasm}
    config: {anything: 1}
    match: {sources: [dc1], services: ["pay-*"]}
    limits: {memory: 64Mi, time: 50ms, logLines: 10}
  - name: b
    component:
      configMap: {namespace: shop, name: mapper, key: k, kubeconfig: kc, context: c}
sharing:
  - hosts: ["*.shop.mesh"]
    mode: first
    precedence: [dc1]
    weights: {dc1: 3}
sinks:
  - files: {path: out}
    mode: sync
  - kubernetes: {kubeconfig: kc, context: c, namespaces: [shop]}
  - mcp:
      listen: 127.0.0.1:18000
      journal: served.jsonl
      virtualAddresses: 240.241.0.0/16
      certFile: cert.pem
      keyFile: key.pem
guard: {removalShare: 20%, removalMin: 10, hold: 10m, grace: 30s}
resources: {shape: auto, location: internal, exportTo: [shop], ambient: true}
admin: {listen: "127.0.0.1:0"}
owner: me
"#;

/// Settings of policies may be anything.
const UNCHECKED: &str = "/policies/0/config";

#[test]
fn a_wrong_value_anywhere_is_told_with_its_place_and_key() {
    check(EVERY_KEY, expect!["ok"]);
    let every = Document::parse(EVERY_KEY).unwrap();
    let mut leaves = Vec::new();
    leaves_of(&every.value, "", &mut leaves);
    for (pointer, value) in leaves {
        if pointer.starts_with(UNCHECKED) {
            continue;
        }
        let key = pointer.rsplit('/').find(|part| part.parse::<usize>().is_err()).unwrap();
        for wrong in wrong_values(&value) {
            let mut broken = every.value.clone();
            *broken.pointer_mut(&pointer).unwrap() = wrong.clone();
            let text = serde_json::to_string_pretty(&broken).unwrap();
            let want = Document::parse(&text).unwrap().position(&pointer);
            let problems = parse(&text, Path::new("")).expect_err(&format!("{pointer}: {wrong}"));
            assert!(
                problems.iter().any(|p| p.position == want && p.message.contains(key)),
                "{pointer}: {wrong}: {problems:?}"
            );
        }
    }
}

#[test]
fn every_key_is_among_those_that_are_tested() {
    let mut tested = std::collections::BTreeSet::new();
    keys_of(&Document::parse(EVERY_KEY).unwrap().value, &mut tested);
    let schema = schema::json_schema();
    let definitions = schema["$defs"].as_object().unwrap().values();
    for object in definitions.chain([&schema]) {
        for key in object["properties"].as_object().into_iter().flatten().map(|(key, _)| key) {
            assert!(tested.contains(key), "add {key} to EVERY_KEY");
        }
    }
}

/// Scalars with their pointers.
fn leaves_of(value: &Value, pointer: &str, leaves: &mut Vec<(String, Value)>) {
    match value {
        Value::Object(map) => {
            map.iter().for_each(|(key, value)| leaves_of(value, &child(pointer, key), leaves));
        }
        Value::Array(items) => items
            .iter()
            .enumerate()
            .for_each(|(index, item)| leaves_of(item, &format!("{pointer}/{index}"), leaves)),
        scalar => leaves.push((pointer.to_owned(), scalar.clone())),
    }
}

fn keys_of(value: &Value, keys: &mut std::collections::BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                keys.insert(key.clone());
                keys_of(value, keys);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| keys_of(item, keys)),
        _ => {}
    }
}

/// What cannot stand where `value` stands. Texts with a form of their own are known by it.
fn wrong_values(value: &Value) -> Vec<Value> {
    let mut wrong = vec![Value::from(vec![1])];
    match value {
        Value::Bool(_) => wrong.extend(["yes".into(), 1.into()]),
        Value::Number(_) => {
            wrong.extend([
                "ten".into(),
                (-1).into(),
                1.5.into(),
                5_000_000_000_u64.into(),
                true.into(),
            ]);
        }
        Value::String(text) => {
            wrong.extend([1.into(), 1.5.into(), true.into()]);
            let words = ["sync", "auto", "internal", "passing", "first"];
            let starts_with_digit = text.starts_with(|c: char| c.is_ascii_digit());
            if starts_with_digit || words.contains(&text.as_str()) || text.starts_with("http") {
                wrong.extend(["nonsense".into(), "localhost:15080".into(), "".into()]);
            }
        }
        _ => {}
    }
    wrong
}
