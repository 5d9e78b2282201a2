//! `meshd-cni` on a real kernel: one test for each rule of the CNI specification's commands, with `cnitool`
//! where it can say what is needed, and directly where it cannot.

use std::collections::HashSet;
use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use meshd_k8s::CniNode;
use serde_json::{Value, json};

fn both() -> Value {
    json!({ "ranges": ["10.42.1.0/24", "fd00:42:1::/64"] })
}

/// The pod's addresses, without their lengths.
fn addresses(result: &Value) -> Vec<String> {
    let ips = result["ips"].as_array().expect("a list");
    ips.iter()
        .map(|ip| ip["address"].as_str().and_then(|a| a.split('/').next()).expect("an address").to_owned())
        .collect()
}

/// One answer within two seconds.
fn ping(to: &str) -> String {
    format!("ping -n -c1 -W2 {to}")
}

#[test]
fn two_pods_reach_each_other_the_host_and_a_machine_outside_by_both_families() -> Result<()> {
    let mut plugin = both();
    // Its books where they are by default.
    plugin["dataDir"] = Value::Null;
    let node = CniNode::new("cni-reach", &plugin)?;
    let (first, second) = (addresses(&node.add("p1")?), addresses(&node.add("p2")?));
    assert_eq!(node.reservations()?.len(), 2);
    assert_eq!(first, ["10.42.1.1", "fd00:42:1::1"]);
    let lines = node.host.sh("ip -o -4 addr show eth0; ip -o -6 addr show eth0 scope global")?;
    let own: Vec<&str> =
        lines.lines().filter_map(|l| l.split_whitespace().nth(3)?.split('/').next()).collect();
    assert_eq!(own.len(), 2, "{lines}");
    let outside = node.lab.internet();
    for (range, via) in [("10.42.1.0/24", own[0]), ("fd00:42:1::/64", own[1])] {
        outside.sh(&format!("ip route add {range} via {via}"))?;
    }
    let uplinks = node.host.sh("ip -4 route show default; ip -6 route show default")?;
    let gateways: Vec<&str> =
        uplinks.lines().filter_map(|l| l.split_whitespace().skip_while(|w| *w != "via").nth(1)).collect();
    assert_eq!(gateways.len(), 2, "{uplinks}");
    for family in 0..2 {
        for to in [second[family].as_str(), own[family], gateways[family]] {
            node.in_pod("p1", &ping(to)).with_context(|| format!("pod to {to}"))?;
        }
        node.host.sh(&ping(&first[family])).context("host to pod")?;
        outside.sh(&ping(&first[family])).context("outside to pod")?;
    }
    let source = node.host.sh(&format!("ip route get {}", first[0]))?;
    assert!(!source.contains("169.254.1.1"), "the host's own address is its source: {source}");
    Ok(())
}

#[test]
fn add_makes_what_its_result_says_with_the_mtu_and_dns_of_the_configuration() -> Result<()> {
    let mut config = both();
    config["mtu"] = json!(1300);
    config["dns"] = json!({ "nameservers": ["10.96.0.10"], "search": ["svc.cluster.local"] });
    let node = CniNode::new("cni-result", &config)?;
    node.pod("p1")?;
    node.in_pod("p1", "echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6")?;
    let result: Value = serde_json::from_str(&node.cnitool("add", "p1")?.success()?.stdout)?;
    assert_eq!(result["dns"], config["dns"]);
    let link = node.in_pod("p1", "ip -o link show eth0")?;
    let (host, pod) = (&result["interfaces"][0], &result["interfaces"][1]);
    assert_eq!((&pod["mtu"], &pod["sandbox"]), (&json!(1300), &json!("/run/netns/p1")));
    assert!(link.contains("mtu 1300") && link.contains(pod["mac"].as_str().context("a mac")?), "{link}");
    let host_name = host["name"].as_str().context("a name")?;
    let link = node.host.sh(&format!("ip -o link show {host_name}"))?;
    assert!(link.contains("mtu 1300") && link.contains(host["mac"].as_str().context("a mac")?), "{link}");
    let inside = node.in_pod("p1", "ip -o addr show eth0; ip -4 route; ip -6 route")?;
    for ip in result["ips"].as_array().context("a list")? {
        assert_eq!(ip["interface"], 1);
        assert!(inside.contains(ip["address"].as_str().context("an address")?), "{inside}");
        assert!(
            inside.contains(&format!("default via {}", ip["gateway"].as_str().context("one")?)),
            "{inside}"
        );
    }
    // The whole packet fits, one byte more does not.
    node.add("p2")?;
    node.in_pod("p1", "ping -n -c1 -W2 -M do -s 1272 10.42.1.2")?;
    assert!(node.in_pod("p1", "ping -n -c1 -W1 -M do -s 1273 10.42.1.2").is_err());
    Ok(())
}

