use super::*;
use meshd_proto::localapi::{
    CoordinatorStatus, Counter, DnsStatus, NameAnswer, PeerStatus, PrefixList, Problem, SelfStatus, Settings,
    SplitStatus, Status, UnusedRoute,
};

fn sample() -> Status {
    Status {
        state: "up".into(),
        version: "0.1.0".into(),
        me: Some(SelfStatus {
            id: 2,
            name: "laptop".into(),
            fqdn: "laptop.home.internal".into(),
            addresses: vec!["100.71.0.3".into(), "fd7a::3".into()],
            pending_routes: vec!["10.9.0.0/24".into()],
            ..SelfStatus::default()
        }),
        coordinator: Some(CoordinatorStatus {
            address: "203.0.113.1:443".into(),
            connected: true,
            map_version: 12,
            ..CoordinatorStatus::default()
        }),
        peers: vec![
            PeerStatus {
                name: "pi".into(),
                addresses: vec!["100.71.0.2".into()],
                path: "direct".into(),
                via: "198.51.100.7:41820".into(),
                rtt_us: Some(12_340),
                handshake_age: Some(61),
                rx_bytes: 1_048_576,
                tx_bytes: 900,
                routes: vec!["192.168.1.0/24".into()],
                ..PeerStatus::default()
            },
            PeerStatus {
                name: "phone".into(),
                addresses: vec!["100.71.0.9".into()],
                path: "none".into(),
                ..PeerStatus::default()
            },
        ],
        dns: Some(DnsStatus {
            mode: "resolv.conf".into(),
            resolver: "100.71.0.53".into(),
            domain: "home.internal".into(),
            ..DnsStatus::default()
        }),
        problems: vec![Problem {
            what: "forwarding".into(),
            why: "Docker drops forwarded packets".into(),
            help: "meshd set --firewall assist".into(),
        }],
        ..Status::default()
    }
}

#[test]
fn status_is_aligned_and_says_what_to_do() {
    insta::assert_snapshot!(status(&sample(), Style::Plain));
}

#[test]
fn routes_say_how_to_approve_what_is_pending() {
    insta::assert_snapshot!(routes(&sample(), Style::Plain));
    assert!(routes(&Status::default(), Style::Plain).contains("--advertise-routes"));
}

#[test]
fn a_drained_router_and_routes_that_are_not_used_say_so() {
    let mut drained = sample();
    let me = drained.me.as_mut().unwrap();
    me.draining = true;
    me.approved_routes = vec!["10.5.0.0/16".into()];
    drained.peers[0].routes.push("10.6.0.0/16".into());
    drained.peers[0].unused_routes =
        vec![UnusedRoute { prefix: "192.168.1.0/24".into(), why: "this network is here, too".into() }];
    drained.peers[1].routes = vec!["10.7.0.0/16".into()];
    drained.peers[1].unused_routes =
        vec![UnusedRoute { prefix: "10.7.0.0/16".into(), why: "phone is offline".into() }];
    insta::assert_snapshot!(status(&drained, Style::Plain));
    insta::assert_snapshot!(routes(&drained, Style::Plain));
}

#[test]
fn set_says_what_is_set_and_whether_it_waits_for_approval() {
    let list = |all: &[&str]| Some(PrefixList { prefixes: all.iter().map(ToString::to_string).collect() });
    let mut now = sample();
    now.problems.clear();
    let me = now.me.as_mut().unwrap();
    me.approved_routes = vec!["10.5.0.0/16".into()];
    me.pending_routes.extend(["0.0.0.0/0".into(), "::/0".into()]);
    let patch = Settings {
        advertise_routes: list(&["10.5.0.0/16", "10.9.0.0/24"]),
        advertise_exit_node: Some(true),
        hostname: Some("bar".into()),
        snat: Some(false),
        prefer_mesh: list(&["192.168.1.0/24"]),
        dns: Some("names".into()),
        ..Settings::default()
    };
    assert!(told::is_known(&patch, &now));
    let late = Settings { advertise_routes: list(&["10.77.0.0/16"]), ..Settings::default() };
    assert!(!told::is_known(&late, &now), "the coordinator has not heard of it yet");
    insta::assert_snapshot!(told::told(&patch, &now, Style::Plain));
    // An exit that carries nothing: what `status` says of it is said at once.
    now.problems = vec![Problem {
        what: "pi is no exit for this node".into(),
        why: "internet traffic is blocked".into(),
        help: "meshd set --exit-node=\"\"".into(),
    }];
    let exit = Settings { exit_node: Some("pi".into()), ..Settings::default() };
    insta::assert_snapshot!(told::told(&exit, &now, Style::Plain));
    // Nobody to ask: it does not wait, and says so.
    now.problems.clear();
    now.coordinator.as_mut().unwrap().connected = false;
    assert!(told::is_known(&late, &now));
    insta::assert_snapshot!(told::told(&late, &now, Style::Plain));
    let down = Status { state: "stopped".into(), ..Status::default() };
    assert!(told::is_known(&late, &down));
    insta::assert_snapshot!(told::told(&late, &down, Style::Plain));
}

