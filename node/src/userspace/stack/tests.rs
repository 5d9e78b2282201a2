//! Two stacks in virtual time, joined by a wire that loses and reorders: the same run for the same seed.

use super::Stack;
use crate::userspace::Limits;
use smoltcp::iface::SocketHandle;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

const BYTES: usize = 3_000_000;
/// Bytes of one stack that are on their way to the wire at once.
const ROOM: usize = 64 << 10;
/// Applications and stacks look around this often.
const TICK: Duration = Duration::from_micros(20);
/// Longer than the longest retransmission timer that these wires lead to, shorter than `dead_after`.
const STANDSTILL: Duration = Duration::from_secs(30);

/// xorshift64*.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % n
    }
}

/// What the wire does.
#[derive(Clone, Copy, Debug)]
struct Wire {
    /// Packets of 10,000 that are lost.
    loss: u64,
    /// Most microseconds by which one is later than another.
    jitter: u64,
    /// Packets that wait for one end at most; others are lost.
    queue: usize,
}

/// A stack and an application that sends [`BYTES`] and receives as many, a random piece at a time.
struct End {
    stack: Stack,
    handle: Option<SocketHandle>,
    written: usize,
    read: usize,
    salt: usize,
}

fn byte(index: usize, salt: usize) -> u8 {
    (index * 31 + index / 251 + salt) as u8
}

impl End {
    /// Whether it did anything.
    fn work(&mut self, dice: &mut Dice) -> bool {
        let Some(handle) = self.handle else { return false };
        let before = (self.written, self.read);
        let socket = self.stack.tcp_socket(handle);
        let len = (BYTES - self.written).min(1 + dice.below(65_536) as usize);
        if len > 0 && socket.can_send() {
            let data: Vec<u8> = (self.written..self.written + len).map(|i| byte(i, self.salt)).collect();
            self.written += socket.send_slice(&data).unwrap();
        }
        if socket.can_recv() {
            let mut room = vec![0; 1 + dice.below(65_536) as usize];
            let len = socket.recv_slice(&mut room).unwrap();
            let expected = (self.read..self.read + len).map(|i| byte(i, 3 - self.salt));
            assert!(room[..len].iter().copied().eq(expected), "other bytes behind {}", self.read);
            self.read += len;
        }
        before != (self.written, self.read)
    }
}

/// Runs until both ends have all; how far they came where they stand still.
fn exchange(seed: u64, wire: Wire) -> Result<(), String> {
    let mut dice = Dice(seed * 7919 + 12_345);
    let mut now = crate::clock::now();
    let ips: [IpAddr; 2] = ["100.64.0.1".parse().unwrap(), "100.64.0.2".parse().unwrap()];
    let limits = Limits { tcp_buffer: 256 << 10, ..Limits::default() };
    let mut ends = [1, 2].map(|salt| {
        let mut stack = Stack::new(1380, limits, [salt as u8; 32], now);
        stack.set_addrs(vec![ips[salt - 1]], vec![]);
        End { stack, handle: None, written: 0, read: 0, salt }
    });
    ends[1].stack.listen(80).unwrap();
    let (dialled, _) = ends[0].stack.connect(SocketAddr::new(ips[1], 80)).unwrap();
    let mut under_way: BTreeMap<(Instant, u64), (usize, Vec<u8>)> = BTreeMap::new();
    let (mut waiting, mut count, mut last) = ([0; 2], 0, now);
    while ends.iter().any(|end| end.read < BYTES) {
        if ends[1].handle.is_none()
            && let Poll::Ready(Ok((accepted, _))) =
                ends[1].stack.poll_accept(80, &Context::from_waker(Waker::noop()))
        {
            (ends[0].handle, ends[1].handle) = (Some(dialled), Some(accepted));
        }
        for end in &mut ends {
            // Applications are away most of the time.
            if dice.below(4) == 0 && end.work(&mut dice) {
                last = now;
            }
        }
        while let Some(entry) = under_way.first_entry().filter(|entry| entry.key().0 <= now) {
            let (to, packet) = entry.remove();
            waiting[to] -= 1;
            ends[to].stack.ingress(&packet, now);
            ends[to].stack.egress(ROOM, now);
        }
        for (from, end) in ends.iter_mut().enumerate() {
            end.stack.egress(ROOM, now);
            for packet in std::mem::take(&mut end.stack.out).iter() {
                count += 1;
                if dice.below(10_000) >= wire.loss && waiting[1 - from] < wire.queue {
                    let delay = Duration::from_micros(200 + dice.below(wire.jitter + 1));
                    under_way.insert((now + delay, count), (1 - from, packet.to_vec()));
                    waiting[1 - from] += 1;
                }
            }
        }
        if now - last > STANDSTILL {
            return Err(format!("seed {seed}, {wire:?}: read {:?}", ends.map(|end| end.read)));
        }
        // Quiet times are passed over.
        let quiet = now - last > TICK * 100;
        let timers = ends.iter_mut().filter_map(|end| end.stack.idle(now)).min();
        let arrival = under_way.first_key_value().map(|((at, _), _)| at.saturating_duration_since(now));
        let next = timers.into_iter().chain(arrival).min().filter(|_| quiet);
        now += next.map_or(TICK, |next| next.clamp(TICK, Duration::from_secs(1)));
    }
    Ok(())
}

#[test]
fn two_stacks_that_send_at_once_never_stand_still_whatever_is_lost() {
    let wires = [
        Wire { loss: 0, jitter: 0, queue: 40 },
        Wire { loss: 0, jitter: 0, queue: 100 },
        Wire { loss: 100, jitter: 0, queue: 1000 },
        Wire { loss: 300, jitter: 300, queue: 200 },
        Wire { loss: 0, jitter: 500, queue: 300 },
    ];
    let stood: Vec<String> = (0..20)
        .flat_map(|seed| wires.map(|wire| (seed, wire)))
        .filter_map(|(seed, wire)| exchange(seed, wire).err())
        .collect();
    assert!(stood.is_empty(), "{} of 100 stood still:\n{}", stood.len(), stood.join("\n"));
}
