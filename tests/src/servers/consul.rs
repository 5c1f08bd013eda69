//! Consul: one server, in memory, or on disk with access rules.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use futures_util::stream::{self, StreamExt as _};
use serde_json::{Value, json};

use super::http::{Http, block};
use super::process::{Server, free_port, program, started};

/// May do everything, where there are access rules.
pub const MANAGER: &str = "5f8e3f2c-0000-4000-8000-000000000001";
/// The configuration of one with access rules.
const CONFIG: &str = "consul.hcl";
const CONFIG_MORE: &str = "consul-more.hcl";
/// The name of the rules that the token for reading has.
const READER_RULES: &str = "landfall";
/// The rules that examples/consul asks for.
const READ_ALL: &str =
    "node_prefix \"\" { policy = \"read\" } service_prefix \"\" { policy = \"read\" }";

/// A Consul server.
#[derive(Debug)]
pub struct Consul {
    /// Its port.
    pub port: u16,
    /// Its API, with every right.
    pub http: Http,
    server: Server,
    folder: PathBuf,
    ports: Ports,
}

/// The token for reading of [`Consul::guarded`].
pub const READER: &str = "5f8e3f2c-0000-4000-8000-000000000002";

impl Consul {
    /// One without access rules, which keeps everything in memory.
    ///
    /// # Panics
    /// It does not start.
    #[must_use]
    pub fn start(folder: &Path) -> Self {
        started("consul", || {
            let ports = Ports::free();
            let mut command = Command::new(program("LANDFALL_CONSUL"));
            command.args(["agent", "-dev", "-log-level", "warn"]);
            command.args(["-bind", "127.0.0.1", "-client", "127.0.0.1"]);
            command.args(["-dns-port", "-1", "-grpc-port", "-1", "-grpc-tls-port", "-1"]);
            for (option, port) in [
                ("-http-port", ports.http),
                ("-server-port", ports.server),
                ("-serf-lan-port", ports.lan),
                ("-serf-wan-port", ports.wan),
            ] {
                command.args([option, &port.to_string()]);
            }
            command.args(["-node", "n1"]);
            Self::ready(command, folder, ports, Http::plain(ports.http))
        })
    }

    /// One where nobody may do anything without a token. [`READER`] may read.
    ///
    /// # Panics
    /// It does not start.
    #[must_use]
    pub fn guarded(folder: &Path) -> Self {
        Self::guarded_with(folder, "")
    }

    /// As [`Self::guarded`], with `more` in its configuration.
    ///
    /// # Panics
    /// It does not start.
    #[must_use]
    pub fn guarded_with(folder: &Path, more: &str) -> Self {
        let consul = started("consul", || {
            let ports = Ports::free();
            // Two files, for Consul joins what both say of one thing, such as its ports.
            let own = ports.guarded_config();
            for (name, config) in [(CONFIG, own.as_str()), (CONFIG_MORE, more)] {
                fs::write(folder.join(name), config).expect("Consul's configuration");
            }
            Self::serve_guarded(folder, ports)
        });
        consul.make_reader();
        consul
    }

    /// Kills one with access rules and starts it anew, with nothing but those.
    ///
    /// # Panics
    /// It does not start.
    pub fn lose_everything(&mut self) {
        self.server.kill();
        fs::remove_dir_all(data_folder(&self.folder, self.port)).expect("its folder");
        *self = Self::serve_guarded(&self.folder, self.ports).expect("it starts again");
        self.make_reader();
    }

    fn serve_guarded(folder: &Path, ports: Ports) -> Result<Self, String> {
        let mut command = Command::new(program("LANDFALL_CONSUL"));
        command.arg("agent");
        for name in [CONFIG, CONFIG_MORE] {
            command.arg("-config-file").arg(folder.join(name));
        }
        command.arg("-data-dir").arg(data_folder(folder, ports.http));
        let http = Http::plain(ports.http).with("x-consul-token", MANAGER);
        Self::ready(command, folder, ports, http)
    }

    /// Makes the token [`READER`], which may read everything.
    ///
    /// # Panics
    /// It is refused.
    pub fn make_reader(&self) {
        self.grant();
        let token = json!({"SecretID": READER, "Policies": [{"Name": READER_RULES}]});
        self.put("/v1/acl/token", &token);
    }

    fn ready(command: Command, folder: &Path, ports: Ports, http: Http) -> Result<Self, String> {
        let answers = |path: &str, nothing: &str| {
            http.get(path).is_ok_and(|r| r.status == 200 && r.body.trim() != nothing)
        };
        // It has a leader, and has put itself into the catalog.
        let server = Server::start("consul", command, folder).ready(|| {
            answers("/v1/status/leader", "\"\"")
                && answers("/v1/health/service/consul?passing", "[]")
        })?;
        Ok(Self { port: ports.http, http, server, folder: folder.to_owned(), ports })
    }

