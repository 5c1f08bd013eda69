//! A Eureka server, Spring Cloud's.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::http::Http;
use super::process::{Server, free_port, program, started};

/// A Eureka, with caches that last as long as a test can wait.
#[derive(Debug)]
pub struct Eureka {
    /// Where it listens.
    pub port: u16,
    http: Http,
    server: Server,
    folder: PathBuf,
    more: Vec<String>,
}

impl Eureka {
    /// Starts one, with further settings.
    ///
    /// # Panics
    /// It does not start.
    #[must_use]
    pub fn start(folder: &Path, more: &[&str]) -> Self {
        let more: Vec<String> = more.iter().map(|&setting| setting.to_owned()).collect();
        let (port, server) = started("eureka", || {
            let port = free_port();
            Ok((port, serve(folder, port, &more)?))
        });
        Self { port, http: Http::plain(port), server, folder: folder.to_owned(), more }
    }

    /// Where its clients find it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/eureka", self.port)
    }

    /// Registers an instance of an application, as it is.
    ///
    /// # Panics
    /// Eureka does not take it.
    pub fn register(&self, app: &str, instance: &Value) {
        let mut instance = instance.clone();
        instance["app"] = app.to_uppercase().into();
        self.send("POST", &app.to_uppercase(), json!({"instance": instance}).to_string());
    }

    /// Takes an instance out; one that is not there is out already.
    ///
    /// # Panics
    /// Eureka does not answer.
    pub fn deregister(&self, app: &str, id: &str) {
        self.send("DELETE", &format!("{}/{id}", app.to_uppercase()), String::new());
    }

    fn send(&self, method: &str, path: &str, body: String) {
        let headers = [("content-type", "application/json")];
        let path = format!("/eureka/apps/{path}");
        let reply = self.http.send(method, &path, &headers, body).expect("Eureka answers");
        assert!(matches!(reply.status, 200 | 204 | 404), "{path}: {} {}", reply.status, reply.body);
    }

    /// Ends it and starts it anew, which has it forget everything.
    ///
    /// # Panics
    /// It does not start.
    pub fn restart(&mut self) {
        self.server.kill();
        self.server = serve(&self.folder, self.port, &self.more).expect("Eureka starts again");
    }
}

fn serve(folder: &Path, port: u16, more: &[String]) -> Result<Server, String> {
    let mut command = Command::new("java");
    command.args(["-Xmx192m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-jar"]);
    command.arg(program("LANDFALL_EUREKA"));
    command.arg(format!("--server.port={port}"));
    command.args([
        "--server.address=127.0.0.1",
        "--eureka.instance.hostname=127.0.0.1",
        "--eureka.client.register-with-eureka=false",
        "--eureka.client.fetch-registry=false",
        "--eureka.server.response-cache-update-interval-ms=500",
        "--eureka.server.use-read-only-response-cache=false",
        "--eureka.server.eviction-interval-timer-in-ms=1000",
        "--eureka.server.enable-self-preservation=false",
        "--eureka.server.wait-time-in-ms-when-sync-empty=0",
    ]);
    command.args(more);
    // An answer that is being made while something registers is kept without it, until it expires: by
    // default for three minutes.
    command.arg("--eureka.server.response-cache-auto-expiration-in-seconds=1");
    let http = Http::plain(port);
    Server::start("eureka", command, folder).ready(|| http.is_ok("/eureka/apps"))
}
