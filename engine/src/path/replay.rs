//! Whether a probe is new: each is acted on once, and nothing that was recorded before moves anything.
//!
//! The key of a pair of nodes lives as long as their node keys, so a probe that decrypts may be as old as
//! they are. Every probe carries its sender's run (random, drawn when it first speaks to that peer) and a
//! number. Of a run that is known each number counts once, and none that is much older than the newest.
//! A run becomes known by a pong to an *open* question of ours: that answer was made just now. Until then
//! a stranger's ping is answered, nothing it says is acted on, and it is asked back on the same way, seldom;
//! what it said meanwhile is held for the moment when it has answered. Wall clocks have no part in this: a
//! machine without a clock battery begins every run in the past.
//!
//! Bounded: one window, two held probes and a few open questions for each peer.

use super::probe::{Content, Probe, TxId};
use crate::entropy::Entropy;
use crate::event::Source;
use std::time::{Duration, Instant};

/// Numbers below the newest that may still come: a relay's way is longer than the direct one, and a sweep
/// sends a thousand probes in a second.
const WINDOW: u64 = 1024;
const WORDS: usize = (WINDOW / 64) as usize;
/// A stranger is asked back at most this often.
const ASK: Duration = Duration::from_millis(300);
/// An answer that comes later is none, and what was held longer is out of date.
const PATIENCE: Duration = Duration::from_secs(5);
/// Questions to a stranger that may be open: as many as are asked while one waits.
const MAX_OPEN: usize = 16;

/// One run of a sender, towards one peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Run(pub [u8; 8]);

/// What makes each probe another one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// The sender's run.
    pub run: Run,
    /// Its number in that run, from 1.
    pub number: u64,
}

/// What a stamp says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    New,
    Replayed,
    /// Of a run that is not known: new or as old as the keys.
    Stranger,
}

/// One direction's numbers that have come.
#[derive(Debug)]
struct Window {
    newest: u64,
    seen: [u64; WORDS],
}

impl Window {
    const fn new(newest: u64) -> Self {
        Self { newest, seen: [0; WORDS] }
    }

    const fn place(number: u64) -> (usize, u64) {
        let at = number % WINDOW;
        ((at / 64) as usize, 1 << (at % 64))
    }

    /// Whether `number` comes for the first time; it counts as come then.
    fn take(&mut self, number: u64) -> bool {
        if number.saturating_add(WINDOW) <= self.newest {
            return false;
        }
        if number > self.newest {
            for passed in (self.newest + 1..=number).rev().take(WINDOW as usize) {
                let (word, bit) = Self::place(passed);
                self.seen[word] &= !bit;
            }
            self.newest = number;
        }
        let (word, bit) = Self::place(number);
        let new = self.seen[word] & bit == 0;
        self.seen[word] |= bit;
        new
    }

    fn has(&self, number: u64) -> bool {
        let (word, bit) = Self::place(number);
        number.saturating_add(WINDOW) <= self.newest || (number <= self.newest && self.seen[word] & bit != 0)
    }
}

/// A question to a stranger.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question {
    txid: TxId,
    pub(crate) to: Source,
    pub(crate) at: Instant,
}

/// What a stranger said.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) from: Source,
    pub(crate) probe: Probe,
    at: Instant,
    /// Its sender was asked back: a recorded probe causes one question at most.
    asked: bool,
}

impl Held {
    fn waits(&self, now: Instant) -> bool {
        !self.asked && now.saturating_duration_since(self.at) < PATIENCE
    }
}

/// What is known of the newness of one peer's probes, and of ours to it.
#[derive(Debug, Default)]
pub(crate) struct Guard {
    own: Option<Stamp>,
    known: Option<(Run, Box<Window>)>,
    open: Vec<Question>,
    asked: Option<Instant>,
    /// Its newest list, and the newest of everything else.
    held: [Option<Box<Held>>; 2],
    /// When its list last made us try everything again.
    restarted: Option<Instant>,
}

impl Guard {
    /// The stamp of our next probe.
    pub(crate) fn stamp(&mut self, entropy: &mut Entropy) -> Stamp {
        let own = self.own.get_or_insert_with(|| Stamp { run: Run(entropy.bytes()), number: 0 });
        own.number += 1;
        *own
    }

    /// Judges a probe of the peer; one that is new counts as come.
    pub(crate) fn take(&mut self, stamp: Stamp) -> Verdict {
        match &mut self.known {
            Some((run, window)) if *run == stamp.run => {
                if window.take(stamp.number) {
                    Verdict::New
                } else {
                    Verdict::Replayed
                }
            }
            Some(_) | None => Verdict::Stranger,
        }
    }

