//! moto, which stands in for AWS Cloud Map.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::http::Http;
use super::process::{Server, free_port, program, started};

/// Any key will do.
const AUTHORIZATION: &str = "AWS4-HMAC-SHA256 Credential=key/20260101/eu-central-1/\
                             servicediscovery/aws4_request, SignedHeaders=host, Signature=none";

/// A Cloud Map of one namespace.
#[derive(Debug)]
pub struct Moto {
    /// Where it listens.
    pub port: u16,
    http: Http,
    server: Server,
    folder: PathBuf,
    /// Identifiers by name.
    services: BTreeMap<String, String>,
}

impl Moto {
    /// Starts one, empty.
    ///
    /// # Panics
    /// It does not start.
    #[must_use]
    pub fn start(folder: &Path) -> Self {
        let (port, server) = started("moto", || {
            let port = free_port();
            Ok((port, serve(folder, port)?))
        });
        let (http, services) = (Http::plain(port), BTreeMap::new());
        Self { port, http, server, folder: folder.to_owned(), services }
    }

    /// Registers an instance of a service, which is made where there is none.
    ///
    /// # Panics
    /// moto does not take it.
    pub fn register(&mut self, service: &str, id: &str, attributes: &Value) {
        let service = self.service(service);
        self.call(
            "RegisterInstance",
            &json!({"ServiceId": service, "InstanceId": id, "Attributes": attributes}),
        );
    }

    /// Says how an instance is.
    ///
    /// # Panics
    /// moto does not take it.
    pub fn set_health(&mut self, service: &str, id: &str, health: &str) {
        let service = self.service(service);
        self.call(
            "UpdateInstanceCustomHealthStatus",
            &json!({"ServiceId": service, "InstanceId": id, "Status": health}),
        );
    }

    /// Takes an instance out.
    ///
    /// # Panics
    /// moto does not know it.
    pub fn deregister(&mut self, service: &str, id: &str) {
        let service = self.service(service);
        self.call("DeregisterInstance", &json!({"ServiceId": service, "InstanceId": id}));
    }

    /// Removes a service without instances.
    ///
    /// # Panics
    /// moto does not let go of it.
    pub fn delete(&mut self, service: &str) {
        if let Some(id) = self.services.remove(service) {
            self.call("DeleteService", &json!({"Id": id}));
        }
    }

    /// Forgets everything.
    ///
    /// # Panics
    /// moto does not answer.
    pub fn reset(&mut self) {
        self.services.clear();
        let reply = self.http.send("POST", "/moto-api/reset", &[], String::new());
        assert_eq!(reply.expect("moto answers").status, 200);
    }

    /// Ends it and starts it anew, which has it forget everything.
    ///
    /// # Panics
    /// It does not start.
    pub fn restart(&mut self) {
        self.services.clear();
        self.server.kill();
        self.server = serve(&self.folder, self.port).expect("moto starts again");
    }

    fn service(&mut self, name: &str) -> String {
        if let Some(id) = self.services.get(name) {
            return id.clone();
        }
        let namespaces = self.call("ListNamespaces", &json!({}));
        let namespace = match namespaces["Namespaces"][0]["Id"].as_str() {
            Some(id) => id.to_owned(),
            None => {
                self.call("CreateHttpNamespace", &json!({"Name": "prod"}));
                return self.service(name);
            }
        };
        let made = self.call(
            "CreateService",
            &json!({
                "Name": name, "NamespaceId": namespace,
                "HealthCheckCustomConfig": {"FailureThreshold": 1},
            }),
        );
        let id = made["Service"]["Id"].as_str().expect("a service has an identifier").to_owned();
        self.services.insert(name.to_owned(), id.clone());
        id
    }

    fn call(&self, operation: &str, body: &Value) -> Value {
        let target = format!("Route53AutoNaming_v20170314.{operation}");
        let headers = [
            ("content-type", "application/x-amz-json-1.1"),
            ("authorization", AUTHORIZATION),
            ("x-amz-target", &*target),
        ];
        let reply = self.http.send("POST", "/", &headers, body.to_string()).expect("moto answers");
        assert_eq!(reply.status, 200, "{operation} {body}: {}", reply.body);
        serde_json::from_str(&reply.body).unwrap_or_default()
    }
}

fn serve(folder: &Path, port: u16) -> Result<Server, String> {
    let mut command = Command::new(program("LANDFALL_MOTO"));
    command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
    let http = Http::plain(port);
    Server::start("moto", command, folder).ready(|| http.is_ok("/moto-api/data.json"))
}
