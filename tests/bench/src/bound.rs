//! The bound of a run: what this machine could carry if it did nothing but encrypt, decrypt and run TCP.
//!
//! `bound = cores / (seal + open + tcp)`: core-seconds per GB of payload for ring's ChaCha20-Poly1305
//! over packets of [`PACKET`] bytes at both ends, and for both ends of TCP over the plain cable (CPU time
//! of both iperf3 processes, in the same run and on the same underlay).

use crate::contestant::Kind;
use crate::samples::Samples;
use crate::underlay::Underlay;
use meshd_engine::session::wireguard::WireGuard;
use meshd_engine::session::{Session, SessionFactory, SessionIndex};
use meshd_proto::NodeSecret;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use std::collections::BTreeMap;

/// Size of a packet in the crypto measurement.
pub(crate) const PACKET: usize = 1400;
/// Seconds: long enough to see the machine's speed, short enough not to heat it.
const PIECE: f64 = 0.1;
const PIECES: usize = 9;

/// Speed of one core; the best piece counts, since others disturb only downwards.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crypto {
    /// 10^9 bytes per second.
    pub(crate) seal_gb_s: f64,
    /// 10^9 bytes per second.
    pub(crate) open_gb_s: f64,
}

/// Measures ring on one core.
pub(crate) fn crypto() -> Crypto {
    let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &[7; 32]).expect("a key has 32 bytes"));
    let mut sealed = vec![0x5a; PACKET];
    let seal = |buffer: &mut Vec<u8>, counter: u64| {
        buffer.truncate(PACKET);
        key.seal_in_place_append_tag(nonce(counter), Aad::empty(), buffer).expect("a packet can be sealed");
    };
    seal(&mut sealed, 0);
    let mut work = sealed.clone();
    let seal_gb_s = best(|n| seal(&mut work, n));
    let open_gb_s = best(|_| {
        work.clear();
        work.extend_from_slice(&sealed);
        key.open_in_place(nonce(0), Aad::empty(), &mut work).expect("what was sealed can be opened");
    });
    Crypto { seal_gb_s, open_gb_s }
}

/// Complete WireGuard handshakes a second: initiation, answer, first packet, all on one core. A daemon also
/// looks up who asks, once for each initiation.
pub(crate) const HANDSHAKES: &str = "handshakes per second, both ends on one core";

/// Measures the engine's own sessions, which every daemon of ours uses.
pub(crate) fn handshakes() -> f64 {
    let secret = |n: u8| NodeSecret::from_bytes([n; 32]);
    let (mut left, mut right) = (WireGuard::new(&secret(1)), WireGuard::new(&secret(2)));
    let mut fastest: f64 = 0.0;
    for _ in 0..PIECES {
        let (mut count, mut spent) = (0u32, 0.0);
        while spent < PIECE {
            // A peer is made when the map names it: that is not part of a handshake.
            let at = meshd_lab::now();
            let mut a = left.create(&secret(2).public(), SessionIndex::new(1), None, at);
            let mut b = right.create(&secret(1).public(), SessionIndex::new(2), None, at);
            let (mut answer, mut confirm) = (Vec::new(), Vec::new());
            let began = thread_seconds();
            let initiation = a.initiate(at).expect("a new session can begin");
            b.handshake(&initiation, &mut answer, at).expect("it is from the peer");
            a.handshake(&answer[0], &mut confirm, at).expect("it answers the initiation");
            b.open(&confirm[0], &mut [0; 64], at).expect("the first packet is sealed for us");
            spent += thread_seconds() - began;
            count += 1;
        }
        fastest = fastest.max(f64::from(count) / spent);
    }
    fastest
}

fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

fn best(mut packet: impl FnMut(u64)) -> f64 {
    let mut fastest: f64 = 0.0;
    let mut count = 0;
    for _ in 0..PIECES {
        let began = thread_seconds();
        let first = count;
        while thread_seconds() - began < PIECE {
            for _ in 0..64 {
                count += 1;
                packet(count);
            }
        }
        let bytes = (count - first) as f64 * PACKET as f64;
        fastest = fastest.max(bytes / (thread_seconds() - began) / 1e9);
    }
    fastest
}

/// CPU time of this thread: others on the machine do not count.
fn thread_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// The bound in Gb/s of each underlay, where the plain cable was measured.
pub(crate) fn of_run(crypto: &Crypto, underlays: &[Underlay], samples: &Samples) -> BTreeMap<Underlay, f64> {
    let cores = std::thread::available_parallelism().map_or(1.0, |n| n.get() as f64);
    let bound = |underlay: &Underlay| {
        let tcp = samples.median(Kind::Veth, Some(*underlay), crate::measure::IPERF_COST)?;
        Some((*underlay, formula(cores, crypto, tcp)))
    };
    underlays.iter().filter_map(bound).collect()
}

/// Gb/s.
fn formula(cores: f64, crypto: &Crypto, tcp_seconds_per_gb: f64) -> f64 {
    8.0 * cores / (1.0 / crypto.seal_gb_s + 1.0 / crypto.open_gb_s + tcp_seconds_per_gb)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_is_cores_over_the_sum_of_costs() {
        let crypto = Crypto { seal_gb_s: 1.0, open_gb_s: 1.0 };
        assert!((formula(2.0, &crypto, 0.5) - 6.4).abs() < 1e-9);
    }
}
