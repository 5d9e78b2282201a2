//! More than it can do: questions as fast as they can be sent, whether answered or not; and names that nobody
//! knows, each another one, of a domain whose resolver is silent, at far more than ten times the pace at which
//! they can be given up.

use crate::clock;
use crate::contestant::{Contestant, Make, PROCESSORS, pin};
use crate::generator::{Generator, Load, is_up};
use crate::question::{NAMES, Names, question};
use anyhow::{Result, ensure};
use serde::Serialize;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

/// How long each flood lasts.
const FLOOD: Duration = Duration::from_secs(3);
/// What both may add to its memory: caches and buffers are bounded by less.
const MAX_GROWTH: u64 = 24 << 10;
/// Questions of the listener that may wait for upstreams (`dns::server`), and how long one may wait.
const IN_FLIGHT: f64 = 512.0;
const PATIENCE: f64 = 5.0;
/// How many times the pace of giving up.
const TIMES: f64 = 10.0;

/// What happened.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Overload {
    /// KiB of memory: warm, the most ever, and at the end.
    memory: [u64; 3],
    /// Questions a second for names of its own.
    flood_per_second: f64,
    /// Different unknown names a second.
    unknown_per_second: f64,
    /// Unknown names a second that it can give up at most.
    unknown_capacity: f64,
    /// Answers a second before and after.
    before: f64,
    after: f64,
    /// Of its own names, asked among the unknown ones: the part that was answered.
    own_among_unknown: f64,
    /// Of the second after: how long it ran, and how long it waited for a processor that others had.
    ran: f64,
    waited: f64,
}

/// Floods our resolver.
pub(crate) fn measure(upstream: SocketAddr) -> Result<Overload> {
    eprintln!("overload…");
    let ours = Contestant::start(Make::Meshd, Some(upstream))?;
    pin(Some(ours.id()), PROCESSORS.0)?;
    let mut generator = Generator::new(ours.addr, Names::Mesh, true)?;
    generator.warm()?;
    let second = Duration::from_secs(1);
    let before = generator.run(Load::Bursts, second)? as f64;
    let warm = ours.memory()?.0;
    let flood = generator.flood(FLOOD)?;
    let (unknown, own_among_unknown) = unknown(ours.addr)?;
    // What is still under way is given up.
    std::thread::sleep(Duration::from_secs_f64(PATIENCE + 1.0));
    ensure!(is_up(ours.addr, Names::Mesh)?, "it does not answer after the flood");
    let mut generator = Generator::new(ours.addr, Names::Mesh, true)?;
    let began = ours.scheduled()?;
    let after = generator.run(Load::Bursts, second)? as f64;
    let ended = ours.scheduled()?;
    let [ran, waited] = [0, 1].map(|i| ended[i].saturating_sub(began[i]).as_secs_f64());
    let (now, most) = ours.memory()?;
    Ok(Overload {
        memory: [warm, most, now],
        flood_per_second: flood,
        unknown_per_second: unknown,
        unknown_capacity: IN_FLIGHT / PATIENCE,
        before,
        after,
        own_among_unknown,
        ran,
        waited,
    })
}

/// Asks for other names each time, how many a second; and for one of its own among so many of those, which part
/// of these was answered.
fn unknown(to: SocketAddr) -> Result<(f64, f64)> {
    let own = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    own.set_nonblocking(true)?;
    let (mut asked, mut answered) = (0_u32, 0_u32);
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.set_nonblocking(true)?;
    let started = clock::now();
    let mut sent = 0_u32;
    while clock::now() - started < FLOOD {
        let _ = socket.send_to(&question(Names::Unknown, NAMES + sent, sent as u16), to);
        sent += 1;
        while socket.recv(&mut [0; 512]).is_ok() {}
        if sent.is_multiple_of(64) {
            asked += u32::from(own.send_to(&question(Names::Mesh, 0, asked as u16), to).is_ok());
            while own.recv(&mut [0; 512]).is_ok() {
                answered += 1;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    // A reply may be on its way.
    own.set_nonblocking(false)?;
    own.set_read_timeout(Some(Duration::from_millis(200)))?;
    while answered < asked && own.recv(&mut [0; 512]).is_ok() {
        answered += 1;
    }
    Ok((f64::from(sent) / FLOOD.as_secs_f64(), f64::from(answered) / f64::from(asked.max(1))))
}

impl Overload {
    pub(crate) fn print(&self) {
        let [warm, most, now] = self.memory;
        println!(
            "overload: {:.0} questions/s for its own names, then {:.0} unknown names/s ({:.0} times what it can give \
             up): memory {warm} KiB warm, {most} KiB at most, {now} KiB after; {:.0} answers/s before, {:.0} after",
            self.flood_per_second,
            self.unknown_per_second,
            self.unknown_per_second / self.unknown_capacity,
            self.before,
            self.after
        );
        println!(
            "overload: {:.0} % of the questions for its own names among the unknown ones were answered; of the second \
             after it ran {:.2} s and waited {:.2} s for a processor that other programs had",
            100.0 * self.own_among_unknown,
            self.ran,
            self.waited
        );
    }

    /// Whether it stayed within its bounds.
    pub(crate) fn verdict(&self) -> Result<()> {
        let [warm, most, _] = self.memory;
        ensure!(
            self.unknown_per_second >= TIMES * self.unknown_capacity,
            "only {:.0} unknown names a second: that is no overload",
            self.unknown_per_second
        );
        ensure!(self.own_among_unknown > 0.0, "it answers nothing while unknown names are asked");
        ensure!(most.saturating_sub(warm) <= MAX_GROWTH, "its memory grew from {warm} to {most} KiB");
        Ok(())
    }
}
