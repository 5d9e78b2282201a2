//! What a person sees, as snapshots, and the shapes of commands that the documentation promises.

use super::*;
use crate::api::views::{NewTokenView, NodeView, RecordView, RouteBody, StatusView, TokenView};
use insta::assert_snapshot;
use meshd_proto::UnixSeconds;

const NOON: UnixSeconds = UnixSeconds(1_800_014_400);

fn node(id: u64, name: &str, state: &str) -> NodeView {
    NodeView {
        id,
        name: name.parse().unwrap(),
        fqdn: format!("{name}.home.internal"),
        state: state.to_owned(),
        v4: [100, 71, 1, u8::try_from(id).unwrap()].into(),
        v6: "fd7a:1:2::101".parse().unwrap(),
        owner: "owner".to_owned(),
        tags: Vec::new(),
        routes: Vec::new(),
        pending_routes: Vec::new(),
        key: "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=".to_owned(),
        key_expires: None,
        ephemeral: false,
        created: NOON,
        since: Some(NOON),
        remote: None,
        applied_version: Some(7),
        os: "linux".to_owned(),
        client_version: "0.1.0".to_owned(),
        via: None,
    }
}

fn token() -> TokenView {
    TokenView {
        id: 3,
        state: "valid".to_owned(),
        used: 1,
        uses: 10,
        created: NOON,
        expires: NOON,
        owner: String::new(),
        tags: vec!["tag:router".parse().unwrap()],
        ephemeral: true,
        pre_approved: false,
        created_by: "root".to_owned(),
        note: String::new(),
    }
}

#[test]
fn nodes_are_a_table_with_the_next_step_below() {
    let mut pi = node(1, "pi", "online");
    pi.pending_routes = vec!["192.168.1.0/24".parse().unwrap()];
    let mut server = node(2, "a-long-server-name", "offline");
    server.tags = vec!["tag:a".parse().unwrap(), "tag:b".parse().unwrap()];
    server.routes = vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()];
    assert_snapshot!(nodes::table(&[server, pi, node(3, "guest", "waiting")]), @r"
    NAME                ADDRESS     STATE    BELONGS TO    ROUTES           PENDING
    a-long-server-name  100.71.1.2  offline  tag:a, tag:b  0.0.0.0/0, ::/0  -
    pi                  100.71.1.1  online   owner         -                192.168.1.0/24
    guest               100.71.1.3  waiting  owner         -                -

    Routes wait for approval: meshd-coordinator routes approve pi

    A node waits for approval: meshd-coordinator nodes approve guest
    ");
    assert_snapshot!(nodes::table(&[]), @"No node yet: `meshd-coordinator token create` prints the command that joins one.");
}