#[test]
fn the_result_has_the_form_of_the_version_that_was_asked() -> Result<()> {
    let node = CniNode::new("cni-versions", &both())?;
    for (version, mtu, family) in [("0.4.0", false, true), ("1.0.0", false, false), ("1.1.0", true, false)] {
        node.configure(version, &both())?;
        let pod = format!("p{}", version.replace('.', ""));
        let result = node.add(&pod)?;
        assert_eq!(result["cniVersion"], version);
        assert_eq!(result["interfaces"][0].get("mtu").is_some(), mtu, "{result}");
        assert_eq!(result["ips"][0].get("version").is_some(), family, "{result}");
        node.cnitool("check", &pod)?.success()?;
        node.cnitool("del", &pod)?.success()?;
    }
    Ok(())
}

#[test]
fn a_network_of_one_family_touches_the_other_one_nowhere() -> Result<()> {
    for (range, other) in
        [("10.42.1.0/24", "ipv6/conf/all/forwarding"), ("fd00:42:1::/64", "ipv4/ip_forward")]
    {
        let node = CniNode::new("cni-one-family", &json!({ "ranges": [range] }))?;
        let result = node.add("p1")?;
        assert_eq!(addresses(&result).len(), 1);
        let second = addresses(&node.add("p2")?).remove(0);
        node.in_pod("p1", &ping(&second))?;
        assert_eq!(node.host.sh(&format!("cat /proc/sys/net/{other}"))?.trim(), "0");
    }
    Ok(())
}

#[test]
fn add_passes_on_what_came_before_and_refuses_an_interface_that_is_there() -> Result<()> {
    let node = CniNode::new("cni-chain", &both())?;
    let netns = node.pod("p1")?;
    let mut config = node.config()?;
    config["prevResult"] = json!({
        "cniVersion": "1.1.0", "interfaces": [{ "name": "net1", "sandbox": netns }],
        "ips": [{ "address": "192.0.2.7/24", "interface": 0 }], "routes": [{ "dst": "192.0.2.0/24" }],
    });
    let added = node.plugin("ADD", "p1", &config)?;
    assert!(added.ok, "{added:?}");
    assert_eq!(added.json["interfaces"][0]["name"], "net1");
    assert_eq!(added.json["interfaces"][2]["name"], "eth0");
    assert_eq!(added.json["ips"][0]["address"], "192.0.2.7/24");
    assert_eq!(added.json["ips"][1]["interface"], 2);
    let again = node.plugin("ADD", "p1", &node.config()?)?;
    assert_eq!(again.code(), 104, "{again:?}");
    node.in_pod("p1", "ip -o addr show eth0 | grep 10.42.1.1/32")?;
    assert_eq!(node.reservations()?.len(), 1, "the attachment that was there keeps what it has");

    let netns = node.pod("p2")?;
    config["prevResult"] = json!({ "interfaces": [{ "name": "eth0", "sandbox": netns }] });
    assert_eq!(node.plugin("ADD", "p2", &config)?.code(), 104);
    node.in_pod("p2", "ip link add eth0 type veth peer name other")?;
    assert_eq!(node.plugin("ADD", "p2", &node.config()?)?.code(), 104);
    assert_eq!(node.reservations()?.len(), 1, "a refused ADD holds nothing");
    Ok(())
}

