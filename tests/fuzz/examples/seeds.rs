//! Writes the hand-made inputs of every corpus: `cargo run --example seeds` in this folder. Findings
//! and inputs that a fuzzer found are files beside them and are left alone.

use meshd_engine::nat::Mapping;
use meshd_engine::path::probe::{Content, Fitness, Probe, TxId, Whereabouts, seal};
use meshd_engine::path::replay::{Run, Stamp};
use meshd_fuzz::probe_parties;
use meshd_proto::channel::Initiator;
use meshd_proto::control::{
    Answer, Call, Hello, MapPosition, Offer, Refusal, RefusalCode, ToCoordinator, ToNode,
};
use meshd_proto::netmap::{
    DnsConfig, Entry, EntryKey, FilterRule, MapUpdate, Peer, PeerKind, RecordSet, RecordType, RecordValue,
    Relay, Route, RuleSource, RuleTarget, SelfNode, Service, SplitRoute, TargetAddr,
};
use meshd_proto::permit::{Permit, SignedPermit};
use meshd_proto::relay::{AttachKeys, Cookie, Frame, Nonce, RelayAddr};
use meshd_proto::stun::{TransactionId, encode_request, encode_success};
use meshd_proto::token::{JoinToken, KeysHash, TokenSecret};
use meshd_proto::{
    ClassId, CoordinatorSecret, Endpoint, Epoch, Hint, MachineSecret, MapDigest, MeshAddrs, MeshPrefixes,
    NetworkId, NodeId, NodeKey, NodeSecret, RelayId, RuleId, SigningKey, UnixSeconds, Version,
};
use std::path::Path;

#[path = "seeds/names.rs"]
mod names;

const NETWORK: NetworkId = NetworkId::from_bytes([1; 16]);

fn main() -> std::io::Result<()> {
    for (target, seeds) in [
        ("policy", policy()),
        ("control_frame", control()),
        ("token", token()),
        ("stun", stun()),
        ("packet", packet()),
        ("segments", segments()),
        ("probe", probe()),
        ("relay_frame", relay()),
        ("gateway_wire", gateway_wire()),
        ("socks5", socks5()),
        ("http_proxy", http_proxy()),
        ("dns_query", names::dns_query()),
        ("dns_reply", names::dns_reply()),
    ] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
        std::fs::create_dir_all(&folder)?;
        for (name, bytes) in seeds {
            std::fs::write(folder.join(name), bytes)?;
        }
    }
    Ok(())
}

type Seeds = Vec<(String, Vec<u8>)>;

/// A handful of flows each: kind by kind, then mixed, then damaged.
fn segments() -> Seeds {
    let flow = |shape: u8, len: u16, size: u16| {
        let (len, size) = (len.to_be_bytes(), size.to_be_bytes());
        let mut f = vec![shape, len[0], len[1], size[0], size[1], 7, 0xff, 0xf0, 2, 0xff, 0xff, 0xff, 0x80];
        if shape & 8 != 0 {
            f.push(0x18);
        }
        f.extend([2, 0]);
        if shape & 2 != 0 {
            f.push(3);
        }
        f
    };
    let tcp4 = flow(0b0110, 20_000, 1327);
    let tcp6 = flow(0b0111, 20_000, 1307);
    let udp4 = flow(0b0100, 9_000, 1199);
    let udp6 = flow(0b0101, 9_000, 1199);
    let pushed = flow(0b1110, 5_001, 999);
    let extended = flow(0b11_0111, 4_000, 999);
    let list = [&tcp4, &tcp6, &udp4, &udp6, &pushed, &extended];
    let mut seeds: Seeds =
        list.iter().enumerate().map(|(i, f)| (format!("flow-{i}"), [&[1u8][..], f].concat())).collect();
    let mixed = [&[1u8][..], &tcp4, &udp6, &pushed].concat();
    seeds.push(("mixed".into(), mixed.clone()));
    for kind in 0..5u8 {
        let damaged =
            [&mixed[..], &[3, 2, 5, kind, 0, 33, 9, 4, 1, kind, 0, 50, 1, 0, 7, kind, 1, 0, 255]].concat();
        seeds.push((format!("damaged-{kind}"), damaged));
    }
    seeds
}

