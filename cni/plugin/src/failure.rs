//! What can go wrong, in the form of the CNI specification (section "Error").

use serde_json::{Value, json};

/// Error codes of the specification; from 100 on they are the plugin's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    /// The configuration asks for a version that is not spoken here.
    IncompatibleVersion = 1,
    /// A key of the configuration that is not known here.
    UnsupportedField = 2,
    /// The network namespace is not there: nothing has to be cleaned up.
    UnknownContainer = 3,
    /// An environment variable is missing or wrong.
    InvalidEnvironment = 4,
    /// A file could not be read or written.
    Io = 5,
    /// Standard input is not what it should be.
    Decode = 6,
    /// A value of the configuration is wrong.
    InvalidConfiguration = 7,
    /// Something that passes.
    TryAgainLater = 11,
    /// `STATUS`: `ADD` cannot be served.
    NotAvailable = 50,
    /// The kernel refused a change.
    Kernel = 100,
    /// `CHECK` found something else than what `ADD` had set up.
    Different = 101,
    /// The file with the reservations is damaged.
    DamagedLedger = 102,
    /// All addresses of a family are in use.
    Exhausted = 103,
    /// The interface is there already.
    Exists = 104,
}

/// Why a command failed: what happened, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) code: Code,
    /// Short.
    pub(crate) msg: String,
    /// Where, why, and what to do.
    pub(crate) details: String,
}

impl Failure {
    pub(crate) fn new(code: Code, msg: impl Into<String>, details: impl Into<String>) -> Self {
        Self { code, msg: msg.into(), details: details.into() }
    }

    pub(crate) fn io(what: impl Into<String>, error: &std::io::Error) -> Self {
        let hint = match error.kind() {
            std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
                "; the plugin runs as root and needs this place to be writable"
            }
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                "; free some space on this file system"
            }
            _ => "",
        };
        Self::new(Code::Io, what, format!("{error}{hint}"))
    }

    /// The object for standard output.
    pub(crate) fn to_json(&self, version: &str) -> Value {
        json!({ "cniVersion": version, "code": self.code as u32, "msg": self.msg, "details": self.details })
    }
}
