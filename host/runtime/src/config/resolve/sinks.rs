//! Where resources go, from the configuration as written. No two sinks write to one place.

use std::path::{Component, Path, PathBuf};

use landfall_core::plan::Mode;
use landfall_mesh::api::Owner;
use landfall_mesh::mcp::{RangeError, TlsIdentity};

use super::Resolver;
use crate::config::{SinkConfig, SinkKind, wire};

/// Of a configuration whose sinks nobody shares. A cluster is shared, so there it must be given.
const OWNER_DEFAULT: &str = "default";
/// Comparing desired and observed costs memory for each sink.
const SINKS_MAX: usize = 16;
const ONE_KIND: &str = "a sink is of one kind: kubernetes, files or mcp";

impl Resolver<'_> {
    pub(super) fn sinks(&mut self, sinks: &[wire::Sink]) -> Vec<SinkConfig> {
        if sinks.len() > SINKS_MAX {
            self.problem("/sinks", format!("{} sinks; at most {SINKS_MAX} fit", sinks.len()));
        }
        let mut resolved: Vec<SinkConfig> = Vec::new();
        for (index, sink) in sinks.iter().enumerate() {
            let at = format!("/sinks/{index}");
            let kind = match (&sink.kubernetes, &sink.files, &sink.mcp) {
                (Some(kubernetes), None, None) => SinkKind::Kubernetes {
                    access: self.kube_access(
                        kubernetes.kubeconfig.as_deref(),
                        kubernetes.context.as_deref(),
                    ),
                    namespaces: kubernetes.namespaces.clone(),
                },
                (None, Some(files), None) => SinkKind::Files { path: self.path(&files.path) },
                (None, None, Some(mcp)) => match self.mcp(&format!("{at}/mcp"), mcp) {
                    Some(kind) => kind,
                    None => continue,
                },
                (None, None, None) => {
                    self.missing(&at, ONE_KIND);
                    continue;
                }
                _ => {
                    let second = if sink.mcp.is_some() { "mcp" } else { "files" };
                    self.problem(&format!("{at}/{second}"), format!("{ONE_KIND}; keep one"));
                    continue;
                }
            };
            // What lost something may have been another place.
            if let Some(clash) = resolved.iter().find_map(|known| clash(&known.kind, &kind))
                && self.document.is_whole(&at)
            {
                self.problem(&format!("{at}/{}", clash.key), clash.message);
            }
            let mode = match sink.mode {
                wire::Mode::Sync => Mode::Sync,
                wire::Mode::UpsertOnly => Mode::UpsertOnly,
                wire::Mode::CreateOnly => Mode::CreateOnly,
            };
            resolved.push(SinkConfig { kind, mode });
        }
        resolved
    }

    fn mcp(&mut self, at: &str, mcp: &wire::McpSink) -> Option<SinkKind> {
        self.pair(at, &mcp.cert_file, &mcp.key_file);
        let such_as = "127.0.0.1:18000 or [::]:18000";
        let listen = self.listen(&format!("{at}/listen"), &mcp.listen, such_as);
        let addresses = match mcp.virtual_addresses.as_deref().map(str::parse).transpose() {
            Ok(addresses) => addresses,
            Err(error) => {
                let error: RangeError = error;
                self.problem(
                    &format!("{at}/virtualAddresses"),
                    format!("\"virtualAddresses\": {error}"),
                );
                return None;
            }
        };
        let files = mcp.cert_file.as_ref().zip(mcp.key_file.as_ref());
        let tls = files.map(|(cert, key)| TlsIdentity {
            cert_file: self.path(cert),
            key_file: self.path(key),
        });
        Some(SinkKind::Mcp { listen: listen?, journal: self.path(&mcp.journal), addresses, tls })
    }

    /// Whose objects are whose. Two installations with one mark take each other's objects for what
    /// they themselves once wrote and want no more.
    pub(super) fn owner(&mut self, config: &wire::Config) -> Option<Owner> {
        let shared = config.sinks.iter().position(|sink| sink.kubernetes.is_some());
        if let (None, Some(index)) = (&config.owner, shared)
            && !self.document.is_lessened("")
        {
            self.problem(
                &format!("/sinks/{index}/kubernetes"),
                "a kubernetes sink needs \"owner\" at the top level, such as `owner: dc1`: it \
                 marks the objects that are this installation's, and two installations with the \
                 same mark in one cluster delete each other's",
            );
        }
        let owner = Owner::parse(config.owner.as_deref().unwrap_or(OWNER_DEFAULT));
        if let Err(error) = &owner {
            self.problem("/owner", format!("owner: {error}"));
        }
        owner.ok()
    }
}

/// How two sinks are in each other's way.
struct Clash {
    /// The key below the second one that says so.
    key: &'static str,
    message: &'static str,
}

/// Why two sinks cannot stand beside each other, if so: where both write to one place each would take
/// the other's steps for drift. No namespaces are all.
fn clash(above: &SinkKind, this: &SinkKind) -> Option<Clash> {
    let (key, message) = match (above, this) {
        (SinkKind::Files { path: above }, SinkKind::Files { path: this }) => {
            let (above, this) = (plain(above), plain(this));
            let message = if above.is_absolute() != this.is_absolute() {
                // Where the configuration's own folder is is not known here.
                return None;
            } else if above == this {
                "a sink above has this folder already; keep one of them"
            } else if this.starts_with(&above) {
                "this folder is inside that of a sink above, which would take what is written here \
                 for somebody else's; put them side by side"
            } else if above.starts_with(&this) {
                "the folder of a sink above is inside this one, which would take what is written \
                 there for somebody else's; put them side by side"
            } else {
                return None;
            };
            ("files/path", message)
        }
        (
            SinkKind::Kubernetes { access: one, namespaces: of_one },
            SinkKind::Kubernetes { access: other, namespaces: of_other },
        ) => {
            let meet = of_one.is_empty()
                || of_other.is_empty()
                || of_one.iter().any(|namespace| of_other.contains(namespace));
            if one != other || !meet {
                return None;
            }
            let message = "a sink above writes to namespaces of this cluster that this one writes \
                           to; keep one of them";
            ("kubernetes/namespaces", message)
        }
        (
            SinkKind::Mcp { listen: one, journal: of_one, .. },
            SinkKind::Mcp { listen: other, journal: of_other, .. },
        ) => {
            if one == other {
                ("mcp/listen", "a sink above listens here already; keep one of them")
            } else if plain(of_one) == plain(of_other) {
                ("mcp/journal", "a sink above has this journal already; give each its own")
            } else {
                return None;
            }
        }
        (
            SinkKind::Files { .. } | SinkKind::Kubernetes { .. } | SinkKind::Mcp { .. },
            SinkKind::Files { .. } | SinkKind::Kubernetes { .. } | SinkKind::Mcp { .. },
        ) => return None,
    };
    Some(Clash { key, message })
}

/// `path` without `..` behind a folder, as far as names tell: nothing is looked up.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match (part, plain.components().next_back()) {
            (Component::ParentDir, Some(Component::Normal(_))) => {
                plain.pop();
            }
            _ => plain.push(part),
        }
    }
    plain
}
