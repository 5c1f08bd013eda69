//! What a source of Consul is told.

use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;

use crate::http::TlsFiles;

/// Which Consul to watch, and how. [`ConsulSettings::new`] has the defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsulSettings {
    /// Addresses of agents or servers of one cluster, tried in turn. At least one.
    pub urls: Vec<Url>,
    /// A file with the token; it is read again when it changes.
    pub token_file: Option<PathBuf>,
    /// Certificates, for addresses with `https`.
    pub tls: TlsFiles,
    /// Datacenters to watch; none for the one that the agent is in.
    pub datacenters: Vec<String>,
    /// Admin partitions to watch (Consul Enterprise); none for the agent's own.
    pub partitions: Vec<String>,
    /// Namespaces to watch (Consul Enterprise); none for the token's own, `*` for all.
    pub namespaces: Vec<String>,
    /// Which kinds of services to list.
    pub kinds: Kinds,
    /// Requests under way at once, over everything that is watched; without TLS each is a
    /// connection. At least [`CONNECTIONS_MIN`] are used. Consul refuses more than 200
    /// connections from one client unless configured otherwise (`limits.http_max_conns_per_client`).
    ///
    /// Where there are more datacenters, partitions and namespaces than a fourth of this, their
    /// long polls take turns, each for as long as `wait`: a change may then take that long times
    /// the number of turns to be seen. Reads never wait for long polls.
    pub connections_max: usize,
    /// How long a blocking query waits for a change. Consul takes up to ten minutes.
    pub wait: Duration,
    /// How long a query that does not wait may take in full.
    pub timeout: Duration,
    /// How often every service is read again although nothing said that it changed. At least
    /// [`RESYNC_MIN`] makes sense.
    pub resync: Duration,
    /// How long what a Consul lacks that lost its data is kept, and one that is empty at the start is
    /// doubted: by then what is there has registered again.
    pub settle: Duration,
    /// The largest answer that is read, after decompression.
    pub body_bytes_max: usize,
    /// Whether any server may answer, not the leader alone: less load on the leader, and answers
    /// that lag.
    pub stale: bool,
    /// With `stale`, how far an answer may lag.
    pub stale_max: Duration,
    /// Whether the token is meant to see a part of what there is. Otherwise a listing that access
    /// rules made smaller is a doubt.
    pub partial_view: bool,
}

/// Kinds of services beside the ordinary ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kinds {
    /// Sidecar proxies, which Consul registers as services of their own.
    pub proxies: bool,
    /// Gateways of every kind.
    pub gateways: bool,
}

/// The fewest [`ConsulSettings::connections_max`] that everything works with.
pub const CONNECTIONS_MIN: usize = 4;

/// The shortest [`ConsulSettings::resync`] that makes sense: reading 10,000 services takes Consul
/// 2.5 s, and the reading should be over long before it begins again.
pub const RESYNC_MIN: Duration = Duration::from_secs(10);

/// One datacenter, partition and namespace. `None` leaves it to Consul.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Scope {
    pub(super) datacenter: Option<String>,
    pub(super) partition: Option<String>,
    pub(super) namespace: Option<String>,
}

// === impl ConsulSettings ===

impl ConsulSettings {
    /// Watches the agent's own datacenter through `urls`.
    #[must_use]
    pub fn new(urls: Vec<Url>) -> Self {
        Self {
            urls,
            token_file: None,
            tls: TlsFiles::default(),
            datacenters: Vec::new(),
            partitions: Vec::new(),
            namespaces: Vec::new(),
            kinds: Kinds::default(),
            // Well below the 200 of Consul, which other clients at the same address share.
            connections_max: 64,
            // Short enough for load balancers, which mostly close what is silent for more.
            wait: Duration::from_secs(55),
            timeout: Duration::from_secs(30),
            resync: Duration::from_secs(600),
            // Agents bring what they have to a server that returns within seconds, and compare it once
            // in a minute or two anyway (anti-entropy, up to 128 of them); Nomad and Kubernetes do so
            // every 30 s.
            settle: Duration::from_secs(180),
            body_bytes_max: 64 << 20,
            stale: false,
            stale_max: Duration::from_secs(30),
            partial_view: false,
        }
    }

    /// Everything to watch, with `all` for the namespaces that `*` stands for.
    pub(super) fn scopes(
        &self,
        partition_namespaces: impl Fn(&Scope) -> Vec<String>,
    ) -> Vec<Scope> {
        let or_default = |names: &[String]| -> Vec<Option<String>> {
            match names {
                [] => vec![None],
                names => names.iter().cloned().map(Some).collect(),
            }
        };
        let mut scopes = Vec::new();
        for datacenter in or_default(&self.datacenters) {
            for partition in or_default(&self.partitions) {
                let place = Scope { datacenter: datacenter.clone(), partition, namespace: None };
                let namespaces = if self.wants_all_namespaces() {
                    partition_namespaces(&place).into_iter().map(Some).collect()
                } else {
                    or_default(&self.namespaces)
                };
                scopes.extend(
                    namespaces.into_iter().map(|namespace| Scope { namespace, ..place.clone() }),
                );
            }
        }
        scopes.sort();
        scopes.dedup();
        scopes
    }

    pub(super) fn wants_all_namespaces(&self) -> bool {
        self.namespaces.iter().any(|name| name == "*")
    }
}

// === impl Kinds ===

impl Kinds {
    /// Whether services of the kind that Consul calls `kind` are listed.
    pub(super) fn include(self, kind: &str) -> bool {
        match kind {
            "" | "typical" => true,
            "connect-proxy" => self.proxies,
            gateway => self.gateways && gateway.ends_with("-gateway"),
        }
    }
}

// === impl Scope ===

impl Scope {
    /// Whether Consul's own servers are listed here, unless access rules hide them.
    pub(super) fn lists_consul(&self) -> bool {
        let is_default = |name: &Option<String>| name.as_deref().is_none_or(|n| n == "default");
        is_default(&self.partition) && is_default(&self.namespace)
    }
}

impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts = [
            ("datacenter", &self.datacenter),
            ("partition", &self.partition),
            ("namespace", &self.namespace),
        ];
        let mut said = false;
        for (what, name) in parts {
            if let Some(name) = name {
                write!(f, "{}{what} {name}", if said { ", " } else { "" })?;
                said = true;
            }
        }
        if said { Ok(()) } else { f.write_str("the agent's own datacenter") }
    }
}