#[test]
fn a_plugin_behind_ours_in_the_list_gets_our_result_and_may_change_the_interface() -> Result<()> {
    let node = CniNode::new("cni-list", &both())?;
    // The plugin project's own "tuning": a setting of the pod, and another hardware address.
    let tuning = json!({
        "type": "tuning", "sysctl": { "net.ipv4.conf.IFNAME.log_martians": "1" }, "mac": "02:00:00:00:00:77"
    });
    for version in ["1.0.0", "1.1.0"] {
        node.configure_chain(version, &both(), std::slice::from_ref(&tuning))?;
        let pod = format!("p{}", version.replace('.', ""));
        let result = node.add(&pod)?;
        assert_eq!(result["interfaces"][1]["mac"], "02:00:00:00:00:77");
        assert_eq!(addresses(&result).len(), 2);
        assert_eq!(node.in_pod(&pod, "cat /proc/sys/net/ipv4/conf/eth0/log_martians")?.trim(), "1");
        node.host.sh(&ping(&addresses(&result)[0]))?;
        node.cnitool("check", &pod)?.success()?;
        node.cnitool("del", &pod)?.success()?;
    }
    assert_eq!(node.reservations()?.len(), 0);
    Ok(())
}

#[test]
fn an_add_that_fails_half_way_leaves_nothing() -> Result<()> {
    let node = CniNode::new("cni-half", &both())?;
    let _ = node.add("warm")?;
    node.cnitool("del", "warm")?.success()?;
    // Somebody else has the next address.
    node.host.sh("ip route add 10.42.1.2/32 dev lo")?;
    node.pod("p1")?;
    let before = node.network()?;
    let failed = node.plugin("ADD", "p1", &node.config()?)?;
    assert_eq!(failed.code(), 100, "{failed:?}");
    let details = failed.json["details"].as_str().context("details")?;
    assert!(details.contains("10.42.1.2") && details.contains("ip route show"), "{details}");
    assert_eq!(node.network()?, before);
    assert_eq!(node.reservations()?.len(), 0);
    assert!(!node.in_pod("p1", "ip -o link")?.contains("eth0"));
    assert!(node.plugin("ADD", "p1", &node.config()?)?.ok, "the next address is free");
    Ok(())
}

#[test]
fn a_namespace_that_is_gone_no_namespace_or_the_hosts_own_is_refused() -> Result<()> {
    let node = CniNode::new("cni-netns", &both())?;
    let gone = node.plugin("ADD", "nobody", &node.config()?)?;
    assert_eq!(gone.code(), 3, "nothing has to be cleaned up: {gone:?}");
    node.host.sh("mkdir -p /run/netns; touch /run/netns/file; mkfifo /run/netns/fifo")?;
    node.host.sh("touch /run/netns/own; mount --bind /proc/self/ns/net /run/netns/own")?;
    node.host.sh("touch /run/netns/uts; mount --bind /proc/self/ns/uts /run/netns/uts")?;
    for wrong in ["file", "fifo", "own", "uts"] {
        let answer = node.plugin("ADD", wrong, &node.config()?)?;
        assert_eq!(answer.code(), 4, "{wrong}: {answer:?}");
        assert!(answer.json["details"].as_str().is_some_and(|d| d.contains("CNI_NETNS")), "{answer:?}");
    }
    assert_eq!(node.reservations()?.len(), 0);
    Ok(())
}

#[test]
fn del_leaves_nothing_and_may_come_twice_late_or_for_nobody() -> Result<()> {
    let node = CniNode::new("cni-del", &both())?;
    node.add("warm")?;
    node.cnitool("del", "warm")?.success()?;
    let before = node.network()?;
    node.add("p1")?;
    assert_ne!(node.network()?, before);
    for _ in 0..2 {
        node.cnitool("del", "p1")?.success()?;
        assert_eq!(node.network()?, before);
        assert_eq!(node.reservations()?.len(), 0);
    }
    assert!(!node.in_pod("p1", "ip -o link")?.contains("eth0"));
    node.add("p2")?;
    node.host.sh("ip netns del p2")?;
    node.cnitool("del", "p2")?.success().context("the namespace is gone")?;
    assert_eq!(node.reservations()?.len(), 0);
    assert_eq!(node.network()?, before);
    assert!(node.plugin("DEL", "never", &node.config()?)?.ok);
    // A configuration that ADD refuses keeps nothing reserved.
    node.pod("p3")?;
    assert!(node.plugin("ADD", "p3", &node.config()?)?.ok);
    let mut broken = node.config()?;
    broken["ranges"] = json!(["nonsense"]);
    assert!(node.plugin("DEL", "p3", &broken)?.ok);
    assert_eq!(node.reservations()?.len(), 0);
    Ok(())
}

