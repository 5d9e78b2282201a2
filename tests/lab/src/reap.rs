//! Removes what labs of dead processes left in the temporary directory.

use std::fs;
use std::path::{Path, PathBuf};

/// The folder of a lab of this process.
pub(crate) fn folder(number: usize) -> PathBuf {
    std::env::temp_dir().join(format!("meshd-lab-{}-{number}", std::process::id()))
}

/// Removes the folders of labs whose process no longer runs; gives how many.
pub fn reap() -> usize {
    reap_in(&std::env::temp_dir(), |pid| Path::new("/proc").join(pid.to_string()).exists())
}

fn reap_in(temporary: &Path, is_alive: impl Fn(u32) -> bool) -> usize {
    let Ok(entries) = fs::read_dir(temporary) else { return 0 };
    entries
        .flatten()
        .filter(|entry| {
            let name = entry.file_name();
            let owner = name
                .to_str()
                .and_then(|name| name.strip_prefix("meshd-lab-"))
                .and_then(|rest| rest.split('-').next())
                .and_then(|pid| pid.parse::<u32>().ok());
            owner.is_some_and(|pid| !is_alive(pid)) && fs::remove_dir_all(entry.path()).is_ok()
        })
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_folders_of_dead_labs_are_removed() {
        let temporary = tempfile::tempdir().expect("a temporary folder");
        for name in ["meshd-lab-1-0", "meshd-lab-2-0", "meshd-lab-x", "other"] {
            fs::create_dir(temporary.path().join(name)).expect("a folder");
        }
        assert_eq!(reap_in(temporary.path(), |pid| pid == 2), 1);
        assert!(!temporary.path().join("meshd-lab-1-0").exists());
        assert!(temporary.path().join("meshd-lab-2-0").exists() && temporary.path().join("other").exists());
    }
}
