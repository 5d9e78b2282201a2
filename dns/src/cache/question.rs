//! A question as a cache sees it: two packets that may get the same reply have the same key.
//!
//! Read straight from the client's packet onto the stack. Packets that say more than a cached reply
//! can answer (an unknown EDNS option, a second record, another opcode) have no key and are never
//! answered from a cache.

use crate::query::skip_plain_name;

/// Name (255), type, class and flags.
const MAX_KEY: usize = 255 + 5;
/// What a client without EDNS takes by UDP (RFC 1035 §4.2.1).
const PLAIN_UDP_REPLY: u16 = 512;
const HEADER: usize = 12;
const OPT: u16 = 41;
/// COOKIE (RFC 7873) and Padding (RFC 7830): a reply may leave them out.
const IGNORABLE_OPTIONS: [u16; 2] = [10, 12];

/// Recursion desired, checking disabled, authentic data wanted, DNSSEC records wanted.
const RD: u8 = 1;
const CD: u8 = 2;
const AD: u8 = 4;
const DO: u8 = 8;

/// A question that a cache can hold the reply to.
#[derive(Clone, Debug)]
pub struct Question {
    key: [u8; MAX_KEY],
    len: u16,
    /// Where the question section ends in the client's packet, and so in every reply to it.
    pub question_end: usize,
    /// Largest UDP payload the client takes.
    pub udp_limit: usize,
    /// Whether it sent an OPT record, and so gets one (RFC 6891 §7).
    pub edns: bool,
}

impl Question {
    /// Reads a client's packet; `None`: not a question that a cache may answer.
    pub fn read(packet: &[u8]) -> Option<Self> {
        let header = packet.first_chunk::<HEADER>()?;
        // A standard query (QR and opcode 0), not truncated, one question, at most one more record.
        let plain = header[2] & 0b1111_1010 == 0 && header[4..10] == [0, 1, 0, 0, 0, 0] && header[10] == 0;
        if !plain || header[11] > 1 {
            return None;
        }
        let name_end = skip_plain_name(packet, HEADER)?;
        let question_end = name_end + 4;
        let asked = packet.get(HEADER..question_end)?;
        let mut flags = (header[2] & 1) * RD;
        flags |= if header[3] & 0x10 != 0 { CD } else { 0 };
        flags |= if header[3] & 0x20 != 0 { AD } else { 0 };
        let mut udp_limit = PLAIN_UDP_REPLY;
        let edns = header[11] == 1;
        if edns {
            let (size, dnssec) = read_opt(packet.get(question_end..)?)?;
            udp_limit = size.max(PLAIN_UDP_REPLY);
            flags |= if dnssec { DO } else { 0 };
        } else if packet.len() != question_end {
            return None;
        }
        let mut key = [0; MAX_KEY];
        key[0] = flags;
        key.get_mut(1..=asked.len())?.copy_from_slice(asked);
        // Length bytes are below the letters and type and class stay as they are.
        key[1..name_end - HEADER].make_ascii_lowercase();
        let len = u16::try_from(1 + asked.len()).ok()?;
        Some(Self { key, len, question_end, udp_limit: usize::from(udp_limit), edns })
    }

    /// What equal questions have in common.
    pub fn key(&self) -> &[u8] {
        &self.key[..usize::from(self.len)]
    }

    /// Whether DNSSEC records are wanted (RFC 3225).
    pub const fn dnssec_ok(&self) -> bool {
        self.key[0] & DO != 0
    }
}

/// Size and DO bit of the one OPT record that `rest` must be.
fn read_opt(rest: &[u8]) -> Option<(u16, bool)> {
    let fixed = rest.first_chunk::<11>()?;
    let number = |at: usize| u16::from_be_bytes([fixed[at], fixed[at + 1]]);
    let mut options = &rest[11..];
    // Root owner, type OPT, version 0, and nothing behind it.
    if fixed[0] != 0 || number(1) != OPT || fixed[6] != 0 || usize::from(number(9)) != options.len() {
        return None;
    }
    while !options.is_empty() {
        let head = options.first_chunk::<4>()?;
        let code = u16::from_be_bytes([head[0], head[1]]);
        let len = usize::from(u16::from_be_bytes([head[2], head[3]]));
        options = options.get(4 + len..)?;
        if !IGNORABLE_OPTIONS.contains(&code) {
            return None;
        }
    }
    Some((number(3), fixed[7] & 0x80 != 0))
}
