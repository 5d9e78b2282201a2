//! `meshd-cni` as a container runtime starts it, without a network: what needs one is in `tests/k8s`.

use std::io::Write;
use std::process::{Command, Stdio};

fn cni(environment: &[(&str, &str)], input: &str) -> (Option<i32>, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_meshd-cni"))
        .env_clear()
        .envs(environment.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut stdin = child.stdin.take().expect("piped");
    // A call that is refused by its environment does not read its input.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The error's code; all fields of the specification are there and the exit status is not 0.
fn code(environment: &[(&str, &str)], input: &str) -> u64 {
    let (status, output) = cni(environment, input);
    assert_eq!(status, Some(1), "{output}");
    let error: serde_json::Value = serde_json::from_str(&output).expect("one JSON object");
    for field in ["cniVersion", "msg", "details"] {
        assert!(error[field].as_str().is_some_and(|t| !t.is_empty()), "{field}: {output}");
    }
    error["code"].as_u64().expect("a number")
}

#[test]
fn version_repeats_the_asked_version_and_lists_the_spoken_ones() {
    for asked in ["1.1.0", "0.1.0", "9.9.9"] {
        let input = format!(r#"{{"cniVersion":"{asked}"}}"#);
        let (status, output) = cni(&[("CNI_COMMAND", "VERSION")], &input);
        assert_eq!(status, Some(0));
        let version: serde_json::Value = serde_json::from_str(&output).expect("JSON");
        assert_eq!(version["cniVersion"], asked);
        assert_eq!(version["supportedVersions"], serde_json::json!(["0.4.0", "1.0.0", "1.1.0"]));
    }
}

#[test]
fn errors_have_the_codes_of_the_specification() {
    let add = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_NETNS", "/nowhere/netns"),
    ];
    let good = r#"{"cniVersion":"1.1.0","name":"pods","type":"meshd-cni","ranges":["10.1.0.0/24"]}"#;
    assert_eq!(code(&add, r#"{"cniVersion":"0.2.0"}"#), 1);
    assert_eq!(code(&add, r#"{"cniVersion":"1.1.0","name":"pods","ipam":{}}"#), 2);
    assert_eq!(code(&add, good), 3, "no such network namespace");
    assert_eq!(code(&[], good), 4);
    assert_eq!(code(&add[..3], good), 4);
    assert_eq!(code(&add, "{"), 6);
    assert_eq!(code(&add, r#"{"cniVersion":"1.1.0","name":"pods"}"#), 7);
}

#[test]
fn status_says_that_add_can_be_served_or_why_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let status = |ranges: &str| {
        let data = folder.path().display();
        format!(
            r#"{{"cniVersion":"1.1.0","name":"pods","type":"meshd-cni","ranges":{ranges},"dataDir":"{data}"}}"#
        )
    };
    let command = [("CNI_COMMAND", "STATUS")];
    assert_eq!(cni(&command, &status(r#"["10.1.0.0/24"]"#)), (Some(0), String::new()));
    assert_eq!(code(&command, &status("[]")), 50);
    std::fs::write(folder.path().join("pods/ledger.json"), "{").expect("written");
    assert_eq!(code(&command, &status(r#"["10.1.0.0/24"]"#)), 50, "the books are damaged");
}