    /// Whether [`Self::take`] would call it new.
    pub(crate) fn is_new(&self, stamp: Stamp) -> bool {
        self.known.as_ref().is_some_and(|(run, window)| *run == stamp.run && !window.has(stamp.number))
    }

    /// The peer's run, from a pong to an open question.
    pub(crate) fn adopt(&mut self, stamp: Stamp) {
        let mut window = Window::new(stamp.number);
        window.take(stamp.number);
        self.known = Some((stamp.run, Box::new(window)));
    }

    /// When a stranger is to be asked back, if one waits for that.
    pub(crate) fn next_question(&self, now: Instant) -> Option<Instant> {
        let waits = self.held.iter().flatten().any(|held| held.waits(now));
        waits.then(|| self.asked.map_or(now, |at| at + ASK))
    }

    /// Where the stranger is that is to be asked back now.
    pub(crate) fn ask(&mut self, now: Instant) -> Option<Source> {
        self.next_question(now).filter(|at| *at <= now)?;
        let newest = self.held.iter().flatten().filter(|held| held.waits(now)).max_by_key(|held| held.at)?;
        let to = newest.from;
        self.held.iter_mut().flatten().for_each(|held| held.asked = true);
        self.asked = Some(now);
        Some(to)
    }

    /// A stranger was asked back.
    pub(crate) fn asked(&mut self, txid: TxId, to: Source, now: Instant) {
        self.open.retain(|q| now.saturating_duration_since(q.at) < PATIENCE);
        self.open.truncate(MAX_OPEN - 1);
        self.open.insert(0, Question { txid, to, at: now });
    }

    /// Whether a stranger was asked with `txid` and has not answered.
    pub(crate) fn is_open(&self, txid: TxId, now: Instant) -> bool {
        self.open.iter().any(|q| q.txid == txid && now.saturating_duration_since(q.at) < PATIENCE)
    }

    /// The question that `txid` answers; it is no longer open.
    pub(crate) fn answered(&mut self, txid: TxId, now: Instant) -> Option<Question> {
        let at = self.open.iter().position(|q| q.txid == txid)?;
        Some(self.open.remove(at)).filter(|q| now.saturating_duration_since(q.at) < PATIENCE)
    }

    /// Keeps what a stranger said.
    pub(crate) fn hold(&mut self, from: Source, probe: Probe, now: Instant) {
        let place = usize::from(!matches!(probe.content, Content::Candidates(_)));
        let older = |held: &Held| {
            held.probe.stamp.run == probe.stamp.run && held.probe.stamp.number >= probe.stamp.number
        };
        if self.held[place].as_deref().is_none_or(|held| !older(held)) {
            self.held[place] = Some(Box::new(Held { from, probe, at: now, asked: false }));
        }
    }

    /// What was held and is neither old nor of another run.
    pub(crate) fn release(&mut self, now: Instant) -> Vec<Held> {
        let held = std::mem::take(&mut self.held).into_iter().flatten().map(|held| *held);
        let recent = held.filter(|held| now.saturating_duration_since(held.at) < PATIENCE);
        let mut recent: Vec<Held> = recent.collect();
        recent.retain(|held| self.take(held.probe.stamp) == Verdict::New);
        recent
    }

    /// Whether the peer's list may make us try everything again: once a second.
    pub(crate) fn may_restart(&mut self, now: Instant) -> bool {
        let may = self.restarted.is_none_or(|at| now.saturating_duration_since(at) >= RESTART);
        if may {
            self.restarted = Some(now);
        }
        may
    }
}

