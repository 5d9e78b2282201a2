//! What a node publishes, on the wire.

use super::{DecodeError, Decoded, bounded, ip, ip_bytes};
use crate::expose::{Claim, ClaimKind, ClaimMsg, ExitOffer, Transport};
use crate::limits;
use prost::Message;

#[derive(Clone, PartialEq, Message)]
pub(super) struct ExitMsg {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bytes = "vec", repeated, tag = "2")]
    addrs: Vec<Vec<u8>>,
    /// `protocol << 16 | port`.
    #[prost(uint32, repeated, tag = "3")]
    taken: Vec<u32>,
}

pub(super) fn exit_msg(exit: &ExitOffer) -> ExitMsg {
    ExitMsg {
        name: exit.name.as_ref().map(ToString::to_string).unwrap_or_default(),
        addrs: exit.addrs.iter().map(|a| ip_bytes(*a)).collect(),
        taken: exit.taken.iter().map(|(t, p)| u32::from(t.number()) << 16 | u32::from(*p)).collect(),
    }
}

pub(super) fn exit(msg: ExitMsg) -> Decoded<ExitOffer> {
    bounded("exit addresses", msg.addrs.len(), limits::MAX_ENDPOINTS)?;
    bounded("taken ports", msg.taken.len(), limits::MAX_CLAIMS)?;
    let taken = msg.taken.iter().map(|both| {
        let transport = match both >> 16 {
            6 => Transport::Tcp,
            17 => Transport::Udp,
            other => return Err(DecodeError::invalid("taken ports", format!("protocol {other}"))),
        };
        Ok((transport, (both & 0xffff) as u16))
    });
    Ok(ExitOffer {
        name: (!msg.name.is_empty()).then(|| msg.name.parse()).transpose()?,
        addrs: msg.addrs.iter().map(|a| ip("exit addresses", a)).collect::<Decoded<_>>()?,
        taken: taken.collect::<Decoded<_>>()?,
    })
}

pub(super) fn claims(all: Vec<ClaimMsg>) -> Decoded<Vec<Claim>> {
    bounded("claims", all.len(), limits::MAX_CLAIMS)?;
    all.into_iter().map(Claim::try_from).collect()
}

impl From<&Claim> for ClaimMsg {
    fn from(claim: &Claim) -> Self {
        Self {
            id: claim.id,
            kind: match claim.kind {
                ClaimKind::Web => 1,
                ClaimKind::Tcp => 2,
                ClaimKind::Udp => 3,
            },
            name: claim.name.as_ref().map(ToString::to_string).unwrap_or_default(),
            port: claim.port.into(),
            target: claim.target.into(),
            plain_target: claim.plain_target.into(),
            exit: claim.exit.as_ref().map(ToString::to_string).unwrap_or_default(),
        }
    }
}

impl TryFrom<ClaimMsg> for Claim {
    type Error = DecodeError;

    fn try_from(msg: ClaimMsg) -> Decoded<Self> {
        let port = |field, value: u32| {
            u16::try_from(value).map_err(|_| DecodeError::invalid(field, format!("{value} is no port")))
        };
        Ok(Self {
            id: msg.id,
            kind: match msg.kind {
                1 => ClaimKind::Web,
                2 => ClaimKind::Tcp,
                3 => ClaimKind::Udp,
                other => return Err(DecodeError::invalid("claim", format!("kind {other}"))),
            },
            name: (!msg.name.is_empty()).then(|| msg.name.parse()).transpose()?,
            port: port("port", msg.port)?,
            target: port("target", msg.target)?,
            plain_target: port("plain target", msg.plain_target)?,
            exit: (!msg.exit.is_empty()).then(|| msg.exit.parse()).transpose()?,
        })
    }
}
