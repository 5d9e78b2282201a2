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
    assert_eq!(String::from_utf8_lossy(&right.stdout), "right: generation 3, 0 listeners\n");
    std::fs::write(&path, r#"{"generation":3,"listener":[]}"#).unwrap();
    let wrong = gateway(&["check", path.to_str().unwrap()]);
    assert_eq!(wrong.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("listener"));
}

#[test]
fn serving_is_refused_with_status_two() {
    let refused = gateway(&["serve"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("not part of this release"));
}
