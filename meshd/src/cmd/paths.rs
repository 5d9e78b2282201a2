//! Where the daemon's files are: those of the system, or of a user who runs a daemon of his own.

use crate::cli::{Command, Tun};
use meshd_proto::localapi::SOCKET;
use std::path::PathBuf;

const STATE_DIR: &str = "/var/lib/meshd";

/// The local API's socket. Without root, a client looks for the system's daemon first.
pub(super) fn socket(named: Option<PathBuf>, command: &Command) -> PathBuf {
    if let Some(named) = named {
        return named;
    }
    let system = PathBuf::from(SOCKET);
    let Some(own) = own_socket().filter(|_| !is_root()) else { return system };
    match command {
        Command::Run(run) if run.tun == Tun::Userspace => own,
        Command::Run(_) => system,
        _ if !system.exists() && own.exists() => own,
        _ => system,
    }
}

/// Keys, settings and the last map of a daemon in this mode.
pub(super) fn state_dir(tun: Tun) -> PathBuf {
    let own = || {
        let state = folder("XDG_STATE_HOME").or_else(|| Some(folder("HOME")?.join(".local/state")))?;
        Some(state.join("meshd"))
    };
    match tun {
        Tun::Userspace if !is_root() => own().unwrap_or_else(|| STATE_DIR.into()),
        Tun::Userspace | Tun::Kernel => STATE_DIR.into(),
    }
}

/// `$XDG_RUNTIME_DIR` is a user's own and gone with the login; without one, the state's folder serves.
fn own_socket() -> Option<PathBuf> {
    let runtime = folder("XDG_RUNTIME_DIR").map(|dir| dir.join("meshd"));
    Some(runtime.unwrap_or_else(|| state_dir(Tun::Userspace)).join("api.sock"))
}

fn folder(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute())
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
