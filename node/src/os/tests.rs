//! The kernel's own behaviour. Each test runs itself again in network and mount namespaces of its own; the
//! host's are never touched.

use super::conflicts::{ConflictKind, MeshUse, conflicts};
use super::testmap::{connected, map, prefix, with_exit};
use super::*;
use meshd_proto::{MeshPrefixes, Prefix};
use std::fmt::Write;
use std::future::Future;
use std::process::Command;
use std::time::Duration;

const INSIDE: &str = "MESHD_TEST_IN_NAMESPACE";

/// Runs `test` inside fresh network and mount namespaces, by running this test binary again in one.
fn in_namespace<F: Future<Output = ()>>(name: &str, test: impl FnOnce() -> F) {
    if std::env::var_os(INSIDE).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        return runtime.block_on(test());
    }
    let path = module_path!().split_once("::").unwrap().1;
    let root = rustix::process::geteuid().is_root();
    let output = Command::new("unshare")
        .args(if root { &["-n", "-m"][..] } else { &["-r", "-n", "-m"][..] })
        .arg(std::env::current_exe().unwrap())
        .args([&format!("{path}::{name}"), "--exact", "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .output()
        .expect("these tests need `unshare` (util-linux)");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}\n{errors}");
}

/// Runs a shell line, returns what it printed.
fn sh(line: &str) -> String {
    let output = Command::new("sh").args(["-ec", line]).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "`{line}`: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

fn fails(line: &str) -> bool {
    !Command::new("sh").args(["-ec", line]).output().unwrap().status.success()
}

/// A host with a LAN, an uplink on it, IPv6, and a TUN that lives on by itself.
async fn make_host() {
    sh("ip link set lo up
        sysctl -qw net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.all.accept_dad=0
        ip link add eth0 type veth peer name lanside
        ip link set lanside up; ip link set eth0 up
        ip addr add 192.168.1.2/24 dev eth0; ip addr add fd00:1::2/64 dev eth0 nodad
        ip route add default via 192.168.1.1; ip -6 route add default via fd00:1::1
        ip tuntap add mesh0 mode tun");
    // Carrier and link-local addresses settle in their own time.
    let mut before = dump();
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(400)).await;
        let now = dump();
        if now == before {
            return;
        }
        before = now;
    }
    panic!("the test host does not settle:\n{before}");
}

