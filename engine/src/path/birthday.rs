//! A path between a NAT that maps by destination and one that filters by port, by the birthday paradox.
//!
//! The node behind the first opens many sockets and sends from each to the other's one outside endpoint:
//! its NAT opens as many random ports for it. The node behind the second probes random ports of that NAT;
//! once one of them is open, probe and answer pass both NATs. With [`SOCKETS`] × [`PROBES`] a round
//! succeeds in 98 of 100 cases (1 − e^(−256·1024/64512)).
//!
//! The many-socket side decides when (`Meeting`) and says so over the relay; the other only answers to
//! that (`Sweep`), within its own budget. Neither side goes on once anything direct is proved.

use super::probe::TxId;
use crate::entropy::Entropy;
use meshd_proto::Endpoint;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Sockets that the side with the difficult NAT opens.
pub const SOCKETS: usize = 256;
/// Ports that the other side probes in a round.
pub const PROBES: u32 = 1024;
/// Rounds before both sides rest.
pub const ROUNDS: u8 = 3;
/// How long the sockets that were not adopted stay open.
pub const SCATTER_LIFE: Duration = Duration::from_secs(8);
/// How long the ordinary candidates are tried before the first round.
pub const PATIENCE: Duration = Duration::from_millis(800);
/// Between rounds: a sweep, and some round trips.
pub const ROUND: Duration = Duration::from_millis(2500);
/// After the last round nothing is tried for this long.
pub const REST: Duration = Duration::from_secs(600);
/// Probes that are sent at once…
const BATCH: u32 = 16;
/// …and the pause after them: about 1,000 probes a second.
const PACE: Duration = Duration::from_millis(16);
/// Ports below are not mapped to by NATs.
const FIRST_PORT: u32 = 1024;
const PORTS: u32 = 65536 - FIRST_PORT;

/// The many-socket side's plan for one peer.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Meeting {
    rounds: u8,
    next: Option<Instant>,
}

impl Meeting {
    /// There is a reason to try. `Some(round)`: now.
    pub(crate) fn due(&mut self, now: Instant) -> Option<u8> {
        let at = *self.next.get_or_insert(now + PATIENCE);
        if now < at {
            return None;
        }
        if self.rounds >= ROUNDS {
            self.rounds = 0;
        }
        self.rounds += 1;
        self.next = Some(now + if self.rounds >= ROUNDS { REST } else { ROUND });
        Some(self.rounds)
    }

    /// When [`Self::due`] is to be asked again.
    pub(crate) const fn next(&self) -> Option<Instant> {
        self.next
    }

    /// A direct path is there: the next time begins anew.
    pub(crate) fn done(&mut self) {
        *self = Self::default();
    }
}

/// The one-socket side's probes of one round.
#[derive(Clone, Debug)]
pub(crate) struct Sweep {
    ip: IpAddr,
    pub(crate) txid: TxId,
    pub(crate) began: Instant,
    at: u32,
    step: u32,
    left: u32,
}

impl Sweep {
    pub(crate) fn new(ip: IpAddr, txid: TxId, entropy: &mut Entropy, now: Instant) -> Self {
        let at = entropy.below(PORTS.into()) as u32;
        // A step without a common factor with 64512 = 2^10·3²·7 visits every port once.
        let step = loop {
            let step = entropy.below(PORTS.into()) as u32 | 1;
            if !step.is_multiple_of(3) && !step.is_multiple_of(7) {
                break step;
            }
        };
        Self { ip, txid, began: now, at, step, left: PROBES }
    }

    /// The next ports to probe; empty: done.
    pub(crate) fn batch(&mut self) -> Vec<Endpoint> {
        let count = self.left.min(BATCH);
        self.left -= count;
        (0..count)
            .map(|_| {
                self.at = (self.at + self.step) % PORTS;
                let port = u16::try_from(FIRST_PORT + self.at).unwrap_or(u16::MAX);
                Endpoint((self.ip, port).into())
            })
            .collect()
    }

    /// When the next batch is due.
    pub(crate) fn next(&self, now: Instant) -> Option<Instant> {
        (self.left > 0).then(|| now + PACE)
    }
}

/// How many sweeps the one-socket side grants a peer.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Grant {
    given: u8,
    since: Option<Instant>,
}

impl Grant {
    /// Whether another sweep is granted.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        if self.since.is_none_or(|at| now.saturating_duration_since(at) >= REST) {
            *self = Self { given: 0, since: Some(now) };
        }
        self.given += 1;
        self.given <= ROUNDS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::start;
    use std::collections::BTreeSet;

    #[test]
    fn a_sweep_probes_as_many_different_ports_as_it_may_and_no_low_one() {
        for seed in 0..20 {
            let mut entropy = Entropy::new([seed; 32]);
            let ip = IpAddr::from([203, 0, 113, 9]);
            let mut sweep = Sweep::new(ip, TxId([1; 12]), &mut entropy, start());
            let mut ports = BTreeSet::new();
            loop {
                let batch = sweep.batch();
                if batch.is_empty() {
                    break;
                }
                assert!(batch.iter().all(|e| e.0.ip() == ip));
                ports.extend(batch.iter().map(|e| e.0.port()));
            }
            assert_eq!(ports.len(), PROBES as usize);
            assert!(ports.iter().all(|p| *p >= 1024));
            assert_eq!(sweep.next(start()), None);
        }
    }

    #[test]
    fn three_rounds_then_a_rest_and_a_direct_path_begins_the_count_anew() {
        let (mut meeting, t) = (Meeting::default(), start());
        assert_eq!(meeting.due(t), None, "the ordinary candidates first");
        let mut now = t + PATIENCE;
        assert_eq!(meeting.due(now), Some(1));
        assert_eq!(meeting.due(now), None);
        now += ROUND;
        assert_eq!(meeting.due(now), Some(2));
        now += ROUND;
        assert_eq!(meeting.due(now), Some(3));
        assert_eq!(meeting.due(now + ROUND), None, "rests");
        assert_eq!(meeting.due(now + REST), Some(1));
        meeting.done();
        assert_eq!(meeting.next(), None);
    }

    #[test]
    fn a_peer_gets_three_sweeps_in_ten_minutes_however_often_it_asks() {
        let (mut grant, t) = (Grant::default(), start());
        let granted = (0..50).filter(|n| grant.take(t + Duration::from_secs(*n))).count();
        assert_eq!(granted, 3);
        assert!(grant.take(t + REST + Duration::from_secs(1)));
    }
}
