//! One session: hello, map updates, hints, calls, keepalives, until it ends.

use super::dial::{Connection, dial};
use super::{Backoff, Command, ControlClient, ControlEvent, Ended, SessionEnd};
use crate::clock;
use meshd_proto::channel::{ChannelError, Opener, Sealer, prove_possession};
use meshd_proto::control::{Hello, PROTOCOL_VERSION, ToCoordinator, ToNode};
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
}

impl Wire {
    fn send(&mut self, message: &ToCoordinator) -> Result<(), ChannelError> {
        self.sealer.seal(&Zeroizing::new(message.encode()), &mut self.out)
    }
}

impl ControlClient {
    /// Dials and holds one session until it ends.
    pub(super) async fn one_session(&mut self, backoff: &mut Backoff) -> SessionEnd {
        let addresses = self.addresses();
        let connection = match dial(&mut self.dialer, &addresses, &self.config).await {
            Ok(connection) => connection,
            Err(e) => return SessionEnd::Lost(e.to_string()),
        };
        match self.hold(connection, backoff).await {
            Ok(end) => end,
            Err(_) if self.leaving => SessionEnd::Final(self.left(false).await),
            Err(e) => SessionEnd::Lost(e),
        }
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
                command = self.commands.recv(), if wire.node.is_some() && wire.out.len() < WRITE_BACKLOG => {
                    match command {
                        None => return Ok(SessionEnd::Final(Ended::OwnerGone)),
                        Some(Command::Reconnect) => return Ok(SessionEnd::Again),
                        Some(Command::Leave) => {
                            wire.send(&ToCoordinator::Leave).map_err(|e| e.to_string())?;
                            self.leaving = true;
                            deadline = clock::timer_now() + LEAVE_LIMIT;
                        },
                        Some(command) => {
                            self.remember(&command);
                            if let Some(message) = self.message_of(command) {
                                wire.send(&message).map_err(|e| e.to_string())?;
                            }
                        },
                    }
                },
                _ = renew.tick(), if wire.node.is_some() => self.send_interest(&mut wire)?,
                () = sleep_until(deadline) => return Err("the coordinator has gone silent".to_owned()),
            }
        }
    }

    fn hello(&self, node_key_proof: [u8; 32]) -> Hello {
        let profile = &self.config.profile;
        Hello {
            protocol: PROTOCOL_VERSION,
            node_key: self.config.node.public(),
            node_key_proof,
            token_secret: self.config.token.as_ref().map(|t| Zeroizing::new(t.as_bytes().to_vec())),
            hostname: profile.hostname.clone(),
            machine_id: profile.machine_id,
            client_version: profile.client_version.clone(),
            os: profile.os.clone(),
            ephemeral: profile.ephemeral,
            offer: profile.offer.clone(),
            resume: self.resume(),
        }
    }

    fn message_of(&self, command: Command) -> Option<ToCoordinator> {
        match command {
            Command::Advertise(offer) => Some(ToCoordinator::Advertise(offer)),
            Command::Endpoints { .. } => self.endpoints_message(),
            Command::Interest(_) => Some(ToCoordinator::Interest(self.wishes.interest.clone())),
            Command::Call { id, call } => Some(ToCoordinator::Call { id, call }),
            Command::Reconnect | Command::Leave => None,
        }
    }

    fn endpoints_message(&self) -> Option<ToCoordinator> {
        let (endpoints, home_relay) = self.wishes.endpoints.clone()?;
        Some(ToCoordinator::Endpoints { endpoints, home_relay })
    }

    fn send_interest(&self, wire: &mut Wire) -> Result<(), String> {
        if self.wishes.interest.is_empty() {
            return Ok(());
        }
        wire.send(&ToCoordinator::Interest(self.wishes.interest.clone())).map_err(|e| e.to_string())
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
                if let Some(message) = self.endpoints_message() {
                    wire.send(&message).map_err(|e| e.to_string())?;
                }
                self.send_interest(wire)?;
                let (keys, address) = (wire.keys, wire.address.clone());
                self.report(ControlEvent::Connected { node, keys, time, address }).await
            }
            ToNode::Refused(refusal) => {
                let temporary = refusal.code.is_temporary();
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
