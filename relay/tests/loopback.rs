//! A real relay on loopback sockets, with real clients: what the pure tests cannot show.
//! Everything here runs on 127.0.0.1 and ::1 only.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use meshd_proto::keys::SigningKey;
use meshd_proto::permit::Permit;
use meshd_proto::relay::RelayAddr;
use meshd_proto::stun::{Binding, TransactionId, encode_request};
use meshd_proto::{Endpoint, NetworkId, NodeSecret, UnixSeconds};
use meshd_relay::client::DownReason;
use meshd_relay::forwarder::DropReason;
use meshd_relay::{RelayClient, RelayConfig, RelayEvent, RelayHandle, RelayLimits, encapsulate};
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};
use tokio::net::UdpSocket;
use tokio::time::timeout;

const NETWORK: NetworkId = NetworkId::from_bytes([9; 16]);
const PATIENCE: Duration = Duration::from_secs(10);

fn signer() -> SigningKey {
    SigningKey::from_bytes(&[1; 32])
}

fn secret(n: u8) -> NodeSecret {
    NodeSecret::from_bytes([n; 32])
}

#[expect(clippy::disallowed_methods, reason = "this test runs in real time")]
fn now() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "this test runs in real time")]
fn wall() -> UnixSeconds {
    UnixSeconds(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs())
}

fn relay(listen: &str) -> RelayHandle {
    RelayHandle::spawn(RelayConfig {
        listen: vec![listen.parse().unwrap()],
        alt_port: Some(0),
        key: secret(200),
        network: NETWORK,
        permit_keys: vec![signer().verifying_key()],
        limits: RelayLimits::default(),
    })
    .unwrap()
}

struct Node {
    socket: UdpSocket,
    client: RelayClient,
    inbox: Vec<(RelayAddr, Vec<u8>)>,
    events: Vec<RelayEvent>,
}

impl Node {
    async fn new(n: u8, relay: SocketAddr) -> Self {
        let local = if relay.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
        let permit = Permit::issue(NETWORK, secret(n).public(), 1, &signer(), wall());
        let key = secret(200).public();
        Self {
            socket: UdpSocket::bind(local).await.unwrap(),
            client: RelayClient::new(secret(n), key, permit, &[Endpoint(relay)], [n; 32], now()),
            inbox: Vec::new(),
            events: Vec::new(),
        }
    }

    /// Drives the client until `done` says so.
    async fn until(&mut self, done: impl Fn(&Self) -> bool) {
        let work = async {
            let mut buffer = vec![0; 65_535];
            loop {
                self.client.handle_timeout(now());
                while let Some(t) = self.client.poll_transmit() {
                    self.socket.send_to(&t.payload, t.to.0).await.unwrap();
                }
                while let Some(event) = self.client.poll_event() {
                    self.events.push(event);
                }
                if done(self) {
                    return;
                }
                let wake = self.client.poll_timeout().unwrap_or_else(|| now() + PATIENCE);
                tokio::select! {
                    received = self.socket.recv_from(&mut buffer) => {
                        let (len, from) = received.unwrap();
                        let inbound = self.client.handle_datagram(Endpoint(from), &buffer[..len], now());
                        if let Some(i) = inbound {
                            self.inbox.push((i.peer, i.payload.to_vec()));
                        }
                    }
                    () = tokio::time::sleep_until(tokio::time::Instant::from_std(wake)) => {}
                }
            }
        };
        timeout(PATIENCE, work).await.expect("in time");
    }

    async fn attach(&mut self) {
        self.until(|n| n.client.endpoint().is_some()).await;
    }

    async fn send(&self, to: u8, payload: &[u8]) {
        let mut frame = Vec::new();
        encapsulate(RelayAddr::of(&secret(to).public()), payload, &mut frame);
        let relay = self.client.endpoint().unwrap();
        self.socket.send_to(&frame, relay.0).await.unwrap();
    }
}

fn message(number: usize, len: usize) -> Vec<u8> {
    let mut out = vec![4, 0, 0, 0];
    out.extend_from_slice(&(number as u64).to_le_bytes());
    out.resize(len, number as u8);
    out
}

async fn exchange_over(listen: &str) {
    let relay = relay(listen);
    let at = relay.addrs()[0];
    let (mut a, mut b) = (Node::new(1, at).await, Node::new(2, at).await);
    a.attach().await;
    b.attach().await;
    assert_eq!(a.client.observed().unwrap().0, a.socket.local_addr().unwrap());
    for (number, len) in [(0, 32), (1, 1452), (2, 9000), (3, 60_000)] {
        a.send(2, &message(number, len)).await;
        b.until(|n| n.inbox.len() > number).await;
        assert_eq!(b.inbox[number], (RelayAddr::of(&secret(1).public()), message(number, len)));
    }
    b.send(1, &message(7, 100)).await;
    a.until(|n| n.inbox.len() == 1).await;
    let counters = relay.shutdown().await;
    assert_eq!((counters.forwarded_packets, counters.clients), (5, 2));
    a.until(|n| n.events.contains(&RelayEvent::Down { why: DownReason::Restarting })).await;
}

#[tokio::test]
async fn two_nodes_exchange_datagrams_over_ipv4() {
    exchange_over("127.0.0.1:0").await;
}

