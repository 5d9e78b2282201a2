//! Split DNS as a person meets it: names with wildcards, an internal domain that a name server inside the
//! advertised LAN answers, a browser that opens an internal page, an upstream that is a black hole; how much
//! of it a host takes; names for some tags only; and a LAN whose machines run nothing of ours.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use meshd_lab::mesh::{Coordinator, SmallInternet, fetch, mesh_address, ping_until};
use meshd_lab::{Host, Process};

/// Where the LAN's name server swallows questions instead of answering them.
const BLACK_HOLES: [&str; 3] = ["192.168.1.66", "192.168.1.67", "192.168.1.68"];
/// What a first upstream that is a black hole may cost.
const COST: u64 = 250;

#[test]
fn split_dns_works_through_the_mesh_with_wildcards_and_with_a_dead_upstream() -> Result<()> {
    let net = SmallInternet::new("names")?;
    // A resolver of the internet, that only the Pi knows.
    let outside =
        net.vps.spawn("lab-tool", ["dns", &format!("{}:53", net.vps4), "up.example", "203.0.113.9"])?;
    outside.wait_for_log("listening", Duration::from_secs(5))?;
    std::fs::write(net.pi.file("/etc/resolv.conf"), format!("nameserver {}\n", net.vps4))?;
    let before = std::fs::read(net.laptop.file("/etc/resolv.conf"))?;
    let coordinator = net.join_all()?;
    ping_until(&net.laptop, &net.nas4.to_string(), Duration::from_secs(20))?;
    let _server = name_server(&net.nas)?;
    wildcard(&net, &coordinator)?;
    inside_the_lan(&net, &coordinator)?;
    black_hole(&net.laptop, &coordinator)?;
    as_much_as_wanted(&net.laptop, &before)?;
    a_lan_without_our_software(&net)?;
    everything_to_a_resolver_behind_a_route(&net, &coordinator)?;
    Ok(())
}

/// Rules bound to tags: two nodes have different answers for one name, and the third has none, neither as an
/// answer nor anywhere in the map that it keeps.
#[test]
fn two_tags_have_different_answers_for_one_name_and_a_third_node_has_none() -> Result<()> {
    let net = SmallInternet::new("bound")?;
    let coordinator = net.join_all()?;
    let third = &net.vps;
    meshd_lab::mesh::up(third, &[&coordinator.token()?, "--hostname=third"])?;
    ping_until(&net.laptop, &net.nas4.to_string(), Duration::from_secs(20))?;
    let _daemon = healthy_first(&net, &coordinator)?;
    coordinator.run(&["nodes", "tag", "pi", "tag:home"])?;
    coordinator.run(&["nodes", "tag", "laptop", "tag:away"])?;
    coordinator.run(&["dns", "add", "app", "9.9.9.1", "--for", "tag:home"])?;
    coordinator.run(&["dns", "add", "app", "9.9.9.2", "--for", "tag:away"])?;
    coordinator.run(&["dns", "split", "add", "corp.example", "9.9.9.53", "--for", "tag:away"])?;
    let app = "app.home.internal";
    until(&net.pi, app, "A", |a| a.contains("9.9.9.1") && !a.contains("9.9.9.2"))?;
    until(&net.laptop, app, "A", |a| a.contains("9.9.9.2") && !a.contains("9.9.9.1"))?;
    let none = until(third, app, "A", |a| a.contains("status: NXDOMAIN"))?;
    ensure!(none.contains("ANSWER: 0"), "{none}");
    // Whose resolver is asked goes by the same.
    let route = |host: &Host| -> Result<String> {
        Ok(host.run("meshd", ["dns", "explain", "wiki.corp.example"])?.success()?.stdout)
    };
    ensure!(route(&net.laptop)?.contains("9.9.9.53"), "{}", route(&net.laptop)?);
    ensure!(!route(third)?.contains("9.9.9.53"), "{}", route(third)?);
    // Nothing of it is on the third one's disk, and it is on the first one's.
    let keeps =
        |host: &Host| -> Result<bool> { Ok(host.run("grep", ["-rqa", app, "/var/lib/meshd"])?.is_success()) };
    ensure!(keeps(&net.pi)?, "the map of the one that has the name is not where it was looked for");
    ensure!(!keeps(third)?, "the third one's map knows of the name");
    // What the coordinator says of them is what they say.
    let explained = |node: &str| coordinator.run(&["dns", "explain", "app", "--as", node]).map(|f| f.stdout);
    for (node, wanted) in [("pi", "9.9.9.1"), ("laptop", "9.9.9.2"), ("third", "no such name")] {
        let said = explained(node)?;
        ensure!(said.contains(wanted), "as {node}: {said}");
        println!("{said}");
    }
    Ok(())
}

