//! From the host into the mesh: route, note the flow, seal.

use super::conntrack::{Judgement, Outbound, Tuple};
use super::routes::PeerRef;
use super::slot::{Live, PathChoice};
use super::{DataSnapshot, DropReason, Ecn, Offload, PeerSlot, Split, finish_checksum};
use crate::packet::{self, Packet};
use crate::session::{OVERHEAD, Session};
use std::sync::MutexGuard;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// A packet from the host, or a super-packet.
#[derive(Debug)]
pub struct FromHost<'p> {
    /// Its bytes. They are used up: a super-packet is cut in place.
    pub bytes: &'p mut [u8],
    /// What the host left to do for it.
    pub offload: Offload,
}

impl<'p> FromHost<'p> {
    /// A whole packet.
    pub const fn whole(bytes: &'p mut [u8]) -> Self {
        Self { bytes, offload: Offload::None }
    }
}

/// How a sealed datagram goes out. It is the same for a run of packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Way {
    /// Where to; its `to` is there.
    pub path: PathChoice,
    /// The mark of its outer header.
    pub ecn: Ecn,
}

/// What the caller of [`seal_run`] lends and takes.
pub trait SealSink {
    /// Room for a datagram of at most `max` bytes that goes out by `way`; `None`: full, the packet is
    /// dropped and counted.
    fn room(&mut self, max: usize, way: &Way) -> Option<&mut [u8]>;

    /// The room last lent holds a datagram of `len` bytes, for the same way.
    fn commit(&mut self, len: usize, way: &Way);

    /// No session, or no path: hand the packet to the engine as
    /// [`Input::Outbound`](crate::Input::Outbound).
    fn hand_up(&mut self, packet: &[u8]);
}

/// Seals `packets` into `sink`. One lock is taken for each run of packets of one peer, one lookup is made
/// for each run of packets of one flow; a super-packet is one packet in both.
pub fn seal_run<'p, S: Session>(
    snapshot: &DataSnapshot<S>,
    packets: impl IntoIterator<Item = FromHost<'p>>,
    sink: &mut impl SealSink,
    now: Instant,
) {
    let stamp = snapshot.stamp(now);
    let mut route =
        Router { snapshot, when: Judgement { generation: snapshot.generation, stamp }, last: None };
    let mut run: Option<Run<'_, S>> = None;
    for FromHost { bytes, offload } in packets {
        let packet = match packet::parse(bytes) {
            Ok(packet) => packet,
            Err(_) => {
                snapshot.counters.count(DropReason::Malformed);
                continue;
            }
        };
        let peer = match route.route(&packet) {
            Ok(peer) => peer,
            Err(why) => {
                snapshot.counters.count(why);
                continue;
            }
        };
        if run.as_ref().is_none_or(|r| r.peer != peer) {
            run.take().into_iter().for_each(|r| r.finish(stamp));
            run = snapshot.slot(peer).map(|slot| Run::new(peer, slot, now));
        }
        match &mut run {
            Some(run) => run.seal(snapshot, bytes, &packet, offload, sink, now),
            None => snapshot.counters.count(DropReason::NoRoute),
        }
    }
    if let Some(run) = run {
        run.finish(stamp);
    }
}

/// The peer that a packet from the host goes to, by the same rules as [`seal_run`].
pub(crate) fn route_of<S: Session>(
    snapshot: &DataSnapshot<S>,
    bytes: &[u8],
    now: Instant,
) -> Result<PeerRef, DropReason> {
    let packet = packet::parse(bytes).map_err(|_| DropReason::Malformed)?;
    let when = Judgement { generation: snapshot.generation, stamp: snapshot.stamp(now) };
    Router { snapshot, when, last: None }.route(&packet)
}

struct Router<'s, S> {
    snapshot: &'s DataSnapshot<S>,
    when: Judgement,
    last: Option<(Tuple, PeerRef)>,
}

