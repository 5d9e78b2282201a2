//! What was on a wire: `tcpdump` on one interface, read back packet by packet.

mod parse;

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;

use crate::host::Host;
use crate::process::Process;

/// A capture that goes on.
#[derive(Debug)]
pub struct Capturing {
    process: Process,
    file: PathBuf,
}

/// A finished capture.
#[derive(Debug)]
pub struct Capture {
    /// Every frame, in order.
    pub packets: Vec<Packet>,
}

/// One frame.
#[derive(Clone, Debug)]
pub struct Packet {
    /// Seconds since 1970 by the capturing machine.
    pub time: f64,
    /// Sender; the port is 0 where there is none.
    pub source: SocketAddr,
    /// Receiver.
    pub destination: SocketAddr,
    /// What it carries.
    pub transport: Transport,
    /// What is behind the transport header, or behind the IP header where there is none.
    pub payload: Vec<u8>,
}

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// UDP.
    Udp,
    /// TCP.
    Tcp,
    /// ICMP or ICMPv6.
    Icmp,
    /// Another protocol of IP, or a fragment without its header.
    Other(u8),
    /// Not IP: ARP and the like; addresses are unspecified.
    NotIp,
}

/// The four messages of WireGuard (paper §5.4), by their first word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireGuard {
    /// Type 1, 148 bytes.
    Initiation,
    /// Type 2, 92 bytes.
    Response,
    /// Type 3, 64 bytes.
    Cookie,
    /// Type 4: header, ciphertext, tag. The paper pads to multiples of 16, boringtun does not.
    Data,
}

impl Packet {
    /// Whether this is a WireGuard message: type, reserved bytes and length all have to fit.
    pub fn wireguard(&self) -> Option<WireGuard> {
        if self.transport != Transport::Udp {
            return None;
        }
        let head = self.payload.first_chunk::<4>()?;
        match (head, self.payload.len()) {
            ([1, 0, 0, 0], 148) => Some(WireGuard::Initiation),
            ([2, 0, 0, 0], 92) => Some(WireGuard::Response),
            ([3, 0, 0, 0], 64) => Some(WireGuard::Cookie),
            ([4, 0, 0, 0], n) if n >= 32 => Some(WireGuard::Data),
            _ => None,
        }
    }

    /// Whether this is one of meshd's sealed probes, by its first word (`docs/protocol.md`).
    pub fn is_probe(&self) -> bool {
        self.transport == Transport::Udp && self.payload.starts_with(b"dhsm")
    }

    /// Whether this is a STUN message (RFC 8489: magic cookie at byte 4).
    pub fn is_stun(&self) -> bool {
        self.transport == Transport::Udp
            && self.payload.len() >= 20
            && self.payload[0] < 4
            && self.payload[4..8] == [0x21, 0x12, 0xa4, 0x42]
    }

    /// Whether it goes between `a` and `b`, in either direction.
    pub fn is_between(&self, a: IpAddr, b: IpAddr) -> bool {
        let (source, destination) = (self.source.ip(), self.destination.ip());
        (source, destination) == (a, b) || (source, destination) == (b, a)
    }

    /// Whether one end is `address`.
    pub fn touches(&self, address: IpAddr) -> bool {
        self.source.ip() == address || self.destination.ip() == address
    }

    /// Whether the payload holds one of `needles`.
    pub fn holds(&self, needles: &[&[u8]]) -> bool {
        needles.iter().any(|needle| self.payload.windows(needle.len()).any(|window| window == *needle))
    }
}

impl Capture {
    /// The frames for which `condition` holds.
    pub fn count(&self, condition: impl Fn(&Packet) -> bool) -> usize {
        self.packets.iter().filter(|packet| condition(packet)).count()
    }

    /// Reads a classic pcap file.
    pub fn parse(bytes: &[u8]) -> Result<Capture> {
        Ok(Capture { packets: parse::pcap(bytes)? })
    }
}

impl Host {
    /// Captures everything at `interface`, whole frames, from now on.
    pub fn capture(&self, interface: &str) -> Result<Capturing> {
        self.capture_only(interface, "")
    }

    /// Captures what matches a filter of tcpdump.
    pub fn capture_only(&self, interface: &str, filter: &str) -> Result<Capturing> {
        let log = self.file("/var/lib/capture");
        fs::create_dir_all(&log)?;
        let number = fs::read_dir(&log)?.count();
        let file = log.join(format!("{number}-{interface}.pcap"));
        fs::write(&file, [])?;
        let path = format!("/var/lib/capture/{number}-{interface}.pcap");
        let mut args = vec![
            "-Z",
            "root",
            "-n",
            "-U",
            "--immediate-mode",
            "-s",
            "0",
            "-B",
            "131072",
            "-i",
            interface,
            "-w",
            path.as_str(),
        ];
        if !filter.is_empty() {
            args.push(filter);
        }
        let process = self.spawn("tcpdump", args)?;
        process.wait_for_log("listening on", Duration::from_secs(10))?;
        Ok(Capturing { process, file })
    }
}

impl Capturing {
    /// Ends the capture. An error when the kernel could not keep up: a capture with holes proves nothing.
    pub fn finish(self) -> Result<Capture> {
        // What is on its way through the kernel's ring still counts.
        std::thread::sleep(Duration::from_millis(150));
        self.process.signal(Signal::INT)?;
        let log = self.process.log.clone();
        self.process.wait(Duration::from_secs(20))?;
        let said = fs::read_to_string(&log)?;
        let dropped = said
            .lines()
            .find(|line| line.contains("dropped by kernel"))
            .and_then(|line| line.split_whitespace().next())
            .context("tcpdump did not say how many packets it lost")?;
        ensure!(dropped == "0", "the capture lost {dropped} packets");
        let bytes = fs::read(&self.file)?;
        if bytes.len() < 24 {
            bail!("tcpdump wrote no capture: {said}");
        }
        Capture::parse(&bytes)
    }
}
