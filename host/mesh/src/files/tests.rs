//! The folder becomes what is desired, and what is not ours stays as it is.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};

use landfall_core::mesh::Object;
use landfall_core::plan::{Desired, PlanOptions, plan};

use super::*;
use crate::render::RenderOptions;
use crate::testing;
use crate::validate::validate;

const NOW: Time = Time::from_millis(1_795_367_523_120);

fn sink(path: &Path) -> FilesSink {
    FilesSink::new(path.to_owned(), Owner::parse("home").unwrap(), ApiVersion::V1)
}

fn desired(seed: u64, count: usize) -> Desired<Body> {
    testing::services(seed, count)
        .iter()
        .flat_map(|service| crate::render::render(service, &RenderOptions::default()).objects)
        .map(|object| (object.id.clone(), Arc::new(object)))
        .collect()
}

/// Plans and applies; every step must be done. Returns how many there were.
fn sync(sink: &mut FilesSink, desired: &Desired<Body>) -> usize {
    let steps = steps(sink, desired);
    for applied in sink.apply(&steps, NOW) {
        assert!(applied.outcome.is_done(), "{}: {:?}", applied.id, applied.outcome);
    }
    steps.len()
}

fn steps(sink: &mut FilesSink, desired: &Desired<Body>) -> Vec<Step> {
    let (observed, _) = sink.observe().unwrap();
    let scope: BTreeSet<ObjectId> = observed.ours.keys().chain(desired.keys()).cloned().collect();
    let options = PlanOptions {
        mode: landfall_core::plan::Mode::Sync,
        grace: std::time::Duration::ZERO,
        entries: &landfall_core::plan::Entries::new(),
        now: NOW,
    };
    plan(&observed, desired, &scope, options).steps
}

fn texts(path: &Path) -> Vec<(PathBuf, String)> {
    let files = disk::below(path).unwrap().yaml;
    files.into_iter().map(|f| (f.clone(), fs::read_to_string(f).unwrap())).collect()
}

#[test]
fn files_become_what_is_desired_and_stay_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    let (first, second) = (desired(1, 80), desired(2, 80));
    assert!(sync(&mut sink(&path), &first) > 50);
    let before = texts(&path);
    assert_eq!(sync(&mut sink(&path), &first), 0);
    sync(&mut sink(&path), &second);
    assert_eq!(sync(&mut sink(&path), &second), 0);
    sync(&mut sink(&path), &first);
    assert_eq!(texts(&path), before);
    sync(&mut sink(&path), &Desired::new());
    assert!(texts(&path).is_empty());
}

#[test]
fn creation_times_stay() {
    let folder = tempfile::tempdir().unwrap();
    let want = desired(1, 1);
    sync(&mut sink(folder.path()), &want);
    let change =
        |object: &Arc<MeshObject>| Arc::new(Object { removal: Some(NOW), ..(**object).clone() });
    let changed: Desired<Body> = want.iter().map(|(id, o)| (id.clone(), change(o))).collect();
    let mut sink = sink(folder.path());
    let steps = steps(&mut sink, &changed);
    sink.apply(&steps, NOW.plus(std::time::Duration::from_secs(60)));
    let (_, text) = &texts(folder.path())[0];
    assert!(text.contains("creationTimestamp: \"2026-11-22T17:12:03Z\""), "{text}");
    assert!(text.contains("landfall.dev/removed-at: \"2026-11-22T17:12:03.120Z\""), "{text}");
}

#[test]
fn files_of_others_are_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let want = desired(1, 20);
    let id = want.keys().next_back().unwrap().clone();
    let mut sink = sink(folder.path());
    let path = sink.path_of(&id);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    for theirs in ["not: ours", "{", "a: b\n---\nc: d", "\u{0}\u{1}"] {
        fs::write(&path, theirs).unwrap();
        let (observed, _) = sink.observe().unwrap();
        assert!(observed.foreign.contains(&id), "{theirs}");
        // Even when it came only after the plan.
        let applied = sink.apply(&[Step::Create(Arc::clone(&want[&id]))], NOW);
        assert_eq!(applied[0].outcome.code(), "conflict");
        let applied = sink.apply(&[Step::Delete(Arc::clone(&want[&id]))], NOW);
        assert_eq!(applied[0].outcome.code(), "conflict");
        assert_eq!(fs::read_to_string(&path).unwrap(), theirs);
    }
}

