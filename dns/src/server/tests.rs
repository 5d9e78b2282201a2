mod upstreams;

use super::source::Source;
use super::*;
use crate::forward::Upstream;
use crate::view::Scope;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, CNAME, NULL};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use meshd_proto::netmap::{
    DnsConfig, Entry, Peer, PeerKind, RecordSet, RecordType as Kind, RecordValue, SelfNode,
};
use meshd_proto::{ClassId, MeshAddrs, MeshPrefixes, NetworkId, NetworkMap, NodeId, NodeKey};
use std::sync::atomic::Ordering;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

fn map() -> NetworkMap {
    let mut map = NetworkMap::empty(NetworkId::from_bytes([1; 16]));
    let prefixes =
        MeshPrefixes { v4: "100.71.0.0/16".parse().unwrap(), v6: "fd7a:1:2::/48".parse().unwrap() };
    map.upsert(Entry::Me(SelfNode {
        id: NodeId(1),
        name: "pi".parse().unwrap(),
        addrs: MeshAddrs { v4: [100, 71, 0, 1].into(), v6: "fd7a:1:2::1".parse().unwrap() },
        class: ClassId(1),
        tags: vec![],
        prefixes,
        approved_routes: vec![],
        pending_routes: vec![],
        key_expires: None,
        map_lease: 0,
    }));
    map.upsert(Entry::DnsConfig(DnsConfig {
        domain: "home.internal".parse().unwrap(),
        search: vec![],
        split: vec![],
        nameservers: vec![],
        ttl: 60,
    }));
    let mut record = |name: &str, kind, values| {
        map.upsert(Entry::Record(name.parse().unwrap(), kind, RecordSet { ttl: 60, values }));
    };
    record("wiki.home.internal", Kind::Cname, vec![RecordValue::Name("big.example".parse().unwrap())]);
    let many = (0..60).map(|n| RecordValue::Address([10, 0, 0, n].into())).collect();
    record("many.home.internal", Kind::A, many);
    map
}

/// A server on loopback as the "previous resolver": it knows `big.example`, too large for UDP, and an
/// unknown type; it is one of ours, with records as overrides.
struct Upper;

#[async_trait::async_trait]
impl hickory_server::server::RequestHandler for Upper {
    async fn handle_request<
        R: hickory_server::server::ResponseHandler,
        T: hickory_server::net::runtime::Time,
    >(
        &self,
        request: &hickory_server::server::Request,
        mut out: R,
    ) -> hickory_server::server::ResponseInfo {
        let mut metadata = hickory_proto::op::Metadata::response_from_request(&request.metadata);
        metadata.recursion_available = true;
        let query = request.request_info().unwrap().query.original().clone();
        let records: Vec<Record> = match query.query_type() {
            RecordType::A => (0..90u8)
                .map(|n| Record::from_rdata(query.name().clone(), 5, RData::A(A([203, 0, 113, n].into()))))
                .collect(),
            code @ RecordType::Unknown(_) => {
                let rdata = NULL::with(vec![0xc0, 0x0c, 1, 2, 3]);
                vec![Record::from_rdata(query.name().clone(), 5, RData::Unknown { code, rdata })]
            }
            _ => vec![],
        };
        let builder = hickory_server::zone_handler::MessageResponseBuilder::from_message_request(request);
        out.send_response(builder.build(metadata, &records, [], [], [])).await.unwrap()
    }
}

struct Rig {
    server: DnsServer,
    names: Arc<Names>,
    _upper: hickory_server::Server<Upper>,
}

async fn rig() -> Rig {
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let addr = udp.local_addr().unwrap();
    let mut upper = hickory_server::Server::new(Upper);
    upper.register_listener(TcpListener::bind(addr).await.unwrap(), TCP_IDLE, 16);
    upper.register_socket(udp);
    let names = Arc::new(Names::default());
    names.set_map(&map(), Scope::Full);
    names.set_upstreams(vec![Upstream { addr, mark: None }]);
    let listener = Listener {
        addr: "127.0.0.1:0".parse().unwrap(),
        ..Listener::own(std::net::Ipv4Addr::LOCALHOST.into())
    };
    let server = DnsServer::spawn(&[listener], Arc::clone(&names)).unwrap();
    Rig { server, names, _upper: upper }
}