fn named<'a>(list: impl IntoIterator<Item = (&'a str, Vec<u8>)>) -> Seeds {
    list.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect()
}

fn socks5() -> Seeds {
    named([
        ("greeting", vec![0, 5, 2, 0, 2]),
        ("password", [&[1, 1, 2][..], b"me", &[6], b"secret"].concat()),
        ("connect-name", [&[2, 5, 1, 0, 3, 12][..], b"nas.internal", &[0, 80]].concat()),
        ("connect-v4", vec![2, 5, 1, 0, 1, 192, 168, 1, 10, 0, 80]),
        ("associate-v6", [&[2, 5, 3, 0, 4][..], &[0xfd; 16], &[0, 0]].concat()),
        ("datagram", [&[3, 0, 0, 0, 3, 3][..], b"nas", &[0, 53], b"payload"].concat()),
    ])
}

fn http_proxy() -> Seeds {
    let text = |text: &str| text.replace('|', "\r\n").into_bytes();
    named([
        ("connect", text("CONNECT nas.internal:443 HTTP/1.1|Host: nas.internal:443||")),
        ("connect-v6", text("CONNECT [fd00::1]:22 HTTP/1.0||SSH-2.0")),
        (
            "absolute",
            text(
                "GET http://nas/x?y HTTP/1.1|Host: nas|Proxy-Authorization: Basic bWU6eA==|Proxy-Connection: keep-alive||",
            ),
        ),
        ("query-only", text("POST http://nas:81?q HTTP/1.1|Content-Length: 2||ab")),
        ("folded", text("CONNECT nas:1 HTTP/1.1|A: b| c||")),
        ("origin", text("GET / HTTP/1.1||")),
    ])
}

fn policy() -> Seeds {
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../policy/tests/loads");
    let sample = |name: &str| std::fs::read(samples.join(name)).expect("a sample policy");
    let text = |text: &str| text.as_bytes().to_vec();
    named([
        ("default", text(meshd_policy::DEFAULT_POLICY)),
        ("tailscale-like", sample("tailscale-like.hujson")),
        ("headscale-like", sample("headscale-like.hujson")),
        ("empty", text("{}")),
        (
            "own",
            text(
                r#"{"acls":[{"action":"accept","src":["autogroup:member"],"dst":["autogroup:self:22,80-90"]}]}"#,
            ),
        ),
        (
            "internet",
            text(
                r#"{"grants":[{"src":["alice"],"dst":["autogroup:internet","8.0.0.0/6"],"ip":["tcp:443","icmp:*"]}]}"#,
            ),
        ),
        (
            "addresses",
            text(
                r#"{"hosts":{"nas":"192.168.1.10"},"acls":[{"action":"accept","proto":"17","src":["10.0.0.0/8","nas"],"dst":["[fd7a:1:2::1]:*","100.71.0.0/16:53"]}]}"#,
            ),
        ),
        (
            "tests",
            text(
                r#"{"acls":[{"action":"accept","src":["tag:web"],"dst":["*:22"]}],"tests":[{"src":"tag:web","accept":["alice:22"],"deny":["8.8.8.8:53"]}]}"#,
            ),
        ),
        (
            "expose",
            text(
                r#"{"expose":[{"src":["tag:k8s"],"names":["*.a.example"],"ports":["tcp:443"],"on":["tag:exit"]}]}"#,
            ),
        ),
        (
            "approvers",
            text(
                r#"{"tagOwners":{"tag:r":["bob"]},"autoApprovers":{"routes":{"10.0.0.0/8":["tag:r"]},"exitNode":["autogroup:member"]}}"#,
            ),
        ),
        (
            "escapes",
            text("\u{feff}/* a */{\"groups\"://b\n{\"group:a\":[\"\\u0061\\ud83d\\ude00\\\"\",],},}"),
        ),
    ])
}

fn addrs(n: u8) -> MeshAddrs {
    MeshAddrs { v4: [100, 71, 0, n].into(), v6: [0xfd7a, 1, 2, 0, 0, 0, 0, n.into()].into() }
}

