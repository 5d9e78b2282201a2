//! Against the real relay on loopback, which is reached by TCP only.

use super::*;
use crate::clock;
use crate::outside_names::OutsideNames;
use meshd_proto::netmap::Relay as RelayEntry;
use meshd_proto::permit::Permit;
use meshd_proto::relay::Frame;
use meshd_proto::{NetworkId, SigningKey};
use meshd_relay::stream::upgrade::accept;
use meshd_relay::{RelayConfig, RelayHandle, RelayLimits};
use tokio::net::TcpListener;

const NETWORK: NetworkId = NetworkId::from_bytes([1; 16]);
const RELAY_ID: RelayId = RelayId(1);

struct Setting {
    relay: RelayHandle,
    map: NetworkMap,
    signing: SigningKey,
    _tasks: JoinSet<()>,
}

async fn setting() -> Setting {
    let signing = SigningKey::from_bytes(&[3; 32]);
    let relay = RelayHandle::spawn(RelayConfig {
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        alt_port: None,
        key: NodeSecret::from_bytes([9; 32]),
        network: NETWORK,
        permit_keys: vec![signing.verifying_key()],
        limits: RelayLimits::default(),
    })
    .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let control = relay.control();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut streams = JoinSet::new();
        loop {
            let (stream, peer) = listener.accept().await.unwrap();
            let control = control.clone();
            streams.spawn(async move {
                if let Ok(io) = accept(stream, RELAY).await {
                    control.serve_stream(io, peer, ()).await;
                }
            });
        }
    });
    let mut map = NetworkMap::empty(NETWORK);
    let entry = RelayEntry {
        id: RELAY_ID,
        name: "home".to_owned(),
        key: relay.public_key(),
        hosts: vec!["127.0.0.1".to_owned()],
        udp_port: 1,
        alt_udp_port: 0,
        tls_port: port,
    };
    map.relays.insert(RELAY_ID, entry);
    Setting { relay, map, signing, _tasks: tasks }
}

fn node(setting: &Setting, key: u8) -> RelayStreams {
    let secret = NodeSecret::from_bytes([key; 32]);
    let wall = clock::wall();
    let permit = Permit::issue(NETWORK, secret.public(), wall.0, &setting.signing, wall);
    let mut streams = RelayStreams::new(secret, [key; 32]);
    streams.dial_with(Dialer::new(None, None, OutsideNames::of_host()));
    streams.set_map(&setting.map);
    streams.set_permit(permit, clock::now());
    streams.want(RELAY_ID);
    streams.follow(&HashMap::new(), clock::now());
    streams
}

/// Runs until `done`, at most ten seconds.
async fn run(
    streams: &mut RelayStreams,
    mut done: impl FnMut(&mut RelayStreams, Option<(RelayId, RelayAddr, Vec<u8>)>) -> bool,
) {
    let work = async {
        loop {
            let wake = streams.poll_timeout().unwrap_or_else(|| clock::now() + Duration::from_secs(1));
            let event = tokio::select! {
                event = streams.next() => Some(event),
                () = tokio::time::sleep_until(wake.into()) => None,
            };
            let data = event.and_then(|event| streams.handle(event, clock::now()));
            streams.handle_timeout(clock::now());
            if done(streams, data) {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), work).await.expect("in time");
}

#[tokio::test]
async fn two_nodes_without_udp_reach_each_other_over_a_relay() {
    let setting = setting().await;
    let (mut a, mut b) = (node(&setting, 4), node(&setting, 5));
    for streams in [&mut a, &mut b] {
        run(streams, |s, _| s.poll_change() == Some((RELAY_ID, true))).await;
    }
    let (relay, at) = a.attached().next().unwrap();
    assert!(relay == RELAY_ID && is_stream(&at));
    // A WireGuard data message, as far as a relay looks.
    let mut payload = vec![0; 1400];
    payload[0] = 4;
    let mut frame = Vec::new();
    let to = RelayAddr::of(&NodeSecret::from_bytes([5; 32]).public());
    Frame::Data { peer: to, payload: &payload }.encode(&mut frame);
    assert_eq!(a.queues()[&at].push(&frame, clock::now()), 0);
    let from = RelayAddr::of(&NodeSecret::from_bytes([4; 32]).public());
    let mut got = None;
    let both = async {
        tokio::select! {
            () = run(&mut a, |_, _| false) => {}
            () = run(&mut b, |_, data| { got = data; got.is_some() }) => {}
        }
    };
    both.await;
    assert_eq!(got, Some((RELAY_ID, from, payload)));
    assert_eq!(setting.relay.counters().await.clients, 2);

    // By UDP after all: the stream is closed, and the relay forgets it at once.
    a.follow(&HashMap::from([(RELAY_ID, Endpoint(([127, 0, 0, 1], 1).into()))]), clock::now());
    assert_eq!(a.attached().count(), 0);
    for _ in 0..100 {
        if setting.relay.counters().await.clients == 1 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the relay keeps a node whose stream is closed");
}

#[tokio::test]
async fn a_node_with_a_strange_permit_is_not_attached_and_tries_again() {
    let setting = setting().await;
    let secret = NodeSecret::from_bytes([6; 32]);
    let stranger = SigningKey::from_bytes(&[7; 32]);
    let wall = clock::wall();
    let mut streams = node(&setting, 6);
    streams.set_permit(Permit::issue(NETWORK, secret.public(), wall.0, &stranger, wall), clock::now());
    run(&mut streams, |s, _| s.poll_change() == Some((RELAY_ID, false))).await;
    assert_eq!(setting.relay.counters().await.clients, 0);
    assert!(streams.poll_timeout().is_some());
}

#[test]
fn only_streams_have_addresses_of_streams() {
    assert!(is_stream(&address(RelayId(u32::MAX), u16::MAX)));
    assert!(address(RELAY_ID, 0).is_sendable(), "the relay client takes it");
    for other in ["[2001:db8::1]:5", "192.0.2.1:5", "[100:0:0:1::1]:5"] {
        assert!(!is_stream(&Endpoint(other.parse().unwrap())), "{other}");
    }
    assert_eq!(at_port("2001:db8::1", 443), "[2001:db8::1]:443");
    assert_eq!(at_port("relay.example", 443), "relay.example:443");
}
