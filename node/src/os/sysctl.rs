//! Kernel settings under `/proc/sys/net`: which we need, what writing them does to others, how it is undone.
//!
//! Turning forwarding on or off makes the kernel rewrite the setting of every interface, and for IPv4
//! whether redirects are accepted. Those values are kept too, so that the undo ends where it began.
//! Invariant: a value that is no longer the one we set belongs to somebody else and is left alone.

use super::OsError;
use super::actual::Actual;
use super::desired::{Desired, IfName};
use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

const ROOT: &str = "/proc/sys";
const V4: &str = "net/ipv4/conf";
const V6: &str = "net/ipv6/conf";
const FORWARD_V4: &str = "net/ipv4/ip_forward";
const FORWARD_V6: &str = "net/ipv6/conf/all/forwarding";
/// Longest value we read.
const MAX_VALUE: usize = 256;

/// A setting by its path below `/proc/sys`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct SysctlKey(String);

/// A value to set, with all that is needed to undo it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SysctlChange {
    /// Which setting.
    pub key: SysctlKey,
    /// What to write.
    pub value: String,
    /// What was there.
    pub before: String,
    /// Settings that the kernel changes along with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub along: Vec<Along>,
}

/// A setting that the kernel changes when we write another.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Along {
    /// Which setting.
    pub key: SysctlKey,
    /// What was there.
    pub before: String,
    /// What the kernel makes of it.
    pub becomes: String,
}

impl SysctlChange {
    /// Whether it is a setting of our own interface, which goes with it: nothing to undo.
    pub(crate) fn is_of(&self, interface: &IfName) -> bool {
        self.key.is_of(interface)
    }
}

impl SysctlKey {
    fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    fn is_of(&self, interface: &IfName) -> bool {
        [V4, V6].iter().any(|family| {
            let rest = self.0.strip_prefix(family).and_then(|rest| rest.strip_prefix('/'));
            rest.and_then(|rest| rest.strip_prefix(interface.as_str()))
                .is_some_and(|rest| rest.starts_with('/'))
        })
    }

    fn is_writable(&self) -> bool {
        self.path().is_some_and(|path| rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok())
    }

    fn path(&self) -> Option<PathBuf> {
        // The journal is a file that we read back: it must not lead anywhere else.
        let inside = self.0.starts_with("net/") && !self.0.split('/').any(|part| part == "..");
        inside.then(|| Path::new(ROOT).join(&self.0))
    }
}

impl fmt::Display for SysctlKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The settings that must be changed to get from `actual` to `desired`, in order.
pub(crate) fn wanted(desired: &Desired, actual: &Actual) -> Vec<SysctlChange> {
    let now = |key: &str| actual.sysctls.get(&SysctlKey::new(key)).map(String::as_str);
    let mut changes = Vec::new();
    let mut want = |key: String, value: &str, along: Vec<Along>| {
        if let Some(before) = now(&key).filter(|before| *before != value) {
            changes.push(SysctlChange {
                before: before.into(),
                key: SysctlKey::new(key),
                value: value.into(),
                along,
            });
        }
    };
    if desired.addresses.is_empty() {
        return changes;
    }
    let name = desired.interface.as_str();
    // Our own interface: IPv6 even where it is off by default, no router solicitations into the mesh.
    want(format!("{V6}/{name}/addr_gen_mode"), "1", vec![]);
    want(format!("{V6}/{name}/disable_ipv6"), "0", vec![]);
    let filter = [now(&format!("{V4}/all/rp_filter")), now(&format!("{V4}/{name}/rp_filter"))];
    if filter.contains(&Some("1")) && !filter.contains(&Some("2")) {
        want(format!("{V4}/{name}/rp_filter"), "2", vec![]);
    }
    if desired.marks_valid_for_source {
        want(format!("{V4}/all/src_valid_mark"), "1", vec![]);
    }
    if desired.forward_v4 && now(FORWARD_V4) == Some("0") {
        want(FORWARD_V4.into(), "1", along_v4(actual));
    }
    if desired.forward_v6 && now(FORWARD_V6) == Some("0") {
        // A forwarding kernel ignores router advertisements, and forgets its default route, unless
        // accept_ra is 2 before.
        for (key, value) in &actual.sysctls {
            let Some(interface) = key.0.strip_prefix(V6).and_then(|rest| rest.strip_suffix("/accept_ra"))
            else {
                continue;
            };
            let listens = value == "1" && now(&format!("{V6}{interface}/forwarding")) == Some("0");
            let passes = ["/all", "/lo"].contains(&interface) || interface.trim_start_matches('/') == name;
            if listens && !passes {
                want(key.0.clone(), "2", vec![]);
            }
        }
        want(FORWARD_V6.into(), "1", along_v6(actual));
    }
    changes
}

