//! What is noticed of changes, by being told and by looking.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use landfall_core::registry::{SourceName, SourceState};
use landfall_core::time::Time;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::super::read::GONE_WAIT;
use super::super::*;

struct Watched {
    state: watch::Receiver<SourceState>,
    _stop: tokio_util::sync::DropGuard,
}

impl Watched {
    fn start(path: &Path, poll: Duration) -> Self {
        let (out, state) =
            Publisher::new(SourceName::parse("file").unwrap(), || Time::from_millis(1));
        let stop = CancellationToken::new();
        let source = File::new(FileSettings { path: path.to_owned(), poll });
        tokio::spawn(Box::new(source).run(out, stop.clone()));
        Self { state, _stop: stop.drop_guard() }
    }

    /// Waits until the names of all services are `names` and the code of the doubt is `doubt`.
    async fn until(&mut self, names: &[&str], doubt: Option<&str>) -> Duration {
        let began = Instant::now();
        let fits = |state: &SourceState| {
            let listed = state.snapshot.as_ref().is_some_and(|snapshot| {
                snapshot.services.keys().map(|key| &*key.name).eq(names.iter().copied())
            });
            listed && state.doubt.as_ref().map(|d| d.code) == doubt
        };
        let waited = timeout(Duration::from_secs(10), self.state.wait_for(fits)).await;
        let timed_out = waited.is_err();
        drop(waited);
        if timed_out {
            panic!("waited for {names:?} {doubt:?}, have {:?}", self.state.borrow());
        }
        began.elapsed()
    }

    /// Whether fewer services than `count` are listed at any time within `time` from now.
    fn loses(&self, count: usize, time: Duration) -> tokio::task::JoinHandle<bool> {
        let mut state = self.state.clone();
        tokio::spawn(async move {
            let is_less = |state: &SourceState| {
                state.snapshot.as_ref().is_some_and(|snapshot| snapshot.services.len() < count)
            };
            timeout(time, state.wait_for(is_less)).await.is_ok()
        })
    }
}

fn listing(names: &[&str]) -> String {
    let lines =
        names.iter().map(|name| format!("  - name: {name}\n    instances: [{{address: a}}]\n"));
    format!("services:\n{}", lines.collect::<String>())
}

// Longer than any test: what is noticed is noticed by having been told.
const NO_POLL: Duration = Duration::from_secs(600);
// A loaded machine takes its time; the budget is 100 ms.
const SOON: Duration = Duration::from_millis(1500);

