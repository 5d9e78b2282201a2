//! Sockets around the relay's core: one task owns the core and all sockets, and answers commands.
//!
//! A datagram is forwarded at once from the buffer it came in; where the outgoing socket would block it is
//! dropped and counted, so nothing waits here longer than the kernel's send buffer. Runs of datagrams
//! between the same two nodes go in one system call (GRO in, GSO out).
//!
//! It never forks tasks of its own beside that one, and the task ends with its handle.

mod socket;
mod streams;

use crate::clock;
use crate::forwarder::{Counters, DropReason, Forward, Local, RelayLimits, RelayServer};
use meshd_proto::{Endpoint, NetworkId, NodeKey, NodeSecret, VerifyingKey};
use quinn_udp::EcnCodepoint;
use socket::{Received, RelaySocket};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use streams::{StreamInput, Streams};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

/// Receive calls per socket before the others, timers and commands get their turn.
const TURN: usize = 8;
/// Frames of streams before sockets, timers and commands get their turn.
const STREAM_TURN: usize = 64;
/// Most addresses one relay listens on.
pub const MAX_LISTEN: usize = 64;

/// How to run a relay.
#[derive(Debug)]
pub struct RelayConfig {
    /// Addresses for relaying and STUN. A wildcard IPv6 address is skipped, with a warning, on a host
    /// without IPv6.
    pub listen: Vec<SocketAddr>,
    /// A second port on the same addresses that answers STUN only; `None`: none. Port 0 picks one.
    pub alt_port: Option<u16>,
    /// The relay's key, which the network map names.
    pub key: NodeSecret,
    /// The network it serves.
    pub network: NetworkId,
    /// Who signs permits: the coordinator's key, and its successor during a rotation.
    pub permit_keys: Vec<VerifyingKey>,
    /// Bounds.
    pub limits: RelayLimits,
}

/// Why a relay cannot start.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// An address is taken or not ours.
    #[error("the relay cannot listen on UDP {addr}: {source}; choose another port or stop what uses it")]
    Bind {
        /// The address.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Nothing to listen on, or more than [`MAX_LISTEN`].
    #[error("the relay needs between 1 and {MAX_LISTEN} addresses to listen on")]
    Addresses,
    /// No random numbers.
    #[error("the system gives no random numbers")]
    Entropy,
}

/// A running relay. Dropping it stops the relay without a word to its clients; see
/// [`RelayHandle::shutdown`].
#[derive(Debug)]
pub struct RelayHandle {
    control: RelayControl,
    task: JoinSet<()>,
    public: NodeKey,
    addrs: Vec<SocketAddr>,
    alt_addrs: Vec<SocketAddr>,
}

/// Sends commands to a running relay; cheap to clone and to keep elsewhere.
#[derive(Clone, Debug)]
pub struct RelayControl {
    commands: mpsc::Sender<Command>,
    streams: mpsc::Sender<StreamInput>,
}

#[derive(Debug)]
enum Command {
    Revoke(NodeKey),
    Reinstate(NodeKey),
    SetMembers(BTreeSet<NodeKey>),
    SetPermitKeys(Vec<VerifyingKey>),
    Counters(oneshot::Sender<Counters>),
    Stop(oneshot::Sender<Counters>),
}

