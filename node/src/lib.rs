//! Every socket, file and syscall of a node, in kernel or userspace mode.
//!
//! The pure parts are elsewhere: the mesh is `meshd-engine`, names are `meshd-dns`. Here they meet a host:
//! the daemon ([`daemon`]) owns a mesh task ([`mesh`]), data threads ([`data`]), a control client
//! ([`control`]), the host's routes and firewall ([`os`]), its DNS and the files ([`state`]).

pub mod clock;
pub mod config;
pub mod control;
pub mod daemon;
pub mod data;
pub mod dial;
pub mod host_dns;
mod lan_health;
pub mod local_api;
pub mod logs;
pub mod mesh;
mod netcheck;
pub mod os;
pub mod outside_names;
mod portmap;
pub mod proxy;
pub mod settings;
pub mod state;
pub mod steps;
pub mod suspend;
pub mod tls;
pub mod tun;
pub mod udp;
pub mod userspace;

pub use config::DaemonConfig;
pub use daemon::supervise_dns;
pub use meshd_engine::self_test;

use std::path::Path;

/// Why what a killed daemon left could not be undone.
#[derive(Debug, thiserror::Error)]
pub enum CleanupError {
    /// Routes, rules, firewall.
    #[error(transparent)]
    Os(#[from] os::OsError),
    /// DNS.
    #[error(transparent)]
    Dns(#[from] host_dns::RestoreError),
    /// The helper's runtime.
    #[error("cannot start a runtime: {0}")]
    Runtime(std::io::Error),
}

/// Undoes what a killed daemon left on the host. Does nothing where there is nothing to undo.
///
/// # Errors
/// When something cannot be undone; may be repeated.
pub fn cleanup(state_dir: &Path) -> Result<(), CleanupError> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(CleanupError::Runtime)?;
    runtime.block_on(async {
        // Both are tried: one that fails must not keep the other.
        let dns = host_dns::restore(state_dir).await;
        os::cleanup(state_dir).await?;
        dns?;
        Ok(())
    })
}
