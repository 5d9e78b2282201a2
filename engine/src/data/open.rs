//! From the mesh to the host: open, check the source, judge, deliver.

use super::conntrack::{Inbound, Judgement, Tuple};
use super::routes::PeerRef;
use super::rules::{RuleMark, Tally};
use super::slot::Live;
use super::{DataSnapshot, DropReason, Ecn, PeerSlot, ecn};
use crate::event::Source;
use crate::packet::{self, Packet, Upper};
use crate::session::{MessageKind, OpenError, Opened, Session, SessionIndex, receiver_index};
use meshd_proto::NodeId;
use std::sync::MutexGuard;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// A packet on another way than the current path is reported at most this often (milliseconds) as
/// long as it keeps coming the same way.
const REPORT_AGAIN: u64 = 1000;

/// A datagram from outside.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'d> {
    /// Which way it came.
    pub from: Source,
    /// The mark of its outer header.
    pub ecn: Ecn,
    /// It, out of its relay frame.
    pub bytes: &'d [u8],
}

impl<'d> Datagram<'d> {
    /// One whose outer header is not known.
    pub const fn unmarked(from: Source, bytes: &'d [u8]) -> Self {
        Self { from, ecn: Ecn::Not, bytes }
    }
}

/// What the caller of [`open_run`] lends and takes.
pub trait OpenSink {
    /// What follows comes from `peer`.
    fn begin(&mut self, _peer: NodeId) {}

    /// Room for a packet of at most `max` bytes; `None`: full, the datagram is dropped and counted.
    fn room(&mut self, max: usize) -> Option<&mut [u8]>;

    /// The room last lent holds a packet for the host: `len` bytes, read as `packet`. If this is not
    /// called, the room was not used.
    fn deliver(&mut self, len: usize, packet: &Packet);

    /// Not data: hand it to the engine as [`Input::Datagram`](crate::Input::Datagram).
    fn hand_up(&mut self, from: Source, datagram: &[u8]);

    /// An authenticated packet of `peer` that the engine should know of: hand it over as
    /// [`Input::PeerSeen`](crate::Input::PeerSeen). At most about once a second and way.
    fn seen(&mut self, peer: NodeId, from: Source);
}

/// Opens `datagrams` into `sink`. One lock is taken for each run of datagrams of one peer.
pub fn open_run<'d, S: Session>(
    snapshot: &DataSnapshot<S>,
    datagrams: impl IntoIterator<Item = Datagram<'d>>,
    sink: &mut impl OpenSink,
    now: Instant,
) {
    let stamp = snapshot.stamp(now);
    let when = Judgement { generation: snapshot.generation, stamp };
    let mut judge = Judge { snapshot, when, last: None, tally: Tally::new() };
    let mut run: Option<Run<'_, S>> = None;
    for datagram in datagrams {
        if MessageKind::of(datagram.bytes) != MessageKind::Data {
            sink.hand_up(datagram.from, datagram.bytes);
            continue;
        }
        let index = SessionIndex::of_receiver(receiver_index(datagram.bytes).unwrap_or_default());
        if run.as_ref().is_none_or(|r| r.slot.index != index) {
            run.take().into_iter().for_each(|r| r.finish(stamp));
            run = snapshot.by_index.get(&index).and_then(|peer| Some((*peer, snapshot.slot(*peer)?))).map(
                |(peer, slot)| {
                    // Before the lock: a caller may write what it has of another peer.
                    sink.begin(slot.id);
                    Run::new(peer, slot)
                },
            );
        }
        match &mut run {
            Some(run) => run.open(&mut judge, &datagram, sink, now),
            None => snapshot.counters.count(DropReason::UnknownIndex),
        }
    }
    run.into_iter().for_each(|r| r.finish(stamp));
    judge.tally.tell(&snapshot.rules);
}

/// Consecutive datagrams of one peer, under one lock.
struct Run<'s, S> {
    peer: PeerRef,
    slot: &'s PeerSlot<S>,
    live: MutexGuard<'s, Live<S>>,
    bytes: u64,
    authentic: bool,
    data: bool,
    on_path: bool,
}

impl<'s, S: Session> Run<'s, S> {
    fn new(peer: PeerRef, slot: &'s PeerSlot<S>) -> Self {
        Self { peer, slot, live: slot.lock(), bytes: 0, authentic: false, data: false, on_path: false }
    }

