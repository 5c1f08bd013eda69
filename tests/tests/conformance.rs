//! The conformance suite, over files, over a fake Consul in both of the ways it is watched, over a
//! fake Eureka that tells of changes, that does not, and that writes other JSON, and over a fake
//! Cloud Map with large pages and with small ones.

#![allow(clippy::unwrap_used, reason = "a failure ends the test")]

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use futures_util::future::join_all;
use landfall_registry::Source;
use landfall_registry::file::{File, FileSettings};
use landfall_tests::conformance::{
    self as cases, BREAKS, Break, Facts, Registry, SERVICE_BREAKS, ServiceBreak,
};
use landfall_tests::fake_eureka::Shape;
use landfall_tests::registries::{CloudMapRegistry, ConsulRegistry, EurekaRegistry};
use serde_json::{Value, json};

// === Files ===

/// A folder with one file for each service.
struct Files {
    folder: tempfile::TempDir,
    services: std::collections::BTreeMap<String, Vec<Value>>,
    reversed: bool,
    broken: bool,
    broken_service: Option<String>,
}

impl Files {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let services = Default::default();
        let mut files =
            Self { folder, services, reversed: false, broken: false, broken_service: None };
        fs::create_dir(files.path()).unwrap();
        files.write_all();
        files
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("registry")
    }

    fn replace(&self, name: &str, text: &str) {
        let beside = self.folder.path().join("new");
        fs::write(&beside, text).unwrap();
        fs::rename(beside, self.path().join(name)).unwrap();
    }

    /// Every file becomes `text`.
    fn replace_all(&self, text: &str) {
        for name in self.services.keys().map(String::as_str).chain(["0"]) {
            self.replace(&format!("{name}.yaml"), text);
        }
    }

    fn is_broken(&self, service: &str) -> bool {
        self.broken_service.as_deref() == Some(service)
    }

    fn write_all(&mut self) {
        if self.broken {
            return;
        }
        // So that a folder without services is a listing.
        self.replace("0.yaml", "services: []\n");
        for (name, instances) in &self.services {
            if self.is_broken(name) {
                continue;
            }
            let mut instances = instances.clone();
            if self.reversed {
                // Not the files as well: for as long as some have their new names and some their
                // old ones, services would be listed twice.
                instances.reverse();
            }
            let listing = json!({"services": [{"name": name, "instances": instances}]});
            self.replace(&format!("{name}.yaml"), &listing.to_string());
        }
        for file in fs::read_dir(self.path()).unwrap() {
            let path = file.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            if !self.services.contains_key(&name) && name != "0" && !self.is_broken(&name) {
                fs::remove_file(path).unwrap();
            }
        }
    }
}

impl Registry for Files {
    fn source(&self) -> Box<dyn Source> {
        Box::new(File::new(FileSettings { path: self.path(), poll: Duration::from_millis(200) }))
    }

    fn put(&mut self, service: &str, id: &str, facts: &Facts) {
        let instance = json!({
            "id": id, "address": facts.address, "port": facts.port,
            "health": facts.health.as_str(), "meta": {"version": facts.version},
        });
        let instances = self.services.entry(service.to_owned()).or_default();
        instances.retain(|known| known["id"] != id);
        instances.push(instance);
        self.write_all();
    }

    fn remove(&mut self, service: &str, id: &str) {
        let instances = self.services.entry(service.to_owned()).or_default();
        instances.retain(|known| known["id"] != id);
        if instances.is_empty() {
            self.services.remove(service);
        }
        self.write_all();
    }

    fn put_malformed(&mut self, service: &str) -> bool {
        let instance = json!({"id": "bad", "address": "10.0.0.99", "port": 99999});
        self.services.entry(service.to_owned()).or_default().push(instance);
        self.write_all();
        true
    }

    fn reorder(&mut self) -> bool {
        self.reversed = true;
        self.write_all();
        true
    }

