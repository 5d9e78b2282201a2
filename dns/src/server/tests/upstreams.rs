//! What stands between a client and its upstreams: cache, old answers, guards.

use super::{map, question, udp};
use crate::forward::Upstream;
use crate::server::{DnsServer, Listener, Names};
use crate::view::Scope;
use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, CNAME};
use hickory_proto::rr::{RData, Record, RecordType};
use meshd_proto::netmap::{DnsConfig, Entry, SplitRoute};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

/// An upstream that answers any question for an address with one, and can fall silent.
struct Upper {
    addr: SocketAddr,
    answer: Arc<Mutex<Ipv4Addr>>,
    silent: Arc<AtomicBool>,
    asked: Arc<AtomicU16>,
    _task: JoinSet<()>,
}

impl Upper {
    async fn start(ttl: u32) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let addr = socket.local_addr().unwrap();
        let answer = Arc::new(Mutex::new(Ipv4Addr::new(203, 0, 113, 1)));
        let (silent, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU16::new(0)));
        let mut task = JoinSet::new();
        let (quiet, count, data) = (Arc::clone(&silent), Arc::clone(&asked), Arc::clone(&answer));
        task.spawn(async move {
            let mut buffer = [0; 4096];
            while let Ok((len, from)) = socket.recv_from(&mut buffer).await {
                count.fetch_add(1, Ordering::Relaxed);
                if quiet.load(Ordering::Relaxed) {
                    continue;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
                let asked = Message::from_vec(&buffer[..len]).unwrap();
                let mut reply = Message::new(asked.metadata.id, MessageType::Response, OpCode::Query);
                reply.add_query(asked.queries[0].clone());
                let name = asked.queries[0].name().clone();
                let data = match name.to_ascii().as_str() {
                    "outside.example." => RData::CNAME(CNAME("pi.home.internal.".parse().unwrap())),
                    "elsewhere.example." => RData::CNAME(CNAME("other.example.".parse().unwrap())),
                    _ => RData::A(A(*data.lock().unwrap())),
                };
                reply.answers.push(Record::from_rdata(name, ttl, data));
                socket.send_to(&reply.to_vec().unwrap(), from).await.unwrap();
            }
        });
        Self { addr, answer, silent, asked, _task: task }
    }

    fn asked(&self) -> u16 {
        self.asked.load(Ordering::Relaxed)
    }
}

struct Rig {
    server: DnsServer,
    names: Arc<Names>,
}

impl Rig {
    fn start(upstreams: &[&Upper], config: impl FnOnce(&mut DnsConfig)) -> Self {
        let names = Arc::new(Names::default());
        let mut map = map();
        let mut dns = map.dns.config.clone().unwrap();
        config(&mut dns);
        map.upsert(Entry::DnsConfig(dns));
        names.set_map(&map, Scope::Full);
        names.set_upstreams(upstreams.iter().map(|u| Upstream { addr: u.addr, mark: None }).collect());
        let listener =
            Listener { addr: "127.0.0.1:0".parse().unwrap(), ..Listener::own(Ipv4Addr::LOCALHOST.into()) };
        let server = DnsServer::spawn(&[listener], Arc::clone(&names)).unwrap();
        Self { server, names }
    }

    async fn ask(&self, name: &str) -> Message {
        udp(self.server.addrs()[0], &question(name, RecordType::A, true)).await.unwrap()
    }
}

/// INFO-CODE of the extended error, if there is one (RFC 8914 §2).
fn why(message: &Message) -> Option<u16> {
    let packet = message.edns.as_ref()?.options().as_ref().iter().find_map(|(_, option)| match option {
        hickory_proto::rr::rdata::opt::EdnsOption::Unknown(15, data) => Some(data.clone()),
        _ => None,
    })?;
    Some(u16::from_be_bytes([packet[0], packet[1]]))
}

fn address(message: &Message) -> Option<RData> {
    message.answers.last().map(|record| record.data.clone())
}

