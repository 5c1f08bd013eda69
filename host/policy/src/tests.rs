//! What the crate as a whole does.

use std::sync::Arc;
use std::time::Duration;

use landfall_core::decision::{DecidedService, DropReason, Fault, Outcome};
use landfall_core::group::gathered;
use landfall_core::mapping::{Edit, Verdict};
use landfall_core::mesh::{Contribution, HostKey, MeshService, Setting};
use landfall_core::pairs::Pairs;
use landfall_core::pattern::{Pattern, Selector};
use landfall_core::registry::{Health, Instance, Service};

use crate::chain::Chain;
use crate::clock;
use crate::probe;
use crate::testing::{
    admit, admit_within, component_with, contract_with, defaults, engine, host_edit, hostile, ids,
    instance_at, rules, summary, verdict, work, work_of,
};
use crate::{Limits, Link, Origin, Revision, Rules, Work, Workers};

fn workers() -> Arc<Workers> {
    Workers::start(2).unwrap()
}

fn decide(revisions: &[&Arc<Revision>], work: Work) -> DecidedService {
    workers().decide(&rules(revisions), vec![work]).remove(0)
}

fn quick() -> Limits {
    Limits { time_max: Duration::from_millis(20), ..Limits::default() }
}

/// Sets host `a.mesh` by an edit.
fn renaming() -> Vec<u8> {
    let edit = host_edit(3000, 6);
    verdict(
        2,
        2048,
        1,
        &format!(r#"(data (i32.const 2048) "{edit}") (data (i32.const 3000) "a.mesh")"#),
    )
}

/// Sets address `1.2.3.4` by an edit: like one of the host, with another case.
fn elsewhere() -> Vec<u8> {
    let edit = host_edit(3000, 7).replacen("\\00", "\\02", 1);
    verdict(
        2,
        2048,
        1,
        &format!(r#"(data (i32.const 2048) "{edit}") (data (i32.const 3000) "1.2.3.4")"#),
    )
}

#[test]
fn what_a_policy_keeps_is_published_as_the_defaults_say() {
    let harmless = admit(&hostile("harmless")).unwrap();
    assert!(harmless.decides_instances() && !harmless.decides_services());
    assert_eq!(harmless.descriptor().name, "hostile");
    assert_eq!(harmless.digest().len(), 64);
    let decided = decide(&[&harmless], work(&ids(1000), None));
    assert_eq!(summary(&decided), "1000 pay.dc1.mesh");
    assert_eq!(decided.findings, []);
}

#[test]
fn without_policies_the_defaults_decide() {
    assert_eq!(summary(&decide(&[], work(&ids(3), None))), "3 pay.dc1.mesh");
}

#[test]
fn edits_drops_and_splits() {
    let renaming = admit(&renaming()).unwrap();
    assert_eq!(summary(&decide(&[&renaming], work(&ids(300), None))), "300 a.mesh");

    let drop_all = admit(&hostile("drop-all")).unwrap();
    let dropped = decide(&[&renaming, &drop_all, &renaming], work(&ids(2), None));
    let Outcome::Dropped(DropReason::Policy { policy, .. }) = &dropped.decisions[0].outcome else {
        panic!("{}", summary(&dropped));
    };
    assert_eq!(&**policy, "p");

    // Two lists with one edit each, the third equal to the first.
    let edits = format!("{}{}", host_edit(3000, 6), host_edit(3010, 6));
    let word = |n: u32| n.to_le_bytes().map(|b| format!("\\{b:02x}")).concat();
    let list = |at: u32| format!("{}{}", word(at), word(1));
    let data = format!(
        r#"(data (i32.const 2048) "{edits}") (data (i32.const 3000) "a.mesh") (data (i32.const 3010) "b.mesh")
        (data (i32.const 4000) "{}{}{}")"#,
        list(2048),
        list(2048 + 28),
        list(2048),
    );
    let splitting = admit(&verdict(3, 4000, 3, &data)).unwrap();
    assert_eq!(summary(&decide(&[&splitting], work(&ids(10), None))), "10 a.mesh b.mesh");
    // Three places each become three, of which a.mesh and b.mesh are left.
    assert_eq!(
        summary(&decide(&[&splitting, &splitting], work(&ids(10), None))),
        "10 a.mesh b.mesh"
    );
    // 81 are too many.
    let four = [&splitting; 4];
    assert_eq!(summary(&decide(&four, work(&ids(10), None))), "10 (nothing) [verdict_illegal]");
    // A verdict of another version of the contract.
    let other = admit(&verdict(4, 3000, 5, r#"(data (i32.const 3000) "later")"#)).unwrap();
    let decided = decide(&[&renaming, &other], work(&ids(2), None));
    assert_eq!(summary(&decided), "2 (nothing) [verdict_illegal]");
    assert!(decided.findings[0].message.contains("the verdict is \"later\""), "{decided:?}");
    // No list at all.
    let nowhere = admit(&verdict(3, 0, 0, "")).unwrap();
    assert_eq!(
        summary(&decide(&[&nowhere], work(&ids(2), None))),
        "2 policy p: split into no place at all"
    );
}

#[test]
fn a_decision_stands_until_something_changes() {
    // Its answers alternate from call to call.
    let fickle = admit(&hostile("counts-calls")).unwrap();
    let rules = rules(&[&fickle]);
    let workers = workers();
    let mut decided = workers.decide(&rules, vec![work(&ids(5), None)]).remove(0);
    let first = decided.decisions.clone();
    for _ in 0..3 {
        decided = workers.decide(&rules, vec![work(&ids(5), Some(decided))]).remove(0);
        assert_eq!(decided.decisions, first);
    }
    // One instance more: the others stand.
    let more = workers.decide(&rules, vec![work(&ids(6), Some(decided))]).remove(0);
    assert_eq!(more.decisions[..5], first[..]);
}

#[test]
fn links_say_which_services_they_are_for() {
    let drop_all = admit(&hostile("drop-all")).unwrap();
    let with = |sources: &[&str], services: &[&str]| {
        let patterns = |raw: &[&str]| raw.iter().map(|&p| Pattern::new(p)).collect();
        let link = Link {
            revision: Arc::clone(&drop_all),
            selector: Selector { sources: patterns(sources), services: patterns(services) },
        };
        let rules = Rules::new(defaults(), vec![link]);
        let mut work = work(&ids(1), None);
        let mut id = (*work.id).clone();
        id.key.group = "shop".into();
        work.id = Arc::new(id);
        let decided = workers().decide(&rules, vec![work]).remove(0);
        matches!(decided.decisions[0].outcome, Outcome::Dropped(_))
    };
    assert!(with(&[], &[]));
    assert!(with(&["dc*"], &["pay"]));
    assert!(with(&["dc1"], &["x", "shop/*"]));
    assert!(!with(&["dc2"], &[]));
    assert!(!with(&["dc1"], &["shop"]));
}

#[test]
fn the_mark_follows_from_everything() {
    let harmless = admit(&hostile("harmless")).unwrap();
    let mark = |revisions: &[&Arc<Revision>]| rules(revisions).mark().clone();
    assert_eq!(mark(&[&harmless]), mark(&[&admit(&hostile("harmless")).unwrap()]));
    assert_ne!(mark(&[&harmless]), mark(&[]));
    assert_ne!(mark(&[&harmless]), mark(&[&harmless, &harmless]));
    assert_ne!(mark(&[&harmless]), mark(&[&admit_within(&hostile("harmless"), quick()).unwrap()]));
}

#[test]
fn a_poisonous_instance_stands_alone() {
    for (guest, code) in [("trap-on-poison", "trap"), ("loop-on-poison", "deadline")] {
        let policy = admit_within(&hostile(guest), quick()).unwrap();
        let rules = rules(&[&policy]);
        let workers = workers();
        let mut all = ids(600);
        all.push("poison".to_owned());
        let first = workers.decide(&rules, vec![work(&all, None)]).remove(0);
        assert_eq!(summary(&first), format!("1 (nothing) [{code}]; 600 pay.dc1.mesh"));
        assert_eq!(first.findings.len(), 1, "{:?}", first.findings);
        assert!(first.findings[0].message.contains("poison"), "{:?}", first.findings);
        // Not tried again, and still told.
        let again = workers.decide(&rules, vec![work(&all, Some(first.clone()))]).remove(0);
        assert_eq!((&again.decisions, &again.findings), (&first.decisions, &first.findings));

        // What stood before stays.
        let harmless = admit(&hostile("harmless")).unwrap();
        let good = decide(&[&harmless], work(&all, None));
        let kept = workers.decide(&rules, vec![work(&all, Some(good))]).remove(0);
        assert_eq!(summary(&kept), format!("600 pay.dc1.mesh; 1 pay.dc1.mesh [{code}]"));
    }
}

#[test]
fn a_policy_that_always_fails_does_not_take_for_ever() {
    let looping = admit_within(&hostile("loop-decide"), quick()).unwrap();
    let rules = rules(&[&looping]);
    let workers = workers();
    let start = clock::now();
    let decided = workers.decide(&rules, vec![work(&ids(5000), None)]).remove(0);
    // 8 instances alone, and on the way to them up to 16 batches; two workers.
    assert!(start.elapsed() < Duration::from_millis(20 * 100), "{:?}", start.elapsed());
    let codes = |decided: &DecidedService, code: &str| {
        let faults = decided.decisions.iter().filter_map(|decision| decision.fault.as_ref());
        faults.filter(|fault| fault.code == code).count()
    };
    // 8 in a row, and one more for each worker that was at it; fewer where they are stopped late.
    let looped = codes(&decided, "deadline");
    assert!((1..=10).contains(&looped), "{}", summary(&decided));
    assert_eq!(codes(&decided, "untried"), 5000 - looped);
    let untried =
        |d: &DecidedService| d.findings.iter().any(|f| f.message.contains("was not tried"));
    assert!(untried(&decided), "{:?}", decided.findings);
    // The next time it is met with one instance first.
    let start = clock::now();
    let _ = workers.decide(&rules, vec![work(&ids(5000), None)]);
    assert!(start.elapsed() < Duration::from_millis(20 * 50), "{:?}", start.elapsed());
    // A thousand traps in a row cost less than one loop, so they do not count as much.
    let trapping = admit(&hostile("trap-decide")).unwrap();
    let decided = decide(&[&trapping], work(&ids(3000), None));
    // On a busy machine one or the other call runs into its limit before it traps.
    let tried = codes(&decided, "trap") + codes(&decided, "deadline");
    assert!((20..=1001).contains(&tried), "{}", summary(&decided));
    assert_eq!(codes(&decided, "untried"), 3000 - tried);
}

#[test]
fn neither_does_one_that_fails_here_and_there() {
    let limits = Limits { time_max: Duration::from_millis(5), ..Limits::default() };
    let policy = admit_within(&hostile("loop-on-poison"), limits).unwrap();
    let pair = work(&["good".to_owned(), "poison".to_owned()], None);
    let start = clock::now();
    let decided = workers().decide(&rules(&[&policy]), vec![pair; 3000]);
    let elapsed = clock::now().saturating_duration_since(start);
    // Each service costs two loops, and 160 are enough; two workers.
    assert!(elapsed < Duration::from_millis(5 * 160 * 6), "{elapsed:?}");
    let tried = decided.iter().filter(|service| service.decisions[0].fault.is_none()).count();
    // On a busy machine they take longer, and so cost more.
    assert!((1..100).contains(&tried), "{tried}");
    assert_eq!(summary(&decided[0]), "1 (nothing) [deadline]; 1 pay.dc1.mesh");
    assert_eq!(summary(&decided[2999]), "2 (nothing) [untried]");
}

#[test]
fn what_may_go_better_is_tried_again_on_request() {
    // On a busy machine an instance that is none may take long, too.
    let limits = Limits { time_max: Duration::from_millis(100), ..Limits::default() };
    let policy = admit_within(&hostile("loop-on-poison"), limits).unwrap();
    let rules = rules(&[&policy]);
    let workers = workers();
    // Poison comes first, and keeps much of what is behind it from being tried.
    let mut services: Vec<Work> = vec![work(&["poison".to_owned()], None); 30];
    services.extend(vec![work(&ids(1), None); 2000]);
    let codes = |services: &[Work]| -> Vec<&'static str> {
        let before = services.iter().map(|service| service.before.as_ref().unwrap());
        before.map(|d| d.decisions[0].fault.as_ref().map_or("none", |fault| fault.code)).collect()
    };
    let take = |services: &mut [Work], decided: Vec<DecidedService>| {
        for (service, decided) in services.iter_mut().zip(decided) {
            service.before = Some(Arc::new(decided));
        }
    };
    let decided = workers.decide(&rules, services.clone());
    take(&mut services, decided);
    let first = codes(&services);
    assert!(first[30..].contains(&"untried"), "{first:?}");
    let decided = workers.decide(&rules, services.clone());
    take(&mut services, decided);
    assert_eq!(codes(&services), first, "nobody asked for it");
    // Each turn is wary and finds at least one that loops, which waits for the others from then on.
    let is_settled = |codes: &[&str]| {
        codes[..30].iter().all(|code| *code == "deadline")
            && codes[30..].iter().all(|code| *code == "none")
    };
    for _ in 0..60 {
        let decided = workers.decide_again(&rules, services.clone());
        take(&mut services, decided);
        if is_settled(&codes(&services)) {
            break;
        }
    }
    assert!(is_settled(&codes(&services)), "{:?}", codes(&services));
    // A trap follows from the input, and stands.
    let trapping = admit(&hostile("trap-decide")).unwrap();
    let rules = crate::testing::rules(&[&trapping]);
    let first = workers.decide(&rules, vec![work(&ids(1), None)]).remove(0);
    let fault = |decided: &DecidedService| decided.decisions[0].fault.clone().unwrap();
    let again = workers.decide_again(&rules, vec![work(&ids(1), Some(first.clone()))]).remove(0);
    assert!(Arc::ptr_eq(&fault(&first), &fault(&again)));
}

#[test]
fn what_cannot_be_made_is_tried_again_and_blames_nobody() {
    let mut policy = admit_within(&hostile("harmless"), quick()).unwrap();
    // As when the operating system gives no memory, which a test cannot have it do.
    Arc::get_mut(&mut policy).unwrap().mold.limits.memory_bytes_max = 0;
    let harmless = admit(&hostile("harmless")).unwrap();
    let good = decide(&[&harmless], work(&ids(1000), None));
    let decided = decide(&[&policy], work(&ids(1000), Some(good)));
    assert_eq!(summary(&decided), "1000 pay.dc1.mesh [no_instance]");
    let message = &decided.findings[0].message;
    assert!(message.contains("was not asked about 1000 instances"), "{message}");
    assert!(crate::is_transient("no_instance"));
}

#[test]
fn what_is_found_lasts_as_long_as_its_reason() {
    // By the first letter of an instance: `a` has a name altered, `e` has no legal form, `n` is given
    // an edit that no version knows, and `z` is kept.
    let policy = admit(&hostile("illegal-names")).unwrap();
    let rules = rules(&[&policy]);
    let workers = workers();
    let named = |letter: char, numbers: std::ops::Range<usize>| -> Vec<String> {
        numbers.map(|number| format!("{letter}{number:03}")).collect()
    };
    let decide = |ids: &[String], before: Option<&DecidedService>| {
        workers.decide(&rules, vec![work(ids, before.cloned())]).remove(0)
    };
    let told = |decided: &DecidedService, what: &str| {
        decided.findings.iter().filter(|f| f.message.contains(what)).count()
    };

    // However much else there is, that a policy fails is listed.
    let all = [named('a', 0..150), named('e', 0..1)].concat();
    let first = decide(&all, None);
    assert_eq!((first.findings.len(), told(&first, "failed on 1 instances")), (101, 1));
    assert_eq!(told(&first, "51 more findings of this service are not listed"), 1);
    assert_eq!(decide(&all, Some(&first)).findings, first.findings, "nothing changed");

    // Which were not listed is known, so that the number follows those that are gone.
    let some = [named('a', 0..120), named('e', 0..1), named('z', 0..1)].concat();
    let second = decide(&some, Some(&first));
    assert_eq!(told(&second, "21 more findings of this service are not listed"), 1);
    let third = decide(&named('a', 0..90), Some(&second));
    assert_eq!((third.findings.len(), told(&third, "not listed")), (90, 0));

    // That an edit was left out stands beside the instance, and so outlives the others.
    let first = decide(&["n".to_owned()], None);
    assert_eq!(told(&first, "does not know"), 1);
    let second = decide(&["n".to_owned(), "z".to_owned()], Some(&first));
    assert_eq!(told(&second, "does not know"), 1);
    assert_eq!(decide(&["z".to_owned()], Some(&second)).findings, []);
}

#[test]
fn findings_of_a_verdict_that_fails_are_bounded_too() {
    let altered = || Edit::Host("a_b".to_owned());
    let verdict = |instance: &Instance| {
        let fails = &*instance.id < "i5";
        Verdict::Edit(if fails { vec![altered(), Edit::Weight(0)] } else { vec![altered()] })
    };
    let decided = probe::decided(defaults(), work(&ids(300), None), &[&verdict]);
    let count = |what: &str| decided.findings.iter().filter(|f| f.message.contains(what)).count();
    assert_eq!((count("was altered"), count("failed on"), count("not listed")), (99, 1, 1));
}

#[test]
fn an_old_fault_answers_only_for_the_facts_and_the_policy_that_it_is_of() {
    let rules = rules(&[]);
    let fault = |policy: &str, code| {
        Arc::new(Fault { policy: policy.into(), code, message: String::new() })
    };
    let mut before = workers().decide(&rules, vec![work(&ids(1), None)]).remove(0);
    before.decisions[0].fault = Some(fault("p", "deadline"));
    let code = |work: &Work, policy: &str, code| {
        let chain = Chain::new(&rules, work);
        let instance = &work.service.instances()[0];
        chain.kept(instance, fault(policy, code)).fault.unwrap().code
    };
    let same = work(&ids(1), Some(before.clone()));
    assert_eq!(code(&same, "p", "untried"), "deadline");
    assert_eq!(code(&same, "p", "trap"), "trap", "it was asked");
    assert_eq!(code(&same, "p", "volume"), "volume", "it is not tried again");
    assert_eq!(code(&same, "q", "untried"), "untried", "another policy");
    let changed = work_of(vec![instance_at("i0", "10.0.0.2", 80)], Some(before.clone()));
    assert_eq!(code(&changed, "p", "untried"), "untried", "another instance");
    let mut changed = work(&ids(1), Some(before));
    let meta = [("owner", "b")].into_iter().collect();
    let instances = changed.service.instances().to_vec();
    let (service, _) = Service::new(changed.id.key.clone(), meta, Pairs::default(), instances);
    changed.service = Arc::new(service);
    assert_eq!(code(&changed, "p", "untried"), "untried", "another service");
}

#[test]
fn an_instance_that_moved_is_not_published_where_it_was() {
    let harmless = admit(&hostile("harmless")).unwrap();
    let trapping = admit(&hostile("trap-decide")).unwrap();
    let elsewhere = admit(&elsewhere()).unwrap();
    let moved = |policy: &Arc<Revision>, address: &str, port: u16| {
        let good = decide(&[policy], work(&ids(1), None));
        let instance = instance_at("i0", address, port);
        let kept = decide(&[&trapping], work_of(vec![instance], Some(good)));
        assert_eq!(kept.decisions[0].fault.as_ref().unwrap().code, "trap");
        match &kept.decisions[0].outcome {
            Outcome::Published(mappings) => {
                mappings.iter().map(|m| m.address.as_ref().unwrap().to_string()).collect()
            }
            Outcome::Dropped(DropReason::Fault) => vec![],
            Outcome::Dropped(reason) => panic!("{reason}"),
        }
    };
    assert_eq!(moved(&harmless, "10.0.0.1", 80), ["10.0.0.1"]);
    assert_eq!(moved(&harmless, "10.0.0.2", 80), ["10.0.0.2"]);
    assert_eq!(moved(&harmless, "pay.example.com", 80), ["pay.example.com"]);
    let nowhere: [String; 0] = [];
    assert_eq!(moved(&harmless, "10.0.0.1", 81), nowhere);
    assert_eq!(moved(&harmless, "0.0.0.0", 80), nowhere);
    // The address that a policy set may have been made of the old one.
    assert_eq!(moved(&elsewhere, "10.0.0.1", 80), ["1.2.3.4"]);
    assert_eq!(moved(&elsewhere, "10.0.0.2", 80), nowhere);
}

#[test]
fn why_an_instance_was_left_out_is_not_kept_for_one_that_recovered() {
    let trapping = admit(&hostile("trap-decide")).unwrap();
    let drop_all = admit(&hostile("drop-all")).unwrap();
    let kept = |policy: &Arc<Revision>, health: Health| {
        let was = Instance { health, ..Instance::clone(&instance_at("i0", "10.0.0.1", 80)) };
        let before = decide(&[policy], work_of(vec![Arc::new(was)], None));
        assert!(matches!(before.decisions[0].outcome, Outcome::Dropped(_)));
        summary(&decide(&[&trapping], work(&ids(1), Some(before))))
    };
    assert_eq!(kept(&drop_all, Health::Passing), "1 policy p: because [trap]");
    assert_eq!(kept(&drop_all, Health::Critical), "1 (nothing) [trap]", "not by a policy");
}

#[test]
fn an_instance_without_a_port_is_told() {
    let mut bare = landfall_core::registry::Instance::clone(&instance_at("bare", "10.0.0.1", 80));
    bare.ports.clear();
    let decided =
        decide(&[], work_of(vec![Arc::new(bare), instance_at("i0", "10.0.0.2", 80)], None));
    assert_eq!(decided.findings.len(), 1);
    assert!(decided.findings[0].to_string().contains("dc1/pay/bare: it has no port"));
}

#[test]
fn a_trace_shows_each_step() {
    let renaming = admit(&renaming()).unwrap();
    let harmless = admit(&hostile("harmless")).unwrap();
    let drop_all = admit(&hostile("drop-all")).unwrap();
    let rules = rules(&[&renaming, &harmless, &drop_all, &harmless]);
    let steps = workers().trace(&rules, &work(&ids(3), None), "i1");
    let hosts = |n: usize| steps[n].mappings.iter().map(|m| m.host.to_string()).collect::<Vec<_>>();
    assert_eq!(steps.len(), 3, "a policy after the drop is not asked");
    assert_eq!(hosts(0), ["a.mesh"]);
    assert_eq!(steps[1].verdicts.as_deref(), Ok(&[Verdict::Keep][..]));
    assert_eq!(hosts(1), ["a.mesh"]);
    assert!(hosts(2).is_empty() && steps[2].dropped.len() == 1);
    assert!(workers().trace(&rules, &work(&ids(3), None), "nobody").is_empty());

    // What nobody gets is not shown: a policy that fails leaves an instance where it was.
    let splitting = admit(&hostile("many-places")).unwrap();
    let rules = crate::testing::rules(&[&renaming, &splitting, &splitting]);
    let steps = workers().trace(&rules, &work(&ids(3), None), "i1");
    let code = |n: usize| steps[n].verdicts.as_ref().map_or_else(|fault| fault.code, |_| "none");
    let of = |n: usize| (code(n), steps[n].mappings.len());
    assert_eq!([of(0), of(1), of(2)], [("none", 1), ("none", 64), ("verdict_illegal", 64)]);
}

#[test]
fn a_trace_has_the_lines_of_settings_too() {
    let text = r#"(data (i32.const 2000) "ready")
        (func (export "landfall:policy/plugin@0.1.0#configure") (param i32 i32) (result i32)
          (call $log (i32.const 2) (i32.const 2000) (i32.const 5))
          (call $configure (i32.const 0) (i32.const 0)))"#;
    let policy = admit(&crate::testing::component(text)).unwrap();
    let steps = workers().trace(&rules(&[&policy]), &work(&ids(1), None), "i0");
    assert_eq!(steps[0].log.iter().map(ToString::to_string).collect::<Vec<_>>(), ["info: ready"]);
}

#[test]
fn a_service_policy_sets_what_belongs_to_the_service() {
    let contract = include_str!("../../../wit/landfall.wit");
    let text = |result: &str| {
        format!(
            r#"
            (func (export "landfall:policy/services@0.1.0#decide")
              (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32) (local $result i32)
              {result})
            (func (export "cabi_post_landfall:policy/services@0.1.0#decide") (param i32))
            ;; alias "b.mesh", location "internal"
            (data (i32.const 2048) "\00\00\00\00" "\d0\07\00\00" "\06\00\00\00" "\00\00\00\00\00\00\00\00")
            (data (i32.const 2068) "\02\00\00\00" "\da\07\00\00" "\08\00\00\00" "\00\00\00\00\00\00\00\00")
            (data (i32.const 2000) "b.mesh")
            (data (i32.const 2010) "internal")"#
        )
    };
    let ok = "(local.set $result (call $new (i32.const 12)))
        (i32.store offset=4 (local.get $result) (i32.const 2048))
        (i32.store offset=8 (local.get $result) (i32.const 2))
        (local.get $result)";
    let setting = admit(&component_with(&text(ok), contract, "policy")).unwrap();
    let trapping = admit(&component_with(&text("unreachable"), contract, "policy")).unwrap();
    assert!(setting.decides_services() && setting.decides_instances());

    let work = work(&ids(2), None);
    let decided = decide(&[], work.clone());
    let services: Vec<Arc<MeshService>> = decided
        .endpoints()
        .into_iter()
        .map(|(key, endpoints): (HostKey, Vec<_>)| {
            let origin = Arc::clone(&work.id);
            let offer = Contribution { origin, endpoints: endpoints.into() };
            Arc::new(gathered(key, vec![offer], &Arc::default()))
        })
        .collect();
    let origin = |_: &_| Origin { registry: "consul", service: Some(Arc::clone(&work.service)) };
    let settings = |revisions: &[&Arc<Revision>]| {
        workers().settings(&rules(revisions), services.clone(), &origin).remove(0)
    };
    let alias = Setting::Alias("b.mesh".to_owned());
    let internal = Setting::Location("internal".to_owned());
    assert_eq!(settings(&[]).unwrap()[..], []);
    assert_eq!(settings(&[&setting]).unwrap()[..], [alias.clone(), internal.clone()]);
    assert_eq!(settings(&[&setting, &setting]).unwrap().len(), 4);
    assert_eq!(settings(&[&setting, &trapping]).unwrap_err().code, "trap");
}

#[test]
fn only_what_is_read_is_sent() {
    // Drops with the reason "tags" if there are tags, else "none".
    let text = |some: u8, reads: &str, count: u8| {
        format!(
            r#"(data (i32.const 2000) "tags" "none" "\d0\07\00\00" "\04\00\00\00")
            (data (i32.const 3000) "\00\00\00\00" "\07\00\00\00" "\07\00\00\00" "\05\00\00\00" "\{some:02x}\00\00\00" "{reads}" "\{count:02x}\00\00\00")
            (data (i32.const 3100) "\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00")
            (func (export "landfall:policy/plugin@0.1.0#describe") (result i32) (i32.const 3000))
            (func (export "landfall:policy/instances@0.1.0#decide") (param $call i32) (result i32)
              (call $all (local.get $call) (i32.const 1)
                (select (i32.const 2000) (i32.const 2004)
                  (i32.load8_u offset=16 (call $instance (local.get $call) (i32.const 0))))
                (i32.const 4)))"#
        )
    };
    let reason = |some: u8, reads: &str, count: u8| {
        let policy = admit(&crate::testing::component(&text(some, reads, count))).unwrap();
        summary(&decide(&[&policy], work(&ids(1), None)))
    };
    let nowhere = "\\00\\00\\00\\00";
    assert_eq!(reason(0, nowhere, 0), "1 policy p: tags", "no list is everything");
    assert_eq!(reason(1, nowhere, 0), "1 policy p: none", "an empty list is nothing");
    // One read, the word "tags" at 2000: its pointer and length stand at 2008.
    assert_eq!(reason(1, "\\d8\\07\\00\\00", 1), "1 policy p: tags");
}

#[test]
fn settings_come_before_everything_else() {
    let text = r#"(global $configured (mut i32) (i32.const 0))
        (func (export "landfall:policy/plugin@0.1.0#configure") (param i32 i32) (result i32)
          (if (global.get $configured) (then unreachable))
          (global.set $configured (i32.const 1))
          (call $configure (i32.const 0) (i32.const 0)))
        (func (export "landfall:policy/plugin@0.1.0#describe") (result i32)
          (if (i32.eqz (global.get $configured)) (then unreachable))
          (call $describe))"#;
    let policy = admit(&crate::testing::component(text)).unwrap();
    assert_eq!(summary(&decide(&[&policy], work(&ids(1), None))), "1 pay.dc1.mesh");
}

/// The interfaces of WASI as far as the test below uses them.
const WASI: &str = r#"
    package wasi:io@0.2.6 {
        interface error { resource error { to-debug-string: func() -> string; } }
        interface streams {
            use error.{error};
            variant stream-error { last-operation-failed(error), closed }
            resource output-stream {
                blocking-write-and-flush: func(contents: list<u8>) -> result<_, stream-error>;
            }
        }
    }
    package wasi:clocks@0.2.6 { interface monotonic-clock { now: func() -> u64; } }
    package wasi:random@0.2.6 { interface random { get-random-u64: func() -> u64; } }
    package wasi:sockets@0.2.6 { interface tcp-create-socket { create-tcp-socket: func(); } }
    package wasi:cli@0.2.6 {
        interface stderr {
            use wasi:io/streams@0.2.6.{output-stream};
            get-stderr: func() -> output-stream;
        }
        interface exit { exit: func(status: result); }
    }
"#;

#[test]
fn wasi_is_there_and_empty() {
    let imports =
        "import wasi:cli/stderr@0.2.6; import wasi:cli/exit@0.2.6; import wasi:io/streams@0.2.6;
        import wasi:clocks/monotonic-clock@0.2.6; import wasi:random/random@0.2.6;
        import wasi:sockets/tcp-create-socket@0.2.6;";
    let functions = r#"
        (import "wasi:cli/stderr@0.2.6" "get-stderr" (func $stderr (result i32)))
        (import "wasi:cli/exit@0.2.6" "exit" (func $exit (param i32)))
        (import "wasi:io/streams@0.2.6" "[method]output-stream.blocking-write-and-flush"
          (func $write (param i32 i32 i32 i32)))
        (import "wasi:io/streams@0.2.6" "[resource-drop]output-stream" (func $close (param i32)))
        (import "wasi:clocks/monotonic-clock@0.2.6" "now" (func $now (result i64)))
        (import "wasi:random/random@0.2.6" "get-random-u64" (func $random (result i64)))
        (import "wasi:sockets/tcp-create-socket@0.2.6" "create-tcp-socket" (func $socket))"#;
    let decide = |body: &str| {
        let text = format!(
            r#"(func (export "landfall:policy/instances@0.1.0#decide") (param $call i32) (result i32)
              (local $stream i32) {body} (call $decide (local.get $call)))
              (data (i32.const 2000) "Traceback:\n  line 1\n\n")"#
        );
        // Imports come first in a module.
        let contract = contract_with(imports, WASI);
        let component = crate::testing::component_after(functions, &text, &contract);
        let policy = admit(&component).unwrap();
        let steps = workers().trace(&rules(&[&policy]), &work(&ids(1), None), "i0");
        let step = steps.into_iter().next().unwrap();
        let log: Vec<String> = step.log.iter().map(ToString::to_string).collect();
        (step.verdicts.map_err(|fault| fault.message.clone()), log)
    };
    let print = "(local.set $stream (call $stderr))
        (call $write (local.get $stream) (i32.const 2000) (i32.const 21) (i32.const 4000))
        (call $close (local.get $stream))";
    let (verdicts, log) = decide(print);
    assert!(verdicts.is_ok());
    assert_eq!(log, ["warn: Traceback:", "warn:   line 1"]);
    // What was printed before a trap is what an author needs.
    assert_eq!(decide(&format!("{print} unreachable")).1.len(), 2);
    assert!(
        decide("(call $exit (i32.const 1))").0.unwrap_err().contains("called exit (with failure)")
    );
    assert!(
        decide("(call $socket)")
            .0
            .unwrap_err()
            .contains("wasi:sockets/tcp-create-socket#create-tcp-socket")
    );
    let (verdicts, _) = decide("(loop $again (drop (call $stderr)) (br $again))");
    assert!(verdicts.unwrap_err().contains("handles"));
    // Time stands still, and what is drawn does not depend on the past.
    let pure =
        decide("(drop (call $random)) (if (i64.ne (call $now) (i64.const 0)) (then unreachable))");
    assert!(pure.0.is_ok());
}

#[test]
fn engines_end() {
    let engine = engine();
    let weak = Arc::downgrade(&engine);
    let revision = Revision::admit(
        &engine,
        crate::Candidate {
            name: "p".into(),
            bytes: &hostile("harmless"),
            settings_json: "{}",
            limits: Limits::default(),
        },
    )
    .unwrap();
    let workers = workers();
    let _ = workers.decide(&rules(&[&revision]), vec![work(&ids(1), None)]);
    drop((engine, revision));
    // Workers keep a warm instance until the rules are others.
    let _ = workers.decide(&rules(&[]), vec![work(&ids(1), None)]);
    drop(workers);
    assert!(weak.upgrade().is_none());
}

/// Prints what an almost empty call costs; the budget is 250 ns, in a release build.
#[test]
#[expect(clippy::print_stdout, reason = "the figure is for who runs it with --nocapture")]
fn an_empty_call_is_cheap() {
    const CALLS: u32 = 20_000;
    let policy = admit(&hostile("harmless")).unwrap();
    let mut guest = policy.guest(None).unwrap();
    let mut best = Duration::MAX;
    for _ in 0..5 {
        let start = clock::now();
        for _ in 0..CALLS {
            guest = policy.mold.describe(guest).unwrap().0;
        }
        best = best.min(clock::now().saturating_duration_since(start));
    }
    println!("{:?} per call of describe, which answers with two short texts", best / CALLS);
    // Far above the budget: debug builds run it too, on machines that are busy.
    assert!(best / CALLS < Duration::from_micros(20));
}