impl RelayHandle {
    /// Binds the sockets and starts the relay. Needs a tokio runtime around it.
    ///
    /// # Errors
    /// When no address can be bound.
    pub fn spawn(config: RelayConfig) -> Result<Self, RelayError> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|_| RelayError::Entropy)?;
        let mut sockets = Vec::new();
        for addr in &config.listen {
            sockets.extend(open(*addr, false)?);
        }
        if sockets.is_empty() || config.listen.len() > MAX_LISTEN {
            return Err(RelayError::Addresses);
        }
        if let Some(port) = config.alt_port {
            for addr in &config.listen {
                sockets.extend(open(SocketAddr::new(addr.ip(), port), true)?);
            }
        }
        let addrs_of = |alt| sockets.iter().filter(|s| s.stun_only == alt).map(|s| s.addr).collect();
        let (addrs, alt_addrs) = (addrs_of(false), addrs_of(true));
        let public = config.key.public();
        let other_ports = other_ports(&sockets);
        let mut server = RelayServer::new(
            config.network,
            config.permit_keys,
            config.key,
            config.limits,
            seed,
            clock::now(),
        );
        server.set_other_ports(other_ports);
        let (commands, receiver) = mpsc::channel(64);
        let (streams, stream_input) = mpsc::channel(streams::QUEUE);
        let mut task = JoinSet::new();
        task.spawn(serve(server, sockets, receiver, stream_input));
        let control = RelayControl { commands, streams };
        Ok(Self { control, task, public, addrs, alt_addrs })
    }

    /// The relay's public key.
    pub const fn public_key(&self) -> NodeKey {
        self.public
    }

    /// Where it listens, with the ports that were picked.
    pub fn addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }

    /// Where it answers STUN only.
    pub fn alt_addrs(&self) -> &[SocketAddr] {
        &self.alt_addrs
    }

    /// For who revokes nodes or reads counters elsewhere.
    pub fn control(&self) -> RelayControl {
        self.control.clone()
    }

    /// Detaches a node key at once and admits it no more.
    pub async fn revoke(&self, node: NodeKey) {
        self.control().revoke(node).await;
    }

    /// What the relay did so far.
    pub async fn counters(&self) -> Counters {
        self.control().counters().await
    }

    /// Tells every client that the relay stops, closes the sockets, and says what was done in all.
    pub async fn shutdown(mut self) -> Counters {
        let (reply, answer) = oneshot::channel();
        let sent = self.control.commands.send(Command::Stop(reply)).await;
        let counters = if sent.is_ok() { answer.await.unwrap_or_default() } else { Counters::default() };
        while self.task.join_next().await.is_some() {}
        counters
    }
}

impl RelayControl {
    /// Detaches a node key at once and admits it no more.
    pub async fn revoke(&self, node: NodeKey) {
        self.send(Command::Revoke(node)).await;
    }

    /// Takes a revocation back, or adds a member.
    pub async fn reinstate(&self, node: NodeKey) {
        self.send(Command::Reinstate(node)).await;
    }

    /// From now on only these keys are admitted, permit or not; see [`RelayServer::set_members`].
    pub async fn set_members(&self, members: BTreeSet<NodeKey>) {
        self.send(Command::SetMembers(members)).await;
    }

    /// Replaces the keys that permits may be signed with.
    pub async fn set_permit_keys(&self, keys: Vec<VerifyingKey>) {
        self.send(Command::SetPermitKeys(keys)).await;
    }

    /// What the relay did so far; zeros when it has stopped.
    pub async fn counters(&self) -> Counters {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Counters(reply)).await;
        answer.await.unwrap_or_default()
    }

    /// A relay that has stopped serves nobody, so a command that it no longer hears is carried out.
    async fn send(&self, command: Command) {
        if self.commands.send(command).await.is_err() {
            tracing::debug!("the relay has stopped");
        }
    }
}

fn open(addr: SocketAddr, stun_only: bool) -> Result<Option<RelaySocket>, RelayError> {
    match RelaySocket::bind(addr, stun_only) {
        Ok(socket) => Ok(Some(socket)),
        Err(e) if addr.is_ipv6() && addr.ip().is_unspecified() && socket::lacks_family(&e) => {
            tracing::warn!(%addr, "this host has no IPv6: the relay serves IPv4 only");
            Ok(None)
        }
        Err(source) => Err(RelayError::Bind { addr, source }),
    }
}

/// Sockets of one address and two ports, both ways.
fn other_ports(sockets: &[RelaySocket]) -> BTreeMap<u8, u8> {
    let mut pairs = BTreeMap::new();
    for (i, one) in sockets.iter().enumerate() {
        let other = sockets.iter().position(|s| s.addr.ip() == one.addr.ip() && s.stun_only != one.stun_only);
        if let Some(other) = other {
            pairs.insert(i as u8, other as u8);
        }
    }
    pairs
}

/// Everything that frames leave by.
struct Ports {
    sockets: Vec<RelaySocket>,
    streams: Streams,
}

async fn serve(
    mut server: RelayServer,
    sockets: Vec<RelaySocket>,
    mut commands: mpsc::Receiver<Command>,
    mut stream_input: mpsc::Receiver<StreamInput>,
) {
    let mut ports = Ports { sockets, streams: Streams::default() };
    let mut from_streams = Vec::with_capacity(STREAM_TURN);
    let mut buffers = socket::Buffers::new();
    let mut turn = 0;
    loop {
        let wake = tokio::time::Instant::from_std(server.poll_timeout());
        tokio::select! {
            command = commands.recv() => {
                let Some(command) = command else { return };
                if obey(&mut server, &ports, command).is_break() {
                    return;
                }
            }
            () = tokio::time::sleep_until(wake) => server.handle_timeout(clock::wall(), clock::now()),
            _ = stream_input.recv_many(&mut from_streams, STREAM_TURN) => {
                for input in from_streams.drain(..) {
                    streams::handle(&mut server, &mut ports, input);
                }
                tokio::task::yield_now().await;
            }
            ready = socket::any_readable(&ports.sockets, turn) => {
                turn = ready + 1;
                for _ in 0..TURN {
                    if !receive(&mut server, &ports, ready, &mut buffers) {
                        break;
                    }
                }
                tokio::task::yield_now().await;
            }
        }
    }
}