fn endpoint(text: &str) -> Endpoint {
    Endpoint::canonical(text.parse().expect("an endpoint"))
}

fn position() -> MapPosition {
    MapPosition { network: NETWORK, epoch: Epoch(2), version: Version(300), digest: MapDigest::EMPTY }
}

fn map_entries() -> Vec<Entry> {
    let name = |text: &str| text.parse().expect("a name");
    let prefix = |text: &str| text.parse().expect("a prefix");
    vec![
        Entry::Me(SelfNode {
            id: NodeId(1),
            name: "pi".parse().expect("a name"),
            addrs: addrs(1),
            class: ClassId(1),
            tags: vec!["tag:router".parse().expect("a tag")],
            prefixes: MeshPrefixes {
                v4: "100.71.0.0/16".parse().expect("a net"),
                v6: "fd7a:1:2::/48".parse().expect("a net"),
            },
            approved_routes: vec![prefix("192.168.1.0/24")],
            pending_routes: vec![prefix("fd00:1::/64")],
            key_expires: Some(UnixSeconds(1_900_000_000)),
            map_lease: 86400 * 30,
        }),
        Entry::Peer(Peer {
            id: NodeId(2),
            key: NodeSecret::from_bytes([2; 32]).public(),
            name: "laptop".parse().expect("a name"),
            addrs: addrs(2),
            class: ClassId(2),
            tags: vec![],
            owner: "alice@example.com".to_owned(),
            key_expires: None,
            kind: PeerKind::Meshd,
        }),
        Entry::Route(Route { prefix: prefix("192.168.1.0/24"), rank: 1, owner: NodeId(1) }),
        Entry::FilterPresent,
        Entry::Rule(
            RuleId(77),
            FilterRule {
                line: 12,
                srcs: vec![
                    RuleSource::AnyNode,
                    RuleSource::Class(ClassId(2)),
                    RuleSource::Prefix(prefix("10.0.0.0/8")),
                ],
                dsts: vec![
                    RuleTarget::all(TargetAddr::Myself),
                    RuleTarget {
                        to: TargetAddr::Prefix(prefix("::/0")),
                        protocol: Some(6),
                        first_port: 22,
                        last_port: 80,
                    },
                    RuleTarget::all(TargetAddr::Internet),
                ],
            },
        ),
        Entry::DnsConfig(DnsConfig {
            domain: name("home.internal"),
            search: vec![name("home.internal")],
            split: vec![SplitRoute {
                suffix: name("corp.example"),
                upstreams: vec![endpoint("10.0.0.53:53")],
            }],
            nameservers: vec![endpoint("[2001:db8::53]:53")],
            ttl: 60,
        }),
        Entry::Record(
            name("nas.home.internal"),
            RecordType::A,
            RecordSet { ttl: 60, values: vec![RecordValue::Address([192, 168, 1, 10].into())] },
        ),
        Entry::Record(
            name("a.home.internal"),
            RecordType::Cname,
            RecordSet { ttl: 1, values: vec![RecordValue::Name(name("b.home.internal"))] },
        ),
        Entry::Record(
            name("t.home.internal"),
            RecordType::Txt,
            RecordSet { ttl: 1, values: vec![RecordValue::Text("x=1".to_owned())] },
        ),
        Entry::Relay(Relay {
            id: RelayId(1),
            name: "vps".to_owned(),
            key: NodeSecret::from_bytes([5; 32]).public(),
            hosts: vec!["relay.example.com".to_owned(), "192.0.2.1".to_owned()],
            udp_port: 3478,
            alt_udp_port: 3479,
            tls_port: 443,
        }),
        Entry::Service(Service {
            name: name("web.home.internal"),
            addrs: vec![[100, 71, 9, 1].into()],
            ports: vec![(6, 443)],
        }),
        Entry::Gateway("exit".to_owned(), r#"{"generation":1}"#.to_owned()),
    ]
}

fn control() -> Seeds {
    let kind = |kind: u8, bytes: Vec<u8>| [vec![kind], bytes].concat();
    let hello = Hello {
        protocol: 1,
        node_key: NodeKey::from_bytes([9; 32]),
        node_key_proof: [8; 32],
        token_secret: Some(vec![3; 16].into()),
        hostname: "pi".parse().expect("a name"),
        machine_id: [7; 32],
        client_version: "0.1.0".to_owned(),
        os: "linux".to_owned(),
        ephemeral: false,
        offer: Offer {
            routes: vec!["192.168.1.0/24".parse().expect("a prefix")],
            exit_node: true,
            hostname: None,
        },
        resume: Some(position()),
    };
    let endpoints = vec![endpoint("192.0.2.7:41820"), endpoint("[2001:db8::7]:41820")];
    let up = [
        ("up-hello", ToCoordinator::Hello(Box::new(hello))),
        ("up-applied", ToCoordinator::Applied(position())),
        ("up-snapshot", ToCoordinator::NeedSnapshot),
        (
            "up-endpoints",
            ToCoordinator::Endpoints { endpoints: endpoints.clone(), home_relay: Some(RelayId(1)) },
        ),
        ("up-interest", ToCoordinator::Interest(vec![NodeId(2), NodeId(3)])),
        ("up-alive", ToCoordinator::Alive { nonce: 99 }),
        (
            "up-call",
            ToCoordinator::Call {
                id: 1,
                call: Call::RemoveDevice { name: "phone".parse().expect("a name") },
            },
        ),
    ];
    let mut digest = MapDigest::EMPTY;
    map_entries().iter().for_each(|e| digest.add(&e.encode()));
    let snapshot = MapUpdate {
        network: NETWORK,
        epoch: Epoch(2),
        from: None,
        to: Version(300),
        upserts: map_entries(),
        removes: vec![EntryKey::Peer(NodeId(9)), EntryKey::FilterPresent],
        digest,
        more: false,
    };
    let hint = Hint { node: NodeId(2), seq: 5, online: true, endpoints, home_relay: Some(RelayId(1)) };
    let down = [
        (
            "down-welcome",
            ToNode::Welcome { node: NodeId(1), network: NETWORK, time: UnixSeconds(1_800_000_000) },
        ),
        ("down-map", ToNode::Map(snapshot)),
        ("down-hints", ToNode::Hints(vec![hint])),
        (
            "down-keepalive",
            ToNode::Keepalive { position: position(), time: UnixSeconds(1_800_000_000), nonce: 4 },
        ),
        ("down-revoked", ToNode::Revoked { reason: "lost".to_owned() }),
        ("down-reply", ToNode::Reply { id: 1, answer: Answer::Device { node: NodeId(5), addrs: addrs(5) } }),
        (
            "down-refused",
            ToNode::Refused(Refusal {
                code: RefusalCode::TokenExpired,
                message: "m".to_owned(),
                hint: "h".to_owned(),
            }),
        ),
    ];
    let mut seeds = Vec::new();
    seeds.extend(up.map(|(name, message)| (name.to_owned(), kind(0, message.encode()))));
    seeds.extend(down.map(|(name, message)| (name.to_owned(), kind(1, message.encode()))));
    let framed = |body: &[u8]| [&(body.len() as u16).to_be_bytes()[..], body].concat();
    for (i, entry) in map_entries().iter().enumerate() {
        seeds.push((format!("entry-{i}"), kind(2, framed(&entry.encode()))));
    }
    seeds.push((
        "entries".to_owned(),
        kind(2, map_entries().iter().flat_map(|e| framed(&e.encode())).collect()),
    ));
    seeds.push((
        "frames".to_owned(),
        kind(3, [framed(&[1; 96]), framed(&[]), framed(&[2; 200]), framed(&[3; 900])].concat()),
    ));
    let coordinator = CoordinatorSecret::from_bytes([7; 32]);
    let machine = MachineSecret::from_bytes([8; 32]);
    if let Ok((_, first)) = Initiator::new(&machine, &coordinator.public(), NETWORK) {
        seeds.push(("handshake".to_owned(), kind(4, first[2..].to_vec())));
    }
    let permit = permit(NodeKey::from_bytes([2; 32]));
    seeds.push(("permit".to_owned(), kind(6, permit.as_bytes().to_vec())));
    let gateway = r#"{"generation":1,"listeners":[{"name":"web","port":443,"protocol":"tls","hostnames":["a.example"]}]}"#;
    seeds.push(("gateway".to_owned(), kind(7, gateway.as_bytes().to_vec())));
    seeds.push(("local-api".to_owned(), kind(5, local_api())));
    seeds
}

fn local_api() -> Vec<u8> {
    use meshd_proto::localapi::{Failure, Response, Tell};
    use prost::Message;
    Response::last(Tell::Failed(Failure::new("not allowed", "run it as root"))).encode_to_vec()
}

fn token() -> Seeds {
    let (keys, secret) = (KeysHash::from_bytes([2; 32]), TokenSecret::from_bytes([3; 16]));
    let list = |list: &[&str]| list.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>();
    let make = |addresses: &[&str]| {
        JoinToken::new(list(addresses), NETWORK, keys, secret.clone()).expect("a token").to_text()
    };
    let text = |kind: u8, text: &str| [&[kind][..], text.as_bytes()].concat();
    let short = make(&["vps.example.com:443"]);
    let long = make(&["vps.example.com:443", "192.0.2.1:8443", "[2001:db8::1]:443"]);
    named([
        ("short", text(0, &short)),
        ("long", text(0, &long)),
        ("wrapped", text(0, &format!("  {}\n{}\n", &long[..80], &long[80..]))),
        ("cut", text(0, &short[..short.len() - 7])),
        ("doubled", text(0, &format!("{}{}", *short, *short))),
        ("bare", text(0, "mesh_")),
        ("addresses", text(1, "vps.example.com:443\n192.0.2.1:8443\n[2001:db8::1]:443")),
        ("odd-addresses", text(1, "a:0\n[::1%eth0]:1\n:80\nex ample:1\nä.example:443")),
    ])
}

fn stun() -> Seeds {
    let id = TransactionId([7; 12]);
    let request = encode_request(id).to_vec();
    let bare = [&request[..2], &[0, 0], &request[4..20]].concat();
    let attribute = |kind: u16, value: &[u8]| {
        let mut out = request[..20].to_vec();
        let padded = value.len().div_ceil(4) * 4;
        out[2..4].copy_from_slice(&(padded as u16 + 4).to_be_bytes());
        out.extend([kind.to_be_bytes(), (value.len() as u16).to_be_bytes()].concat());
        out.extend(value);
        out.resize(20 + 4 + padded, 0);
        out
    };
    let mut error = attribute(0x0009, &[0, 0, 4, 1, b'n', b'o']);
    error[..2].copy_from_slice(&0x0111u16.to_be_bytes());
    let mut mapped = attribute(0x0001, &[0, 1, 0x9c, 0x40, 192, 0, 2, 1]);
    mapped[..2].copy_from_slice(&0x0101u16.to_be_bytes());
    named([
        ("request", request.clone()),
        ("request-bare", bare),
        ("request-required", attribute(0x0003, &[0, 0, 0, 6])),
        ("request-username", attribute(0x0006, b"someone")),
        ("request-fingerprint", attribute(0x8028, &[1, 2, 3, 4])),
        ("success-v4", encode_success(id, endpoint("192.0.2.1:40000"))),
        ("success-v6", encode_success(id, endpoint("[2001:db8::1]:40000"))),
        ("success-plain", mapped),
        ("error", error),
    ])
}

fn packet() -> Seeds {
    let udp = [&[0x9c, 0x40, 0, 53, 0, 12, 0, 0][..], b"data"].concat();
    let tcp = [&[0x9c, 0x40, 0, 22, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0][..]].concat();
    let echo = vec![8, 0, 0, 0, 0, 7, 0, 1, b'p'];
    let quoted = v4(17, 0, &udp);
    let unreachable = [&[3, 3, 0, 0, 0, 0, 0, 0][..], &quoted].concat();
    let too_big = [&[2, 0, 0, 0, 0, 0, 5, 0][..], &v6(6, &tcp)].concat();
    let options = [&[58, 0, 1, 4, 0, 0, 0, 0][..], &[128, 0, 0, 0, 0, 7, 0, 1]].concat();
    let first = [&[17, 0, 0, 1, 0, 0, 0, 9][..], &udp].concat();
    let later = [&[17, 0, 0, 0x11, 0, 0, 0, 9][..], &udp].concat();
    named([
        ("v4-udp", v4(17, 0, &udp)),
        ("v4-tcp-syn", v4(6, 0, &tcp)),
        ("v4-echo", v4(1, 0, &echo)),
        ("v4-unreachable", v4(1, 0, &unreachable)),
        ("v4-first-fragment", v4(17, 0x2000, &udp)),
        ("v4-later-fragment", v4(17, 0x0003, &udp)),
        ("v4-gre", v4(47, 0, &[0, 0, 8, 0])),
        ("v6-udp", v6(17, &udp)),
        ("v6-tcp-syn", v6(6, &tcp)),
        ("v6-too-big", v6(58, &too_big)),
        ("v6-hop-by-hop-echo", v6(0, &options)),
        ("v6-first-fragment", v6(44, &first)),
        ("v6-later-fragment", v6(44, &later)),
        ("v6-no-next-header", v6(59, &[])),
    ])
}

fn v4(protocol: u8, fragment: u16, body: &[u8]) -> Vec<u8> {
    let len = (20 + body.len()) as u16;
    let mut head = vec![0x45, 0];
    head.extend(len.to_be_bytes());
    head.extend([0, 9]);
    head.extend(fragment.to_be_bytes());
    head.extend([64, protocol, 0, 0, 100, 71, 0, 2, 100, 71, 0, 1]);
    let sum = head.chunks(2).map(|c| u32::from(u16::from_be_bytes([c[0], c[1]]))).sum::<u32>();
    let folded = (sum & 0xffff) + (sum >> 16);
    head[10..12].copy_from_slice(&(!(folded as u16)).to_be_bytes());
    [head, body.to_vec()].concat()
}

fn v6(next: u8, body: &[u8]) -> Vec<u8> {
    let mut head = vec![0x60, 0, 0, 0];
    head.extend((body.len() as u16).to_be_bytes());
    head.extend([next, 64]);
    head.extend(addrs(2).v6.octets());
    head.extend(addrs(1).v6.octets());
    [head, body.to_vec()].concat()
}

fn probe() -> Seeds {
    let (key, sender) = probe_parties();
    let endpoints = vec![endpoint("192.0.2.1:41820"), endpoint("[2001:db8::1]:41820")];
    let contents = [
        ("ping", Content::Ping),
        ("pong", Content::Pong { observed: Some(endpoints[0]) }),
        ("pong-relayed", Content::Pong { observed: None }),
        (
            "candidates",
            Content::Candidates(Whereabouts {
                home_relay: Some(RelayId(1)),
                backup_relay: Some(RelayId(2)),
                mapping: Mapping::Dependent,
                mapped: endpoints.first().copied(),
                endpoints,
            }),
        ),
        ("candidates-none", Content::Candidates(Whereabouts::default())),
        ("meet", Content::Meet { round: 1 }),
    ];
    let mut seeds = Vec::new();
    for (name, content) in contents {
        let stamp = Stamp { run: Run([5; 8]), number: 6 };
        let (has_session, fitness) = (name == "ping", Fitness::Fit);
        let probe = Probe { txid: TxId([4; 12]), stamp, has_session, fitness, content };
        let sealed = seal(key, *sender, &[9; 24], &probe);
        seeds.push((format!("sealed-{name}"), [&[0][..], &sealed].concat()));
    }
    let common = |kind: u8| [&[1, kind, 1][..], &[4; 12], &[5; 8], &[6, 0, 0, 0, 0, 0, 0, 0]].concat();
    let v4 = [&[4, 0x5c, 0xa3, 192, 0, 2, 1][..], &[0; 12]].concat();
    let v6 = [&[6, 0x5c, 0xa3, 0x20, 1, 0xd, 0xb8][..], &[1; 12]].concat();
    seeds.push(("content-ping".to_owned(), [common(1), vec![0; 19]].concat()));
    seeds.push(("content-pong".to_owned(), [common(2), v6.clone()].concat()));
    seeds.push(("content-candidates".to_owned(), [common(3), vec![1, 1, 0, 0, 0, 2], v4, v6].concat()));
    seeds
}

fn permit(node: NodeKey) -> SignedPermit {
    Permit::issue(NETWORK, node, 1, &SigningKey::from_bytes(&[4; 32]), UnixSeconds(1_800_000_000))
}

fn relay() -> Seeds {
    let (node, relay) = (NodeSecret::from_bytes([2; 32]), NodeSecret::from_bytes([5; 32]));
    let source = endpoint("192.0.2.1:40000");
    let cookie = Cookie::make(&[6; 32], source, &node.public(), 1000);
    let permit = permit(node.public());
    let keys = AttachKeys::new(&node, &relay.public(), cookie).expect("a good key");
    let peer = RelayAddr::of(&relay.public());
    let payload = [&[4, 0, 0, 0][..], &[7; 60]].concat();
    let frames = [
        ("hello", Frame::Hello { node: node.public(), nonce: Nonce([1; 8]) }),
        ("challenge", Frame::Challenge { nonce: Nonce([1; 8]), cookie, relay: relay.public() }),
        ("attach", Frame::Attach { cookie, permit, proof: keys.node_proof(&permit) }),
        (
            "attached",
            Frame::Attached { proof: keys.relay_proof(source, 3600), observed: source, lifetime_secs: 3600 },
        ),
        ("refused", Frame::Refused { reason: meshd_proto::relay::RefuseReason::NotAttached, echo: [0; 8] }),
        ("ping", Frame::Ping { session: keys.session(), seq: 7 }),
        ("pong", Frame::Pong { session: keys.session(), seq: 7 }),
        ("peer-gone", Frame::PeerGone { session: keys.session(), peer }),
        ("restarting", Frame::Restarting { session: keys.session() }),
        ("data", Frame::Data { peer, payload: &payload }),
    ];
    let mut seeds: Seeds = frames
        .iter()
        .map(|(name, frame)| {
            let mut bytes = Vec::new();
            frame.encode(&mut bytes);
            ((*name).to_owned(), bytes)
        })
        .collect();
    seeds.push(("stun".to_owned(), encode_request(TransactionId([7; 12])).to_vec()));
    seeds.push(("wireguard".to_owned(), payload));
    seeds
}

/// The first byte chooses the parser, the second how the bytes are cut.
fn gateway_wire() -> Seeds {
    let with = |kind: u8, size: u8, bytes: &[u8]| [&[kind, size], bytes].concat();
    let hello = {
        let name = b"a.example";
        let list = [&[0, 0, 12, 0, 0, 9][..], name].concat();
        let extension = [&[0, 0, 0, 14][..], &list[1..]].concat();
        let body = [&[3, 3][..], &[7; 32], &[0, 0, 2, 0x13, 1, 1, 0, 0, 18], &extension].concat();
        let message = [&[1, 0, 0, body.len() as u8][..], &body].concat();
        [&[22, 3, 1, 0, message.len() as u8][..], &message].concat()
    };
    let (client, server) = ("192.0.2.1:4000", "198.51.100.1:443");
    let (client6, server6) = ("[2001:db8::1]:4000", "[2001:db8::2]:443");
    let proxy = |from: &str, to: &str| {
        let (from, to) = (from.parse().expect("an address"), to.parse().expect("an address"));
        meshd_gateway::wire::proxy_v2::encode(from, to, false)
    };
    let request =
        b"GET /a HTTP/1.1\r\nHost: a\r\n\r\nPOST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
    let chunked = b"POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;x=1\r\nhello\r\n0\r\nx-t: 1\r\n\r\n";
    let both =
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    let upgrade = b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n\x81\x00";
    named([
        ("hello", with(0, 1, &hello)),
        ("proxy-v4", with(1, 1, &proxy(client, server))),
        ("proxy-v6", with(1, 1, &proxy(client6, server6))),
        ("requests", with(2, 7, request)),
        ("chunked", with(2, 3, chunked)),
        ("both-lengths", with(2, 9, both)),
        ("upgrade", with(2, 5, upgrade)),
    ])
}