    fn open(
        &mut self,
        judge: &mut Judge<'_, S>,
        datagram: &Datagram<'_>,
        sink: &mut impl OpenSink,
        now: Instant,
    ) {
        let counters = &judge.snapshot.counters;
        let Some(session) = self.live.session.as_mut() else {
            counters.count(DropReason::NotAuthentic);
            return;
        };
        let Some(room) = sink.room(datagram.bytes.len()) else {
            counters.count(DropReason::NoRoom);
            return;
        };
        let opened = session.open(datagram.bytes, room, now);
        let verdict = match opened {
            Ok(Opened::Packet(len)) => Some(
                room.get_mut(..len)
                    .and_then(|bytes| Some((packet::parse(bytes).ok()?, bytes)))
                    .ok_or(DropReason::Malformed)
                    .and_then(|(packet, bytes)| {
                        let packet = judge.judge(self.peer, self.slot.id, packet)?;
                        ecn::combine(bytes, datagram.ecn).map_err(|_| DropReason::Congestion)?;
                        Ok(packet)
                    }),
            ),
            Ok(Opened::Keepalive) => None,
            Err(OpenError::Replayed) => {
                counters.count(DropReason::Replayed);
                return;
            }
            Err(OpenError::TooLate) => {
                counters.count(DropReason::TooLate);
                return;
            }
            Err(_) => {
                counters.count(DropReason::NotAuthentic);
                return;
            }
        };
        self.data |= verdict.is_some();
        self.note(datagram.from, judge.when.stamp, sink);
        match verdict {
            Some(Ok(packet)) => {
                self.bytes += packet.len as u64;
                sink.deliver(packet.len, &packet);
            }
            Some(Err(why)) => judge.snapshot.counters.count(why),
            None => {}
        }
    }

    /// An authenticated datagram came from `from`.
    fn note(&mut self, from: Source, stamp: u64, sink: &mut impl OpenSink) {
        self.authentic = true;
        let live = &mut *self.live;
        let on_path = live.path.to == Some(from);
        self.on_path |= on_path;
        let known = on_path
            || live.reported.is_some_and(|(way, at)| way == from && stamp.saturating_sub(at) < REPORT_AGAIN);
        if !known || live.report_next {
            live.report_next = false;
            live.reported = Some((from, stamp));
            sink.seen(self.slot.id, from);
        }
    }

    fn finish(self, stamp: u64) {
        if self.authentic {
            self.slot.last_rx.store(stamp, Ordering::Relaxed);
        }
        if self.data {
            self.slot.last_data_rx.store(stamp, Ordering::Relaxed);
        }
        if self.on_path {
            self.slot.last_path_rx.store(stamp, Ordering::Relaxed);
        }
        if self.bytes > 0 {
            self.slot.rx_bytes.fetch_add(self.bytes, Ordering::Relaxed);
        }
    }
}

struct Judge<'s, S> {
    snapshot: &'s DataSnapshot<S>,
    when: Judgement,
    last: Option<(Tuple, PeerRef, RuleMark)>,
    tally: Tally,
}

impl<S: Session> Judge<'_, S> {
    fn judge(&mut self, peer: PeerRef, id: NodeId, packet: Packet) -> Result<Packet, DropReason> {
        let tuple = Tuple::of(&packet);
        let ordinary = packet.is_ordinary();
        let snapshot = self.snapshot;
        if let Some((last, of, rule)) = self.last
            && ordinary
            && of == peer
            && last == tuple
        {
            self.tally.note(&snapshot.rules, rule, false, packet.len);
            return Ok(packet);
        }
        let own = snapshot.own.as_ref().ok_or(DropReason::NotForUs)?;
        let sources = snapshot.sources.get(peer.0 as usize).ok_or(DropReason::PeerSource)?;
        // An ICMP error may come from any router on the way: what counts is that the peer is entitled
        // to the destination of the packet it is about.
        let entitled = match packet.upper {
            Upper::Error(about) => sources.allow(about.dst),
            Upper::Tcp { .. }
            | Upper::Ports(_)
            | Upper::Echo { .. }
            | Upper::Icmp { .. }
            | Upper::LaterFragment
            | Upper::Opaque => sources.allow(packet.src),
        };
        if !entitled {
            return Err(DropReason::PeerSource);
        }
        if !own.accepts(packet.dst) {
            return Err(DropReason::NotForUs);
        }
        let allows = |flow: &_| {
            if own.answers(flow) {
                return Some(RuleMark::NONE);
            }
            let as_exit = || own.answers_as_exit(flow, &snapshot.filter).then_some(RuleMark::NONE);
            snapshot.admits(flow).or_else(as_exit)
        };
        let judged = snapshot.conntrack.inbound(&packet, id, self.when, allows);
        match judged.outcome {
            Inbound::Pass => {
                self.last = ordinary.then_some((tuple, peer, judged.rule));
                self.tally.note(&snapshot.rules, judged.rule, judged.begins, packet.len);
                Ok(packet)
            }
            Inbound::Denied => Err(DropReason::Denied),
            Inbound::Cut => Err(DropReason::Cut),
            Inbound::Fragment => Err(DropReason::Fragment),
        }
    }
}