#[test]
fn what_somebody_puts_there_while_it_is_written_stays() {
    let folder = tempfile::tempdir().unwrap();
    let want = desired(1, 40);
    let mut sink = sink(folder.path());
    let steps = steps(&mut sink, &want);
    let places: Vec<PathBuf> = steps.iter().map(|step| sink.path_of(step.id())).collect();
    let is_done = AtomicBool::new(false);
    // As soon as the sink has found nothing there and begins.
    let put = |path: &PathBuf| {
        let begun = PathBuf::from(format!("{}.{}", path.display(), durable::TEMPORARY));
        while !begun.exists() && !path.exists() && !is_done.load(Ordering::Relaxed) {
            std::hint::spin_loop();
        }
        let file = fs::OpenOptions::new().write(true).create_new(true).open(path);
        file.is_ok_and(|mut file| file.write_all(b"precious").is_ok())
    };
    let (put, applied) = std::thread::scope(|scope| {
        let somebody = scope.spawn(|| places.iter().map(put).collect::<Vec<bool>>());
        let applied = sink.apply(&steps, NOW);
        is_done.store(true, Ordering::Relaxed);
        (somebody.join().unwrap(), applied)
    });
    assert!(put.contains(&true), "nobody was quick enough");
    for ((path, put), applied) in places.iter().zip(put).zip(applied) {
        let text = fs::read_to_string(path).unwrap();
        assert_eq!(text == "precious", put, "{}", path.display());
        assert_eq!(applied.outcome.code(), if put { "conflict" } else { "done" });
    }
    assert_eq!(disk::below(folder.path()).unwrap().temporary, Vec::<PathBuf>::new());
}

#[test]
fn objects_of_others_elsewhere_are_foreign() {
    let folder = tempfile::tempdir().unwrap();
    let want = desired(1, 5);
    let (id, object) = want.iter().next().unwrap();
    let mut sink = sink(folder.path());
    let other = Owner::parse("other").unwrap();
    let text = api::to_yaml(object, &other, ApiVersion::V1).unwrap();
    fs::create_dir_all(folder.path().join("deep/er")).unwrap();
    fs::write(folder.path().join("deep/er/x.yml"), text).unwrap();
    assert!(sink.observe().unwrap().0.foreign.contains(id));
    let own = Owner::parse("home").unwrap();
    let text = api::to_yaml(object, &own, ApiVersion::V1).unwrap();
    fs::write(folder.path().join("deep/er/x.yml"), text).unwrap();
    let (observed, findings) = sink.observe().unwrap();
    assert!(observed.foreign.contains(id));
    assert_eq!(findings.len(), 1);
}

#[test]
fn a_broken_or_edited_file_of_ours_is_written_anew() {
    let folder = tempfile::tempdir().unwrap();
    let want = desired(1, 5);
    let mut sink = sink(folder.path());
    sync(&mut sink, &want);
    let before = texts(folder.path());
    let path = &before[0].0;
    for edit in [
        String::new(),
        "\0".repeat(before[0].1.len()),
        sink.header() + "{",
        sink.header() + &before[0].1 + "---\n" + &before[0].1,
        before[0].1.replace("MESH_INTERNAL", "MESH_EXTERNAL").replace("address: ", "address: 1"),
    ] {
        fs::write(path, edit).unwrap();
        sync(&mut sink, &want);
        let mended = texts(folder.path());
        let body = |text: &str| {
            text.lines().filter(|l| !l.contains("creation")).collect::<Vec<_>>().join("\n")
        };
        assert_eq!(body(&mended[0].1), body(&before[0].1));
    }
}

#[test]
fn a_broken_file_of_ours_that_nobody_wants_goes() {
    for broken in ["", "\0\0", "{"] {
        let folder = tempfile::tempdir().unwrap();
        let one = desired(1, 1).into_iter().take(1).collect();
        sync(&mut sink(folder.path()), &one);
        let (path, _) = texts(folder.path()).remove(0);
        let blank = is_blank(broken);
        let text = if blank { broken.to_owned() } else { sink(folder.path()).header() + broken };
        fs::write(&path, text).unwrap();
        // Also by a process that did not write it.
        let mut sink = sink(folder.path());
        let (observed, findings) = sink.observe().unwrap();
        assert_eq!((observed.ours.len(), findings.len()), (1, 0), "{broken:?}");
        // It does not say what feeds it.
        assert!(observed.ours.values().all(|object| object.sources.is_empty()));
        sync(&mut sink, &Desired::new());
        assert!(!path.exists(), "{broken:?}");
    }
}

