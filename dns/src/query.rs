//! A client's packet, parsed once.
//!
//! Everything here comes from a stranger: the walk over the packet is bounded by its length and by
//! [`MAX_RECORDS`], nothing is allocated by a count that the packet claims, and nothing panics.

use hickory_proto::op::{Edns, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, LowerName, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};

/// Largest question we read. A query has one name of at most 255 bytes and a few options.
pub const MAX_QUERY: usize = 4096;
/// Most records a question may carry behind its question section (OPT, TSIG, and room).
pub const MAX_RECORDS: usize = 16;
/// Largest UDP reply of our own: fits an IPv6 packet of minimum size (DNS flag day 2020).
pub const MAX_UDP_REPLY: u16 = 1232;
/// What a client without EDNS takes by UDP (RFC 1035 §4.2.1).
const PLAIN_UDP_REPLY: u16 = 512;

const HEADER: usize = 12;

/// A well-formed question.
#[derive(Clone, Debug)]
pub struct ClientQuery {
    /// Id and flags as the client sent them.
    pub metadata: Metadata,
    /// The question in the client's own spelling.
    pub question: Query,
    /// The name in lower case.
    pub name: LowerName,
    /// What the client said about EDNS, if it did.
    pub edns: Option<ClientEdns>,
    /// Where the question section ends in the packet.
    pub question_end: usize,
}

/// The fixed part of a client's OPT record (RFC 6891 §6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientEdns {
    /// Largest UDP payload it takes, at least 512.
    pub udp_size: u16,
    /// EDNS version.
    pub version: u8,
    /// Wants DNSSEC records.
    pub dnssec_ok: bool,
}

/// Why a packet is not a question for us.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// Not worth a reply: no header, or itself a reply (answering those makes loops).
    #[error("not a question")]
    Silent,
    /// The header can be answered with this code and nothing else.
    #[error("refused with {code}")]
    Reject {
        /// Id and flags for the reply.
        metadata: Box<Metadata>,
        /// Why.
        code: ResponseCode,
    },
}

impl ClientQuery {
    /// Parses a packet.
    ///
    /// # Errors
    /// See [`QueryError`]; [`crate::answer::reject`] writes the reply.
    pub fn parse(packet: &[u8]) -> Result<Self, QueryError> {
        let header = packet.first_chunk::<HEADER>().ok_or(QueryError::Silent)?;
        if header[2] & 0x80 != 0 {
            return Err(QueryError::Silent);
        }
        let metadata = read_metadata(header);
        let reject = |code| QueryError::Reject { metadata: Box::new(metadata), code };
        if metadata.op_code != OpCode::Query {
            return Err(reject(ResponseCode::NotImp));
        }
        let count = |at: usize| usize::from(u16::from_be_bytes([header[at], header[at + 1]]));
        let records = count(6) + count(8) + count(10);
        if count(4) != 1 || records > MAX_RECORDS || packet.len() > MAX_QUERY {
            return Err(reject(ResponseCode::FormErr));
        }
        let body = || -> Option<(Query, usize, Option<ClientEdns>)> {
            let question_end = skip_plain_name(packet, HEADER)?.checked_add(4)?;
            let question = packet.get(HEADER..question_end)?;
            let question = Query::read(&mut BinDecoder::new(question)).ok()?;
            let edns = find_opt(packet, question_end, records)?;
            Some((question, question_end, edns))
        };
        let (question, question_end, edns) = body().ok_or_else(|| reject(ResponseCode::FormErr))?;
        let name = LowerName::from(question.name());
        if edns.is_some_and(|e| e.version > 0) {
            return Err(reject(ResponseCode::BADVERS));
        }
        Ok(Self { metadata, question, name, edns, question_end })
    }

    /// The type asked for.
    pub fn kind(&self) -> RecordType {
        self.question.query_type()
    }

    /// The class asked for.
    pub fn class(&self) -> DNSClass {
        self.question.query_class()
    }

    /// Largest UDP reply this client takes.
    pub fn udp_limit(&self) -> usize {
        usize::from(self.edns.map_or(PLAIN_UDP_REPLY, |e| e.udp_size))
    }

    /// The OPT record for a reply, if one belongs there (RFC 6891 §7: only to who sent one).
    pub fn reply_edns(&self) -> Option<Edns> {
        self.edns.map(|client| {
            let mut edns = Edns::new();
            edns.set_max_payload(MAX_UDP_REPLY).set_version(0).set_dnssec_ok(client.dnssec_ok);
            edns
        })
    }
}

fn read_metadata(header: &[u8; HEADER]) -> Metadata {
    let id = u16::from_be_bytes([header[0], header[1]]);
    let mut metadata =
        Metadata::new(id, hickory_proto::op::MessageType::Query, OpCode::from_u8((header[2] >> 3) & 0x0f));
    metadata.recursion_desired = header[2] & 0x01 != 0;
    metadata.checking_disabled = header[3] & 0x10 != 0;
    metadata.authentic_data = header[3] & 0x20 != 0;
    metadata
}

/// Walks an uncompressed name: the first name of a message has nothing before it to point to.
pub(crate) fn skip_plain_name(packet: &[u8], mut at: usize) -> Option<usize> {
    let start = at;
    loop {
        let len = usize::from(*packet.get(at)?);
        if len > 63 {
            return None;
        }
        at += len + 1;
        if at - start > 255 {
            return None;
        }
        if len == 0 {
            return Some(at);
        }
    }
}

/// Walks a name that may end in a pointer; where the pointer leads does not matter here.
pub(crate) fn skip_name(packet: &[u8], mut at: usize) -> Option<usize> {
    let start = at;
    loop {
        let len = *packet.get(at)?;
        match len {
            0 => return Some(at + 1),
            1..=63 => at += usize::from(len) + 1,
            0xc0.. => return packet.get(at + 1).map(|_| at + 2),
            _ => return None,
        }
        if at - start > 255 {
            return None;
        }
    }
}

/// Finds the OPT record. `None`: malformed, or more than one (RFC 6891 §6.1.1).
#[expect(clippy::option_option, reason = "malformed and absent are different")]
fn find_opt(packet: &[u8], mut at: usize, records: usize) -> Option<Option<ClientEdns>> {
    let mut found = None;
    for _ in 0..records {
        let root_owner = packet.get(at) == Some(&0);
        at = skip_name(packet, at)?;
        let fixed = packet.get(at..at.checked_add(10)?)?;
        let kind = u16::from_be_bytes([fixed[0], fixed[1]]);
        let len = usize::from(u16::from_be_bytes([fixed[8], fixed[9]]));
        at = at.checked_add(10)?.checked_add(len)?;
        if at > packet.len() {
            return None;
        }
        if kind == u16::from(RecordType::OPT) {
            if found.is_some() || !root_owner {
                return None;
            }
            found = Some(ClientEdns {
                udp_size: u16::from_be_bytes([fixed[2], fixed[3]]).max(PLAIN_UDP_REPLY),
                version: fixed[5],
                dnssec_ok: fixed[6] & 0x80 != 0,
            });
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests;