fn question(name: &str, kind: RecordType, edns: bool) -> Vec<u8> {
    let mut message = Message::new(0x7777, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.edns = edns.then(|| {
        let mut edns = Edns::new();
        edns.set_max_payload(1232);
        edns
    });
    message.to_vec().unwrap()
}

async fn udp(server: SocketAddr, packet: &[u8]) -> Option<Message> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(server).await.unwrap();
    socket.send(packet).await.unwrap();
    let mut buffer = [0; 4096];
    let len = timeout(Duration::from_secs(6), socket.recv(&mut buffer)).await.ok()?.ok()?;
    Some(Message::from_vec(&buffer[..len]).unwrap())
}

async fn tcp(server: SocketAddr, packet: &[u8]) -> Message {
    let mut stream = TcpStream::connect(server).await.unwrap();
    stream.write_u16(packet.len() as u16).await.unwrap();
    stream.write_all(packet).await.unwrap();
    let len = stream.read_u16().await.unwrap();
    let mut reply = vec![0; usize::from(len)];
    stream.read_exact(&mut reply).await.unwrap();
    Message::from_vec(&reply).unwrap()
}

#[tokio::test]
async fn mesh_names_are_answered_alike_by_udp_and_tcp() {
    let rig = rig().await;
    let server = rig.server.addrs()[0];
    for edns in [false, true] {
        let packet = question("PI.home.internal.", RecordType::A, edns);
        for reply in [udp(server, &packet).await.unwrap(), tcp(server, &packet).await] {
            assert_eq!(reply.answers[0].data, RData::A(A([100, 71, 0, 1].into())));
            assert!(reply.metadata.authoritative && reply.metadata.recursion_available);
            assert_eq!((reply.metadata.id, reply.edns.is_some()), (0x7777, edns));
            assert_eq!(reply.queries[0].name().to_string(), "PI.home.internal.");
        }
        let packet = question("nobody.home.internal.", RecordType::A, edns);
        for reply in [udp(server, &packet).await.unwrap(), tcp(server, &packet).await] {
            assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
            assert_eq!(reply.authorities[0].record_type(), RecordType::SOA);
        }
    }
}

