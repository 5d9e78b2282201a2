//! The lookup agrees with NSD, another implementation by other people, on a zone with everything that is easy
//! to get wrong: wildcards and empty non-terminals (RFC 4592), "no data" and "no such name" (RFC 2308), the
//! code behind aliases (RFC 6604), DNAME (RFC 6672), zone cuts with glue (RFC 1034 §4.2.1).
//!
//! A third opinion comes from hickory-dns' server with the same records: where it differs from NSD, and so from
//! us, that is printed by kind with the lines of the RFC that say who is right.
//!
//! Compared are the reply code, the answer section, whether a negative reply carries the SOA, and whether it
//! is a referral. Known and wanted differences, which are left out here:
//! - NSD puts NS records and addresses into the other sections of a positive answer; we answer what was asked;
//! - ANY: RFC 8482 §4.1 lets NSD show one set, and us all of them;
//! - aliases in a circle: RFC 1034 §3.6.2 asks for a failure, which we give (`view`), NSD shows one round;
//! - below a cut NSD refers, we ask the servers of the cut (a stub follows no referral).
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{NS, NULL, SOA};
use hickory_proto::rr::{LowerName, Name, RData, Record, RecordType as Kind};
use hickory_proto::serialize::binary::BinEncodable;
use hickory_server::Server;
use hickory_server::net::runtime::TokioRuntimeProvider;
use hickory_server::store::in_memory::InMemoryZoneHandler;
use hickory_server::zone_handler::{AxfrPolicy, Catalog, ZoneType};
use meshd_dns::Zone;
use meshd_dns::lookup::{Found, lookup};
use meshd_dns::record;
use meshd_proto::netmap::{RecordType, RecordValue};
use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

const ORIGIN: &str = "example.test.";

/// Owner below the origin, type, value as in a zone file.
const RECORDS: &[(&str, &str, &str)] = &[
    ("ns", "A", "192.0.2.1"),
    ("host", "A", "192.0.2.2"),
    ("host", "A", "192.0.2.3"),
    ("host", "AAAA", "2001:db8::2"),
    ("host", "TXT", "text"),
    ("host", "MX", "10 host.example.test."),
    // A wildcard, a name that exists below it, and one whose ancestor exists only because of it.
    ("*.wild", "A", "192.0.2.9"),
    ("*.wild", "TXT", "star"),
    ("exists.wild", "A", "192.0.2.10"),
    ("a.b.wild", "TXT", "deep"),
    ("sub.*.wild", "TXT", "below"),
    // A wildcard alias, and one below an empty name.
    ("*.walias", "CNAME", "host.example.test."),
    ("*.wout", "CNAME", "www.example.com."),
    ("*.x.empty", "A", "192.0.2.11"),
    ("y.x.ent", "A", "192.0.2.12"),
    // Aliases: to data, to no data, to nothing, into a wildcard, out of the zone, below a cut.
    ("alias", "CNAME", "host.example.test."),
    ("alias2", "CNAME", "alias.example.test."),
    ("dangling", "CNAME", "nothing.example.test."),
    ("towild", "CNAME", "q.wild.example.test."),
    ("toent", "CNAME", "ent.example.test."),
    ("out", "CNAME", "www.example.com."),
    // A cut with glue.
    ("cut", "NS", "ns.cut.example.test."),
    ("ns.cut", "A", "192.0.2.53"),
    // Another name for a whole subtree, which has data of its own at its top.
    ("old", "DNAME", "new.example.test."),
    ("old", "TXT", "top"),
    ("host.new", "A", "192.0.2.20"),
    ("*.w.new", "A", "192.0.2.21"),
    ("away", "DNAME", "example.com."),
    ("toold", "CNAME", "host.old.example.test."),
    ("far", "DNAME", LONG),
    ("_sip._tcp", "SRV", "1 2 5060 host.example.test."),
];
/// Nearly as long as a name may be: more in front of it is too long (RFC 6672 §2.2).
const LONG: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.\
    aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.\
    aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.\
    aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.test.";
/// Owners that have no record, but something below them or a wildcard above.
const BARE: &[&str] =
    &["", "wild", "b.wild", "empty", "x.empty", "ent", "x.ent", "new", "w.new", "nothing", "_tcp"];
