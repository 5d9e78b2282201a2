use super::*;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;

/// What a fake upstream sends for a question; more than one datagram, or none.
type Script = fn(&[u8]) -> Vec<Vec<u8>>;

/// An upstream on loopback, by UDP and TCP on one port, which remembers what it was asked.
struct Fake {
    upstream: Upstream,
    asked: Arc<Mutex<Vec<Vec<u8>>>>,
    _tasks: JoinSet<()>,
}

impl Fake {
    async fn start(udp: Script, tcp: Script) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let addr = socket.local_addr().unwrap();
        let listener = TcpListener::bind(addr).await.unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = JoinSet::new();
        let seen = Arc::clone(&asked);
        tasks.spawn(async move {
            let mut buffer = [0; 4096];
            while let Ok((len, from)) = socket.recv_from(&mut buffer).await {
                seen.lock().unwrap().push(buffer[..len].to_vec());
                for reply in udp(&buffer[..len]) {
                    socket.send_to(&reply, from).await.unwrap();
                }
            }
        });
        let seen = Arc::clone(&asked);
        tasks.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut question = vec![0; usize::from(stream.read_u16().await.unwrap())];
                stream.read_exact(&mut question).await.unwrap();
                seen.lock().unwrap().push(question.clone());
                for reply in tcp(&question) {
                    stream.write_u16(reply.len() as u16).await.unwrap();
                    stream.write_all(&reply).await.unwrap();
                }
            }
        });
        Self { upstream: Upstream { addr, mark: None }, asked, _tasks: tasks }
    }

    fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

fn silent(_: &[u8]) -> Vec<Vec<u8>> {
    vec![]
}

/// The question itself as reply, with a code.
fn echo(question: &[u8], code: ResponseCode) -> Vec<u8> {
    let mut reply = question.to_vec();
    reply[2] |= 0x80;
    reply[3] = code.low();
    reply
}

fn good(question: &[u8]) -> Vec<Vec<u8>> {
    vec![echo(question, ResponseCode::NoError)]
}

fn broken(question: &[u8]) -> Vec<Vec<u8>> {
    vec![echo(question, ResponseCode::ServFail)]
}

/// A question of a type and with an EDNS option that nobody knows.
fn question() -> (Vec<u8>, usize) {
    let mut message = Message::new(0x4242, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii("WwW.example.").unwrap(), RecordType::Unknown(65_400)));
    let end = message.to_vec().unwrap().len();
    let mut edns = Edns::new();
    edns.options_mut().insert(hickory_proto::rr::rdata::opt::EdnsOption::Unknown(65_001, vec![1, 2, 3]));
    message.set_edns(edns);
    (message.to_vec().unwrap(), end)
}

async fn ask(upstreams: &[Upstream], transport: Transport) -> Result<Vec<u8>, ForwardError> {
    let (packet, end) = question();
    Forwarder::default().ask(upstreams, &packet, end, transport, TOTAL).await
}

#[tokio::test]
async fn a_question_goes_on_untouched_but_for_its_id_and_comes_back_with_the_old_one() {
    let fake = Fake::start(good, good).await;
    for transport in [Transport::Udp, Transport::Tcp] {
        let reply = ask(&[fake.upstream], transport).await.unwrap();
        assert_eq!(reply, echo(&question().0, ResponseCode::NoError));
    }
    let asked = fake.asked.lock().unwrap();
    assert!(asked.iter().all(|packet| packet[2..] == question().0[2..]));
    assert!(asked[0][..2] != asked[1][..2] || asked[0][..2] != question().0[..2], "ids are new");
}

#[tokio::test]
async fn a_dead_upstream_costs_two_hedges_and_is_asked_last_from_then_on() {
    let (dead, alive) = (Fake::start(silent, silent).await, Fake::start(good, good).await);
    let forwarder = Forwarder::default();
    let (packet, end) = question();
    for _ in 0..4 {
        let upstreams = [dead.upstream, alive.upstream];
        let asked = forwarder.ask(&upstreams, &packet, end, Transport::Udp, TOTAL);
        // Not the whole attempt: the second one is asked beside it.
        tokio::time::timeout(ATTEMPT / 2, asked).await.unwrap().unwrap();
    }
    assert_eq!((dead.asked(), alive.asked()), (2, 4));
}

