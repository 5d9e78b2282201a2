//! UDP ASSOCIATE (RFC 1928 §7): a UDP port for one client, for as long as its TCP connection stands.

use super::serve::Service;
use super::socks5::{self, Parsed, Reply};
use crate::userspace::{Host, Target, UdpSocket as MeshSocket, Way};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

/// Names that one association remembers.
const MAX_NAMES: usize = 64;
/// How long finding a name may keep the association's datagrams waiting.
const RESOLVE_LIMIT: Duration = Duration::from_secs(3);
const ROOM: usize = 65_535;

struct Association {
    service: Service,
    /// Where the client sends.
    local: UdpSocket,
    client: IpAddr,
    /// The client's port, from its first datagram on.
    port: Option<u16>,
    mesh: MeshSocket,
    v4: Option<UdpSocket>,
    v6: Option<UdpSocket>,
    names: HashMap<String, IpAddr>,
}

pub(super) async fn associate(service: Service, mut control: TcpStream) -> io::Result<()> {
    let client = control.peer_addr()?.ip();
    let opened = async {
        let local = UdpSocket::bind((control.local_addr()?.ip(), 0)).await?;
        let outside = async |any: IpAddr| match service.outside {
            // A host without that family has no such socket.
            true => UdpSocket::bind((any, 0)).await.ok(),
            false => None,
        };
        let (v4, v6) =
            (outside(Ipv4Addr::UNSPECIFIED.into()).await, outside(Ipv6Addr::UNSPECIFIED.into()).await);
        let mesh = service.dialer.stack().udp_bind(0)?;
        io::Result::Ok((local, v4, v6, mesh))
    };
    let (local, v4, v6, mesh) = match opened.await {
        Ok(sockets) => sockets,
        Err(error) => {
            let nowhere = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
            control.write_all(&Reply::of(error.kind()).message(nowhere)).await?;
            return Err(error);
        }
    };
    control.write_all(&Reply::Succeeded.message(local.local_addr()?)).await?;
    let association = Association { service, local, client, port: None, mesh, v4, v6, names: HashMap::new() };
    let mut nothing = [0; 64];
    tokio::select! {
        ended = association.run() => ended,
        // The association ends with the connection; what is sent on it means nothing.
        () = async { while control.read(&mut nothing).await.is_ok_and(|len| len > 0) {} } => Ok(()),
    }
}

impl Association {
    async fn run(mut self) -> io::Result<()> {
        let mut rooms = [vec![0; ROOM], vec![0; ROOM], vec![0; ROOM], vec![0; ROOM]];
        let [from_client, from_mesh, from_v4, from_v6] = &mut rooms;
        loop {
            tokio::select! {
                received = self.local.recv_from(from_client) => {
                    // An error is the answer to something sent earlier.
                    let Ok((len, from)) = received else { continue };
                    if from.ip() == self.client && *self.port.get_or_insert(from.port()) == from.port() {
                        self.outward(&from_client[..len]).await;
                    }
                }
                received = self.mesh.recv_from(from_mesh) => {
                    let (len, from) = received?;
                    self.homeward(from, &from_mesh[..len]).await;
                }
                received = receive(self.v4.as_ref(), from_v4) => {
                    let Ok((len, from)) = received else { continue };
                    self.homeward(from, &from_v4[..len]).await;
                }
                received = receive(self.v6.as_ref(), from_v6) => {
                    let Ok((len, from)) = received else { continue };
                    self.homeward(from, &from_v6[..len]).await;
                }
            }
        }
    }

    /// What cannot be sent is dropped, as the RFC says: the client is not told.
    async fn outward(&mut self, bytes: &[u8]) {
        let Ok(Parsed::Done(target, len)) = socks5::datagram(bytes) else { return };
        let Some(ip) = self.address(&target).await else { return };
        let (to, payload) = (SocketAddr::new(ip, target.port), &bytes[len..]);
        if target.port == 0 {
            return;
        }
        let sent = match self.service.dialer.reach().way(ip) {
            Some(Way::Mesh) => self.mesh.send_to(payload, to).await,
            Some(Way::Host) => match if ip.is_ipv4() { &self.v4 } else { &self.v6 } {
                Some(socket) => socket.send_to(payload, to).await.map(drop),
                None => return,
            },
            Some(Way::Nowhere) | None => return,
        };
        if let Err(error) = sent {
            tracing::debug!(%to, %error, "a datagram of a SOCKS5 client was not sent");
        }
    }

    async fn homeward(&self, from: SocketAddr, payload: &[u8]) {
        if let Some(port) = self.port {
            let to = SocketAddr::new(self.client, port);
            let _ = self.local.send_to(&socks5::datagram_from(from, payload), to).await;
        }
    }

    async fn address(&mut self, target: &Target) -> Option<IpAddr> {
        let name = match &target.host {
            Host::Ip(ip) => return Some(*ip),
            Host::Name(name) => name,
        };
        if let Some(ip) = self.names.get(name) {
            return Some(*ip);
        }
        let found = tokio::time::timeout(RESOLVE_LIMIT, self.service.dialer.resolve(name)).await;
        let ip = *found.ok()?.ok()?.first()?;
        if self.names.len() >= MAX_NAMES {
            self.names.clear();
        }
        self.names.insert(name.clone(), ip);
        Some(ip)
    }
}

async fn receive(socket: Option<&UdpSocket>, room: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
    match socket {
        Some(socket) => socket.recv_from(room).await,
        None => std::future::pending().await,
    }
}