#[test]
fn what_is_known_of_a_broken_file_still_holds() {
    let folder = tempfile::tempdir().unwrap();
    let mut sink = sink(folder.path());
    let want = desired(1, 1);
    sync(&mut sink, &want);
    let (path, text) = texts(folder.path()).remove(0);
    fs::write(&path, sink.header() + "{").unwrap();
    let (observed, _) = sink.observe().unwrap();
    let (known, want) = (observed.ours.values().next().unwrap(), want.values().next().unwrap());
    assert_ne!(known, want);
    assert_eq!((&known.sources, &known.body.spec), (&want.sources, &want.body.spec));
    // Emptied, it is a whole file again, with the time that it had and no mark of ours.
    let to = Arc::new(Object { removal: Some(NOW), ..MeshObject::clone(known) });
    let step = Step::Empty { from: Arc::clone(known), to };
    assert!(sink.apply(&[step], NOW.plus(std::time::Duration::from_secs(60)))[0].outcome.is_done());
    let written = fs::read_to_string(&path).unwrap();
    let is_new = |line: &&str| !text.contains(*line);
    let lines: Vec<&str> = written.lines().filter(is_new).map(str::trim).collect();
    assert_eq!(lines, ["landfall.dev/removed-at: \"2026-11-22T17:12:03.120Z\""]);
}

#[test]
fn what_istiod_reads_besides_the_object_is_put_right_too() {
    let folder = tempfile::tempdir().unwrap();
    let want = desired(1, 1);
    let mut known = sink(folder.path());
    sync(&mut known, &want);
    let (path, text) = texts(folder.path()).remove(0);
    let time = "creationTimestamp: \"2026-11-22T17:12:03Z\"";
    assert!(text.contains(time));
    for (edit, told_after_a_start) in [
        // Then it is as old as the file says: nobody remembers better.
        (text.replace(time, "creationTimestamp: \"2020-01-01T00:00:00Z\""), false),
        (text.replace(time, "creationTimestamp: yesterday"), true),
        (text.replace(time, ""), true),
        (text.replace("networking.istio.io/v1", "networking.istio.io/v1beta1"), true),
    ] {
        fs::write(&path, &edit).unwrap();
        let mut started = sink(folder.path());
        assert_eq!(steps(&mut started, &want).len(), usize::from(told_after_a_start), "{edit}");
        assert_eq!(sync(&mut known, &want), 1, "{edit}");
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        assert_eq!(sync(&mut known, &want), 0);
    }
}

#[test]
fn a_copy_of_our_file_is_told_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let want = desired(1, 5);
    let mut sink = sink(folder.path());
    sync(&mut sink, &want);
    let (path, text) = texts(folder.path()).remove(0);
    let id = documents(&text).remove(0).unwrap().object.id;
    // Anywhere, and under a name that one of ours might have.
    let copies = [path.with_file_name("copy.yaml"), path.with_file_name("serviceentry-copy.yaml")];
    for copy in &copies {
        fs::copy(&path, copy).unwrap();
    }
    let (observed, findings) = sink.observe().unwrap();
    assert_eq!(findings.len(), 2, "{findings:?}");
    for (finding, copy) in findings.iter().zip(&copies) {
        assert_eq!((finding.code, &finding.subject), (FindingCode::ForeignObject, &id.to_string()));
        assert!(finding.message.contains(&*copy.to_string_lossy()), "{}", finding.message);
    }
    assert!(observed.ours.contains_key(&id) && !observed.foreign.contains(&id));
    // Whatever is to be where the copy is.
    let place = sink.id_of(&copies[1]).unwrap();
    assert!(observed.foreign.contains(&place));
    let other = Arc::new(Object { id: place, ..(*want[&id]).clone() });
    for step in [Step::Create(Arc::clone(&other)), Step::Delete(other)] {
        assert_eq!(sink.apply(&[step], NOW)[0].outcome.code(), "conflict");
    }
    // Moved away: where it is now istiod reads it, so it is not written a second time.
    fs::remove_file(&path).unwrap();
    let (observed, _) = sink.observe().unwrap();
    assert!(!observed.ours.contains_key(&id) && observed.foreign.contains(&id));
    assert!(copies.iter().all(|copy| fs::read_to_string(copy).unwrap() == text));
}

