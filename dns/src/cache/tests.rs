use super::*;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};

fn packet(id: u16, name: &str, edns: bool) -> Vec<u8> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    message.edns = edns.then(Edns::new);
    message.to_vec().unwrap()
}

fn reply(packet: &[u8], code: ResponseCode, answers: &[u32], soa: Option<(u32, u32)>, edns: bool) -> Vec<u8> {
    let asked = Message::from_vec(packet).unwrap();
    let name = asked.queries[0].name().clone();
    let mut message = Message::new(asked.metadata.id, MessageType::Response, OpCode::Query);
    message.metadata.response_code = code;
    message.metadata.authoritative = true;
    message.add_query(asked.queries[0].clone());
    for (n, ttl) in answers.iter().enumerate() {
        let data = RData::A(A([203, 0, 113, n as u8].into()));
        message.answers.push(Record::from_rdata(name.clone(), *ttl, data));
    }
    if let Some((ttl, minimum)) = soa {
        let data = RData::SOA(SOA::new(name.clone(), name.clone(), 1, 1, 1, 1, minimum));
        message.authorities.push(Record::from_rdata(name, ttl, data));
    }
    message.edns = edns.then(Edns::new);
    message.to_vec().unwrap()
}

struct Rig {
    cache: ReplyCache,
    start: Instant,
}

impl Rig {
    fn new() -> Self {
        #[expect(clippy::disallowed_methods, reason = "a test needs some instant to count from")]
        Self { cache: ReplyCache::new(100_000), start: Instant::now() }
    }

    fn at(&self, seconds: u64) -> Instant {
        self.start + Duration::from_secs(seconds)
    }

    fn keep(&mut self, packet: &[u8], reply: &[u8]) {
        let question = Question::read(packet).unwrap();
        self.cache.keep(&question, reply, self.start);
    }

    fn look(&mut self, packet: &[u8], seconds: u64) -> (Looked, Option<Message>) {
        let question = Question::read(packet).unwrap();
        let mut out = Vec::new();
        let looked = self.cache.look(&question, packet, self.at(seconds), &mut out);
        (looked, (!out.is_empty()).then(|| Message::from_vec(&out).unwrap()))
    }
}

#[test]
fn a_reply_is_handed_out_with_the_client_s_id_and_spelling_and_younger_ttls() {
    let mut rig = Rig::new();
    let first = packet(1, "www.example.", true);
    rig.keep(&first, &reply(&first, ResponseCode::NoError, &[300, 100], None, true));

    let second = packet(2, "WwW.Example.", false);
    let (looked, message) = rig.look(&second, 40);
    assert_eq!(looked, Looked::Fresh);
    let message = message.unwrap();
    assert_eq!(message.metadata.id, 2);
    assert_eq!(message.queries[0].name().to_string(), "WwW.Example.");
    assert_eq!(message.answers.iter().map(|r| r.ttl).collect::<Vec<_>>(), [260, 60]);
    assert!(!message.metadata.authoritative, "a cache has no authority");
    assert!(message.edns.is_none(), "EDNS only to who sent some");

    let (_, message) = rig.look(&first, 40);
    assert_eq!(message.unwrap().edns.unwrap().max_payload(), crate::query::MAX_UDP_REPLY);
    assert_eq!(rig.look(&packet(3, "other.example.", false), 40).0, Looked::Miss);
    assert_eq!(rig.look(&second, 100).0, Looked::Stale, "the shortest TTL counts");
}

