//! One connection to a host behind this node.

use crate::userspace::netstack::Netstack;
use crate::userspace::splice::splice;
use crate::userspace::stack::Tuple;
use std::time::Duration;
use tokio::net::TcpStream;

/// How long the host behind may take to answer: three SYNs.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) async fn forward(stack: Netstack, tuple: Tuple, syn: Vec<u8>) {
    if super::is_this_host_outside(tuple.local) {
        tracing::debug!(to = %tuple.local, "not forwarded: an exit is no way to its own host's services");
        return stack.refuse(tuple, &syn, false);
    }
    let host = match tokio::time::timeout(PATIENCE, TcpStream::connect(tuple.local)).await {
        Ok(Ok(host)) => host,
        Ok(Err(error)) => {
            tracing::debug!(to = %tuple.local, %error, "a host behind this node did not take a connection");
            return stack.refuse(tuple, &syn, false);
        }
        // It did not answer, so neither do we: the client's own patience counts.
        Err(_) => return stack.refuse(tuple, &syn, true),
    };
    match stack.admit(tuple, &syn).await {
        Ok(mesh) => splice(mesh, host).await,
        Err(error) => tracing::debug!(from = %tuple.remote, %error, "a forwarded connection went away"),
    }
}