#[test]
fn check_finds_whatever_is_not_as_add_left_it() -> Result<()> {
    let node = CniNode::new("cni-check", &both())?;
    let host = node.add("p1")?["interfaces"][0]["name"].as_str().context("a name")?.to_owned();
    node.in_pod("p1", "ip addr add 192.0.2.9/32 dev eth0; ip route add 198.51.100.0/24 via 169.254.1.1")?;
    node.host.sh("ip route add 203.0.113.0/24 dev lo")?;
    node.cnitool("check", "p1")?.success().context("what others add is no difference")?;
    let breaks: &[(bool, &str, &str)] = &[
        (true, "ip addr del 10.42.1.N/32 dev eth0", "does not have 10.42.1.N/32"),
        (true, "ip addr del fd00:42:1::N/128 dev eth0", "does not have fd00:42:1::N/128"),
        (true, "ip route del default", "no default route by 169.254.1.1"),
        (true, "ip -6 route del default", "no default route by fe80::1"),
        (true, "ip link set eth0 down", "is down"),
        (true, "ip link set eth0 mtu 1281", "MTU 1281"),
        (true, "ip link set eth0 address 02:00:00:00:00:01", "has address 02:00:00:00:00:01"),
        (true, "ip link set eth0 down; ip link set eth0 name eth9", "no interface eth0"),
        (false, "ip route del 10.42.1.N/32", "no route to 10.42.1.N/32"),
        (false, "ip -6 route del fd00:42:1::N/128", "no route to fd00:42:1::N/128"),
        (false, "ip addr del 169.254.1.1/32 dev HOST", "does not have 169.254.1.1/32"),
        (false, "ip addr del fe80::1/64 dev HOST", "does not have fe80::1/64"),
        (false, "echo 0 > /proc/sys/net/ipv4/ip_forward", "does not forward"),
        (false, "echo 0 > /proc/sys/net/ipv6/conf/all/forwarding", "does not forward"),
        (false, "rm /run/cni/pods/ledger.json", "no address is reserved"),
        (false, "ip link del HOST", "no interface eth0"),
    ];
    let mut host = host;
    for (number, (inside, line, says)) in breaks.iter().enumerate() {
        let address = node.in_pod("p1", "ip -o -4 addr show eth0")?;
        let last =
            address.split("10.42.1.").nth(1).and_then(|t| t.split('/').next()).context("an address")?;
        let six = format!("::{:x}", last.parse::<u8>()?);
        let exact =
            |text: &str| text.replace("::N", &six).replace(".N", &format!(".{last}")).replace("HOST", &host);
        node.cnitool("check", "p1")?.success().with_context(|| format!("before {line}"))?;
        let line = exact(line);
        if *inside {
            node.in_pod("p1", &line)?
        } else {
            node.host.sh(&line)?
        };
        let found = node.cnitool("check", "p1")?.failure().with_context(|| format!("after {line}"))?;
        assert!(found.stderr.contains(&exact(says)), "{line}: {}", found.stderr);
        node.cnitool("del", "p1")?.success()?;
        node.host.sh("ip netns del p1")?;
        if line.starts_with("rm ") {
            // The lost ledger begins again at the first address.
            assert_eq!(node.reservations()?.len(), 0);
        }
        host = node.add("p1")?["interfaces"][0]["name"].as_str().context("a name")?.to_owned();
        ensure!(number < 100);
    }
    let without = node.plugin("CHECK", "p1", &node.config()?)?;
    assert_eq!(without.code(), 7, "prevResult is missing: {without:?}");
    Ok(())
}

