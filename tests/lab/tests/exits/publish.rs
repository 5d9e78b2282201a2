//! S1.1, S1.10, S1.12, S5.6 and the end of an exit: publishing from a laptop at home.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use meshd_lab::mesh::PATIENCE;
use meshd_lab::{Process, wait_within};

use crate::fixture::{NOTHING, Net, POLICY, closes, interrupt, start_exit, with, without};

#[test]
fn s1_1_an_exit_on_a_public_host_serves_a_laptop_behind_a_home_nat() -> Result<()> {
    let net = Net::new("s1_1")?;
    net.join()?;
    net.website(3000, "from the laptop")?;
    let run = net.expose(&["3000", "--public"], "http://")?;
    let url = Net::url(&run)?;
    ensure!(url.starts_with(&format!("http://{}:20", net.exit4)), "{url}");
    net.reads(&[&url], "from the laptop")?;
    with("S1.1", &format!("{url} on the exit is the laptop behind a home NAT"));
    // The real client, by PROXY v2 and the log.
    run.wait_for_log(&net.outside4.to_string(), PATIENCE)?;
    // Switched off: the exit stopped.
    net.gateway.as_ref().context("it runs")?.signal(rustix::process::Signal::STOP)?;
    let off = net.curl(&["--max-time", "2", &url])?.failure()?;
    without("S1.1", "the exit (it stands still)", &off.stderr);
    net.gateway.as_ref().context("it runs")?.signal(rustix::process::Signal::CONT)?;
    net.reads(&[&url], "from the laptop")
}

