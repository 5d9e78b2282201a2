//! The one TCP port.

use super::ServeOptions;
use super::connection::{self, Shared};
use super::slots::Slots;
use anyhow::{Context, Result, bail};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

/// Binds the address that was asked for; otherwise the port of last time, 443 or 8443.
pub(super) fn bind(options: &ServeOptions, last: Option<u16>) -> Result<TcpListener> {
    if let Some(addr) = options.listen {
        let hint = "choose another address with --listen";
        return listener(addr).with_context(|| format!("cannot listen on {addr}: {hint}"));
    }
    let mut tried = Vec::new();
    for port in [443, 8443].into_iter().filter(|p| last == Some(*p)).chain([443, 8443]) {
        let any = [SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)), (Ipv4Addr::UNSPECIFIED, port).into()];
        for addr in any {
            match listener(addr) {
                Ok(listener) => {
                    if let Some(last) = last.filter(|last| *last != port) {
                        tracing::warn!(
                            last,
                            port,
                            "the port of last time is taken: tokens and forwarded ports lead to it"
                        );
                    }
                    return Ok(listener);
                }
                // A host without IPv6: the other family may do.
                Err(e) if addr.is_ipv6() && e.kind() != ErrorKind::AddrInUse => {}
                Err(e) => {
                    tried.push(format!("{port}: {e}"));
                    break;
                }
            }
        }
    }
    bail!(
        "cannot listen on TCP {}: stop what uses these ports, run as root, or choose with --listen",
        tried.join(", ")
    )
}

/// Where an authority looks for an HTTP-01 check: port 80, unless told otherwise.
pub(super) fn for_checks(at: Option<SocketAddr>) -> std::io::Result<TcpListener> {
    let any = || {
        let both = listener((Ipv6Addr::UNSPECIFIED, 80).into());
        both.or_else(|_| listener((Ipv4Addr::UNSPECIFIED, 80).into()))
    };
    at.map_or_else(any, listener)
}

fn listener(addr: SocketAddr) -> std::io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(addr)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// Accepts until the shutdown; every connection is a tracked task.
pub(super) async fn accept_loop(listener: TcpListener, shared: Arc<Shared>) {
    let slots = Slots::new();
    loop {
        let Some(place) = slots.free_place().await else { return };
        let accepted = tokio::select! {
            () = shared.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                // Too many from there already: hung up on before anything is read.
                let Some(slot) = slots.take(place, peer.ip(), &shared.proxies) else { continue };
                shared.tasks.spawn(connection::serve_tcp(stream, peer, shared.clone(), slot));
            }
            // Out of file descriptors, or the peer is gone again: the listener itself is fine.
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}