#[tokio::test]
async fn two_nodes_exchange_datagrams_over_ipv6() {
    exchange_over("[::1]:0").await;
}

#[tokio::test]
async fn a_burst_in_one_system_call_arrives_whole_and_in_order() {
    let relay = relay("127.0.0.1:0");
    let at = relay.addrs()[0];
    let (mut a, mut b) = (Node::new(1, at).await, Node::new(2, at).await);
    a.attach().await;
    b.attach().await;
    // One GSO send: thirty-two frames of one length and a shorter last one.
    let state = quinn_udp::UdpSocketState::new((&a.socket).into()).unwrap();
    let mut burst = Vec::new();
    for number in 0..33 {
        let len = if number == 32 { 100 } else { 1200 };
        encapsulate(RelayAddr::of(&secret(2).public()), &message(number, len), &mut burst);
    }
    let transmit = quinn_udp::Transmit {
        destination: at,
        ecn: None,
        contents: &burst,
        segment_size: Some(1212),
        src_ip: None,
    };
    a.socket.writable().await.unwrap();
    state.try_send((&a.socket).into(), &transmit).unwrap();
    b.until(|n| n.inbox.len() == 33).await;
    for (number, (from, payload)) in b.inbox.iter().enumerate() {
        assert_eq!(*from, RelayAddr::of(&secret(1).public()));
        assert_eq!(*payload, message(number, if number == 32 { 100 } else { 1200 }));
    }
}

#[tokio::test]
async fn a_forwarded_frame_keeps_its_congestion_mark() {
    for listen in ["127.0.0.1:0", "[::1]:0"] {
        let relay = relay(listen);
        let at = relay.addrs()[0];
        let (mut a, mut b) = (Node::new(1, at).await, Node::new(2, at).await);
        a.attach().await;
        b.attach().await;
        let state = quinn_udp::UdpSocketState::new((&a.socket).into()).unwrap();
        let inbox = quinn_udp::UdpSocketState::new((&b.socket).into()).unwrap();
        let mut frame = Vec::new();
        encapsulate(RelayAddr::of(&secret(2).public()), &message(1, 100), &mut frame);
        for mark in [Some(quinn_udp::EcnCodepoint::Ce), Some(quinn_udp::EcnCodepoint::Ect0), None] {
            let transmit = quinn_udp::Transmit {
                destination: at,
                ecn: mark,
                contents: &frame,
                segment_size: None,
                src_ip: None,
            };
            a.socket.writable().await.unwrap();
            state.try_send((&a.socket).into(), &transmit).unwrap();
            let mut bytes = [0; 2048];
            let mut meta = [quinn_udp::RecvMeta::default()];
            loop {
                timeout(PATIENCE, b.socket.readable()).await.expect("in time").unwrap();
                let got = b.socket.try_io(tokio::io::Interest::READABLE, || {
                    inbox.recv((&b.socket).into(), &mut [std::io::IoSliceMut::new(&mut bytes)], &mut meta)
                });
                if got.is_ok() {
                    break;
                }
            }
            assert_eq!(meta[0].ecn, mark, "over {listen}");
        }
    }
}

#[tokio::test]
async fn a_revocation_takes_effect_at_once() {
    let relay = relay("127.0.0.1:0");
    let at = relay.addrs()[0];
    let (mut a, mut b) = (Node::new(1, at).await, Node::new(2, at).await);
    a.attach().await;
    b.attach().await;
    relay.revoke(secret(1).public()).await;
    a.send(2, &message(0, 100)).await;
    b.send(1, &message(1, 100)).await;
    let gone = RelayEvent::PeerGone(RelayAddr::of(&secret(1).public()));
    b.until(|n| n.events.contains(&gone)).await;
    assert!(b.inbox.is_empty());
    let counters = relay.counters().await;
    assert_eq!(counters.clients, 1);
    assert_eq!(counters.dropped(DropReason::NotAttached), 1);
}

#[tokio::test]
async fn both_ports_answer_stun_and_the_second_nothing_else() {
    let relay = relay("127.0.0.1:0");
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mapped = Endpoint(socket.local_addr().unwrap());
    let mut buffer = [0; 256];
    for (number, at) in [relay.addrs()[0], relay.alt_addrs()[0]].into_iter().enumerate() {
        let id = TransactionId([number as u8; 12]);
        socket.send_to(&encode_request(id), at).await.unwrap();
        let (len, from) = timeout(PATIENCE, socket.recv_from(&mut buffer)).await.unwrap().unwrap();
        assert_eq!(from, at);
        assert_eq!(Binding::parse(&buffer[..len]), Ok(Binding::Success { id, mapped }));
    }
    let mut node = Node::new(1, relay.alt_addrs()[0]).await;
    let down = RelayEvent::Down { why: DownReason::Silent };
    node.until(|n| n.events.contains(&down)).await;
}

#[tokio::test]
async fn a_taken_port_is_named_with_what_to_do() {
    let first = relay("127.0.0.1:0");
    let taken = first.addrs()[0];
    let error = RelayHandle::spawn(RelayConfig {
        listen: vec![taken],
        alt_port: None,
        key: secret(200),
        network: NETWORK,
        permit_keys: vec![signer().verifying_key()],
        limits: RelayLimits::default(),
    })
    .unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&taken.to_string()) && text.contains("choose another port"), "{text}");
}
