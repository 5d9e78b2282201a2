//! What a person or a script sees of `meshd-gateway`.

use std::process::{Command, Output};

fn gateway(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_meshd-gateway")).args(arguments).output().expect("it starts")
}

#[test]
fn check_says_whether_a_file_is_right() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gateway.json");
    std::fs::write(&path, r#"{"generation":3}"#).unwrap();
    let right = gateway(&["check", path.to_str().unwrap()]);
    assert!(right.status.success());
    assert_eq!(
        String::from_utf8_lossy(&right.stdout),
        "right: generation 3, 0 listeners, 0 routes, 0 backends\n"
    );
    std::fs::write(&path, r#"{"generation":3,"listener":[]}"#).unwrap();
    let wrong = gateway(&["check", path.to_str().unwrap()]);
    assert_eq!(wrong.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("listener"));
}

#[test]
fn check_answers_as_json_and_names_the_place_of_a_fault() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gateway.json");
    std::fs::write(&path, r#"{"generation":3,"listeners":[{"name":"a","port":0,"protocol":"tcp"}]}"#)
        .unwrap();
    let wrong = gateway(&["check", "--json", path.to_str().unwrap()]);
    assert_eq!(wrong.status.code(), Some(1));
    let said: serde_json::Value = serde_json::from_slice(&wrong.stdout).unwrap();
    assert_eq!(said["right"], false);
    assert!(said["error"].as_str().unwrap().contains("listeners[0].port: it is 0"), "{said}");
    let exit =
        r#"{"generation":3,"backends":[{"name":"b","endpoints":[{"address":"192.0.2.1","port":80}]}]}"#;
    std::fs::write(&path, exit).unwrap();
    assert!(gateway(&["check", path.to_str().unwrap()]).status.success());
    assert_eq!(gateway(&["check", "--exit", path.to_str().unwrap()]).status.code(), Some(1));
}

#[test]
fn completions_and_man_pages_are_made() {
    let bash = gateway(&["completions", "bash"]);
    assert!(String::from_utf8_lossy(&bash.stdout).contains("access-log"));
    let folder = tempfile::tempdir().unwrap();
    assert!(gateway(&["man", "--dir", folder.path().to_str().unwrap()]).status.success());
    let page = std::fs::read_to_string(folder.path().join("meshd-gateway-serve.1")).unwrap();
    assert!(page.contains(".TH") && page.contains("exit"));
}
