//! What a node serves on a service's address, on the wire: the entry and its key.

use super::{
    DecodeError, Decoded, bounded, endpoint_bytes, endpoints, ip, ip_bytes, port, prefix_bytes, prefixes,
};
use crate::Endpoint;
use crate::cluster::Transport;
use crate::limits;
use crate::netmap::{EntryKey, Forward};
use prost::Message;
use std::net::IpAddr;

#[derive(Clone, PartialEq, Message)]
pub(super) struct ForwardMsg {
    #[prost(bytes = "vec", tag = "1")]
    address: Vec<u8>,
    #[prost(uint32, tag = "2")]
    protocol: u32,
    #[prost(uint32, tag = "3")]
    port: u32,
    #[prost(bytes = "vec", repeated, tag = "4")]
    endpoints: Vec<Vec<u8>>,
    #[prost(bool, tag = "5")]
    sticky: bool,
    #[prost(bytes = "vec", repeated, tag = "6")]
    sources: Vec<Vec<u8>>,
}

pub(super) fn msg(forward: &Forward) -> ForwardMsg {
    ForwardMsg {
        endpoints: forward.endpoints.iter().map(|e| endpoint_bytes(Endpoint(*e))).collect(),
        sticky: forward.sticky,
        sources: forward.sources.iter().map(|p| prefix_bytes(*p)).collect(),
        ..key_msg(forward.address, forward.protocol, forward.port)
    }
}

pub(super) fn key_msg(address: IpAddr, protocol: u8, port: u16) -> ForwardMsg {
    ForwardMsg {
        address: ip_bytes(address),
        protocol: protocol.into(),
        port: port.into(),
        ..ForwardMsg::default()
    }
}

pub(super) fn entry(msg: ForwardMsg) -> Decoded<Forward> {
    bounded("endpoints", msg.endpoints.len(), limits::MAX_SERVICE_ENDPOINTS)?;
    bounded("sources", msg.sources.len(), limits::MAX_SERVICE_PORTS)?;
    let (address, protocol, port) = place(&msg)?;
    let endpoints: Vec<_> = endpoints("endpoints", &msg.endpoints)?.into_iter().map(|e| e.0).collect();
    if endpoints.is_empty() || endpoints.iter().any(|e| e.is_ipv4() != address.is_ipv4() || e.port() == 0) {
        return Err(DecodeError::invalid("endpoints", "none, or one of the other family or without port"));
    }
    let sources = prefixes("sources", &msg.sources)?;
    Ok(Forward { address, protocol, port, endpoints, sticky: msg.sticky, sources })
}

pub(super) fn key(msg: &ForwardMsg) -> Decoded<EntryKey> {
    let (address, protocol, port) = place(msg)?;
    Ok(EntryKey::Forward(address, protocol, port))
}

fn place(msg: &ForwardMsg) -> Decoded<(IpAddr, u8, u16)> {
    let number = u8::try_from(msg.protocol).ok().and_then(Transport::of_number).map(Transport::number);
    let protocol = number.ok_or_else(|| DecodeError::invalid("protocol", msg.protocol))?;
    let port = port("port", msg.port)?;
    if port == 0 {
        return Err(DecodeError::invalid("port", 0));
    }
    Ok((ip("address", &msg.address)?, protocol, port))
}
