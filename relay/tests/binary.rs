//! The binary: it starts, says where it listens, and stops on SIGTERM with its counters.

use std::io::{BufRead, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

#[test]
fn the_binary_says_where_it_listens_and_stops_cleanly() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_meshd-relay"))
        .args(["--json", "--listen=127.0.0.1:0", "--alt-port=0", "--tcp-port=0"])
        .args(["--network=000102030405060708090a0b0c0d0e0f"])
        .args(["--permit-key=qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqo="])
        .arg(format!("--key-file={}", folder.path().join("relay.key").display()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let started: serde_json::Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(started["event"], "started");
    assert!(started["listen"][0].as_str().unwrap().starts_with("127.0.0.1:"));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let stopped: serde_json::Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(stopped["event"], "stopped");
    assert_eq!(stopped["drops"]["congested"], 0);
    assert!(child.wait().unwrap().success());
}

#[test]
fn the_tcp_port_speaks_the_relays_protocol_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut child = Command::new(env!("CARGO_BIN_EXE_meshd-relay"))
        .args(["--json", "--listen=127.0.0.1:0", "--alt-port=0"])
        .arg(format!("--tcp-port={port}"))
        .args(["--network=000102030405060708090a0b0c0d0e0f"])
        .args(["--permit-key=qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqo="])
        .arg(format!("--key-file={}", folder.path().join("relay.key").display()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let started: serde_json::Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(started["tcp"][0], format!("127.0.0.1:{port}"));
    let answer = |request: &str| {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut first = String::new();
        BufReader::new(stream).read_line(&mut first).unwrap();
        first
    };
    let upgrade = "GET /relay HTTP/1.1\r\nHost: r\r\nConnection: Upgrade\r\nUpgrade: meshd-relay\r\n\r\n";
    assert!(answer(upgrade).starts_with("HTTP/1.1 101 "));
    assert!(answer("GET / HTTP/1.1\r\nHost: r\r\n\r\n").starts_with("HTTP/1.1 404 "));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_missing_setting_ends_with_a_message_and_a_failure() {
    let output = Command::new(env!("CARGO_BIN_EXE_meshd-relay")).output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("--network"));
}
