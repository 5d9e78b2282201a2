use super::*;
use crate::answer::{Answer, reject};
use hickory_proto::op::{Message, MessageType};
use hickory_proto::rr::{Name, RData, Record, rdata::A};
use proptest::prelude::*;

fn packet(change: impl FnOnce(&mut Message)) -> Vec<u8> {
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii("Pi.Home.internal.").unwrap(), RecordType::A));
    change(&mut message);
    message.to_vec().unwrap()
}

fn with_edns(size: u16) -> Vec<u8> {
    packet(|m| {
        let mut edns = Edns::new();
        edns.set_max_payload(size).set_dnssec_ok(true);
        m.set_edns(edns);
    })
}

fn code(packet: &[u8]) -> Option<ResponseCode> {
    match ClientQuery::parse(packet) {
        Err(QueryError::Reject { code, .. }) => Some(code),
        _ => None,
    }
}

fn many(n: u8) -> Answer {
    let owner: Name = "pi.home.internal.".parse().unwrap();
    let record = |i| Record::from_rdata(owner.clone(), 60, RData::A(A([192, 0, 2, i].into())));
    Answer { records: (0..n).map(record).collect(), ..Answer::code(ResponseCode::NoError) }
}

#[test]
fn a_question_is_read_with_its_spelling_and_found_in_lower_case() {
    let bytes = packet(|_| ());
    let query = ClientQuery::parse(&bytes).unwrap();
    assert_eq!(query.question.name().to_string(), "Pi.Home.internal.");
    assert_eq!(query.name.to_string(), "pi.home.internal.");
    assert_eq!((query.question_end, query.edns, query.udp_limit()), (bytes.len(), None, 512));
    assert!(query.metadata.recursion_desired);
}

#[test]
fn a_reply_has_edns_if_and_only_if_the_question_had() {
    for (packet, edns) in [(packet(|_| ()), false), (with_edns(4096), true)] {
        let query = ClientQuery::parse(&packet).unwrap();
        let reply = Message::from_vec(&many(1).to_udp(&query)).unwrap();
        assert_eq!(reply.edns.is_some(), edns);
        assert_eq!((reply.metadata.id, reply.answers.len()), (0x1234, 1));
        assert_eq!(
            reply.queries[0].name().to_string(),
            "Pi.Home.internal.",
            "0x20: the client's own spelling"
        );
        assert!(reply.metadata.recursion_desired && reply.metadata.recursion_available);
        assert_eq!(reply.edns.is_some_and(|e| e.flags().dnssec_ok), edns);
    }
}

#[test]
fn a_reply_is_cut_at_the_clients_size_with_tc() {
    for (packet, fits, limit) in [
        (packet(|_| ()), 29, 512),
        (with_edns(600), 34, 600),
        (with_edns(65_535), 73, 1232),
        (with_edns(0), 28, 512),
    ] {
        let query = ClientQuery::parse(&packet).unwrap();
        let full = many(fits).to_udp(&query);
        assert!(full.len() <= limit && full.len() + 16 > limit, "{} of {limit}", full.len());
        let cut = many(fits + 1).to_udp(&query);
        let reply = Message::from_vec(&cut).unwrap();
        assert!(reply.metadata.truncation && reply.answers.is_empty());
        assert_eq!(reply.edns.is_some(), query.edns.is_some(), "EDNS stays");
    }
}

#[test]
fn replies_and_stumps_get_no_answer() {
    assert_eq!(ClientQuery::parse(&[]).unwrap_err(), QueryError::Silent);
    assert_eq!(ClientQuery::parse(&packet(|_| ())[..11]).unwrap_err(), QueryError::Silent);
    let reply = packet(|m| m.metadata.message_type = MessageType::Response);
    assert_eq!(ClientQuery::parse(&reply).unwrap_err(), QueryError::Silent);
}

#[test]
fn what_is_no_single_question_is_a_format_error() {
    assert_eq!(code(&packet(|m| m.queries.clear())), Some(ResponseCode::FormErr));
    assert_eq!(code(&packet(|m| m.queries.push(m.queries[0].clone()))), Some(ResponseCode::FormErr));
    let good = with_edns(1232);
    for len in 12..good.len() {
        assert_eq!(code(&good[..len]), Some(ResponseCode::FormErr), "cut at {len}");
    }
    let mut pointer = packet(|_| ());
    pointer.splice(12.., [0xc0, 0x0c, 0, 1, 0, 1]);
    assert_eq!(code(&pointer), Some(ResponseCode::FormErr), "a name that points to itself");
    let mut claims = packet(|_| ());
    claims[6..12].fill(0xff);
    assert_eq!(code(&claims), Some(ResponseCode::FormErr), "counts nobody has");
    let mut two_opts = with_edns(1232);
    let opt = two_opts[two_opts.len() - 11..].to_vec();
    two_opts.extend(opt);
    two_opts[11] = 2;
    assert_eq!(code(&two_opts), Some(ResponseCode::FormErr), "RFC 6891 §6.1.1");
    let mut long = packet(|_| ());
    long.resize(MAX_QUERY + 1, 0);
    assert_eq!(code(&long), Some(ResponseCode::FormErr));
}

#[test]
fn other_opcodes_and_edns_versions_are_told_so() {
    assert_eq!(code(&packet(|m| m.metadata.op_code = OpCode::Update)), Some(ResponseCode::NotImp));
    let newer = packet(|m| {
        let mut edns = Edns::new();
        edns.set_version(1);
        m.set_edns(edns);
    });
    let Err(QueryError::Reject { metadata, code }) = ClientQuery::parse(&newer) else { panic!("taken") };
    let reply = Message::from_vec(&reject(&metadata, code)).unwrap();
    assert_eq!(reply.edns.map(|e| (e.version(), e.rcode_high())), Some((0, 1)), "BADVERS");
    assert_eq!(reply.metadata.id, 0x1234);
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic_and_every_question_can_be_answered(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        check(&bytes);
    }

    #[test]
    fn nor_do_changed_questions(at in 0usize..60, value: u8) {
        let mut bytes = with_edns(1232);
        let at = at % bytes.len();
        bytes[at] = value;
        check(&bytes);
    }
}

fn check(bytes: &[u8]) {
    match ClientQuery::parse(bytes) {
        Ok(query) => {
            let reply = Answer::code(ResponseCode::NXDomain).to_udp(&query);
            assert!(reply.len() <= query.udp_limit());
            assert!(Message::from_vec(&reply).is_ok());
        }
        Err(QueryError::Reject { metadata, code }) => {
            assert!(Message::from_vec(&reject(&metadata, code)).is_ok());
        }
        Err(QueryError::Silent) => (),
    }
}