#[test]
fn one_node_is_shown_in_full() {
    assert_snapshot!(nodes::details(&node(1, "pi", "online")), @r"
    Name         pi.home.internal
    Id           1
    State        online
    Addresses    100.71.1.1, fd7a:1:2::101
    Belongs to   owner
    Key          AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=
    Key ends     never
    Joined       2027-01-15 12:00 UTC
    Since        2027-01-15 12:00 UTC
    Map version  7
    System       linux
    Client       0.1.0
    ");
}

#[test]
fn a_new_token_is_a_command_to_paste() {
    let new = NewTokenView { token: "mesh_AQ".to_owned(), stored: token() };
    assert_snapshot!(token::created(&new), @r"
    On the machine that joins:

      sudo meshd up mesh_AQ

    Token 3: for 10 machines, until 2027-01-15 12:00 UTC. It is shown this once.
    ");
    assert_snapshot!(token::table(&[token()]), @r"
    ID  STATE  USED  EXPIRES               FOR         KIND                       MADE BY  NOTE
    3   valid  1/10  2027-01-15 12:00 UTC  tag:router  ephemeral, needs approval  root     -
    ");
}

#[test]
fn routes_and_records_are_tables() {
    let route = |prefix: &str, state: &str| RouteBody {
        prefix: prefix.parse().unwrap(),
        node: "pi".parse().unwrap(),
        advertised: state != "absent",
        approved: state != "pending",
        state: state.to_owned(),
    };
    let all =
        [route("10.0.0.0/8", "absent"), route("192.168.1.0/24", "pending"), route("fd00::/64", "active")];
    assert_snapshot!(routes::table(&all), @r"
    PREFIX          NODE  STATE
    10.0.0.0/8      pi    absent
    192.168.1.0/24  pi    pending
    fd00::/64       pi    active

    Approve with: meshd-coordinator routes approve pi 192.168.1.0/24
    ");
    assert_snapshot!(routes::decided("pi", true, &all[2..]), @"pi routes fd00::/64");
    let record = RecordView {
        name: "nas.home.internal".parse().unwrap(),
        kind: "A".to_owned(),
        ttl: 60,
        values: vec!["192.168.1.10".to_owned(), "192.168.1.11".to_owned()],
        who: Vec::new(),
    };
    assert_snapshot!(dns::table(&[record]), @r"
    NAME               TYPE  TTL  VALUES
    nas.home.internal  A     60   192.168.1.10, 192.168.1.11
    ");
}

#[test]
fn status_says_what_waits() {
    let status = StatusView {
        version: "0.1.0".to_owned(),
        mesh: "home".parse().unwrap(),
        domain: "home.internal".parse().unwrap(),
        network: String::new(),
        prefix_v4: "100.71.0.0/16".to_owned(),
        prefix_v6: "fd7a:1:2::/48".to_owned(),
        epoch: 1,
        map_version: 12,
        nodes: 3,
        online: 2,
        waiting: 1,
        pending_routes: 2,
        addresses: vec!["vpn.example.com:443".to_owned()],
        key: String::new(),
        started: NOON,
        map_lease: 1,
        certificate: None,
    };
    assert_snapshot!(status::text(&status), @r"
    Mesh home (home.internal), 100.71.0.0/16, fd7a:1:2::/48
    Reached at vpn.example.com:443
    Nodes 3, online 2
    Map version 12, running since 2027-01-15 12:00 UTC
    1 nodes wait for approval: meshd-coordinator nodes list
    2 routes wait for approval: meshd-coordinator routes list
    ");
}

#[test]
fn failures_have_a_hint_and_a_json_form() {
    let failure = Failure::new("it broke").hint("mend it");
    assert_eq!(failure.render(false), "error: it broke\nhint: mend it\n");
    let value: serde_json::Value = serde_json::from_str(&failure.render(true)).unwrap();
    assert_eq!((&value["error"], &value["hint"]), (&"it broke".into(), &"mend it".into()));
}

#[test]
fn the_documented_commands_parse() {
    for line in [
        "serve",
        "serve --public vpn.example.com --public 192.0.2.1:8443 --prefix 10.77.0.0/16 --json",
        "serve --prefix=10.77.0.0/16 --name=lab",
        "routes approve pi 192.168.1.0/24",
        "routes approve pi",
        "dns add nas.home.internal 192.168.1.10",
        "token create --uses 1 --expires 30m --tag tag:a --tag tag:b --ephemeral",
        "token create --tag=tag:a,tag:b --pre-approved=false",
        "token revoke 3 --json",
        "nodes rename pi attic",
        "nodes list --json",
        "--json nodes list",
        "policy set -",
        "policy explain laptop nas:443",
        "backup /root/mesh.db",
        "completions bash",
    ] {
        let words = std::iter::once("meshd-coordinator").chain(line.split(' '));
        assert!(Cli::try_parse_from(words).is_ok(), "{line}");
    }
    for line in
        ["routes approve pi 192.168.1.1/24", "token create --expires soon", "serve --tls-cert x", "nodes"]
    {
        let words = std::iter::once("meshd-coordinator").chain(line.split(' '));
        assert!(Cli::try_parse_from(words).is_err(), "{line}");
    }
    Cli::command().debug_assert();
}