/// A node that this one may see, and from the next map on may not: nothing says that it ever was there, whatever is
/// asked, by whichever way, though all of it was answered and kept a moment ago.
#[tokio::test]
async fn a_hidden_name_is_no_name_by_every_way() {
    let rig = rig().await;
    let server = rig.server.addrs()[0];
    let record = |name: &str, kind, value| {
        Entry::Record(name.parse().unwrap(), kind, RecordSet { ttl: 60, values: vec![value] })
    };
    let mut hidden = map();
    let alias = RecordValue::Name("secret.home.internal".parse().unwrap());
    hidden.upsert(record("alias.home.internal", Kind::Cname, alias));
    hidden.upsert(record("home.internal", Kind::Mx, RecordValue::Text("10 secret.home.internal".into())));
    let mut shown = hidden.clone();
    let addrs = MeshAddrs { v4: [100, 71, 0, 9].into(), v6: "fd7a:1:2::9".parse().unwrap() };
    shown.upsert(Entry::Peer(Peer {
        id: NodeId(9),
        key: NodeKey::from_bytes([9; 32]),
        name: "secret".parse().unwrap(),
        addrs,
        class: ClassId(1),
        tags: vec![],
        owner: String::new(),
        key_expires: None,
        kind: PeerKind::Meshd,
    }));
    let (secret, reverse) = ("secret.home.internal.", "9.0.71.100.in-addr.arpa.");
    let reverse6 = format!("{}.", Name::from(IpAddr::V6(addrs.v6)).to_ascii().trim_end_matches('.'));
    let ways = [
        (secret, RecordType::A),
        (secret, RecordType::AAAA),
        (secret, RecordType::ANY),
        (secret, RecordType::TXT),
        ("secret.", RecordType::A),
        ("alias.home.internal.", RecordType::A),
        ("alias.home.internal.", RecordType::AAAA),
        (reverse, RecordType::PTR),
        (reverse, RecordType::ANY),
        (&reverse6, RecordType::PTR),
        ("home.internal.", RecordType::MX),
    ];
    let ask = async |name: &str, kind| {
        let packet = question(name, kind, true);
        // The second is out of the cache.
        [udp(server, &packet).await.unwrap(), udp(server, &packet).await.unwrap(), tcp(server, &packet).await]
    };
    rig.names.set_map(&shown, Scope::Full);
    for (name, kind) in ways.iter().filter(|(name, kind)| !(*name == secret && *kind == RecordType::TXT)) {
        let [reply, ..] = ask(name, *kind).await;
        assert!(!reply.answers.is_empty(), "{name} {kind} while it is shown");
    }
    rig.names.set_map(&hidden, Scope::Full);
    for (name, kind) in ways {
        for reply in ask(name, kind).await {
            let text = format!("{reply:?}");
            assert!(!text.contains("100.71.0.9") && !text.contains("fd7a:1:2::9"), "{name} {kind}: {text}");
            assert!(reply.additionals.is_empty(), "{name} {kind}: {text}");
            // The record of the mesh itself stays: the coordinator takes values that lead to what is hidden.
            let wanted = match kind {
                RecordType::MX => ResponseCode::NoError,
                _ => ResponseCode::NXDomain,
            };
            // A bare name that is none of ours is the business of those outside.
            if name != "secret." {
                assert_eq!(reply.metadata.response_code, wanted, "{name} {kind}: {text}");
            }
        }
    }
}

#[tokio::test]
async fn an_answer_too_large_for_udp_comes_whole_by_tcp() {
    let rig = rig().await;
    let server = rig.server.addrs()[0];
    for (name, count) in [("many.home.internal.", 60), ("big.example.", 90)] {
        let packet = question(name, RecordType::A, false);
        let cut = udp(server, &packet).await.unwrap();
        assert!(cut.metadata.truncation && cut.answers.len() < count, "{name}");
        let whole = tcp(server, &packet).await;
        assert!(!whole.metadata.truncation && whole.answers.len() == count, "{name}");
    }
}

#[tokio::test]
async fn unknown_types_pass_both_ways() {
    let rig = rig().await;
    let packet = question("odd.example.", RecordType::Unknown(65_400), true);
    for reply in
        [udp(rig.server.addrs()[0], &packet).await.unwrap(), tcp(rig.server.addrs()[0], &packet).await]
    {
        let expected = RData::Unknown {
            code: RecordType::Unknown(65_400),
            rdata: NULL::with(vec![0xc0, 0x0c, 1, 2, 3]),
        };
        assert_eq!(reply.answers[0].data, expected);
    }
    let counted = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let counters = rig.names.counters();
    assert_eq!(
        (counted(&counters.forwarded), counted(&counters.cached)),
        (1, 1),
        "the second from the cache"
    );
}

#[tokio::test]
async fn an_alias_of_ours_that_leads_out_comes_with_its_whole_chain() {
    let rig = rig().await;
    let reply = tcp(rig.server.addrs()[0], &question("wiki.home.internal.", RecordType::A, true)).await;
    let target: Name = "big.example.".parse().unwrap();
    assert_eq!(reply.answers[0].data, RData::CNAME(CNAME(target.clone())));
    assert_eq!(reply.answers.len(), 91, "the alias, and what only fits into TCP upstream");
    assert!(reply.answers[1..].iter().all(|r| r.name == target));
}

