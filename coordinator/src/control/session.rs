//! One session, from the hello to its end.

use super::handshake::Greeted;
use super::hub::{Cut, Hub, Seat, Standing};
use super::outbox::{Outbox, is_large};
use super::{
    ADMISSION_RETRY, FAREWELL_LIMIT, KEEPALIVE, RATE_LIMIT, RATE_WINDOW, SILENCE_LIMIT, SNAPSHOT_INTERVAL,
    STALL_LIMIT, refusal,
};
use crate::clock;
use crate::netmap::View;
use crate::service::{Actor, RegisterError, RegisterRequest};
use meshd_proto::channel::{ChannelError, Frames, Opener, Sealer};
use meshd_proto::control::{
    Answer, Call, Hello, MapPosition, Offer, PROTOCOL_VERSION, Refusal, ToCoordinator, ToNode,
};
use meshd_proto::permit::{PERMIT_RENEWAL, Permit};
use meshd_proto::token::TokenSecret;
use meshd_proto::{DecodeError, Epoch, MachineKey, MapDigest, NodeKey, Version};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Instant, sleep_until, timeout};

/// Bytes read at once.
const READ_BYTES: usize = 16 * 1024;
/// The map compiler must have caught up with a registration by then.
const VIEW_LIMIT: Duration = Duration::from_secs(20);
/// With more than this waiting to be written, nothing is read: a node that asks and does not listen.
const WRITE_BACKLOG: usize = 512 * 1024;

