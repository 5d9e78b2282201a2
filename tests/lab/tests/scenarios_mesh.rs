//! Scenarios of docs/scenarios.md that need a mesh and nothing else. Each is played with its feature and without.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use meshd_lab::mesh::{
    PATIENCE, SmallInternet, fetch, mesh_address, ping_until, start_daemon, status, up, wait_direct,
    wait_status,
};
use meshd_lab::scenario::{Feature, prove};
use meshd_lab::{Host, Transport, WireGuard, wait_within};

/// How long something that is to fail may take to do so.
const SHORT: Duration = Duration::from_secs(4);

/// How long to try.
fn patience(feature: Feature) -> Duration {
    if feature.is_on() { PATIENCE } else { SHORT }
}

/// The addresses at the mesh's interface, IPv4 and IPv6, as `ip` prints them.
fn interface(host: &Host) -> Result<Vec<String>> {
    let said = host.sh("ip -o addr show dev mesh0 scope global")?;
    // Beside its own addresses every node has the resolver's.
    let resolver = |address: &&str| address.ends_with(".0.53/32") || address.ends_with("::53/128");
    let addresses = said.lines().filter_map(|line| line.split_whitespace().nth(3));
    let mut found: Vec<String> = addresses.filter(|a| !resolver(a)).map(str::to_owned).collect();
    found.sort();
    ensure!(found.len() == 2 && found[0].contains('.') && found[1].contains(':'), "{}: {said}", host.name());
    Ok(found)
}

#[test]
fn s4_1_every_device_has_an_interface_with_stable_addresses_and_direct_encrypted_links() -> Result<()> {
    prove("S4.1", "the node (meshd down)", |feature| {
        let net = SmallInternet::new("s4_1")?;
        let coordinator = net.join_all()?;
        if !feature.is_on() {
            net.laptop.run("meshd", ["down"])?.success()?;
        }
        let before = (interface(&net.pi)?, interface(&net.laptop)?);
        // A restarted machine is the same one.
        net.pi.reboot()?;
        let _daemon = start_daemon(&net.pi)?;
        wait_status(&net.pi, "a member again", |status| status["state"] == "up")?;
        ensure!((interface(&net.pi)?, interface(&net.laptop)?) == before, "other addresses than {before:?}");
        ping_until(&net.laptop, "pi", PATIENCE)?;
        wait_direct(&net.laptop, "pi")?;
        // An admin sees which way it goes, as the laptop itself says.
        let told = wait_within(PATIENCE, || {
            let said = coordinator.run(&["nodes", "paths", "laptop", "--json"]).ok()?.stdout;
            let told: serde_json::Value = serde_json::from_str(&said).ok()?;
            let direct =
                |p: &&serde_json::Value| p["peer"] == "pi" && p["path"] == "direct" && p["rtt_us"].is_u64();
            told["paths"].as_array()?.iter().find(direct).cloned()
        });
        ensure!(told.is_some(), "the coordinator does not know of the direct path");
        // What goes from home to home is WireGuard, and nobody reads it.
        let capturing = net.home.host.capture("wan")?;
        net.laptop.sh(&format!("ping -c 5 -i 0.2 -p 6d6573686421 {}", mesh_address(&net.pi)?))?;
        let capture = capturing.finish()?;
        let (home, away) = (net.home.wan4.into(), net.away.wan4.into());
        let sealed = capture.count(|p| p.is_between(home, away) && p.wireguard() == Some(WireGuard::Data));
        ensure!(sealed >= 10, "{sealed} sealed packets carried ten");
        ensure!(capture.count(|p| p.holds(&[b"meshd!meshd!"])) == 0, "the pings were readable");
        ensure!(
            capture.count(|p| p.transport == Transport::Icmp && p.is_between(home, away)) == 0,
            "in the open"
        );
        Ok(())
    })
}

#[test]
fn s4_2_a_bare_name_resolves_at_a_fixed_address_of_the_mesh() -> Result<()> {
    prove("S4.2", "our resolver (--dns=off)", |feature| {
        let net = SmallInternet::new("s4_2")?;
        let coordinator = net.coordinator()?;
        let token = coordinator.token()?;
        let (worker, _, _) = net.lab.behind(&net.home, "k8s-worker0")?;
        up(&worker, &[&token])?;
        up(&net.laptop, &[&token, if feature.is_on() { "--dns=full" } else { "--dns=off" }])?;
        let wanted = mesh_address(&worker)?;
        let own = mesh_address(&net.laptop)?.octets();
        let resolver = format!("{}.{}.0.53", own[0], own[1]);

        // Three unmodified ways to ask: nslookup with the host's own settings, glibc, musl.
        let mut last = String::new();
        let found = wait_within(patience(feature), || {
            last = net.laptop.sh("nslookup -timeout=1 -retry=1 k8s-worker0 2>&1").ok()?;
            last.contains(&wanted.to_string()).then_some(())
        });
        ensure!(found.is_some(), "nslookup finds no k8s-worker0: {last}");
        ensure!(last.contains(&resolver), "somebody else than {resolver} answered: {last}");
        let glibc = net.laptop.sh("getent ahostsv4 k8s-worker0")?;
        ensure!(glibc.contains(&wanted.to_string()), "glibc: {glibc}");
        let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/resolve.c");
        let program = net.laptop.file("/var/lib/resolve-by-musl");
        let made = std::process::Command::new("musl-gcc")
            .arg("-static")
            .arg("-o")
            .arg(program)
            .arg(source)
            .status()?;
        ensure!(made.success(), "musl-gcc: {made}");
        let musl = net.laptop.sh("/var/lib/resolve-by-musl k8s-worker0")?;
        ensure!(musl.contains(&wanted.to_string()), "musl: {musl}");
        // And back: the address has that name.
        let back = net.laptop.sh(&format!("nslookup {wanted}"))?;
        ensure!(back.contains("k8s-worker0"), "{back}");
        Ok(())
    })
}

