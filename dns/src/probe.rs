//! One question of our own, to see whether a resolver answers with what we know.

use crate::forward::exchange::{Failure, over_udp};
use crate::forward::wire::Reply;
use crate::forward::{Upstream, random_id};
use crate::query::ClientQuery;
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use meshd_proto::DnsName;
use std::net::{Ipv4Addr, SocketAddr};

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
    let mut question =
        Message::new(random_id().map_err(|e| silent(e.to_string()))?, MessageType::Query, OpCode::Query);
    question.metadata.recursion_desired = true;
    let mut wire_name = Name::from_ascii(name.as_str()).map_err(|e| silent(e.to_string()))?;
    wire_name.set_fqdn(true);
    question.add_query(Query::query(wire_name, RecordType::A));
    let packet = question.to_vec().map_err(|e| silent(e.to_string()))?;
    let parsed = ClientQuery::parse(&packet).map_err(|e| silent(e.to_string()))?;
    let reply = match over_udp(Upstream { addr: server, mark: None }, &packet, parsed.question_end).await {
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