    fn break_down(&mut self, how: Break) -> bool {
        match how {
            Break::Cut => self.replace_all(r#"{"services": [{"name": "c", "instances": ["#),
            Break::Gone => fs::rename(self.path(), self.folder.path().join("elsewhere")).unwrap(),
            Break::Errors => self.replace_all("\u{0}\u{1}"),
            Break::Unreachable
            | Break::Refused
            | Break::Hidden
            | Break::Unsaid
            | Break::Limited
            | Break::Leaderless
            | Break::Slow
            | Break::Oversize
            | Break::Silent => return false,
        }
        self.broken = true;
        true
    }

    fn break_service(&mut self, service: &str, how: ServiceBreak) -> bool {
        if how == ServiceBreak::Errors {
            self.replace(&format!("{service}.yaml"), "services: [");
            self.broken_service = Some(service.to_owned());
        }
        self.broken_service.is_some()
    }

    fn mend(&mut self) {
        if !self.path().exists() {
            fs::rename(self.folder.path().join("elsewhere"), self.path()).unwrap();
        }
        (self.broken, self.broken_service) = (false, None);
        self.write_all();
    }

    fn restart(&mut self) -> bool {
        false
    }

    fn restart_empty(&mut self) -> bool {
        false
    }
}

// === The suite ===

/// What a registry can do, besides what all can. A case about anything else passes in vain.
struct Able {
    breaks: &'static [Break],
    service_breaks: &'static [ServiceBreak],
    restarts: bool,
}

const FILES: Able = Able {
    breaks: &[Break::Errors, Break::Cut, Break::Gone],
    service_breaks: &[ServiceBreak::Errors],
    restarts: false,
};

const CONSUL: Able = Able { breaks: &BREAKS, service_breaks: &SERVICE_BREAKS, restarts: true };

const EUREKA: Able = Able {
    breaks: &[
        Break::Unreachable,
        Break::Errors,
        Break::Refused,
        Break::Unsaid,
        Break::Limited,
        Break::Slow,
        Break::Oversize,
        Break::Cut,
        Break::Silent,
        Break::Gone,
    ],
    service_breaks: &[],
    restarts: true,
};

const CLOUD_MAP: Able = Able { service_breaks: &SERVICE_BREAKS, ..EUREKA };

/// Those of `all` for which `case` says that it could be tried. At once, for each mostly waits.
async fn tried<T: Copy, const N: usize, F: Future<Output = bool>>(
    all: [T; N],
    case: impl Fn(T) -> F,
) -> Vec<T> {
    let tried = join_all(all.map(&case)).await;
    all.into_iter().zip(tried).filter(|(_, tried)| *tried).map(|(how, _)| how).collect()
}

macro_rules! suite {
    ($($name:ident: $registry:expr, $able:expr;)*) => {$(
        mod $name {
            use super::*;

            #[tokio::test(flavor = "multi_thread")]
            async fn lists_and_sees_changes() {
                cases::lists_and_sees_changes(&mut $registry).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn an_emptied_registry_is_empty() {
                cases::an_emptied_registry_is_empty(&mut $registry).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_broken_registry_loses_nothing() {
                let tried = tried(BREAKS, |how| async move {
                    cases::a_broken_registry_loses_nothing(&mut $registry, how).await
                });
                assert_eq!(tried.await, $able.breaks);
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn nothing_is_listed_before_all_is() {
                let tried = tried(BREAKS, |how| async move {
                    cases::nothing_is_listed_before_all_is(&mut $registry, how).await
                });
                assert_eq!(tried.await, $able.breaks);
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_start_with_a_broken_service_lists_the_others() {
                let tried = tried(SERVICE_BREAKS, |how| async move {
                    cases::a_start_with_a_broken_service_lists_the_others(&mut $registry, how).await
                });
                assert_eq!(tried.await, $able.service_breaks);
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_restarted_registry_is_followed() {
                let tried = cases::a_restarted_registry_is_followed(&mut $registry).await;
                assert_eq!(tried, $able.restarts);
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn an_empty_restart_is_believed_when_it_lasts() {
                let tried = cases::an_empty_restart_is_believed_when_it_lasts(&mut $registry).await;
                assert_eq!(tried, $able.restarts);
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_restart_with_a_broken_service_is_followed() {
                let tried = tried(SERVICE_BREAKS, |how| async move {
                    cases::a_restart_with_a_broken_service_is_followed(&mut $registry, how).await
                });
                let able = if $able.restarts { $able.service_breaks } else { &[] };
                assert_eq!(tried.await, able);
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_broken_service_harms_no_other() {
                let tried = tried(SERVICE_BREAKS, |how| async move {
                    cases::a_broken_service_harms_no_other(&mut $registry, how).await
                });
                assert_eq!(tried.await, $able.service_breaks);
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_malformed_instance_harms_no_other() {
                assert!(cases::a_malformed_instance_harms_no_other(&mut $registry).await);
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn order_means_nothing() {
                assert!(cases::order_means_nothing(&mut $registry).await);
            }
        }
    )*};
}

suite! {
    files: Files::new(), FILES;
    consul_narrow: ConsulRegistry::new(64), CONSUL;
    consul_wide: ConsulRegistry::new(4), CONSUL;
    consul_wide_without_summary: ConsulRegistry::without(4, "internal/ui"), CONSUL;
    eureka: EurekaRegistry::start(), EUREKA;
    eureka_without_delta: EurekaRegistry::without_delta(), EUREKA;
    eureka_from_xml: EurekaRegistry::with_shape(Shape::Xml), EUREKA;
    cloud_map: CloudMapRegistry::new(100), CLOUD_MAP;
    cloud_map_with_small_pages: CloudMapRegistry::new(2), CLOUD_MAP;
}
