//! The client against a coordinator that says exactly what the test wants. The real one is met in
//! `coordinator/tests`.

use super::*;
use meshd_proto::channel::{Channel, Frames, Greeting, Responder, check_possession};
use meshd_proto::control::{Hello, RefusalCode, ToCoordinator, ToNode};
use meshd_proto::netmap::{Entry, MapUpdate};
use meshd_proto::{CoordinatorSecret, Epoch, SigningKey, Version};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

const NETWORK: NetworkId = NetworkId::from_bytes([1; 16]);
/// Longer than every way to a wrong address takes to fail.
const SOON: Duration = Duration::from_secs(30);

fn coordinator() -> (CoordinatorSecret, CoordinatorKeys) {
    let secret = CoordinatorSecret::from_bytes([2; 32]);
    let signing = SigningKey::from_bytes(&[3; 32]).verifying_key();
    let keys = CoordinatorKeys { control: secret.public(), signing };
    (secret, keys)
}

fn config(address: String, trust: Trust) -> ControlConfig {
    ControlConfig {
        addresses: vec![address],
        network: NETWORK,
        trust,
        machine: MachineSecret::from_bytes([4; 32]),
        node: NodeSecret::from_bytes([5; 32]),
        token: Some(TokenSecret::from_bytes([6; 16])),
        profile: Profile {
            hostname: Hostname::sanitized("pi"),
            machine_id: [7; 32],
            client_version: "0.1.0".to_owned(),
            os: "linux".to_owned(),
            ephemeral: false,
            offer: Offer::default(),
        },
        map: None,
        fwmark: None,
        names: OutsideNames::of_host(),
        proxy: None,
    }
}

/// The fake coordinator's end of a session.
struct Server {
    stream: TcpStream,
    channel: Channel,
    frames: Frames,
}

impl Server {
    async fn accept(listener: &TcpListener) -> (Self, Hello) {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        assert!(head.starts_with(b"GET /control HTTP/1.1\r\n"));
        let (secret, keys) = coordinator();
        let mut bytes = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n\r\n".to_vec();
        bytes.extend(Greeting(keys).to_frame());
        stream.write_all(&bytes).await.unwrap();
        let mut frames = Frames::handshake();
        let first = read_frame(&mut stream, &mut frames).await;
        let (unproven, second) = Responder::accept(&secret, NETWORK, &first).unwrap();
        stream.write_all(&second).await.unwrap();
        frames.allow_transport();
        let sealed = read_frame(&mut stream, &mut frames).await;
        let (channel, message) = unproven.prove(&sealed).unwrap();
        let ToCoordinator::Hello(hello) = ToCoordinator::decode(&message).unwrap() else {
            panic!("a node begins with a hello")
        };
        assert!(check_possession(
            &secret,
            &hello.node_key,
            &channel.machine(),
            &channel.handshake_hash,
            &hello.node_key_proof
        ));
        (Self { stream, channel, frames }, *hello)
    }

    async fn send(&mut self, message: ToNode) {
        let mut out = Vec::new();
        self.channel.sealer.seal(&message.encode(), &mut out).unwrap();
        self.stream.write_all(&out).await.unwrap();
    }

    async fn welcome(&mut self) {
        self.send(ToNode::Welcome { node: NodeId(9), network: NETWORK, time: UnixSeconds(1_800_000_000) })
            .await;
    }

    async fn read(&mut self) -> ToCoordinator {
        let frame = read_frame(&mut self.stream, &mut self.frames).await;
        ToCoordinator::decode(&self.channel.opener.open(&frame).unwrap().unwrap()).unwrap()
    }
}

async fn read_frame(stream: &mut TcpStream, frames: &mut Frames) -> Vec<u8> {
    loop {
        if let Some(frame) = frames.next_frame().unwrap() {
            return frame.to_vec();
        }
        let mut buffer = [0; 4096];
        let n = timeout(SOON, stream.read(&mut buffer)).await.unwrap().unwrap();
        assert!(n > 0, "the client hung up");
        frames.push(&buffer[..n]);
    }
}

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

async fn next(events: &mut mpsc::Receiver<ControlEvent>) -> ControlEvent {
    timeout(SOON, events.recv()).await.expect("an event in time").expect("the client runs")
}

fn update(from: Option<Version>, to: u64, entries: Vec<Entry>, on: &NetworkMap) -> MapUpdate {
    let mut after = if from.is_some() { on.clone() } else { NetworkMap::empty(NETWORK) };
    for entry in &entries {
        after.upsert(entry.clone());
    }
    MapUpdate {
        network: NETWORK,
        epoch: Epoch(1),
        from,
        to: Version(to),
        upserts: entries,
        removes: vec![],
        digest: after.digest(),
        more: false,
    }
}

/// A client that runs against a coordinator which is yet to answer.
async fn started() -> (TcpListener, CoordinatorKeys, Commands, mpsc::Receiver<ControlEvent>, JoinSet<Ended>) {
    let (listener, address) = listen().await;
    let (_, keys) = coordinator();
    let (client, commands, events) = ControlClient::new(config(address, Trust::Hash(keys.hash())));
    let mut tasks = JoinSet::new();
    tasks.spawn(client.run());
    (listener, keys, commands, events, tasks)
}

