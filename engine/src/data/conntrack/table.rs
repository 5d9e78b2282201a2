//! One shard of the table: sets of 8 entries, of which each flow has two, growing up to a bound; where both are full
//! the oldest goes.

use super::{Begun, Judgement, Key, RuleMark, Standing, TCP, Tuple, idle};
use crate::packet::{ICMP, ICMPV6, Packet, UDP, Upper, tcp_flag};
use meshd_proto::NodeId;

const WAYS: usize = 8;
const FIRST_SETS: usize = 4;

const CLOSED_BY_A: u8 = 1;
const CLOSED_BY_B: u8 = 2;
const CLOSED: u8 = CLOSED_BY_A | CLOSED_BY_B;

/// One flow.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: Key,
    hash: u64,
    pub(super) begun: Begun,
    pub(super) standing: Standing,
    /// The side that began it is `key.a`.
    begun_by_a: bool,
    closed: u8,
    /// The rule that let it in, of that generation.
    pub(super) rule: RuleMark,
    /// A packet went the other way.
    answered: bool,
    pub(super) generation: u64,
    /// The peer at the other end.
    pub(super) owner: NodeId,
    last: u64,
}

impl Entry {
    /// `forward` is the flow in the direction in which it began.
    pub(super) fn new(
        key: Key,
        hash: u64,
        begun: Begun,
        forward: &Tuple,
        owner: NodeId,
        when: Judgement,
    ) -> Self {
        let begun_by_a = key.a == (forward.src, forward.ports.src);
        Self {
            key,
            hash,
            begun,
            standing: Standing::Live,
            begun_by_a,
            closed: 0,
            rule: RuleMark::NONE,
            answered: false,
            generation: when.generation,
            owner,
            last: when.stamp,
        }
    }

    /// The same, with the rule that let it in.
    pub(super) const fn let_in_by(mut self, rule: RuleMark) -> Self {
        self.rule = rule;
        self
    }

    /// The flow in the direction in which it began.
    pub(super) fn forward(&self) -> Tuple {
        let (src, dst) = if self.begun_by_a { (self.key.a, self.key.b) } else { (self.key.b, self.key.a) };
        let ports = crate::packet::Ports { src: src.1, dst: dst.1 };
        Tuple { src: src.0, dst: dst.0, protocol: self.key.protocol, ports }
    }

    /// Notes a packet of the flow.
    pub(super) fn touch(&mut self, packet: &Packet, tuple: &Tuple, stamp: u64) {
        self.last = stamp;
        let from_a = self.key.a == (tuple.src, tuple.ports.src);
        self.answered |= from_a != self.begun_by_a;
        if let Upper::Tcp { flags, .. } = packet.upper {
            if flags & tcp_flag::RST != 0 {
                self.closed = CLOSED;
            } else if flags & tcp_flag::FIN != 0 {
                self.closed |= if from_a { CLOSED_BY_A } else { CLOSED_BY_B };
            } else if flags & tcp_flag::SYN != 0 {
                self.closed = 0;
            }
        }
    }

    /// The policy allows it under the present generation, by `rule`.
    pub(super) fn renew(&mut self, rule: RuleMark, when: Judgement) {
        self.rule = rule;
        self.generation = when.generation;
        self.standing = Standing::Live;
    }

    /// The policy no longer allows it.
    pub(super) fn cut(&mut self, when: Judgement) {
        self.generation = when.generation;
        self.standing = Standing::Cut;
        self.last = when.stamp;
    }

    pub(super) fn is_expired(&self, stamp: u64) -> bool {
        let idle = match (self.key.fragment, self.standing, self.key.protocol) {
            (Some(_), _, _) => idle::FRAGMENT,
            (None, Standing::Cut, _) => idle::OTHER,
            (None, Standing::Live, TCP) if self.closed == CLOSED => idle::TCP_CLOSED,
            (None, Standing::Live, TCP) if !self.answered => idle::TCP_UNANSWERED,
            (None, Standing::Live, TCP) => idle::TCP,
            (None, Standing::Live, UDP) => idle::UDP,
            (None, Standing::Live, ICMP | ICMPV6) => idle::ICMP,
            (None, Standing::Live, _) => idle::OTHER,
        };
        stamp.saturating_sub(self.last) > idle
    }
}

impl Entry {
    /// Whether it is worth more than another one: a flow that both sides use.
    const fn lives(&self) -> bool {
        self.key.fragment.is_none() && self.answered && self.closed != CLOSED
    }
}

/// One shard.
#[derive(Debug)]
pub(super) struct Shard {
    /// A power of two.
    sets: Vec<[Option<Entry>; WAYS]>,
    /// Up to here it grows for anybody.
    usual_sets: usize,
}

