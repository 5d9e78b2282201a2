//! `make demo`: a small internet on this machine, the four commands of the README run for real, and
//! what is on the wire. It only shows what it has checked: a line with ✓ is an assertion that held.
//! Exit status 0 when all of them held. The network of this machine stays as it is.
//!
//! `meshd-demo --hold` leaves everything standing until Enter is pressed, and says how to enter the
//! machines; when a step fails, too.

mod wire;

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use meshd_lab::mesh::{
    Coordinator, SmallInternet, fetch, mesh_address, need, peer, ping_until, up, wait_direct,
};
use meshd_lab::{Host, now};
use serde_json::{Value, json};

const MIB: usize = 1 << 20;
const THROUGHPUT_SECONDS: u32 = 4;

fn main() {
    let began = now();
    let mut report = json!({});
    let result = demo(&mut report);
    report["seconds"] = json!((now() - began).as_secs_f64());
    if let Some(path) = std::env::var_os("MESHD_REPORT")
        && let Err(error) = std::fs::write(&path, report.to_string())
    {
        eprintln!("cannot write the report: {error}");
    }
    match result {
        Ok(()) => {
            println!("\nAll of it worked, in {:.0} s. Nothing of it is left.", (now() - began).as_secs_f64())
        }
        Err(error) => {
            println!("\nfailed: {:#}", error.root_cause());
            std::process::exit(1);
        }
    }
}

fn demo(report: &mut Value) -> Result<()> {
    for program in ["meshd", "meshd-coordinator", "lab-tool"] {
        need(program)?;
    }
    heading("A small internet in network namespaces");
    let net = SmallInternet::new("demo")?;
    let result = steps(&net, report);
    if let Err(error) = &result {
        println!("\n✗ {error:#}\n\nThe ends of the logs:\n{}", net.lab.log_tails());
    }
    if std::env::args().any(|arg| arg == "--hold") {
        println!("\nEverything stands until Enter is pressed here.\n{}", net.lab.doors());
        let _ = std::io::stdin().read_line(&mut String::new());
    }
    result
}

fn steps(net: &SmallInternet, report: &mut Value) -> Result<()> {
    println!("  nas {} ─┐", net.nas4);
    println!("  pi            ─┴─ home router, NAT {} ─┐", net.home.wan4);
    println!("  laptop        ─── away router, NAT {} ─┼─ internet", net.away.wan4);
    println!("  vps           ─── {} ────────────────┘", net.vps4);
    let capturing = net.home.host.capture("wan")?;

    heading("Four commands");
    let mut coordinator = join(net, report)?;

    heading("Status");
    both_direct(net, report)?;

    heading("Names and the LAN behind the Pi");
    let ping = ping_until(&net.laptop, "pi", Duration::from_secs(10))?.stdout;
    show(&net.laptop, "ping -c 1 pi", ping.lines().nth(1).unwrap_or_default());
    let first = net.serve_random(MIB)?;
    fetched(net, &format!("http://{}/", net.nas4), &first)?;
    fetched(net, "http://nas.home.internal/", &first)?;

    heading("What was on the wire between the homes and the internet (every frame since the start)");
    let capture = capturing.finish()?;
    let mesh = [mesh_address(&net.pi)?, mesh_address(&net.laptop)?];
    let summary = wire::summary(&capture, net, &first, &mesh);
    report["wire"] = summary.to_json();
    summary.print();
    summary.check(2 * MIB)?;
    ok(
        "the two fetches crossed the internet as WireGuard data between the two NAT addresses, 0 plaintext frames",
    );

    heading("Throughput through the tunnel");
    throughput(net, report)?;

    heading("Coordinator and relay killed");
    coordinator.kill()?;
    let second = net.serve_random(MIB)?;
    fetched(net, "http://nas.home.internal/", &second)?;
    report["fetch_without_coordinator"] = json!(true);

    heading("Down");
    for host in [&net.laptop, &net.pi] {
        host.run("meshd", ["down"])?.success()?;
        let left = host.sh("ip -o link show mesh0 2>/dev/null; ip rule | grep -E '^52[0-3][0-9]:'; true")?;
        ensure!(left.is_empty(), "{} still has: {left}", host.name());
    }
    ok("both machines are as they were");
    Ok(())
}

