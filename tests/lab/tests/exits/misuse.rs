//! S1.13: nobody gets to the internet through an exit, neither from outside nor from a backend.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use meshd_lab::Host;
use meshd_lab::mesh::mesh_address;

use crate::fixture::{Net, certificate, with, without};

/// Counted on the exit: everything for the victim, everything that is forwarded, and every connection that
/// is opened to anybody but the coordinator and its relay.
fn count_leaks(net: &Net) -> Result<()> {
    net.exit.nft(&format!(
        "table inet leaks {{ counter away {{ }}; chain out {{ type filter hook output priority 0; \
         ip daddr {} counter name away return; ip6 daddr {} counter name away return; \
         tcp flags & (syn | ack) == syn ip daddr != {{ {}, 127.0.0.0/8 }} counter name away; }}; \
         chain through {{ type filter hook forward priority 0; counter name away; }}; }}\n",
        net.victim4, net.victim6, net.net.vps4
    ))
}

fn leaks(exit: &Host) -> Result<u64> {
    let said = exit.sh("nft list counter inet leaks away")?;
    let mut words = said.split_whitespace().skip_while(|w| *w != "packets");
    words.nth(1).and_then(|n| n.parse().ok()).with_context(|| said.clone())
}

/// What a stranger may say to a port of the exit: a name, and the bytes in printf's notation.
fn forms(victim: &str) -> Vec<(&'static str, u16, String)> {
    let hex: String = victim.split('.').map(|n| format!("\\x{:02x}", n.parse::<u8>().unwrap_or(0))).collect();
    let get = |host: &str, line: &str| format!("{line}\\r\\nHost: {host}\\r\\nConnection: close\\r\\n\\r\\n");
    let published = "app.k.example";
    vec![
        ("CONNECT address", 80, get(victim, &format!("CONNECT {victim}:80 HTTP/1.1"))),
        ("CONNECT with a published Host", 80, get(published, &format!("CONNECT {victim}:80 HTTP/1.1"))),
        ("CONNECT on 443 without TLS", 443, get(victim, &format!("CONNECT {victim}:443 HTTP/1.1"))),
        ("absolute form", 80, get(victim, &format!("GET http://{victim}/ HTTP/1.1"))),
        ("absolute form, published Host", 80, get(published, &format!("GET http://{victim}/ HTTP/1.1"))),
        ("absolute form, https", 80, get(published, &format!("GET https://{victim}/ HTTP/1.1"))),
        ("absolute form, HTTP/1.0", 80, format!("GET http://{victim}/ HTTP/1.0\\r\\n\\r\\n")),
        (
            "POST absolute form",
            80,
            format!("POST http://{victim}/ HTTP/1.1\\r\\nHost: {victim}\\r\\nContent-Length: 1\\r\\n\\r\\nx"),
        ),
        ("Host of another", 80, get(victim, "GET / HTTP/1.1")),
        ("challenge path for another", 80, get(victim, "GET /.well-known/acme-challenge/x HTTP/1.1")),
        (
            "X-Forwarded-Host",
            80,
            get(&format!("{published}\\r\\nX-Forwarded-Host: {victim}"), "GET / HTTP/1.1"),
        ),
        ("WebSocket to another", 80, get(&format!("{victim}\\r\\nUpgrade: websocket"), "GET / HTTP/1.1")),
        ("path with a URL", 80, get(published, &format!("GET /http://{victim}/ HTTP/1.1"))),
        (
            "two lengths",
            80,
            format!(
                "POST / HTTP/1.1\\r\\nHost: {published}\\r\\nContent-Length: 0\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n0\\r\\n\\r\\nGET http://{victim}/ HTTP/1.1\\r\\nHost: {victim}\\r\\n\\r\\n"
            ),
        ),
        ("SOCKS4", 80, format!("\\x04\\x01\\x00\\x50{hex}\\x00")),
        ("SOCKS4 on 443", 443, format!("\\x04\\x01\\x00\\x50{hex}\\x00")),
        ("SOCKS5", 80, format!("\\x05\\x01\\x00\\x05\\x01\\x00\\x01{hex}\\x00\\x50")),
        ("SOCKS5 on 443", 443, format!("\\x05\\x01\\x00\\x05\\x01\\x00\\x01{hex}\\x00\\x50")),
        ("PROXY v1", 443, format!("PROXY TCP4 10.0.0.1 {victim} 1 80\\r\\nGET / HTTP/1.1\\r\\n\\r\\n")),
        (
            "PROXY v2",
            80,
            format!(
                "\\r\\n\\r\\n\\x00\\r\\nQUIT\\n\\x21\\x11\\x00\\x0c\\x0a\\x00\\x00\\x01{hex}\\x00\\x01\\x00\\x50GET / HTTP/1.1\\r\\n\\r\\n"
            ),
        ),
        ("HTTP/2 without TLS", 80, "PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n".to_owned()),
        ("a port that is not published", 8080, get(victim, &format!("GET http://{victim}/ HTTP/1.1"))),
        ("the proxies' usual port", 3128, get(victim, &format!("CONNECT {victim}:80 HTTP/1.1"))),
    ]
}