impl<S: Session> Router<'_, S> {
    fn route(&mut self, packet: &Packet) -> Result<PeerRef, DropReason> {
        let tuple = Tuple::of(packet);
        let ordinary = packet.is_ordinary();
        if let Some((last, peer)) = self.last
            && ordinary
            && last == tuple
        {
            return Ok(peer);
        }
        let snapshot = self.snapshot;
        let own = snapshot.own.as_ref().ok_or(DropReason::NoRoute)?;
        if !own.may_send_from(packet.src) {
            return Err(DropReason::OwnSource);
        }
        let owners = snapshot.routes.owners(packet.dst);
        if owners.is_empty() {
            return Err(DropReason::NoRoute);
        }
        let slot = |peer: &PeerRef| snapshot.slot(*peer);
        let outcome = snapshot.conntrack.outbound(
            packet,
            self.when,
            |flow| snapshot.admits(flow),
            |before| {
                let mut known = owners.iter().filter_map(slot);
                let same = known.clone().find(|s| Some(s.id) == before && s.is_alive());
                // Without a live owner the first one is asked: its answer brings it back to life.
                let fit = known.clone().find(|s| s.takes_new());
                let first = fit.or_else(|| known.clone().find(|s| s.is_alive())).or_else(|| known.next());
                same.or(first).map(|s| s.id)
            },
        );
        let id = match outcome {
            Outbound::To(id) => id,
            Outbound::NoOwner => return Err(DropReason::NoRoute),
            Outbound::Cut => return Err(DropReason::Cut),
        };
        let peer = *owners.iter().find(|p| slot(p).is_some_and(|s| s.id == id)).ok_or(DropReason::NoRoute)?;
        self.last = ordinary.then_some((tuple, peer));
        Ok(peer)
    }
}

/// Consecutive packets of one peer, under one lock.
struct Run<'s, S> {
    peer: PeerRef,
    slot: &'s PeerSlot<S>,
    live: MutexGuard<'s, Live<S>>,
    ready: bool,
    bytes: u64,
}

impl<'s, S: Session> Run<'s, S> {
    fn new(peer: PeerRef, slot: &'s PeerSlot<S>, now: Instant) -> Self {
        let live = slot.lock();
        let ready = live.path.to.is_some() && live.session.as_ref().is_some_and(|s| s.is_ready(now));
        Self { peer, slot, live, ready, bytes: 0 }
    }

    /// Seals a packet, or every segment of a super-packet.
    fn seal(
        &mut self,
        snapshot: &DataSnapshot<S>,
        bytes: &mut [u8],
        packet: &Packet,
        offload: Offload,
        sink: &mut impl SealSink,
        now: Instant,
    ) {
        let way = Way { path: self.live.path, ecn: Ecn::of_packet(bytes) };
        let whole = match offload {
            Offload::None | Offload::Verified => Ok(()),
            Offload::Checksum { start, field } => finish_checksum(&mut bytes[..packet.len], start, field),
            Offload::Segments { kind, size, .. } => match Split::new(bytes, packet, kind, size) {
                Ok(mut split) => {
                    while let Some(segment) = split.next_segment() {
                        self.seal_one(snapshot, segment, &way, sink, now);
                    }
                    return;
                }
                Err(bad) => Err(bad),
            },
        };
        match whole {
            Ok(()) => self.seal_one(snapshot, &bytes[..packet.len], &way, sink, now),
            Err(_) => snapshot.counters.count(DropReason::Malformed),
        }
    }

    fn seal_one(
        &mut self,
        snapshot: &DataSnapshot<S>,
        packet: &[u8],
        way: &Way,
        sink: &mut impl SealSink,
        now: Instant,
    ) {
        let Some(session) = self.live.session.as_mut().filter(|_| self.ready) else {
            sink.hand_up(packet);
            return;
        };
        let Some(room) = sink.room(packet.len() + OVERHEAD, way) else {
            snapshot.counters.count(DropReason::NoRoom);
            return;
        };
        match session.seal(packet, room, now) {
            Ok(len) => {
                self.bytes += packet.len() as u64;
                sink.commit(len, way);
            }
            Err(_) => snapshot.counters.count(DropReason::NoRoom),
        }
    }

    fn finish(self, stamp: u64) {
        if self.bytes > 0 {
            self.slot.tx_bytes.fetch_add(self.bytes, Ordering::Relaxed);
            self.slot.last_tx.store(stamp, Ordering::Relaxed);
        }
    }
}
