use super::hints::HintBoard;
use meshd_proto::{Endpoint, NodeId, UnixSeconds};
use std::time::{Duration, Instant};

const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);
const C: NodeId = NodeId(3);
const WALL: UnixSeconds = UnixSeconds(1_800_000_000);

#[expect(clippy::disallowed_methods, reason = "a test needs some instant to begin with")]
fn now() -> Instant {
    Instant::now()
}

fn at(port: u16) -> Vec<Endpoint> {
    vec![Endpoint(([192, 0, 2, 1], port).into())]
}

#[test]
fn hints_go_to_who_asked_lately_and_to_nobody_else() {
    let (mut board, now) = (HintBoard::default(), now());
    assert!(board.place(A, at(1), None, WALL, now).is_empty());
    assert!(board.want(B, A, now), "interest starts");
    assert!(!board.want(B, A, now), "and is renewed");
    assert_eq!(board.place(A, at(2), None, WALL, now), [B]);
    assert!(board.place(A, at(2), None, WALL, now).is_empty(), "nothing new");
    assert_eq!(board.place(B, at(3), None, WALL, now), [A], "who is asked for must answer");
    let later = now + Duration::from_secs(301);
    assert!(board.place(A, at(4), None, WALL, later).is_empty(), "nobody renewed it");
    assert!(board.want(B, A, later), "it starts again");
    board.forget_interest(B);
    assert!(board.place(A, at(5), None, WALL, later).is_empty(), "its session has ended");
    assert!(board.place(C, at(6), None, WALL, later).is_empty());
}

#[test]
fn the_sequence_grows_over_a_restart() {
    let now = now();
    let mut before = HintBoard::default();
    for port in 1..50 {
        before.place(A, at(port), None, WALL, now);
    }
    let last = before.hint(A).unwrap().seq;
    let mut after = HintBoard::default();
    after.set_online(A, true, UnixSeconds(WALL.0 + 1), now);
    assert!(after.hint(A).unwrap().seq > last);
}

#[test]
fn what_cannot_be_sent_to_is_not_passed_on() {
    let (mut board, now) = (HintBoard::default(), now());
    let mut endpoints = at(0);
    endpoints.push(Endpoint(([224, 0, 0, 1], 5).into()));
    endpoints.extend((1..200).flat_map(at));
    board.place(A, endpoints, None, WALL, now);
    let kept = &board.hint(A).unwrap().endpoints;
    assert!(kept.len() <= meshd_proto::limits::MAX_ENDPOINTS && kept.iter().all(Endpoint::is_sendable));
}

#[test]
fn interest_is_bounded() {
    let (mut board, now) = (HintBoard::default(), now());
    for i in 0..2 * meshd_proto::limits::MAX_INTEREST as u64 {
        board.want(A, NodeId(100 + i), now + Duration::from_millis(i));
    }
    let known = (0..2 * meshd_proto::limits::MAX_INTEREST as u64)
        .filter(|i| board.place(NodeId(100 + i), at(9), None, WALL, now).contains(&A))
        .count();
    assert!(known <= meshd_proto::limits::MAX_INTEREST, "{known}");
}