/// What is put in front of an owner.
const FRONTS: &[&str] = &["", "q.", "q.r.", "*.", "host.", "x.*.", "y.x.", "exists."];
const KINDS: &[Kind] = &[
    Kind::A,
    Kind::AAAA,
    Kind::TXT,
    Kind::CNAME,
    Kind::MX,
    Kind::SRV,
    Kind::NS,
    Kind::DNAME,
    Kind::DS,
    Kind::SOA,
];

/// What is compared.
#[derive(Debug, PartialEq, Eq)]
struct Reply {
    code: ResponseCode,
    answers: Vec<String>,
    negative: bool,
    referral: bool,
}

#[test]
fn every_name_and_type_is_answered_as_nsd_does() {
    let zone = zone();
    let nsd = Nsd::start();
    let third = Hickory::start();
    let (mut asked, mut wrong) = (0, Vec::new());
    let mut thirds: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut owners: Vec<&str> =
        RECORDS.iter().map(|(owner, _, _)| *owner).chain(BARE.iter().copied()).collect();
    owners.sort_unstable();
    owners.dedup();
    for owner in owners {
        for front in FRONTS {
            let dot = if owner.is_empty() { "" } else { "." };
            let name = Name::from_ascii(format!("{front}{owner}{dot}{ORIGIN}")).unwrap();
            for kind in KINDS {
                let (ours, theirs) = (ours(&zone, &name, *kind), nsd.ask(&name, *kind));
                asked += 1;
                let opinion = third.ask(&name, *kind);
                if opinion != theirs {
                    let text = format!("{name} {kind}: {opinion:?}, NSD and we {theirs:?}");
                    thirds.entry(difference(&name, *kind, &theirs, &opinion)).or_default().push(text);
                }
                if ours != theirs {
                    wrong.push(format!("{name} {kind}\n  ours {ours:?}\n  NSD  {theirs:?}"));
                }
            }
        }
    }
    println!("{asked} questions, {} other answers than NSD's", wrong.len());
    let others: usize = thirds.values().map(Vec::len).sum();
    println!("hickory-dns: {others} other answers than NSD's");
    for (why, list) in &thirds {
        println!("  {:>4}  {why}; {}", list.len(), list[0]);
    }
    assert!(others * 2 < asked, "{others} of {asked}: the third server serves another zone");
    assert!(asked > 2000, "only {asked} questions");
    assert!(wrong.is_empty(), "{} of {asked}:\n{}", wrong.len(), wrong[..wrong.len().min(20)].join("\n"));
}

/// What the RFCs say where hickory-dns and NSD differ.
fn difference(name: &Name, kind: Kind, nsd: &Reply, third: &Reply) -> &'static str {
    let below = |owner: &str| {
        let top = Name::from_ascii(full(owner)).unwrap();
        top.zone_of(name)
    };
    if ["old", "away", "far", "toold"].iter().any(|owner| below(owner)) {
        return "DNAME is followed and its CNAME made (RFC 6672 §3.2)";
    }
    if below("cut") {
        return "what lies below a cut is referred to its servers (RFC 1034 §4.3.2 step 3b)";
    }
    if nsd.answers.is_empty() && !third.answers.is_empty() {
        return "a wildcard does not answer for a name that exists, nor below one (RFC 4592 §2.2.1, §3.3.1)";
    }
    if (nsd.code, third.code) == (ResponseCode::NoError, ResponseCode::NXDomain) {
        return "a name that a wildcard or a name below it makes exist is no data, not no name (RFC 4592 §2.2.1, RFC 2308 §2.2)";
    }
    if (nsd.code, third.code) == (ResponseCode::NXDomain, ResponseCode::NoError) {
        return "the code is that of the last name of the chain (RFC 6604 §3, RFC 2308 §2.1)";
    }
    if nsd.negative != third.negative && nsd.answers == third.answers {
        return "a negative answer carries the SOA (RFC 2308 §3)";
    }
    match kind {
        Kind::SOA | Kind::NS => "records at the top of the zone, which the servers add themselves",
        _ => {
            "aliases: how far they are followed within the zone (RFC 1034 §4.3.2 step 3a), how an alias by wildcard is shown (RFC 4592 §3.3.3)"
        }
    }
}

