//! Our splitting and joining of segments beside the kernel's own: one TUN device takes super-packets, the
//! kernel forwards them to a second one that takes none and so cuts them itself.
//!
//! What comes out there is compared with what [`Split`] makes of the same super-packet, and, for what
//! [`Coalescer`] joined, with the packets that went into it. The inputs are random, the same in every run.

#[path = "offloads/flow.rs"]
mod flow;

use anyhow::{Context, Result, ensure};
use flow::{Flow, Random};
use meshd_engine::data::{Coalescer, Offload, Offloads, SegmentKind, Split, finish_checksum};
use meshd_engine::packet::parse;
use meshd_lab::{Host, Lab, now};
use meshd_node::data::{DEVICE_ROOM, PacketDevice};
use meshd_node::tun::Tun;
use std::collections::HashMap;
use std::io::IoSlice;
use std::net::IpAddr;
use std::time::Duration;

/// How long the kernel may take for what it has been given.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long silence has to last to mean that nothing more comes.
const SILENCE: Duration = Duration::from_millis(5);

/// Two devices with a forwarding kernel between them.
struct Bench {
    into: Tun,
    out: Tun,
}

impl Bench {
    /// Both in the network of `host`, which the calling thread enters.
    fn new(host: &Host) -> Result<Bench> {
        host.enter_network()?;
        let device = |name: &str, offload| -> Result<Tun> {
            let queue = Tun::create(name, 9000, 1, offload)?.pop();
            queue.context("a device has a queue")
        };
        let (into, out) = (device("whole0", true)?, device("cut0", false)?);
        ensure!(into.accepts() == Offloads { tcp: true, udp: true }, "this kernel lacks TSO or USO for TUN");
        ensure!(out.accepts() == Offloads::default(), "the second device takes super-packets");
        for device in ["whole0", "cut0"] {
            host.sh(&format!("ip link set {device} up txqueuelen 4000"))?;
        }
        host.sysctl(&[
            ("ipv4/ip_forward", "1"),
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/whole0/rp_filter", "0"),
            ("ipv6/conf/all/forwarding", "1"),
        ])?;
        host.sh("ip addr add 10.91.0.1/24 dev whole0 && ip addr add fd91::1/64 dev whole0 && \
             ip route add 10.92.0.0/24 dev cut0 && ip route add fd92::/64 dev cut0")?;
        Ok(Bench { into, out })
    }

