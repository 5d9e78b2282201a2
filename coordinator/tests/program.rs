//! The program itself: `serve` in a temporary directory, spoken to by its own command line.

#![expect(clippy::unwrap_used, reason = "a failure here is the test's failure")]

use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

const PROGRAM: &str = env!("CARGO_BIN_EXE_meshd-coordinator");

struct Coordinator {
    dir: PathBuf,
    child: Child,
    ready: Value,
}

impl Coordinator {
    fn start(dir: &Path, more: &[&str]) -> Self {
        let mut child = command(dir)
            .args(["serve", "--json", "--no-relay", "--listen", "127.0.0.1:0", "--state-dir"])
            .arg(dir.join("state"))
            .args(more)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready = serde_json::from_str(&line).unwrap_or_else(|e| panic!("not ready: {e}: {line:?}"));
        Self { dir: dir.to_owned(), child, ready }
    }

    fn run(&self, args: &[&str]) -> Output {
        command(&self.dir).args(args).output().unwrap()
    }

    fn ok(&self, args: &[&str]) -> String {
        let done = self.run(args);
        assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.ok(&[args, &["--json"]].concat())).unwrap()
    }

    fn stop(mut self) -> Option<i32> {
        rustix::process::kill_process(
            rustix::process::Pid::from_child(&self.child),
            rustix::process::Signal::TERM,
        )
        .unwrap();
        self.child.wait().unwrap().code()
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(dir: &Path) -> Command {
    let mut command = Command::new(PROGRAM);
    command.env("MESHD_COORDINATOR_SOCKET", dir.join("api.sock")).env_remove("JOURNAL_STREAM");
    command
}

#[test]
fn the_commands_of_the_readme_work_against_a_served_mesh() {
    let dir = tempfile::tempdir().unwrap();
    let served = Coordinator::start(dir.path(), &["--public", "vpn.example.com"]);
    assert_eq!(served.ready["domain"], "home.internal");
    assert!(!served.ready.to_string().contains("mesh_"), "no token without a terminal");
    let socket = std::fs::metadata(dir.path().join("api.sock")).unwrap();
    assert_eq!(socket.permissions().mode() & 0o007, 0);

    let said = served.ok(&["token", "create"]);
    let token = said.split_whitespace().find(|w| w.starts_with("mesh_")).unwrap();
    let token: meshd_proto::token::JoinToken = token.parse().unwrap();
    assert!(token.addresses()[0].starts_with("vpn.example.com:"), "{:?}", token.addresses());
    assert_eq!(
        served.ok(&["dns", "add", "nas.home.internal", "192.168.1.10"]),
        "nas.home.internal A 192.168.1.10\n"
    );
    assert_eq!(served.json(&["dns", "list"])[0]["values"][0], "192.168.1.10");
    assert_eq!(served.json(&["nodes", "list"]), Value::Array(Vec::new()));
    assert_eq!(served.json(&["status"])["nodes"], 0);
    let policy = dir.path().join("policy");
    std::fs::write(&policy, served.ok(&["policy", "show"])).unwrap();
    assert!(served.ok(&["policy", "check", policy.to_str().unwrap()]).contains("no errors"));
    assert!(served.ok(&["audit", "verify"]).contains("none changed"));

    let refused = served.run(&["routes", "approve", "pi", "192.168.1.0/24"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("there is no node `pi`"));
    assert_eq!(served.run(&["nodes", "frobnicate"]).status.code(), Some(2));
    assert_eq!(served.stop(), Some(0), "SIGTERM ends it in order");
    let away = command(dir.path()).args(["nodes", "list"]).output().unwrap();
    assert_eq!(away.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&away.stderr).contains("hint: start it with"));
}

#[test]
fn what_was_acknowledged_survives_sigkill_and_public_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let mut said = Vec::new();
    for round in 0..3 {
        let more: &[&str] = if round == 0 { &["--public", "vpn.example.com"] } else { &[] };
        let served = Coordinator::start(dir.path(), more);
        assert!(served.ready["addresses"][0].as_str().unwrap().starts_with("vpn.example.com:"));
        let found: Vec<String> = served
            .json(&["dns", "list"])
            .as_array()
            .unwrap()
            .iter()
            .map(|r| r["name"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(found, said, "round {round}");
        for n in 0..5 {
            let name = format!("h{round}{n}.home.internal");
            served.ok(&["dns", "add", &name, "10.0.0.1"]);
            said.push(name);
        }
        served.kill();
    }
}

#[test]
fn a_backup_taken_while_it_runs_is_private_and_restores() {
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("copy.db");
    let copy_text = copy.to_str().unwrap();
    let state = dir.path().join("state");
    let served = Coordinator::start(dir.path(), &[]);
    served.ok(&["dns", "add", "kept", "10.0.0.1"]);
    let before = served.json(&["status"]);
    served.ok(&["backup", copy_text]);
    assert_eq!(std::fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(served.run(&["backup", copy_text]).status.code(), Some(1), "it never overwrites");
    served.ok(&["dns", "add", "later", "10.0.0.2"]);

    let restore = || {
        let mut command = command(dir.path());
        command.args(["restore", copy_text, "--state-dir"]).arg(&state).output().unwrap()
    };
    let busy = restore();
    assert!(
        String::from_utf8_lossy(&busy.stderr).contains("another coordinator works on"),
        "not while it runs"
    );
    served.stop();
    let restored = restore();
    assert!(restored.status.success());
    let said = String::from_utf8(restored.stdout).unwrap();
    assert!(said.contains("revoked") && said.contains("TLS key"), "{said}");
    let served = Coordinator::start(dir.path(), &[]);
    let after = served.json(&["status"]);
    assert_eq!(served.json(&["dns", "list"]).as_array().unwrap().len(), 1);
    assert_eq!((&after["key"], &after["network"]), (&before["key"], &before["network"]));
    assert!(after["epoch"].as_u64() > before["epoch"].as_u64());
}

#[test]
fn one_port_tells_tls_from_http_and_offers_the_control_protocol() {
    let dir = tempfile::tempdir().unwrap();
    let served = Coordinator::start(dir.path(), &[]);
    let port = served.ready["tcp_ports"][0].as_u64().unwrap();
    let ask = |request: &str| {
        let mut stream = TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = [0; 4096];
        let n = stream.read(&mut answer).unwrap();
        String::from_utf8_lossy(&answer[..n]).into_owned()
    };
    assert!(ask("GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").starts_with("HTTP/1.1 200"));
    assert!(
        ask("GET /api/v1/nodes HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            .starts_with("HTTP/1.1 401")
    );
    assert!(ask("GET /control HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").starts_with("HTTP/1.1 426"));
    let upgraded =
        ask("GET /control HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: meshd-control\r\n\r\n");
    assert!(upgraded.starts_with("HTTP/1.1 101"), "{upgraded}");

    // TLS on the same port: the record type of a ServerHello is handshake, too.
    let mut config =
        rustls::ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(certificates(&dir.path().join("state/tls-cert.pem")))
            .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let name = "localhost".try_into().unwrap();
    let mut session = rustls::ClientConnection::new(config.into(), name).unwrap();
    let mut socket = TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
    let mut tls = rustls::Stream::new(&mut session, &mut socket);
    tls.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = [0; 64];
    let n = tls.read(&mut answer).unwrap();
    assert!(answer[..n].starts_with(b"HTTP/1.1 200"));
}

fn certificates(path: &Path) -> rustls::RootCertStore {
    use rustls_pki_types::pem::PemObject;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(rustls_pki_types::CertificateDer::from_pem_file(path).unwrap()).unwrap();
    roots
}

#[test]
fn completions_and_manual_pages_are_made() {
    let dir = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let done = command(dir.path()).args(["completions", shell]).output().unwrap();
        assert!(done.status.success() && done.stdout.len() > 1000, "{shell}");
    }
    let done = command(dir.path()).args(["man", "--dir"]).arg(dir.path().join("man")).output().unwrap();
    assert!(done.status.success());
    assert!(dir.path().join("man/meshd-coordinator.1").exists());
    let version = command(dir.path()).args(["version", "--json"]).output().unwrap();
    let version: Value = serde_json::from_slice(&version.stdout).unwrap();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
}
