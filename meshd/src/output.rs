//! What people see: errors with a hint, aligned tables, colour only on a terminal.

pub(crate) mod names;
mod status;
pub(crate) mod told;

pub(crate) use status::{counters, routes, status};

use std::fmt::Write as _;
use std::io::IsTerminal;

/// An error for a person: what happened and why, what to do, and the exit status.
#[derive(Debug)]
pub(crate) struct CliError {
    pub(crate) message: String,
    pub(crate) hint: String,
    pub(crate) code: u8,
}

impl CliError {
    pub(crate) fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: hint.into(), code: 1 }
    }

    /// Wrong use of the command line.
    pub(crate) fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: hint.into(), code: 2 }
    }
}

impl std::fmt::Display for CliError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for CliError {}

/// Whether to colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    Plain,
    Colour,
}

impl Style {
    fn of(terminal: bool) -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        if terminal && wanted { Self::Colour } else { Self::Plain }
    }

    fn paint(self, code: &str, text: &str) -> String {
        match self {
            Self::Plain => text.to_owned(),
            Self::Colour => format!("\x1b[{code}m{text}\x1b[0m"),
        }
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    pub(crate) fn good(self, text: &str) -> String {
        self.paint("32", text)
    }

    pub(crate) fn warn(self, text: &str) -> String {
        self.paint("33", text)
    }

    pub(crate) fn bad(self, text: &str) -> String {
        self.paint("31", text)
    }

    pub(crate) fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }
}

pub(crate) fn stdout_style() -> Style {
    Style::of(std::io::stdout().is_terminal())
}

pub(crate) fn stderr_style() -> Style {
    Style::of(std::io::stderr().is_terminal())
}

/// The lines for an error.
pub(crate) fn failure(error: &anyhow::Error, style: Style) -> String {
    let mut text = format!("{} {error:#}\n", style.bad("error:"));
    if let Some(hint) = hint(error) {
        let _ = writeln!(text, "{}  {hint}", style.bold("hint:"));
    }
    text
}

/// The same for a program: the fields of `meshd-coordinator`, too.
pub(crate) fn failure_json(error: &anyhow::Error) -> serde_json::Value {
    serde_json::json!({ "error": format!("{error:#}"), "hint": hint(error), "exit_status": exit_code(error) })
}

fn hint(error: &anyhow::Error) -> Option<&str> {
    error.downcast_ref::<CliError>().map(|e| e.hint.as_str()).filter(|hint| !hint.is_empty())
}

/// The exit status for an error.
pub(crate) fn exit_code(error: &anyhow::Error) -> u8 {
    error.downcast_ref::<CliError>().map_or(1, |e| e.code)
}

/// Rows with their columns aligned; the first row is the heading. Colours are added by `paint`, which
/// gets row, column and the padded cell.
pub(crate) fn table(rows: &[Vec<String>], paint: impl Fn(usize, usize, &str) -> String) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| rows.iter().filter_map(|r| r.get(c)).map(|t| t.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for (r, row) in rows.iter().enumerate() {
        let mut line = String::new();
        for (c, cell) in row.iter().enumerate() {
            let last = c + 1 == row.len();
            let padded = if last { cell.clone() } else { format!("{cell:<width$}  ", width = widths[c]) };
            line.push_str(&paint(r, c, &padded));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// A text as QR code for a terminal.
///
/// # Errors
/// When it is too long for one.
pub(crate) fn qr(text: &str) -> Result<String, CliError> {
    let code = qrcode::QrCode::new(text.as_bytes())
        .map_err(|e| CliError::new(format!("this does not fit a QR code: {e}"), "use the text"))?;
    Ok(code.render::<qrcode::render::unicode::Dense1x2>().quiet_zone(true).build())
}

/// Bytes for a person.
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{n} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// Seconds for a person.
pub(crate) fn ago(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// Microseconds as milliseconds.
pub(crate) fn millis(us: u64) -> String {
    format!("{}.{:01} ms", us / 1000, us % 1000 / 100)
}

#[cfg(test)]
mod tests;