    /// Hands a packet to the kernel.
    fn give(&self, offload: Offload, parts: &[IoSlice<'_>]) -> Result<()> {
        self.into.write(offload, parts).with_context(|| format!("the kernel refuses {offload:?}"))
    }

    /// Takes `count` packets from the kernel, and then makes sure that no other follows.
    fn take(&self, count: usize) -> Result<Vec<Vec<u8>>> {
        let (began, mut quiet) = (now(), None);
        let (mut room, mut taken) = (vec![0; DEVICE_ROOM], Vec::new());
        loop {
            match self.out.read(&mut room) {
                Ok((len, _)) => {
                    // The kernel's own multicast is not ours.
                    let ours = parse(&room[..len]).is_ok_and(|p| flow::is_ours(p.dst));
                    taken.extend(ours.then(|| room[..len].to_vec()));
                    quiet = None;
                }
                Err(_) if taken.len() < count && now() - began < PATIENCE => {
                    std::thread::sleep(Duration::from_micros(50));
                }
                Err(_) if taken.len() < count => return Ok(taken),
                Err(_) => match quiet {
                    None => quiet = Some(now()),
                    Some(since) if now() - since > SILENCE => return Ok(taken),
                    Some(_) => std::thread::sleep(Duration::from_micros(500)),
                },
            }
        }
    }
}

/// The two namespaces' worth of a test: its lab ends with it, and its thread is its own.
fn on_a_bench(name: &str, test: impl FnOnce(Bench) -> Result<()> + Send) -> Result<()> {
    let lab = Lab::new(name)?;
    let host = lab.host("bench")?;
    std::thread::scope(|scope| {
        scope.spawn(|| test(Bench::new(&host)?)).join().expect("the test's thread does not panic")
    })
}

fn split(whole: &[u8], flow: &Flow) -> Result<Vec<Vec<u8>>> {
    let read = parse(whole)?;
    let mut bytes = whole.to_vec();
    let mut split = Split::new(&mut bytes, &read, flow.kind(), flow.size as u16)?;
    let mut all = Vec::new();
    while let Some(segment) = split.next_segment() {
        all.push(segment.to_vec());
    }
    Ok(all)
}

#[test]
fn a_super_packet_is_cut_as_the_kernel_cuts_it() -> Result<()> {
    on_a_bench("cut", |bench| {
        let mut random = Random(0x5eed_0001);
        let mut segments = 0;
        for case in 0..400 {
            let flow = Flow::choose(&mut random);
            let whole = flow.whole();
            let start = parse(&whole)?.upper_at as u16;
            // The kernel forwards, so its packets have passed one hop more.
            let mut passed = flow::hop(&whole);
            let (offload, expected) = if flow.is_one_segment() {
                // Nothing to cut: only the checksum was left to do.
                let field = if flow.kind() == SegmentKind::Udp { 6 } else { 16 };
                finish_checksum(&mut passed, start, field)?;
                (Offload::Checksum { start, field }, vec![passed])
            } else {
                let offload = Offload::Segments { kind: flow.kind(), size: flow.size as u16, start };
                (offload, split(&passed, &flow)?)
            };
            bench.give(offload, &[IoSlice::new(&whole)])?;
            let got = bench.take(expected.len())?;
            segments += got.len();
            ensure!(got == expected, "case {case}: {flow}: {}", difference(&got, &expected));
        }
        println!("400 super-packets, {segments} segments as the kernel's own");
        Ok(())
    })
}

#[test]
fn what_we_join_the_kernel_takes_apart_into_what_went_in() -> Result<()> {
    on_a_bench("join", |bench| {
        let mut random = Random(0x5eed_0002);
        let (mut packets, mut writes, mut joined) = (0, 0, 0);
        for case in 0..250 {
            let mut sent = Vec::new();
            for _ in 0..1 + random.below(4) {
                let flow = Flow::choose(&mut random);
                sent.extend(split(&flow.whole(), &flow)?);
                if random.below(4) == 0 {
                    sent.extend(flow.fragments());
                }
            }
            for _ in 0..random.below(5) {
                flow::disturb(&mut random, &mut sent);
            }
            sent.truncate(200);
            for (offload, packet) in join(&sent)? {
                joined += usize::from(matches!(offload, Offload::Segments { .. }));
                writes += 1;
                bench.give(offload, &[IoSlice::new(&packet)])?;
            }
            let expected: Vec<Vec<u8>> = sent.iter().map(|p| flow::hop(p)).collect();
            let got = bench.take(expected.len())?;
            packets += got.len();
            let (got, expected) = (by_flow(&got)?, by_flow(&expected)?);
            for (key, expected) in &expected {
                let got = got.get(key).map(Vec::as_slice).unwrap_or_default();
                ensure!(got == expected, "case {case}, {key:?}: {}", difference(got, expected));
            }
            ensure!(got.len() == expected.len(), "case {case}: packets of flows that were not sent");
        }
        ensure!(joined > 250, "only {joined} super-packets were joined: this compares nothing");
        println!("{packets} packets by {writes} writes, {joined} of them super-packets");
        Ok(())
    })
}

fn join(packets: &[Vec<u8>]) -> Result<Vec<(Offload, Vec<u8>)>> {
    let mut slab = packets.concat();
    let mut coalescer = Coalescer::new(Offloads { tcp: true, udp: true }, packets.len());
    let mut at = 0;
    for packet in packets {
        coalescer.push(&slab, at, &parse(packet)?);
        at += packet.len();
    }
    let mut out = Vec::new();
    coalescer.drain(&mut slab, |offload, parts| {
        out.push((offload, parts.iter().flat_map(|part| part.to_vec()).collect()));
    });
    Ok(out)
}

type Key = (IpAddr, IpAddr, u8, Option<meshd_engine::packet::Ports>);

/// Packets in order within each flow. With DF the identification means nothing (RFC 6864 §4.1), and equal
/// ones may be counted up.
fn by_flow(packets: &[Vec<u8>]) -> Result<HashMap<Key, Vec<Vec<u8>>>> {
    let mut flows: HashMap<Key, Vec<Vec<u8>>> = HashMap::new();
    for bytes in packets {
        let read = parse(bytes)?;
        let mut bytes = bytes.clone();
        if bytes[0] >> 4 == 4 && bytes[6] & 0x40 != 0 {
            bytes[4..6].fill(0);
            bytes[10..12].fill(0);
        }
        flows.entry((read.src, read.dst, read.protocol, read.ports())).or_default().push(bytes);
    }
    Ok(flows)
}

/// Where two lists of packets part.
fn difference(got: &[Vec<u8>], expected: &[Vec<u8>]) -> String {
    let at = got.iter().zip(expected).position(|(a, b)| a != b);
    let at = at.unwrap_or(got.len().min(expected.len()));
    let head =
        |list: &[Vec<u8>]| list.get(at).map(|p| format!("{} bytes {:02x?}", p.len(), &p[..p.len().min(72)]));
    format!(
        "{} packets instead of {}; number {at} is {:?}, not {:?}",
        got.len(),
        expected.len(),
        head(got),
        head(expected)
    )
}