/// One server's worth of RFC 1034 §4.3.2: aliases are followed as long as they stay in the zone.
fn ours(zone: &Zone, name: &Name, kind: Kind) -> Reply {
    let mut records: Vec<Record> = Vec::new();
    let mut at = LowerName::from(name);
    let mut reply = Reply { code: ResponseCode::NoError, answers: vec![], negative: false, referral: false };
    while zone.origin().zone_of(&at) {
        match lookup(zone, &at, kind) {
            Found::Data(found) => {
                records.extend(found);
                break;
            }
            Found::Alias { record, target } => {
                records.push(*record);
                at = target;
            }
            Found::Renamed { records: both, target } => {
                records.extend(both.map(|r| *r));
                at = target;
            }
            Found::TooLong(record) => {
                records.push(*record);
                reply.code = ResponseCode::YXDomain;
                break;
            }
            Found::Delegation { .. } => {
                reply.referral = true;
                break;
            }
            Found::NoData | Found::Empty => {
                reply.negative = true;
                break;
            }
            Found::NoName => {
                (reply.code, reply.negative) = (ResponseCode::NXDomain, true);
                break;
            }
        }
    }
    reply.answers = sorted(&records);
    reply
}

/// Owner, type and value, in an order that does not matter.
fn sorted(records: &[Record]) -> Vec<String> {
    let text = |r: &Record| format!("{} {} {}", r.name.to_lowercase(), r.record_type(), value(&r.data));
    let mut texts: Vec<String> = records.iter().map(text).collect();
    texts.sort_unstable();
    texts.dedup();
    texts
}

fn value(data: &RData) -> String {
    match data {
        RData::Unknown { rdata, .. } => format!("{:?}", rdata.anything),
        other => other.to_string().to_lowercase(),
    }
}

fn full(owner: &str) -> String {
    format!("{owner}.{ORIGIN}")
}

fn zone() -> Zone {
    let server = Name::from_ascii(full("ns")).unwrap();
    let mut zone = Zone::new(LowerName::from(Name::from_ascii(ORIGIN).unwrap()), &server, 7, 60, 60);
    for (name, data) in records() {
        let text = format!("{name} {data}");
        assert!(zone.insert(LowerName::from(name), 60, data), "{text}");
    }
    zone
}

/// The records as our resolver holds them.
fn records() -> impl Iterator<Item = (Name, RData)> {
    RECORDS.iter().map(|(owner, kind, value)| {
        let data = match *kind {
            "DNAME" => {
                let target = Name::from_ascii(value).unwrap().to_bytes().unwrap();
                RData::Unknown { code: Kind::DNAME, rdata: NULL::with(target) }
            }
            kind => {
                let kind = RecordType::named(kind).unwrap();
                let value = match kind {
                    RecordType::A | RecordType::Aaaa => RecordValue::Address(value.parse().unwrap()),
                    RecordType::Cname => RecordValue::Name(value.trim_end_matches('.').parse().unwrap()),
                    _ => RecordValue::Text((*value).to_owned()),
                };
                record::data(kind, &value).unwrap()
            }
        };
        (Name::from_ascii(full(owner)).unwrap(), data)
    })
}

/// hickory-dns' own server with its own zone in memory, on loopback.
struct Hickory {
    _runtime: tokio::runtime::Runtime,
    _server: Server<Catalog>,
    addr: SocketAddr,
}

impl Hickory {
    fn start() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let origin = Name::from_ascii(ORIGIN).unwrap();
        let mut zone = InMemoryZoneHandler::<TokioRuntimeProvider>::empty(
            origin.clone(),
            ZoneType::Primary,
            AxfrPolicy::Deny,
        );
        let at = |owner: &str| Name::from_ascii(full(owner)).unwrap();
        let soa = SOA::new(at("ns"), at("hostmaster"), 7, 3600, 600, 86_400, 60);
        let top = [RData::SOA(soa), RData::NS(NS(at("ns")))].map(|data| (origin.clone(), data));
        for (name, data) in top.into_iter().chain(records()) {
            zone.upsert_mut(Record::from_rdata(name, 60, data), 7);
        }
        let mut catalog = Catalog::new();
        catalog.upsert(LowerName::from(origin), vec![Arc::new(zone)]);
        let (server, addr) = runtime.block_on(async {
            let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let addr = socket.local_addr().unwrap();
            let mut server = Server::new(catalog);
            server.register_socket(socket);
            (server, addr)
        });
        Self { _runtime: runtime, _server: server, addr }
    }

    fn ask(&self, name: &Name, kind: Kind) -> Reply {
        let reply = (0..10).find_map(|_| exchange(self.addr, name, kind));
        Reply::of(&reply.unwrap_or_else(|| panic!("hickory-dns does not answer: {name} {kind}")))
    }
}

