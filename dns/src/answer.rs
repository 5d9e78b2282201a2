//! Replies of our own, as values and as bytes.

use crate::ede::Ede;
use crate::query::{ClientQuery, MAX_UDP_REPLY};
use hickory_proto::op::{Edns, Message, MessageType, Metadata, ResponseCode};
use hickory_proto::rr::Record;

/// What we answer ourselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// NOERROR, NXDOMAIN, REFUSED or SERVFAIL.
    pub code: ResponseCode,
    /// Whether it comes from a zone of ours.
    pub authoritative: bool,
    /// Answer section.
    pub records: Vec<Record>,
    /// Authority section: the SOA of a negative answer.
    pub authority: Vec<Record>,
    /// What the code does not say, for clients with EDNS.
    pub why: Option<Ede>,
}

impl Answer {
    /// An answer that is only a code.
    pub const fn code(code: ResponseCode) -> Self {
        Self { code, authoritative: false, records: Vec::new(), authority: Vec::new(), why: None }
    }

    /// SERVFAIL, and why.
    pub fn failed(why: Ede) -> Self {
        Self { why: Some(why), ..Self::code(ResponseCode::ServFail) }
    }

    /// Whether it says that there is no such name.
    pub fn no_such_name(&self) -> bool {
        self.code == ResponseCode::NXDomain
    }

    /// The OPT record of the reply to `query`, if one belongs there.
    pub fn edns(&self, query: &ClientQuery) -> Option<Edns> {
        let mut edns = query.reply_edns()?;
        if let Some(why) = self.why {
            edns.options_mut().insert(why.option());
        }
        Some(edns)
    }

    /// The header of the reply to `query`.
    pub fn metadata(&self, query: &ClientQuery) -> Metadata {
        let mut metadata = Metadata::response_from_request(&query.metadata);
        metadata.response_code = self.code;
        metadata.authoritative = self.authoritative;
        metadata.recursion_available = true;
        metadata
    }

    /// The reply to `query` as a UDP payload. What does not fit into the client's size goes out
    /// without records and with TC set: the client comes back over TCP (RFC 2181 §9).
    pub fn to_udp(&self, query: &ClientQuery) -> Vec<u8> {
        let limit = query.udp_limit().min(usize::from(MAX_UDP_REPLY));
        let full = self.encode(query, false);
        if full.len() <= limit { full } else { self.encode(query, true) }
    }

    fn encode(&self, query: &ClientQuery, truncated: bool) -> Vec<u8> {
        let mut message = Message::new(query.metadata.id, MessageType::Response, query.metadata.op_code);
        message.metadata = self.metadata(query);
        message.metadata.truncation = truncated;
        message.add_query(query.question.clone());
        message.edns = self.edns(query);
        if !truncated {
            message.answers = self.records.clone();
            message.authorities = self.authority.clone();
        }
        // Only data of ours that cannot be written gets here; an empty SERVFAIL always can.
        message.to_vec().unwrap_or_else(|_| reject(&query.metadata, ResponseCode::ServFail))
    }
}

/// A reply that is a header only, for packets whose question cannot be repeated.
pub fn reject(metadata: &Metadata, code: ResponseCode) -> Vec<u8> {
    let id = metadata.id.to_be_bytes();
    let flags = 0x80 | (u8::from(metadata.op_code) << 3) | u8::from(metadata.recursion_desired);
    let mut reply = vec![id[0], id[1], flags, 0x80 | code.low(), 0, 0, 0, 0, 0, 0, 0, 0];
    if code.high() > 0 {
        // The upper bits of an extended code live in an OPT record (RFC 6891 §6.1.3).
        let size = MAX_UDP_REPLY.to_be_bytes();
        reply[11] = 1;
        reply.extend_from_slice(&[0, 0, 41, size[0], size[1], code.high(), 0, 0, 0, 0, 0]);
    }
    reply
}
