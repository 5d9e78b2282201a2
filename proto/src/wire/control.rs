//! Control messages on the wire.

use super::entry::{EntryMsg, entries, entries_msg};
use super::expose::{ExitMsg, claims, exit, exit_msg};
use super::key::{KeyMsg, key, key_msg};
use super::{
    DecodeError, Decoded, addrs, addrs_bytes, bounded, endpoint_bytes, endpoints, fixed, prefix_bytes,
    prefixes, text,
};
use crate::control::{
    Answer, Call, Hello, MapPosition, Offer, PathReport, PathVia, Refusal, RefusalCode, ToCoordinator, ToNode,
};
use crate::expose::ClaimMsg;
use crate::netmap::MapUpdate;
use crate::{Epoch, Hint, MapDigest, NetworkId, NodeId, NodeKey, RelayId, UnixSeconds, Version, limits};
use prost::{Message, Oneof};
use zeroize::Zeroizing;

#[derive(Clone, PartialEq, Message)]
struct ToCoordinatorMsg {
    #[prost(oneof = "UpBody", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10")]
    body: Option<UpBody>,
}

#[derive(Clone, PartialEq, Oneof)]
#[expect(clippy::large_enum_variant, reason = "lives for one decode or encode only")]
enum UpBody {
    #[prost(message, tag = "1")]
    Hello(HelloMsg),
    #[prost(message, tag = "2")]
    Applied(PositionMsg),
    #[prost(message, tag = "3")]
    NeedSnapshot(EmptyMsg),
    #[prost(message, tag = "4")]
    Advertise(OfferMsg),
    #[prost(message, tag = "5")]
    Endpoints(EndpointsMsg),
    #[prost(message, tag = "6")]
    Interest(InterestMsg),
    #[prost(uint64, tag = "7")]
    Alive(u64),
    #[prost(message, tag = "8")]
    Leave(EmptyMsg),
    #[prost(message, tag = "9")]
    Call(CallMsg),
    #[prost(message, tag = "10")]
    Paths(PathsMsg),
}

#[derive(Clone, PartialEq, Message)]
struct EmptyMsg {}

#[derive(Clone, PartialEq, Message)]
struct HelloMsg {
    #[prost(uint32, tag = "1")]
    protocol: u32,
    #[prost(bytes = "vec", tag = "2")]
    node_key: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    node_key_proof: Vec<u8>,
    #[prost(bytes = "vec", optional, tag = "4")]
    token_secret: Option<Vec<u8>>,
    #[prost(string, tag = "5")]
    hostname: String,
    #[prost(bytes = "vec", tag = "6")]
    machine_id: Vec<u8>,
    #[prost(string, tag = "7")]
    client_version: String,
    #[prost(string, tag = "8")]
    os: String,
    #[prost(bool, tag = "9")]
    ephemeral: bool,
    #[prost(message, optional, tag = "10")]
    offer: Option<OfferMsg>,
    #[prost(message, optional, tag = "11")]
    resume: Option<PositionMsg>,
}

#[derive(Clone, PartialEq, Message)]
struct OfferMsg {
    #[prost(bytes = "vec", repeated, tag = "1")]
    routes: Vec<Vec<u8>>,
    #[prost(bool, tag = "2")]
    exit_node: bool,
    #[prost(string, optional, tag = "3")]
    hostname: Option<String>,
    #[prost(message, optional, tag = "4")]
    exit: Option<ExitMsg>,
    #[prost(message, repeated, tag = "5")]
    claims: Vec<ClaimMsg>,
}