/// NSD with the same zone, on loopback; it ends with this value.
struct Nsd {
    child: Child,
    addr: SocketAddr,
    dir: tempfile::TempDir,
}

impl Nsd {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let addr = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let head =
            format!("$ORIGIN {ORIGIN}\n$TTL 60\n@ SOA ns hostmaster 7 3600 600 86400 60\n@ NS ns.{ORIGIN}\n");
        let lines: String = RECORDS.iter().map(|(o, k, v)| format!("{o} {k} {v}\n")).collect();
        std::fs::write(dir.path().join("zone"), head + &lines).unwrap();
        let (at, port) = (dir.path().display(), addr.port());
        let config = format!(
            "server:\n ip-address: 127.0.0.1@{port}\n username: \"\"\n chroot: \"\"\n database: \"\"\n \
             zonesdir: \"{at}\"\n pidfile: \"{at}/pid\"\n logfile: \"{at}/log\"\n xfrdir: \"{at}\"\n \
             xfrdfile: \"{at}/xfrd\"\n zonelistfile: \"{at}/list\"\n cookie-secret-file: \"\"\n server-count: 1\n \
             rrl-ratelimit: 0\nremote-control:\n control-enable: no\nzone:\n name: \"{ORIGIN}\"\n zonefile: \"zone\"\n"
        );
        std::fs::write(dir.path().join("conf"), config).unwrap();
        let program = if std::path::Path::new("/usr/sbin/nsd").exists() { "/usr/sbin/nsd" } else { "nsd" };
        let child = Command::new(program)
            .args(["-d", "-c"])
            .arg(dir.path().join("conf"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("this test needs nsd (Debian package nsd; .ci/setup installs it)");
        let nsd = Self { child, addr, dir };
        let apex = Name::from_ascii(ORIGIN).unwrap();
        let ready = (0..150).any(|_| nsd.try_ask(&apex, Kind::SOA).is_some_and(|m| m.answers.len() == 1));
        let log = std::fs::read_to_string(nsd.dir.path().join("log")).unwrap_or_default();
        assert!(ready, "NSD does not serve the zone: {log}");
        nsd
    }

    fn ask(&self, name: &Name, kind: Kind) -> Reply {
        let reply = (0..10).find_map(|_| self.try_ask(name, kind));
        Reply::of(&reply.unwrap_or_else(|| panic!("NSD does not answer: {name} {kind}")))
    }

    fn try_ask(&self, name: &Name, kind: Kind) -> Option<Message> {
        exchange(self.addr, name, kind)
    }
}

impl Reply {
    fn of(reply: &Message) -> Self {
        let apex = Name::from_ascii(ORIGIN).unwrap();
        let has = |wanted: Kind| reply.authorities.iter().find(|r| r.record_type() == wanted);
        Self {
            code: reply.metadata.response_code,
            answers: sorted(&reply.answers),
            negative: has(Kind::SOA).is_some(),
            referral: has(Kind::NS).is_some_and(|r| r.name != apex),
        }
    }
}

/// One question by UDP.
fn exchange(to: SocketAddr, name: &Name, kind: Kind) -> Option<Message> {
    let socket = UdpSocket::bind("127.0.0.1:0").ok()?;
    socket.connect(to).ok()?;
    socket.set_read_timeout(Some(Duration::from_millis(500))).ok()?;
    let mut question = Message::new(4711, MessageType::Query, OpCode::Query);
    question.add_query(Query::query(name.clone(), kind));
    // Without it, long replies come without their records.
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    question.set_edns(edns);
    let mut bytes = [0; 4096];
    match socket.send(&question.to_vec().unwrap()).and_then(|_| socket.recv(&mut bytes)) {
        Ok(len) => Some(Message::from_vec(&bytes[..len]).unwrap()),
        Err(_) => {
            // Not there yet: the kernel says so at once.
            std::thread::sleep(Duration::from_millis(100));
            None
        }
    }
}

impl Drop for Nsd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
