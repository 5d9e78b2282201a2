//! What a person sees of `meshd-operator` without a cluster.

use std::process::{Command, Output};

fn operator(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshd-operator"));
    command.args(args).env_clear().output().expect("it starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn it_says_its_version_and_prints_what_a_cluster_needs() {
    let version = operator(&["--version"]);
    assert!(version.status.success() && text(&version.stdout).starts_with("meshd-operator "));
    for (args, kind) in
        [(&["crds"][..], "CustomResourceDefinition"), (&["rbac", "--namespace", "x"], "ClusterRole")]
    {
        let printed = operator(args);
        assert!(printed.status.success());
        let list: serde_json::Value = serde_json::from_slice(&printed.stdout).expect("JSON");
        assert_eq!(list["kind"], "List");
        assert!(
            list["items"].as_array().is_some_and(|items| items.iter().any(|i| i["kind"] == kind)),
            "{list}"
        );
    }
}

#[test]
fn without_a_credential_or_a_cluster_it_says_what_is_missing() {
    let missing = operator(&["run"]);
    assert!(!missing.status.success() && text(&missing.stderr).contains("--coordinator"));
    let pin = "ab".repeat(32);
    let run = [
        "run",
        "--cluster",
        "k",
        "--coordinator",
        "127.0.0.1:1",
        "--certificate",
        &pin,
        "--token-file",
        "/nowhere",
    ];
    let unread = operator(&run);
    assert!(text(&unread.stderr).contains("cannot read the credential in /nowhere"));
    let wrong = operator(&[
        "run",
        "--cluster",
        "k",
        "--coordinator",
        "x:1",
        "--certificate",
        "ab",
        "--token-file",
        "/x",
    ]);
    assert!(text(&wrong.stderr).contains("64 hexadecimal digits"));
}