/// A name with two addresses: that of the node which is gone stands last.
fn healthy_first(net: &SmallInternet, coordinator: &Coordinator) -> Result<Process> {
    let (third, pi) = (mesh_address(&net.vps)?.to_string(), mesh_address(&net.pi)?.to_string());
    for address in [&third, &pi] {
        coordinator.run(&["dns", "add", "twin", address])?;
    }
    let first = |answer: &str| {
        let mut found = answer.lines().filter(|line| line.starts_with("twin.home.internal."));
        let count = found.clone().count();
        (count, found.next().and_then(|line| line.split_whitespace().last()).map(str::to_owned))
    };
    ping_until(&net.laptop, &third, Duration::from_secs(20))?;
    until(&net.laptop, "twin.home.internal", "A", |a| first(a).0 == 2)?;
    meshd_lab::mesh::kill_daemon(&net.vps)?;
    until(&net.laptop, "twin.home.internal", "A", |a| first(a) == (2, Some(pi.clone())))?;
    println!("the address of the node that is gone stands last");
    meshd_lab::mesh::start_daemon(&net.vps)
}

/// dnsmasq on the NAS: `corp.example`, and every name below `fast.example` and `slowN.example`.
fn name_server(nas: &Host) -> Result<Process> {
    for hole in BLACK_HOLES {
        nas.run("ip", ["addr", "add", &format!("{hole}/24"), "dev", "eth0"])?.success()?;
    }
    let holes = BLACK_HOLES.join(", ");
    nas.nft(&format!(
        "table inet holes {{\n chain in {{\n type filter hook input priority 0\n ip daddr {{ {holes} }} drop\n }}\n}}\n"
    ))?;
    let mut args: Vec<String> = [
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--no-resolv",
        "--no-hosts",
        "--user=root",
        "--pid-file=",
    ]
    .map(str::to_owned)
    .into();
    args.push("--log-facility=-".to_owned());
    args.push("--host-record=wiki.corp.example,192.168.1.10".to_owned());
    args.push("--local=/corp.example/".to_owned());
    args.push("--address=/over.example/203.0.113.77".to_owned());
    for domain in ["fast", "slow0", "slow1", "slow2"] {
        args.push(format!("--address=/{domain}.example/192.168.1.10"));
    }
    let server = nas.spawn("dnsmasq", args)?;
    server.wait_for_log("started", Duration::from_secs(10))?;
    Ok(server)
}

/// A wildcard that has an A record: that inside, and "no data" for AAAA, never "no such name".
fn wildcard(net: &SmallInternet, coordinator: &Coordinator) -> Result<()> {
    coordinator.run(&["dns", "add", "*.internal.example", &net.nas4.to_string()])?;
    let answer = until(&net.laptop, "a.internal.example", "A", |a| a.contains("192.168.1.10"))?;
    ensure!(answer.contains("status: NOERROR"), "{answer}");
    let answer = dig(&net.laptop, "a.internal.example", "AAAA")?;
    ensure!(answer.contains("status: NOERROR") && answer.contains("ANSWER: 0"), "{answer}");
    // What its parent and its neighbours are is nobody's business here: they are asked outside, where
    // this internet has nobody to ask.
    let answer = dig(&net.laptop, "internal.example", "A")?;
    ensure!(!answer.contains("192.168.1.10"), "{answer}");
    // Unmodified programs: glibc, and a page by that name.
    let body = net.serve_random(4096)?;
    ensure!(fetch(&net.laptop, "http://wiki.internal.example/")? == body, "another page");
    // A real browser, which has a resolver of its own and shows the page by that name.
    a_browser_opens(net, "http://wiki.internal.example/")?;
    // Browsers must go on asking this host's resolver.
    let canary = dig(&net.laptop, "use-application-dns.net", "A")?;
    ensure!(canary.contains("status: NXDOMAIN"), "{canary}");
    Ok(())
}

/// Chromium on the laptop, as it is, opens an internal page.
fn a_browser_opens(net: &SmallInternet, url: &str) -> Result<()> {
    let page = "<!doctype html><title>wiki</title><p id=inside>only inside</p>\n";
    std::fs::write(net.nas.file("/var/lib/body"), page)?;
    let flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-dev-shm-usage",
        "--user-data-dir=/var/lib/browser",
        "--dump-dom",
        url,
    ];
    let shown = net.laptop.run("chromium", flags)?;
    ensure!(
        shown.stdout.contains("<p id=\"inside\">only inside</p>"),
        "Chromium (make lab installs it) does not show {url}: {} {}",
        shown.stdout,
        shown.stderr
    );
    println!("Chromium shows {url}");
    Ok(())
}

