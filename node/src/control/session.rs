//! One session: hello, map updates, hints, calls, keepalives, until it ends.

use super::dial::{Connection, dial};
use super::wishes::Asked;
use super::{Backoff, ControlClient, ControlEvent, Ended, SessionEnd, asked_in_vain};
use crate::clock;
use crate::dial::DialError;
use meshd_proto::channel::{ChannelError, Opener, Sealer, prove_possession};
use meshd_proto::control::{Hello, Offer, PROTOCOL_VERSION, RefusalCode, ToCoordinator, ToNode};
use meshd_proto::netmap::{ApplyError, MapUpdate};
use meshd_proto::permit::SignedPermit;
use meshd_proto::token::CoordinatorKeys;
use meshd_proto::{DecodeError, NodeId};
use meshd_relay::stream::push_out;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::time::sleep_until;
use zeroize::Zeroizing;

/// A coordinator that says nothing for so long is dead (it speaks every 20 s).
const SILENCE_LIMIT: Duration = Duration::from_secs(45);
/// The answer to a hello must have come by then; a busy coordinator admits snapshots in turn.
const WELCOME_LIMIT: Duration = Duration::from_secs(30);
/// Interest is renewed this often; the coordinator forgets it after five minutes.
const RENEW_INTEREST: Duration = Duration::from_secs(120);
/// A goodbye must be confirmed by then.
pub(super) const LEAVE_LIMIT: Duration = Duration::from_secs(5);
/// Bytes read at once.
const READ_BYTES: usize = 32 * 1024;
/// With more than this waiting to be written, commands wait.
const WRITE_BACKLOG: usize = 256 * 1024;

/// The bytes and keys of one session.
struct Wire {
    sealer: Sealer,
    opener: Opener,
    keys: CoordinatorKeys,
    address: String,
    /// Sealed, not yet written.
    out: Vec<u8>,
    /// Parts of an update that is not complete yet.
    parts: Option<MapUpdate>,
    node: Option<NodeId>,
    told: Told,
}

/// How many of the owner's wishes of each kind this session has told.
#[derive(Default)]
struct Told {
    offer: u64,
    endpoints: u64,
    interest: u64,
    paths: u64,
}

impl Wire {
    fn send(&mut self, message: &ToCoordinator) -> Result<(), ChannelError> {
        self.sealer.seal(&Zeroizing::new(message.encode()), &mut self.out)
    }
}

impl ControlClient {
    /// Dials and holds one session until it ends.
    pub(super) async fn one_session(&mut self, backoff: &mut Backoff) -> SessionEnd {
        // What was wished before is answered by this one.
        self.reconnects = self.wishes.borrow_and_update().reconnects;
        let connection = match self.dialled().await {
            Ok(Ok(connection)) => connection,
            Ok(Err(e)) => return SessionEnd::Lost(e.to_string()),
            Err(end) => return end,
        };
        match self.hold(connection, backoff).await {
            Ok(end) => end,
            Err(_) if self.leaving => SessionEnd::Final(self.left(false).await),
            Err(e) => SessionEnd::Lost(e),
        }
    }

    /// Dials, and stops for an owner who leaves or has changed networks meanwhile.
    async fn dialled(&mut self) -> Result<Result<Connection, DialError>, SessionEnd> {
        let addresses = self.addresses();
        let dialling = dial(&mut self.dialer, &addresses, &self.config);
        tokio::pin!(dialling);
        while self.wishes.borrow_and_update().reconnects == self.reconnects {
            tokio::select! {
                dialled = &mut dialling => return Ok(dialled),
                Ok(()) = self.wishes.changed() => {}
                asked = self.asked.recv() => if let Some(end) = asked_in_vain(asked, &self.events).await {
                    return Err(SessionEnd::Final(end));
                },
            }
        }
        Err(SessionEnd::Again)
    }

