//! What a runtime asks: the environment of one call, parsed once.
//!
//! Nothing here touches the system. Invariant: a [`ContainerId`] and an [`InterfaceName`] are safe in a
//! file, in a message and as an interface name; there is no other way to make one.

use crate::failure::{Code, Failure};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

/// Longest container id and network name. Runtimes use 64 characters.
const MAX_ID: usize = 128;
/// `IFNAMSIZ` less its zero byte.
const MAX_INTERFACE: usize = 15;
/// Longest path (`PATH_MAX`).
pub(crate) const MAX_PATH: usize = 4096;
/// Longest `CNI_ARGS`.
const MAX_ARGS: usize = 16 << 10;

/// The six commands of CNI 1.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Add,
    Del,
    Check,
    Status,
    Gc,
    Version,
}

/// An id of the specification: an alphanumeric character, then alphanumeric ones, `_`, `.` and `-`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct ContainerId(String);

/// Name of an interface inside a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct InterfaceName(String);

/// One interface of one container in a network.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Attachment {
    pub(crate) container: ContainerId,
    pub(crate) interface: InterfaceName,
}

/// What the environment asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    Add { attachment: Attachment, netns: PathBuf },
    Del { attachment: Attachment },
    Check { attachment: Attachment, netns: PathBuf },
    Status,
    Gc,
    Version,
}

impl Request {
    pub(crate) fn parse(environment: impl Fn(&str) -> Option<OsString>) -> Result<Self, Failure> {
        let variables = Variables { environment };
        let command = variables.command()?;
        // "Extra arguments": none of them is used here, and a runtime may pass what it likes.
        variables.bounded("CNI_ARGS", MAX_ARGS)?;
        Ok(match command {
            Command::Add => Self::Add { attachment: variables.attachment()?, netns: variables.netns()? },
            Command::Del => Self::Del { attachment: variables.attachment()? },
            Command::Check => Self::Check { attachment: variables.attachment()?, netns: variables.netns()? },
            Command::Status => Self::Status,
            Command::Gc => Self::Gc,
            Command::Version => Self::Version,
        })
    }

    pub(crate) const fn command(&self) -> Command {
        match self {
            Self::Add { .. } => Command::Add,
            Self::Del { .. } => Command::Del,
            Self::Check { .. } => Command::Check,
            Self::Status => Command::Status,
            Self::Gc => Command::Gc,
            Self::Version => Command::Version,
        }
    }
}

struct Variables<F> {
    environment: F,
}

impl<F: Fn(&str) -> Option<OsString>> Variables<F> {
    fn command(&self) -> Result<Command, Failure> {
        Ok(match self.required("CNI_COMMAND", 16)?.as_str() {
            "ADD" => Command::Add,
            "DEL" => Command::Del,
            "CHECK" => Command::Check,
            "STATUS" => Command::Status,
            "GC" => Command::Gc,
            "VERSION" => Command::Version,
            other => {
                let known = "it is one of ADD, DEL, CHECK, STATUS, GC, VERSION";
                return Err(invalid("CNI_COMMAND", &format!("{other:?} is not a command; {known}")));
            }
        })
    }

    fn attachment(&self) -> Result<Attachment, Failure> {
        let container = self.required("CNI_CONTAINERID", MAX_PATH)?;
        let interface = self.required("CNI_IFNAME", MAX_PATH)?;
        Ok(Attachment {
            container: ContainerId::try_from(container).map_err(|e| invalid("CNI_CONTAINERID", &e))?,
            interface: InterfaceName::try_from(interface).map_err(|e| invalid("CNI_IFNAME", &e))?,
        })
    }

    fn netns(&self) -> Result<PathBuf, Failure> {
        let path = PathBuf::from(self.required("CNI_NETNS", MAX_PATH)?);
        if !path.is_absolute() {
            return Err(invalid("CNI_NETNS", "it must be an absolute path, as /run/netns/NAME"));
        }
        Ok(path)
    }

    fn required(&self, name: &str, longest: usize) -> Result<String, Failure> {
        self.bounded(name, longest)?.ok_or_else(|| invalid(name, "it is not set; the runtime has to set it"))
    }

