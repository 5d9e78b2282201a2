//! Questions as anybody may send them to a resolver, and replies as any upstream may give them.

use hickory_proto::op::Message;
use hickory_proto::rr::RData;
use meshd_dns::answer::reject;
use meshd_dns::cache::reply::{addresses, has_alias};
use meshd_dns::cache::{Looked, Question, ReplyCache};
use meshd_dns::forward::wire::{self, Verdict};
use meshd_dns::query::MAX_UDP_REPLY;
use meshd_dns::{ClientQuery, Decision, QueryError, View};
use meshd_proto::netmap::{DnsConfig, Entry, RecordSet, RecordType, RecordValue, SelfNode, SplitRoute};
use meshd_proto::{ClassId, Endpoint, MeshAddrs, MeshPrefixes, NetworkId, NetworkMap, NodeId};
use std::net::IpAddr;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Longer questions are not read by the socket either.
const MAX_PACKET: usize = 4097;
/// Bytes of a header.
const HEADER: usize = 12;

/// A client's packet → question → decision → reply, and the same out of the cache.
pub fn dns_query(data: &[u8]) {
    let packet = &data[..data.len().min(MAX_PACKET)];
    let key = Question::read(packet);
    let query = match ClientQuery::parse(packet) {
        Ok(query) => query,
        Err(QueryError::Silent) => return,
        Err(QueryError::Reject { metadata, code }) => {
            let reply = reject(&metadata, code);
            assert!(reply.len() <= 23 && reply[..2] == packet[..2] && reply[2] & 0x80 != 0);
            return;
        }
    };
    if let Some(key) = &key {
        assert_eq!(key.question_end, query.question_end, "two readings of one packet");
        assert_eq!(key.udp_limit, query.udp_limit());
        assert_eq!(key.edns, query.edns.is_some());
    }
    let Decision::Answer(answer) = view().decide(&query.name, query.kind(), query.class()) else { return };
    let reply = answer.to_udp(&query);
    assert!(reply.len() <= query.udp_limit().min(usize::from(MAX_UDP_REPLY)));
    assert_eq!(reply[..2], packet[..2]);
    let read = Message::from_vec(&reply).expect("a reply of ours can be read");
    for address in read.answers.iter().filter_map(|record| record.data.ip_addr()) {
        assert!(known().contains(&address), "{address} is nobody's");
    }
    let Some(key) = key.filter(|_| answer.why.is_none()) else { return };
    let mut cache = ReplyCache::new(1 << 20);
    cache.keep_ours(&key, &reply);
    let mut out = Vec::new();
    if cache.look(&key, packet, now(), &mut out) == Looked::Fresh {
        let again = Message::from_vec(&out).expect("a reply of the cache can be read");
        assert_eq!((&again.answers, &again.authorities), (&read.answers, &read.authorities));
        assert_eq!(again.metadata, read.metadata);
        assert_eq!(again.edns.is_some(), read.edns.is_some());
    }
}

/// An upstream's packet, made the reply to a question of ours (the first byte says to which), as the forwarder
/// takes it apart: no address in it goes unseen, and what is kept is handed out as it was.
pub fn dns_reply(data: &[u8]) {
    let Some((which, rest)) = data.split_first() else { return };
    let question = question(b"host", [1, 28, 65, 5][usize::from(which & 3)]);
    let end = question.len();
    let mut reply = rest.to_vec();
    if which & 4 == 0 && reply.len() >= end {
        // The fuzzer need not find these.
        reply[..2].copy_from_slice(&question[..2]);
        reply[2] = 0x80 | (reply[2] & 0x07);
        reply[4..6].copy_from_slice(&[0, 1]);
        reply[HEADER..end].copy_from_slice(&question[HEADER..]);
    }
    if wire::judge(&question, end, &reply) == Verdict::NotOurs {
        return;
    }
    let found = addresses(&reply, end);
    let read = Message::from_vec(&reply).ok();
    if let (Some(read), false) = (&read, reply.len() < end) {
        for record in &read.answers {
            if let Some(address) = record.data.ip_addr() {
                assert!(found.as_ref().is_none_or(|f| f.contains(&address)), "{address} goes unseen");
            }
        }
        let alias = read.answers.iter().any(|record| matches!(record.data, RData::CNAME(_)));
        assert!(!alias || found.is_none() || has_alias(&reply, end), "an alias goes unseen");
    }
    let cut = wire::cut_to(reply.clone(), end, 512);
    assert!(cut.len() <= 512 || reply.len() < end);
    assert!(cut == reply || (wire::is_truncated(&cut) && cut[..2] == reply[..2]));

    let key = Question::read(&question).expect("a plain question");
    let mut cache = ReplyCache::new(1 << 20);
    let start = now();
    cache.keep(&key, &reply, start);
    assert!(cache.bytes() <= 1 << 20);
    let mut client = question.clone();
    client[..2].copy_from_slice(&[0xab, 0xcd]);
    client[HEADER + 1] = b'H';
    let mut out = Vec::new();
    match cache.look(&key, &client, start + Duration::from_millis(1), &mut out) {
        Looked::Fresh | Looked::Ending => {
            assert_eq!(out[..2], [0xab, 0xcd]);
            assert_eq!(out[HEADER..end], client[HEADER..end], "the client's own spelling");
            assert!(!wire::is_poor(&out) || !wire::is_poor(&reply));
            // A name of a hostile reply may point at what is written anew (id, spelling, lifetimes) and then
            // reads otherwise; addresses hold no names.
            assert_eq!(addresses(&out, end), found, "other addresses than were looked at");
        }
        Looked::Miss => return,
        other => panic!("{other:?} of what was just kept"),
    }
    let late = start + Duration::from_secs(3 * 86_400);
    assert_eq!(cache.look(&key, &client, late, &mut out), Looked::Miss, "kept for ever");
}