    async fn hold(&mut self, connection: Connection, backoff: &mut Backoff) -> Result<SessionEnd, String> {
        let Connection { stream, channel, mut frames, keys, address } = connection;
        let proof = prove_possession(
            &self.config.node,
            &keys.control,
            &self.config.machine.public(),
            &channel.handshake_hash,
        )
        .ok_or("the coordinator's key is not a valid one")?;
        let mut wire = Wire {
            sealer: channel.sealer,
            opener: channel.opener,
            keys,
            address,
            out: Vec::new(),
            parts: None,
            node: None,
            told: Told { offer: self.wishes.borrow().offer.said, ..Told::default() },
        };
        wire.send(&ToCoordinator::Hello(Box::new(self.hello(proof)))).map_err(|e| e.to_string())?;

        let (mut reader, mut writer) = tokio::io::split(stream);
        let mut unflushed = false;
        let mut buffer = vec![0; READ_BYTES];
        let mut deadline = clock::timer_now() + WELCOME_LIMIT;
        let mut renew = tokio::time::interval_at(clock::timer_now() + RENEW_INTEREST, RENEW_INTEREST);
        loop {
            // A frame may hold the last word of a session that the other side has closed already.
            while let Some(frame) = frames.next_frame().map_err(|e| e.to_string())? {
                let message = wire.opener.open(frame).map_err(|e| e.to_string())?;
                let Some(message) = message else { continue };
                if let Some(end) = self.handle(&mut wire, &message, backoff).await? {
                    return Ok(end);
                }
            }
            if self.wishes.borrow_and_update().reconnects != self.reconnects {
                return Ok(SessionEnd::Again);
            }
            let has_room = wire.out.len() < WRITE_BACKLOG;
            if wire.node.is_some() && has_room {
                self.send_news(&mut wire)?;
            }
            tokio::select! {
                read = reader.read(&mut buffer) => {
                    let n = read.map_err(|e| format!("the connection to the coordinator broke: {e}"))?;
                    if n == 0 {
                        return Err("the coordinator closed the connection".to_owned());
                    }
                    if !self.leaving {
                        deadline = clock::timer_now() + SILENCE_LIMIT;
                    }
                    frames.push(&buffer[..n]);
                },
                written = push_out(&mut writer, &wire.out), if unflushed || !wire.out.is_empty() => {
                    let n = written.map_err(|e| format!("the connection to the coordinator broke: {e}"))?;
                    unflushed = !wire.out.is_empty();
                    wire.out.drain(..n);
                },
                Ok(()) = self.wishes.changed() => {}
                asked = self.asked.recv(), if wire.node.is_none() || has_room => match asked {
                    Some(Asked::Leave) if wire.node.is_some() => {
                        wire.send(&ToCoordinator::Leave).map_err(|e| e.to_string())?;
                        self.leaving = true;
                        deadline = clock::timer_now() + LEAVE_LIMIT;
                    },
                    Some(Asked::Call { id, call }) if wire.node.is_some() => {
                        wire.send(&ToCoordinator::Call { id, call }).map_err(|e| e.to_string())?;
                    },
                    asked => if let Some(end) = asked_in_vain(asked, &self.events).await {
                        return Ok(SessionEnd::Final(end));
                    },
                },
                _ = renew.tick(), if wire.node.is_some() => self.send_interest(&mut wire)?,
                () = sleep_until(deadline) => return Err("the coordinator has gone silent".to_owned()),
            }
        }
    }

    fn hello(&self, node_key_proof: [u8; 32]) -> Hello {
        let profile = &self.config.profile;
        // The name that is wished for now: the one of the start would take a later wish back.
        let offer = self.offer();
        Hello {
            protocol: PROTOCOL_VERSION,
            node_key: self.config.node.public(),
            node_key_proof,
            token_secret: self.config.token.as_ref().map(|t| Zeroizing::new(t.as_bytes().to_vec())),
            hostname: offer.hostname.clone().unwrap_or_else(|| profile.hostname.clone()),
            machine_id: profile.machine_id,
            client_version: profile.client_version.clone(),
            os: profile.os.clone(),
            ephemeral: profile.ephemeral,
            offer,
            resume: self.resume(),
        }
    }

    fn offer(&self) -> Offer {
        let wish = &self.wishes.borrow().offer;
        if wish.said == 0 { self.config.profile.offer.clone() } else { wish.value.clone() }
    }

    /// Says what the owner wishes and this session has not told yet.
    fn send_news(&self, wire: &mut Wire) -> Result<(), String> {
        let wishes = self.wishes.borrow();
        let mut messages = Vec::new();
        if wire.told.offer != wishes.offer.said {
            wire.told.offer = wishes.offer.said;
            messages.push(ToCoordinator::Advertise(wishes.offer.value.clone()));
        }
        if wire.told.endpoints != wishes.endpoints.said {
            wire.told.endpoints = wishes.endpoints.said;
            let (endpoints, home_relay) = wishes.endpoints.value.clone();
            messages.push(ToCoordinator::Endpoints { endpoints, home_relay });
        }
        if wire.told.interest != wishes.interest.said {
            wire.told.interest = wishes.interest.said;
            messages.push(ToCoordinator::Interest(wishes.interest.value.clone()));
        }
        if wire.told.paths != wishes.paths.said {
            wire.told.paths = wishes.paths.said;
            messages.push(ToCoordinator::Paths(wishes.paths.value.clone()));
        }
        messages.iter().try_for_each(|message| wire.send(message).map_err(|e| e.to_string()))
    }

    fn send_interest(&self, wire: &mut Wire) -> Result<(), String> {
        let nodes = self.wishes.borrow().interest.value.clone();
        if nodes.is_empty() {
            return Ok(());
        }
        wire.send(&ToCoordinator::Interest(nodes)).map_err(|e| e.to_string())
    }

