//! Two stacks joined by a wire that can be slow, lossy or cut.

use super::{Forwarder, Limits, Netstack, NetstackThread, TcpStream};
use crate::clock;
use std::collections::VecDeque;
use std::io::{ErrorKind, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const A4: &str = "100.64.0.1";
const B4: &str = "100.64.0.2";
const A6: &str = "fd00::1";
const B6: &str = "fd00::2";
const PATIENCE: Duration = Duration::from_secs(20);

/// What the wire does to packets.
#[derive(Default)]
struct Wire {
    delay: Duration,
    /// One packet of so many is lost; 0: none.
    loss: u32,
    cut: AtomicBool,
    stop: AtomicBool,
    count: AtomicU32,
}

struct Pair {
    a: NetstackThread,
    b: NetstackThread,
    wire: Arc<Wire>,
    pump: Option<JoinHandle<()>>,
}

impl Pair {
    fn new(wire: Wire, limits: Limits) -> Self {
        let start = |own: [&str; 2]| {
            let (stack, thread) = Netstack::start(1380, limits).unwrap();
            stack.set_addrs(own.map(|ip| ip.parse::<IpAddr>().unwrap()), []);
            thread
        };
        let (a, b, wire) = (start([A4, A6]), start([B4, B6]), Arc::new(wire));
        let ends = [a.stack().clone(), b.stack().clone()];
        let shared = Arc::clone(&wire);
        let pump = std::thread::spawn(move || shared.run(&ends));
        Self { a, b, wire, pump: Some(pump) }
    }

    async fn connected(&self, port: u16) -> (TcpStream, TcpStream) {
        let listener = self.b.stack().listen(port).unwrap();
        let dial = self.a.stack().connect(at(B4, port), PATIENCE);
        let (here, there) = tokio::join!(dial, listener.accept());
        (here.unwrap(), there.unwrap().0)
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.wire.stop.store(true, Ordering::Release);
        self.pump.take().into_iter().for_each(|pump| pump.join().unwrap());
    }
}

impl Wire {
    fn run(&self, ends: &[Netstack; 2]) {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut room = vec![0; 2048];
        let mut under_way: VecDeque<(Instant, usize, Vec<u8>)> = VecDeque::new();
        while !self.stop.load(Ordering::Acquire) {
            let fds = ends.each_ref().map(Netstack::packets_wait);
            let wait = if under_way.is_empty() { 20_000_000 } else { 200_000 };
            let mut polled = fds.each_ref().map(|fd| PollFd::new(fd, PollFlags::IN));
            poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: wait })).unwrap();
            let now = clock::now();
            for (from, end) in ends.iter().enumerate() {
                while let Some(len) = end.next_packet(&mut room) {
                    let count = self.count.fetch_add(1, Ordering::Relaxed) + 1;
                    let lost = self.loss > 0 && count.is_multiple_of(self.loss);
                    if !lost && !self.cut.load(Ordering::Acquire) {
                        under_way.push_back((now + self.delay, 1 - from, room[..len].to_vec()));
                    }
                }
            }
            while under_way.front().is_some_and(|(due, ..)| *due <= now) {
                let (_, to, packet) = under_way.pop_front().unwrap();
                ends[to].deliver(&[IoSlice::new(&packet)]);
            }
        }
    }
}

fn at(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), port)
}

/// Bytes that differ from their neighbours at every distance that matters.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + i / 251 + i / 65_537) as u8).collect()
}