/// A question for `<name>.test` of a kind.
fn question(name: &[u8], kind: u8) -> Vec<u8> {
    let mut packet = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, name.len() as u8];
    packet.extend_from_slice(name);
    packet.extend_from_slice(&[4, b't', b'e', b's', b't', 0, 0, kind, 0, 1]);
    packet
}

fn now() -> Instant {
    static START: OnceLock<Instant> = OnceLock::new();
    *START.get_or_init(Instant::now)
}

/// All addresses that the view may show.
fn known() -> &'static [IpAddr] {
    static KNOWN: OnceLock<Vec<IpAddr>> = OnceLock::new();
    KNOWN.get_or_init(|| {
        ["100.71.0.1", "fd7a:1:2::1", "100.71.0.53", "fd7a:1:2::53", "192.0.2.7", "192.0.2.8", "192.0.2.9"]
            .iter()
            .map(|text| text.parse().expect("an address"))
            .collect()
    })
}

/// A mesh with everything that a view may hold.
fn view() -> &'static View {
    static VIEW: OnceLock<View> = OnceLock::new();
    VIEW.get_or_init(|| {
        let mut map = NetworkMap::empty(NetworkId::from_bytes([1; 16]));
        map.upsert(Entry::Me(SelfNode {
            id: NodeId(1),
            name: "pi".parse().expect("a name"),
            addrs: MeshAddrs { v4: [100, 71, 0, 1].into(), v6: "fd7a:1:2::1".parse().expect("an address") },
            class: ClassId(1),
            tags: vec![],
            prefixes: MeshPrefixes {
                v4: "100.71.0.0/16".parse().expect("a network"),
                v6: "fd7a:1:2::/48".parse().expect("a network"),
            },
            approved_routes: vec![],
            pending_routes: vec![],
            key_expires: None,
            map_lease: 0,
        }));
        map.upsert(Entry::DnsConfig(DnsConfig {
            domain: "home.internal".parse().expect("a name"),
            search: vec![],
            split: vec![SplitRoute {
                suffix: "corp.test".parse().expect("a name"),
                upstreams: vec![Endpoint("192.0.2.53:53".parse().expect("an address"))],
            }],
            nameservers: vec![],
            ttl: 60,
        }));
        let text = |t: &str| RecordValue::Text(t.to_owned());
        let address = |t: &str| RecordValue::Address(t.parse().expect("an address"));
        let alias = |t: &str| RecordValue::Name(t.parse().expect("a name"));
        for (name, kind, value) in [
            ("*.wild.example", RecordType::A, address("192.0.2.7")),
            ("**.deep.example", RecordType::A, address("192.0.2.8")),
            ("www.example", RecordType::A, address("192.0.2.9")),
            ("alias.home.internal", RecordType::Cname, alias("pi.home.internal")),
            ("loop.home.internal", RecordType::Cname, alias("pool.home.internal")),
            ("pool.home.internal", RecordType::Cname, alias("loop.home.internal")),
            ("note.home.internal", RecordType::Txt, text("a note")),
            ("mail.home.internal", RecordType::Mx, text("10 pi.home.internal.")),
            ("_sip._tcp.home.internal", RecordType::Srv, text("1 2 5060 pi.home.internal.")),
        ] {
            map.upsert(Entry::Record(
                name.parse().expect("a name"),
                kind,
                RecordSet { ttl: 60, values: vec![value] },
            ));
        }
        View::from_map(&map)
    })
}
