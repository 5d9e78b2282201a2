//! The control protocol as bytes: a client that does what a real one would not.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod common;

use common::{Coordinator, ROOT};
use meshd_coordinator::clock;
use meshd_coordinator::service::RecordInput;
use meshd_proto::channel::{Channel, Frames, Greeting, HandshakeHash, Initiator, prove_possession};
use meshd_proto::control::{Hello, MapPosition, Offer, PROTOCOL_VERSION, ToCoordinator, ToNode};
use meshd_proto::netmap::MapUpdate;
use meshd_proto::token::JoinToken;
use meshd_proto::{CoordinatorKey, Hostname, MachineSecret, NodeSecret};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use zeroize::Zeroizing;

const SOON: Duration = Duration::from_secs(15);
const MACHINE: [u8; 32] = [1; 32];
const NODE: [u8; 32] = [2; 32];

/// A connection whose greeting was read.
struct Dialed {
    stream: TcpStream,
    frames: Frames,
    key: CoordinatorKey,
}

async fn dial(coordinator: &Coordinator) -> Dialed {
    let mut stream = TcpStream::connect(&coordinator.address).await.unwrap();
    stream.write_all(b"GET /control HTTP/1.1\r\n\r\n").await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let mut frames = Frames::handshake();
    let greeting = frame(&mut stream, &mut frames).await.unwrap();
    Dialed { stream, frames, key: Greeting::parse(&greeting).unwrap().0.control }
}

/// The next frame; `None` when the other side hangs up.
async fn frame(stream: &mut TcpStream, frames: &mut Frames) -> Option<Vec<u8>> {
    loop {
        if let Some(frame) = frames.next_frame().unwrap() {
            return Some(frame.to_vec());
        }
        let mut buffer = [0; 4096];
        match timeout(SOON, stream.read(&mut buffer)).await.expect("an answer in time") {
            Ok(n) if n > 0 => frames.push(&buffer[..n]),
            _ => return None,
        }
    }
}

fn hello(
    key: &CoordinatorKey,
    hash: &HandshakeHash,
    token: &JoinToken,
    resume: Option<MapPosition>,
) -> Hello {
    let (machine, node) = (MachineSecret::from_bytes(MACHINE), NodeSecret::from_bytes(NODE));
    Hello {
        protocol: PROTOCOL_VERSION,
        node_key: node.public(),
        node_key_proof: prove_possession(&node, key, &machine.public(), hash).unwrap(),
        token_secret: Some(Zeroizing::new(token.secret.as_bytes().to_vec())),
        hostname: Hostname::sanitized("raw"),
        machine_id: [3; 32],
        client_version: "0".to_owned(),
        os: "linux".to_owned(),
        ephemeral: false,
        offer: Offer::default(),
        resume,
    }
}

/// A session that acknowledges nothing by itself.
struct Raw {
    stream: TcpStream,
    frames: Frames,
    channel: Channel,
}

impl Raw {
    async fn join(
        coordinator: &Coordinator,
        token: &JoinToken,
        resume: Option<MapPosition>,
        edit: impl FnOnce(&mut Hello),
    ) -> Self {
        let Dialed { mut stream, mut frames, key } = dial(coordinator).await;
        let machine = MachineSecret::from_bytes(MACHINE);
        let (initiator, first) = Initiator::new(&machine, &key, token.network).unwrap();
        stream.write_all(&first).await.unwrap();
        let second = frame(&mut stream, &mut frames).await.unwrap();
        let channel = initiator.finish(&second).unwrap();
        frames.allow_transport();
        let mut hello = hello(&key, &channel.handshake_hash, token, resume);
        edit(&mut hello);
        let mut raw = Self { stream, frames, channel };
        raw.say(&ToCoordinator::Hello(Box::new(hello))).await;
        raw
    }

    async fn say(&mut self, message: &ToCoordinator) {
        let mut out = Vec::new();
        self.channel.sealer.seal(&message.encode(), &mut out).unwrap();
        // It may have been hung up on: the next read tells.
        let _ = self.stream.write_all(&out).await;
    }

    /// The next message; `None` when the coordinator hangs up.
    async fn hear(&mut self) -> Option<ToNode> {
        loop {
            let frame = frame(&mut self.stream, &mut self.frames).await?;
            if let Some(message) = self.channel.opener.open(&frame).unwrap() {
                return Some(ToNode::decode(&message).unwrap());
            }
        }
    }

    async fn update(&mut self) -> MapUpdate {
        loop {
            if let ToNode::Map(update) = self.hear().await.expect("the session goes on") {
                return update;
            }
        }
    }
}

fn after(update: &MapUpdate) -> MapPosition {
    let MapUpdate { network, epoch, to: version, digest, .. } = *update;
    MapPosition { network, epoch, version, digest }
}

