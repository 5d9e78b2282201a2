//! A reply taken apart once, so that it can be handed out again: where its TTLs stand, how long it may
//! be kept, and its bytes without the OPT record, which belongs to one exchange only (RFC 6891 §6.2.3).

use crate::query::skip_name;
use std::net::IpAddr;

const HEADER: usize = 12;
/// More records than any reply of 64 KiB with a use; bounds the work on a hostile one.
const MAX_RECORDS: usize = 1024;
/// Longest time that a "yes" is kept (RFC 8767 §4 recommends days; a mesh's view changes sooner).
const MAX_TTL: u32 = 86_400;
/// Longest time that a "no" is kept (RFC 2308 §5 recommends one to three hours).
const MAX_NEGATIVE_TTL: u32 = 3600;

const A: u16 = 1;
const CNAME: u16 = 5;
const SOA: u16 = 6;
const AAAA: u16 = 28;
const OPT: u16 = 41;
const SVCB: u16 = 64;
const HTTPS: u16 = 65;
const IPV4_HINT: u16 = 4;
const IPV6_HINT: u16 = 6;

/// A reply that may be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    packet: Box<[u8]>,
    ttls: Box<[u16]>,
    /// Seconds that it stays fresh, at least 1.
    pub ttl: u32,
}

struct Walk<'p> {
    packet: &'p [u8],
    at: usize,
    left: usize,
}

struct RecordAt<'p> {
    start: usize,
    kind: u16,
    ttl_at: usize,
    ttl: u32,
    data: &'p [u8],
}

impl<'p> Iterator for Walk<'p> {
    /// `None` inside: the packet is broken here.
    type Item = Option<RecordAt<'p>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let record = self.read();
        if record.is_none() {
            self.left = 0;
        }
        Some(record)
    }
}

impl<'p> Walk<'p> {
    fn read(&mut self) -> Option<RecordAt<'p>> {
        let start = self.at;
        let fixed_at = skip_name(self.packet, start)?;
        let fixed = self.packet.get(fixed_at..)?.first_chunk::<10>()?;
        let len = usize::from(u16::from_be_bytes([fixed[8], fixed[9]]));
        let data = self.packet.get(fixed_at + 10..fixed_at + 10 + len)?;
        self.at = fixed_at + 10 + len;
        let ttl = u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]);
        Some(RecordAt {
            start,
            kind: u16::from_be_bytes([fixed[0], fixed[1]]),
            ttl_at: fixed_at + 4,
            ttl,
            data,
        })
    }
}

/// Records of the answer, authority and additional sections.
fn counts(packet: &[u8]) -> Option<[usize; 3]> {
    let header = packet.first_chunk::<HEADER>()?;
    let count = |at: usize| usize::from(u16::from_be_bytes([header[at], header[at + 1]]));
    let counts = [count(6), count(8), count(10)];
    (counts.iter().sum::<usize>() <= MAX_RECORDS).then_some(counts)
}

/// The addresses in the answer section of a reply, hints of HTTPS and SVCB records included (RFC 9460
/// §7.3). `None`: it has more records than are looked at, or is broken, so nobody knows.
pub fn addresses(reply: &[u8], question_end: usize) -> Option<Vec<IpAddr>> {
    let [answers, ..] = counts(reply)?;
    let mut found = Vec::new();
    for record in (Walk { packet: reply, at: question_end, left: answers }) {
        let record = record?;
        match record.kind {
            A => found.push(IpAddr::from(*record.data.first_chunk::<4>()?)),
            AAAA => found.push(IpAddr::from(*record.data.first_chunk::<16>()?)),
            SVCB | HTTPS => hints(record.data, &mut found)?,
            _ => {}
        }
    }
    Some(found)
}

/// The address hints of a service binding: priority (2), target name, then key (2), length (2), value.
fn hints(data: &[u8], found: &mut Vec<IpAddr>) -> Option<()> {
    let mut rest = data.get(skip_name(data, 2)?..)?;
    while let Some((head, tail)) = rest.split_first_chunk::<4>() {
        let key = u16::from_be_bytes([head[0], head[1]]);
        let (value, after) = tail.split_at_checked(usize::from(u16::from_be_bytes([head[2], head[3]])))?;
        match key {
            IPV4_HINT => found.extend(value.as_chunks::<4>().0.iter().map(|b| IpAddr::from(*b))),
            IPV6_HINT => found.extend(value.as_chunks::<16>().0.iter().map(|b| IpAddr::from(*b))),
            _ => {}
        }
        rest = after;
    }
    rest.is_empty().then_some(())
}

