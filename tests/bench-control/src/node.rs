//! A simulated node: the real control protocol, without a data plane behind it.

use crate::clock;
use anyhow::{Result, bail};
use meshd_proto::channel::{Channel, Frames, Greeting, Initiator, prove_possession};
use meshd_proto::control::{Hello, MapPosition, Offer, PROTOCOL_VERSION, ToCoordinator, ToNode};
use meshd_proto::netmap::MapUpdate;
use meshd_proto::{Hostname, MachineSecret, NetworkId, NetworkMap, NodeId, NodeSecret, keys};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

/// Operating system that the nodes name.
pub(crate) const OS: &str = "linux";
/// Version that the nodes name.
pub(crate) const CLIENT_VERSION: &str = "bench";

/// The machine key of node `i`.
pub(crate) fn machine(i: usize) -> MachineSecret {
    MachineSecret::from_bytes(keys::hash("bench machine", &[&i.to_le_bytes()]))
}

/// The WireGuard key of node `i`.
pub(crate) fn node_secret(i: usize) -> NodeSecret {
    NodeSecret::from_bytes(keys::hash("bench node", &[&i.to_le_bytes()]))
}

/// The machine id of node `i`.
pub(crate) fn machine_id(i: usize) -> [u8; 32] {
    keys::hash("bench machine id", &[&i.to_le_bytes()])
}

/// The name of node `i`.
pub(crate) fn name(i: usize) -> String {
    format!("node-{i}")
}

/// What a node has counted, read by the measurement while it runs.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Bytes of sealed messages with map updates.
    pub(crate) map_bytes: AtomicU64,
    /// Bytes of sealed messages with hints.
    pub(crate) hint_bytes: AtomicU64,
    /// Complete updates.
    pub(crate) updates: AtomicU64,
    /// Sessions that were welcomed.
    pub(crate) welcomes: AtomicU64,
    /// The id in the mesh.
    pub(crate) id: AtomicU64,
    /// A digest was wrong, or the node was refused.
    pub(crate) broken: AtomicBool,
}

/// A simulated node.
#[derive(Debug)]
pub(crate) struct SimNode {
    /// Its number.
    pub(crate) index: usize,
    /// Which mesh.
    pub(crate) network: NetworkId,
    /// What it counts.
    pub(crate) counters: Arc<Counters>,
    /// What it is told to say.
    pub(crate) orders: mpsc::Receiver<ToCoordinator>,
    /// Where its map is.
    pub(crate) position: Option<MapPosition>,
    /// The whole map, in nodes that check digests.
    pub(crate) map: Option<NetworkMap>,
    /// What came of an update so far, in those nodes.
    pub(crate) parts: Option<MapUpdate>,
}

impl SimNode {
    /// Holds a session, and comes back when it is lost, until dropped. The address may change meanwhile.
    pub(crate) async fn run(mut self, address: Arc<Mutex<String>>) {
        let mut seed = self.index as u64;
        loop {
            let at = address.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if let Err(error) = self.session(&at).await
                && error.to_string().contains("refused:")
            {
                eprintln!("node {}: {error}", self.index);
                self.counters.broken.store(true, Ordering::Relaxed);
                return;
            }
            // As the real client: back within a second, spread evenly.
            seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            tokio::time::sleep(Duration::from_millis(250 + (seed >> 33) % 750)).await;
        }
    }

    async fn session(&mut self, address: &str) -> Result<()> {
        self.parts = None;
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        stream
            .write_all(b"GET /control HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: meshd-control\r\n\r\n")
            .await?;
        let mut head = Vec::new();
        let end = loop {
            if let Some(at) = head.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            if stream.read_buf(&mut head).await? == 0 {
                bail!("hung up");
            }
        };
        let mut frames = Frames::handshake();
        frames.push(&head[end..]);
        let mut channel = self.handshake(&mut stream, &mut frames).await?;
        let mut out = Vec::new();
        let mut buffer = vec![0; 16 * 1024];
        loop {
            while let Some(frame) = frames.next_frame()? {
                let bytes = frame.len() as u64 + 2;
                let Some(message) = channel.opener.open(frame)? else { continue };
                if let Some(answer) =
                    self.handle(ToNode::decode(&message)?, bytes.max(message.len() as u64))?
                {
                    channel.sealer.seal(&answer.encode(), &mut out)?;
                }
            }
            if !out.is_empty() {
                stream.write_all(&out).await?;
                out.clear();
            }
            tokio::select! {
                n = stream.read(&mut buffer) => match n? {
                    0 => bail!("hung up"),
                    n => frames.push(&buffer[..n]),
                },
                order = self.orders.recv() => match order {
                    Some(order) => channel.sealer.seal(&order.encode(), &mut out)?,
                    None => return Ok(()),
                },
            }
        }
    }

