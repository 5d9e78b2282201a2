//! Acknowledgements that smoltcp would not hear.
//!
//! smoltcp takes back its highest sequence number (SND.NXT) when a retransmission timer expires, and sends
//! bare acknowledgements with what is left of it; and it drops a segment outside its receive window with all
//! that it acknowledges. When both ends of a connection retransmit at once, each sees only segments that it
//! has already received, neither learns what the other one has, and the connection stands still for ever. A
//! sender that has used the whole window, so that its next sequence number lies just behind it, is not heard
//! either.
//!
//! RFC 9293 §3.10.7.4 asks for an allowance for valid acknowledgements. It is made here, before smoltcp: what
//! such a segment acknowledges is handed on with a sequence number that smoltcp expects. Which that is follows
//! from what the connection last told its peer.

use super::books::Tuple;
use crate::userspace::packet;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    IpAddress, IpProtocol, IpRepr, Ipv4Packet, Ipv6Packet, TcpControl, TcpOption, TcpPacket, TcpRepr,
    TcpSeqNumber,
};
use std::net::{IpAddr, SocketAddr};

const HOP_LIMIT: u8 = 64;

/// What a connection last told its peer about what it receives.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    /// The first byte that has not come (RCV.NXT at that time).
    next: TcpSeqNumber,
    /// The first one behind the window.
    edge: TcpSeqNumber,
}

/// A segment that smoltcp would drop with what it acknowledges.
#[derive(Debug)]
pub(super) struct Unheard {
    /// What it acknowledges, as a packet that smoltcp hears.
    pub(super) acknowledgement: Vec<u8>,
    /// The segment itself is to be answered: its sender does not know how far we are.
    pub(super) answer: bool,
}

/// A TCP packet of ours, and whose it is. `None`: another packet.
pub(super) fn outgoing(bytes: &[u8]) -> Option<(Tuple, TcpPacket<&[u8]>)> {
    let segment = segment(bytes)?;
    let (src, dst): (IpAddr, IpAddr) = match bytes.first()? >> 4 {
        4 => {
            let ip = Ipv4Packet::new_unchecked(bytes);
            (ip.src_addr().into(), ip.dst_addr().into())
        }
        _ => {
            let ip = Ipv6Packet::new_unchecked(bytes);
            (ip.src_addr().into(), ip.dst_addr().into())
        }
    };
    let local = SocketAddr::new(src, segment.src_port());
    Some((Tuple { local, remote: SocketAddr::new(dst, segment.dst_port()) }, segment))
}

/// The segment in a whole, unfragmented packet; with plain headers only.
fn segment(bytes: &[u8]) -> Option<TcpPacket<&[u8]>> {
    let (protocol, len) = match bytes.first()? >> 4 {
        4 => {
            let ip = Ipv4Packet::new_checked(bytes).ok()?;
            (ip.next_header(), usize::from(ip.total_len()))
        }
        _ => {
            let ip = Ipv6Packet::new_checked(bytes).ok()?;
            (ip.next_header(), ip.total_len())
        }
    };
    if protocol != IpProtocol::Tcp {
        return None;
    }
    TcpPacket::new_checked(bytes.get(packet::header_len(bytes, protocol.into())?..len)?).ok()
}

/// How the windows that follow a SYN of ours are scaled (RFC 7323 §2).
pub(super) fn window_scale(syn: &TcpPacket<&[u8]>) -> u8 {
    let mut options = syn.options();
    while let Ok((rest, option)) = TcpOption::parse(options) {
        match option {
            TcpOption::WindowScale(shift) => return shift.min(14),
            TcpOption::EndOfList => break,
            _ => options = rest,
        }
    }
    0
}

impl Told {
    /// What the peer knows once it has `sent`, whose window is to be shifted by `scale`.
    pub(super) fn by(sent: &TcpPacket<&[u8]>, scale: u8) -> Option<Self> {
        let next = sent.ack_number();
        let window = usize::from(sent.window_len()) << scale;
        (sent.ack() && !sent.rst()).then(|| Self { next, edge: next + window })
    }

    /// What is to be done with a packet of the peer's that smoltcp would drop. `None`: it would not.
    pub(super) fn unheard(self, bytes: &[u8], Tuple { local, remote }: Tuple) -> Option<Unheard> {
        let segment = segment(bytes)?;
        if segment.syn() || segment.rst() || !segment.ack() {
            return None;
        }
        let (start, len) = (segment.seq_number(), segment.segment_len());
        let past = start < self.next && start + len <= self.next;
        // An empty one is heard at the edge of a closed window.
        let beyond = start >= self.edge && !(len == 0 && start == self.next);
        if !past && !beyond {
            return None;
        }
        let (src, dst) = (IpAddress::from(remote.ip()), IpAddress::from(local.ip()));
        let bare = TcpRepr {
            src_port: remote.port(),
            dst_port: local.port(),
            control: TcpControl::None,
            seq_number: self.next,
            ack_number: Some(segment.ack_number()),
            window_len: segment.window_len(),
            window_scale: None,
            max_seg_size: None,
            sack_permitted: false,
            sack_ranges: [None; 3],
            timestamp: None,
            payload: &[],
        };
        let ip = IpRepr::new(src, dst, IpProtocol::Tcp, bare.buffer_len(), HOP_LIMIT);
        let mut acknowledgement = vec![0; ip.buffer_len()];
        let checksums = ChecksumCapabilities::default();
        ip.emit(&mut acknowledgement[..], &checksums);
        let mut room = TcpPacket::new_unchecked(&mut acknowledgement[ip.header_len()..]);
        bare.emit(&mut room, &src, &dst, &checksums);
        Some(Unheard { acknowledgement, answer: past || len > 0 })
    }
}