/// An internal domain, resolved by a name server that only a route of the mesh leads to.
fn inside_the_lan(net: &SmallInternet, coordinator: &Coordinator) -> Result<()> {
    coordinator.run(&["dns", "split", "add", "corp.example", &net.nas4.to_string()])?;
    let answer = until(&net.laptop, "wiki.corp.example", "A", |a| a.contains("192.168.1.10"))?;
    ensure!(answer.contains("status: NOERROR"), "{answer}");
    // A search domain: the bare name, by glibc.
    coordinator.run(&["dns", "search", "corp.example"])?;
    let found = meshd_lab::wait_until(Duration::from_secs(20), || {
        let said = net.laptop.run("getent", ["ahostsv4", "wiki"]);
        said.is_ok_and(|s| s.stdout.contains("192.168.1.10"))
    });
    ensure!(found, "the bare name `wiki` is not found in corp.example");
    let none = dig(&net.laptop, "none.corp.example", "A")?;
    ensure!(none.contains("status: NXDOMAIN"), "{none}");
    let why = net.laptop.run("meshd", ["dns", "explain", "wiki.corp.example"])?.success()?.stdout;
    ensure!(why.contains("corp.example") && why.contains("192.168.1.10"), "{why}");
    Ok(())
}

/// The first upstream never answers: the second one is asked soon enough.
fn black_hole(laptop: &Host, coordinator: &Coordinator) -> Result<()> {
    coordinator.run(&["dns", "split", "add", "fast.example", "192.168.1.10"])?;
    for (n, hole) in BLACK_HOLES.iter().enumerate() {
        coordinator.run(&["dns", "split", "add", &format!("slow{n}.example"), hole, "192.168.1.10"])?;
    }
    let last = format!("slow{}.example", BLACK_HOLES.len() - 1);
    let settled = meshd_lab::wait_until(Duration::from_secs(20), || {
        let why = laptop.run("meshd", ["dns", "explain", &last]);
        why.is_ok_and(|w| w.stdout.contains(BLACK_HOLES[BLACK_HOLES.len() - 1]))
    });
    ensure!(settled, "the laptop never learned of {last}");
    let mut usual = Vec::new();
    for n in 0..5 {
        usual.push(milliseconds(&dig(laptop, &format!("u{n}.fast.example"), "A")?)?);
    }
    usual.sort_unstable();
    let usual = usual[usual.len() / 2];
    // One question for each black hole: a later one would know already that it is one. Those asked in the
    // explanation above were fetched then, so these are other names.
    let mut costs = Vec::new();
    for n in 0..BLACK_HOLES.len() - 1 {
        let answer = dig(laptop, &format!("x.slow{n}.example"), "A")?;
        ensure!(answer.contains("192.168.1.10"), "{answer}");
        costs.push(milliseconds(&answer)?.saturating_sub(usual));
    }
    println!("a first upstream that is a black hole costs {costs:?} ms beside {usual} ms");
    // On a machine that does other things as well one of them may be late, not all.
    ensure!(costs.iter().any(|cost| *cost <= COST), "{costs:?} ms, more than {COST}");
    ensure!(costs.iter().all(|cost| *cost <= 8 * COST), "{costs:?} ms");
    Ok(())
}

/// `--dns`: names of the mesh only, nothing at all, everything again.
fn as_much_as_wanted(laptop: &Host, before: &[u8]) -> Result<()> {
    laptop.run("meshd", ["set", "--dns=names"])?.success()?;
    until(laptop, "nas.home.internal", "A", |a| a.contains("192.168.1.10"))?;
    let split = dig(laptop, "wiki.corp.example", "A")?;
    ensure!(!split.contains("192.168.1.10"), "{split}");
    let record = dig(laptop, "b.internal.example", "A")?;
    ensure!(!record.contains("192.168.1.10"), "{record}");
    laptop.run("meshd", ["set", "--dns=off"])?.success()?;
    let file = laptop.file("/etc/resolv.conf");
    let back =
        meshd_lab::wait_until(Duration::from_secs(10), || std::fs::read(&file).is_ok_and(|b| b == before));
    ensure!(back, "resolv.conf is not as it was: {}", std::fs::read_to_string(&file)?);
    laptop.run("meshd", ["set", "--dns=full"])?.success()?;
    until(laptop, "wiki.corp.example", "A", |a| a.contains("192.168.1.10"))?;
    Ok(())
}

