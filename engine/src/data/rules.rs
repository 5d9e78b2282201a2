//! What each rule of the policy has let in, as numbers.
//!
//! A rule keeps its numbers for as long as it stays in the map, whatever else changes there. Each counter has
//! a cache line of its own, and a data thread adds to it once for a run of packets, not for each packet.

use meshd_proto::RuleId;
use meshd_proto::netmap::FilterRule;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Which rule let a flow in: a place in the [`RuleCounters`] of the same generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleMark(u32);

impl RuleMark {
    /// No rule: a reply, or what is let in whatever the policy says.
    pub const NONE: Self = Self(u32::MAX);
}

/// What one rule has let in.
#[derive(Debug)]
#[repr(align(64))]
struct RuleCounter {
    id: RuleId,
    flows: AtomicU64,
    packets: AtomicU64,
    bytes: AtomicU64,
}

/// What one rule has let in, at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleCount {
    /// The rule.
    pub id: RuleId,
    /// Its line in the policy text.
    pub line: u32,
    /// Flows that began.
    pub flows: u64,
    /// Packets of those flows that came in.
    pub packets: u64,
    /// Bytes of those packets.
    pub bytes: u64,
}

/// The counters of all rules of a map.
#[derive(Debug, Default)]
pub struct RuleCounters {
    all: Vec<(u32, Arc<RuleCounter>)>,
    places: HashMap<RuleId, u32>,
}

impl RuleCounters {
    /// Counters for `rules`: those that were there go on counting.
    #[must_use]
    pub fn renewed(&self, rules: &BTreeMap<RuleId, FilterRule>) -> Self {
        let mut renewed = Self::default();
        for (place, (id, rule)) in (0..RuleMark::NONE.0).zip(rules) {
            let known = self.places.get(id).and_then(|at| self.all.get(*at as usize));
            let counter = known.map_or_else(|| Arc::new(RuleCounter::new(*id)), |(_, c)| Arc::clone(c));
            renewed.all.push((rule.line, counter));
            renewed.places.insert(*id, place);
        }
        renewed
    }

    /// The mark of a rule.
    pub fn mark(&self, rule: RuleId) -> RuleMark {
        self.places.get(&rule).map_or(RuleMark::NONE, |place| RuleMark(*place))
    }

    /// Counts what a rule let in.
    pub(super) fn add(&self, rule: RuleMark, flows: u64, packets: u64, bytes: u64) {
        let Some((_, counter)) = self.all.get(rule.0 as usize) else { return };
        if flows > 0 {
            counter.flows.fetch_add(flows, Ordering::Relaxed);
        }
        counter.packets.fetch_add(packets, Ordering::Relaxed);
        counter.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The rules that have let something in, in the order of their lines.
    pub fn counts(&self) -> Vec<RuleCount> {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let all = self.all.iter().map(|(line, c)| RuleCount {
            id: c.id,
            line: *line,
            flows: get(&c.flows),
            packets: get(&c.packets),
            bytes: get(&c.bytes),
        });
        let mut used: Vec<RuleCount> = all.filter(|c| c.packets > 0).collect();
        used.sort_by_key(|c| (c.line, c.id));
        used
    }
}

impl RuleCounter {
    const fn new(id: RuleId) -> Self {
        Self { id, flows: AtomicU64::new(0), packets: AtomicU64::new(0), bytes: AtomicU64::new(0) }
    }
}

/// What a data thread has let in since it last told the counters: mostly by one rule.
#[derive(Debug)]
pub(super) struct Tally {
    rule: RuleMark,
    flows: u64,
    packets: u64,
    bytes: u64,
}

impl Tally {
    pub(super) const fn new() -> Self {
        Self { rule: RuleMark::NONE, flows: 0, packets: 0, bytes: 0 }
    }

    /// Notes a packet that `rule` let in.
    pub(super) fn note(&mut self, counters: &RuleCounters, rule: RuleMark, begins: bool, bytes: usize) {
        if rule != self.rule {
            self.tell(counters);
            self.rule = rule;
        }
        self.flows += u64::from(begins);
        self.packets += 1;
        self.bytes += bytes as u64;
    }

    /// Adds what was noted.
    pub(super) fn tell(&mut self, counters: &RuleCounters) {
        if self.packets > 0 {
            counters.add(self.rule, self.flows, self.packets, self.bytes);
        }
        *self = Self::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(lines: &[(u64, u32)]) -> BTreeMap<RuleId, FilterRule> {
        let rule = |line| FilterRule { line, srcs: vec![], dsts: vec![] };
        lines.iter().map(|(id, line)| (RuleId(*id), rule(*line))).collect()
    }

    #[test]
    fn a_rule_keeps_its_numbers_while_others_come_and_go() {
        let first = RuleCounters::default().renewed(&rules(&[(5, 50), (9, 10)]));
        first.add(first.mark(RuleId(9)), 1, 2, 300);
        let second = first.renewed(&rules(&[(1, 7), (9, 11)]));
        second.add(second.mark(RuleId(9)), 0, 1, 40);
        second.add(second.mark(RuleId(1)), 1, 1, 60);
        let count =
            |id, line, flows, packets, bytes| RuleCount { id: RuleId(id), line, flows, packets, bytes };
        assert_eq!(second.counts(), [count(1, 7, 1, 1, 60), count(9, 11, 1, 3, 340)]);
        assert_eq!(second.mark(RuleId(5)), RuleMark::NONE);
        second.add(RuleMark::NONE, 1, 1, 1);
    }

    #[test]
    fn a_tally_tells_each_rule_its_own() {
        let counters = RuleCounters::default().renewed(&rules(&[(1, 1), (2, 2)]));
        let (one, two) = (counters.mark(RuleId(1)), counters.mark(RuleId(2)));
        let mut tally = Tally::new();
        for (rule, begins) in [(one, true), (one, false), (RuleMark::NONE, false), (two, true), (one, false)]
        {
            tally.note(&counters, rule, begins, 100);
        }
        tally.tell(&counters);
        tally.tell(&counters);
        let seen: Vec<_> = counters.counts().iter().map(|c| (c.id.0, c.flows, c.packets, c.bytes)).collect();
        assert_eq!(seen, [(1, 1, 3, 300), (2, 1, 1, 100)]);
    }
}
