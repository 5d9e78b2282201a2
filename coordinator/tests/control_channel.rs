//! The coordinator's service and hub with real control clients over loopback TCP.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod common;

use common::{Coordinator, ROOT};
use meshd_coordinator::clock;
use meshd_coordinator::service::{Paths, RecordInput};
use meshd_node::control::{
    Command, Commands, ControlClient, ControlConfig, ControlEvent, Ended, Profile, Trust,
};
use meshd_node::outside_names::OutsideNames;
use meshd_proto::control::{Answer, Call, Offer, PathReport, PathVia, RefusalCode};
use meshd_proto::token::{CoordinatorKeys, JoinToken};
use meshd_proto::{
    CoordinatorKey, Endpoint, Hostname, MachineSecret, NetworkMap, NodeId, NodeSecret, Prefix, RelayId,
    VerifyingKey,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

const SOON: Duration = Duration::from_secs(20);

/// A node's control client, and what it last reported.
struct Node {
    config: ControlConfig,
    commands: Commands,
    events: mpsc::Receiver<ControlEvent>,
    tasks: JoinSet<Ended>,
    map: Option<Arc<NetworkMap>>,
}

fn config(token: &JoinToken, n: u8, offer: Offer) -> ControlConfig {
    ControlConfig {
        addresses: token.addresses().to_vec(),
        network: token.network,
        trust: Trust::Hash(token.keys_hash),
        machine: MachineSecret::from_bytes([n; 32]),
        node: NodeSecret::from_bytes([n + 100; 32]),
        token: Some(token.secret.clone()),
        profile: Profile {
            hostname: Hostname::sanitized(&format!("node{n}")),
            machine_id: [n; 32],
            client_version: "0.1.0".to_owned(),
            os: "linux".to_owned(),
            ephemeral: false,
            offer,
        },
        map: None,
        fwmark: None,
        names: OutsideNames::of_host(),
        proxy: None,
    }
}

impl Node {
    fn start(config: ControlConfig) -> Self {
        let (client, commands, events) = ControlClient::new(config.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(client.run());
        Self { config, commands, events, tasks, map: None }
    }

    async fn next(&mut self) -> ControlEvent {
        let event =
            timeout(SOON, self.events.recv()).await.expect("an event in time").expect("the client runs");
        if let ControlEvent::Map(map) = &event {
            self.map = Some(map.clone());
        }
        event
    }

    /// Waits for an event that `fits`.
    async fn until<T>(&mut self, mut fits: impl FnMut(&ControlEvent) -> Option<T>) -> T {
        loop {
            let event = self.next().await;
            if let Some(found) = fits(&event) {
                return found;
            }
        }
    }

    /// Waits until the map `fits`.
    async fn map(&mut self, fits: impl Fn(&NetworkMap) -> bool) -> Arc<NetworkMap> {
        loop {
            if let Some(map) = self.map.as_ref().filter(|m| fits(m)) {
                return map.clone();
            }
            self.next().await;
        }
    }

    async fn id(&mut self) -> NodeId {
        self.map(|m| m.me.is_some()).await.me.as_ref().unwrap().id
    }

    async fn ended(&mut self) -> Ended {
        timeout(SOON, self.tasks.join_next()).await.expect("it ends").unwrap().unwrap()
    }
}

fn lan() -> Prefix {
    "192.168.1.0/24".parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_join_see_each_other_and_a_route_once_it_is_approved() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(&dir, 0).await;
    let token = coordinator.token().await;
    let mut laptop = Node::start(config(&token, 1, Offer::default()));
    let laptop_id = laptop.id().await;
    assert!(laptop.map.as_ref().unwrap().peers.is_empty());

    let offer = Offer { routes: vec![lan()], ..Offer::default() };
    let mut pi = Node::start(config(&token, 2, offer));
    let mut permit = false;
    pi.until(|e| {
        permit |= matches!(e, ControlEvent::Permit(_));
        permit.then_some(())
    })
    .await;
    let pi_id = pi.id().await;
    assert_eq!(pi.map.as_ref().unwrap().me.as_ref().unwrap().pending_routes, [lan()]);
    assert!(pi.map.as_ref().unwrap().peers.contains_key(&laptop_id));
    laptop.map(|m| m.peers.contains_key(&pi_id)).await;
    assert!(laptop.map.as_ref().unwrap().routes.is_empty(), "nobody approved it");

    let now = clock::unix_now();
    coordinator.service.approve_routes(&ROOT, "node2", &[lan()], now).await.unwrap();
    let map = laptop.map(|m| !m.routes.is_empty()).await;
    assert_eq!(map.owners(lan()).collect::<Vec<_>>(), [pi_id]);
    pi.map(|m| m.me.as_ref().is_some_and(|me| me.approved_routes == [lan()])).await;

    // Hints go both ways once one of them is interested.
    let home: Endpoint = Endpoint("192.0.2.5:41820".parse().unwrap());
    assert!(pi.commands.tell(Command::Endpoints { endpoints: vec![home], home_relay: None }));
    assert!(laptop.commands.tell(Command::Interest(vec![pi_id])));
    let hint = |e: &ControlEvent, about: NodeId| match e {
        ControlEvent::Hints(hints) => hints.iter().find(|h| h.node == about).cloned(),
        _ => None,
    };
    laptop.until(|e| hint(e, pi_id).filter(|h| h.endpoints == [home] && h.online)).await;
    pi.until(|e| hint(e, laptop_id)).await;

    // A plain device behind the Pi.
    let name: Hostname = "phone".parse().unwrap();
    let key = NodeSecret::from_bytes([77; 32]).public();
    assert!(pi.commands.tell(Command::Call { id: 5, call: Call::CreateDevice { name, key } }));
    let addrs = pi
        .until(|e| match e {
            ControlEvent::Reply { id: 5, answer: Answer::Device { addrs, .. } } => Some(*addrs),
            _ => None,
        })
        .await;
    laptop.map(|m| m.owners(Prefix::host(addrs.v4.into())).any(|o| o == pi_id)).await;

    // Changing the offer takes the route away.
    assert!(pi.commands.tell(Command::Advertise(Offer::default())));
    laptop.map(|m| m.owners(lan()).next().is_none()).await;
    assert!(pi.commands.tell(Command::Leave));
    assert_eq!(pi.ended().await, Ended::Left);
    laptop.map(|m| m.peers.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_node_is_told_and_cut_within_a_second_and_stays_out() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(&dir, 0).await;
    let token = coordinator.token().await;
    let mut one = Node::start(config(&token, 1, Offer::default()));
    let mut two = Node::start(config(&token, 2, Offer::default()));
    let (one_id, two_id) = (one.id().await, two.id().await);
    one.map(|m| m.peers.contains_key(&two_id)).await;
    two.map(|m| m.peers.contains_key(&one_id)).await;

    let begun = Instant::now();
    coordinator.service.revoke_node(&ROOT, "node2", clock::unix_now()).await.unwrap();
    two.until(|e| matches!(e, ControlEvent::Revoked { .. }).then_some(())).await;
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!(two.ended().await, Ended::Revoked);
    one.map(|m| m.peers.is_empty()).await;
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());

    let mut again = Node::start(two.config.clone());
    let code = again.until(|e| if let ControlEvent::Refused(r) = e { Some(r.code) } else { None }).await;
    assert_eq!(code, RefusalCode::Removed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restart_of_the_coordinator_nodes_resume_without_a_byte_of_map() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(&dir, 0).await;
    let token = coordinator.token().await;
    let mut one = Node::start(config(&token, 1, Offer::default()));
    let one_id = one.id().await;
    let mut two = Node::start(config(&token, 2, Offer::default()));
    let two_id = two.id().await;
    one.map(|m| m.peers.contains_key(&two_id)).await;
    two.map(|m| m.peers.contains_key(&one_id)).await;
    let before = one.map.clone().unwrap();

    let port = coordinator.address.rsplit(':').next().unwrap().parse().unwrap();
    drop(coordinator);
    one.until(|e| matches!(e, ControlEvent::Disconnected { .. }).then_some(())).await;
    let coordinator = Coordinator::start(&dir, port).await;
    // Connected, permit, and nothing of the map until something changes.
    one.until(|e| {
        assert!(!matches!(e, ControlEvent::Map(_)), "nothing has changed");
        matches!(e, ControlEvent::Permit(_)).then_some(())
    })
    .await;
    let quiet = timeout(Duration::from_millis(600), one.next()).await;
    assert!(!matches!(quiet, Ok(ControlEvent::Map(_))), "nothing has changed: {quiet:?}");

    let record = RecordInput {
        name: "nas.home.internal".to_owned(),
        kind: None,
        value: "1.2.3.4".to_owned(),
        ttl: None,
    };
    coordinator.service.add_record(&ROOT, &record, clock::unix_now()).await.unwrap();
    let after = one.map(|m| m.dns.records.len() == 1).await;
    assert!(after.version > before.version && after.epoch == before.epoch);

    // A node that starts from its stored map resumes, too.
    let mut config = one.config.clone();
    drop(one);
    config.map = Some(after.clone());
    config.token = None;
    config.trust = Trust::from_map(&after).unwrap();
    let mut one = Node::start(config);
    one.until(|e| {
        assert!(!matches!(e, ControlEvent::Map(_)), "nothing has changed");
        matches!(e, ControlEvent::Permit(_)).then_some(())
    })
    .await;
    coordinator
        .service
        .remove_record(&ROOT, "nas.home.internal", None, None, clock::unix_now())
        .await
        .unwrap();
    one.map(|m| m.dns.records.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_session_of_a_machine_wins() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(&dir, 0).await;
    let token = coordinator.token().await;
    let mut first = Node::start(config(&token, 1, Offer::default()));
    first.id().await;
    let mut second = Node::start(first.config.clone());
    second.id().await;
    first.until(|e| matches!(e, ControlEvent::Disconnected { .. }).then_some(())).await;
    assert_eq!(coordinator.service.online_count(), 1);
    drop(first);
    // Another machine-id with the same key is a clone.
    let mut clone = second.config.clone();
    clone.profile.machine_id = [200; 32];
    let mut clone = Node::start(clone);
    let code = clone.until(|e| if let ControlEvent::Refused(r) = e { Some(r.code) } else { None }).await;
    assert_eq!(code, RefusalCode::ClonedMachine);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_with_other_keys_than_the_pinned_ones_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(&dir, 0).await;
    let token = coordinator.token().await;
    let mut config = config(&token, 1, Offer::default());
    let keys = CoordinatorKeys {
        control: CoordinatorKey::from_bytes([1; 32]),
        signing: VerifyingKey::from_bytes([2; 32]),
    };
    config.trust = Trust::Pinned { keys, next_control: None, next_signing: None };
    let mut node = Node::start(config);
    let why = node
        .until(|e| if let ControlEvent::Disconnected { why, .. } = e { Some(why.clone()) } else { None })
        .await;
    assert!(why.contains("other keys"), "{why}");
    assert!(coordinator.service.model().nodes.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_token_is_refused_for_good_and_names_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(&dir, 0).await;
    let mut config = config(&coordinator.token().await, 1, Offer::default());
    config.token = Some(meshd_proto::token::TokenSecret::from_bytes([9; 16]));
    let mut node = Node::start(config);
    let refusal = node.until(|e| if let ControlEvent::Refused(r) = e { Some(r.clone()) } else { None }).await;
    assert_eq!(refusal.code, RefusalCode::TokenUnknown);
    assert!(refusal.hint.contains("token create"), "{refusal:?}");
    assert!(matches!(node.ended().await, Ended::Refused(_)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_and_silence_before_the_handshake_are_hung_up_on() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(&dir, 0).await;
    let mut strangers = JoinSet::new();
    for garbage in [&[0xff; 64][..], &[0, 96][..], b"\x00\x60AAAAAAAA"] {
        let address = coordinator.address.clone();
        strangers.spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"GET /control HTTP/1.1\r\n\r\n").await.unwrap();
            stream.write_all(garbage).await.unwrap();
            // Whoever sends half a frame and stops is given the time of a handshake, no more.
            let mut heard = Vec::new();
            let end = timeout(SOON, stream.read_to_end(&mut heard)).await.expect("it is hung up on");
            assert!(end.is_err() || heard.len() < 256, "{}", heard.len());
        });
    }
    while let Some(done) = strangers.join_next().await {
        done.unwrap();
    }
    assert!(coordinator.service.model().nodes.is_empty());
    // It still serves.
    let mut node = Node::start(config(&coordinator.token().await, 1, Offer::default()));
    node.id().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn admins_see_which_ways_data_of_a_node_goes_while_it_is_online() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(&dir, 0).await;
    let token = coordinator.token().await;
    let mut pi = Node::start(config(&token, 1, Offer::default()));
    let mut laptop = Node::start(config(&token, 2, Offer::default()));
    let (pi_id, _) = (pi.id().await, laptop.id().await);
    let seen = || coordinator.service.paths_of(&ROOT, "node2").unwrap();
    assert_eq!(seen().told, None, "it has told nothing yet");

    let direct = PathVia::Direct(Endpoint("198.51.100.7:41820".parse().unwrap()));
    let report = |via, rtt_us| PathReport { peer: pi_id, via, rtt_us: Some(rtt_us) };
    assert!(laptop.commands.tell(Command::Paths(vec![report(PathVia::Relay(RelayId(1)), 40_000)])));
    assert!(laptop.commands.tell(Command::Paths(vec![report(direct, 9_000)])));
    let until = async |fits: &dyn Fn(&Paths) -> bool| {
        timeout(SOON, async {
            while !fits(&seen()) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await
        .unwrap_or_else(|_| panic!("{:?}", seen()));
    };
    until(&|told| told.told.is_some() && told.paths == [report(direct, 9_000)]).await;
    // A new session is told, too; without a session nobody knows.
    assert!(laptop.commands.tell(Command::Reconnect));
    until(&|told| told.paths == [report(direct, 9_000)]).await;
    laptop.tasks.shutdown().await;
    until(&|told| *told == Paths::default()).await;
    assert!(coordinator.service.paths_of(&ROOT, "nobody").is_err());
}