#[tokio::test]
async fn a_node_joins_applies_updates_and_says_where_its_map_is() {
    let (listener, keys, commands, mut events, mut tasks) = started().await;
    let (mut server, hello) = Server::accept(&listener).await;
    assert_eq!(hello.token_secret.as_ref().unwrap().as_slice(), &[6; 16]);
    assert!(hello.resume.is_none());
    server.welcome().await;
    assert!(
        matches!(next(&mut events).await, ControlEvent::Connected { node: NodeId(9), keys: k, .. } if k == keys)
    );

    let whole = update(None, 1, vec![Entry::FilterPresent], &NetworkMap::empty(NETWORK));
    server.send(ToNode::Map(whole)).await;
    let ControlEvent::Map(map) = next(&mut events).await else { panic!("a map") };
    assert!(map.filter_present);
    assert_eq!(server.read().await, ToCoordinator::Applied(map.position()));

    // A gap is answered with a wish for everything, and the map stays.
    server.send(ToNode::Map(update(Some(Version(7)), 8, vec![], &map))).await;
    assert_eq!(server.read().await, ToCoordinator::NeedSnapshot);
    // So is a keepalive that names another digest.
    let mut elsewhere = map.position();
    elsewhere.digest.add(b"something");
    server.send(ToNode::Keepalive { position: elsewhere, time: UnixSeconds(1), nonce: 5 }).await;
    assert_eq!(server.read().await, ToCoordinator::Alive { nonce: 5 });
    assert_eq!(server.read().await, ToCoordinator::NeedSnapshot);
    assert!(matches!(next(&mut events).await, ControlEvent::Alive(UnixSeconds(1))));

    // Wishes are remembered over a lost session, the token is not.
    assert!(commands.tell(Command::Interest(vec![NodeId(3)])));
    assert_eq!(server.read().await, ToCoordinator::Interest(vec![NodeId(3)]));
    drop(server);
    assert!(matches!(next(&mut events).await, ControlEvent::Disconnected { .. }));
    let (mut server, hello) = Server::accept(&listener).await;
    assert!(hello.token_secret.is_none());
    assert_eq!(hello.resume, Some(map.position()));
    server.welcome().await;
    assert_eq!(server.read().await, ToCoordinator::Interest(vec![NodeId(3)]));
    server.send(ToNode::Revoked { reason: "gone".to_owned() }).await;
    drop(server);
    assert_eq!(timeout(SOON, tasks.join_next()).await.unwrap().unwrap().unwrap(), Ended::Revoked);
}

#[tokio::test]
async fn a_coordinator_with_other_keys_hears_nothing_of_the_node() {
    let (listener, address) = listen().await;
    let trust = Trust::Hash(KeysHash::from_bytes([0; 32]));
    let (client, _commands, mut events) = ControlClient::new(config(address, trust));
    let mut tasks = JoinSet::new();
    tasks.spawn(client.run());
    let (mut stream, _) = listener.accept().await.unwrap();
    let (_, keys) = coordinator();
    let mut bytes = b"HTTP/1.1 101 Switching Protocols\r\n\r\n".to_vec();
    bytes.extend(Greeting(keys).to_frame());
    stream.write_all(&bytes).await.unwrap();
    let mut heard = Vec::new();
    timeout(SOON, stream.read_to_end(&mut heard)).await.unwrap().unwrap();
    assert!(heard.ends_with(b"\r\n\r\n"), "only the HTTP request was sent");
    let ControlEvent::Disconnected { why, .. } = next(&mut events).await else { panic!("not connected") };
    assert!(why.contains("other keys"), "{why}");
}

#[tokio::test]
async fn a_final_refusal_ends_the_client_and_a_temporary_one_does_not() {
    for (code, ends) in [(RefusalCode::TokenExpired, true), (RefusalCode::ApprovalPending, false)] {
        let (listener, address) = listen().await;
        let (_, keys) = coordinator();
        let (client, _commands, mut events) = ControlClient::new(config(address, Trust::Hash(keys.hash())));
        let mut tasks = JoinSet::new();
        tasks.spawn(client.run());
        let (mut server, _) = Server::accept(&listener).await;
        let refusal = Refusal { code, message: "no".to_owned(), hint: "yes".to_owned() };
        server.send(ToNode::Refused(refusal.clone())).await;
        if !ends {
            assert!(matches!(next(&mut events).await, ControlEvent::Pending { keys: k } if k == keys));
        }
        assert!(matches!(next(&mut events).await, ControlEvent::Refused(r) if r == refusal));
        let ended = timeout(Duration::from_millis(500), tasks.join_next()).await;
        assert_eq!(ended.is_ok(), ends, "{code:?}");
    }
}