    async fn handle(
        &mut self,
        wire: &mut Wire,
        message: &[u8],
        backoff: &mut Backoff,
    ) -> Result<Option<SessionEnd>, String> {
        let message = match ToNode::decode(message) {
            Ok(message) => message,
            Err(DecodeError::UnknownKind) => return Ok(None),
            // One message of a newer coordinator that we cannot read must not cost the map we have.
            Err(e) => return Err(format!("the coordinator sent something unreadable: {e}")),
        };
        match message {
            ToNode::Welcome { node, network, time } => {
                if network != self.config.network {
                    return Err("the coordinator speaks for another mesh".to_owned());
                }
                backoff.reset();
                self.config.token = None;
                // From now on these keys and no others: a token's hash is for the first time only.
                self.config.trust = self.pinned(wire.keys);
                wire.node = Some(node);
                self.send_news(wire)?;
                let (keys, address) = (wire.keys, wire.address.clone());
                self.report(ControlEvent::Connected { node, keys, time, address }).await
            }
            ToNode::Refused(refusal) => {
                let temporary = refusal.code.is_temporary();
                if refusal.code == RefusalCode::ApprovalPending {
                    let _ = self.events.send(ControlEvent::Pending { keys: wire.keys }).await;
                }
                let _ = self.events.send(ControlEvent::Refused(refusal.clone())).await;
                Ok(Some(if temporary {
                    SessionEnd::Later
                } else {
                    SessionEnd::Final(Ended::Refused(refusal))
                }))
            }
            // The coordinator's last word to one who leaves: the member is gone.
            ToNode::Revoked { .. } if self.leaving => Ok(Some(SessionEnd::Final(self.left(true).await))),
            ToNode::Revoked { reason } => {
                let _ = self.events.send(ControlEvent::Revoked { reason }).await;
                Ok(Some(SessionEnd::Final(Ended::Revoked)))
            }
            ToNode::Map(part) => self.take_part(wire, part).await,
            ToNode::Keepalive { position, time, nonce } => {
                wire.send(&ToCoordinator::Alive { nonce }).map_err(|e| e.to_string())?;
                // In order behind every update that was sent: a difference is a fault, not a delay.
                if position != self.map.position() {
                    tracing::warn!(ours = ?self.map.position(), theirs = ?position, "the map is not what the coordinator has: asking for all of it");
                    wire.send(&ToCoordinator::NeedSnapshot).map_err(|e| e.to_string())?;
                }
                self.report(ControlEvent::Alive(time)).await
            }
            ToNode::Hints(hints) => self.report(ControlEvent::Hints(hints)).await,
            ToNode::Permit(bytes) => {
                let good = SignedPermit::from_bytes(&bytes).ok().filter(|p| {
                    let not_before = meshd_proto::UnixSeconds(0);
                    p.verify(&wire.keys.signing, not_before)
                        .is_ok_and(|p| p.node == self.config.node.public())
                });
                match good {
                    Some(permit) => self.report(ControlEvent::Permit(permit)).await,
                    None => {
                        tracing::warn!("the coordinator sent a relay permit that is not good");
                        Ok(None)
                    }
                }
            }
            ToNode::Reply { id, answer } => self.report(ControlEvent::Reply { id, answer }).await,
        }
    }

    fn pinned(&self, keys: CoordinatorKeys) -> super::Trust {
        let from_map = super::Trust::from_map(&self.map);
        match from_map {
            Some(super::Trust::Pinned { next_control, next_signing, .. }) => {
                super::Trust::Pinned { keys, next_control, next_signing }
            }
            _ => super::Trust::Pinned { keys, next_control: None, next_signing: None },
        }
    }

    /// Joins a part to those before it; a complete update is applied.
    async fn take_part(&mut self, wire: &mut Wire, part: MapUpdate) -> Result<Option<SessionEnd>, String> {
        let joined = match wire.parts.take() {
            None => Ok(part),
            Some(mut update) => update.append(part).map(|()| update),
        };
        let applied = match joined {
            Ok(update) if update.more => {
                wire.parts = Some(update);
                return Ok(None);
            }
            Ok(update) => self.map.apply(&update).map(|map| (update.from.is_none(), map)),
            Err(e) => Err(e),
        };
        match applied {
            Ok((_, map)) => {
                self.map = Arc::new(map);
                if self.map.coordinator.is_some() {
                    self.config.trust = self.pinned(wire.keys);
                }
                wire.send(&ToCoordinator::Applied(self.map.position())).map_err(|e| e.to_string())?;
                self.report(ControlEvent::Map(self.map.clone())).await
            }
            Err(e @ (ApplyError::OtherNetwork { .. } | ApplyError::TooLarge)) => Err(e.to_string()),
            Err(e @ (ApplyError::Gap { .. } | ApplyError::Diverged | ApplyError::MixedParts)) => {
                tracing::warn!(error = %e, "a map update was not applied: asking for the whole map");
                wire.send(&ToCoordinator::NeedSnapshot).map_err(|e| e.to_string())?;
                Ok(None)
            }
        }
    }

    async fn report(&self, event: ControlEvent) -> Result<Option<SessionEnd>, String> {
        match self.events.send(event).await {
            Ok(()) => Ok(None),
            Err(_) => Ok(Some(SessionEnd::Final(Ended::OwnerGone))),
        }
    }
}