/// A peer's lists make us try everything again at most this often.
const RESTART: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::probe::{Fitness, Whereabouts};
    use crate::tests::start;

    const fn stamp(run: u8, number: u64) -> Stamp {
        Stamp { run: Run([run; 8]), number }
    }

    fn probe(stamp: Stamp, content: Content) -> Probe {
        Probe { txid: TxId([1; 12]), stamp, has_session: false, fitness: Fitness::Fit, content }
    }

    fn relay() -> Source {
        Source::Relay { relay: meshd_proto::RelayId(1), peer: meshd_proto::NodeKey::from_bytes([1; 32]) }
    }

    #[test]
    fn each_number_counts_once_in_any_order_within_the_window() {
        let mut window = Window::new(5000);
        assert!(window.take(5000));
        for number in [5001, 4990, 5003, 5002, 3980] {
            assert!(!window.has(number) && window.take(number), "{number}");
            assert!(window.has(number) && !window.take(number), "{number} again");
        }
        assert!(!window.take(3000), "too old");
        assert!(window.take(5003 + WINDOW) && !window.take(5003), "the window moved on");
        assert!(window.take(5004) && !window.take(5004));
        assert!(window.take(u64::MAX) && !window.take(5005) && !window.take(u64::MAX));
    }

    #[test]
    fn the_window_agrees_with_a_set_of_everything_that_came() {
        let (mut window, mut seen, mut random) =
            (Window::new(0), std::collections::BTreeSet::new(), Entropy::new([7; 32]));
        let mut top = 2000_u64;
        for _ in 0..20_000 {
            top += random.below(3);
            let number = top - random.below(1500);
            let newest = seen.last().copied().unwrap_or(0);
            let new = number + WINDOW > newest && !seen.contains(&number);
            assert_eq!(window.take(number), new, "{number} after {newest}");
            if new {
                seen.insert(number);
            }
        }
    }

    #[test]
    fn a_run_is_a_stranger_until_it_is_adopted_and_again_after_another_one_was() {
        let mut guard = Guard::default();
        assert_eq!(guard.take(stamp(1, 7)), Verdict::Stranger);
        guard.adopt(stamp(1, 9));
        assert_eq!(guard.take(stamp(1, 9)), Verdict::Replayed);
        assert_eq!(guard.take(stamp(1, 7)), Verdict::New);
        assert!(guard.is_new(stamp(1, 10)) && !guard.is_new(stamp(1, 7)) && !guard.is_new(stamp(2, 10)));
        guard.adopt(stamp(2, 1));
        assert_eq!(guard.take(stamp(1, 11)), Verdict::Stranger, "a recorded probe of the run before");
    }

    #[test]
    fn what_a_stranger_said_is_held_once_newest_of_its_kind_and_not_for_long() {
        let (mut guard, t) = (Guard::default(), start());
        let list = || Content::Candidates(Whereabouts::default());
        guard.hold(relay(), probe(stamp(1, 3), list()), t);
        guard.hold(relay(), probe(stamp(1, 2), list()), t);
        guard.hold(relay(), probe(stamp(1, 4), Content::Ping), t);
        guard.adopt(stamp(1, 5));
        let numbers: Vec<_> = guard.release(t).iter().map(|h| h.probe.stamp.number).collect();
        assert_eq!(numbers, [3, 4]);
        assert_eq!(guard.take(stamp(1, 3)), Verdict::Replayed, "it was acted on");
        guard.hold(relay(), probe(stamp(2, 3), list()), t);
        assert!(guard.release(t).is_empty(), "of another run");
        guard.hold(relay(), probe(stamp(2, 4), list()), t);
        guard.adopt(stamp(2, 5));
        assert!(guard.release(t + PATIENCE).is_empty(), "out of date");
    }

    #[test]
    fn a_stranger_is_asked_seldom_and_an_answer_counts_once_and_in_time() {
        let (mut guard, t) = (Guard::default(), start());
        let ms = |n: u64| t + Duration::from_millis(n);
        let said =
            |guard: &mut Guard, number, at| guard.hold(relay(), probe(stamp(1, number), Content::Ping), at);
        let asked = (0..1000_u64).filter(|n| {
            said(&mut guard, *n + 1, ms(*n));
            guard.ask(ms(*n)).is_some()
        });
        assert_eq!(asked.count(), 4);
        assert_eq!(guard.next_question(ms(1000)), Some(ms(1200)), "what was said meanwhile waits");
        assert!(guard.ask(ms(1200)).is_some());
        assert_eq!(guard.next_question(ms(1500)), None, "one question for one probe");
        said(&mut guard, 2000, ms(1500));
        assert_eq!(guard.next_question(ms(1500) + PATIENCE), None, "out of date");
        for n in 0..100 {
            guard.asked(TxId([n; 12]), relay(), t);
        }
        assert_eq!(guard.open.len(), MAX_OPEN);
        assert!(guard.is_open(TxId([99; 12]), t) && !guard.is_open(TxId([99; 12]), t + PATIENCE));
        assert!(guard.answered(TxId([99; 12]), t).is_some());
        assert!(guard.answered(TxId([99; 12]), t).is_none());
        assert!(guard.answered(TxId([98; 12]), t + PATIENCE).is_none());
    }
}