fn join(net: &SmallInternet, report: &mut Value) -> Result<Coordinator> {
    let coordinator = net.coordinator()?;
    show(&net.vps, &format!("meshd-coordinator serve --public {}", net.vps4), "");
    let token = coordinator.token()?;
    show(&net.vps, "meshd-coordinator token create", &format!("{}…", token.get(..12).unwrap_or("mesh_")));
    up(&net.pi, &[&token, "--advertise-routes=192.168.1.0/24"])?;
    show(&net.pi, "meshd up mesh_… --advertise-routes=192.168.1.0/24", "");
    coordinator.run(&["routes", "approve", "pi", "192.168.1.0/24"])?;
    show(&net.vps, "meshd-coordinator routes approve pi 192.168.1.0/24", "");
    let nas = net.nas4.to_string();
    coordinator.run(&["dns", "add", "nas.home.internal", &nas])?;
    show(&net.vps, &format!("meshd-coordinator dns add nas.home.internal {nas}"), "");
    let began = now();
    up(&net.laptop, &[&token])?;
    let joined = now() - began;
    ping_until(&net.laptop, "pi", Duration::from_secs(10))?;
    let replied = now() - began;
    show(&net.laptop, "meshd up mesh_…", "");
    ok(&format!(
        "from `meshd up` to the first reply by name: {:.2} s ({:.2} s until the command returned)",
        replied.as_secs_f64(),
        joined.as_secs_f64()
    ));
    report["first_reply_seconds"] = json!(replied.as_secs_f64());
    Ok(coordinator)
}

fn both_direct(net: &SmallInternet, report: &mut Value) -> Result<()> {
    wait_direct(&net.laptop, "pi")?;
    wait_direct(&net.pi, "laptop")?;
    let text = net.laptop.run("meshd", ["status"])?.success()?.stdout;
    show(&net.laptop, "meshd status", "");
    for line in text.lines() {
        println!("    {line}");
    }
    for (host, name) in [(&net.laptop, "pi"), (&net.pi, "laptop")] {
        let now = peer(host, name)?;
        ensure!(now["path"] == "direct", "{} → {name} is not direct: {now}", host.name());
        ok(&format!("{} → {name}: direct via {}", host.name(), now["via"].as_str().unwrap_or("?")));
        report["status"][host.name()] = now;
    }
    Ok(())
}

fn fetched(net: &SmallInternet, url: &str, body: &[u8]) -> Result<()> {
    let began = now();
    let got = fetch(&net.laptop, url)?;
    ensure!(got == body, "{url}: another body, {} bytes", got.len());
    let took = (now() - began).as_millis();
    ok(&format!("laptop$ curl {url} · fresh random 1 MiB, the same bytes, {took} ms"));
    Ok(())
}

fn throughput(net: &SmallInternet, report: &mut Value) -> Result<()> {
    let pi = mesh_address(&net.pi)?.to_string();
    let _server = net.pi.spawn("iperf3", ["--server", "--bind", &pi])?;
    let seconds = THROUGHPUT_SECONDS.to_string();
    for (name, more) in [("laptop → pi", None), ("pi → laptop", Some("--reverse"))] {
        let args = ["--client", &pi, "--json", "--time", &seconds, "--connect-timeout", "3000"];
        // The server needs a moment to listen.
        let found = meshd_lab::wait_within(Duration::from_secs(10), || {
            let done = net.laptop.run("iperf3", args.into_iter().chain(more)).ok()?;
            let result: Value = serde_json::from_str(&done.stdout).ok()?;
            // With --json it ends with 0 also when it could not connect; then there is no figure.
            result["end"]["sum_received"]["bits_per_second"].as_f64()
        });
        let mbit = found.context("iperf3 did not get through the tunnel")? / 1e6;
        ensure!(mbit > 1.0, "{name}: only {mbit} Mbit/s");
        ok(&format!("{name}: {mbit:.0} Mbit/s (TCP, one stream, both ends and both NATs on this machine)"));
        report["throughput_mbit"][name] = json!(mbit);
    }
    Ok(())
}

fn heading(text: &str) {
    println!("\n{text}");
    let _ = std::io::stdout().flush();
}

fn ok(text: &str) {
    println!("  ✓ {text}");
    let _ = std::io::stdout().flush();
}

fn show(host: &Host, command: &str, answer: &str) {
    println!("  {}$ {command}", host.name());
    if !answer.is_empty() {
        println!("    {answer}");
    }
    let _ = std::io::stdout().flush();
}
