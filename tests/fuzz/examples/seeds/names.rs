//! Questions and upstreams' replies.

use super::{Seeds, named};

/// A name in wire form.
fn wire_name(name: &str) -> Vec<u8> {
    let labels = name.split('.').filter(|label| !label.is_empty());
    let mut wire: Vec<u8> = labels.flat_map(|l| [&[l.len() as u8], l.as_bytes()].concat()).collect();
    wire.push(0);
    wire
}

fn question(name: &str, kind: u8, more: &[u8]) -> Vec<u8> {
    let records = u8::from(!more.is_empty());
    [&[0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, records][..], &wire_name(name), &[0, kind, 0, 1], more].concat()
}

/// Every way of answering, with and without EDNS, and what is refused.
pub(super) fn dns_query() -> Seeds {
    let edns: &[u8] = &[0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 0];
    let cookie: &[u8] = &[0, 0, 41, 0x10, 0, 0, 0, 0x80, 0, 0, 12, 0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8];
    let version: &[u8] = &[0, 0, 41, 0x04, 0xd0, 0, 1, 0, 0, 0, 0];
    let mut update = question("pi.home.internal", 6, &[]);
    update[2] = 0x28;
    let mut pointer = question("a", 1, &[]);
    pointer.splice(12..15, [0xc0, 12]);
    named([
        ("own", question("pi.home.internal", 1, edns)),
        ("bare", question("PI", 28, &[])),
        ("reverse", question("1.0.71.100.in-addr.arpa", 12, cookie)),
        ("wildcard", question("x.wild.example", 1, edns)),
        ("subtree", question("a.b.deep.example", 28, edns)),
        ("alias", question("alias.home.internal", 1, &[])),
        ("circle", question("loop.home.internal", 1, edns)),
        ("any", question("mail.home.internal", 255, edns)),
        ("service", question("_sip._tcp.home.internal", 33, edns)),
        ("split", question("wiki.corp.test", 1, edns)),
        ("transfer", question("home.internal", 252, &[])),
        ("canary", question("use-application-dns.net", 1, edns)),
        ("version", question("pi.home.internal", 1, version)),
        ("update", update),
        ("pointer", pointer),
    ])
}

/// Replies to `host.test`; the first byte says to which question.
pub(super) fn dns_reply() -> Seeds {
    let reply = |which: u8, code: u8, counts: [u8; 3], records: &[u8]| {
        let kind = [1, 28, 65, 5][usize::from(which & 3)];
        let head = [0x12, 0x34, 0x81, 0x80 | code, 0, 1, 0, counts[0], 0, counts[1], 0, counts[2]];
        [&[which][..], &head, &wire_name("host.test"), &[0, kind, 0, 1], records].concat()
    };
    let record = |kind: u8, data: &[u8]| {
        [&[0xc0, 12, 0, kind, 0, 1, 0, 0, 1, 44, 0, data.len() as u8][..], data].concat()
    };
    let soa = [
        &wire_name("ns.test")[..],
        &wire_name("admin.test"),
        &[0, 0, 0, 7, 0, 0, 14, 16, 0, 0, 2, 88, 0, 1, 81, 128, 0, 0, 0, 60],
    ]
    .concat();
    let opt: &[u8] = &[0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 0];
    let alias = record(5, &wire_name("other.test"));
    let hints = [&[0, 1, 0][..], &[0, 4, 0, 4, 192, 0, 2, 1], &[0, 6, 0, 16], &[0xfd; 16]].concat();
    named([
        ("address", reply(0, 0, [1, 0, 1], &[&record(1, &[192, 0, 2, 1])[..], opt].concat())),
        ("addresses", reply(1, 0, [2, 0, 0], &[record(28, &[0xfd; 16]), record(28, &[0x20; 16])].concat())),
        ("alias", reply(0, 0, [2, 0, 1], &[&alias[..], &record(1, &[100, 71, 0, 1]), opt].concat())),
        ("no-name", reply(0, 3, [0, 1, 0], &record(6, &soa))),
        ("no-data", reply(1, 0, [1, 1, 0], &[alias.clone(), record(6, &soa)].concat())),
        ("hints", reply(2, 0, [1, 0, 1], &[&record(65, &hints)[..], opt].concat())),
        ("failure", reply(0, 2, [0, 0, 1], opt)),
        ("more-than-there-is", reply(3, 0, [9, 9, 9], &alias)),
        ("unmade", [&[4u8][..], &reply(0, 0, [1, 0, 0], &record(1, &[192, 0, 2, 1]))[1..]].concat()),
    ])
}