fn obey(server: &mut RelayServer, ports: &Ports, command: Command) -> ControlFlow<()> {
    match command {
        Command::Revoke(node) => server.revoke(node, clock::wall()),
        Command::Reinstate(node) => server.reinstate(node),
        Command::SetMembers(members) => server.set_members(members),
        Command::SetPermitKeys(keys) => server.set_permit_keys(keys),
        // The asker may have gone; then nobody wants the answer.
        Command::Counters(reply) => _ = reply.send(server.counters()),
        Command::Stop(reply) => {
            let counters = server.counters();
            server.stop();
            send_answers(server, ports);
            _ = reply.send(counters);
            return ControlFlow::Break(());
        }
    }
    ControlFlow::Continue(())
}

/// One receive call and all that it leads to. False when there was nothing more.
fn receive(server: &mut RelayServer, ports: &Ports, index: usize, buffers: &mut socket::Buffers) -> bool {
    let Some(socket) = ports.sockets.get(index) else { return false };
    let Ok(count) = socket.receive(buffers) else { return false };
    let (wall, now) = (clock::wall(), clock::now());
    for slot in 0..count {
        let Some(Received { from, local_ip, bytes, stride, ecn }) = buffers.slot(slot) else { continue };
        let local = Local { socket: index as u8, ip: local_ip };
        let from = Endpoint::canonical(from);
        if socket.stun_only {
            bytes.chunks(stride).for_each(|datagram| server.handle_stun(local, from, datagram));
        } else {
            // Neighbours in the buffer that go the same way leave together.
            let mut run: Option<(Forward, std::ops::Range<usize>)> = None;
            let mut at = 0;
            while at < bytes.len() {
                let end = (at + stride).min(bytes.len());
                let forward = server.handle_datagram(local, from, &mut bytes[at..end], wall, now);
                run = match (run, forward) {
                    (Some((to, span)), Some(next)) if to == next => Some((to, span.start..end)),
                    (previous, next) => {
                        if let Some((to, span)) = previous {
                            send_run(server, ports, to, &bytes[span], stride, ecn);
                        }
                        next.map(|to| (to, at..end))
                    }
                };
                at = end;
            }
            if let Some((to, span)) = run {
                send_run(server, ports, to, &bytes[span], stride, ecn);
            }
        }
        send_answers(server, ports);
    }
    count > 0
}

fn send_run(
    server: &mut RelayServer,
    ports: &Ports,
    to: Forward,
    run: &[u8],
    stride: usize,
    ecn: Option<EcnCodepoint>,
) {
    if to.from.socket == streams::SOCKET {
        run.chunks(stride).for_each(|frame| ports.streams.send(server, to.to, frame));
        return;
    }
    let Some(socket) = ports.sockets.get(usize::from(to.from.socket)) else { return };
    for part in run.chunks(stride * socket.max_segments(stride)) {
        if let Err(e) = socket.send(to.to, to.from.ip, part, stride, ecn) {
            server.note_unsent(unsent(&e), part.len().div_ceil(stride) as u64);
        }
    }
}

fn send_answers(server: &mut RelayServer, ports: &Ports) {
    while let Some(transmit) = server.poll_transmit() {
        if transmit.from.socket == streams::SOCKET {
            ports.streams.send(server, transmit.to, &transmit.payload);
            continue;
        }
        let Some(socket) = ports.sockets.get(usize::from(transmit.from.socket)) else { continue };
        let len = transmit.payload.len();
        if let Err(e) = socket.send(transmit.to, transmit.from.ip, &transmit.payload, len, None) {
            server.note_unsent(unsent(&e), 1);
        }
    }
}

fn unsent(error: &io::Error) -> DropReason {
    if error.kind() == io::ErrorKind::WouldBlock { DropReason::Congested } else { DropReason::SendFailed }
}
