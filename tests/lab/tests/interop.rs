//! Debian's wireguard-go with `wg` as a peer of our node: a device joined by `meshd export wg-quick`.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use meshd_lab::mesh::{Coordinator, fetch, kill_daemon, mesh_address, ping_until, start_daemon, up};
use meshd_lab::{Host, Lab, Nat, wait_until};

/// WireGuard starts a new handshake after 120 s of traffic.
const PAST_A_REKEY: Duration = Duration::from_secs(135);

/// One value of a wg-quick file.
fn value(config: &str, key: &str) -> Result<String> {
    let line = config.lines().find(|line| line.split('=').next().map(str::trim) == Some(key));
    let value = line.and_then(|line| line.split_once('=')).map(|(_, value)| value.trim().to_owned());
    value.with_context(|| format!("no {key} in:\n{config}"))
}

/// What `wg-quick up` does, by hand: `resolvconf` and iptables are not part of the lab.
fn bring_up(device: &Host, config: &str) -> Result<()> {
    let keys: String = config
        .lines()
        .filter(|line| !matches!(line.split('=').next().map(str::trim), Some("Address" | "DNS" | "MTU")))
        .map(|line| format!("{line}\n"))
        .collect();
    fs::write(device.file("/etc/wg0.conf"), keys)?;
    let peer = device.spawn("wireguard-go", ["-f", "wg0"])?;
    let listens = wait_until(Duration::from_secs(5), || device.sh("wg show wg0").is_ok());
    ensure!(listens, "wireguard-go did not start: {}", peer.log());
    device.sh("wg setconf wg0 /etc/wg0.conf")?;
    for address in value(config, "Address")?.split(',') {
        device.sh(&format!("ip addr add {} dev wg0", address.trim()))?;
    }
    device.sh("ip link set wg0 mtu 1380 up")?;
    for prefix in value(config, "AllowedIPs")?.split(',') {
        device.sh(&format!("ip route replace {} dev wg0", prefix.trim()))?;
    }
    Ok(())
}

#[test]
fn wireguard_go_joins_by_an_exported_config_and_goes_on_across_a_rekey() -> Result<()> {
    let lab = Lab::new("interop")?;
    let (vps, vps4, _) = lab.server("vps")?;
    let (hub, public4, _) = lab.server("hub")?;
    let away = lab.router("away", Nat::Home)?;
    let (phone, _, _) = lab.behind(&away, "phone")?;
    let (thief, _, _) = lab.server("thief")?;
    let coordinator = Coordinator::start(&vps, vps4)?;
    let token = coordinator.token()?;
    up(&hub, &[&token])?;
    let hub4 = mesh_address(&hub)?;

    let export = ["export", "wg-quick", "phone", "--no-qr", "--preshared-key"];
    let config = hub.run("meshd", export)?.success()?.stdout;
    ensure!(value(&config, "PresharedKey")?.len() == 44, "no preshared key");
    // The lab's addresses are documentation ranges, which the node does not take for public ones.
    let config = config.replace(&value(&config, "Endpoint")?, &format!("{public4}:41820"));
    bring_up(&phone, &config)?;
    ping_until(&phone, &hub4.to_string(), Duration::from_secs(15))?;
    let phone4 = value(&config, "Address")?.split(['/', ',']).next().unwrap_or_default().to_owned();
    ping_until(&hub, &phone4, Duration::from_secs(10))?;

    // Bodies both ways.
    for (server, client, address) in [(&hub, &phone, hub4.to_string()), (&phone, &hub, phone4.clone())] {
        server.sh("head -c 1000000 /dev/urandom > /var/lib/body")?;
        let http = server.spawn("lab-tool", ["http", "0.0.0.0:80", "/var/lib/body"])?;
        http.wait_for_log("listening", Duration::from_secs(5))?;
        assert_eq!(fetch(client, &format!("http://{address}/"))?, fs::read(server.file("/var/lib/body"))?);
    }

    // The device asks the node that it is joined through, and gets that node's answers, also where the
    // policy lets it do nothing but ping.
    let icmp = r#"{"acls": [{"action": "accept", "proto": "icmp", "src": ["*"], "dst": ["*:*"]}]}"#;
    fs::write(vps.file("/etc/policy.hujson"), icmp)?;
    coordinator.run(&["policy", "set", "--force", "/etc/policy.hujson"])?;
    let resolver = value(&config, "DNS")?.split(',').next().unwrap_or_default().to_owned();
    let asked =
        phone.run("dig", ["+short", "+time=2", &format!("@{resolver}"), "hub.home.internal"])?.success()?;
    assert_eq!(asked.stdout.trim(), hub4.to_string(), "{}", asked.stderr);
    let tcp = ["+short", "+tcp", "+time=2", &format!("@{resolver}"), "phone.home.internal"];
    assert_eq!(phone.run("dig", tcp)?.success()?.stdout.trim(), phone4);

    // The same configuration with another private key, or another preshared key, gets nothing.
    let thief_gets_nothing = |own: String, wrong: String| -> Result<()> {
        bring_up(&thief, &config.replace(&own, wrong.trim()))?;
        thief.run("ping", ["-c", "3", "-i", "0.5", "-W", "1", &hub4.to_string()])?.failure()?;
        assert_eq!(thief.sh("wg show wg0 latest-handshakes")?.split_whitespace().last(), Some("0"));
        thief.sh("ip link del wg0")?;
        Ok(())
    };
    thief_gets_nothing(value(&config, "PrivateKey")?, thief.sh("wg genkey")?)?;
    thief_gets_nothing(value(&config, "PresharedKey")?, thief.sh("wg genpsk")?)?;

    // The preshared key outlives a restart of the node.
    kill_daemon(&hub)?;
    let _daemon = start_daemon(&hub)?;
    ping_until(&phone, &hub4.to_string(), Duration::from_secs(30))?;

    // Traffic both ways, twice a second, until keys have changed.
    let handshake = |host: &Host| -> Result<u64> {
        let said = host.sh("wg show wg0 latest-handshakes")?;
        Ok(said.split_whitespace().last().unwrap_or("0").parse()?)
    };
    let first = handshake(&phone)?;
    let pings = (PAST_A_REKEY.as_secs() * 2).to_string();
    let limit = PAST_A_REKEY + Duration::from_secs(30);
    let there = phone.spawn("ping", ["-q", "-i", "0.5", "-c", &pings, &hub4.to_string()])?;
    let back = hub.spawn("ping", ["-q", "-i", "0.5", "-c", &pings, &phone4])?;
    let log = there.log.clone();
    assert!(there.wait(limit)?.success());
    assert!(back.wait(limit)?.success());
    let said = fs::read_to_string(log)?;
    assert!(said.contains(" 0% packet loss"), "{said}");
    let last = handshake(&phone)?;
    assert!(last > first, "no rekey: {first} {last}");
    println!("rekeyed {} s after the first handshake; {said}", last - first);
    Ok(())
}
