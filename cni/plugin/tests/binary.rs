//! `meshd-cni` as a container runtime starts it.

use std::io::Write;
use std::process::{Command, Stdio};

fn cni(command: &str) -> (Option<i32>, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_meshd-cni"))
        .env("CNI_COMMAND", command)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(br#"{"cniVersion":"1.1.0"}"#).expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn results_and_errors_are_json_on_standard_output_and_only_errors_fail() {
    let (status, version) = cni("VERSION");
    assert_eq!(status, Some(0));
    let version: serde_json::Value = serde_json::from_str(&version).expect("JSON");
    assert_eq!(version["supportedVersions"][1], "1.1.0");
    let (status, error) = cni("ADD");
    assert_eq!(status, Some(1));
    let error: serde_json::Value = serde_json::from_str(&error).expect("JSON");
    assert_eq!(error["code"], 100);
    assert_eq!(cni("DEL"), (Some(0), String::new()));
}