#[test]
fn status_and_add_say_when_all_addresses_are_used_and_a_freed_one_comes_last() -> Result<()> {
    let node = CniNode::new("cni-full", &json!({ "ranges": ["10.42.1.0/29", "10.42.9.0/31"] }))?;
    let mut given = Vec::new();
    for number in 0..8 {
        node.cnitool("status", "any")?.success()?;
        given.extend(addresses(&node.add(&format!("p{number}"))?));
    }
    assert_eq!(given.last().map(String::as_str), Some("10.42.9.1"));
    let full = node.cnitool("status", "any")?.failure()?;
    assert!(full.stderr.contains("10.42.1.0/29, 10.42.9.0/31"), "{}", full.stderr);
    node.pod("more")?;
    assert_eq!(node.plugin("STATUS", "more", &node.config()?)?.code(), 50);
    assert_eq!(node.plugin("ADD", "more", &node.config()?)?.code(), 103);
    for pod in ["p5", "p1"] {
        node.cnitool("del", pod)?.success()?;
    }
    node.cnitool("status", "any")?.success()?;
    // The search goes round: p1's address comes before p5's, and p1's is not given again while p5's is free.
    assert_eq!(addresses(&node.add("q1")?), [given[1].clone()]);
    node.cnitool("del", "q1")?.success()?;
    assert_eq!(addresses(&node.add("q2")?), [given[5].clone()]);
    Ok(())
}

#[test]
fn on_a_full_disk_no_pod_comes_and_every_pod_can_go() -> Result<()> {
    let mut plugin = both();
    plugin["dataDir"] = json!("/run/books/cni");
    let node = CniNode::new("cni-disk", &plugin)?;
    node.host.sh("mkdir /run/books; mount -t tmpfs -o size=1m tmpfs /run/books")?;
    for pod in ["p1", "p2", "p3"] {
        node.pod(pod)?;
        assert!(node.plugin("ADD", pod, &node.config()?)?.ok);
    }
    node.host.sh("cat /dev/zero > /run/books/full || true")?;
    node.pod("p4")?;
    let refused = node.plugin("ADD", "p4", &node.config()?)?;
    assert_eq!(refused.code(), 5, "{refused:?}");
    assert!(refused.json["details"].as_str().is_some_and(|d| d.contains("free some space")), "{refused:?}");
    assert!(!node.host.sh("cat /run/books/cni/pods/ledger.json")?.contains("c-p4"));
    for pod in ["p1", "p2"] {
        let gone = node.plugin("DEL", pod, &node.config()?)?;
        assert!(gone.ok, "{pod}: {gone:?}");
        node.host.sh("cat /dev/zero >> /run/books/full || true")?;
    }
    let mut config = node.config()?;
    config["cni.dev/valid-attachments"] = json!([]);
    let gone = node.plugin("GC", "any", &config)?;
    assert!(gone.ok, "{gone:?}");
    assert!(!node.host.sh("cat /run/books/cni/pods/ledger.json")?.contains("container"));
    node.host.sh("rm /run/books/full")?;
    assert!(node.plugin("ADD", "p4", &node.config()?)?.ok);
    Ok(())
}

#[test]
fn gc_removes_what_is_not_listed_and_nothing_else() -> Result<()> {
    let node = CniNode::new("cni-gc", &both())?;
    let mut links = Vec::new();
    for pod in ["p1", "p2", "p3"] {
        node.pod(pod)?;
        let added = node.plugin("ADD", pod, &node.config()?)?;
        links.push(added.json["interfaces"][0]["name"].as_str().context("a name")?.to_owned());
    }
    let mut config = node.config()?;
    let none = node.plugin("GC", "any", &config)?;
    assert_eq!(none.code(), 7, "without a list nothing is removed: {none:?}");
    assert_eq!(node.reservations()?.len(), 3);
    // One is kept; one that is listed was never there; the other two go, one of them without its namespace.
    node.host.sh("ip netns del p3")?;
    let listed = |pod: &str| json!({ "containerID": format!("c-{pod}"), "ifname": "eth0" });
    config["cni.dev/valid-attachments"] = json!([listed("p2"), listed("never")]);
    assert_eq!(node.plugin("GC", "any", &config)?.json, Value::Null);
    let left = node.reservations()?;
    assert_eq!(left.len(), 1);
    assert_eq!(left[0]["attachment"]["container"], "c-p2");
    let network = node.network()?;
    assert!(network.contains(&links[1]) && !network.contains(&links[0]) && !network.contains(&links[2]));
    node.host.sh(&ping("10.42.1.2"))?;
    config["cni.dev/valid-attachments"] = Value::Null;
    assert!(node.plugin("GC", "any", &config)?.ok, "Go's empty list");
    assert_eq!(node.reservations()?.len(), 0);
    Ok(())
}

