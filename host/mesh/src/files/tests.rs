//! The folder becomes what is desired, and what is not ours stays as it is.

use std::collections::BTreeSet;
use std::fs;

use landfall_core::mesh::Object;
use landfall_core::plan::{Desired, PlanOptions, plan};

use super::*;
use crate::render::RenderOptions;
use crate::testing;
use crate::validate::validate;

const NOW: Time = Time::from_millis(1_795_367_523_120);

fn sink(path: &Path, layout: Layout) -> FilesSink {
    FilesSink::new(path.to_owned(), layout, Owner::parse("home").unwrap(), ApiVersion::V1)
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
        now: NOW,
    };
    plan(&observed, desired, &scope, options).steps
}

fn texts(path: &Path) -> Vec<(PathBuf, String)> {
    let files = if path.is_dir() { disk::below(path).unwrap().yaml } else { vec![path.to_owned()] };
    files.into_iter().map(|f| (f.clone(), fs::read_to_string(f).unwrap())).collect()
}

#[test]
fn files_become_what_is_desired_and_stay_so() {
    for layout in [Layout::FilePerObject, Layout::OneFile] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.yaml");
        let (first, second) = (desired(1, 80), desired(2, 80));
        assert!(sync(&mut sink(&path, layout), &first) > 50);
        let before = texts(&path);
        assert_eq!(sync(&mut sink(&path, layout), &first), 0);
        sync(&mut sink(&path, layout), &second);
        assert_eq!(sync(&mut sink(&path, layout), &second), 0);
        sync(&mut sink(&path, layout), &first);
        assert_eq!(texts(&path), before);
        sync(&mut sink(&path, layout), &Desired::new());
        assert!(texts(&path).iter().all(|(_, text)| text.lines().count() == 1));
    }
}

#[test]
fn creation_times_stay() {
    let folder = tempfile::tempdir().unwrap();
    let want = desired(1, 1);
    sync(&mut sink(folder.path(), Layout::FilePerObject), &want);
    let change =
        |object: &Arc<MeshObject>| Arc::new(Object { removal: Some(NOW), ..(**object).clone() });
    let changed: Desired<Body> = want.iter().map(|(id, o)| (id.clone(), change(o))).collect();
    let mut sink = sink(folder.path(), Layout::FilePerObject);
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
    let mut sink = sink(folder.path(), Layout::FilePerObject);
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
fn objects_of_others_elsewhere_are_foreign() {
    let folder = tempfile::tempdir().unwrap();
    let want = desired(1, 5);
    let (id, object) = want.iter().next().unwrap();
    let mut sink = sink(folder.path(), Layout::FilePerObject);
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
    let mut sink = sink(folder.path(), Layout::FilePerObject);
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
fn a_copy_of_our_file_is_told_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let want = desired(1, 5);
    let mut sink = sink(folder.path(), Layout::FilePerObject);
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
    let mut sink = sink(folder.path(), Layout::FilePerObject);
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
    let mut sink = sink(folder.path(), Layout::FilePerObject);
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
fn the_folder_is_made_before_anything_is_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep/er");
    sink(&path, Layout::FilePerObject).prepare().unwrap();
    assert!(path.is_dir());
    let file = folder.path().join("one/all.yaml");
    sink(&file, Layout::OneFile).prepare().unwrap();
    assert!(file.parent().unwrap().is_dir() && !file.exists());
    let blocked = sink(&folder.path().join("file/sub"), Layout::FilePerObject);
    fs::write(folder.path().join("file"), "").unwrap();
    assert_eq!(blocked.prepare().unwrap_err().code(), "files_make");
}

#[cfg(unix)]
#[test]
fn links_are_not_followed() {
    use std::os::unix::fs::symlink;
    let (folder, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let want = desired(1, 30);
    let mut sink = sink(folder.path(), Layout::FilePerObject);
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
    for layout in [Layout::FilePerObject, Layout::OneFile] {
        let folder = tempfile::tempdir().unwrap();
        let mut sink = sink(&folder.path().join("out.yaml"), layout);
        let want = desired(1, 1);
        let object = want.values().next().unwrap();
        let named = |namespace: &str, name: &str| {
            let id =
                ObjectId { kind: object.id.kind, namespace: namespace.into(), name: name.into() };
            let object = Object { id, ..(**object).clone() };
            assert_eq!(validate(&object), Ok(()));
            Step::Create(Arc::new(object))
        };
        let applied = sink.apply(&[named("a", "bc"), named("ab", "c"), named("ab", "d")], NOW);
        let codes: Vec<_> = applied.iter().map(|a| a.outcome.code()).collect();
        assert_eq!(codes, ["done", "refused", "done"]);
    }
}

#[test]
fn the_one_file_of_somebody_else_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("all.yaml");
    fs::write(&path, "kind: Gateway").unwrap();
    let mut sink = sink(&path, Layout::OneFile);
    assert_eq!(sink.observe().unwrap_err().code(), "files_foreign");
    let want = desired(1, 1);
    let applied = sink.apply(&[Step::Create(Arc::clone(want.values().next().unwrap()))], NOW);
    assert_eq!(applied[0].outcome.code(), "conflict");
    assert_eq!(fs::read_to_string(&path).unwrap(), "kind: Gateway");
}

#[test]
fn what_did_not_change_is_not_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let want = desired(1, 50);
    let mut sink = sink(folder.path(), Layout::FilePerObject);
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
    let mut sink = sink(folder.path(), Layout::FilePerObject);
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
