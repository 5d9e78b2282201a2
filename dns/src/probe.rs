//! Questions of our own: whether a resolver answers with what we know, and where a name is that must
//! not be asked through our own listeners.

use crate::forward::exchange::{Failure, over_udp};
use crate::forward::wire::{self, Reply};
use crate::forward::{Forwarder, TOTAL, Transport, Upstream, random_id};
use crate::query::ClientQuery;
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use meshd_proto::DnsName;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Why a probe did not get the answer.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// No reply, or not to this question.
    #[error("{server} does not answer: {why}")]
    Silent {
        /// Who was asked.
        server: SocketAddr,
        /// What happened instead.
        why: String,
    },
    /// A reply without the address.
    #[error("{server} does not know {name} ({code})")]
    Unknown {
        /// Who was asked.
        server: SocketAddr,
        /// For what.
        name: String,
        /// What it said.
        code: ResponseCode,
    },
}

/// Asks `server` for the IPv4 addresses of `name`, once, within [`crate::forward::ATTEMPT`].
///
/// # Errors
/// When there is no address in its answer.
pub async fn addresses(server: SocketAddr, name: &DnsName) -> Result<Vec<Ipv4Addr>, ProbeError> {
    let silent = |why: String| ProbeError::Silent { server, why };
    let (packet, question_end) = question(name, RecordType::A).map_err(silent)?;
    let reply = match over_udp(Upstream { addr: server, mark: None }, &packet, question_end).await {
        Ok(Reply::Final(reply) | Reply::Poor(reply)) => reply,
        Err(Failure::Io(error)) => return Err(silent(error.to_string())),
        Err(failure) => return Err(silent(failure.to_string())),
    };
    let message = Message::from_vec(&reply).map_err(|e| silent(e.to_string()))?;
    let addresses: Vec<Ipv4Addr> = message
        .answers
        .iter()
        .filter_map(|record| match &record.data {
            RData::A(a) => Some(a.0),
            _ => None,
        })
        .collect();
    if addresses.is_empty() {
        let code = message.metadata.response_code;
        return Err(ProbeError::Unknown { server, name: name.to_string(), code });
    }
    Ok(addresses)
}

/// The addresses of `name`, IPv4 first, by the first of `upstreams` that answers.
///
/// # Errors
/// When nobody answers, or none of the answers has an address.
pub async fn addresses_by(upstreams: &[Upstream], name: &DnsName) -> Result<Vec<IpAddr>, LookupError> {
    let forwarder = Forwarder::default();
    let of = |kind| family(&forwarder, upstreams, name, kind);
    let mut found = of(RecordType::A).await?;
    // Who answered the first question and not the second costs one family only.
    found.extend(of(RecordType::AAAA).await.unwrap_or_default());
    if found.is_empty() { Err(LookupError::NoAddress(name.to_string())) } else { Ok(found) }
}

/// Why a name has no addresses.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// Nobody answered.
    #[error("{name}: {why}")]
    Silent {
        /// For what was asked.
        name: String,
        /// What happened instead.
        why: String,
    },
    /// There was an answer, without an address.
    #[error("{0} has no address")]
    NoAddress(String),
}

async fn family(
    forwarder: &Forwarder,
    upstreams: &[Upstream],
    name: &DnsName,
    kind: RecordType,
) -> Result<Vec<IpAddr>, LookupError> {
    let silent = |why: String| LookupError::Silent { name: name.to_string(), why };
    let (packet, question_end) = question(name, kind).map_err(silent)?;
    let ask = |transport| forwarder.ask(upstreams, &packet, question_end, transport, TOTAL);
    let mut reply = ask(Transport::Udp).await.map_err(|e| silent(e.to_string()))?;
    if wire::is_truncated(&reply) {
        reply = ask(Transport::Tcp).await.map_err(|e| silent(e.to_string()))?;
    }
    let message = Message::from_vec(&reply).map_err(|e| silent(e.to_string()))?;
    let address = |data: &RData| match data {
        RData::A(a) => Some(IpAddr::V4(a.0)),
        RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0)),
        _ => None,
    };
    // Behind aliases, too: who asks recursively gets the whole chain.
    Ok(message.answers.iter().filter_map(|record| address(&record.data)).collect())
}

/// A question as it goes onto a wire, and where its question section ends.
fn question(name: &DnsName, kind: RecordType) -> Result<(Vec<u8>, usize), String> {
    let id = random_id().map_err(|e| e.to_string())?;
    let mut question = Message::new(id, MessageType::Query, OpCode::Query);
    question.metadata.recursion_desired = true;
    let mut wire_name = Name::from_ascii(name.as_str()).map_err(|e| e.to_string())?;
    wire_name.set_fqdn(true);
    question.add_query(Query::query(wire_name, kind));
    let packet = question.to_vec().map_err(|e| e.to_string())?;
    let parsed = ClientQuery::parse(&packet).map_err(|e| e.to_string())?;
    Ok((packet, parsed.question_end))
}