/// All of the host's state that we could have touched.
fn dump() -> String {
    // A link that was up once keeps its queueing discipline.
    let mut text = sh("ip rule; ip -6 rule; ip -o link | sed 's/qdisc [a-z_]*//'; ip -o addr
                       ip route show table all
                       ip -6 route show table all; nft list ruleset");
    let mut files: Vec<PathBuf> = vec!["/proc/sys/net/ipv4/ip_forward".into()];
    for family in ["ipv4", "ipv6"] {
        for interface in std::fs::read_dir(format!("/proc/sys/net/{family}/conf")).unwrap() {
            let settings = std::fs::read_dir(interface.unwrap().path()).unwrap();
            files.extend(settings.map(|s| s.unwrap().path()));
        }
    }
    // Our own interface's settings go with it; only in these tests it lives on.
    files.retain(|f| !f.parent().unwrap().ends_with("mesh0"));
    files.sort();
    for file in files {
        if let Ok(value) = std::fs::read_to_string(&file) {
            let _ = writeln!(text, "{} {}", file.display(), value.trim());
        }
    }
    text
}

fn assert_same(before: &str, after: &str, what: &str) {
    let missing: Vec<&str> = before.lines().filter(|l| !after.lines().any(|m| m == *l)).collect();
    let extra: Vec<&str> = after.lines().filter(|l| !before.lines().any(|m| m == *l)).collect();
    assert!(before == after, "{what}: missing {missing:#?}, extra {extra:#?}");
}

fn client() -> Desired {
    let settings = HostSettings { connected: connected(&["192.168.1.0/24"]), ..HostSettings::default() };
    Desired::from(&map(&[], &[("10.0.0.0/8", 7), ("192.168.0.0/16", 7), ("fd99::/48", 7)]), &settings)
}

fn router() -> Desired {
    Desired::from(&map(&["192.168.1.0/24", "fd00:1::/64"], &[]), &HostSettings::default())
}

fn exit_client(up: bool) -> Desired {
    Desired::from(&map(&[], &[("0.0.0.0/0", 8), ("10.0.0.0/8", 7)]), &with_exit(up))
}

/// Everything at once.
fn full() -> Desired {
    let routes = [("0.0.0.0/0", 8), ("10.0.0.0/8", 7), ("fd99::/48", 7)];
    let settings = HostSettings { firewall_assist: true, ..with_exit(true) };
    Desired::from(&map(&["192.168.1.0/24", "fd00:1::/64"], &routes), &settings)
}

/// A firewall like Docker's: drops what it forwards, and has the hook.
const DOCKER: &str = "nft -f - <<E
table ip filter {
  chain INPUT { type filter hook input priority filter; policy accept; }
  chain FORWARD { type filter hook forward priority filter; policy drop; jump DOCKER-USER; oifname \"docker0\" accept; }
  chain DOCKER-USER { counter return; }
}
E";

#[test]
fn applying_twice_changes_nothing_and_down_restores_byte_for_byte() {
    in_namespace("applying_twice_changes_nothing_and_down_restores_byte_for_byte", async || {
        make_host().await;
        sh(DOCKER);
        let dir = tempfile::tempdir().unwrap();
        let before = dump();
        let mut host = Host::open(dir.path()).await.unwrap();
        let desired =
            [client(), router(), exit_client(true), exit_client(false), full(), client(), full(), router()];
        for desired in &desired {
            assert!(!host.apply(desired).await.unwrap().changes.is_empty());
            let again = host.apply(desired).await.unwrap().changes;
            assert!(again.is_empty(), "{again:?}");
        }
        host.down().await.unwrap();
        assert_same(&before, &dump(), "after down");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        for desired in &desired {
            host.apply(desired).await.unwrap();
            host.down().await.unwrap();
            assert_same(&before, &dump(), "after one and down");
        }
    });
}

#[test]
fn a_crash_after_any_change_is_cleaned_up_byte_for_byte() {
    in_namespace("a_crash_after_any_change_is_cleaned_up_byte_for_byte", async || {
        make_host().await;
        sh(DOCKER);
        let before = dump();
        let desired = full();
        let mut step = 0;
        loop {
            let dir = tempfile::tempdir().unwrap();
            let mut host = Host::open(dir.path()).await.unwrap();
            let changes = host.plan(&desired).await.unwrap();
            assert!(changes.len() > 20, "{changes:?}");
            if step > changes.len() {
                break;
            }
            host.execute(&desired.interface, &changes[..step]).await.unwrap();
            drop(host);
            cleanup(dir.path()).await.unwrap();
            assert_same(&before, &dump(), &format!("crash after change {step}"));
            cleanup(dir.path()).await.unwrap();
            step += 1;
        }
    });
}

#[test]
fn a_crash_that_takes_the_interface_with_it_is_cleaned_up() {
    in_namespace("a_crash_that_takes_the_interface_with_it_is_cleaned_up", async || {
        make_host().await;
        sh(DOCKER);
        sh("ip link del mesh0");
        let before = dump();
        sh("ip tuntap add mesh0 mode tun");
        let dir = tempfile::tempdir().unwrap();
        let mut host = Host::open(dir.path()).await.unwrap();
        host.apply(&full()).await.unwrap();
        // The daemon is killed: its TUN goes with it, the rest stays.
        drop(host);
        sh("ip link del mesh0");
        assert!(fails("ip route get 1.1.1.1"), "still nothing leaks");
        cleanup(dir.path()).await.unwrap();
        assert_same(&before, &dump(), "after cleanup");
    });
}

#[test]
fn what_was_recorded_but_never_done_is_not_undone() {
    in_namespace("what_was_recorded_but_never_done_is_not_undone", async || {
        make_host().await;
        sh("sysctl -qw net.ipv4.conf.all.accept_redirects=0 net.ipv6.conf.eth0.forwarding=1");
        let dir = tempfile::tempdir().unwrap();
        let before = dump();
        let mut host = Host::open(dir.path()).await.unwrap();
        for change in host.plan(&router()).await.unwrap() {
            if let Change::Sysctl(change) = change {
                host.journal.append(journal::Record::Sysctl(change)).unwrap();
            }
        }
        drop(host);
        cleanup(dir.path()).await.unwrap();
        assert_same(&before, &dump(), "after cleanup");
        let mut host = Host::open(dir.path()).await.unwrap();
        host.apply(&router()).await.unwrap();
        host.down().await.unwrap();
        assert_same(&before, &dump(), "a hardened host stays hardened");
    });
}

#[test]
fn a_setting_that_somebody_else_changed_meanwhile_is_left_alone() {
    in_namespace("a_setting_that_somebody_else_changed_meanwhile_is_left_alone", async || {
        make_host().await;
        let dir = tempfile::tempdir().unwrap();
        let mut host = Host::open(dir.path()).await.unwrap();
        host.apply(&router()).await.unwrap();
        assert_eq!(sh("sysctl -n net.ipv4.ip_forward net.ipv6.conf.all.forwarding"), "1\n1\n");
        sh("sysctl -qw net.ipv6.conf.eth0.accept_ra=0");
        host.down().await.unwrap();
        assert_eq!(sh("sysctl -n net.ipv6.conf.eth0.accept_ra"), "0\n");
        assert_eq!(sh("sysctl -n net.ipv4.ip_forward net.ipv6.conf.all.forwarding"), "0\n0\n");
    });
}

#[test]
fn forwarding_keeps_the_default_route_of_a_router_advertisement() {
    in_namespace("forwarding_keeps_the_default_route_of_a_router_advertisement", async || {
        make_host().await;
        let dir = tempfile::tempdir().unwrap();
        let mut host = Host::open(dir.path()).await.unwrap();
        host.apply(&router()).await.unwrap();
        assert_eq!(sh("sysctl -n net.ipv6.conf.eth0.accept_ra"), "2\n");
        sh("ip link add eth1 type veth peer name lan1side");
        assert_eq!(sh("sysctl -n net.ipv6.conf.eth1.accept_ra"), "2\n", "for a network that comes later");
    });
}

#[test]
fn what_somebody_deletes_is_noticed_and_put_back() {
    in_namespace("what_somebody_deletes_is_noticed_and_put_back", async || {
        make_host().await;
        sh(DOCKER);
        let dir = tempfile::tempdir().unwrap();
        let mut host = Host::open(dir.path()).await.unwrap();
        let desired = full();
        host.apply(&desired).await.unwrap();
        for deletion in [
            "ip rule del priority 5210",
            "ip -6 rule del priority 5230",
            "ip rule flush; ip rule add priority 32766 lookup main",
            "ip route del 10.0.0.0/8 table 5200",
            "ip -6 route flush table 5200",
            "ip addr del 100.71.0.2/32 dev mesh0",
            "ip link set mesh0 down",
            "nft delete table inet meshd",
            "nft flush chain inet meshd postrouting",
            "nft flush chain ip filter DOCKER-USER",
            "nft flush ruleset",
        ] {
            let mut watcher = links::watch().unwrap();
            sh(deletion);
            let noticed = tokio::time::timeout(Duration::from_secs(5), watcher.next()).await;
            assert!(noticed.expect(deletion).unwrap().any());
            let repaired = host.apply(&desired).await.unwrap().changes;
            assert!(!repaired.is_empty(), "{deletion}");
            assert!(host.plan(&desired).await.unwrap().is_empty(), "{deletion}");
        }
    });
}

#[test]
fn an_exit_takes_what_is_not_local_and_our_own_sockets_pass_it_by() {
    in_namespace("an_exit_takes_what_is_not_local_and_our_own_sockets_pass_it_by", async || {
        make_host().await;
        let dir = tempfile::tempdir().unwrap();
        let mut host = Host::open(dir.path()).await.unwrap();
        host.apply(&exit_client(true)).await.unwrap();
        let way = |to: &str| sh(&format!("ip route get {to}"));
        assert!(way("1.1.1.1").contains("dev mesh0") && way("1.1.1.1").contains("src 100.71.0.2"));
        assert!(way("192.168.1.7").contains("dev eth0"));
        assert!(way("1.1.1.1 mark 0x6d657368").contains("dev eth0"));
        assert!(way("10.1.1.1").contains("dev mesh0"));
        assert!(fails("ip -6 route get 2606:4700::1111"), "the exit has no IPv6");
        assert!(way("fd00:1::9").contains("dev eth0"));
        assert!(way("2606:4700::1111 mark 0x6d657368").contains("dev eth0"));

        host.apply(&exit_client(false)).await.unwrap();
        assert!(fails("ip route get 1.1.1.1"), "the exit is down: blocked");
        assert!(way("192.168.1.7").contains("dev eth0") && way("10.1.1.1").contains("dev mesh0"));
        // The interface going away with the daemon opens nothing.
        sh("ip link set mesh0 down");
        assert!(fails("ip route get 1.1.1.1"));
    });
}

#[test]
fn a_connected_network_inside_an_accepted_route_stays_local() {
    in_namespace("a_connected_network_inside_an_accepted_route_stays_local", async || {
        make_host().await;
        let dir = tempfile::tempdir().unwrap();
        let mut host = Host::open(dir.path()).await.unwrap();
        let report = host.apply(&client()).await.unwrap();
        assert_eq!(report.overlaps.len(), 1);
        assert!(sh("ip route get 192.168.1.7").contains("dev eth0"));
        assert!(sh("ip route get 192.168.7.7").contains("dev mesh0"));
        assert!(sh("ip route get 100.71.9.9").contains("src 100.71.0.2"));
        assert!(sh("ip route get fd7a:1:2::77").contains("src fd7a:1:2::2"));
        assert!(sh("ip route get 8.8.8.8").contains("dev eth0"));
        // A route that turns from one kind into the other is replaced in place.
        let mut turned = client();
        turned.routes.insert(prefix("192.168.0.0/16"), desired::RouteKind::Throw);
        turned.routes.insert(prefix("fd99::/48"), desired::RouteKind::Throw);
        host.apply(&turned).await.unwrap();
        assert!(host.plan(&turned).await.unwrap().is_empty());
        host.apply(&client()).await.unwrap();
        assert!(host.plan(&client()).await.unwrap().is_empty());
    });
}

fn mesh_use<'a>(name: &'a IfName, mesh: &'a MeshPrefixes, offered: &'a [Prefix]) -> MeshUse<'a> {
    MeshUse { interface: name, prefixes: mesh, offered, assisted: false }
}