#[tokio::test]
async fn what_is_no_coordinator_is_named_as_such() {
    for (answer, words) in [
        ("HTTP/1.1 404 Not Found\r\n\r\n", "it answered `HTTP/1.1 404 Not Found`"),
        ("SSH-2.0-OpenSSH_9.2p1\r\n", "it does not speak HTTP"),
        ("", "it hung up"),
    ] {
        let (listener, address) = listen().await;
        let (_, keys) = coordinator();
        let (client, _commands, mut events) = ControlClient::new(config(address, Trust::Hash(keys.hash())));
        let mut tasks = JoinSet::new();
        tasks.spawn(client.run());
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.read_u8().await.unwrap();
        stream.write_all(answer.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let ControlEvent::Disconnected { why, .. } = next(&mut events).await else { panic!("not connected") };
        assert!(why.contains(words), "{why}");
    }
}

#[tokio::test]
async fn one_dead_address_does_not_keep_a_node_from_the_next() {
    let (listener, address) = listen().await;
    let (dead, silent) = listen().await;
    let (_, keys) = coordinator();
    let mut config = config(silent, Trust::Hash(keys.hash()));
    config.addresses.push("no-port-here".to_owned());
    config.addresses.push(address);
    let (client, _commands, mut events) = ControlClient::new(config);
    let mut tasks = JoinSet::new();
    tasks.spawn(client.run());
    let (mut server, _) = Server::accept(&listener).await;
    server.welcome().await;
    assert!(matches!(next(&mut events).await, ControlEvent::Connected { .. }));
    drop(dead);
}

#[tokio::test]
async fn a_change_of_network_ends_a_try_at_once_and_many_of_them_cost_one_session() {
    let (listener, _, commands, mut events, _tasks) = started().await;
    // Somebody answers the dial and says nothing more; the client's own patience is ten seconds.
    let begun = tokio::time::Instant::now();
    let (silent, _) = listener.accept().await.unwrap();
    // Nobody reads it, and whoever says it never waits.
    for n in 0..1000 {
        assert!(commands.tell(Command::Reconnect));
        assert!(commands.tell(Command::Interest(vec![NodeId(n)])));
    }
    let (mut server, _) = Server::accept(&listener).await;
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    // A hello without an answer is such a try, too.
    assert!(commands.tell(Command::Reconnect));
    let (mut again, _) = Server::accept(&listener).await;
    again.welcome().await;
    assert!(matches!(next(&mut events).await, ControlEvent::Connected { .. }));
    assert_eq!(again.read().await, ToCoordinator::Interest(vec![NodeId(999)]), "the newest, once");
    // The wishes of before do not end this session.
    assert!(commands.tell(Command::Interest(vec![])));
    assert_eq!(again.read().await, ToCoordinator::Interest(vec![]));
    assert!(timeout(Duration::from_millis(300), listener.accept()).await.is_err(), "another session");
    assert!(server.stream.read_u8().await.is_err(), "the session before is over");
    drop(silent);
}

#[tokio::test]
async fn a_node_that_leaves_while_it_dials_goes_at_once_and_calls_are_answered() {
    let (listener, _, commands, mut events, mut tasks) = started().await;
    let _silent = listener.accept().await.unwrap();
    let call =
        Call::CreateDevice { name: "phone".parse().unwrap(), key: meshd_proto::NodeKey::from_bytes([1; 32]) };
    assert!(commands.tell(Command::Call { id: 7, call }));
    let ControlEvent::Reply { id: 7, answer: Answer::Failed { .. } } = next(&mut events).await else {
        panic!("an answer")
    };
    assert!(commands.tell(Command::Leave));
    assert!(matches!(next(&mut events).await, ControlEvent::Left { confirmed: false }));
    assert_eq!(timeout(SOON, tasks.join_next()).await.unwrap().unwrap().unwrap(), Ended::Left);
    assert!(!commands.tell(Command::Reconnect), "it has ended");
}

#[tokio::test]
async fn a_name_that_was_chosen_while_the_coordinator_was_away_is_told_with_the_next_hello() {
    let (listener, _, commands, mut events, _tasks) = started().await;
    let (mut server, hello) = Server::accept(&listener).await;
    assert_eq!(hello.hostname, Hostname::sanitized("pi"), "what the machine calls itself");
    server.welcome().await;
    assert!(matches!(next(&mut events).await, ControlEvent::Connected { .. }));
    drop(server);
    assert!(matches!(next(&mut events).await, ControlEvent::Disconnected { .. }));
    let offer = Offer { hostname: Some(Hostname::sanitized("bar")), ..Offer::default() };
    assert!(commands.tell(Command::Advertise(offer.clone())));
    let (mut server, hello) = Server::accept(&listener).await;
    assert_eq!((hello.hostname, hello.offer), (Hostname::sanitized("bar"), offer));
    server.welcome().await;
    assert!(matches!(next(&mut events).await, ControlEvent::Connected { .. }));
    // And every later one says so, too, until the wish is taken back.
    assert!(commands.tell(Command::Reconnect));
    let (_, hello) = Server::accept(&listener).await;
    assert_eq!(hello.hostname, Hostname::sanitized("bar"));
    assert!(commands.tell(Command::Advertise(Offer::default())));
    assert!(commands.tell(Command::Reconnect));
    let (_, hello) = Server::accept(&listener).await;
    assert_eq!(hello.hostname, Hostname::sanitized("pi"));
}
