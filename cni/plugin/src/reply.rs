//! What the plugin answers: a pure function of the command and the configuration.

use serde_json::{Value, json};

/// Versions of the protocol that are spoken.
pub(crate) const SUPPORTED: [&str; 2] = ["1.0.0", "1.1.0"];
const CURRENT: &str = "1.1.0";

/// Error codes of the CNI spec, section "Error"; from 100 on they are the plugin's own.
mod code {
    pub(super) const INCOMPATIBLE_VERSION: u32 = 1;
    pub(super) const INVALID_ENVIRONMENT: u32 = 4;
    pub(super) const IO_FAILURE: u32 = 5;
    pub(super) const DECODE_FAILURE: u32 = 6;
    /// `STATUS`: the plugin cannot serve `ADD`.
    pub(super) const NOT_AVAILABLE: u32 = 50;
    pub(super) const NOT_BUILT_YET: u32 = 100;
}

/// The answer to one command.
#[derive(Debug, PartialEq)]
pub(crate) enum Reply {
    /// Success without a result.
    Done,
    /// Success.
    Result(Value),
    /// Failure.
    Error(Value),
}

impl Reply {
    pub(crate) fn io_failure(error: &std::io::Error) -> Self {
        failure(CURRENT, code::IO_FAILURE, "cannot read the network configuration", &error.to_string())
    }

    pub(crate) const fn output(&self) -> Option<&Value> {
        match self {
            Self::Done => None,
            Self::Result(json) | Self::Error(json) => Some(json),
        }
    }

    pub(crate) const fn is_error(&self) -> bool {
        matches!(self, Self::Error(_))
    }
}

#[derive(serde::Deserialize)]
struct Configuration {
    #[serde(rename = "cniVersion")]
    version: Option<String>,
}

/// Answers `command` (the value of `CNI_COMMAND`) about the configuration `input`.
pub(crate) fn reply_to(command: Option<&str>, input: &[u8]) -> Reply {
    let Some(command) = command else {
        return failure(CURRENT, code::INVALID_ENVIRONMENT, "CNI_COMMAND is not set", "a runtime sets it");
    };
    // Whatever happens to it, there is nothing to undo.
    if command == "DEL" {
        return Reply::Done;
    }
    let version = match serde_json::from_slice::<Configuration>(input) {
        Ok(configuration) => configuration.version.unwrap_or_else(|| "0.1.0".to_owned()),
        Err(e) => {
            return failure(
                CURRENT,
                code::DECODE_FAILURE,
                "the network configuration is not JSON",
                &e.to_string(),
            );
        }
    };
    if command == "VERSION" {
        return Reply::Result(json!({ "cniVersion": version, "supportedVersions": SUPPORTED }));
    }
    if !SUPPORTED.contains(&version.as_str()) {
        let details = format!("spoken here: {}", SUPPORTED.join(", "));
        return failure(CURRENT, code::INCOMPATIBLE_VERSION, "CNI version is not supported", &details);
    }
    let built_yet = "this release of meshd-cni answers VERSION only; use another CNI plugin for pods";
    match command {
        "STATUS" => failure(&version, code::NOT_AVAILABLE, "meshd-cni cannot serve ADD", built_yet),
        "ADD" | "CHECK" | "GC" => {
            failure(&version, code::NOT_BUILT_YET, &format!("{command} is not built yet"), built_yet)
        }
        _ => failure(&version, code::INVALID_ENVIRONMENT, "CNI_COMMAND is not a CNI command", command),
    }
}

fn failure(version: &str, code: u32, msg: &str, details: &str) -> Reply {
    Reply::Error(json!({ "cniVersion": version, "code": code, "msg": msg, "details": details }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &[u8] = br#"{"cniVersion":"1.1.0","name":"mesh","type":"meshd-cni"}"#;

    fn code_of(reply: &Reply) -> Option<u64> {
        reply.is_error().then(|| reply.output().and_then(|j| j["code"].as_u64())).flatten()
    }

    #[test]
    fn version_repeats_the_asked_version_and_lists_the_spoken_ones() {
        let expected = json!({"cniVersion":"1.1.0","supportedVersions":["1.0.0","1.1.0"]});
        assert_eq!(reply_to(Some("VERSION"), CONFIG), Reply::Result(expected));
    }

    #[test]
    fn commands_that_are_not_built_are_errors_with_all_fields_of_the_spec() {
        for (command, code) in [("ADD", 100), ("CHECK", 100), ("GC", 100), ("STATUS", 50), ("SING", 4)] {
            let reply = reply_to(Some(command), CONFIG);
            assert_eq!(code_of(&reply), Some(code), "{command}");
            let json = reply.output().unwrap();
            assert_eq!(json["cniVersion"], "1.1.0");
            assert!(json["msg"].as_str().is_some_and(|m| !m.is_empty()));
        }
    }

    #[test]
    fn del_succeeds_since_nothing_was_ever_set_up() {
        assert_eq!(reply_to(Some("DEL"), CONFIG), Reply::Done);
        assert_eq!(reply_to(Some("DEL"), b""), Reply::Done);
    }

    #[test]
    fn a_missing_command_a_strange_version_and_noise_are_told_apart() {
        assert_eq!(code_of(&reply_to(None, CONFIG)), Some(4));
        assert_eq!(code_of(&reply_to(Some("ADD"), br#"{"cniVersion":"9.9.9"}"#)), Some(1));
        assert_eq!(code_of(&reply_to(Some("ADD"), b"{")), Some(6));
    }
}