#[test]
fn a_forward_drop_is_named_helped_by_assist_and_restored() {
    in_namespace("a_forward_drop_is_named_helped_by_assist_and_restored", async || {
        make_host().await;
        sh(DOCKER);
        let dir = tempfile::tempdir().unwrap();
        let before = dump();
        let mut host = Host::open(dir.path()).await.unwrap();
        let (name, mesh) = (IfName::mesh0(), map(&[], &[]).me.unwrap().prefixes);
        let offered = [prefix("192.168.1.0/24")];
        let ask = mesh_use(&name, &mesh, &offered);
        host.apply(&router()).await.unwrap();
        let found = conflicts(&ask).await.unwrap();
        assert_eq!(found.len(), 1, "{found:#?}");
        assert_eq!(found[0].kind, ConflictKind::ForwardDropped);
        assert_eq!(found[0].help_command, "meshd set --firewall=assist");
        let assisted = Desired { firewall_assist: true, ..router() };
        host.apply(&assisted).await.unwrap();
        assert_eq!(conflicts(&ask).await.unwrap(), []);
        host.apply(&router()).await.unwrap();
        assert_eq!(conflicts(&ask).await.unwrap().len(), 1, "assist was taken back");
        host.apply(&assisted).await.unwrap();
        host.down().await.unwrap();
        assert_same(&before, &dump(), "after down");
    });
}