async fn add_record(coordinator: &Coordinator, i: u8) {
    let name = format!("r{i}.home.internal");
    let record = RecordInput { name, kind: None, value: format!("1.1.1.{i}"), ttl: None };
    coordinator.service.add_record(&ROOT, &record, clock::unix_now()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recorded_handshake_and_hello_admit_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(&dir, 0).await;
    let token = coordinator.token().await;
    // What a listener would have recorded of a join that never reached the coordinator.
    let Dialed { mut stream, mut frames, key } = dial(&coordinator).await;
    let machine = MachineSecret::from_bytes(MACHINE);
    let (initiator, first) = Initiator::new(&machine, &key, token.network).unwrap();
    stream.write_all(&first).await.unwrap();
    let second = frame(&mut stream, &mut frames).await.unwrap();
    let mut channel = initiator.finish(&second).unwrap();
    let mut recorded = first;
    let message = ToCoordinator::Hello(Box::new(hello(&key, &channel.handshake_hash, &token, None)));
    channel.sealer.seal(&message.encode(), &mut recorded).unwrap();
    drop(stream);

    let Dialed { mut stream, mut frames, .. } = dial(&coordinator).await;
    stream.write_all(&recorded).await.unwrap();
    assert!(frame(&mut stream, &mut frames).await.is_some(), "the handshake is answered");
    assert!(frame(&mut stream, &mut frames).await.is_none(), "and nothing is done");
    assert!(coordinator.service.model().nodes.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_key_without_its_proof_is_not_registered() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(&dir, 0).await;
    let token = coordinator.token().await;
    let victim = NodeSecret::from_bytes([50; 32]).public();
    let mut raw = Raw::join(&coordinator, &token, None, |hello| hello.node_key = victim).await;
    assert!(raw.hear().await.is_none());
    let mut raw = Raw::join(&coordinator, &token, None, |hello| hello.node_key_proof[0] ^= 1).await;
    assert!(raw.hear().await.is_none());
    assert!(coordinator.service.model().nodes.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_slow_to_acknowledge_gets_one_bigger_update() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(&dir, 0).await;
    let token = coordinator.token().await;
    let mut raw = Raw::join(&coordinator, &token, None, |_| {}).await;
    let first = raw.update().await;
    assert!(first.from.is_none() && !first.more);
    for i in 0..5 {
        add_record(&coordinator, i).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let early = timeout(Duration::from_millis(300), raw.update()).await;
    assert!(early.is_err(), "nothing more before the first is acknowledged");
    raw.say(&ToCoordinator::Applied(after(&first))).await;
    let second = raw.update().await;
    assert_eq!((second.from, second.upserts.len()), (Some(first.to), 5));
    // A wrong acknowledgement is answered with everything.
    let mut wrong = after(&second);
    wrong.digest.add(b"something else");
    raw.say(&ToCoordinator::Applied(wrong)).await;
    let third = timeout(SOON, raw.update()).await.unwrap();
    assert!(third.from.is_none() && third.digest == second.digest);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_absence_costs_the_difference_only() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(&dir, 0).await;
    let token = coordinator.token().await;
    let mut raw = Raw::join(&coordinator, &token, None, |_| {}).await;
    let first = raw.update().await;
    raw.say(&ToCoordinator::Applied(after(&first))).await;
    drop(raw);
    add_record(&coordinator, 1).await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    let mut raw = Raw::join(&coordinator, &token, Some(after(&first)), |_| {}).await;
    let missed = raw.update().await;
    assert_eq!((missed.from, missed.upserts.len()), (Some(first.to), 1));
    drop(raw);
    // Somebody else's digest at the same version: only everything helps.
    let mut strange = after(&missed);
    strange.digest.add(b"bit rot");
    let mut raw = Raw::join(&coordinator, &token, Some(strange), |_| {}).await;
    assert!(raw.update().await.from.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_floods_is_cut_and_the_others_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(&dir, 0).await;
    let token = coordinator.token().await;
    let mut raw = Raw::join(&coordinator, &token, None, |_| {}).await;
    raw.update().await;
    for nonce in 0..2_000 {
        raw.say(&ToCoordinator::Alive { nonce }).await;
    }
    while raw.hear().await.is_some() {}
    let mut raw = Raw::join(&coordinator, &token, None, |_| {}).await;
    raw.update().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_never_acknowledges_loses_its_session_and_may_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(&dir, 0).await;
    let token = coordinator.token().await;
    let mut raw = Raw::join(&coordinator, &token, None, |_| {}).await;
    let first = raw.update().await;
    // Long enough for an answer, too short for a silence: it is the acknowledgement that is missing.
    let hung_up = timeout(Duration::from_secs(50), async {
        let mut buffer = [0; 4096];
        while raw.stream.read(&mut buffer).await.is_ok_and(|n| n > 0) {}
    });
    assert!(hung_up.await.is_ok(), "the session is dropped");
    let mut raw = Raw::join(&coordinator, &token, Some(after(&first)), |_| {}).await;
    add_record(&coordinator, 1).await;
    assert_eq!(raw.update().await.from, Some(first.to), "and resumed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_of_many_offers_is_taken_in_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(&dir, 0).await;
    let token = coordinator.token().await;
    let mut raw = Raw::join(&coordinator, &token, None, |_| {}).await;
    let update = raw.update().await;
    raw.say(&ToCoordinator::Applied(after(&update))).await;
    let offer = |i: u8| Offer { routes: vec![format!("10.0.{i}.0/24").parse().unwrap()], ..Offer::default() };
    for i in 0..80 {
        raw.say(&ToCoordinator::Advertise(offer(i))).await;
    }
    let wanted = offer(79).routes[0];
    let taken = async {
        while !coordinator.service.model().nodes.values().any(|n| n.advertised.contains(&wanted)) {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    timeout(Duration::from_secs(60), taken).await.expect("within the pace");
}
