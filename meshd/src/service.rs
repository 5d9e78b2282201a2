//! Starting the daemon: by systemd where it runs the machine, as a process of its own elsewhere.

use crate::client;
use crate::output::CliError;
use anyhow::Context;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// The unit, as the packages install it.
const UNIT: &str = include_str!("../../packaging/systemd/meshd.service");
const UNIT_PATH: &str = "/etc/systemd/system/meshd.service";
const PACKAGED_UNITS: [&str; 2] =
    ["/usr/lib/systemd/system/meshd.service", "/lib/systemd/system/meshd.service"];
const LOG_FILE: &str = "/run/meshd/daemon.log";
/// How long a daemon may take until it answers: it undoes a crash first.
const START_TRIES: u32 = 100;
const START_PAUSE: Duration = Duration::from_millis(100);

/// How the daemon was started.
pub(crate) enum Started {
    Unit,
    Process(u32),
}

/// Starts the daemon and waits until it answers.
///
/// # Errors
/// Without root, or when it does not come up.
pub(crate) fn start(socket: &Path, no_service: bool) -> anyhow::Result<Started> {
    if !rustix::process::geteuid().is_root() {
        return Err(CliError {
            message: "the meshd daemon is not running, and starting it needs root".to_owned(),
            hint:
                "run the same command with sudo; or without root: `meshd run --tun=userspace` (see the guide)"
                    .to_owned(),
            code: 77,
        }
        .into());
    }
    let systemd = Path::new("/run/systemd/system").exists();
    let started = if systemd && !no_service { unit()? } else { process(socket)? };
    for _ in 0..START_TRIES {
        if client::daemon_runs(socket) {
            return Ok(started);
        }
        std::thread::sleep(START_PAUSE);
    }
    Err(CliError {
        message: "the daemon was started but does not answer".to_owned(),
        hint: format!("see `journalctl -u meshd`, or {LOG_FILE}"),
        code: 69,
    }
    .into())
}

fn unit() -> anyhow::Result<Started> {
    if !PACKAGED_UNITS.iter().any(|p| Path::new(p).exists()) {
        let exe = std::env::current_exe().context("cannot find this program's path")?;
        if let Some(folder) = hidden_from_units(&exe) {
            return Err(CliError::new(
                format!("this program is at {}, and a service cannot start a program below {folder}", exe.display()),
                format!("install it: `sudo install {} /usr/local/bin/`, then `sudo meshd up …` (or `meshd up --no-service`)", exe.display()),
            )
            .into());
        }
        let text = UNIT.replace("/usr/bin/meshd", &exe.display().to_string());
        std::fs::write(UNIT_PATH, text).with_context(|| format!("cannot write {UNIT_PATH}"))?;
        systemctl(&["daemon-reload"])?;
    }
    systemctl(&["enable", "--now", "meshd.service"])?;
    Ok(Started::Unit)
}

/// The folder above `exe` that the unit does not see (`ProtectHome`, `PrivateTmp`).
fn hidden_from_units(exe: &Path) -> Option<&'static str> {
    ["/home", "/root", "/run/user", "/tmp", "/var/tmp"].into_iter().find(|folder| exe.starts_with(folder))
}

fn systemctl(args: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("systemctl").args(args).output().context("cannot run systemctl")?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(CliError::new(
        format!("`systemctl {}` failed: {said}", args.join(" ")),
        "start it without a unit: `meshd up --no-service`",
    )
    .into())
}

fn process(socket: &Path) -> anyhow::Result<Started> {
    let exe = std::env::current_exe().context("cannot find this program's path")?;
    if let Some(dir) = Path::new(LOG_FILE).parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    let log = std::fs::File::create(LOG_FILE).with_context(|| format!("cannot write {LOG_FILE}"))?;
    let mut command = Command::new(exe);
    command.arg("run").arg("--socket").arg(socket);
    // A group of its own: Ctrl-C in this terminal is not for the daemon.
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).process_group(0);
    let child = command.spawn().context("cannot start the daemon")?;
    Ok(Started::Process(child.id()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_not_made_for_a_program_that_it_would_not_see() {
        assert_eq!(hidden_from_units(Path::new("/root/clone/meshd")), Some("/root"));
        assert_eq!(hidden_from_units(Path::new("/home/kim/meshd")), Some("/home"));
        assert_eq!(hidden_from_units(Path::new("/usr/local/bin/meshd")), None);
        assert_eq!(hidden_from_units(Path::new("/rooted/meshd")), None, "whole names only");
        assert!(UNIT.contains("ProtectHome=yes") && UNIT.contains("PrivateTmp=yes"));
    }
}
