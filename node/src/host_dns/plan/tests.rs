use super::*;
use crate::host_dns::resolv_conf::ResolvConf;

fn desired() -> DnsDesired {
    DnsDesired {
        interface: "mesh0".into(),
        ifindex: 7,
        resolver: MeshAddrs { v4: [100, 71, 0, 53].into(), v6: "fd7a:1:2::53".parse().unwrap() },
        search: vec!["home.internal".parse().unwrap(), "lan".parse().unwrap()],
        routing: vec!["71.100.in-addr.arpa".parse().unwrap(), "lan".parse().unwrap()],
        everything: false,
        probe: ("pi.home.internal".parse().unwrap(), [100, 71, 0, 1].into()),
    }
}

fn file(text: &str) -> Content {
    Content::File { bytes: text.as_bytes().to_vec(), mode: 0o640, uid: 3, gid: 4 }
}

#[test]
fn a_plain_file_is_replaced_with_its_mode_and_owner_and_then_left_alone() {
    let original = file("nameserver 192.168.1.1\n");
    let plain = |current: Content| Detected::Plain { current, original: original.clone() };
    let changes = plan(&plain(original.clone()), &desired());
    let [DnsChange::WriteResolvConf { content, original: kept }] = &changes[..] else {
        panic!("{changes:?}")
    };
    assert_eq!(*kept, original);
    insta::assert_debug_snapshot!(content, @r"
    File 0640 3:4
    # Written by meshd: 100.71.0.53 answers names of the mesh and sends all others on.
    # `meshd down` and `meshd cleanup` put back what was here before, which is kept below.
    nameserver 100.71.0.53
    search home.internal lan
    #| nameserver 192.168.1.1
    ");
    assert_eq!(plan(&plain(content.clone()), &desired()), []);
}

#[test]
fn a_missing_file_is_made_and_will_be_removed() {
    let changes = plan(&Detected::Plain { current: Content::Absent, original: Content::Absent }, &desired());
    let [DnsChange::WriteResolvConf { content, original: Content::Absent }] = &changes[..] else { panic!() };
    assert!(matches!(content, Content::File { mode: 0o644, uid: 0, gid: 0, .. }));
}

#[test]
fn resolved_gets_the_link_with_search_and_routing_domains() {
    let detected = Detected::Resolved { uplinks: ResolvConf::default() };
    insta::assert_debug_snapshot!(plan(&detected, &desired()), @r#"
    [
        SetLink(
            LinkDns {
                interface: "mesh0",
                ifindex: 7,
                servers: [
                    100.71.0.53,
                    fd7a:1:2::53,
                ],
                domains: [
                    (
                        "home.internal",
                        false,
                    ),
                    (
                        "lan",
                        false,
                    ),
                    (
                        "71.100.in-addr.arpa",
                        true,
                    ),
                ],
                default_route: false,
            },
        ),
    ]
    "#);
}

#[test]
fn resolved_sends_everything_when_an_exit_node_is_used() {
    let detected = Detected::Resolved { uplinks: ResolvConf::default() };
    let changes = plan(&detected, &DnsDesired { everything: true, ..desired() });
    let [DnsChange::SetLink(link)] = &changes[..] else { panic!("{changes:?}") };
    assert!(link.default_route);
    assert_eq!(link.domains.last(), Some(&(".".to_owned(), true)));
}

#[test]
fn a_foreign_manager_is_left_alone() {
    let detected = Detected::Foreign {
        manager: "resolvconf".into(),
        target: "/run/resolvconf/resolv.conf".into(),
        conf: ResolvConf::default(),
    };
    assert_eq!(plan(&detected, &desired()), []);
}