#[tokio::test]
async fn a_probe_tells_who_knows_a_name() {
    let rig = rig().await;
    let server = rig.server.addrs()[0];
    let ask = async |name: &str| crate::probe::addresses(server, &name.parse().unwrap()).await;
    assert_eq!(ask("pi.home.internal").await.unwrap(), [std::net::Ipv4Addr::new(100, 71, 0, 1)]);
    let error = ask("nobody.home.internal").await.unwrap_err().to_string();
    assert!(error.contains("does not know nobody.home.internal"), "{error}");
    rig.server.shutdown().await;
    let error = ask("pi.home.internal").await;
    assert!(error.is_err());
}

#[tokio::test]
async fn garbage_gets_a_format_error_or_silence_and_the_server_lives() {
    let rig = rig().await;
    let server = rig.server.addrs()[0];
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for len in [0, 1, 11] {
        socket.send_to(&vec![0; len], server).await.unwrap();
    }
    let reply = udp(server, &[0; 40]).await.unwrap();
    assert_eq!(reply.metadata.response_code, ResponseCode::FormErr);
    assert!(udp(server, &question("pi.home.internal.", RecordType::A, false)).await.is_some());
    assert!(rig.names.counters().malformed.load(Ordering::Relaxed) >= 2);
}

#[tokio::test]
async fn our_own_listener_is_never_asked_as_an_upstream() {
    let rig = rig().await;
    let server = rig.server.addrs()[0];
    rig.names.set_upstreams(vec![Upstream { addr: server, mark: None }]);
    let reply = udp(server, &question("www.example.", RecordType::A, false)).await.unwrap();
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(rig.names.counters().failed.load(Ordering::Relaxed), 1, "once, not in a circle");
}

#[test]
fn this_host_gets_its_view_guests_an_empty_one_and_strangers_nothing() {
    let names = Names::default();
    let mut map = map();
    let member = |id: u64, v4: &str, kind| {
        Entry::Peer(Peer {
            id: NodeId(id),
            key: NodeKey::from_bytes([id as u8; 32]),
            name: format!("n{id}").parse().unwrap(),
            addrs: MeshAddrs { v4: v4.parse().unwrap(), v6: format!("fd7a:1:2::{id}").parse().unwrap() },
            class: ClassId(1),
            tags: vec![],
            owner: String::new(),
            key_expires: None,
            kind,
        })
    };
    map.upsert(member(60, "100.71.0.60", PeerKind::PlainWireguard));
    map.upsert(member(61, "100.71.0.61", PeerKind::Meshd));
    names.set_map(&map, Scope::Full);
    let guests = vec!["172.17.0.0/16".parse().unwrap()];
    let knows_pi = |view: Arc<crate::View>| {
        let name = "pi.home.internal.".parse().unwrap();
        matches!(
            view.decide(&name, RecordType::A, hickory_proto::rr::DNSClass::IN),
            crate::Decision::Answer(answer) if !answer.records.is_empty()
        )
    };
    let view = |audience: &Audience, kind, source: &str| {
        names.side_for(audience, source.parse().unwrap(), |_| kind).map(|side| knows_pi(side.view()))
    };
    let node = Audience::Node { guests: guests.clone() };
    assert_eq!(view(&node, Source::Own, "172.17.0.1"), Some(true), "the host's own address on that bridge");
    assert_eq!(view(&node, Source::Stranger, "172.17.0.2"), Some(false));
    assert_eq!(view(&node, Source::Container, "10.88.0.2"), Some(false));
    assert_eq!(view(&node, Source::Stranger, "192.168.1.77"), None);
    assert_eq!(view(&node, Source::Stranger, "100.71.0.60"), Some(true), "a device joined through this node");
    assert_eq!(view(&node, Source::Stranger, "fd7a:1:2::60"), Some(true));
    assert_eq!(view(&node, Source::Stranger, "100.71.0.61"), None, "a node has a resolver of its own");
    assert_eq!(view(&Audience::Guests(guests), Source::Own, "172.17.0.1"), Some(false));
}