async fn transfer(mut from: TcpStream, mut to: TcpStream, data: &[u8]) {
    let send = async {
        from.write_all(data).await.unwrap();
        from.shutdown().await.unwrap();
        from
    };
    let receive = async {
        let mut got = Vec::new();
        to.read_to_end(&mut got).await.unwrap();
        assert!(got == data, "{} of {} bytes, or other ones", got.len(), data.len());
    };
    tokio::join!(send, receive);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_megabytes_go_each_way_at_once_whole_and_both_ends_learn_of_the_end() {
    let pair = Pair::new(Wire::default(), Limits::default());
    let (here, there) = pair.connected(80).await;
    let data = pattern(10_000_000);
    let (mut r1, mut w1) = tokio::io::split(here);
    let (mut r2, mut w2) = tokio::io::split(there);
    let began = clock::now();
    let write = async |w: &mut tokio::io::WriteHalf<TcpStream>| {
        w.write_all(&data).await.unwrap();
        w.shutdown().await.unwrap();
    };
    let read = async |r: &mut tokio::io::ReadHalf<TcpStream>| {
        let mut got = Vec::new();
        r.read_to_end(&mut got).await.unwrap();
        assert!(got == data, "{} bytes, or other ones", got.len());
    };
    tokio::join!(write(&mut w1), write(&mut w2), read(&mut r1), read(&mut r2));
    println!("2 × 10 MB in {:?}", clock::now() - began);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_path_is_filled_and_a_lossy_one_loses_no_byte() {
    let slow = Pair::new(Wire { delay: Duration::from_millis(25), ..Wire::default() }, Limits::default());
    let (here, there) = slow.connected(80).await;
    let began = clock::now();
    transfer(here, there, &pattern(10_000_000)).await;
    let took = clock::now() - began;
    println!("10 MB at 50 ms round trip in {took:?}");
    // With a window of 64 KiB it would take 7.6 s at the very least.
    assert!(took < Duration::from_secs(6), "{took:?}");
    let lossy = Pair::new(Wire { loss: 97, ..Wire::default() }, Limits::default());
    let (here, there) = lossy.connected(80).await;
    transfer(here, there, &pattern(500_000)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_direction_leaves_the_other_one_open() {
    let pair = Pair::new(Wire::default(), Limits::default());
    let (mut here, mut there) = pair.connected(80).await;
    here.write_all(b"question").await.unwrap();
    here.shutdown().await.unwrap();
    assert_eq!(here.write(b"x").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
    let mut got = String::new();
    there.read_to_string(&mut got).await.unwrap();
    assert_eq!(got, "question");
    there.write_all(b"answer").await.unwrap();
    drop(there);
    let mut got = String::new();
    here.read_to_string(&mut got).await.unwrap();
    assert_eq!(got, "answer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_resets_and_silence_are_three_different_errors() {
    let limits = Limits { dead_after: Duration::from_secs(2), ..Limits::default() };
    let pair = Pair::new(Wire::default(), limits);
    let a = pair.a.stack();
    let refused = a.connect(at(B6, 9), PATIENCE).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);

    let (mut here, there) = pair.connected(80).await;
    there.abort();
    let reset = here.read(&mut [0; 9]).await.unwrap_err();
    assert_eq!(reset.kind(), ErrorKind::ConnectionReset);
    drop((here, there));

    // Unread data makes a dropped stream a reset, too.
    let (mut here, there) = pair.connected(80).await;
    here.write_all(b"never read").await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop(there);
    assert_eq!(here.read(&mut [0; 9]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);

    // Nobody says anything any more: the reader hears of it, although it never sends.
    let (mut here, _there) = pair.connected(80).await;
    pair.wire.cut.store(true, Ordering::Release);
    let dead = tokio::time::timeout(PATIENCE, here.read(&mut [0; 9])).await.unwrap().unwrap_err();
    assert_eq!(dead.kind(), ErrorKind::TimedOut);
    let silent = a.connect(at(B4, 80), Duration::from_millis(200)).await.unwrap_err();
    assert_eq!(silent.kind(), ErrorKind::TimedOut);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_stops_stops_the_writer_and_nothing_grows() {
    let pair = Pair::new(Wire::default(), Limits { tcp_buffer: 64 << 10, ..Limits::default() });
    let (mut here, mut there) = pair.connected(80).await;
    let chunk = vec![7; 16 << 10];
    let mut sent = 0;
    while let Ok(len) = tokio::time::timeout(Duration::from_millis(400), here.write(&chunk)).await {
        sent += len.unwrap();
        assert!(sent <= 128 << 10, "more than both buffers hold");
    }
    assert!(sent >= 100 << 10, "{sent} bytes fit");
    let mut got = vec![0; sent];
    there.read_exact(&mut got).await.unwrap();
    tokio::time::timeout(PATIENCE, here.write(&chunk)).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_beyond_the_limit_are_refused_and_ended_ones_make_room() {
    let pair = Pair::new(Wire::default(), Limits { connections: 3, ..Limits::default() });
    let listener = pair.b.stack().listen(80).unwrap();
    let mut open = Vec::new();
    for _ in 0..3 {
        let (here, there) = tokio::join!(pair.a.stack().connect(at(B4, 80), PATIENCE), listener.accept());
        open.push((here.unwrap(), there.unwrap()));
    }
    let more = pair.a.stack().connect(at(B4, 80), PATIENCE).await.unwrap_err();
    assert_eq!(more.kind(), ErrorKind::QuotaExceeded);
    for (here, (there, _)) in open {
        here.abort();
        drop((here, there));
    }
    for _ in 0..100 {
        if let Ok(again) = pair.a.stack().connect(at(B4, 80), Duration::from_millis(100)).await {
            assert_eq!(again.peer_addr(), at(B4, 80));
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("no room again: {:?} {:?}", pair.a.stack().in_use(), pair.b.stack().in_use());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn datagrams_keep_their_borders_and_an_idle_stack_stands_still() {
    let pair = Pair::new(Wire::default(), Limits::default());
    let here = pair.a.stack().udp_bind(0).unwrap();
    let there = pair.b.stack().udp_bind(5353).unwrap();
    assert_eq!(pair.b.stack().udp_bind(5353).unwrap_err().kind(), ErrorKind::AddrInUse);
    for (a, b) in [(A4, B4), (A6, B6)] {
        for data in [b"".as_slice(), b"one", b"three"] {
            here.send_to(data, at(b, 5353)).await.unwrap();
            let mut room = [0; 64];
            let (len, from) = there.recv_from(&mut room).await.unwrap();
            assert_eq!((&room[..len], from), (data, at(a, here.port())));
        }
    }
    let (_kept, _open) = pair.connected(80).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let before = pair.a.stack().turns();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let turns = pair.a.stack().turns() - before;
    assert!(turns <= 2, "{turns} turns in half a second without work");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_behind_a_node_is_reached_and_its_refusal_comes_through() {
    let pair = Pair::new(Wire::default(), Limits::default());
    let _forwarder = Forwarder::start(pair.b.stack(), 1380);
    // The host itself stands for what lies behind the node.
    let tcp = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = tcp.local_addr().unwrap().port();
    let dial = pair.a.stack().connect(at("127.0.0.1", port), PATIENCE);
    let (here, there) = tokio::join!(dial, tcp.accept());
    let (mut here, (mut there, _)) = (here.unwrap(), there.unwrap());
    here.write_all(b"hello").await.unwrap();
    here.shutdown().await.unwrap();
    let mut got = String::new();
    there.read_to_string(&mut got).await.unwrap();
    there.write_all(&pattern(300_000)).await.unwrap();
    drop(there);
    let mut answer = Vec::new();
    here.read_to_end(&mut answer).await.unwrap();
    assert!(got == "hello" && answer == pattern(300_000));

    drop(tcp);
    let refused = pair.a.stack().connect(at("127.0.0.1", port), PATIENCE).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);

    let udp = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let to = udp.local_addr().unwrap();
    let socket = pair.a.stack().udp_bind(0).unwrap();
    for round in 0..3_u8 {
        socket.send_to(&[round; 40], to).await.unwrap();
        let mut room = [0; 100];
        let (len, from) = udp.recv_from(&mut room).await.unwrap();
        assert_eq!(&room[..len], &[round; 40]);
        udp.send_to(&[round; 50], from).await.unwrap();
        let (len, from) = socket.recv_from(&mut room).await.unwrap();
        assert_eq!((&room[..len], from), ([round; 50].as_slice(), to));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stack_that_stops_ends_what_uses_it() {
    let (stack, thread) = Netstack::start(1380, Limits::default()).unwrap();
    stack.set_addrs([A4.parse().unwrap()], []);
    let listener = stack.listen(81).unwrap();
    let socket = stack.udp_bind(0).unwrap();
    let mut room = [0; 8];
    let stop = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        drop(thread);
    };
    let dial = stack.connect(at(B4, 80), PATIENCE);
    let (accepted, received, dialed, ()) =
        tokio::join!(listener.accept(), socket.recv_from(&mut room), dial, stop);
    for error in [accepted.unwrap_err(), received.unwrap_err(), dialed.unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::NotConnected, "{error}");
    }
    assert_eq!(stack.listen(82).unwrap_err().kind(), ErrorKind::NotConnected);
}