#[tokio::test(flavor = "multi_thread")]
async fn edits_of_one_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("r.yaml");
    fs::write(&path, listing(&["a"])).unwrap();
    let mut watched = Watched::start(&path, NO_POLL);
    watched.until(&["a"], None).await;
    // Renamed into place.
    let beside = folder.path().join("r.yaml.new");
    fs::write(&beside, listing(&["a", "b"])).unwrap();
    fs::rename(&beside, &path).unwrap();
    assert!(watched.until(&["a", "b"], None).await < SOON);
    // Written in place.
    fs::write(&path, listing(&["b"])).unwrap();
    assert!(watched.until(&["b"], None).await < SOON);
    // Broken, then mended.
    fs::write(&path, "services:\n  - name: c\n    instnces: []\n").unwrap();
    assert!(watched.until(&["b"], Some("file_syntax")).await < SOON);
    let message = watched.state.borrow().doubt.clone().unwrap().message;
    assert!(
        message.contains("r.yaml:3:5: unknown key `instnces` (did you mean `instances`?)"),
        "{message}"
    );
    fs::write(&path, listing(&["c"])).unwrap();
    watched.until(&["c"], None).await;
    // Gone is not empty.
    fs::remove_file(&path).unwrap();
    watched.until(&["c"], Some("file_missing")).await;
    fs::write(&path, "services: []\n").unwrap();
    watched.until(&[], None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_being_written_is_not_read() {
    use std::io::Write;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("r.yaml");
    fs::write(&path, listing(&["a", "b"])).unwrap();
    let mut watched = Watched::start(&path, NO_POLL);
    watched.until(&["a", "b"], None).await;
    let whole = listing(&["a", "b", "c"]);
    let (part, rest) = whole.split_at(listing(&["a"]).len());
    watched.state.mark_unchanged();
    let mut file = fs::File::create(&path).unwrap();
    file.write_all(part.as_bytes()).unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!watched.state.has_changed().unwrap(), "{:?}", watched.state.borrow());
    file.write_all(rest.as_bytes()).unwrap();
    drop(file);
    watched.until(&["a", "b", "c"], None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("registry");
    let mut watched = Watched::start(&path, Duration::from_millis(50));
    watched
        .state
        .wait_for(|s| s.doubt.as_ref().is_some_and(|d| d.code == "file_missing"))
        .await
        .unwrap();
    fs::create_dir(&path).unwrap();
    watched
        .state
        .wait_for(|s| s.doubt.as_ref().is_some_and(|d| d.code == "file_none"))
        .await
        .unwrap();
    fs::write(path.join("1.yaml"), listing(&["a"])).unwrap();
    watched.until(&["a"], None).await;
    fs::write(path.join("2.json"), r#"{"services": [{"name": "b"}]}"#).unwrap();
    fs::write(path.join(".3.yaml"), "no listing").unwrap();
    fs::write(path.join("readme.txt"), "no listing").unwrap();
    watched.until(&["a", "b"], None).await;
    // The first file breaks, and stands as it was. The other goes on.
    fs::write(path.join("1.yaml"), "services: [").unwrap();
    watched.until(&["a", "b"], Some("file_syntax")).await;
    fs::write(path.join("2.json"), r#"{"services": [{"name": "b"}, {"name": "d"}]}"#).unwrap();
    watched.until(&["a", "b", "d"], Some("file_syntax")).await;
    fs::write(path.join("2.json"), r#"{"services": [{"name": "b"}]}"#).unwrap();
    watched.until(&["a", "b"], Some("file_syntax")).await;
    fs::write(path.join("1.yaml"), listing(&["a", "c"])).unwrap();
    watched.until(&["a", "b", "c"], None).await;
    fs::remove_file(path.join("2.json")).unwrap();
    watched.until(&["a", "c"], None).await;
    fs::remove_file(path.join("1.yaml")).unwrap();
    watched.until(&["a", "c"], Some("file_none")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_broken_at_the_start_keep_no_other_silent() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("a.yaml", "services: [");
    write("b.yaml", "servces: []");
    let mut watched = Watched::start(folder.path(), NO_POLL);
    let doubted = watched.state.wait_for(|state| state.doubt.is_some());
    assert_eq!(doubted.await.unwrap().snapshot, None, "nothing of it is known");
    write("c.yaml", &listing(&["c"]));
    watched.until(&["c"], Some("file_syntax")).await;
    let message = watched.state.borrow().doubt.clone().unwrap().message;
    assert!(message.contains("a.yaml:1:11: unclosed bracket"), "{message}");
    assert!(message.ends_with("(1 more files are in doubt)"), "{message}");
    write("a.yaml", &listing(&["a"]));
    watched.until(&["a", "c"], Some("file_syntax")).await;
    let message = watched.state.borrow().doubt.clone().unwrap().message;
    assert!(message.contains("b.yaml:1:1: unknown key `servces`"), "{message}");
    write("b.yaml", &listing(&["b"]));
    watched.until(&["a", "b", "c"], None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_goes_while_another_is_broken_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    for name in ["a", "b", "c"] {
        write(&format!("{name}.yaml"), &listing(&[name]));
    }
    let mut watched = Watched::start(folder.path(), NO_POLL);
    watched.until(&["a", "b", "c"], None).await;
    write("b.yaml", "");
    watched.until(&["a", "b", "c"], Some("file_syntax")).await;
    fs::remove_file(folder.path().join("a.yaml")).unwrap();
    watched.until(&["b", "c"], Some("file_syntax")).await;
    // And so is the broken one, which ends the doubt.
    fs::remove_file(folder.path().join("b.yaml")).unwrap();
    watched.until(&["c"], None).await;
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_leads_nowhere_harms_no_other_file() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("a.yaml"), listing(&["a"])).unwrap();
    std::os::unix::fs::symlink("elsewhere/b.yaml", at("b.yaml")).unwrap();
    let mut watched = Watched::start(folder.path(), Duration::from_millis(50));
    watched.until(&["a"], Some("file_missing")).await;
    fs::create_dir(at("elsewhere")).unwrap();
    fs::write(at("elsewhere/b.yaml"), listing(&["b"])).unwrap();
    watched.until(&["a", "b"], None).await;
}

#[tokio::test]
async fn what_was_read_and_not_published_does_not_stand_for_a_broken_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("r.yaml");
    let (out, state) = Publisher::new(SourceName::parse("file").unwrap(), || Time::from_millis(1));
    let source = File::new(FileSettings::new(&path));
    let refused = Watch::refused(&path);
    let listed = || state.borrow().snapshot.as_ref().map(|snapshot| snapshot.services.len());
    fs::write(&path, listing(&["a", "b"])).unwrap();
    let settled = source.settle(&refused, Noticed::Found, &out).await;
    let (read, _) = source.load(State::default(), settled.clone(), &refused, &out).await;
    // A part that somebody wrote and went on to break: it was not at rest.
    fs::write(&path, listing(&["a"])).unwrap();
    let (read, was_at_rest) = source.load(read, settled, &refused, &out).await;
    assert_eq!((was_at_rest, listed()), (false, Some(2)));
    fs::write(&path, "services: [").unwrap();
    let settled = source.settle(&refused, Noticed::Found, &out).await;
    let (_, was_at_rest) = source.load(read, settled, &refused, &out).await;
    assert_eq!((was_at_rest, listed()), (true, Some(2)));
    assert_eq!(state.borrow().doubt.as_ref().map(|doubt| doubt.code), Some("file_syntax"));
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_moved_away_and_written_anew_was_there_all_along() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("a.yaml"), listing(&["a"])).unwrap();
    fs::write(path("b.yaml"), listing(&["b"])).unwrap();
    let mut watched = Watched::start(folder.path(), NO_POLL);
    watched.until(&["a", "b"], None).await;
    watched.state.mark_unchanged();
    for gap in [15, 200] {
        fs::rename(path("a.yaml"), path("a.yaml~")).unwrap();
        tokio::time::sleep(Duration::from_millis(gap)).await;
        fs::write(path("a.yaml"), listing(&["a"])).unwrap();
        tokio::time::sleep(Duration::from_millis(900)).await;
        assert!(!watched.state.has_changed().unwrap(), "gap of {gap} ms");
    }
    fs::remove_file(path("a.yaml")).unwrap();
    assert!(watched.until(&["b"], None).await < SOON);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_file_that_is_replaced_after_another_was_there_all_along() {
    let folder = tempfile::tempdir().unwrap();
    let names = ["a", "b", "c", "d"];
    let path = |name: &str| folder.path().join(format!("{name}.yaml"));
    let write = |name: &str| fs::write(path(name), listing(&[name])).unwrap();
    names.iter().copied().for_each(write);
    let mut watched = Watched::start(folder.path(), NO_POLL);
    watched.until(&names, None).await;
    let lost = watched.loses(4, Duration::from_secs(3));
    // While the first is waited for, the second goes, and so on.
    for name in names {
        fs::rename(path(name), folder.path().join("old")).unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        write(name);
    }
    // All at once, and back one after another.
    names.iter().for_each(|name| fs::remove_file(path(name)).unwrap());
    tokio::time::sleep(Duration::from_millis(100)).await;
    for name in names {
        tokio::time::sleep(Duration::from_millis(150)).await;
        write(name);
    }
    assert!(!lost.await.unwrap(), "a file counted as gone");
    watched.until(&names, None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_away_again_and_again_stands_and_holds_up_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let write = |file: &str, names: &[&str]| fs::write(path(file), listing(names)).unwrap();
    write("a.yaml", &["a"]);
    write("b.yaml", &["b"]);
    let mut watched = Watched::start(folder.path(), NO_POLL);
    watched.until(&["a", "b"], None).await;
    let lost = watched.loses(2, Duration::from_secs(4));
    // Longer away than there, but never for half a second.
    for turn in 0..6 {
        fs::rename(path("a.yaml"), path("a")).unwrap();
        if turn == 3 {
            write("b.yaml", &["b", "c"]);
            assert!(watched.until(&["a", "b", "c"], None).await < GONE_WAIT);
        } else {
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        fs::rename(path("a"), path("a.yaml")).unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // Under another name nothing is listed twice, nor gone for a moment.
    write("new.yaml", &["a"]);
    fs::remove_file(path("a.yaml")).unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(watched.state.borrow().findings.len(), 0);
    // Nobody knows what was there while nothing was.
    fs::remove_file(path("new.yaml")).unwrap();
    fs::remove_file(path("b.yaml")).unwrap();
    tokio::time::sleep(Duration::from_millis(800)).await;
    write("b.yaml", &["b", "c"]);
    tokio::time::sleep(Duration::from_millis(250)).await;
    write("a.yaml", &["a"]);
    watched.until(&["a", "b", "c"], None).await;
    assert!(!lost.await.unwrap(), "it counted as gone");
    fs::remove_file(path("a.yaml")).unwrap();
    watched.until(&["b", "c"], None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kubernetes_swaps_a_link() {
    use std::os::unix::fs::symlink;
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("..1")).unwrap();
    fs::write(at("..1").join("r.yaml"), listing(&["a"])).unwrap();
    symlink("..1", at("..data")).unwrap();
    symlink("..data/r.yaml", at("r.yaml")).unwrap();
    let mut file = Watched::start(&at("r.yaml"), NO_POLL);
    let mut all = Watched::start(folder.path(), NO_POLL);
    file.until(&["a"], None).await;
    all.until(&["a"], None).await;
    for (old, new, names) in [("..1", "..2", &["b"]), ("..2", "..3", &["c"])] {
        fs::create_dir(at(new)).unwrap();
        fs::write(at(new).join("r.yaml"), listing(names)).unwrap();
        symlink(new, at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
        fs::remove_dir_all(at(old)).unwrap();
        assert!(file.until(names, None).await < SOON);
        all.until(names, None).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn polling_notices_too() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("elsewhere");
    fs::create_dir(&target).unwrap();
    let path = folder.path().join("late/r.yaml");
    let mut watched = Watched::start(&path, Duration::from_millis(50));
    watched.state.wait_for(|s| s.doubt.is_some()).await.unwrap();
    // Nothing watched the folder, for it was not there.
    fs::create_dir(folder.path().join("late")).unwrap();
    fs::write(&path, listing(&["a"])).unwrap();
    watched.until(&["a"], None).await;
    let since = watched.state.borrow().since;
    assert_eq!(since, Time::from_millis(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn polling_goes_on_where_the_operating_system_refuses_to_tell() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("r.yaml");
    fs::write(&path, listing(&["a"])).unwrap();
    let (out, state) = Publisher::new(SourceName::parse("file").unwrap(), || Time::from_millis(1));
    let stop = CancellationToken::new();
    let mut watched = Watched { state, _stop: stop.clone().drop_guard() };
    let metrics = Arc::clone(out.metrics());
    let refused = Watch::refused(&path);
    let poll = Duration::from_millis(300);
    let source = File::new(FileSettings { path: path.clone(), poll });
    tokio::spawn(async move {
        let _stopped = stop.run_until_cancelled(source.follow(refused, &out)).await;
    });
    watched.until(&["a"], None).await;
    fs::write(&path, listing(&["a", "b"])).unwrap();
    let took = watched.until(&["a", "b"], None).await;
    // Looking all the time would have seen it sooner.
    assert!(took > Duration::from_millis(200), "{took:?}");
    // Looking is not reading.
    tokio::time::sleep(3 * poll).await;
    assert_eq!(metrics.requests(), 2);
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_takes_long_is_a_doubt() {
    use std::io::Write;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("r.yaml");
    fs::write(&path, listing(&["a", "b"])).unwrap();
    let mut watched = Watched::start(&path, NO_POLL);
    watched.until(&["a", "b"], None).await;
    // Others' files beside it are written for as long as they like.
    let mut other = fs::File::create(folder.path().join("other.yaml")).unwrap();
    other.write_all(b"services: []").unwrap();
    let mut file = fs::File::create(&path).unwrap();
    file.write_all(listing(&["a"]).as_bytes()).unwrap();
    watched.until(&["a", "b"], Some("file_unsettled")).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    watched.until(&["a", "b"], Some("file_unsettled")).await;
    drop(file);
    assert!(watched.until(&["a"], None).await < SOON);
    drop(other);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_written_at_the_start_is_waited_for() {
    use std::io::Write;
    for poll in [NO_POLL, Duration::from_millis(20)] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r.yaml");
        let mut file = fs::File::create(&path).unwrap();
        let names: Vec<String> = (0..60).map(|n| format!("s{n:02}")).collect();
        let whole = listing(&names.iter().map(String::as_str).collect::<Vec<_>>());
        file.write_all(b"services:\n").unwrap();
        let mut watched = Watched::start(&path, poll);
        for line in whole.split_inclusive('\n').skip(1) {
            file.write_all(line.as_bytes()).unwrap();
            tokio::time::sleep(Duration::from_millis(8)).await;
        }
        assert_eq!(watched.state.borrow().snapshot, None);
        drop(file);
        watched.until(&names.iter().map(String::as_str).collect::<Vec<_>>(), None).await;
    }
}

#[tokio::test(start_paused = true)]
async fn two_looks_must_agree_where_nobody_tells() {
    use std::io::Write;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("r.yaml");
    let (out, state) = Publisher::new(SourceName::parse("file").unwrap(), || Time::from_millis(1));
    let source = File::new(FileSettings::new(&path));
    let refused = Watch::refused(&path);
    for (lines, doubt) in [(20, None), (150, Some("file_unsettled"))] {
        let mut file = fs::File::create(&path).unwrap();
        let writing = async {
            for line in 0..lines {
                writeln!(file, "# {line}").unwrap();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Instant::now()
        };
        let settling = async {
            source.settle(&refused, Noticed::Found, &out).await;
            Instant::now()
        };
        let (written, settled) = tokio::join!(writing, settling);
        assert!(settled > written, "{lines}");
        assert_eq!(state.borrow().doubt.as_ref().map(|d| d.code), doubt);
    }
}

#[tokio::test]
async fn what_changed_after_it_was_at_rest_is_not_published() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("r.yaml");
    fs::write(&path, listing(&["a", "b"])).unwrap();
    let (out, state) = Publisher::new(SourceName::parse("file").unwrap(), || Time::from_millis(1));
    let source = File::new(FileSettings::new(&path));
    let refused = Watch::refused(&path);
    let settled = source.settle(&refused, Noticed::Found, &out).await;
    // Somebody begins to write, and makes a pause at the end of a line.
    fs::write(&path, listing(&["a"])).unwrap();
    let (read, was_at_rest) = source.load(State::default(), settled, &refused, &out).await;
    assert_eq!((was_at_rest, &state.borrow().snapshot), (false, &None));
    fs::write(&path, listing(&["a", "b", "c"])).unwrap();
    let settled = source.settle(&refused, Noticed::Found, &out).await;
    let (_, was_at_rest) = source.load(read, settled, &refused, &out).await;
    let listed = state.borrow().snapshot.as_ref().map(|snapshot| snapshot.services.len());
    assert_eq!((was_at_rest, listed), (true, Some(3)));
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.yaml"), listing(&["a"])).unwrap();
    let mut watched = Watched::start(folder.path(), NO_POLL);
    watched.until(&["a"], None).await;
    let pipe = folder.path().join("b.yaml");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    watched.until(&["a"], Some("file_not_regular")).await;
    fs::remove_file(&pipe).unwrap();
    watched.until(&["a"], None).await;
}
