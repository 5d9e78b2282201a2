//! One question to the resolvers of a split domain, through the mesh where they lie in it.

use super::{Dialer, Way, address};
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinEncodable};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::net::UdpSocket;

/// How long one resolver may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Resolvers that are asked, one after the other.
const MAX_ASKED: usize = 3;
/// Largest reply by UDP that is read.
const ROOM: usize = 4096;

/// The addresses of `name`; an empty list when there is no such name.
pub(super) async fn ask(
    dialer: &Dialer,
    servers: &[SocketAddr],
    name: &str,
    kind: RecordType,
) -> Result<Vec<IpAddr>, String> {
    let name = Name::from_ascii(format!("{name}.")).map_err(|e| e.to_string())?;
    let mut last = "no resolver is named for it".to_owned();
    for server in servers.iter().take(MAX_ASKED) {
        match tokio::time::timeout(PATIENCE, ask_one(dialer, *server, &name, kind)).await {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(error)) => last = format!("{server}: {error}"),
            Err(_) => last = format!("{server} does not answer"),
        }
    }
    Err(last)
}

async fn ask_one(
    dialer: &Dialer,
    server: SocketAddr,
    name: &Name,
    kind: RecordType,
) -> io::Result<Vec<IpAddr>> {
    let [a, b, ..] = crate::clock::entropy()?;
    let mut question = Message::new(u16::from_be_bytes([a, b]), MessageType::Query, OpCode::Query);
    question.metadata.recursion_desired = true;
    let query = Query::query(name.clone(), kind);
    question.add_query(query.clone());
    let bytes = question.to_bytes().map_err(io::Error::other)?;
    let mut room = vec![0; ROOM];
    let fits = |from: SocketAddr, reply: &[u8]| {
        let reply = Message::from_bytes(reply).ok()?;
        let ours = from == server
            && reply.metadata.id == question.metadata.id
            && reply.metadata.message_type == MessageType::Response
            && reply.queries == [query.clone()];
        ours.then_some(reply)
    };
    let reply = match dialer.reach().way(server.ip()) {
        Some(Way::Mesh) => {
            let socket = dialer.stack().udp_bind(0)?;
            socket.send_to(&bytes, server).await?;
            loop {
                let (len, from) = socket.recv_from(&mut room).await?;
                if let Some(reply) = fits(from, &room[..len]) {
                    break reply;
                }
            }
        }
        Some(Way::Host) => {
            let any: IpAddr =
                if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
            let socket = UdpSocket::bind((any, 0)).await?;
            socket.send_to(&bytes, server).await?;
            loop {
                let (len, from) = socket.recv_from(&mut room).await?;
                if let Some(reply) = fits(from, &room[..len]) {
                    break reply;
                }
            }
        }
        Some(Way::Nowhere) | None => return Err(io::ErrorKind::NetworkUnreachable.into()),
    };
    match reply.metadata.response_code {
        ResponseCode::NoError | ResponseCode::NXDomain => {
            Ok(reply.answers.iter().filter_map(|record| address(&record.data)).collect())
        }
        code => Err(io::Error::other(format!("it says {code}"))),
    }
}