#[test]
fn s4_3_a_lan_behind_one_device_is_reached_by_its_members_that_run_nothing() -> Result<()> {
    prove("S4.3", "--advertise-routes", |feature| {
        let net = SmallInternet::new("s4_3")?;
        let coordinator = net.coordinator()?;
        let token = coordinator.token()?;
        if feature.is_on() {
            up(&net.pi, &[&token, "--advertise-routes=192.168.1.0/24"])?;
            coordinator.run(&["routes", "approve", "pi", "192.168.1.0/24"])?;
        } else {
            up(&net.pi, &[&token])?;
        }
        up(&net.laptop, &[&token])?;
        let body = net.serve_random(100_000)?;
        ping_until(&net.laptop, &net.nas4.to_string(), patience(feature))?;
        ensure!(fetch(&net.laptop, &format!("http://{}/", net.nas4))? == body, "another body");
        let inside = net.nas.sh("ip -o link | grep -c mesh0 || true")?;
        ensure!(inside.trim() == "0", "the NAS runs a part of the mesh");
        Ok(())
    })
}

#[test]
fn s4_17_beside_another_vpn_the_cause_is_named_and_the_advice_helps() -> Result<()> {
    prove("S4.17", "what `meshd status` advises", |feature| {
        let net = SmallInternet::new("s4_17")?;
        let mut coordinator = net.coordinator()?;
        let token = coordinator.token()?;
        up(&net.pi, &[&token])?;
        // Another VPN on the laptop: it drops what comes from the shared range by any way but its own.
        net.laptop.sh("ip link add tailscale0 type bridge && ip addr add 100.101.1.1/32 dev tailscale0 && ip link set tailscale0 up")?;
        net.laptop.nft(
            "table ip filter {\n chain ts-input {\n  iifname != \"tailscale0\" ip saddr 100.64.0.0/10 counter drop\n }\n \
             chain INPUT {\n  type filter hook input priority filter\n  jump ts-input\n }\n}\n",
        )?;
        up(&net.laptop, &[&token])?;
        let command = advice(&net.laptop, "ts-input", "nft '", '\'')?;
        if feature.is_on() {
            net.laptop.run("nft", [command])?.success()?;
        }
        ping_until(&net.laptop, "pi", patience(feature))?;
        ping_until(&net.pi, "laptop", patience(feature))?;

        // The same range at an uplink (carrier-grade NAT): a free one is named, and works.
        let range = mesh_address(&net.laptop)?.octets();
        net.pi.sh(&format!(
            "ip link add cgnat0 type bridge && ip addr add {}.{}.200.7/16 dev cgnat0 && ip link set cgnat0 up",
            range[0], range[1]
        ))?;
        let free = advice(&net.pi, "cgnat0", "serve --prefix ", '"')?;
        for node in [&net.pi, &net.laptop] {
            node.run("meshd", ["down", "--logout"])?.success()?;
        }
        coordinator.kill()?;
        let (other, other4, _) = net.lab.server("other")?;
        let public = other4.to_string();
        let serving = other.spawn("meshd-coordinator", ["serve", "--public", &public, "--prefix", &free])?;
        serving.wait_for_log("administer the mesh", PATIENCE)?;
        let said = other.run("meshd-coordinator", ["token", "create"])?.success()?.stdout;
        let token = said.split_whitespace().find(|word| word.starts_with("mesh_")).context("no token")?;
        up(&net.pi, &[token])?;
        up(&net.laptop, &[token])?;
        net.laptop.run("nft", [advice(&net.laptop, "ts-input", "nft '", '\'')?])?.success()?;
        ping_until(&net.laptop, "pi", PATIENCE)?;
        let left = status(&net.pi)?["problems"].to_string();
        ensure!(!left.contains("serve --prefix"), "{left}");
        Ok(())
    })
}

/// From the problem of `host` that names `cause`: the words of its advice between `begin` and `end`.
fn advice(host: &Host, cause: &str, begin: &str, end: char) -> Result<String> {
    let named = |status: &serde_json::Value| {
        let problem = status["problems"].as_array()?.iter().find(|p| p.to_string().contains(cause))?;
        let words = problem.to_string();
        let words = words.split(begin).nth(1)?.split(end).next()?;
        Some(words.replace('\\', ""))
    };
    let status = wait_status(host, "the cause is named, with what helps", |status| named(status).is_some())?;
    named(&status).context("no advice")
}
