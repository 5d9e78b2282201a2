//! What a person sees of `meshd-operator` in this release.

use std::process::Command;

#[test]
fn it_says_its_version_and_refuses_everything_else() {
    let operator = || Command::new(env!("CARGO_BIN_EXE_meshd-operator"));
    let version = operator().arg("--version").output().expect("it starts");
    assert!(version.status.success());
    assert!(String::from_utf8_lossy(&version.stdout).starts_with("meshd-operator "));
    let refused = operator().output().expect("it starts");
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("not part of this release"));
}
