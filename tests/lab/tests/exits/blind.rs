//! S5.3 and S5.4: names and their subdomains go home with TLS untouched, and the exit sees no plaintext.

use std::fs;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use meshd_lab::{Process, wait_within};

use crate::fixture::{Net, certificate, interrupt, website, with, without};

const MARKER: &str = "plaintext-marker-5ac1f0e3b7d94826";

#[test]
fn s5_3_a_domain_and_its_subdomains_go_home_and_another_stays_here() -> Result<()> {
    let net = Net::new("s5_3")?;
    net.join()?;
    // `kl.example` is the laptop's, `k.example` that of a machine beside: the Pi.
    let ca = certificate(&net.net.laptop, "kl", &["kl.example", "*.kl.example"])?;
    net.website(3000, "home")?;
    let files = ["--cert", "/var/lib/kl.pem", "--key", "/var/lib/kl.key"];
    let args = [&["3000", "--public", "kl.example", "--public", "*.kl.example"][..], &files].concat();
    let run = net.expose(&args, "https://")?;
    let token = net.coordinator.token()?;
    meshd_lab::mesh::up(&net.net.pi, &[&token])?;
    let other = certificate(&net.net.pi, "k", &["k.example"])?;
    website(&net.net.pi, 3000, "cloud")?;
    let here =
        ["expose", "3000", "--public", "k.example", "--cert", "/var/lib/k.pem", "--key", "/var/lib/k.key"];
    let here = net.net.pi.spawn("meshd", here)?;
    here.wait_for_log("https://", Duration::from_secs(30))?;
    fs::write(net.outside.file("/var/lib/ca.pem"), ca + &other)?;
    for (name, body) in [
        ("kl.example", "home"),
        ("app.kl.example", "home"),
        ("a.b.kl.example", "home"),
        ("k.example", "cloud"),
    ] {
        let (resolve, url) = (net.resolve(name), format!("https://{name}/"));
        // A wildcard certificate covers one label; what is looked at here is where it goes.
        let trust: &[&str] =
            if name == "a.b.kl.example" { &["-k"] } else { &["--cacert", "/var/lib/ca.pem"] };
        net.reads(&[trust, &["--resolve", &resolve, &url]].concat(), body)?;
        println!("{name}: {body}");
    }
    // Nobody's name gets nothing, and one that is taken is refused to the second.
    let stranger = net.resolve("x.k.example");
    let said = net.curl(&["-k", "--resolve", &stranger, "https://x.k.example/"])?.failure()?;
    println!("x.k.example, which nobody publishes: {}", said.stderr.trim());
    let second =
        ["expose", "3000", "--public", "kl.example", "--cert", "/var/lib/k.pem", "--key", "/var/lib/k.key"];
    let second = net.net.pi.run("meshd", second)?.failure()?;
    ensure!(second.stderr.contains("published by laptop already"), "{}", second.stderr);
    // Switched off: the home's command ends, and its names are nobody's.
    interrupt(run)?;
    let resolve = net.resolve("kl.example");
    let gone = wait_within(Duration::from_secs(30), || {
        let said = net.curl(&["-k", "--resolve", &resolve, "https://kl.example/"]).ok()?;
        (!said.is_success()).then_some(said.stderr)
    });
    with("S5.3", "kl.example and its subdomains went to one node, k.example to another, on the same 443");
    without("S5.3", "publishing kl.example", &gone.context("it still answers")?);
    Ok(())
}