/// Whether `desired` still needs a setting that was changed before.
pub(crate) fn still_needed(desired: &Desired, key: &SysctlKey) -> bool {
    let text = key.0.as_str();
    if desired.addresses.is_empty() {
        return false;
    }
    if text == FORWARD_V4 {
        desired.forward_v4
    } else if text.starts_with(V6) && (text.ends_with("/accept_ra") || text == FORWARD_V6) {
        desired.forward_v6
    } else if text.ends_with("/src_valid_mark") {
        desired.marks_valid_for_source
    } else {
        true
    }
}

fn along_v4(actual: &Actual) -> Vec<Along> {
    forwarding_along(actual, V4)
        .chain(
            actual
                .sysctls
                .iter()
                .filter(|(key, _)| key.0 == "net/ipv4/conf/all/accept_redirects")
                .map(|(key, before)| Along { key: key.clone(), before: before.clone(), becomes: "0".into() }),
        )
        .collect()
}

fn along_v6(actual: &Actual) -> Vec<Along> {
    forwarding_along(actual, V6).collect()
}

fn forwarding_along<'a>(actual: &'a Actual, family: &'a str) -> impl Iterator<Item = Along> + 'a {
    let per_interface = move |(key, before): (&SysctlKey, &String)| {
        let interface = key.0.strip_prefix(family)?.strip_suffix("/forwarding")?;
        (interface != "/all").then(|| Along { key: key.clone(), before: before.clone(), becomes: "1".into() })
    };
    actual.sysctls.iter().filter_map(per_interface)
}

/// Reads every setting that concerns us.
pub(crate) fn read_all(interface: &IfName) -> BTreeMap<SysctlKey, String> {
    let mut found = BTreeMap::new();
    let mut keep = |key: String| {
        let key = SysctlKey::new(key);
        // In a container the settings may be read-only. Those of our interface are a nicety then.
        let hopeless = key.is_of(interface) && !key.is_writable();
        if let Some(value) = read(&key).filter(|_| !hopeless) {
            found.insert(key, value);
        }
    };
    keep(FORWARD_V4.into());
    keep(format!("{V4}/all/accept_redirects"));
    keep(format!("{V4}/all/src_valid_mark"));
    for name in interfaces(V4) {
        keep(format!("{V4}/{name}/forwarding"));
        keep(format!("{V4}/{name}/rp_filter"));
    }
    for name in interfaces(V6) {
        for setting in ["forwarding", "accept_ra", "disable_ipv6", "addr_gen_mode"] {
            keep(format!("{V6}/{name}/{setting}"));
        }
    }
    found
}

fn interfaces(family: &str) -> Vec<String> {
    let entries = fs::read_dir(Path::new(ROOT).join(family)).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Whether the kernel has IPv6.
pub(crate) fn has_ipv6() -> bool {
    Path::new(ROOT).join(V6).is_dir()
}

/// Whether an interface can have IPv6 addresses: it is on there, or can be turned on.
pub(crate) fn allows_ipv6(interface: &str) -> bool {
    let off = SysctlKey::new(format!("{V6}/{interface}/disable_ipv6"));
    match read(&off).as_deref() {
        Some("0") => true,
        Some(_) => off.is_writable(),
        None => false,
    }
}

fn read(key: &SysctlKey) -> Option<String> {
    let text = fs::read_to_string(key.path()?).ok()?;
    (text.len() <= MAX_VALUE).then(|| text.trim_end().to_owned())
}

/// Writes one setting.
pub(crate) fn write(key: &SysctlKey, value: &str) -> Result<(), OsError> {
    let Some(path) = key.path() else { return Ok(()) };
    fs::write(&path, value).map_err(|source| OsError::file("write", &path, source))
}

/// Undoes a change, unless the value is no longer ours or the interface is gone.
pub(crate) fn restore(change: &SysctlChange) -> Result<(), OsError> {
    if read(&change.key).as_deref() != Some(change.value.as_str()) {
        return Ok(());
    }
    let mut targets = Vec::new();
    for Along { key, before, becomes } in &change.along {
        let Some(current) = read(key) else { continue };
        let target = if current == *becomes { before.clone() } else { current };
        targets.push((key, target));
    }
    write_if_there(&change.key, &change.before)?;
    for (key, target) in targets {
        if read(key).is_some_and(|current| current != target) {
            write_if_there(key, &target)?;
        }
    }
    Ok(())
}

fn write_if_there(key: &SysctlKey, value: &str) -> Result<(), OsError> {
    match write(key, value) {
        Err(OsError::File { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
