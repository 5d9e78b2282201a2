//! Tells systemd how far we are (`sd_notify`), when it asked.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

pub(super) fn ready() {
    send(b"READY=1");
}

pub(super) fn stopping() {
    send(b"STOPPING=1");
}

fn send(state: &[u8]) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let addr = match path.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&path),
    };
    let sent = addr.and_then(|addr| UnixDatagram::unbound()?.send_to_addr(state, &addr));
    if let Err(error) = sent {
        tracing::debug!(%error, "cannot notify systemd");
    }
}