/// Whether the answer section holds an alias.
pub fn has_alias(reply: &[u8], question_end: usize) -> bool {
    let answers = counts(reply).map_or(0, |c| c[0]);
    Walk { packet: reply, at: question_end, left: answers }.flatten().any(|record| record.kind == CNAME)
}

impl Kept {
    /// Takes apart an upstream's reply whose question section ends at `question_end`. `None`: it may not
    /// be kept: a failure, truncated, TTL 0, or a "no" without the SOA that says for how long
    /// (RFC 2308 §5).
    pub fn of_upstream(reply: &[u8], question_end: usize) -> Option<Self> {
        let code = reply.get(3)? & 0x0f;
        let truncated = reply[2] & 0x02 != 0;
        if truncated || !matches!(code, 0 | 3) {
            return None;
        }
        let mut kept = Self::taken_apart(reply, question_end)?;
        let [answers, authority, _] = counts(reply)?;
        let mut ttl = MAX_TTL;
        let mut soa = false;
        for (n, record) in (Walk { packet: reply, at: question_end, left: answers + authority }).enumerate() {
            let record = record?;
            // The top bit set means zero (RFC 2181 §8).
            ttl = ttl.min(if record.ttl > i32::MAX as u32 { 0 } else { record.ttl });
            if n >= answers && record.kind == SOA {
                soa = true;
                let minimum = record.data.last_chunk::<4>().map(|b| u32::from_be_bytes(*b))?;
                ttl = ttl.min(minimum).min(MAX_NEGATIVE_TTL);
            }
        }
        // No data at the end of the aliases, if there are any, is a "no" too.
        let negative = code == 3 || answers == 0;
        if ttl == 0 || (negative && !soa) {
            return None;
        }
        // From a cache, so not with authority.
        kept.packet[2] &= !0x04;
        kept.ttl = ttl;
        Some(kept)
    }

    /// Keeps an answer of our own, of any code; its TTLs do not count down.
    pub fn of_ours(reply: &[u8], question_end: usize) -> Option<Self> {
        let truncated = reply.get(2)? & 0x02 != 0;
        let kept = Self::taken_apart(reply, question_end).filter(|_| !truncated)?;
        Some(Self { ttls: Box::default(), ttl: u32::MAX, ..kept })
    }

    fn taken_apart(reply: &[u8], question_end: usize) -> Option<Self> {
        let [answers, authority, additional] = counts(reply)?;
        let total = answers + authority + additional;
        if reply.len() > usize::from(u16::MAX) {
            return None;
        }
        let mut ttls = Vec::with_capacity(total);
        let mut end = question_end;
        let mut cut = None;
        let mut walk = Walk { packet: reply, at: question_end, left: total };
        while let Some(record) = walk.next() {
            let record = record?;
            if cut.is_some() {
                // Something behind the OPT record: names in it may point across the cut.
                return None;
            }
            if record.kind == OPT {
                // The upper bits of an extended code: not a plain yes or no.
                (record.ttl >> 24 == 0).then_some(())?;
                cut = Some(record.start);
            } else {
                ttls.push(u16::try_from(record.ttl_at).ok()?);
            }
            end = walk.at;
        }
        let mut packet: Box<[u8]> = reply[..cut.unwrap_or(end)].into();
        packet[..2].fill(0);
        if cut.is_some() {
            let left = u16::try_from(additional.checked_sub(1)?).ok()?;
            packet[10..HEADER].copy_from_slice(&left.to_be_bytes());
        }
        Some(Self { packet, ttls: ttls.into(), ttl: 1 })
    }

    /// Bytes of memory.
    pub fn size(&self) -> usize {
        self.packet.len() + 2 * self.ttls.len() + size_of::<Self>()
    }

    /// Writes the reply into `out`, with the client's id and spelling of the name, its TTLs `age`
    /// seconds older but never below `floor`.
    pub fn write(&self, client: &[u8], question_end: usize, age: u32, floor: u32, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(&self.packet);
        let (Some(id), Some(asked)) = (client.get(..2), client.get(HEADER..question_end)) else { return };
        out[..2].copy_from_slice(id);
        if let Some(place) = out.get_mut(HEADER..question_end) {
            place.copy_from_slice(asked);
        }
        for at in &self.ttls {
            let at = usize::from(*at);
            if let Some(place) = out.get_mut(at..at + 4).and_then(|p| p.first_chunk_mut::<4>()) {
                let ttl = u32::from_be_bytes(*place);
                *place = ttl.saturating_sub(age).max(floor).to_be_bytes();
            }
        }
    }
}