#[tokio::test]
async fn shutdown_frees_the_ports_and_a_taken_port_is_a_named_error() {
    let rig = rig().await;
    let addr = rig.server.addrs()[0];
    let again = || Listener { addr, ..Listener::own(addr.ip()) };
    let error = DnsServer::spawn(&[again()], Arc::clone(&rig.names)).unwrap_err();
    assert!(error.to_string().starts_with(&format!("cannot listen for names on {addr} (UDP)")), "{error}");
    rig.server.shutdown().await;
    let second = DnsServer::spawn(&[again()], Arc::clone(&rig.names)).unwrap();
    assert!(udp(addr, &question("pi.home.internal.", RecordType::A, false)).await.is_some());
    second.shutdown().await;
}

#[tokio::test]
async fn tcp_connections_beyond_the_bound_are_closed_at_once_and_those_before_them_go_on() {
    let rig = rig().await;
    let addr = rig.server.addrs()[0];
    let packet = question("pi.home.internal.", RecordType::A, false);
    let ask = async |stream: &mut TcpStream| {
        stream.write_u16(packet.len() as u16).await.ok()?;
        stream.write_all(&packet).await.ok()?;
        let len = timeout(Duration::from_secs(20), stream.read_u16()).await.ok()?.ok()?;
        let mut reply = vec![0; usize::from(len)];
        stream.read_exact(&mut reply).await.ok()
    };
    let mut open = Vec::new();
    // A question each, so that all of them were accepted before the next.
    for n in 0..accept::MAX_CONNECTIONS {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        assert!(ask(&mut stream).await.is_some(), "connection {n}");
        open.push(stream);
    }
    let crowded = || rig.names.counters().crowded.load(Ordering::Relaxed);
    assert_eq!(crowded(), 0);
    let mut beyond = TcpStream::connect(addr).await.unwrap();
    assert!(ask(&mut beyond).await.is_none(), "no place is left");
    assert_eq!(crowded(), 1);
    assert!(ask(&mut open[0]).await.is_some(), "the first goes on");
    drop(open.pop());
    let again = async { while ask(&mut TcpStream::connect(addr).await.unwrap()).await.is_none() {} };
    timeout(Duration::from_secs(20), again).await.expect("a place that was given back is given again");
    rig.server.shutdown().await;
    assert!(ask(&mut open[1]).await.is_none(), "the shutdown ends open connections");
}

#[tokio::test]
async fn a_question_by_tcp_that_cannot_be_read_is_told_so_and_the_connection_goes_on() {
    let rig = rig().await;
    let mut stream = TcpStream::connect(rig.server.addrs()[0]).await.unwrap();
    // One question is announced and none is there.
    let bad = [0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    stream.write_u16(12).await.unwrap();
    stream.write_all(&bad).await.unwrap();
    assert_eq!(stream.read_u16().await.unwrap(), 12);
    let mut reply = [0; 12];
    stream.read_exact(&mut reply).await.unwrap();
    assert_eq!(reply[..4], [0x12, 0x34, 0x81, 1]);
    let packet = question("pi.home.internal.", RecordType::A, false);
    stream.write_u16(packet.len() as u16).await.unwrap();
    stream.write_all(&packet).await.unwrap();
    assert!(stream.read_u16().await.unwrap() > 12);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_question_that_waits_for_an_upstream_does_not_hold_the_port_after_shutdown() {
    let rig = rig().await;
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    rig.names.set_upstreams(vec![Upstream { addr: silent.local_addr().unwrap(), mark: None }]);
    let addr = rig.server.addrs()[0];
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut server = rig.server;
    for round in 0..100 {
        for n in 0..20 {
            let packet = question(&format!("q{n}.r{round}.example."), RecordType::A, false);
            client.send_to(&packet, addr).await.unwrap();
        }
        // One of them has come as far as the upstream.
        timeout(Duration::from_secs(6), silent.recv(&mut [0; 512])).await.unwrap().unwrap();
        server.shutdown().await;
        let again = Listener { addr, ..Listener::own(addr.ip()) };
        server = DnsServer::spawn(&[again], Arc::clone(&rig.names)).unwrap();
    }
    server.shutdown().await;
}
