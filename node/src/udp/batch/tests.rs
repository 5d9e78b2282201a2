use super::*;

fn pair(v6: bool) -> (UdpSocket, UdpSocket) {
    let bind =
        || if v6 { UdpSocket::bind("[::1]:0").unwrap() } else { UdpSocket::bind("127.0.0.1:0").unwrap() };
    (bind(), bind())
}

/// Asks the kernel for the ECN mark of what arrives.
fn receive_marks(socket: &UdpSocket, v6: bool) {
    let socket = socket2::SockRef::from(socket);
    if v6 { socket.set_recv_tclass_v6(true).unwrap() } else { socket.set_recv_tos_v4(true).unwrap() }
}

fn receive_all(inbox: &mut Inbox, socket: &UdpSocket, want: usize) -> Vec<(Vec<u8>, SocketAddr, Ecn)> {
    let mut got = Vec::new();
    for _ in 0..1000 {
        inbox.receive(socket).unwrap();
        for (m, bytes) in inbox.messages() {
            got.extend(bytes.chunks(m.segment).map(|c| (c.to_vec(), m.from, m.ecn)));
        }
        if got.len() >= want {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    got
}

#[test]
fn a_run_arrives_as_its_datagrams_with_sender_and_mark() {
    for v6 in [false, true] {
        for gro in [false, true] {
            let (a, b) = pair(v6);
            receive_marks(&b, v6);
            assert!(can_send_runs(&a));
            assert!(!gro || receive_runs(&b));
            let bytes: Vec<u8> = (0..10 * 1200 + 77).map(|i| (i / 1200) as u8).collect();
            send(&a, b.local_addr().unwrap(), &bytes, 1200, Ecn::Ect0).unwrap();
            send(&a, b.local_addr().unwrap(), &[9; 5], 5, Ecn::Not).unwrap();
            let got = receive_all(&mut Inbox::new(gro), &b, 12);
            let sizes: Vec<usize> = got.iter().map(|(d, ..)| d.len()).collect();
            assert_eq!(sizes, [[1200; 10].as_slice(), &[77, 5]].concat(), "v6 {v6}, gro {gro}");
            assert!(got.iter().take(11).enumerate().all(|(i, (d, ..))| d.iter().all(|x| *x == i as u8)));
            assert!(got.iter().all(|(_, from, _)| *from == a.local_addr().unwrap()));
            let marks: Vec<Ecn> = got.iter().map(|(.., ecn)| *ecn).collect();
            assert_eq!(marks, [[Ecn::Ect0; 11].as_slice(), &[Ecn::Not]].concat());
        }
    }
}

#[test]
fn a_datagram_that_does_not_fit_is_not_half_taken() {
    let (a, b) = pair(false);
    send(&a, b.local_addr().unwrap(), &[1; 5000], 5000, Ecn::Not).unwrap();
    send(&a, b.local_addr().unwrap(), &[2; 10], 10, Ecn::Not).unwrap();
    let got = receive_all(&mut Inbox::new(false), &b, 1);
    assert_eq!(got.iter().map(|(d, ..)| d.len()).collect::<Vec<_>>(), [10]);
}

#[test]
fn pieces_that_go_one_by_one_leave_by_one_call_without_what_stands_before_them() {
    for v6 in [false, true] {
        let (a, b) = pair(v6);
        receive_marks(&b, v6);
        let bytes: Vec<u8> = (0..70 * 100 - 30).map(|i| (i / 100) as u8).collect();
        let to = b.local_addr().unwrap();
        assert_eq!(send_each(&a, to, &bytes, (100, 16), Ecn::Ect0).unwrap(), MESSAGES);
        assert_eq!(send_each(&a, to, &bytes[MESSAGES * 100..], (100, 16), Ecn::Ect0).unwrap(), 6);
        let got = receive_all(&mut Inbox::new(false), &b, 70);
        let sizes: Vec<usize> = got.iter().map(|(d, ..)| d.len()).collect();
        assert_eq!(sizes, [[84; 69].as_slice(), &[54]].concat(), "v6 {v6}");
        assert!(got.iter().enumerate().all(|(i, (d, ..))| d.iter().all(|x| *x == i as u8)));
        assert!(got.iter().all(|(_, _, ecn)| *ecn == Ecn::Ect0));
    }
}