    /// Empty counts as not set.
    fn bounded(&self, name: &str, longest: usize) -> Result<Option<String>, Failure> {
        let Some(value) = (self.environment)(name).filter(|v| !v.is_empty()) else { return Ok(None) };
        let value = value.into_string().map_err(|_| invalid(name, "it is not UTF-8"))?;
        if value.len() > longest {
            return Err(invalid(name, &format!("it is longer than {longest} bytes")));
        }
        if value.contains(char::is_control) {
            return Err(invalid(name, "it holds a control character"));
        }
        Ok(Some(value))
    }
}

fn invalid(name: &str, why: &str) -> Failure {
    Failure::new(Code::InvalidEnvironment, format!("{name} is not usable"), format!("{name}: {why}"))
}

impl TryFrom<String> for ContainerId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        check_id(&text)?;
        Ok(Self(text))
    }
}

/// The rule for container ids and names of networks.
pub(crate) fn check_id(text: &str) -> Result<(), String> {
    let first = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    let rest = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if !first || !rest || text.len() > MAX_ID {
        return Err(format!(
            "use 1 to {MAX_ID} letters, digits, '_', '.' and '-', beginning with a letter or digit"
        ));
    }
    Ok(())
}

impl TryFrom<String> for InterfaceName {
    type Error = String;

    /// The kernel's rule (`dev_valid_name`), in printable ASCII.
    fn try_from(text: String) -> Result<Self, String> {
        let printable = text.bytes().all(|b| b.is_ascii_graphic() && !b"/:%".contains(&b));
        if text.is_empty() || text.len() > MAX_INTERFACE || !printable || text == "." || text == ".." {
            return Err(format!(
                "use 1 to {MAX_INTERFACE} printable characters without '/', ':', '%' and spaces"
            ));
        }
        Ok(Self(text))
    }
}

impl ContainerId {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl InterfaceName {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of container {}", self.interface.0, self.container.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(set: &[(&str, &str)]) -> Result<Request, Failure> {
        Request::parse(|name| set.iter().find(|(n, _)| *n == name).map(|(_, v)| OsString::from(v)))
    }

    const FULL: [(&str, &str); 4] = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "0a-b.c_D"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_NETNS", "/run/netns/p1"),
    ];

    #[test]
    fn a_missing_or_wrong_variable_is_named() {
        assert!(parse(&FULL).is_ok());
        for index in 0..FULL.len() {
            for wrong in ["", "/", "a b", "../x", "\u{1}", &"x".repeat(5000)] {
                let mut set = FULL;
                set[index].1 = wrong;
                let netns = set[index].0 == "CNI_NETNS" && wrong == "/";
                if netns {
                    continue;
                }
                let error = parse(&set).expect_err(&format!("{} = {wrong:?}", set[index].0));
                assert_eq!(error.code, Code::InvalidEnvironment);
                assert!(error.msg.contains(set[index].0), "{}", error.msg);
                assert!(error.details.len() < 300, "a hostile value is not repeated at length");
            }
        }
    }

    #[test]
    fn each_command_needs_only_its_own_variables() {
        let of = |command| parse(&[("CNI_COMMAND", command)]);
        assert_eq!(of("VERSION"), Ok(Request::Version));
        assert_eq!(of("STATUS"), Ok(Request::Status));
        assert_eq!(of("GC"), Ok(Request::Gc));
        assert!(of("DEL").is_err() && of("CHECK").is_err() && of("add").is_err());
        let without_netns = [("CNI_COMMAND", "DEL"), FULL[1], FULL[2]];
        assert!(matches!(parse(&without_netns), Ok(Request::Del { .. })), "the namespace may be gone");
    }

    #[test]
    fn names_follow_the_specification_and_the_kernel() {
        for good in ["a", "0", "0a.b-c_d", &"x".repeat(128)] {
            assert!(check_id(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "-a", "_a", "a/b", "a b", "ä", &"x".repeat(129)] {
            assert!(check_id(bad).is_err(), "{bad}");
        }
        for bad in ["", ".", "..", "a/b", "a:b", "a%d", "a b", "sixteen-letters-"] {
            assert!(InterfaceName::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }
}
