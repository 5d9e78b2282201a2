use super::*;
use std::net::UdpSocket;
use std::time::Duration;

fn pair_of(ip: &str) -> UdpSocket {
    let socket = UdpSocket::bind((ip, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket
}

#[test]
fn each_reply_goes_to_whoever_asked_in_both_families() {
    for ip in ["127.0.0.1", "::1"] {
        let server = pair_of(ip);
        let to = server.local_addr().unwrap();
        let clients: Vec<UdpSocket> = (0..MESSAGES + 3).map(|_| pair_of(ip)).collect();
        for (n, client) in clients.iter().enumerate() {
            client.send_to(&[n as u8, 1, 2], to).unwrap();
        }
        let (mut inbox, mut outbox) = (Inbox::default(), Outbox::default());
        let mut counts = Vec::new();
        for _ in 0..2 {
            inbox.receive(&server).unwrap();
            for place in 0..inbox.count() {
                let (from, bytes) = inbox.question(place).unwrap();
                assert_eq!(from, clients[usize::from(bytes[0])].local_addr().unwrap());
                let bytes = bytes.to_vec();
                let reply = outbox.next();
                reply.clear();
                reply.extend_from_slice(&bytes);
                // Every third one gets none.
                if bytes[0] % 3 != 0 {
                    outbox.answers(place);
                }
            }
            outbox.send(&server, &inbox);
            counts.push(inbox.count());
        }
        assert_eq!(counts, [MESSAGES, 3]);
        assert_eq!(inbox.receive(&server).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let mut buffer = [0; 16];
        for (n, client) in clients.iter().enumerate() {
            if n % 3 == 0 {
                client.set_nonblocking(true).unwrap();
                assert!(client.recv(&mut buffer).is_err(), "{n} got a reply that was not for it");
            } else {
                let len = client.recv(&mut buffer).unwrap();
                assert_eq!(buffer[..len], [n as u8, 1, 2]);
            }
        }
    }
}

#[test]
fn a_datagram_that_is_too_long_is_seen_to_be_and_one_client_that_is_gone_holds_nobody_up() {
    let server = pair_of("127.0.0.1");
    let to = server.local_addr().unwrap();
    let (long, gone, last) = (pair_of("127.0.0.1"), pair_of("127.0.0.1"), pair_of("127.0.0.1"));
    long.send_to(&vec![7; ROOM + 100], to).unwrap();
    gone.send_to(&[8], to).unwrap();
    drop(gone);
    last.send_to(&[9], to).unwrap();
    let (mut inbox, mut outbox) = (Inbox::default(), Outbox::default());
    inbox.receive(&server).unwrap();
    let lens: Vec<usize> = (0..inbox.count()).map(|p| inbox.question(p).unwrap().1.len()).collect();
    assert_eq!(lens, [ROOM, 1, 1]);
    for place in 0..3 {
        outbox.next().clear();
        // The first reply is longer than a datagram may be: the kernel refuses it.
        outbox.next().resize(if place == 0 { 70_000 } else { 5 }, 0);
        outbox.answers(place);
    }
    outbox.send(&server, &inbox);
    assert_eq!(last.recv(&mut [0; 16]).unwrap(), 5);
}