impl Shard {
    /// An empty one that grows up to about `flows`, and up to twice that for flows that both sides use: a scan
    /// cannot make it do so.
    pub(super) fn new(flows: usize) -> Self {
        let usual_sets = (flows / WAYS).next_power_of_two().max(FIRST_SETS);
        Self { sets: vec![[const { None }; WAYS]; FIRST_SETS], usual_sets }
    }

    /// The two sets that may hold an entry. The choice lets sets fill evenly, so that the table grows when it is
    /// full and not when one set is.
    fn sets_of(&self, hash: u64) -> [usize; 2] {
        let mask = self.sets.len() as u64 - 1;
        [hash, hash >> 32].map(|hash| usize::try_from(hash & mask).unwrap_or(0))
    }

    /// The live entry of `key`; an expired one is removed.
    pub(super) fn find(&mut self, hash: u64, key: &Key, stamp: u64) -> Option<&mut Entry> {
        let (set, way) = self.place_of(hash, key)?;
        let place = &mut self.sets[set][way];
        if place.as_ref().is_some_and(|e| e.is_expired(stamp)) {
            *place = None;
        }
        place.as_mut()
    }

    /// Where the entry of `key` is: set and way.
    fn place_of(&self, hash: u64, key: &Key) -> Option<(usize, usize)> {
        let same = |e: &Option<Entry>| e.as_ref().is_some_and(|e| e.hash == hash && e.key == *key);
        self.sets_of(hash).into_iter().find_map(|set| Some((set, self.sets[set].iter().position(same)?)))
    }

    /// Puts `entry` in, in place of one with the same key, else in a free or expired place, else in a
    /// bigger table, else in the place of the oldest.
    pub(super) fn insert(&mut self, entry: Entry, stamp: u64) -> &mut Entry {
        loop {
            let sets = self.sets_of(entry.hash);
            let place = self.place_of(entry.hash, &entry.key).or_else(|| self.free_place(sets, stamp));
            if place.is_none() && self.may_grow(sets) {
                self.grow();
                continue;
            }
            let (set, way) = place.unwrap_or_else(|| self.oldest(sets));
            return self.sets[set][way].insert(entry);
        }
    }

    /// A free or expired place, in the set that has more of them.
    fn free_place(&self, sets: [usize; 2], stamp: u64) -> Option<(usize, usize)> {
        let free = |e: &Option<Entry>| e.as_ref().is_none_or(|e| e.is_expired(stamp));
        let count = |set: usize| self.sets[set].iter().filter(|e| free(e)).count();
        let set = if count(sets[1]) > count(sets[0]) { sets[1] } else { sets[0] };
        Some((set, self.sets[set].iter().position(free)?))
    }

    fn may_grow(&self, sets: [usize; 2]) -> bool {
        let all_live = || sets.iter().flat_map(|set| &self.sets[*set]).flatten().all(Entry::lives);
        self.sets.len() < self.usual_sets || (self.sets.len() < self.usual_sets * 2 && all_live())
    }

    /// The least recently used place; what both sides use goes after the rest, flows that were cut last.
    fn oldest(&self, sets: [usize; 2]) -> (usize, usize) {
        let rank = |e: &Option<Entry>| e.as_ref().map(|e| (e.standing == Standing::Cut, e.lives(), e.last));
        let places = sets.into_iter().flat_map(|set| (0..WAYS).map(move |way| (set, way)));
        places.min_by_key(|(set, way)| rank(&self.sets[*set][*way])).unwrap_or((sets[0], 0))
    }

    /// Doubles the sets. Every set splits in two, so all entries find a place.
    fn grow(&mut self) {
        let bigger = vec![[const { None }; WAYS]; self.sets.len() * 2];
        let old = std::mem::replace(&mut self.sets, bigger);
        let mask = old.len() - 1;
        for (before, entries) in old.into_iter().enumerate() {
            for entry in entries.into_iter().flatten() {
                // It stays with the choice that it had.
                let [first, second] = self.sets_of(entry.hash);
                let set = if first & mask == before { first } else { second };
                if let Some(way) = self.sets[set].iter_mut().find(|e| e.is_none()) {
                    *way = Some(entry);
                }
            }
        }
    }

    /// The entries of `count` sets from the `first` on; `None` behind the last one.
    pub(super) fn sets_from(
        &mut self,
        first: usize,
        count: usize,
    ) -> Option<impl Iterator<Item = &mut Entry>> {
        let end = self.sets.len().min(first + count);
        Some(self.sets.get_mut(first..end).filter(|sets| !sets.is_empty())?.iter_mut().flatten().flatten())
    }

    pub(super) fn len(&self) -> usize {
        self.sets.iter().flatten().flatten().count()
    }
}