/// The NAS runs nothing of ours; the Pi answers its LAN when that was opened, to whom, as much and as often
/// as was said.
fn a_lan_without_our_software(net: &SmallInternet) -> Result<()> {
    let pi = "@192.168.1.11";
    let ask = |name: &str| -> Result<String> {
        Ok(net.nas.run("dig", ["+tries=1", "+time=2", pi, name, "A"])?.stdout)
    };
    let serve = |args: &[&str]| -> Result<String> {
        Ok(net.pi.run("meshd", ["dns", "serve"].iter().chain(args).copied())?.success()?.stdout)
    };
    let laptop = mesh_address(&net.laptop)?.to_string();
    let closed = |answer: &str| !answer.contains("status:");
    ensure!(closed(&ask("up.example")?), "the LAN is answered before it was opened");

    // Guests: the internet, and nothing of the mesh.
    let said = serve(&["--lan", "eth0"])?;
    ensure!(said.contains("192.168.1.11:53"), "{said}");
    let outside = ask("up.example")?;
    ensure!(outside.contains("203.0.113.9"), "{outside}");
    let hidden = ask("laptop.home.internal")?;
    ensure!(hidden.contains("NXDOMAIN") && !hidden.contains(&laptop), "{hidden}");

    // With the Pi's own view, by an unmodified program through resolv.conf; over TCP, too.
    serve(&["--lan", "eth0", "--view", "node"])?;
    std::fs::write(net.nas.file("/etc/resolv.conf"), "nameserver 192.168.1.11\n")?;
    let found = net.nas.run("getent", ["ahostsv4", "laptop.home.internal"])?.success()?.stdout;
    ensure!(found.contains(&laptop), "{found}");
    let tcp = net.nas.run("dig", ["+tcp", "+tries=1", "+time=3", pi, "laptop.home.internal", "A"])?.stdout;
    ensure!(tcp.contains(&laptop), "{tcp}");

    // Whoever is not on the list hears nothing.
    serve(&["--lan", "eth0", "--allow", "192.168.1.128/25"])?;
    ensure!(closed(&ask("up.example")?), "a machine that is not allowed is answered");

    // And who asks too often is not answered for a while.
    serve(&["--lan", "eth0", "--rate", "1"])?;
    let burst = "for i in $(seq 30); do dig +tries=1 +time=1 @192.168.1.11 up.example A & done; wait";
    let answers = net.nas.sh(burst)?.matches("status: NOERROR").count();
    ensure!((1..=12).contains(&answers), "{answers} of 30 at one a second");
    let status = net.pi.run("meshd", ["dns", "status"])?.success()?.stdout;
    ensure!(status.contains("ask too often"), "{status}");

    // An interface that is not there is an error that says so; off is off.
    let said = net.pi.run("meshd", ["dns", "serve", "--lan", "eth7"])?.failure()?.stderr;
    ensure!(said.contains("there is no interface eth7"), "{said}");
    serve(&["--off"])?;
    ensure!(closed(&ask("up.example")?), "the LAN is answered after it was closed");
    Ok(())
}

/// "Override local DNS" with a resolver that only a route of the mesh leads to: it is asked about everything; when
/// the route is down the host's own is, and nothing waits for the other.
fn everything_to_a_resolver_behind_a_route(net: &SmallInternet, coordinator: &Coordinator) -> Result<()> {
    // What a DHCP client would write while the file is ours: the host's own resolver from now on.
    std::fs::write(net.laptop.file("/etc/resolv.conf"), format!("nameserver {}\n", net.vps4))?;
    until(&net.laptop, "up.example", "A", |a| a.contains("203.0.113.9"))?;
    coordinator.run(&["dns", "nameservers", &net.nas4.to_string()])?;
    until(&net.laptop, "a.over.example", "A", |a| a.contains("203.0.113.77"))?;
    meshd_lab::mesh::kill_daemon(&net.pi)?;
    // Only the resolver outside says so; the one on the NAS refuses what it does not know.
    let answer = until(&net.laptop, "b.up.example", "A", |a| a.contains("status: NXDOMAIN"))?;
    println!(
        "the route to the mesh's nameserver is down: the host's own answers, {} ms",
        milliseconds(&answer)?
    );
    // By now it is known to be silent: nobody waits for it.
    let soon = dig(&net.laptop, "c.up.example", "A")?;
    ensure!(soon.contains("status: NXDOMAIN"), "{soon}");
    let soon = milliseconds(&soon)?;
    ensure!(soon <= 8 * COST, "{soon} ms with a nameserver that is known to be silent");
    Ok(())
}

/// What the laptop's own resolver says, through /etc/resolv.conf as every program asks.
fn dig(host: &Host, name: &str, kind: &str) -> Result<String> {
    Ok(host.run("dig", ["+tries=1", "+time=5", name, kind])?.stdout)
}

fn until(host: &Host, name: &str, kind: &str, good: impl Fn(&str) -> bool) -> Result<String> {
    let mut last = String::new();
    let found = meshd_lab::wait_within(Duration::from_secs(20), || {
        last = dig(host, name, kind).unwrap_or_default();
        good(&last).then(|| last.clone())
    });
    found.with_context(|| format!("{name} {kind} is not so: {last}"))
}

fn milliseconds(answer: &str) -> Result<u64> {
    let line = answer.lines().find_map(|line| line.strip_prefix(";; Query time: "));
    let number = line.and_then(|l| l.split_whitespace().next()).with_context(|| answer.to_owned())?;
    Ok(number.parse()?)
}