#[test]
fn a_pod_cannot_send_from_an_address_that_is_not_its_own() -> Result<()> {
    let node = CniNode::new("cni-spoof", &both())?;
    node.add("p1")?;
    node.add("p2")?;
    let dropped = || -> Result<u64> {
        let text = node.host.sh("nstat -asz TcpExtIPReversePathFilter")?;
        let count = text.split_whitespace().skip_while(|w| *w != "TcpExtIPReversePathFilter").nth(1);
        Ok(count.context("a counter")?.parse()?)
    };
    node.in_pod("p1", "ip addr add 10.42.1.77/32 dev eth0; ip addr add 192.0.2.77/32 dev eth0")?;
    node.in_pod("p1", &ping("10.42.1.2"))?;
    for foreign in ["10.42.1.77", "192.0.2.77"] {
        let before = dropped()?;
        assert!(node.in_pod("p1", &format!("ping -n -c1 -W1 -I {foreign} 10.42.1.2")).is_err());
        assert!(dropped()? > before, "{foreign} was dropped by the host");
    }
    Ok(())
}

#[test]
fn fifty_adds_at_once_give_fifty_addresses_and_fifty_dels_free_them() -> Result<()> {
    let node = CniNode::new("cni-many", &both())?;
    node.add("warm")?;
    node.cnitool("del", "warm")?.success()?;
    let before = node.network()?;
    let all = |command: &str| -> Result<String> {
        let lines: Vec<String> = (0..50)
            .map(|n| {
                format!(
                    "{} > /run/{command}-{n} || echo {n} failed &",
                    node.cnitool_line(command, &format!("p{n}"))
                )
            })
            .collect();
        node.host.sh(&format!("{}\nwait", lines.join("\n")))
    };
    node.host.sh("for n in $(seq 0 49); do ip netns add p$n; done")?;
    assert_eq!(all("add")?, "");
    let mut seen = HashSet::new();
    for number in 0..50 {
        let result: Value = serde_json::from_str(&node.host.sh(&format!("cat /run/add-{number}"))?)?;
        for address in addresses(&result) {
            assert!(seen.insert(address.parse::<IpAddr>()?), "{address} was given twice");
            node.in_pod(&format!("p{number}"), &format!("ip -o addr show eth0 | grep -w {address}"))?;
        }
    }
    assert_eq!((seen.len(), node.reservations()?.len()), (100, 50));
    assert_eq!(all("del")?, "");
    assert_eq!(node.reservations()?.len(), 0);
    assert_eq!(node.network()?, before);
    Ok(())
}

/// What changes something outside the process, or waits for somebody. Each thread counts its own.
const KILLED_AT: [&str; 10] =
    ["openat", "mkdir", "flock", "write", "fsync", "rename", "sendto", "clone3", "setns", "ioctl"];
/// How often one system call is met at most.
const MOST_CALLS: usize = 100;

/// The words for a shell that start a program and kill it when it begins its `number`th `call`.
fn killed_at(call: &str, number: usize) -> String {
    format!("strace -f -qq -o /dev/null -e trace={call} -e inject={call}:signal=KILL:when={number}")
}

/// Removes what a killed call has left, by DEL or by GC, and finds the node as it was.
fn clean(node: &CniNode, by_gc: bool, before: &str) -> Result<()> {
    let mut config = node.config()?;
    let cleaned = if by_gc {
        config["cni.dev/valid-attachments"] = json!([]);
        node.plugin("GC", "any", &config)?
    } else {
        node.plugin("DEL", "p1", &config)?
    };
    ensure!(cleaned.ok, "{cleaned:?}");
    ensure!(node.reservations()?.is_empty(), "{:?}", node.reservations()?);
    let after = node.network()?;
    ensure!(after == before, "{after}");
    Ok(())
}

