//! What is wrong with a policy text, and where.

use std::fmt;

/// A place in the policy text, counted from 1; columns count characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct Pos {
    /// Line.
    pub line: u32,
    /// Column.
    pub column: u32,
}

impl fmt::Display for Pos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

/// Whether a policy with this remark may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The policy is refused.
    Error,
    /// The policy is used; a part of it has no effect here.
    Warning,
}

/// One remark about a policy text: what, where and what to do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Diagnostic {
    /// Where.
    #[serde(flatten)]
    pub pos: Pos,
    /// Whether the policy is refused.
    pub severity: Severity,
    /// What it is and what to do.
    pub message: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, "{}: {kind}: {}", self.pos, self.message)
    }
}

/// Collects remarks up to a bound, so that a hostile text cannot make a report of any size.
#[derive(Debug, Default)]
pub(crate) struct Report {
    errors: Vec<Diagnostic>,
    warnings: Vec<Diagnostic>,
}

impl Report {
    /// More than this many of one severity are not kept.
    const MAX: usize = 100;

    pub(crate) fn error(&mut self, pos: Pos, message: impl Into<String>) {
        add(&mut self.errors, Diagnostic { pos, severity: Severity::Error, message: message.into() });
    }

    pub(crate) fn warn(&mut self, pos: Pos, message: impl Into<String>) {
        add(&mut self.warnings, Diagnostic { pos, severity: Severity::Warning, message: message.into() });
    }

    /// The warnings, or every remark in the order of the text when there is an error.
    pub(crate) fn finish(mut self) -> Result<Vec<Diagnostic>, Vec<Diagnostic>> {
        self.warnings.sort();
        if self.errors.is_empty() {
            return Ok(self.warnings);
        }
        self.errors.append(&mut self.warnings);
        self.errors.sort();
        Err(self.errors)
    }
}

fn add(list: &mut Vec<Diagnostic>, new: Diagnostic) {
    if list.len() < Report::MAX {
        list.push(new);
    }
}

/// A text from the policy as it is quoted in a message: short and on one line.
pub(crate) fn quoted(text: &str) -> String {
    let short: String = text.chars().take(80).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if short.len() < text.len() && text.chars().count() > 80 {
        format!("`{short}…`")
    } else {
        format!("`{short}`")
    }
}