#[test]
fn s1_13_no_proxy_form_and_no_backend_gets_to_the_internet_through_an_exit() -> Result<()> {
    let net = Net::new("s1_13")?;
    net.join()?;
    certificate(&net.net.laptop, "site", &["app.k.example"])?;
    net.website(3000, "the site")?;
    let files = ["--cert", "/var/lib/site.pem", "--key", "/var/lib/site.key"];
    let _run = net.expose(&[&["3000", "--public", "app.k.example"][..], &files].concat(), "https://")?;
    let resolve = net.resolve("app.k.example");
    net.reads(&["-k", "--resolve", &resolve, "https://app.k.example/"], "the site")?;
    let served = net.victim.spawn("lab-tool", ["tcp-echo", "0.0.0.0:80"])?;
    served.wait_for_log("listening", Duration::from_secs(10))?;
    count_leaks(&net)?;
    let victim = net.victim4.to_string();
    let mut tried = 0;
    for (what, port, bytes) in forms(&victim) {
        let line = format!(
            "exec 3<>/dev/tcp/{}/{port} && printf '{bytes}' >&3 && timeout 1 head -c 200 <&3",
            net.exit4
        );
        let said = net.outside.run("bash", ["-c", &line])?;
        let first = said.stdout.lines().next().unwrap_or("(nothing)").trim().to_owned();
        ensure!(!first.starts_with("HTTP/1.1 200") && !said.stdout.contains("the site"), "{what}: {first}");
        println!("{what:32} → {first}");
        tried += 1;
    }
    for (what, name) in
        [("SNI of another", "victim.example"), ("no SNI", ""), ("SNI of a neighbour", "x.k.example")]
    {
        let sni = if name.is_empty() { "-noservername".to_owned() } else { format!("-servername {name}") };
        let line = format!(
            "timeout 3 openssl s_client -connect {}:443 {sni} </dev/null 2>&1 | grep -c BEGIN",
            net.exit4
        );
        let said = net.outside.run("bash", ["-c", &line])?.stdout;
        ensure!(said.trim() == "0", "{what}: a certificate was shown");
        println!("{what:32} → no certificate");
        tried += 1;
    }
    let from_outside = leaks(&net.exit)?;
    println!("{tried} forms from outside: {from_outside} packets left the exit for others");
    ensure!(from_outside == 0 && tried >= 20, "{from_outside} packets left");

    // A hostile backend: a member with root that tries to use the exit as its way out.
    let laptop = &net.net.laptop;
    let exit_mesh = meshd_lab::mesh::peer(laptop, "exit1")?["addresses"][0].as_str().map(str::to_owned);
    let exit_mesh = exit_mesh.context("the exit has a mesh address")?;
    laptop.sh(&format!("ip route add {victim}/32 dev mesh0 src {}", mesh_address(laptop)?))?;
    for line in [
        format!("timeout 3 curl -s --interface mesh0 http://{victim}/"),
        format!("timeout 2 ping -c 2 -W 1 -I mesh0 {victim}"),
        format!("printf x | timeout 2 bash -c 'cat > /dev/udp/{victim}/53'"),
        format!("timeout 3 curl -s -x http://{exit_mesh}:80 http://{victim}/"),
        format!("timeout 3 curl -s -x http://{exit_mesh}:3128 http://{victim}/"),
        format!("timeout 3 curl -s -x socks5h://{exit_mesh}:1080 http://{victim}/"),
        format!("timeout 3 curl -sk --connect-to ::{exit_mesh}:443 https://{victim}/"),
        format!(
            "ip route replace {victim}/32 via {exit_mesh} dev mesh0 onlink; timeout 3 curl -s http://{victim}/"
        ),
    ] {
        let said = laptop.run("bash", ["-c", &line])?;
        ensure!(said.stdout.is_empty() || line.contains("ping"), "{line}: {}", said.stdout);
    }
    let from_backend = leaks(&net.exit)?;
    println!("8 tries of a hostile backend: {} packets left the exit", from_backend - from_outside);
    ensure!(from_backend == 0, "{from_backend} packets left");
    // It still serves, and positive control: what the exit itself sends to the victim is counted.
    net.reads(&["-k", "--resolve", &resolve, "https://app.k.example/"], "the site")?;
    let _ = net.exit.run("timeout", ["3", "bash", "-c", &format!("exec 3<>/dev/tcp/{victim}/80")])?;
    let control = leaks(&net.exit)?;
    with("S1.13", &format!("{tried} forms from outside and 8 tries of a backend: 0 packets left"));
    without("S1.13", "the gateway (a connection of the exit itself)", &format!("{control} packets left"));
    ensure!(control > 0, "the counter counts nothing");
    Ok(())
}