#[test]
fn another_vpns_drop_rule_is_named_and_the_command_helps() {
    in_namespace("another_vpns_drop_rule_is_named_and_the_command_helps", async || {
        make_host().await;
        sh("nft -f - <<E
table ip filter {
  chain INPUT { type filter hook input priority filter; policy accept; counter jump ts-input; }
  chain ts-input {
    iifname \"lo\" ip saddr 100.101.1.1 counter accept
    iifname != \"tailscale0\" ip saddr 100.64.0.0/10 counter drop
  }
}
E");
        let (name, mesh) = (IfName::mesh0(), map(&[], &[]).me.unwrap().prefixes);
        let ask = mesh_use(&name, &mesh, &[]);
        let found = conflicts(&ask).await.unwrap();
        assert_eq!(found.len(), 1, "{found:#?}");
        assert_eq!(found[0].kind, ConflictKind::AddressesDropped);
        assert!(found[0].what.starts_with("Tailscale's rule"), "{}", found[0].what);
        sh(&found[0].help_command);
        assert_eq!(conflicts(&ask).await.unwrap(), []);
    });
}

#[test]
fn a_range_that_the_uplink_uses_is_named() {
    in_namespace("a_range_that_the_uplink_uses_is_named", async || {
        make_host().await;
        sh("ip addr add 100.71.3.4/12 dev eth0");
        let (name, mesh) = (IfName::mesh0(), map(&[], &[]).me.unwrap().prefixes);
        let found = conflicts(&mesh_use(&name, &mesh, &[])).await.unwrap();
        assert_eq!(found.len(), 1, "{found:#?}");
        assert_eq!(found[0].what, "the uplink eth0 uses 100.64.0.0/12");
        assert_eq!(found[0].help_command, "meshd-coordinator serve --prefix 100.80.0.0/16");
    });
}

#[test]
fn local_addresses_and_lans_are_read_from_the_kernel() {
    in_namespace("local_addresses_and_lans_are_read_from_the_kernel", async || {
        make_host().await;
        let mesh = IfName::mesh0();
        let found = links::local_endpoints(&mesh).await.unwrap();
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(found, ["192.168.1.2", "fd00:1::2"]);
        assert_eq!(
            links::connected_lans(&mesh).await.unwrap(),
            [prefix("192.168.1.0/24"), prefix("fd00:1::/64")]
        );
        assert_eq!(links::connected(&mesh).await.unwrap()[0].interface, "eth0");
    });
}

#[test]
fn a_missing_interface_is_named_with_what_to_do() {
    in_namespace("a_missing_interface_is_named_with_what_to_do", async || {
        let dir = tempfile::tempdir().unwrap();
        let mut host = Host::open(dir.path()).await.unwrap();
        let error = host.apply(&client()).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "interface mesh0 does not exist: it was removed, or not made; restart meshd to make it again"
        );
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing was recorded");
    });
}