#[test]
fn s1_10_expose_is_one_command_with_a_stable_url_and_leaves_nothing() -> Result<()> {
    let mut net = Net::new("s1_10")?;
    net.join()?;
    net.website(3000, "hello")?;
    // Switched off: without a grant it is refused, with the line to add.
    net.set_policy(NOTHING)?;
    let refused = net.net.laptop.run("meshd", ["expose", "3000", "--public"])?.failure()?;
    ensure!(
        refused.stderr.contains(r#""expose""#) || refused.stderr.contains("`expose`"),
        "{}",
        refused.stderr
    );
    ensure!(refused.stderr.contains(r#""on": ["tag:exit"]"#), "{}", refused.stderr);
    without("S1.10", "the grant", &refused.stderr);
    ensure!(net.exposures()?.as_array().is_some_and(Vec::is_empty), "{}", net.exposures()?);
    net.set_policy(POLICY)?;
    // In the mesh alone.
    let mesh = net.expose(&["3000"], "http://")?;
    println!("mesh only: {}", Net::url(&mesh)?);
    interrupt(mesh)?;
    // On the internet.
    let run = net.expose(&["3000", "--public"], "http://")?;
    let url = Net::url(&run)?;
    net.reads(&[&url], "hello")?;
    ensure!(net.exposures()?.as_array().is_some_and(|all| all.len() == 1));
    // The coordinator and the exit start again: the URL works again, nobody does anything.
    net.coordinator.kill()?;
    net.reads(&[&url], "hello")?;
    net.gateway.take().context("it runs")?.kill()?;
    net.gateway = Some(start_exit_again(&net)?);
    net.reads(&[&url], "hello").context("an exit that starts while the coordinator is away")?;
    net.coordinator.resume()?;
    net.reads(&[&url], "hello")?;
    // Ctrl-C: nothing is left, on the exit, at the coordinator, on the laptop.
    interrupt(run)?;
    let port = url.rsplit(':').next().context("a port")?.parse()?;
    closes(&net.outside, net.exit4, port)?;
    let empty = wait_within(PATIENCE, || net.exposures().ok()?.as_array()?.is_empty().then_some(()));
    empty.with_context(|| format!("{:?}", net.exposures()))?;
    // The same again: the same URL.
    let again = net.expose(&["3000", "--public"], "http://")?;
    ensure!(Net::url(&again)? == url, "{} was {url}", Net::url(&again)?);
    net.reads(&[&url], "hello")?;
    with("S1.10", &format!("{url} outlived a restart of coordinator and exit, left nothing, and came again"));
    // An admin takes it away.
    net.coordinator.run(&["exposures", "remove", "laptop"])?;
    again.wait_for_log("an admin took this off", PATIENCE)?;
    closes(&net.outside, net.exit4, port)?;
    interrupt(again)?;
    // `--for`: it ends by itself.
    let short = net.expose(&["3000", "--public", "--for", "3s"], "http://")?;
    ensure!(short.wait(Duration::from_secs(20))?.success());
    closes(&net.outside, net.exit4, port)?;
    let audit = net.coordinator.run(&["audit", "list"])?.stdout;
    for action in ["exit.offer", "exposure.publish", "exposure.refuse", "exposure.end", "exposure.remove"] {
        ensure!(audit.contains(action), "no {action} in the audit log:\n{audit}");
    }
    Ok(())
}

/// Its keys and its last map are on its disk: it needs no token.
fn start_exit_again(net: &Net) -> Result<Process> {
    let args = ["--exit", "--hostname", "exit1", "--state", "/var/lib/gw", "--drain", "1"];
    let gateway = net.exit.spawn("meshd-gateway", args)?;
    gateway.wait_for_log("exit is ready", Duration::from_secs(60))?;
    Ok(gateway)
}

#[test]
fn s1_12_the_url_keeps_working_when_the_laptop_moves_to_another_network() -> Result<()> {
    let net = Net::new("s1_12")?;
    net.join()?;
    net.website(3000, "still here")?;
    let run = net.expose(&["3000", "--public"], "http://")?;
    let url = Net::url(&run)?;
    net.reads(&[&url], "still here")?;
    // From its own network into the home of the Pi: other address, other router, other NAT.
    let laptop = &net.net.laptop;
    laptop.set_link("eth0", false)?;
    let off = net.curl(&["--max-time", "3", &url])?.failure()?;
    without("S1.12", "a network", &off.stderr);
    net.net.lab.cable(laptop, "eth1", "192.168.1.77/24", &net.net.home.host, "visitor", "lan")?;
    laptop.sh("ip route replace default via 192.168.1.1 dev eth1")?;
    let began = meshd_lab::now();
    net.reads(&[&url], "still here")?;
    with(
        "S1.12",
        &format!(
            "the URL answered {:.1} s after the laptop had another network",
            (meshd_lab::now() - began).as_secs_f64()
        ),
    );
    Ok(())
}

#[test]
fn s5_6_plain_tcp_and_udp_go_by_port_and_the_client_is_known() -> Result<()> {
    let net = Net::new("s5_6")?;
    net.join()?;
    let laptop = &net.net.laptop;
    let echo = laptop.spawn("lab-tool", ["tcp-echo", "127.0.0.1:5432"])?;
    echo.wait_for_log("listening", PATIENCE)?;
    laptop.spawn("lab-tool", ["udp-echo", "127.0.0.1:53530"])?;
    let tcp = net.expose(&["5432", "--tcp", "--public", ":5432", "--proxy-header"], "tcp://")?;
    let ask = format!(
        "exec 3<>/dev/tcp/{}/5432; printf hello >&3; timeout 3 head -c 33 <&3 | od -An -c",
        net.exit4
    );
    let told = wait_within(PATIENCE, || {
        let said = net.outside.run("bash", ["-c", &ask]).ok()?.stdout;
        said.contains('h').then_some(said)
    });
    let told = told.with_context(|| format!("{}\n{}", tcp.log(), net.logs()))?;
    // What came back is what the program got: the header, and then the client's bytes.
    println!("the program behind tcp:5432 got:\n{told}");
    ensure!(told.contains("Q   U   I   T"), "no PROXY v2 signature: {told}");
    let octets = net.outside4.octets();
    let raw = net.outside.run("bash", ["-c", &ask.replace("od -An -c", "od -An -v -tu1")])?.stdout;
    let bytes: Vec<u8> = raw.split_whitespace().filter_map(|b| b.parse().ok()).collect();
    ensure!(bytes.get(16..20) == Some(&octets[..]), "the client is not {octets:?} in {bytes:?}");
    tcp.wait_for_log(&net.outside4.to_string(), PATIENCE)?;
    let udp = net.expose(&["53530", "--udp", "--public", ":5353"], "udp://")?;
    let to = format!("{}:5353", net.exit4);
    let answer = wait_within(PATIENCE, || {
        let done = net.outside.run("lab-tool", ["udp-ask", &to, "marco"]).ok()?;
        (done.is_success() && done.stdout.contains("marco")).then_some(done.stdout)
    });
    println!(
        "udp:5353 answers {:?}",
        answer.with_context(|| format!("{}\n{}", udp.log(), net.logs()))?.trim()
    );
    // Switched off: both end with their commands.
    interrupt(tcp)?;
    interrupt(udp)?;
    closes(&net.outside, net.exit4, 5432)?;
    with("S5.6", "tcp:5432 with the client's address by PROXY v2, and udp:5353");
    without("S5.6", "the command", "the port is closed");
    Ok(())
}

#[test]
fn one_of_two_exits_is_killed_under_load_and_the_other_goes_on() -> Result<()> {
    let mut net = Net::new("exit_killed")?;
    let (second, second4, _) = net.net.lab.server("exit2")?;
    let token = net.coordinator.token_with(&["--tag", "tag:exit"])?;
    let _two = start_exit(&second, &token)?;
    net.join()?;
    net.website(3000, "twice")?;
    let run = net.expose(&["3000", "--public"], "http://")?;
    let port = Net::url(&run)?.rsplit(':').next().context("a port")?.to_owned();
    let (first, other) = (format!("http://{}:{port}/", net.exit4), format!("http://{second4}:{port}/"));
    net.reads(&[&first], "twice")?;
    net.reads(&[&other], "twice")?;
    // A client as browsers are: two addresses for a name, the next one when one does not answer.
    let both = format!("app.example:{port}:{},{second4}", net.exit4);
    let url = format!("http://app.example:{port}/");
    let (mut done, mut failed, mut after) = (0, 0, 0);
    for round in 0..60 {
        if round == 20 {
            net.gateway.take().context("it runs")?.kill()?;
        }
        let said = net.curl(&["--connect-timeout", "2", "--resolve", &both, &url])?;
        match said.stdout == "twice" {
            true => done += 1,
            false => failed += 1,
        }
        after += usize::from(round >= 20 && said.stdout == "twice");
    }
    println!(
        "60 requests, one exit killed after 20: {done} answered, {failed} failed, {after} of 40 after the kill"
    );
    ensure!(after >= 39, "{failed} failed");
    Ok(())
}
