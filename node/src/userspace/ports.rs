//! Ports of the node's mesh addresses that end at addresses of the host, or of its network.

use super::netstack::Netstack;
use super::splice::splice;
use super::stream::{TcpListener, TcpStream as MeshStream};
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// How long the host may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections at once for one port.
const MAX_CONNECTIONS: usize = 256;

/// One such port: `8080=127.0.0.1:3000`, or `8080=3000` for the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortForward {
    /// The port of the mesh addresses.
    pub port: u16,
    /// Where it ends.
    pub to: SocketAddr,
}

/// Not a port forward.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a port forward: write PORT=ADDRESS:PORT, like 8080=127.0.0.1:3000")]
pub struct BadForward(String);

impl FromStr for PortForward {
    type Err = BadForward;

    fn from_str(text: &str) -> Result<Self, BadForward> {
        let bad = || BadForward(text.to_owned());
        let (from, to) = text.split_once('=').ok_or_else(bad)?;
        let port = |text: &str| text.parse().ok().filter(|port: &u16| *port != 0).ok_or_else(bad);
        let to = match to.parse::<SocketAddr>() {
            Ok(to) if to.port() != 0 => to,
            Ok(_) => return Err(bad()),
            Err(_) => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port(to)?),
        };
        Ok(Self { port: port(from)?, to })
    }
}

impl fmt::Display for PortForward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.port, self.to)
    }
}

/// The running forwards. They end, with their connections, when this is dropped.
#[derive(Debug)]
pub struct PortForwards {
    _tasks: JoinSet<()>,
}

impl PortForwards {
    /// Listens on all of them.
    ///
    /// # Errors
    /// When one is named twice.
    pub fn start(stack: &Netstack, forwards: &[PortForward]) -> io::Result<Self> {
        let mut tasks = JoinSet::new();
        for forward in forwards {
            tasks.spawn(serve(stack.listen(forward.port)?, forward.to));
        }
        Ok(Self { _tasks: tasks })
    }
}

async fn serve(listener: TcpListener, to: SocketAddr) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => drop(connections.spawn(forward(stream, to))),
                Err(_) => return,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn forward(mesh: MeshStream, to: SocketAddr) {
    match tokio::time::timeout(PATIENCE, TcpStream::connect(to)).await {
        Ok(Ok(host)) => splice(mesh, host).await,
        Ok(Err(error)) => {
            tracing::debug!(%to, %error, "nobody answers where a port is forwarded to");
            mesh.abort();
        }
        Err(_) => mesh.abort(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forward_is_a_port_and_an_address_and_nothing_else() {
        let read = |text: &str| text.parse::<PortForward>().map(|f| f.to_string());
        assert_eq!(read("8080=127.0.0.1:3000").unwrap(), "8080=127.0.0.1:3000");
        assert_eq!(read("80=[::1]:8000").unwrap(), "80=[::1]:8000");
        assert_eq!(read("8080=3000").unwrap(), "8080=127.0.0.1:3000");
        for bad in ["", "80", "0=1:2", "80=", "80=nas:1", "80=127.0.0.1:0", "80=0", "x=1", "80=1=2"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