#[derive(Clone, PartialEq, Message)]
struct PositionMsg {
    #[prost(bytes = "vec", tag = "1")]
    network: Vec<u8>,
    #[prost(uint64, tag = "2")]
    epoch: u64,
    #[prost(uint64, tag = "3")]
    version: u64,
    #[prost(bytes = "vec", tag = "4")]
    digest: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct EndpointsMsg {
    #[prost(bytes = "vec", repeated, tag = "1")]
    endpoints: Vec<Vec<u8>>,
    #[prost(uint32, optional, tag = "2")]
    home_relay: Option<u32>,
}

#[derive(Clone, PartialEq, Message)]
struct InterestMsg {
    #[prost(uint64, repeated, tag = "1")]
    nodes: Vec<u64>,
}

#[derive(Clone, PartialEq, Message)]
struct PathsMsg {
    #[prost(message, repeated, tag = "1")]
    paths: Vec<PathMsg>,
}

#[derive(Clone, PartialEq, Message)]
struct PathMsg {
    #[prost(uint64, tag = "1")]
    peer: u64,
    #[prost(bytes = "vec", optional, tag = "2")]
    endpoint: Option<Vec<u8>>,
    #[prost(uint32, optional, tag = "3")]
    relay: Option<u32>,
    #[prost(uint32, optional, tag = "4")]
    rtt_us: Option<u32>,
}

#[derive(Clone, PartialEq, Message)]
struct CallMsg {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(oneof = "CallBody", tags = "2, 3")]
    body: Option<CallBody>,
}

#[derive(Clone, PartialEq, Oneof)]
enum CallBody {
    #[prost(message, tag = "2")]
    CreateDevice(DeviceMsg),
    #[prost(string, tag = "3")]
    RemoveDevice(String),
}

#[derive(Clone, PartialEq, Message)]
struct DeviceMsg {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bytes = "vec", tag = "2")]
    key: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct ToNodeMsg {
    #[prost(oneof = "DownBody", tags = "1, 2, 3, 4, 5, 6, 7, 8")]
    body: Option<DownBody>,
}

#[derive(Clone, PartialEq, Oneof)]
enum DownBody {
    #[prost(message, tag = "1")]
    Welcome(WelcomeMsg),
    #[prost(message, tag = "2")]
    Refused(RefusedMsg),
    #[prost(message, tag = "3")]
    Map(UpdateMsg),
    #[prost(message, tag = "4")]
    Hints(HintsMsg),
    #[prost(message, tag = "5")]
    Keepalive(KeepaliveMsg),
    #[prost(bytes = "vec", tag = "6")]
    Permit(Vec<u8>),
    #[prost(string, tag = "7")]
    Revoked(String),
    #[prost(message, tag = "8")]
    Reply(ReplyMsg),
}

#[derive(Clone, PartialEq, Message)]
struct WelcomeMsg {
    #[prost(uint64, tag = "1")]
    node: u64,
    #[prost(bytes = "vec", tag = "2")]
    network: Vec<u8>,
    #[prost(uint64, tag = "3")]
    time: u64,
}

#[derive(Clone, PartialEq, Message)]
struct RefusedMsg {
    #[prost(uint32, tag = "1")]
    code: u32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(string, tag = "3")]
    hint: String,
}

#[derive(Clone, PartialEq, Message)]
struct UpdateMsg {
    #[prost(bytes = "vec", tag = "1")]
    network: Vec<u8>,
    #[prost(uint64, tag = "2")]
    epoch: u64,
    #[prost(uint64, optional, tag = "3")]
    from: Option<u64>,
    #[prost(uint64, tag = "4")]
    to: u64,
    #[prost(message, repeated, tag = "5")]
    upserts: Vec<EntryMsg>,
    #[prost(message, repeated, tag = "6")]
    removes: Vec<KeyMsg>,
    #[prost(bytes = "vec", tag = "7")]
    digest: Vec<u8>,
    #[prost(bool, tag = "8")]
    more: bool,
}

#[derive(Clone, PartialEq, Message)]
struct HintsMsg {
    #[prost(message, repeated, tag = "1")]
    hints: Vec<HintMsg>,
}