    async fn handshake(&self, stream: &mut TcpStream, frames: &mut Frames) -> Result<Channel> {
        let Greeting(keys) = Greeting::parse(&next_frame(stream, frames).await?)?;
        let machine = machine(self.index);
        let (initiator, first) = Initiator::new(&machine, &keys.control, self.network)?;
        stream.write_all(&first).await?;
        let mut channel = initiator.finish(&next_frame(stream, frames).await?)?;
        frames.allow_transport();
        let secret = node_secret(self.index);
        let proof = prove_possession(&secret, &keys.control, &machine.public(), &channel.handshake_hash);
        let Some(node_key_proof) = proof else { bail!("a degenerate key") };
        let hello = ToCoordinator::Hello(Box::new(Hello {
            protocol: PROTOCOL_VERSION,
            node_key: secret.public(),
            node_key_proof,
            token_secret: None,
            hostname: Hostname::sanitized(&name(self.index)),
            machine_id: machine_id(self.index),
            client_version: CLIENT_VERSION.to_owned(),
            os: OS.to_owned(),
            ephemeral: false,
            offer: Offer::default(),
            resume: self.position,
        }));
        let mut out = Vec::new();
        channel.sealer.seal(&hello.encode(), &mut out)?;
        stream.write_all(&out).await?;
        Ok(channel)
    }

    fn handle(&mut self, message: ToNode, bytes: u64) -> Result<Option<ToCoordinator>> {
        match message {
            ToNode::Welcome { node: NodeId(id), .. } => {
                self.counters.id.store(id, Ordering::Relaxed);
                self.counters.welcomes.fetch_add(1, Ordering::Relaxed);
                Ok(None)
            }
            ToNode::Map(update) => {
                self.counters.map_bytes.fetch_add(bytes, Ordering::Relaxed);
                self.apply(update)
            }
            ToNode::Hints(_) => {
                self.counters.hint_bytes.fetch_add(bytes, Ordering::Relaxed);
                Ok(None)
            }
            ToNode::Keepalive { nonce, position, .. } => {
                if self.position != Some(position) {
                    self.counters.broken.store(true, Ordering::Relaxed);
                }
                Ok(Some(ToCoordinator::Alive { nonce }))
            }
            ToNode::Refused(refusal) => bail!("refused: {}", refusal.message),
            ToNode::Revoked { reason } => bail!("refused: {reason}"),
            ToNode::Permit(_) | ToNode::Reply { .. } => Ok(None),
        }
    }

    fn apply(&mut self, update: MapUpdate) -> Result<Option<ToCoordinator>> {
        if self.map.is_some() {
            match &mut self.parts {
                Some(parts) => parts.append(update.clone())?,
                None => self.parts = Some(update.clone()),
            }
        }
        if update.more {
            return Ok(None);
        }
        if let (Some(map), Some(whole)) = (&mut self.map, self.parts.take()) {
            match map.apply(&whole) {
                Ok(next) => *map = next,
                Err(error) => {
                    self.counters.broken.store(true, Ordering::Relaxed);
                    bail!("node {}: {error}", self.index);
                }
            }
        }
        let position = MapPosition {
            network: update.network,
            epoch: update.epoch,
            version: update.to,
            digest: update.digest,
        };
        self.position = Some(position);
        self.counters.updates.fetch_add(1, Ordering::Relaxed);
        Ok(Some(ToCoordinator::Applied(position)))
    }
}

async fn next_frame(stream: &mut TcpStream, frames: &mut Frames) -> Result<Vec<u8>> {
    let begun = clock::now();
    loop {
        if let Some(frame) = frames.next_frame()? {
            return Ok(frame.to_vec());
        }
        let mut buffer = [0; 1024];
        let n = tokio::time::timeout(Duration::from_secs(30), stream.read(&mut buffer)).await??;
        if n == 0 {
            bail!("hung up after {:?}", begun.elapsed());
        }
        frames.push(&buffer[..n]);
    }
}