#[test]
fn what_somebody_added_to_our_file_is_not_lost() {
    let folder = tempfile::tempdir().unwrap();
    let want = desired(1, 1);
    let mut sink = sink(folder.path());
    sync(&mut sink, &want);
    let (path, text) = texts(folder.path()).remove(0);
    let edited = text + "---\napiVersion: networking.istio.io/v1\nkind: Gateway\n";
    fs::write(&path, &edited).unwrap();
    let id = want.keys().next().unwrap();
    assert!(sink.observe().unwrap().0.foreign.contains(id));
    let applied = sink.apply(&[Step::Delete(Arc::clone(&want[id]))], NOW);
    assert_eq!(applied[0].outcome.code(), "conflict");
    assert_eq!(fs::read_to_string(&path).unwrap(), edited);
}

#[test]
fn only_applying_removes_leftovers_and_only_old_ones_of_ours() {
    let folder = tempfile::tempdir().unwrap();
    let want = desired(1, 1);
    let mut sink = sink(folder.path());
    sync(&mut sink, &want);
    let (path, _) = texts(folder.path()).remove(0);
    let beside = |name: &str| path.with_file_name(name);
    let (ours, fresh, theirs) = (
        beside("serviceentry-a.yaml.landfall-tmp"),
        beside("serviceentry-b.yaml.landfall-tmp"),
        beside("notes.landfall-tmp"),
    );
    for leftover in [&ours, &fresh, &theirs] {
        fs::write(leftover, "half").unwrap();
        let file = fs::File::options().write(true).open(leftover).unwrap();
        let age = std::time::Duration::from_secs(if leftover == &fresh { 59 } else { 61 });
        let now = std::time::UNIX_EPOCH + std::time::Duration::from_millis(NOW.millis());
        file.set_modified(now - age).unwrap();
    }
    sink.observe().unwrap();
    assert!(ours.exists() && fresh.exists() && theirs.exists());
    sink.apply(&[], NOW);
    assert!(!ours.exists() && fresh.exists() && theirs.exists());
}

#[test]
fn who_takes_the_lock_removes_what_an_earlier_run_left_half_written() {
    let folder = tempfile::tempdir().unwrap();
    sync(&mut sink(folder.path()), &desired(1, 1));
    let (path, text) = texts(folder.path()).remove(0);
    let left = |name: &str, text: &str| {
        let path = path.with_file_name(name);
        fs::write(&path, text).unwrap();
        path
    };
    let whole = left("serviceentry-a.yaml.landfall-tmp", &text);
    let cut = left("workloadentry-b.yaml.landfall-tmp", &text[..20]);
    let empty = left("serviceentry-c.yaml.landfall-tmp", "");
    let others = [
        left("serviceentry-d.yaml.landfall-tmp", &text.replacen("owner home", "owner away", 1)),
        left("notes.yaml.landfall-tmp", &text),
        left("serviceentry-e.landfall-tmp", &text),
        left("serviceentry-f.yaml", &text),
    ];
    let all = [&whole, &cut, &empty].into_iter().chain(&others);
    // Who only looks removes nothing.
    sink(folder.path()).observe().unwrap();
    assert!(all.clone().all(|path| path.exists()));
    let mut holder = sink(folder.path());
    holder.hold().unwrap();
    let there: Vec<_> = all.filter(|path| path.exists()).collect();
    assert_eq!(there, others.iter().collect::<Vec<_>>());
    // What another sink of this process has begun is no leftover.
    let begun = left("serviceentry-a.yaml.landfall-tmp", &text);
    sink(folder.path()).hold().unwrap();
    holder.hold().unwrap();
    assert!(begun.exists());
}

#[test]
fn the_folder_is_made_before_anything_is_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep/er");
    sink(&path).prepare().unwrap();
    assert!(path.is_dir());
    let blocked = sink(&folder.path().join("file/sub"));
    fs::write(folder.path().join("file"), "").unwrap();
    assert_eq!(blocked.prepare().unwrap_err().code(), "files_make");
}