#[test]
fn s5_4_the_exit_holds_no_plaintext_in_its_memory_and_on_its_wires() -> Result<()> {
    let net = Net::new("s5_4")?;
    net.join()?;
    let ca = certificate(&net.net.laptop, "site", &["app.k.example"])?;
    fs::write(net.outside.file("/var/lib/ca.pem"), ca)?;
    let body = format!("{MARKER}\n").repeat(20_000);
    net.website(3000, &body)?;
    let files = ["--cert", "/var/lib/site.pem", "--key", "/var/lib/site.key"];
    let args = [&["3000", "--public", "app.k.example"][..], &files].concat();
    let _run = net.expose(&args, "https://")?;
    let capture = net.exit.capture("eth0")?;
    let resolve = net.resolve("app.k.example");
    let url = format!("https://app.k.example/{MARKER}");
    let ask =
        ["--cacert", "/var/lib/ca.pem", "--resolve", &resolve, "-H", &format!("X-Secret: {MARKER}"), &url];
    net.reads(&ask, &body)?;
    for _ in 0..10 {
        ensure!(net.curl(&ask)?.stdout == body, "a fetch differs");
    }
    let captured = capture.finish()?;
    let on_wire = captured.count(|p| p.holds(&[MARKER.as_bytes()]));
    let gateway = net.gateway.as_ref().context("it runs")?;
    let (found, searched) = in_memory(gateway)?;
    let packets = captured.packets.len();
    println!(
        "passthrough: {on_wire} of {packets} packets and {found} places in {searched} bytes of memory hold the marker"
    );
    ensure!(packets > 200 && searched > 1 << 20, "nothing was looked at");
    ensure!((on_wire, found) == (0, 0), "the exit has plaintext");

    // Positive control: the same search where TLS ends at the exit.
    certificate(&net.exit, "own", &["own.k.example"])?;
    fs::copy(net.exit.file("/var/lib/own.pem"), net.outside.file("/var/lib/own.pem"))?;
    fs::write(net.victim.file("/var/lib/site"), &body)?;
    let site = net.victim.spawn("lab-tool", ["http", "0.0.0.0:8001", "/var/lib/site"])?;
    site.wait_for_log("listening", Duration::from_secs(10))?;
    let config = serde_json::json!({
        "generation": 1,
        "listeners": [{"name": "own", "port": 8443, "protocol": "https", "tls": {"certificates": ["own"]}}],
        "routes": [{"name": "own", "listeners": ["own"], "rules": [{"backends": [{"backend": "b"}]}]}],
        "backends": [{"name": "b", "endpoints": [{"address": net.victim4.to_string(), "port": 8001}]}],
        "certificates": [{"name": "own", "chain_file": "/var/lib/own.pem", "key_file": "/var/lib/own.key"}],
    });
    fs::write(net.exit.file("/var/lib/own.json"), config.to_string())?;
    let own = net.exit.spawn("meshd-gateway", ["serve", "/var/lib/own.json", "--admin", "off"])?;
    own.wait_for_log("serving", Duration::from_secs(20))?;
    let capture = net.exit.capture("eth0")?;
    let resolve = format!("own.k.example:8443:{}", net.exit4);
    let url = format!("https://own.k.example:8443/{MARKER}");
    net.reads(&["--cacert", "/var/lib/own.pem", "--resolve", &resolve, &url], &body)?;
    let on_wire = capture.finish()?.count(|p| p.holds(&[MARKER.as_bytes()]));
    let (found, _) = in_memory(&own)?;
    with("S5.4", "no plaintext in memory and packets of the exit");
    without(
        "S5.4",
        "passthrough (TLS ended at the exit)",
        &format!("{on_wire} packets and {found} places in memory hold it"),
    );
    ensure!(on_wire > 0 && found > 0, "the search finds nothing where there is something");
    Ok(())
}

/// How often the marker is in what a process can write to, and how much was looked at.
fn in_memory(process: &Process) -> Result<(usize, usize)> {
    let pid = process.pid()?;
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let memory = fs::File::open(format!("/proc/{pid}/mem"))?;
    let (mut found, mut searched) = (0, 0);
    for line in maps.lines().filter(|l| l.contains(" rw")) {
        let Some((from, rest)) = line.split_once('-') else { continue };
        let (Ok(from), Ok(to)) =
            (u64::from_str_radix(from, 16), u64::from_str_radix(rest.split(' ').next().unwrap_or(""), 16))
        else {
            continue;
        };
        let mut at = from;
        while at < to {
            // Parts overlap by the length of the marker, so that none is cut in two.
            let mut part = vec![0; usize::try_from((to - at).min(1 << 20))?];
            if memory.read_exact_at(&mut part, at).is_ok() {
                searched += part.len();
                found += part.windows(MARKER.len()).filter(|w| *w == MARKER.as_bytes()).count();
            }
            at += (part.len() as u64).saturating_sub(MARKER.len() as u64).max(1);
            if part.len() < 1 << 20 {
                break;
            }
        }
    }
    Ok((found, searched))
}
