//! How a sealed datagram leaves: straight, or in a relay frame.

use crate::clock;
use crate::mesh::is_stream;
use crate::udp::{UdpOffloads, UdpSockets};
use arc_swap::ArcSwap;
use meshd_engine::Destination;
use meshd_proto::relay::{DATA_HEADER_LEN, RelayAddr, data_header};
use meshd_proto::{Endpoint, NodeKey, RelayId};
use meshd_relay::stream::FrameQueue;
use std::collections::HashMap;
use std::io;
use std::net::UdpSocket;
use std::sync::Arc;

/// The relays we are attached to and the peers that may be behind them. Replaced whole by the mesh task.
#[derive(Clone, Debug, Default)]
pub struct RelayPeers {
    /// Where each attached relay receives.
    pub relays: HashMap<RelayId, Endpoint>,
    /// The peers of the map by their address on a relay.
    pub peers: HashMap<RelayAddr, NodeKey>,
}

impl RelayPeers {
    /// The relay that sends from `from`.
    pub fn relay_at(&self, from: Endpoint) -> Option<RelayId> {
        // A node is attached to two relays at most: a scan is quicker than a second table.
        self.relays.iter().find(|(_, at)| **at == from).map(|(id, _)| *id)
    }
}

/// The sockets and the way through relays. Shared by the data threads and the mesh task.
#[derive(Debug)]
pub struct Wire {
    sockets: UdpSockets,
    relays: ArcSwap<RelayPeers>,
    /// Relays that are reached by a stream; mostly none.
    streams: ArcSwap<HashMap<Endpoint, FrameQueue>>,
    /// Peers that are reached by a socket of their own (see `mesh::scatter`); mostly none.
    spares: ArcSwap<Spares>,
}

/// Sockets of single peers' endpoints.
pub(crate) type Spares = HashMap<Endpoint, Arc<tokio::net::UdpSocket>>;

impl Wire {
    /// Wraps the sockets.
    pub fn new(sockets: UdpSockets) -> Self {
        Self { sockets, relays: ArcSwap::default(), streams: ArcSwap::default(), spares: ArcSwap::default() }
    }

    /// The port of all sockets.
    pub const fn port(&self) -> u16 {
        self.sockets.port
    }

    /// The socket of a data thread and family.
    pub fn socket(&self, thread: usize, v6: bool) -> Option<&UdpSocket> {
        self.sockets.get(thread, v6)
    }

    /// How many data threads there are sockets for.
    pub fn threads(&self) -> usize {
        self.sockets.threads()
    }

    /// What the kernel can do for the sockets.
    pub const fn offloads(&self) -> UdpOffloads {
        self.sockets.offloads
    }

    /// The relays and peers now.
    pub fn relays(&self) -> Arc<RelayPeers> {
        self.relays.load_full()
    }

    /// Replaces the relays and peers.
    pub fn set_relays(&self, relays: RelayPeers) {
        self.relays.store(Arc::new(relays));
    }

    /// Replaces what leads to relays by streams.
    pub(crate) fn set_streams(&self, streams: HashMap<Endpoint, FrameQueue>) {
        self.streams.store(Arc::new(streams));
    }

    /// Puts a relay frame into the queue of its stream.
    fn send_to_stream(&self, endpoint: Endpoint, frame: &[u8]) -> io::Result<()> {
        match self.streams.load().get(&endpoint) {
            Some(queue) if queue.push(frame, clock::now()) == 0 => Ok(()),
            Some(_) => Err(io::ErrorKind::WouldBlock.into()),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// The socket that datagrams for this endpoint leave by, where it is not the common one.
    pub(crate) fn spare(&self, endpoint: Endpoint) -> Option<Arc<tokio::net::UdpSocket>> {
        let spares = self.spares.load();
        if spares.is_empty() { None } else { spares.get(&endpoint).cloned() }
    }

    /// Replaces the sockets of single peers.
    pub(crate) fn set_spares(&self, spares: Spares) {
        self.spares.store(Arc::new(spares));
    }

    /// Sends a datagram as it is.
    ///
    /// # Errors
    /// What the kernel says; `WouldBlock` when the socket's buffer is full.
    pub fn send_to(&self, endpoint: Endpoint, datagram: &[u8]) -> io::Result<()> {
        if is_stream(&endpoint) {
            return self.send_to_stream(endpoint, datagram);
        }
        if let Some(socket) = self.spare(endpoint) {
            return socket.try_send_to(datagram, endpoint.0).map(|_| ());
        }
        let socket = self
            .sockets
            .get(0, endpoint.0.is_ipv6())
            .ok_or_else(|| io::Error::other("this host has no socket of that family"))?;
        socket.send_to(datagram, endpoint.0).map(|_| ())
    }

    /// Sends `frame[DATA_HEADER_LEN..]` to `to`. The bytes before it are room for a relay's header.
    ///
    /// # Errors
    /// As [`Self::send_to`], and when we are not attached to the relay.
    pub fn send_with_headroom(&self, to: Destination, frame: &mut [u8]) -> io::Result<()> {
        match to {
            Destination::Udp(endpoint) => self.send_to(endpoint, &frame[DATA_HEADER_LEN..]),
            Destination::Relay { relay, peer } => {
                let at = self.relays.load().relays.get(&relay).copied();
                let at = at.ok_or_else(|| io::Error::other("not attached to that relay"))?;
                frame[..DATA_HEADER_LEN].copy_from_slice(&data_header(RelayAddr::of(&peer)));
                self.send_to(at, frame)
            }
        }
    }

    /// Sends `payload` to `to`, copying it behind a relay's header where one is needed.
    ///
    /// # Errors
    /// As [`Self::send_with_headroom`].
    pub fn send(&self, to: Destination, payload: &[u8]) -> io::Result<()> {
        match to {
            Destination::Udp(endpoint) => self.send_to(endpoint, payload),
            Destination::Relay { .. } => {
                let mut frame = vec![0; DATA_HEADER_LEN];
                frame.extend_from_slice(payload);
                self.send_with_headroom(to, &mut frame)
            }
        }
    }
}
