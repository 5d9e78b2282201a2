//! The generator: so many questions under way, runs of them sent by one call (`UDP_SEGMENT`), replies taken by
//! `recvmmsg`, so that the server and not the generator is what is busy.

use crate::clock;
use crate::question::{NAMES, Names, is_answer, question};
use anyhow::{Context, Result, bail, ensure};
use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{ErrorKind, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

/// Questions in one run.
pub(crate) const RUN: usize = 32;
/// Runs under way in bursts.
const RUNS: usize = 4;
/// Without a reply for so long, what is under way counts as lost: on a busy machine a server may wait for its turn.
const LOST: Duration = Duration::from_secs(2);
/// Most that may be lost: more, and the figures mean nothing.
const MAX_LOST: f64 = 0.01;
/// Room for one reply (or a run of them, which loopback does not make).
const ROOM: usize = 2048;
/// Replies taken by one call.
const BATCH: usize = quinn_udp::BATCH_SIZE;

/// How it asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    /// [`RUNS`] runs are under way at any time.
    Bursts,
    /// The next question when the last one is answered.
    Single,
}

impl Load {
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Bursts => "in bursts",
            Self::Single => "one at a time",
        }
    }
}

/// Asks one server.
pub(crate) struct Generator {
    pub(crate) socket: UdpSocket,
    state: UdpSocketState,
    pub(crate) to: SocketAddr,
    names: Names,
    checks: bool,
    /// All questions, run by run.
    runs: Vec<Vec<u8>>,
    segment: usize,
    next: usize,
    buffers: Vec<Vec<u8>>,
}

impl Generator {
    /// `checks`: what comes back must be an answer, not just bytes.
    pub(crate) fn new(to: SocketAddr, names: Names, checks: bool) -> Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_recv_buffer_size(4 << 20)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
        let socket: UdpSocket = socket.into();
        let state = UdpSocketState::new((&socket).into())?;
        ensure!(state.max_gso_segments() >= RUN, "this kernel sends no runs of datagrams (UDP_SEGMENT)");
        socket.set_nonblocking(false)?;
        socket.set_read_timeout(Some(LOST))?;
        let ids = (0..NAMES).map(|n| question(names, n, n as u16)).collect::<Vec<_>>();
        let segment = ids[0].len();
        let runs = ids.chunks_exact(RUN).map(<[_]>::concat).collect();
        Ok(Self {
            socket,
            state,
            to,
            names,
            checks,
            runs,
            segment,
            next: 0,
            buffers: vec![vec![0; ROOM]; BATCH],
        })
    }

    /// Asks for every name once, patiently, until all are answered.
    pub(crate) fn warm(&mut self) -> Result<()> {
        let mut reply = [0; ROOM];
        for n in 0..NAMES {
            let answered = (0..50).any(|_| {
                let sent = self.socket.send_to(&question(self.names, n, n as u16), self.to);
                sent.is_ok()
                    && matches!(self.socket.recv(&mut reply), Ok(len) if !self.checks || is_answer(&reply[..len]))
            });
            ensure!(answered, "{} is not answered", self.names.name(n));
        }
        // Late replies of questions that were asked twice.
        while self.socket.recv(&mut reply).is_ok() {}
        Ok(())
    }

    /// Asks for `time`; how many were answered.
    ///
    /// # Errors
    /// When a reply is wrong, or too many are lost.
    pub(crate) fn run(&mut self, load: Load, time: Duration) -> Result<u64> {
        let (window, run) = match load {
            Load::Bursts => (RUN * RUNS, RUN),
            Load::Single => (1, 1),
        };
        let until = clock::now() + time;
        let (mut under_way, mut answered, mut lost) = (0_usize, 0_u64, 0_u64);
        while clock::now() < until {
            while under_way + run <= window {
                self.send(run)?;
                under_way += run;
            }
            match self.receive()? {
                0 => {
                    lost += under_way as u64;
                    under_way = 0;
                }
                got => {
                    answered += got as u64;
                    under_way = under_way.saturating_sub(got);
                }
            }
        }
        while under_way > 0 {
            let got = self.receive()?;
            if got == 0 {
                break;
            }
            answered += got as u64;
            under_way = under_way.saturating_sub(got);
        }
        ensure!(answered > 0, "nothing was answered");
        let part = lost as f64 / (answered + lost) as f64;
        ensure!(part <= MAX_LOST, "{:.1} % of the questions got no reply", part * 100.0);
        Ok(answered)
    }

    /// Sends as fast as it can, whatever comes back; questions a second.
    pub(crate) fn flood(&mut self, time: Duration) -> Result<f64> {
        let started = clock::now();
        let mut sent = 0_u64;
        while clock::now() - started < time {
            self.send(RUN)?;
            sent += RUN as u64;
        }
        Ok(sent as f64 / time.as_secs_f64())
    }

    fn send(&mut self, count: usize) -> Result<()> {
        let bytes = &self.runs[self.next % self.runs.len()];
        self.next += 1;
        let contents = &bytes[..count * self.segment];
        let transmit = Transmit {
            destination: self.to,
            ecn: None,
            contents,
            segment_size: (count > 1).then_some(self.segment),
            src_ip: None,
        };
        loop {
            match self.state.try_send((&self.socket).into(), &transmit) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                sent => return sent.context("cannot send questions"),
            }
        }
    }

    /// How many replies came; 0 when none came for a while.
    fn receive(&mut self) -> Result<usize> {
        let mut metas = [RecvMeta::default(); BATCH];
        let mut slices: Vec<IoSliceMut<'_>> = self.buffers.iter_mut().map(|b| IoSliceMut::new(b)).collect();
        let got = match self.state.recv((&self.socket).into(), &mut slices, &mut metas) {
            Ok(got) => got,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Ok(0);
            }
            Err(error) => return Err(error).context("cannot receive replies"),
        };
        let mut count = 0;
        for (meta, bytes) in metas.iter().zip(&self.buffers).take(got) {
            for reply in bytes[..meta.len].chunks(meta.stride.max(1)) {
                if self.checks && !is_answer(reply) {
                    bail!("a wrong reply: {reply:02x?}");
                }
                count += 1;
            }
        }
        Ok(count)
    }
}

/// Whether a server says anything to the first of these names.
pub(crate) fn is_up(addr: SocketAddr, names: Names) -> Result<bool> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.set_read_timeout(Some(LOST))?;
    socket.connect(addr)?;
    let sent = socket.send(&question(names, 0, 1));
    Ok(sent.is_ok() && socket.recv(&mut [0; ROOM]).is_ok())
}