#[tokio::test]
async fn a_second_question_is_answered_from_the_cache_until_the_upstreams_change() {
    let (upper, other) = (Upper::start(60).await, Upper::start(60).await);
    let rig = Rig::start(&[&upper], |_| {});
    for _ in 0..5 {
        assert_eq!(rig.ask("www.example.").await.metadata.response_code, ResponseCode::NoError);
    }
    assert_eq!(upper.asked(), 1);
    rig.names.set_map(&map(), Scope::Full);
    rig.ask("www.example.").await;
    assert_eq!(upper.asked(), 1, "a map that changes nothing for it");
    rig.names.set_upstreams(vec![Upstream { addr: other.addr, mark: None }]);
    rig.ask("www.example.").await;
    assert_eq!((upper.asked(), other.asked()), (1, 1), "another network may say otherwise");
    let mut moved = map();
    let kind = meshd_proto::netmap::RecordType::A;
    let values = vec![meshd_proto::netmap::RecordValue::Address([192, 168, 1, 10].into())];
    let set = meshd_proto::netmap::RecordSet { ttl: 60, values };
    moved.upsert(Entry::Record("www.example".parse().unwrap(), kind, set));
    rig.names.set_map(&moved, Scope::Full);
    let reply = rig.ask("www.example.").await;
    assert_eq!(address(&reply), Some(RData::A(A([192, 168, 1, 10].into()))), "an admin's record goes first");
}

#[tokio::test]
async fn many_who_ask_the_same_at_once_cost_one_question() {
    let upper = Upper::start(60).await;
    let rig = Rig::start(&[&upper], |_| {});
    let addr = rig.server.addrs()[0];
    let mut clients = JoinSet::new();
    for _ in 0..50 {
        clients.spawn(async move { udp(addr, &question("www.example.", RecordType::A, true)).await });
    }
    while let Some(reply) = clients.join_next().await {
        assert_eq!(reply.unwrap().unwrap().answers.len(), 1);
    }
    assert_eq!(upper.asked(), 1);
}