/// A host between two others: `peer` behind the interface mesh0, here a veth, and `far` on the LAN side.
/// Whatever reaches `far` must be translated: it knows only the LAN.
fn make_router() {
    sh("mount -t tmpfs tmpfs /run
        ip link set lo up
        sysctl -qw net.ipv6.conf.default.accept_dad=0
        ip netns add peer; ip netns add far
        ip link add mesh0 type veth peer name wire netns peer
        ip link add eth0 type veth peer name eth0 netns far
        ip link set eth0 up; ip addr add 192.168.1.2/24 dev eth0; ip addr add fd00:1::2/64 dev eth0 nodad
        ip -n far addr add 192.168.1.10/24 dev eth0; ip -n far addr add fd00:1::10/64 dev eth0 nodad
        ip -n far link set lo up; ip -n far link set eth0 up
        ip -n peer addr add 100.71.0.9/32 dev wire; ip -n peer addr add fd7a:1:2::9/128 dev wire nodad
        ip -n peer link set wire up
        ip -n peer route add default via 100.71.0.2 dev wire onlink
        ip -n peer -6 route add default via fd7a:1:2::2 dev wire onlink");
}

/// Neighbours and link-local addresses take a moment at first.
fn pings(what: &str) -> bool {
    (0..20).any(|_| !fails(&format!("{what} -c 1 -W 1 -q || {{ sleep 0.2; false; }}")))
}

#[test]
fn a_subnet_router_translates_unless_told_not_to() {
    in_namespace("a_subnet_router_translates_unless_told_not_to", async || {
        make_router();
        let dir = tempfile::tempdir().unwrap();
        let mut host = Host::open(dir.path()).await.unwrap();
        host.apply(&router()).await.unwrap();
        assert!(host.plan(&router()).await.unwrap().is_empty());
        assert!(pings("ip netns exec peer ping 192.168.1.10"));
        assert!(pings("ip netns exec peer ping fd00:1::10"));
        let settings = HostSettings { snat: false, ..HostSettings::default() };
        let plain = Desired::from(&map(&["192.168.1.0/24"], &[]), &settings);
        host.apply(&plain).await.unwrap();
        let probe = "ip netns exec peer ping -c 1 -W 1 -q 192.168.1.10";
        assert!(fails(probe), "the LAN host does not know the way back");
        sh("ip -n far route add 100.71.0.0/16 via 192.168.1.2");
        assert!(!fails(probe));
        // Mesh addresses are believed only when they come out of the mesh.
        sh("ip -n far addr add 100.71.0.77/32 dev eth0");
        assert!(fails("ip netns exec far ping -I 100.71.0.77 -c 1 -W 1 -q 192.168.1.2"));
        assert!(!fails("ip netns exec far ping -c 1 -W 1 -q 192.168.1.2"));
    });
}

#[test]
fn an_exit_node_translates_the_internet_too() {
    in_namespace("an_exit_node_translates_the_internet_too", async || {
        make_router();
        sh("ip -n far addr add 203.0.113.9/32 dev lo; ip route add default via 192.168.1.10");
        let dir = tempfile::tempdir().unwrap();
        let mut host = Host::open(dir.path()).await.unwrap();
        let settings = HostSettings { snat: false, ..HostSettings::default() };
        let exit = Desired::from(&map(&["0.0.0.0/0", "192.168.1.0/24"], &[]), &settings);
        host.apply(&exit).await.unwrap();
        assert!(pings("ip netns exec peer ping 203.0.113.9"));
        assert!(fails("ip netns exec peer ping -c 1 -W 1 -q 192.168.1.10"), "the subnet is not translated");
    });
}

#[test]
fn our_own_sockets_pass_a_strict_reverse_path_filter_while_an_exit_is_used() {
    in_namespace("our_own_sockets_pass_a_strict_reverse_path_filter_while_an_exit_is_used", async || {
        make_router();
        sh("ip -n far addr add 203.0.113.9/32 dev lo; ip route add default via 192.168.1.10
            sysctl -qw net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.eth0.rp_filter=1");
        let dir = tempfile::tempdir().unwrap();
        let mut host = Host::open(dir.path()).await.unwrap();
        host.apply(&exit_client(true)).await.unwrap();
        assert!(pings("ping -m 1835365224 203.0.113.9"), "answers to our own sockets");
        assert!(fails("ping -c 1 -W 1 -q 203.0.113.9"), "everything else goes to the exit");
        // A peer that speaks first, to our port.
        let socket = std::net::UdpSocket::bind("0.0.0.0:41820").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        sh("ip -n far route change 192.168.1.0/24 dev eth0 src 203.0.113.9
            ip netns exec far bash -c 'echo hello > /dev/udp/192.168.1.2/41820'");
        assert!(socket.recv(&mut [0; 16]).is_ok());
    });
}

#[test]
fn read_only_kernel_settings_do_not_stop_a_client() {
    in_namespace("read_only_kernel_settings_do_not_stop_a_client", async || {
        make_host().await;
        sh("sysctl -qw net.ipv6.conf.mesh0.disable_ipv6=1
            mount --bind /proc/sys /proc/sys; mount -o remount,ro,bind /proc/sys");
        let dir = tempfile::tempdir().unwrap();
        let mut host = Host::open(dir.path()).await.unwrap();
        let desired = Desired::from(&map(&[], &[]), &HostSettings::default());
        host.apply(&desired).await.unwrap();
        assert!(host.plan(&desired).await.unwrap().is_empty());
        assert!(sh("ip route get 100.71.9.9").contains("dev mesh0"));
        let error = host.apply(&router()).await.unwrap_err().to_string();
        assert!(error.contains("/proc/sys/net/ipv4/ip_forward") && error.contains("read-only"), "{error}");
        host.down().await.unwrap();
    });
}

#[test]
fn a_full_disk_costs_the_journal_one_record_and_no_other() {
    in_namespace("a_full_disk_costs_the_journal_one_record_and_no_other", || async {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().display();
        // Two pages: one for the journal, one for what fills the disk.
        sh(&format!("mount -t tmpfs -o size=8k none {at}; head -c 4096 /dev/zero > {at}/filler"));
        let record =
            |n: usize| journal::Record::Hook { hook: assist::Hook::UfwInput, interface: format!("{n:0300}") };
        let mut journal = Journal::open(dir.path()).unwrap();
        let full = (0..100).find(|n| journal.append(record(*n)).is_err()).unwrap();
        assert!(full > 2, "{full}");
        assert!(journal.append(record(full)).is_err());
        std::fs::remove_file(dir.path().join("filler")).unwrap();
        journal.append(record(full)).unwrap();
        journal.append(journal::Record::Undone { index: 0 }).unwrap();
        let found: Vec<_> = Journal::open(dir.path()).unwrap().pending();
        let expected = (1..=full).map(|index| journal::Recorded { index, record: record(index) });
        assert_eq!(found, expected.collect::<Vec<_>>());
    });
}