#[tokio::test]
async fn a_slow_upstream_that_answers_first_is_heard() {
    fn late(question: &[u8]) -> Vec<Vec<u8>> {
        std::thread::sleep(Duration::from_millis(400));
        good(question)
    }
    // On a runtime of its own thread, so that its sleep holds up nobody else.
    let (addr_tx, addr_rx) = std::sync::mpsc::channel();
    let (stop_tx, stop_rx) = tokio::sync::oneshot::channel::<()>();
    let slow = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let fake = Fake::start(late, late).await;
            addr_tx.send(fake.upstream).unwrap();
            let _ = stop_rx.await;
        });
    });
    let slow_upstream = addr_rx.recv().unwrap();
    let dead = Fake::start(silent, silent).await;
    let reply = ask(&[slow_upstream, dead.upstream], Transport::Udp).await.unwrap();
    assert_eq!(reply, echo(&question().0, ResponseCode::NoError));
    assert_eq!(dead.asked(), 1, "asked beside it");
    drop(stop_tx);
    slow.join().unwrap();
}

#[tokio::test]
async fn a_closed_port_is_passed_over_at_once() {
    let port = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let alive = Fake::start(good, good).await;
    let closed = Upstream { addr: port, mark: None };
    for transport in [Transport::Udp, Transport::Tcp] {
        let upstreams = [closed, alive.upstream];
        assert!(tokio::time::timeout(ATTEMPT / 2, ask(&upstreams, transport)).await.unwrap().is_ok());
    }
}

#[tokio::test]
async fn a_failure_code_is_handed_on_only_when_nobody_does_better() {
    let (bad, alive) = (Fake::start(broken, broken).await, Fake::start(good, good).await);
    let reply = ask(&[bad.upstream, alive.upstream], Transport::Udp).await.unwrap();
    assert_eq!(reply[3] & 15, ResponseCode::NoError.low());
    let reply = ask(&[bad.upstream], Transport::Udp).await.unwrap();
    assert_eq!(reply[3] & 15, ResponseCode::ServFail.low());
}

#[tokio::test]
async fn nobody_is_an_error_in_bounded_time() {
    assert!(matches!(ask(&[], Transport::Udp).await, Err(ForwardError::NoUpstream)));
    let dead = Fake::start(silent, silent).await;
    for transport in [Transport::Udp, Transport::Tcp] {
        let upstreams = [dead.upstream];
        let asked = tokio::time::timeout(TOTAL + ATTEMPT, ask(&upstreams, transport)).await;
        assert!(matches!(asked, Ok(Err(ForwardError::AllFailed { asked: 1 }))));
    }
}

#[tokio::test]
async fn replies_to_other_questions_are_passed_over() {
    fn spoofed(question: &[u8]) -> Vec<Vec<u8>> {
        let good = echo(question, ResponseCode::NoError);
        let (mut id, mut name) = (good.clone(), good.clone());
        id[0] ^= 0x55;
        name[14] = b'x';
        vec![vec![], id, name, good]
    }
    let fake = Fake::start(spoofed, silent).await;
    let reply = ask(&[fake.upstream], Transport::Udp).await.unwrap();
    assert_eq!(reply, echo(&question().0, ResponseCode::NoError));
    assert_eq!(fake.asked(), 1);
}

#[tokio::test]
async fn an_upstream_that_changes_letter_case_is_asked_by_tcp() {
    fn lower(question: &[u8]) -> Vec<Vec<u8>> {
        let mut reply = echo(question, ResponseCode::NoError);
        reply[13..17].make_ascii_lowercase();
        vec![reply]
    }
    let fake = Fake::start(lower, good).await;
    let reply = ask(&[fake.upstream], Transport::Udp).await.unwrap();
    assert_eq!(reply, echo(&question().0, ResponseCode::NoError));
    assert_eq!(fake.asked(), 2);
}