    /// Registers an instance with the agent.
    ///
    /// # Panics
    /// It is refused.
    pub fn register(&self, id: &str, service: &str, address: &str, port: u16, meta: &Value) {
        self.put(
            "/v1/agent/service/register",
            &json!({"ID": id, "Name": service, "Address": address, "Port": port, "Meta": meta}),
        );
    }

    /// Takes an instance away from the agent.
    ///
    /// # Panics
    /// It is refused.
    pub fn deregister(&self, id: &str) {
        self.put(&format!("/v1/agent/service/deregister/{id}"), &Value::Null);
    }

    /// Registers instances on nodes of which no agent knows, so that none takes them away.
    ///
    /// # Panics
    /// One is refused.
    pub fn register_remote(&self, instances: &[Value]) {
        const CONCURRENCY: usize = 8;
        let register = |instance: &Value| {
            let (http, body) = (self.http.clone(), instance.to_string().into_bytes());
            async move { http.ask("PUT", "/v1/catalog/register", &[], body).await }
        };
        let replies: Vec<_> =
            block(stream::iter(instances.iter().map(register)).buffered(CONCURRENCY).collect());
        for reply in replies {
            let reply = reply.expect("an answer");
            assert_eq!(reply.status, 200, "{}", reply.body);
        }
    }

    /// Takes an instance away that [`Self::register_remote`] may have brought.
    ///
    /// # Panics
    /// It is refused.
    pub fn deregister_remote(&self, node: &str, id: &str) {
        self.put("/v1/catalog/deregister", &json!({"Node": node, "ServiceID": id}));
    }

    /// Takes a node away, with all that is on it.
    ///
    /// # Panics
    /// It is refused.
    pub fn deregister_node(&self, node: &str) {
        self.put("/v1/catalog/deregister", &json!({"Node": node}));
    }

    /// Lets [`READER`] read everything.
    ///
    /// # Panics
    /// It is refused.
    pub fn grant(&self) {
        self.set_reader_rules(READ_ALL);
    }

    /// Lets [`READER`] read nothing.
    ///
    /// # Panics
    /// It is refused.
    pub fn revoke(&self) {
        self.set_reader_rules("");
    }

    fn set_reader_rules(&self, rules: &str) {
        let known = self.http.get(&format!("/v1/acl/policy/name/{READER_RULES}"));
        let known = known.ok().filter(|reply| reply.status == 200).map(|reply| reply.json());
        let path = match &known {
            Some(known) => format!("/v1/acl/policy/{}", known["ID"].as_str().unwrap_or_default()),
            None => "/v1/acl/policy".to_owned(),
        };
        self.put(&path, &json!({"Name": READER_RULES, "Rules": rules}));
    }

    /// Sends `body`.
    ///
    /// # Panics
    /// It is refused.
    pub fn put(&self, path: &str, body: &Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let reply = self.http.send("PUT", path, &[], body).expect("an answer");
        assert_eq!(reply.status, 200, "{path}: {}", reply.body);
    }

    /// Ends it at once, as a crash would.
    pub fn kill(&mut self) {
        self.server.kill();
    }
}

/// An instance for [`Consul::register_remote`].
#[must_use]
pub fn remote_instance(node: &str, id: &str, service: &str, address: &str, port: u16) -> Value {
    json!({
        "Node": node,
        "Address": "127.0.0.1",
        "SkipNodeUpdate": false,
        "Service": {"ID": id, "Service": service, "Address": address, "Port": port},
    })
}

/// Consul needs them for TCP and, for Serf, for UDP too.
#[derive(Clone, Copy, Debug)]
struct Ports {
    http: u16,
    server: u16,
    lan: u16,
    wan: u16,
}

impl Ports {
    fn free() -> Self {
        Self { http: free_port(), server: free_port(), lan: free_port(), wan: free_port() }
    }

    fn guarded_config(&self) -> String {
        let Self { http, server, lan, wan } = self;
        format!(
            r#"
server = true
bootstrap_expect = 1
node_name = "n1"
bind_addr = "127.0.0.1"
client_addr = "127.0.0.1"
disable_update_check = true
log_level = "warn"
ports {{
  http = {http}
  dns = -1
  grpc = -1
  grpc_tls = -1
  server = {server}
  serf_lan = {lan}
  serf_wan = {wan}
}}
# One server need not wait long for the votes of others.
performance {{ raft_multiplier = 1 }}
acl {{
  enabled = true
  default_policy = "deny"
  tokens {{ initial_management = "{MANAGER}" }}
}}
"#
        )
    }
}

fn data_folder(folder: &Path, port: u16) -> PathBuf {
    folder.join(format!("consul-{port}"))
}