#[cfg(unix)]
#[test]
fn links_are_not_followed() {
    use std::os::unix::fs::symlink;
    let (folder, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let want = desired(1, 30);
    let mut sink = sink(folder.path());
    let id = want.keys().next_back().unwrap().clone();
    let target = outside.path().join("precious");
    fs::write(&target, "precious").unwrap();
    let path = sink.path_of(&id);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    symlink(&target, &path).unwrap();
    let applied = sink.apply(&[Step::Create(Arc::clone(&want[&id]))], NOW);
    assert_eq!(applied[0].outcome.code(), "conflict");
    fs::remove_file(&path).unwrap();
    fs::remove_dir(path.parent().unwrap()).unwrap();
    symlink(outside.path(), path.parent().unwrap()).unwrap();
    let applied = sink.apply(&[Step::Create(Arc::clone(&want[&id]))], NOW);
    assert_eq!(applied[0].outcome.code(), "conflict");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
    assert_eq!(fs::read_to_string(target).unwrap(), "precious");
}

#[test]
fn names_that_istiod_would_confuse_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut sink = sink(folder.path());
    let want = desired(1, 1);
    let object = want.values().next().unwrap();
    let named = |namespace: &str, name: &str| {
        let id = ObjectId { kind: object.id.kind, namespace: namespace.into(), name: name.into() };
        let object = Object { id, ..(**object).clone() };
        assert_eq!(validate(&object), Ok(()));
        Step::Create(Arc::new(object))
    };
    let applied = sink.apply(&[named("a", "bc"), named("ab", "c"), named("ab", "d")], NOW);
    let codes: Vec<_> = applied.iter().map(|a| a.outcome.code()).collect();
    assert_eq!(codes, ["done", "refused", "done"]);
}

#[test]
fn what_did_not_change_is_not_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let want = desired(1, 50);
    let mut sink = sink(folder.path());
    sync(&mut sink, &want);
    let (before, _) = sink.observe().unwrap();
    let (path, text) = texts(folder.path()).remove(0);
    fs::write(
        &path,
        text.replace("MESH_INTERNAL", "MESH_EXTERNAL").replace("address: ", "address: 9"),
    )
    .unwrap();
    let (after, _) = sink.observe().unwrap();
    assert_eq!(before.ours.diff(&after.ours).count(), 1);
    let shared = before.ours.iter().zip(&after.ours).filter(|(a, b)| Arc::ptr_eq(a.1, b.1));
    assert_eq!(shared.count(), want.len() - 1);
}

#[cfg(unix)]
#[test]
fn a_file_that_cannot_be_read_is_somebody_elses() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let want = desired(1, 5);
    let mut sink = sink(folder.path());
    let id = want.keys().next_back().unwrap();
    let path = sink.path_of(id);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, "precious").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    assert!(sink.observe().unwrap().0.foreign.contains(id));
}

#[test]
fn long_names_fit_the_file_system() {
    let id = |name: String| ObjectId {
        kind: Kind::WorkloadEntry,
        namespace: "a".into(),
        name: name.into(),
    };
    let (one, two) = (file_name(&id("a".repeat(253))), file_name(&id("a".repeat(252) + "b")));
    assert_ne!(one, two);
    assert!(one.len() < 230);
}

#[test]
fn a_folder_has_one_writer_for_each_owner() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    let mut one = sink(&path);
    one.hold().unwrap();
    assert!(!path.exists(), "nothing is made of it");
    one.prepare().unwrap();
    one.hold().unwrap();
    // Another process, as `flock` is; locks of this one are shared.
    let lock = path.join(".landfall-home.lock");
    let takes = |lock: &Path| {
        let mut flock = std::process::Command::new("flock");
        flock.arg("--nonblock").arg(lock).arg("true").status().unwrap().success()
    };
    assert!(!takes(&lock));
    sink(&path).hold().unwrap();
    assert!(!takes(&lock), "the first still has it");
    // What is locked is passed over.
    sync(&mut one, &desired(1, 5));
    assert!(texts(&path).iter().all(|(file, _)| *file != lock));
    // Whoever takes the folder away takes the lock away.
    fs::remove_dir_all(&path).unwrap();
    one.prepare().unwrap();
    assert!(takes(&lock));
    one.hold().unwrap();
    assert!(!takes(&lock));
    drop(one);
    let other = fs::File::open(&lock).unwrap();
    other.try_lock().unwrap();
    let error = sink(&path).hold().unwrap_err();
    assert_eq!(error.code(), "files_locked");
    let told = error.to_string();
    assert!(told.starts_with("another Landfall with owner home writes to "), "{told}");
    other.unlock().unwrap();
    sink(&path).hold().unwrap();
}
