//! What the forwarder must know of a packet: its id, its question as bytes, its reply code. Pure.

use hickory_proto::op::ResponseCode;

const HEADER: usize = 12;

/// A reply to our question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// To be handed to the client.
    Final(Vec<u8>),
    /// Another upstream may do better: SERVFAIL, REFUSED, NOTIMP, FORMERR.
    Poor(Vec<u8>),
}

/// What a datagram from an upstream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Answers the question.
    Ours,
    /// Answers it with other letter case in the name.
    OtherCase,
    /// Anything else: late, spoofed, broken.
    NotOurs,
}

/// The id of a packet; 0 where there is none.
pub fn id(packet: &[u8]) -> u16 {
    packet.first_chunk().map_or(0, |b: &[u8; 2]| u16::from_be_bytes(*b))
}

/// Writes the id of a packet that has one.
pub fn set_id(packet: &mut [u8], id: u16) {
    if let Some(place) = packet.first_chunk_mut() {
        *place = id.to_be_bytes();
    }
}

/// Whether `reply` answers `question`, a packet whose question section ends at `question_end`.
/// A failure code may come without the question section (RFC 1035 §4.1.1 leaves it open, and some do).
pub fn judge(question: &[u8], question_end: usize, reply: &[u8]) -> Verdict {
    let (Some(header), Some(asked)) = (reply.first_chunk::<HEADER>(), question.get(HEADER..question_end))
    else {
        return Verdict::NotOurs;
    };
    let is_reply = header[2] & 0x80 != 0;
    let same_opcode = header[2] & 0x78 == question[2] & 0x78;
    if !is_reply || !same_opcode || id(reply) != id(question) {
        return Verdict::NotOurs;
    }
    match u16::from_be_bytes([header[4], header[5]]) {
        0 if is_poor(reply) => Verdict::Ours,
        1 => match reply.get(HEADER..question_end) {
            Some(echoed) if echoed == asked => Verdict::Ours,
            // Length bytes and type are below the letters, so this only forgives letters.
            Some(echoed) if echoed.eq_ignore_ascii_case(asked) => Verdict::OtherCase,
            _ => Verdict::NotOurs,
        },
        _ => Verdict::NotOurs,
    }
}

/// Sorts a reply that was judged ours.
pub fn sort(reply: Vec<u8>) -> Reply {
    if is_poor(&reply) { Reply::Poor(reply) } else { Reply::Final(reply) }
}

/// Whether TC is set: the client must come back over TCP.
pub fn is_truncated(reply: &[u8]) -> bool {
    reply.get(2).is_some_and(|flags| flags & 0x02 != 0)
}

/// Cuts a reply that is larger than its client takes down to the question, with TC set.
pub fn cut_to(mut reply: Vec<u8>, question_end: usize, limit: usize) -> Vec<u8> {
    if reply.len() > limit && reply.len() >= question_end && question_end >= HEADER {
        reply.truncate(question_end);
        reply[2] |= 0x02;
        reply[6..HEADER].fill(0);
    }
    reply
}

/// Whether another upstream, or an older answer, may do better than this reply.
pub fn is_poor(reply: &[u8]) -> bool {
    let code = ResponseCode::from_low(reply.get(3).map_or(0, |b| b & 0x0f));
    !matches!(code, ResponseCode::NoError | ResponseCode::NXDomain)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Id 0x1234, one question `Ab. A IN`.
    const QUESTION: &[u8] = &[0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 2, b'A', b'b', 0, 0, 1, 0, 1];

    fn reply(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut reply = QUESTION.to_vec();
        reply[2] |= 0x80;
        change(&mut reply);
        reply
    }

    fn judged(change: impl FnOnce(&mut Vec<u8>)) -> Verdict {
        judge(QUESTION, QUESTION.len(), &reply(change))
    }

    #[test]
    fn a_reply_counts_only_with_our_id_and_our_question() {
        assert_eq!(judged(|_| ()), Verdict::Ours);
        assert_eq!(judged(|r| r[1] ^= 1), Verdict::NotOurs, "id");
        assert_eq!(judged(|r| r[2] &= 0x7f), Verdict::NotOurs, "a question");
        assert_eq!(judged(|r| r[2] |= 0x08), Verdict::NotOurs, "opcode");
        assert_eq!(judged(|r| r[13] = b'c'), Verdict::NotOurs, "name");
        assert_eq!(judged(|r| r[17] = 28), Verdict::NotOurs, "type");
        assert_eq!(judged(|r| r.truncate(14)), Verdict::NotOurs, "cut");
        assert_eq!(judged(|r| r[5] = 2), Verdict::NotOurs, "two questions");
        assert_eq!(judged(|r| r.clear()), Verdict::NotOurs, "nothing");
    }

    #[test]
    fn other_letter_case_is_told_from_another_name() {
        assert_eq!(judged(|r| r[13] = b'a'), Verdict::OtherCase);
    }

    #[test]
    fn a_failure_may_come_without_the_question_and_a_success_may_not() {
        let bare = |code: u8| {
            judged(|r| {
                r.truncate(12);
                r[5] = 0;
                r[3] = code;
            })
        };
        assert_eq!(bare(1), Verdict::Ours);
        assert_eq!(bare(0), Verdict::NotOurs);
        assert_eq!(bare(3), Verdict::NotOurs);
    }

    #[test]
    fn what_is_too_large_is_cut_to_its_question_with_tc() {
        let long = reply(|r| {
            r[7] = 1;
            r.extend([0; 600]);
        });
        let cut = cut_to(long.clone(), QUESTION.len(), 512);
        assert_eq!(cut.len(), QUESTION.len());
        assert!(is_truncated(&cut) && cut[7] == 0);
        assert_eq!(cut_to(long.clone(), QUESTION.len(), 4096), long);
    }
}
