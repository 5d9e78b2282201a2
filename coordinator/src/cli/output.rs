//! What a command says, as a value: text for people, JSON for programs, and failures with a hint.

use crate::client::ClientError;
use crate::store::StoreError;
use serde::Serialize;
use std::fmt::Write;

/// A command's answer.
#[derive(Debug)]
pub(super) struct Output {
    text: String,
    json: Option<serde_json::Value>,
}

impl Output {
    /// Text for people and the same as a value for programs.
    pub(super) fn new(value: &impl Serialize, text: impl Into<String>) -> Self {
        let mut text = text.into();
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        Self { text, json: serde_json::to_value(value).ok() }
    }

    /// Something was done and there is nothing to show but one sentence.
    pub(super) fn done(sentence: impl Into<String>) -> Self {
        let text = sentence.into();
        Self::new(&serde_json::json!({ "done": text }), text)
    }

    /// Nothing at all.
    pub(super) fn silent() -> Self {
        Self { text: String::new(), json: None }
    }

    /// Text that has no JSON form.
    pub(super) fn raw(text: String) -> Self {
        Self { text, json: None }
    }

    pub(super) fn render(&self, json: bool) -> String {
        match &self.json {
            Some(value) if json => format!("{value:#}\n"),
            _ => self.text.clone(),
        }
    }
}

/// Why a command failed.
#[derive(Debug)]
pub(super) struct Failure {
    message: String,
    hint: String,
    errors: Vec<String>,
    /// 1: refused or failed; 3: the coordinator does not run; 4: not allowed. (2 is clap's: usage.)
    pub(super) code: u8,
}

impl Failure {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: String::new(), errors: Vec::new(), code: 1 }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    pub(super) fn from_anyhow(error: anyhow::Error) -> Self {
        Self::new(format!("{error:#}"))
    }

    pub(super) fn render(&self, json: bool) -> String {
        if json {
            let value =
                serde_json::json!({ "error": self.message, "hint": self.hint, "errors": self.errors });
            return format!("{value:#}\n");
        }
        let mut out = format!("error: {}\n", self.message);
        for error in &self.errors {
            let _ = writeln!(out, "  {error}");
        }
        if !self.hint.is_empty() {
            let _ = writeln!(out, "hint: {}", self.hint);
        }
        out
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let message = error.to_string();
        match error {
            ClientError::NotRunning { source, .. }
                if source.kind() == std::io::ErrorKind::PermissionDenied =>
            {
                Self { code: 4, ..Self::new(message).hint("run the command with sudo") }
            }
            ClientError::NotRunning { .. } => Self {
                code: 3,
                ..Self::new(message).hint(
                    "start it with `meshd-coordinator serve` (or `systemctl start meshd-coordinator`), \
                     or name its socket with --socket",
                )
            },
            ClientError::Refused(problem) => {
                let code = if matches!(problem.status, 401 | 403) { 4 } else { 1 };
                // A single fault is already the message.
                let errors = if problem.errors.len() > 1 { problem.errors } else { Vec::new() };
                Self { message, hint: problem.hint, errors, code }
            }
            ClientError::Answer(_) => Self::new(message),
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::new(error.to_string())
    }
}