#[tokio::test]
async fn silence_gets_the_old_answer_and_says_so() {
    let upper = Upper::start(1).await;
    let rig = Rig::start(&[&upper], |_| {});
    assert_eq!(why(&rig.ask("www.example.").await), None);
    upper.silent.store(true, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let reply = rig.ask("www.example.").await;
    assert_eq!((reply.answers.len(), why(&reply)), (1, Some(3)));
    let reply = rig.ask("never-seen.example.").await;
    assert_eq!((reply.metadata.response_code, why(&reply)), (ResponseCode::ServFail, Some(22)));
    let reply = rig.ask("never-seen.example.").await;
    assert_eq!((reply.metadata.response_code, why(&reply)), (ResponseCode::ServFail, Some(13)), "remembered");
}

#[tokio::test]
async fn an_outside_name_cannot_lead_inside_and_a_split_domain_may() {
    let upper = Upper::start(60).await;
    let split = |config: &mut DnsConfig| {
        config.split = vec![SplitRoute {
            suffix: "corp.example".parse().unwrap(),
            upstreams: vec![meshd_proto::Endpoint(upper.addr)],
        }];
    };
    let rig = Rig::start(&[&upper], split);
    for inside in [Ipv4Addr::new(100, 71, 0, 9), Ipv4Addr::LOCALHOST, Ipv4Addr::UNSPECIFIED] {
        *upper.answer.lock().unwrap() = inside;
        let reply = rig.ask(&format!("a{}.evil.example.", u32::from(inside))).await;
        assert_eq!((reply.answers.len(), why(&reply)), (0, Some(15)), "{inside}");
        let reply = rig.ask(&format!("a{}.corp.example.", u32::from(inside))).await;
        assert_eq!(address(&reply), Some(RData::A(A(inside))));
    }
    *upper.answer.lock().unwrap() = Ipv4Addr::new(192, 168, 178, 1);
    assert_eq!(
        rig.ask("fritz.box.").await.answers.len(),
        1,
        "the host's own network is its resolver's matter"
    );
}

#[tokio::test]
async fn an_outside_alias_into_the_mesh_is_answered_to_its_end() {
    let upper = Upper::start(60).await;
    let rig = Rig::start(&[&upper], |_| {});
    let reply = rig.ask("outside.example.").await;
    assert_eq!(reply.answers.len(), 2);
    assert_eq!(address(&reply), Some(RData::A(A([100, 71, 0, 1].into()))));
    let reply = rig.ask("elsewhere.example.").await;
    assert_eq!(reply.answers.len(), 1, "an alias to elsewhere stays as it is");
}

#[tokio::test]
async fn browsers_are_told_to_keep_asking_us() {
    let rig = Rig::start(&[], |_| {});
    let reply = rig.ask("use-application-dns.net.").await;
    assert_eq!((reply.metadata.response_code, why(&reply)), (ResponseCode::NXDomain, Some(17)));
}

#[tokio::test]
async fn nameservers_of_the_mesh_that_are_silent_do_not_take_all_names_with_them() {
    let (mesh, host) = (Upper::start(60).await, Upper::start(60).await);
    let global = |config: &mut DnsConfig| config.nameservers = vec![meshd_proto::Endpoint(mesh.addr)];
    let rig = Rig::start(&[&host], global);
    rig.ask("one.example.").await;
    assert_eq!((mesh.asked(), host.asked()), (1, 0));
    mesh.silent.store(true, Ordering::Relaxed);
    for name in ["two.example.", "three.example.", "four.example."] {
        assert_eq!(rig.ask(name).await.answers.len(), 1, "{name}");
    }
    assert_eq!(host.asked(), 3);
}

#[tokio::test]
async fn without_an_upstream_the_answer_says_so() {
    let rig = Rig::start(&[], |_| {});
    let reply = rig.ask("www.example.").await;
    assert_eq!((reply.metadata.response_code, why(&reply)), (ResponseCode::ServFail, Some(22)));
}

#[tokio::test]
async fn an_answer_comes_with_the_steps_that_led_to_it() {
    let upper = Upper::start(60).await;
    let rig = Rig::start(&[&upper], |config| {
        config.split = vec![SplitRoute {
            suffix: "corp.example".parse().unwrap(),
            upstreams: vec![meshd_proto::Endpoint(upper.addr)],
        }];
    });
    let ask = async |name: &str| rig.names.query(name, "a").await.unwrap();
    let own = ask("pi.home.internal").await;
    assert_eq!(own.records, ["pi.home.internal. 60 IN A 100.71.0.1"]);
    assert!(own.authoritative && own.code == "No Error", "{}", own.code);
    assert_eq!(own.steps, ["pi.home.internal. has 1 A record(s) in the mesh's zone home.internal."]);
    let gone = ask("nobody.home.internal").await;
    assert!(gone.steps[0].starts_with("there is no nobody.home.internal."), "{:?}", gone.steps);
    assert_eq!(
        ask("pi").await.steps,
        ["pi. has 1 A record(s) as a bare name directly under the mesh's domain"]
    );
    let chain = ask("wiki.home.internal").await;
    assert_eq!(chain.steps.len(), 2);
    assert!(chain.steps[1].ends_with("is not ours: the host's own resolvers are asked"));
    let split = ask("www.corp.example").await;
    assert_eq!(
        split.steps,
        [format!("www.corp.example. is not ours: the resolvers of corp.example. are asked ({})", upper.addr)]
    );
    assert_eq!(split.records, ["www.corp.example. 60 IN A 203.0.113.1"]);
    assert!(rig.names.query("a..b", "A").await.is_err() && rig.names.query("a", "NOTYPE").await.is_err());
}
