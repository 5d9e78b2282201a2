//! Answers to questions.

use super::Engine;
use crate::data::moment;
use crate::path::candidate::Standing;
use crate::path::{Health, Way};
use crate::peers::PeerState;
use crate::session::{Session, SessionFactory};
use crate::status::{CandidateStatus, PathStatus, PeerStatus, RelayStatus, Status};
use std::sync::atomic::Ordering;
use std::time::Instant;

impl<F: SessionFactory> Engine<F> {
    /// How things are, for the command line.
    pub fn status(&self, now: Instant) -> Status {
        let relays = self.map.relays.keys().map(|id| {
            let (rtt, mapped) = self.stun.relay(*id);
            let doubtful = self.relays.doubtful.contains(id);
            RelayStatus { id: *id, up: self.relays.up.contains(id), doubtful, rtt, mapped }
        });
        Status {
            peers: self.peers.iter().map(|p| self.peer_status(p, now)).collect(),
            endpoints: self.endpoints.clone(),
            home_relay: self.relays.home,
            backup_relay: self.relays.backup,
            mapping_v4: self.stun.mapping(false),
            mapping_v6: self.stun.mapping(true),
            relays: relays.collect(),
            drops: self.counters.all(),
            flows_cut: self.flows_cut,
            rules: self.data.load().rules.counts(),
        }
    }

    fn peer_status(&self, state: &PeerState<F::Session>, now: Instant) -> PeerStatus {
        let (session, last_handshake) = {
            let live = state.slot.lock();
            let session = live.session.as_ref();
            (session.is_some_and(|s| s.is_ready(now)), session.and_then(|s| s.last_handshake(now)))
        };
        let path = match state.paths.way() {
            Way::None => PathStatus::None,
            Way::Relay if !session => PathStatus::None,
            Way::Relay => state.paths.relay().map_or(PathStatus::None, PathStatus::Relay),
            Way::Direct { .. } if !session => PathStatus::None,
            Way::Direct { endpoint, health } => PathStatus::Direct {
                endpoint,
                doubtful: matches!(health, Health::Doubtful | Health::Unproved),
            },
        };
        let heard = moment(self.epoch, state.slot.last_rx.load(Ordering::Relaxed));
        let candidates = state.paths.candidates.iter().map(|c| CandidateStatus {
            endpoint: c.endpoint,
            origin: c.origin.as_str(),
            state: match c.standing {
                Standing::Trying { .. } => "trying",
                Standing::Proved { .. } => "proved",
                Standing::Silent { .. } => "silent",
            },
            rtt: c.rtt,
        });
        PeerStatus {
            id: state.peer.id,
            key: state.peer.key,
            name: state.peer.name.clone(),
            addrs: state.peer.addrs,
            path,
            reason: self.reason(state, session),
            rtt: state.paths.rtt(),
            session,
            last_handshake,
            last_received: heard.map(|at| now.saturating_duration_since(at)),
            rx_bytes: state.slot.rx_bytes.load(Ordering::Relaxed),
            tx_bytes: state.slot.tx_bytes.load(Ordering::Relaxed),
            online: state.hint.as_ref().map(|h| h.online),
            candidates: candidates.collect(),
            fitness: state.slot.fitness(),
        }
    }

    fn reason(&self, state: &PeerState<F::Session>, session: bool) -> &'static str {
        match (session, &state.attempt) {
            (true, _) => state.paths.reason.as_str(),
            (false, Some(_)) if state.paths.way() == Way::None && state.paths.candidates.is_empty() => {
                "nothing known of where it is"
            }
            (false, Some(_)) => "handshake without an answer so far",
            (false, None) => "idle",
        }
    }
}
