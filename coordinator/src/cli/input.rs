//! Texts that a command reads from a file or standard input.

use super::output::Failure;
use std::io::Read;
use std::path::Path;

/// Most bytes read from a file or standard input.
const MAX_TEXT: u64 = 1 << 20;

pub(super) fn read(path: &Path) -> Result<String, Failure> {
    let failed = |e: &dyn std::fmt::Display| Failure::new(format!("cannot read {}: {e}", path.display()));
    let mut text = String::new();
    if path == Path::new("-") {
        std::io::stdin().lock().take(MAX_TEXT).read_to_string(&mut text).map_err(|e| failed(&e))?;
    } else {
        let file = std::fs::File::open(path).map_err(|e| failed(&e))?;
        file.take(MAX_TEXT).read_to_string(&mut text).map_err(|e| failed(&e))?;
    }
    Ok(text)
}
