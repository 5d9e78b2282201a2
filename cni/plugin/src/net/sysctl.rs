//! Settings below `/proc/sys/net`. The kernel shows those of the thread's own network namespace.

use crate::failure::{Code, Failure};
use std::fs;
use std::io::ErrorKind;

const ROOT: &str = "/proc/sys/net";

/// Reads a setting; `None` when this kernel has no such setting.
pub(super) fn read(key: &str) -> Result<Option<String>, Failure> {
    match fs::read_to_string(format!("{ROOT}/{key}")) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Failure::io(format!("cannot read {ROOT}/{key}"), &e)),
    }
}

/// Sets `key` to `value`, unless it is so already.
pub(super) fn ensure(key: &str, value: &str) -> Result<(), Failure> {
    match read(key)? {
        Some(is) if is == value => Ok(()),
        Some(_) => fs::write(format!("{ROOT}/{key}"), value)
            .map_err(|e| Failure::io(format!("cannot set {ROOT}/{key} to {value}"), &e)),
        None => Err(missing(key)),
    }
}

fn missing(key: &str) -> Failure {
    let what_to_do = if key.starts_with("ipv6") {
        "this kernel runs without IPv6: enable it, or leave IPv6 out of \"ranges\""
    } else {
        "is /proc mounted, and is the interface still there?"
    };
    Failure::new(
        Code::Kernel,
        "a network setting is missing",
        format!("{ROOT}/{key} is not there; {what_to_do}"),
    )
}

/// The host forwards IPv4.
pub(super) fn forward_v4() -> Result<(), Failure> {
    ensure("ipv4/ip_forward", "1")
}

/// The host forwards IPv6. A host that forwards no longer listens to routers (`accept_ra` 1): where it did,
/// it goes on to do so (2), or it would lose its own default route.
pub(super) fn forward_v6() -> Result<(), Failure> {
    const ALL: &str = "ipv6/conf/all/forwarding";
    if read(ALL)?.as_deref() == Some("1") {
        return Ok(());
    }
    let folder = format!("{ROOT}/ipv6/conf");
    let entries = fs::read_dir(&folder).map_err(|_| missing(ALL))?;
    for entry in entries.flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let key = format!("ipv6/conf/{name}/accept_ra");
        if name != "all" && read(&key)?.as_deref() == Some("1") {
            ensure(&key, "2")?;
        }
    }
    ensure(ALL, "1")
}

/// Whether the host forwards this family.
pub(super) fn forwards(v4: bool) -> Result<bool, Failure> {
    let key = if v4 { "ipv4/ip_forward" } else { "ipv6/conf/all/forwarding" };
    Ok(read(key)?.as_deref() == Some("1"))
}
