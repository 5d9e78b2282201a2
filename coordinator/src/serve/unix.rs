//! The unix socket for the admin on this host.

use super::connection::{self, Shared};
use anyhow::{Context, Result, bail};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixListener;

/// Binds the socket; one that a dead process left is replaced.
pub(super) fn bind(path: &Path) -> Result<UnixListener> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    }
    if path.exists() {
        if UnixStream::connect(path).is_ok() {
            bail!(
                "another coordinator answers on {}: stop it, or choose another path with --socket",
                path.display()
            );
        }
        fs::remove_file(path)
            .with_context(|| format!("cannot remove the stale socket {}", path.display()))?;
    }
    let listener =
        UnixListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))?;
    // Who may do what is decided by peer credentials; others do not even connect.
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))
        .with_context(|| format!("cannot make {} private", path.display()))?;
    Ok(listener)
}

pub(super) async fn accept_loop(listener: UnixListener, shared: Arc<Shared>) {
    loop {
        let accepted = tokio::select! {
            () = shared.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                shared.tasks.spawn(connection::serve_unix(stream, shared.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept on the unix socket");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}