#[test]
fn a_no_is_kept_as_long_as_its_soa_says_and_not_without_one() {
    let mut rig = Rig::new();
    let (gone, empty) = (packet(1, "gone.example.", false), packet(1, "empty.example.", false));
    rig.keep(&gone, &reply(&gone, ResponseCode::NXDomain, &[], Some((900, 60)), false));
    rig.keep(&empty, &reply(&empty, ResponseCode::NoError, &[], Some((15, 900)), false));
    assert_eq!(rig.look(&gone, 59).1.unwrap().metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(rig.look(&gone, 60).0, Looked::Stale);
    assert_eq!(rig.look(&empty, 14).0, Looked::Fresh);
    assert_eq!(rig.look(&empty, 15).0, Looked::Stale);

    let bare = packet(1, "bare.example.", false);
    rig.keep(&bare, &reply(&bare, ResponseCode::NXDomain, &[], None, false));
    rig.keep(&bare, &reply(&bare, ResponseCode::ServFail, &[300], None, false));
    rig.keep(&bare, &reply(&bare, ResponseCode::NoError, &[300, 0], None, false));
    let mut cut = reply(&bare, ResponseCode::NoError, &[300], None, false);
    cut[2] |= 2;
    rig.keep(&bare, &cut);
    assert_eq!(rig.look(&bare, 0).0, Looked::Miss);
}

#[test]
fn silence_is_bridged_by_what_was_true_before() {
    let mut rig = Rig::new();
    let asked = packet(1, "www.example.", true);
    rig.keep(&asked, &reply(&asked, ResponseCode::NoError, &[60], None, false));
    let question = Question::read(&asked).unwrap();
    let mut out = Vec::new();
    assert_eq!(rig.look(&asked, 100).0, Looked::Stale);
    assert!(rig.cache.write_stale(&question, &asked, rig.start + Duration::from_secs(102), &mut out));
    let stale = Message::from_vec(&out).unwrap();
    assert_eq!(stale.answers[0].ttl, STALE_TTL);
    let option = stale.edns.as_ref().unwrap().options().as_ref().first().map(|(_, o)| format!("{o:?}"));
    assert!(option.unwrap().starts_with("Unknown(15, [0, 3"), "extended error 3, stale answer");
    assert_eq!(rig.look(&asked, 105).0, Looked::Fresh, "known to be silent: at once");
    assert_eq!(rig.look(&asked, 113).0, Looked::Stale, "tried again");
    rig.cache.keep_failure(&question, rig.at(114));
    assert_eq!(rig.look(&asked, 114).0, Looked::Stale, "a failure does not forget what was known");
    assert_eq!(rig.look(&asked, 100_000).0, Looked::Miss, "more than a day late");
}

#[test]
fn a_failure_counts_for_a_moment() {
    let mut rig = Rig::new();
    let asked = packet(1, "down.example.", false);
    rig.cache.keep_failure(&Question::read(&asked).unwrap(), rig.start);
    assert_eq!(rig.look(&asked, 1).0, Looked::Failed);
    assert_eq!(rig.look(&asked, 2).0, Looked::Miss);
}

#[test]
fn one_asker_is_told_to_fetch_again_before_the_end() {
    let mut rig = Rig::new();
    let asked = packet(1, "www.example.", false);
    rig.keep(&asked, &reply(&asked, ResponseCode::NoError, &[100], None, false));
    assert_eq!(rig.look(&asked, 89).0, Looked::Fresh);
    assert_eq!(rig.look(&asked, 92).0, Looked::Ending);
    assert_eq!(rig.look(&asked, 93).0, Looked::Fresh, "once");
}

#[test]
fn memory_is_bounded_and_what_is_asked_for_stays() {
    let mut rig = Rig::new();
    let liked = packet(1, "liked.example.", false);
    rig.keep(&liked, &reply(&liked, ResponseCode::NoError, &[900], None, false));
    for n in 0..5000 {
        let asked = packet(1, &format!("n{n}.example."), false);
        rig.keep(&asked, &reply(&asked, ResponseCode::NoError, &[900], None, false));
        assert_eq!(rig.look(&liked, 1).0, Looked::Fresh, "after {n}");
        assert!(rig.cache.bytes() <= 100_000);
    }
    assert!(rig.cache.len() > 100);
    rig.cache.clear();
    assert_eq!((rig.cache.len(), rig.cache.bytes()), (0, 0));
}

#[test]
fn our_own_answers_do_not_age() {
    let mut rig = Rig::new();
    let asked = packet(1, "pi.home.internal.", true);
    let answer = reply(&asked, ResponseCode::NoError, &[60], None, true);
    rig.cache.keep_ours(&Question::read(&asked).unwrap(), &answer);
    let (looked, message) = rig.look(&asked, 10_000);
    assert_eq!((looked, message.as_ref().unwrap().answers[0].ttl), (Looked::Fresh, 60));
    assert!(message.unwrap().metadata.authoritative);

    let outside = packet(1, "www.example.", true);
    rig.keep(&outside, &reply(&outside, ResponseCode::NoError, &[60], None, false));
    rig.cache.clear_ours();
    assert_eq!((rig.look(&asked, 1).0, rig.look(&outside, 1).0), (Looked::Miss, Looked::Fresh));
}

#[test]
fn a_question_that_says_more_than_a_kept_reply_can_answer_has_no_key() {
    let plain = packet(1, "www.example.", true);
    assert!(Question::read(&plain).is_some());
    let with = |change: fn(&mut Vec<u8>)| {
        let mut packet = plain.clone();
        change(&mut packet);
        Question::read(&packet).is_some()
    };
    assert!(!with(|p| p[2] |= 0x80), "a reply");
    assert!(!with(|p| p[2] |= 0x20), "an update");
    assert!(!with(|p| p[5] = 2), "two questions");
    assert!(!with(|p| p[9] = 1), "an authority record");
    assert!(!with(|p| p.push(0)), "something behind the end");
    assert!(!with(|p| p.truncate(p.len() - 1)), "cut");
    let option = |code: u8| {
        let mut packet = plain.clone();
        let len = packet.len();
        packet[len - 1] = 4;
        packet.extend([0, code, 0, 0]);
        Question::read(&packet).is_some()
    };
    assert!(option(10), "a cookie");
    assert!(!option(8), "a client subnet");
    let flags = |byte: usize, bit: u8| {
        let mut packet = plain.clone();
        packet[byte] ^= bit;
        Question::read(&packet).unwrap().key().to_vec()
    };
    let key = Question::read(&plain).unwrap().key().to_vec();
    assert_ne!(flags(2, 1), key, "recursion desired");
    assert_ne!(flags(3, 0x10), key, "checking disabled");
    assert_ne!(flags(plain.len() - 4, 0x80), key, "DNSSEC wanted");
}

#[test]
fn hostile_replies_are_not_kept_and_do_no_harm() {
    let asked = packet(1, "www.example.", true);
    let good = reply(&asked, ResponseCode::NoError, &[60, 60], Some((60, 60)), true);
    let question = Question::read(&asked).unwrap();
    for cut in 0..good.len() {
        assert!(Kept::of_upstream(&good[..cut], question.question_end).is_none(), "cut at {cut}");
    }
    for at in 0..good.len() {
        for byte in [0, 0x3f, 0xc0, 0xff] {
            let mut bent = good.clone();
            bent[at] = byte;
            let _ = reply::addresses(&bent, question.question_end);
            if let Some(kept) = Kept::of_upstream(&bent, question.question_end) {
                kept.write(&asked, question.question_end, 1, 1, &mut Vec::new());
            }
        }
    }
}

#[test]
fn addresses_are_found_in_service_bindings_and_nowhere_missed_in_silence() {
    let asked = packet(1, "www.example.", true);
    let end = Question::read(&asked).unwrap().question_end;
    let mut head = asked[..end].to_vec();
    head[2] |= 0x80;
    head[6..12].copy_from_slice(&[0, 1, 0, 0, 0, 0]);
    let record = |kind: u8, data: &[u8]| {
        let fixed = [0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 60, 0, u8::try_from(data.len()).unwrap()];
        [&head, &fixed[..], data].concat()
    };
    // Priority 1, target `.`, alpn=h2, ipv4hint of two, ipv6hint of one.
    let v6 = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let params =
        [&[0, 1, 0, 3, 2, b'h', b'2'][..], &[0, 4, 0, 8, 100, 64, 0, 1, 9, 9, 9, 9], &[0, 6, 0, 16], &v6]
            .concat();
    let binding = record(65, &[&[0, 1, 0][..], &params].concat());
    let found = reply::addresses(&binding, end).unwrap();
    assert_eq!(found, ["100.64.0.1", "9.9.9.9", "fd00::1"].map(|ip| ip.parse::<std::net::IpAddr>().unwrap()));
    assert_eq!(reply::addresses(&record(65, &[0, 1, 0, 0, 4, 0, 200, 1]), end), None, "cut short");
    assert_eq!(reply::addresses(&record(1, &[9, 9, 9]), end), None, "no address");
    let mut many = record(1, &[9, 9, 9, 9]);
    many[6..8].copy_from_slice(&1100_u16.to_be_bytes());
    assert_eq!(reply::addresses(&many, end), None, "more than are looked at");
    assert_eq!(reply::addresses(&record(1, &[9, 9, 9, 9]), end), Some(vec![[9, 9, 9, 9].into()]));
}