#[derive(Clone, PartialEq, Message)]
struct HintMsg {
    #[prost(uint64, tag = "1")]
    node: u64,
    #[prost(uint64, tag = "2")]
    seq: u64,
    #[prost(bytes = "vec", repeated, tag = "3")]
    endpoints: Vec<Vec<u8>>,
    #[prost(uint32, optional, tag = "4")]
    home_relay: Option<u32>,
    #[prost(bool, tag = "5")]
    online: bool,
}

#[derive(Clone, PartialEq, Message)]
struct KeepaliveMsg {
    #[prost(message, optional, tag = "1")]
    position: Option<PositionMsg>,
    #[prost(uint64, tag = "2")]
    time: u64,
    #[prost(uint64, tag = "3")]
    nonce: u64,
}

#[derive(Clone, PartialEq, Message)]
struct ReplyMsg {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(oneof = "ReplyBody", tags = "2, 3, 4")]
    body: Option<ReplyBody>,
}

#[derive(Clone, PartialEq, Oneof)]
enum ReplyBody {
    #[prost(message, tag = "2")]
    Done(EmptyMsg),
    #[prost(message, tag = "3")]
    Device(DeviceReplyMsg),
    #[prost(message, tag = "4")]
    Failed(FailedMsg),
}

#[derive(Clone, PartialEq, Message)]
struct DeviceReplyMsg {
    #[prost(uint64, tag = "1")]
    node: u64,
    #[prost(bytes = "vec", tag = "2")]
    addrs: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct FailedMsg {
    #[prost(string, tag = "1")]
    message: String,
    #[prost(string, tag = "2")]
    hint: String,
}

fn path_msg(report: &PathReport) -> PathMsg {
    let (endpoint, relay) = match report.via {
        PathVia::Direct(endpoint) => (Some(endpoint_bytes(endpoint)), None),
        PathVia::Relay(relay) => (None, Some(relay.0)),
    };
    PathMsg { peer: report.peer.0, endpoint, relay, rtt_us: report.rtt_us }
}

fn path(message: PathMsg) -> Decoded<PathReport> {
    let direct = endpoints("path", message.endpoint.as_slice())?;
    let via = match (direct.first(), message.relay) {
        (Some(endpoint), _) => PathVia::Direct(*endpoint),
        (None, Some(relay)) => PathVia::Relay(RelayId(relay)),
        (None, None) => return Err(DecodeError::Missing("path")),
    };
    Ok(PathReport { peer: NodeId(message.peer), via, rtt_us: message.rtt_us })
}

pub(crate) fn encode_to_coordinator(message: &ToCoordinator) -> Vec<u8> {
    let body = match message {
        ToCoordinator::Hello(h) => UpBody::Hello(hello_msg(h)),
        ToCoordinator::Applied(p) => UpBody::Applied(position_msg(*p)),
        ToCoordinator::NeedSnapshot => UpBody::NeedSnapshot(EmptyMsg {}),
        ToCoordinator::Advertise(o) => UpBody::Advertise(offer_msg(o)),
        ToCoordinator::Endpoints { endpoints, home_relay } => UpBody::Endpoints(EndpointsMsg {
            endpoints: endpoints.iter().map(|e| endpoint_bytes(*e)).collect(),
            home_relay: home_relay.map(|r| r.0),
        }),
        ToCoordinator::Interest(nodes) => {
            UpBody::Interest(InterestMsg { nodes: nodes.iter().map(|n| n.0).collect() })
        }
        ToCoordinator::Paths(paths) => {
            UpBody::Paths(PathsMsg { paths: paths.iter().map(path_msg).collect() })
        }
        ToCoordinator::Alive { nonce } => UpBody::Alive(*nonce),
        ToCoordinator::Leave => UpBody::Leave(EmptyMsg {}),
        ToCoordinator::Call { id, call } => {
            let body = match call {
                Call::CreateDevice { name, key } => {
                    CallBody::CreateDevice(DeviceMsg { name: name.to_string(), key: key.as_bytes().to_vec() })
                }
                Call::RemoveDevice { name } => CallBody::RemoveDevice(name.to_string()),
            };
            UpBody::Call(CallMsg { id: *id, body: Some(body) })
        }
    };
    ToCoordinatorMsg { body: Some(body) }.encode_to_vec()
}

pub(crate) fn decode_to_coordinator(bytes: &[u8]) -> Decoded<ToCoordinator> {
    bounded("message", bytes.len(), limits::MAX_CONTROL_MESSAGE)?;
    Ok(match ToCoordinatorMsg::decode(bytes)?.body.ok_or(DecodeError::UnknownKind)? {
        UpBody::Hello(h) => ToCoordinator::Hello(Box::new(hello(h)?)),
        UpBody::Applied(p) => ToCoordinator::Applied(position(&p)?),
        UpBody::NeedSnapshot(_) => ToCoordinator::NeedSnapshot,
        UpBody::Advertise(o) => ToCoordinator::Advertise(offer(o)?),
        UpBody::Endpoints(e) => ToCoordinator::Endpoints {
            endpoints: endpoints("endpoints", &e.endpoints)?,
            home_relay: e.home_relay.map(RelayId),
        },
        UpBody::Interest(i) => {
            bounded("interest", i.nodes.len(), limits::MAX_INTEREST)?;
            ToCoordinator::Interest(i.nodes.into_iter().map(NodeId).collect())
        }
        UpBody::Paths(p) => {
            bounded("paths", p.paths.len(), limits::MAX_PATHS)?;
            ToCoordinator::Paths(p.paths.into_iter().map(path).collect::<Decoded<_>>()?)
        }
        UpBody::Alive(nonce) => ToCoordinator::Alive { nonce },
        UpBody::Leave(_) => ToCoordinator::Leave,
        UpBody::Call(c) => {
            let call = match c.body.ok_or(DecodeError::Missing("call"))? {
                CallBody::CreateDevice(d) => Call::CreateDevice {
                    name: d.name.parse()?,
                    key: NodeKey::from_bytes(fixed("key", &d.key)?),
                },
                CallBody::RemoveDevice(name) => Call::RemoveDevice { name: name.parse()? },
            };
            ToCoordinator::Call { id: c.id, call }
        }
    })
}

pub(crate) fn encode_to_node(message: &ToNode) -> Vec<u8> {
    let body = match message {
        ToNode::Welcome { node, network, time } => {
            DownBody::Welcome(WelcomeMsg { node: node.0, network: network.as_bytes().to_vec(), time: time.0 })
        }
        ToNode::Refused(r) => DownBody::Refused(RefusedMsg {
            code: refusal_number(r.code),
            message: r.message.clone(),
            hint: r.hint.clone(),
        }),
        ToNode::Map(u) => DownBody::Map(UpdateMsg {
            network: u.network.as_bytes().to_vec(),
            epoch: u.epoch.0,
            from: u.from.map(|v| v.0),
            to: u.to.0,
            upserts: entries_msg(&u.upserts),
            removes: u.removes.iter().map(key_msg).collect(),
            digest: u.digest.to_bytes().to_vec(),
            more: u.more,
        }),
        ToNode::Hints(hints) => DownBody::Hints(HintsMsg { hints: hints.iter().map(hint_msg).collect() }),
        ToNode::Keepalive { position, time, nonce } => DownBody::Keepalive(KeepaliveMsg {
            position: Some(position_msg(*position)),
            time: time.0,
            nonce: *nonce,
        }),
        ToNode::Permit(bytes) => DownBody::Permit(bytes.clone()),
        ToNode::Revoked { reason } => DownBody::Revoked(reason.clone()),
        ToNode::Reply { id, answer } => {
            let body = match answer {
                Answer::Done => ReplyBody::Done(EmptyMsg {}),
                Answer::Device { node, addrs } => {
                    ReplyBody::Device(DeviceReplyMsg { node: node.0, addrs: addrs_bytes(*addrs) })
                }
                Answer::Failed { message, hint } => {
                    ReplyBody::Failed(FailedMsg { message: message.clone(), hint: hint.clone() })
                }
            };
            DownBody::Reply(ReplyMsg { id: *id, body: Some(body) })
        }
    };
    ToNodeMsg { body: Some(body) }.encode_to_vec()
}

pub(crate) fn decode_to_node(bytes: &[u8]) -> Decoded<ToNode> {
    bounded("message", bytes.len(), limits::MAX_CONTROL_MESSAGE)?;
    Ok(match ToNodeMsg::decode(bytes)?.body.ok_or(DecodeError::UnknownKind)? {
        DownBody::Welcome(w) => ToNode::Welcome {
            node: NodeId(w.node),
            network: NetworkId::from_bytes(fixed("network", &w.network)?),
            time: UnixSeconds(w.time),
        },
        DownBody::Refused(r) => ToNode::Refused(Refusal {
            code: refusal_code(r.code),
            message: text("message", r.message)?,
            hint: text("hint", r.hint)?,
        }),
        DownBody::Map(u) => {
            bounded("upserts", u.upserts.len(), limits::MAX_UPDATE_ENTRIES)?;
            bounded("removes", u.removes.len(), limits::MAX_UPDATE_ENTRIES)?;
            ToNode::Map(MapUpdate {
                network: NetworkId::from_bytes(fixed("network", &u.network)?),
                epoch: Epoch(u.epoch),
                from: u.from.map(Version),
                to: Version(u.to),
                upserts: entries(u.upserts)?,
                removes: u.removes.into_iter().map(key).collect::<Decoded<_>>()?,
                digest: MapDigest::from_bytes(&fixed("digest", &u.digest)?),
                more: u.more,
            })
        }
        DownBody::Hints(h) => {
            bounded("hints", h.hints.len(), limits::MAX_INTEREST)?;
            ToNode::Hints(h.hints.into_iter().map(hint).collect::<Decoded<_>>()?)
        }
        DownBody::Keepalive(k) => ToNode::Keepalive {
            position: position(&k.position.ok_or(DecodeError::Missing("position"))?)?,
            time: UnixSeconds(k.time),
            nonce: k.nonce,
        },
        DownBody::Permit(bytes) => {
            bounded("permit", bytes.len(), limits::MAX_TEXT)?;
            ToNode::Permit(bytes)
        }
        DownBody::Revoked(reason) => ToNode::Revoked { reason: text("reason", reason)? },
        DownBody::Reply(r) => {
            let answer = match r.body.ok_or(DecodeError::Missing("answer"))? {
                ReplyBody::Done(_) => Answer::Done,
                ReplyBody::Device(d) => {
                    Answer::Device { node: NodeId(d.node), addrs: addrs("addrs", &d.addrs)? }
                }
                ReplyBody::Failed(f) => {
                    Answer::Failed { message: text("message", f.message)?, hint: text("hint", f.hint)? }
                }
            };
            ToNode::Reply { id: r.id, answer }
        }
    })
}

fn hello_msg(h: &Hello) -> HelloMsg {
    HelloMsg {
        protocol: h.protocol,
        node_key: h.node_key.as_bytes().to_vec(),
        node_key_proof: h.node_key_proof.to_vec(),
        token_secret: h.token_secret.as_ref().map(|s| s.to_vec()),
        hostname: h.hostname.to_string(),
        machine_id: h.machine_id.to_vec(),
        client_version: h.client_version.clone(),
        os: h.os.clone(),
        ephemeral: h.ephemeral,
        offer: Some(offer_msg(&h.offer)),
        resume: h.resume.map(position_msg),
    }
}

fn hello(h: HelloMsg) -> Decoded<Hello> {
    bounded("token_secret", h.token_secret.as_ref().map_or(0, Vec::len), 64)?;
    Ok(Hello {
        protocol: h.protocol,
        node_key: NodeKey::from_bytes(fixed("node_key", &h.node_key)?),
        node_key_proof: fixed("node_key_proof", &h.node_key_proof)?,
        token_secret: h.token_secret.map(Zeroizing::new),
        hostname: h.hostname.parse()?,
        machine_id: fixed("machine_id", &h.machine_id)?,
        client_version: text("client_version", h.client_version)?,
        os: text("os", h.os)?,
        ephemeral: h.ephemeral,
        offer: offer(h.offer.ok_or(DecodeError::Missing("offer"))?)?,
        resume: h.resume.as_ref().map(position).transpose()?,
    })
}

fn offer_msg(o: &Offer) -> OfferMsg {
    OfferMsg {
        routes: o.routes.iter().map(|p| prefix_bytes(*p)).collect(),
        exit_node: o.exit_node,
        hostname: o.hostname.as_ref().map(ToString::to_string),
        exit: o.exit.as_ref().map(exit_msg),
        claims: o.claims.iter().map(ClaimMsg::from).collect(),
    }
}

fn offer(o: OfferMsg) -> Decoded<Offer> {
    Ok(Offer {
        routes: prefixes("routes", &o.routes)?,
        exit_node: o.exit_node,
        hostname: o.hostname.map(|h| h.parse()).transpose()?,
        exit: o.exit.map(exit).transpose()?,
        claims: claims(o.claims)?,
    })
}

fn position_msg(p: MapPosition) -> PositionMsg {
    PositionMsg {
        network: p.network.as_bytes().to_vec(),
        epoch: p.epoch.0,
        version: p.version.0,
        digest: p.digest.to_bytes().to_vec(),
    }
}

fn position(p: &PositionMsg) -> Decoded<MapPosition> {
    Ok(MapPosition {
        network: NetworkId::from_bytes(fixed("network", &p.network)?),
        epoch: Epoch(p.epoch),
        version: Version(p.version),
        digest: MapDigest::from_bytes(&fixed("digest", &p.digest)?),
    })
}

fn hint_msg(h: &Hint) -> HintMsg {
    HintMsg {
        node: h.node.0,
        seq: h.seq,
        endpoints: h.endpoints.iter().map(|e| endpoint_bytes(*e)).collect(),
        home_relay: h.home_relay.map(|r| r.0),
        online: h.online,
    }
}

fn hint(h: HintMsg) -> Decoded<Hint> {
    Ok(Hint {
        node: NodeId(h.node),
        seq: h.seq,
        endpoints: endpoints("endpoints", &h.endpoints)?,
        home_relay: h.home_relay.map(RelayId),
        online: h.online,
    })
}

const REFUSALS: [(u32, RefusalCode); 12] = [
    (1, RefusalCode::TokenNeeded),
    (2, RefusalCode::TokenUnknown),
    (3, RefusalCode::TokenExpired),
    (4, RefusalCode::TokenUsedUp),
    (5, RefusalCode::ApprovalPending),
    (6, RefusalCode::KeyInUse),
    (7, RefusalCode::ClonedMachine),
    (8, RefusalCode::Removed),
    (9, RefusalCode::KeyExpired),
    (10, RefusalCode::ProtocolVersion),
    (11, RefusalCode::BadRequest),
    (12, RefusalCode::TryLater),
];

fn refusal_number(code: RefusalCode) -> u32 {
    REFUSALS.iter().find(|(_, c)| *c == code).map_or(0, |(n, _)| *n)
}

/// A code from a newer coordinator reads as a plain refusal: final, explained by its message.
fn refusal_code(number: u32) -> RefusalCode {
    REFUSALS.iter().find(|(n, _)| *n == number).map_or(RefusalCode::BadRequest, |(_, c)| *c)
}