#[test]
fn before_the_first_map_nothing_is_said_of_names() {
    let dns = DnsStatus { mode: "off".into(), ..DnsStatus::default() };
    let early = Status { state: "connecting".into(), dns: Some(dns.clone()), ..Status::default() };
    assert_eq!(status(&early, Style::Plain), "meshd  connecting\n");
    assert!(names::status(&dns).starts_with("resolver     none yet (off)\n"));
    let wrong = DnsStatus { problem: "resolv.conf is read-only".into(), ..dns };
    let told = status(&Status { dns: Some(wrong), ..early }, Style::Plain);
    assert!(told.contains("dns          resolv.conf is read-only"), "{told}");
}

#[test]
fn colour_appears_only_when_asked_for() {
    assert!(!status(&sample(), Style::Plain).contains('\x1b'));
    assert!(status(&sample(), Style::Colour).contains('\x1b'));
}

#[test]
fn numbers_are_for_people() {
    assert_eq!([bytes(900), bytes(1536), bytes(3 << 30)], ["900 B", "1.5 KiB", "3.0 GiB"]);
    assert_eq!([ago(61), ago(3600), ago(8000), ago(200_000)], ["61 s", "60 min", "2 h", "2 d"]);
    assert_eq!(millis(12_340), "12.3 ms");
}

#[test]
fn an_error_carries_its_hint_and_exit_status() {
    let error = anyhow::Error::new(CliError { message: "no root".into(), hint: "use sudo".into(), code: 77 });
    assert_eq!(failure(&error, Style::Plain), "error: no root\nhint:  use sudo\n");
    assert_eq!(exit_code(&error), 77);
    let wanted = serde_json::json!({ "error": "no root", "hint": "use sudo", "exit_status": 77 });
    assert_eq!(failure_json(&error), wanted);
}

#[test]
fn names_say_where_they_come_from() {
    let answer = NameAnswer {
        steps: vec![
            "wiki.home.internal. is an alias of www.example. in the mesh's zone home.internal.".into(),
            "www.example. is not ours: the host's own resolvers are asked".into(),
        ],
        code: "No Error".into(),
        authoritative: false,
        records: vec!["www.example. 60 IN A 203.0.113.1".into()],
        why: String::new(),
        took_us: 1500,
    };
    insta::assert_snapshot!(names::explained(&answer, "1.5 ms"));
    let refused = NameAnswer {
        records: vec![],
        why: "no upstream resolver answered".into(),
        code: "SERVFAIL".into(),
        ..answer
    };
    assert_eq!(names::answer(&refused), "no such record: SERVFAIL: no upstream resolver answered\n");
    let dns = DnsStatus {
        mode: "resolv.conf".into(),
        resolver: "100.71.0.53".into(),
        domain: "home.internal".into(),
        upstreams: vec!["192.168.1.1:53".into()],
        split: vec![SplitStatus { domain: "corp.example".into(), resolvers: vec!["10.0.0.1:53".into()] }],
        counters: vec![Counter { name: "from the mesh".into(), count: 3 }],
        cached_replies: 12,
        cached_bytes: 4096,
        ..DnsStatus::default()
    };
    insta::assert_snapshot!(names::status(&dns));
}

#[test]
fn counters_are_shown_by_peer_by_rule_and_by_reason() {
    let mut status = sample();
    status.rules = vec![
        meshd_proto::localapi::RuleStatus { line: 12, flows: 3, packets: 4_000, bytes: 5_000_000 },
        meshd_proto::localapi::RuleStatus { line: 40, flows: 1, packets: 2, bytes: 120 },
    ];
    status.drops = vec![Counter { name: "denied".into(), count: 7 }];
    insta::assert_snapshot!(counters(&status, Style::Plain));
    assert_eq!(
        counters(&Status::default(), Style::Plain),
        "no peer has sent or received anything\n\nno rule of the policy has let anything in\n\nnothing was dropped\n"
    );
}