/// Why a session ends without a word to the node.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Channel(#[from] ChannelError),
    #[error("an unreadable message: {0}")]
    Decode(#[from] DecodeError),
    #[error("{0}")]
    Misbehaved(&'static str),
    #[error("hung up")]
    HungUp,
}

/// How a session ends in order.
enum End {
    Left,
    Told(ToNode),
    Replaced,
}

struct Session {
    seat: Seat,
    node_key: NodeKey,
    sealer: Sealer,
    opener: Opener,
    /// Sealed, not yet written.
    out: Vec<u8>,
    outbox: Outbox,
    wants_snapshot: bool,
    /// The node key has ended.
    expired: bool,
    last_snapshot: Option<Instant>,
    retry_admission: Option<Instant>,
    /// The newest offer that came too soon after others, and when it is taken.
    offer: Option<(Offer, Instant)>,
    nonce: u64,
    /// Messages in the present window, and when it ends.
    rate: (u32, Instant),
}

/// Registers the node and serves its session.
pub(super) async fn serve<S, G>(hub: Arc<Hub>, mut io: S, peer: SocketAddr, greeted: Greeted, stranger: G)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
    G: Send,
{
    let Greeted { channel, frames, hello } = greeted;
    let machine = channel.machine();
    let (mut sealer, opener) = (channel.sealer, channel.opener);
    let node = match admit(&hub, &hello, machine, peer).await {
        Ok(node) => node,
        Err(refusal) => {
            tracing::info!(%peer, host = %hello.hostname, code = ?refusal.code, "a machine was not let in");
            farewell(&mut io, &mut sealer, Vec::new(), &ToNode::Refused(refusal)).await;
            return;
        }
    };
    drop(stranger);
    let version = hub.service().model().version;
    if timeout(VIEW_LIMIT, hub.reach(version)).await.is_err() {
        farewell(&mut io, &mut sealer, Vec::new(), &ToNode::Refused(refusal::busy())).await;
        return;
    }
    let (seat, standing) = hub.open(node, peer, hello.resume.as_ref());
    let model = hub.view().model().clone();
    let nowhere = MapPosition {
        network: model.network,
        epoch: Epoch(0),
        version: Version(0),
        digest: MapDigest::EMPTY,
    };
    // What it publishes is taken as from a running session: with the others that were offered.
    let published = |n: &Arc<crate::model::NodeRecord>| !n.publishing.is_empty();
    let publishes = hello.offer.exit.is_some() || !hello.offer.claims.is_empty();
    let offers = publishes || model.nodes.get(&node).is_some_and(published);
    let mut session = Session {
        seat,
        node_key: hello.node_key,
        sealer,
        opener,
        out: Vec::new(),
        outbox: Outbox::new(hello.resume.unwrap_or(nowhere)),
        wants_snapshot: matches!(standing, Standing::Unknown),
        expired: false,
        last_snapshot: None,
        retry_admission: None,
        offer: offers.then(|| (hello.offer.clone(), clock::timer_now())),
        nonce: 0,
        rate: (0, clock::timer_now() + RATE_WINDOW),
    };
    tracing::debug!(%peer, %node, "session");
    match session.run(&mut io, frames).await {
        Ok(End::Told(last)) => farewell(&mut io, &mut session.sealer, session.out, &last).await,
        Ok(End::Left | End::Replaced) => {}
        Err(error) => tracing::debug!(%peer, %node, %error, "session ended"),
    }
}

async fn admit(
    hub: &Hub,
    hello: &Hello,
    machine: MachineKey,
    peer: SocketAddr,
) -> Result<meshd_proto::NodeId, Refusal> {
    if hello.protocol != PROTOCOL_VERSION {
        return Err(refusal::protocol(hello.protocol, PROTOCOL_VERSION));
    }
    let secret = hello.token_secret.as_ref().and_then(|t| <[u8; 16]>::try_from(t.as_slice()).ok());
    let request = RegisterRequest {
        machine_key: machine,
        node_key: hello.node_key,
        token: secret.map(TokenSecret::from_bytes),
        hostname: hello.hostname.to_string(),
        machine_id_hash: Some(hello.machine_id).filter(|id| *id != [0; 32]),
        advertised: hello.offer.routes.iter().copied().collect(),
        exit: hello.offer.exit_node,
        ephemeral: hello.ephemeral,
        os: hello.os.clone(),
        client_version: hello.client_version.clone(),
        remote: Some(peer.ip()),
    };
    match hub.service().register(&request, clock::unix_now()).await {
        Ok(registration) if registration.admitted => Ok(registration.node),
        Ok(_) => Err(refusal::pending()),
        Err(error) => Err(refusal::of(&error)),
    }
}

/// Says a last word, if it can be said quickly.
async fn farewell<S: AsyncWrite + Unpin>(io: &mut S, sealer: &mut Sealer, mut out: Vec<u8>, last: &ToNode) {
    if sealer.seal(&last.encode(), &mut out).is_ok() {
        let say = async {
            io.write_all(&out).await?;
            io.flush().await?;
            io.shutdown().await
        };
        let _ = timeout(FAREWELL_LIMIT, say).await;
    }
}

impl Session {
    async fn run<S>(&mut self, io: &mut S, mut frames: Frames) -> Result<End, SessionError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (network, time) = (self.seat.hub().view().model().network, clock::unix_now());
        self.send(&ToNode::Welcome { node: self.seat.node, network, time })?;
        self.send_permit()?;
        let (mut reader, mut writer) = tokio::io::split(io);
        let mut buffer = vec![0; READ_BYTES];
        let mut heard = clock::timer_now();
        let mut moved = clock::timer_now();
        let mut keepalive = tokio::time::interval_at(clock::timer_now() + KEEPALIVE, KEEPALIVE);
        let renewal = Duration::from_secs(PERMIT_RENEWAL);
        let mut permit = tokio::time::interval_at(clock::timer_now() + renewal, renewal);
        let mailbox = self.seat.mailbox.clone();
        loop {
            while let Some(frame) = frames.next_frame()? {
                let message = self.opener.open(frame)?;
                let Some(message) = message else { continue };
                if let Some(end) = self.handle(&message).await? {
                    return Ok(end);
                }
            }
            if let Some(cut) = mailbox.cut() {
                return Ok(last_word(cut));
            }
            self.fill()?;
            if self.expired {
                return Ok(End::Told(ToNode::Refused(refusal::expired())));
            }
            let stalled = if self.out.is_empty() { None } else { Some(moved + STALL_LIMIT) };
            let deadline = stalled.map_or(heard + SILENCE_LIMIT, |s| s.min(heard + SILENCE_LIMIT));
            let due = self.outbox.due();
            let offer_at = self.offer.as_ref().map(|(_, at)| *at);
            let deadline =
                [self.retry_admission, due, offer_at].into_iter().flatten().fold(deadline, Instant::min);
            tokio::select! {
                // Revocation first: a session that is cut does not go on reading.
                biased;
                () = mailbox.bell.notified() => {},
                written = writer.write(&self.out), if !self.out.is_empty() => {
                    let n = written?;
                    if n == 0 {
                        return Err(SessionError::HungUp);
                    }
                    self.out.drain(..n);
                    moved = clock::timer_now();
                    if self.out.is_empty() {
                        writer.flush().await?;
                        self.out.shrink_to(READ_BYTES);
                    }
                },
                read = reader.read(&mut buffer), if self.out.len() < WRITE_BACKLOG => {
                    let n = read?;
                    if n == 0 {
                        return Err(SessionError::HungUp);
                    }
                    heard = clock::timer_now();
                    frames.push(&buffer[..n]);
                },
                _ = keepalive.tick() => self.keepalive()?,
                _ = permit.tick() => self.send_permit()?,
                () = sleep_until(deadline) => {
                    let now = clock::timer_now();
                    if self.retry_admission.is_some_and(|r| r <= now) {
                        self.retry_admission = None;
                    } else if let Some((offer, _)) = self.offer.take_if(|(_, at)| *at <= now) {
                        self.advertise(offer).await;
                    } else if due.is_some_and(|d| d <= now) {
                        return Err(SessionError::Misbehaved("does not acknowledge what it got"));
                    } else if stalled.is_some_and(|s| s <= now) {
                        return Err(SessionError::Misbehaved("does not read what it is sent"));
                    } else if heard + SILENCE_LIMIT <= now {
                        return Err(SessionError::Misbehaved("has gone silent"));
                    }
                },
            }
            // An empty buffer that gets something has not stalled since before.
            if self.out.is_empty() {
                moved = clock::timer_now();
            }
        }
    }

    fn send(&mut self, message: &ToNode) -> Result<(), ChannelError> {
        self.sealer.seal(&message.encode(), &mut self.out)
    }

    fn send_permit(&mut self) -> Result<(), ChannelError> {
        let now = clock::unix_now();
        let network = self.seat.hub().view().model().network;
        let key = &self.seat.hub().service().keys().signing;
        let permit = Permit::issue(network, self.node_key, now.0, key, now);
        self.send(&ToNode::Permit(permit.as_bytes().to_vec()))
    }

    fn keepalive(&mut self) -> Result<(), ChannelError> {
        let view = self.seat.hub().view();
        self.check_expiry(&view);
        self.nonce += 1;
        let time = clock::unix_now();
        self.send(&ToNode::Keepalive { position: self.outbox.expected(), time, nonce: self.nonce })
    }

    fn check_expiry(&mut self, view: &View) {
        let node = view.model().nodes.get(&self.seat.node);
        self.expired = node.is_some_and(|n| n.is_expired(clock::unix_now()));
    }

    /// Puts what is to be sent into `out`, when that is empty and the node has taken what it got.
    fn fill(&mut self) -> Result<(), ChannelError> {
        if !self.out.is_empty() {
            return Ok(());
        }
        let hints = self.seat.take_hints();
        for some in hints.chunks(64) {
            self.send(&ToNode::Hints(some.to_vec()))?;
        }
        if !self.outbox.is_busy() && self.retry_admission.is_none() {
            self.begin_update();
        }
        if let Some(part) = self.outbox.next_part() {
            self.send(&ToNode::Map(part))?;
            metrics::counter!("meshd_coordinator_map_bytes_total").increment(self.out.len() as u64);
        }
        Ok(())
    }

    fn begin_update(&mut self) {
        if self.wants_snapshot {
            let soon =
                self.last_snapshot.map(|at| at + SNAPSHOT_INTERVAL).filter(|next| *next > clock::timer_now());
            if soon.is_some() {
                self.retry_admission = soon;
                return;
            }
            let Some(admission) = self.seat.hub().admit() else {
                self.retry_admission = Some(clock::timer_now() + ADMISSION_RETRY);
                return;
            };
            let view = self.seat.take_whole();
            // Without a map there is a cut on its way.
            let (Some(whole), Some(to)) = (view.snapshot(self.seat.node), view.position(self.seat.node))
            else {
                return;
            };
            self.wants_snapshot = false;
            self.last_snapshot = Some(clock::timer_now());
            let admission = Some(admission).filter(|_| is_large(&whole));
            self.outbox.begin(whole, to, true, admission, clock::timer_now());
            return;
        }
        if !self.seat.mailbox.is_behind() {
            return;
        }
        let Some((view, step)) = self.seat.take_step() else { return };
        self.check_expiry(&view);
        let Some(delta) = view.diff(&step, self.seat.node, self.outbox.at.digest) else { return };
        if delta.is_empty() {
            return;
        }
        let admission = if is_large(&delta) {
            let Some(admission) = self.seat.hub().admit() else {
                self.seat.put_back(step.before.clone());
                self.retry_admission = Some(clock::timer_now() + ADMISSION_RETRY);
                return;
            };
            Some(admission)
        } else {
            None
        };
        let model = view.model();
        let to = MapPosition {
            network: model.network,
            epoch: model.epoch,
            version: model.version,
            digest: delta.digest,
        };
        self.outbox.begin(delta, to, false, admission, clock::timer_now());
    }

    async fn handle(&mut self, message: &[u8]) -> Result<Option<End>, SessionError> {
        let now = clock::timer_now();
        if self.rate.1 <= now {
            self.rate = (0, now + RATE_WINDOW);
        }
        self.rate.0 += 1;
        if self.rate.0 > RATE_LIMIT {
            return Err(SessionError::Misbehaved("sends too many messages"));
        }
        let message = match ToCoordinator::decode(message) {
            Ok(message) => message,
            Err(DecodeError::UnknownKind) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let node = self.seat.node;
        match message {
            ToCoordinator::Hello(_) => return Err(SessionError::Misbehaved("says hello twice")),
            ToCoordinator::Applied(position) => {
                if self.outbox.applied(position) {
                    self.seat.hub().service().note_applied(node, position.version);
                } else {
                    tracing::warn!(%node, "the node applied something else: sending the whole map");
                    self.outbox.abandon();
                    self.wants_snapshot = true;
                }
            }
            ToCoordinator::NeedSnapshot => {
                self.outbox.abandon();
                self.wants_snapshot = true;
            }
            ToCoordinator::Advertise(offer) => self.advertise(offer).await,
            ToCoordinator::Endpoints { endpoints, home_relay } => {
                self.seat.hub().place(node, endpoints, home_relay);
            }
            ToCoordinator::Interest(nodes) => self.seat.hub().want(node, &nodes),
            ToCoordinator::Paths(paths) => {
                self.seat.hub().service().note_paths(node, paths, clock::unix_now());
            }
            ToCoordinator::Alive { .. } => {}
            ToCoordinator::Leave => {
                if let Err(error) = self.seat.hub().service().leave(node, clock::unix_now()).await {
                    // Without a last word the node says that it could not be told.
                    tracing::error!(%node, %error, "a node could not leave");
                    return Ok(Some(End::Left));
                }
                return Ok(Some(End::Told(ToNode::Revoked { reason: "this node has left".to_owned() })));
            }
            ToCoordinator::Call { id, call } => {
                let answer = self.answer(call).await;
                self.send(&ToNode::Reply { id, answer })?;
            }
        }
        Ok(None)
    }

    async fn advertise(&mut self, offer: Offer) {
        self.offer = None;
        let routes: BTreeSet<_> = offer.routes.iter().copied().collect();
        let service = self.seat.hub().service();
        let (name, node, now) = (offer.hostname.as_ref(), self.seat.node, clock::unix_now());
        let mut taken = service.advertise(node, &routes, offer.exit_node, name, now).await;
        if taken.is_ok() {
            taken = service.publish(node, offer.exit.as_ref(), &offer.claims, now).await;
        }
        match taken {
            Ok(()) => {}
            // The newest counts, and it counts in the end: what came before it is no loss.
            Err(RegisterError::TooOften { wait }) => {
                self.offer = Some((offer, clock::timer_now() + Duration::from_secs(wait)));
            }
            Err(error) => tracing::warn!(node = %self.seat.node, %error, "an offer was not taken"),
        }
    }

    async fn answer(&self, call: Call) -> Answer {
        let (service, node, now) = (self.seat.hub().service(), self.seat.node, clock::unix_now());
        let actor = Actor::Node(node);
        let result = match call {
            Call::CreateDevice { name, key } => {
                let device = service.create_device(&actor, node, &name, key, now).await;
                device.map(|d| Answer::Device { node: d.node, addrs: d.addrs })
            }
            Call::RemoveDevice { name } => {
                service.remove_device(&actor, node, &name, now).await.map(|()| Answer::Done)
            }
        };
        result.unwrap_or_else(|e| Answer::Failed { message: e.to_string(), hint: String::new() })
    }
}

fn last_word(cut: Cut) -> End {
    match cut {
        Cut::Replaced => End::Replaced,
        Cut::Revoked => End::Told(ToNode::Revoked { reason: "an admin revoked this node".to_owned() }),
        Cut::Removed => {
            End::Told(ToNode::Revoked { reason: "this node was removed from the mesh".to_owned() })
        }
        Cut::NotAdmitted => End::Told(ToNode::Refused(refusal::pending())),
    }
}