#[test]
fn killed_at_any_system_call_an_add_leaves_only_what_del_or_gc_removes() -> Result<()> {
    let node = CniNode::new("cni-kill", &both())?;
    node.add("warm")?;
    node.cnitool("del", "warm")?.success()?;
    let before = node.network()?;
    node.pod("p1")?;
    node.pod("p2")?;
    let config = node.config()?;
    let (mut kills, mut reserved, mut linked) = (0_usize, 0, 0);
    let mut one = |wrapper: &str| -> Result<bool> {
        let ended = node.plugin_under(wrapper, "ADD", "p1", &config)?;
        if !ended.ok {
            kills += 1;
            reserved += node.reservations()?.len();
            linked += usize::from(node.network()? != before);
        }
        // Another pod goes on, with addresses of its own.
        let other = node.plugin("ADD", "p2", &config)?;
        ensure!(other.ok, "{wrapper}: {other:?}");
        let taken: Vec<String> = node
            .reservations()?
            .iter()
            .flat_map(|r| r["addresses"].as_array().cloned().unwrap_or_default())
            .map(|address| address.to_string())
            .collect();
        ensure!(taken.iter().collect::<HashSet<_>>().len() == taken.len(), "{wrapper}: {taken:?}");
        ensure!(node.plugin("DEL", "p2", &config)?.ok);
        clean(&node, kills.is_multiple_of(2), &before).with_context(|| wrapper.to_owned())?;
        Ok(ended.ok)
    };
    for call in KILLED_AT {
        let met = (1..MOST_CALLS).map(|n| one(&killed_at(call, n))).take_while(|ok| !matches!(ok, Ok(true)));
        let met = met.collect::<Result<Vec<bool>>>()?.len();
        ensure!(met > 0 || call == "mkdir", "{call} was never called: strace did not kill");
    }
    // In the pod's own thread, by the files that only it opens.
    for key in ["disable_ipv6", "accept_ra"] {
        let only = format!("-P /proc/sys/net/ipv6/conf/eth0/{key} -e inject=openat:signal=KILL:when=1");
        ensure!(!one(&format!("strace -f -qq -o /dev/null {only}"))?, "{key} was not read");
    }
    println!("killed {kills} times; {reserved} left a reservation, {linked} a veth pair");
    ensure!(
        kills > 30 && linked > 10 && reserved > linked && reserved < kills,
        "the kills did not reach every state"
    );
    Ok(())
}

#[test]
fn killed_at_any_system_call_a_del_or_gc_is_finished_by_the_next_one() -> Result<()> {
    let node = CniNode::new("cni-kill-del", &both())?;
    node.add("warm")?;
    node.cnitool("del", "warm")?.success()?;
    let before = node.network()?;
    node.pod("p1")?;
    let config = node.config()?;
    let mut listed = config.clone();
    listed["cni.dev/valid-attachments"] = json!([]);
    let (mut kills, mut half) = (0, 0);
    for (command, input) in [("DEL", &config), ("GC", &listed)] {
        for call in ["openat", "flock", "write", "fsync", "rename", "sendto"] {
            let mut met = 0;
            for number in 1..MOST_CALLS {
                ensure!(node.plugin("ADD", "p1", &config)?.ok, "{command} {call} {number}");
                let ended = node.plugin_under(&killed_at(call, number), command, "p1", input)?;
                let (unlinked, kept) = (node.network()? == before, !node.reservations()?.is_empty());
                ensure!(unlinked || kept, "{command} {call} {number}: an address is free and still in use");
                half += usize::from(unlinked && kept);
                clean(&node, number.is_multiple_of(2), &before)
                    .with_context(|| format!("{command} {call} {number}"))?;
                if ended.ok {
                    break;
                }
                met += 1;
            }
            ensure!(met > 0, "{command}: {call} was never called");
            kills += met;
        }
    }
    println!("killed {kills} times, {half} of them between the veth pair and the books");
    ensure!(kills > 20 && half > 4, "the kills did not reach every state");
    Ok(())
}
