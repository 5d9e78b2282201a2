//! Much data: it arrives whole and in order, with and without each offload, while links flap and keys
//! are renewed.
//!
//! `BULK_MIB` (1024 by default; `make bulk` moves 10 GiB) is what the first test moves, and in `make bulk` each part of
//! the second one, too. `BULK_THREADS` (4) are the data threads of the first one. The sender makes a stream from a seed and the receiver makes the same one, so every byte
//! is compared, and a byte of the wrong place does not pass.

use std::fs;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use meshd_lab::mesh::{Coordinator, mesh_address, status, up, wait_direct};
use meshd_lab::{Host, Lab, now};

const LIMIT: Duration = Duration::from_secs(600);
/// What a transfer should at most be resent more than the same one without a tunnel.
const RESENT: u64 = 10;

/// Two servers with meshd, and a third with the coordinator.
struct Two {
    lab: Lab,
    _coordinator: Coordinator,
    a: Host,
    b: Host,
    b4: Ipv4Addr,
}

impl Two {
    fn new(name: &str, config: &str) -> Result<Two> {
        let lab = Lab::new(name)?;
        let (vps, vps4, _) = lab.server("vps")?;
        let (a, _, _) = lab.server("a")?;
        let (b, b4, _) = lab.server("b")?;
        let coordinator = Coordinator::start(&vps, vps4)?;
        let token = coordinator.token()?;
        for host in [&a, &b] {
            fs::create_dir_all(host.file("/etc/meshd"))?;
            fs::write(host.file("/etc/meshd/meshd.toml"), config)?;
            up(host, &[&token])?;
        }
        wait_direct(&a, "b")?;
        wait_direct(&b, "a")?;
        Ok(Two { lab, _coordinator: coordinator, a, b, b4 })
    }

    /// Cables that cut super-packets at the sending end and join them at the receiving one, as network cards do.
    ///
    /// And that keep packets in order, as network cards do: a veth that does not join (GRO) puts them into the
    /// queue of the core that the sender happens to run on, and what waits there is overtaken when the sender
    /// moves to another core. Plain TCP sees that, too (`TCPSACKReorder`), and bears it better than a receive window
    /// of 1024 datagrams does.
    fn cables_like_network_cards(&self) -> Result<()> {
        for host in [&self.a, &self.b, self.lab.internet()] {
            host.sh("for d in $(ls /sys/class/net); do case $d in lo | mesh0) continue ;; esac; \
                 ip link set $d gso_max_segs 65535 && \
                 ethtool -K $d gso off tso off tx-udp-segmentation off gro on || exit 1; done")?;
        }
        Ok(())
    }

    /// Moves `mib` MiB from `a` to `address` of `b` on each of `streams` connections, and says how fast.
    fn transfer(&self, address: Ipv4Addr, mib: u64, streams: u16, label: &str) -> Result<f64> {
        let began = now();
        let mut receivers = Vec::new();
        for port in 7000..7000 + streams {
            let receiver = self.b.spawn("lab-tool", ["stream-check", &format!("{address}:{port}")])?;
            receiver.wait_for_log("listening", Duration::from_secs(5))?;
            receivers.push(receiver);
        }
        let mut senders = Vec::new();
        for port in 7000..7000 + streams {
            let to = format!("{address}:{port}");
            senders.push(self.a.spawn("lab-tool", ["stream-send", &to, &mib.to_string()])?);
        }
        for (sender, receiver) in senders.into_iter().zip(receivers) {
            ensure!(sender.wait(LIMIT)?.success(), "the sender failed");
            let log = receiver.log();
            ensure!(receiver.wait(Duration::from_secs(30))?.success(), "not what was sent: {log}");
        }
        let gbit = (mib * u64::from(streams)) as f64 * 8.0 / 1024.0 / (now() - began).as_secs_f64();
        println!("{label}: {streams} × {mib} MiB unchanged, {gbit:.2} Gbit/s");
        Ok(gbit)
    }
}

fn bulk_mib() -> u64 {
    std::env::var("BULK_MIB").ok().and_then(|v| v.parse().ok()).unwrap_or(1024)
}

/// Whether this is `make bulk`: all that was asked for, and nothing excused by a busy machine.
fn strict() -> bool {
    std::env::var_os("BULK_STRICT").is_some()
}

/// A counter of the kernel's `/proc/net/snmp` or `netstat`.
fn kernel(host: &Host, file: &str, group: &str, name: &str) -> Result<u64> {
    let text = host.sh(&format!("cat /proc/net/{file}"))?;
    let mut lines = text.lines().filter(|line| line.starts_with(group));
    let (names, values) = (lines.next().context(group.to_owned())?, lines.next().context(group.to_owned())?);
    let at = names.split_whitespace().position(|n| n == name).with_context(|| name.to_owned())?;
    Ok(values.split_whitespace().nth(at).context("a value")?.parse()?)
}

fn resent(host: &Host) -> Result<u64> {
    kernel(host, "snmp", "Tcp:", "RetransSegs")
}

/// Segments that came before the one that they follow.
fn out_of_order(host: &Host) -> Result<u64> {
    kernel(host, "netstat", "TcpExt:", "TCPOFOQueue")
}

/// What the kernel counts as lost or out of order around a transfer from `a` to `b`, by name: sockets, devices,
/// and the queue of packets that wait for a core, which all namespaces share.
fn kernel_losses(a: &Host, b: &Host) -> Result<Vec<(String, u64)>> {
    let mut all = Vec::new();
    for (side, host) in [("a", a), ("b", b)] {
        for name in ["RcvbufErrors", "SndbufErrors", "InErrors"] {
            all.push((format!("{side} UDP {name}"), kernel(host, "snmp", "Udp:", name)?));
        }
        for name in ["TCPOFOQueue", "TCPDSACKRecv", "TCPSACKReorder", "TCPTimeouts", "TCPLostRetransmit"] {
            all.push((format!("{side} {name}"), kernel(host, "netstat", "TcpExt:", name)?));
        }
        for device in ["eth0", "mesh0"] {
            for name in ["tx_dropped", "rx_dropped"] {
                let count = host.sh(&format!("cat /sys/class/net/{device}/statistics/{name}"))?;
                all.push((format!("{side} {device} {name}"), count.trim().parse()?));
            }
        }
    }
    let softnet = a.sh("cat /proc/net/softnet_stat")?;
    let dropped = softnet.lines().filter_map(|line| line.split_whitespace().nth(1));
    let dropped = dropped.filter_map(|hex| u64::from_str_radix(hex, 16).ok()).sum();
    all.push(("backlog of the cores".to_owned(), dropped));
    Ok(all)
}

/// What of it has grown.
fn grown(before: &[(String, u64)], after: &[(String, u64)]) -> String {
    let grown = before.iter().zip(after).filter(|((_, b), (_, a))| a > b);
    let grown: Vec<String> = grown.map(|((name, b), (_, a))| format!("{name} {}", a - b)).collect();
    if grown.is_empty() { "nothing".to_owned() } else { grown.join(", ") }
}

/// What this node dropped, except copies: handshakes and probes go several ways at once, and the second
/// one to arrive is refused.
fn drops(host: &Host) -> Result<Vec<String>> {
    let status = status(host)?;
    let all = status["drops"].as_array().cloned().unwrap_or_default();
    let copies = ["bad_handshake", "bad_probe", "replayed"];
    // What the kernel lets 1024 others overtake is a matter of how busy the machine is, too.
    let strict = strict();
    let kept = all.iter().filter(|d| !copies.iter().any(|name| d["name"] == *name));
    let kept = kept.filter(|d| strict || d["name"] != "too_late");
    Ok(kept.map(ToString::to_string).collect())
}

fn in_use(host: &Host, offload: &str) -> Result<bool> {
    status(host)?["data_plane"][offload].as_bool().with_context(|| format!("status has no {offload}"))
}

#[test]
fn nothing_is_lost_or_reordered_by_us_and_keys_are_renewed_meanwhile() -> Result<()> {
    let threads = std::env::var("BULK_THREADS").unwrap_or_else(|_| "4".to_owned());
    let two = Two::new("bulk", &format!("data_threads = {threads}\nrekey_seconds = 5\n"))?;
    two.cables_like_network_cards()?;
    let mesh = mesh_address(&two.b)?;
    for offload in ["tun_tcp", "udp_gso", "udp_gro"] {
        assert!(in_use(&two.a, offload)?, "{offload} is not in use on this kernel");
    }
    let (before, lost) = (resent(&two.a)?, kernel_losses(&two.a, &two.b)?);
    two.transfer(two.b4, bulk_mib() / 4, 4, "without a tunnel")?;
    let plain = resent(&two.a)? - before;
    let without = kernel_losses(&two.a, &two.b)?;
    println!("the kernel counted: {}", grown(&lost, &without));
    let (before, early) = (resent(&two.a)?, out_of_order(&two.b)?);
    let dropped = [drops(&two.a)?, drops(&two.b)?];
    two.transfer(mesh, bulk_mib() / 4, 4, &format!("through the mesh, {threads} data threads"))?;
    let ours = resent(&two.a)? - before;
    let early = out_of_order(&two.b)? - early;
    println!("the kernel counted: {}", grown(&without, &kernel_losses(&two.a, &two.b)?));
    println!(
        "resent: {ours} segments, without a tunnel {plain} (wanted: at most {} more); {early} came before one \
         that they follow",
        RESENT
    );
    // Each change of a way lets packets overtake others.
    println!("ways from a to b: {}", two.a.sh("meshd path b --since 30m")?.trim());
    assert_eq!([drops(&two.a)?, drops(&two.b)?], dropped, "our own drops");
    // How much a full socket buffer costs is a matter of how busy the machine is: asserted by `make bulk` only.
    if strict() {
        assert!(ours <= plain + RESENT, "{ours} segments were sent again, without a tunnel {plain}");
    }
    // Where nothing was lost, nothing may have come out of order.
    // A lost segment makes those behind it early, with and without a tunnel.
    assert!(ours > 0 || early == 0, "{early} segments out of order");
    let age = meshd_lab::mesh::peer(&two.a, "b")?["handshake_age"].as_u64().context("a handshake")?;
    assert!(age <= 30, "the keys are {age} s old");
    Ok(())
}

/// How many times links are cut while `work` runs, and what it gave: in turn one end hears nothing for 300 ms, the
/// other end hears nothing, and a cable is pulled for as long.
fn with_links_that_flap<T>(two: &Two, every: Duration, work: impl FnOnce() -> Result<T>) -> Result<(T, u32)> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let flapping = scope.spawn(|| -> Result<u32> {
            let mut cuts = 0;
            while !stop.load(Ordering::Relaxed) && cuts < 2000 {
                std::thread::sleep(every);
                for away in [true, false] {
                    match cuts % 3 {
                        0 => two.a.set_loss("eth0", if away { 100 } else { 0 })?,
                        1 => two.b.set_loss("eth0", if away { 100 } else { 0 })?,
                        _ => two.b.set_carrier("eth0", !away)?,
                    }
                    std::thread::sleep(Duration::from_millis(if away { 300 } else { 0 }));
                }
                cuts += 1;
            }
            Ok(cuts)
        });
        let done = work();
        stop.store(true, Ordering::Relaxed);
        let cuts = flapping.join().expect("the cutter does not panic")?;
        Ok((done?, cuts))
    })
}

#[test]
fn every_byte_arrives_with_and_without_each_offload_while_links_flap_and_keys_are_renewed() -> Result<()> {
    // `make bulk` moves all of it with each; elsewhere a small part, slowly enough to meet some cuts.
    let (mib, every, rate) = match strict() {
        true => (bulk_mib(), Duration::from_millis(1500), None),
        false => ((bulk_mib() / 32).max(16), Duration::from_millis(800), Some(100)),
    };
    for (label, config, off) in [
        ("with every offload", "", None),
        ("without TUN offload", "tun_offload = false\n", Some("tun_tcp")),
        ("without UDP GSO", "udp_gso = false\n", Some("udp_gso")),
        ("without UDP GRO", "udp_gro = false\n", Some("udp_gro")),
        (
            "without any",
            "tun_offload = false\nudp_gso = false\nudp_gro = false\ndata_threads = 1\n",
            Some("tun_udp"),
        ),
    ] {
        let two = Two::new("bulk-off", &format!("{config}rekey_seconds = 5\n"))?;
        if let Some(off) = off {
            assert!(!in_use(&two.a, off)?, "{off} is in use");
        }
        if let Some(mbit) = rate {
            two.a.set_rate("eth0", mbit)?;
        }
        let mesh = mesh_address(&two.b)?;
        let moved = || two.transfer(mesh, mib / 2, 2, label);
        let (_, cuts) = with_links_that_flap(&two, every, moved)?;
        println!("{label}: {cuts} cuts of 300 ms");
        ensure!(cuts > 1, "{label}: only {cuts} cuts");
    }
    Ok(())
}
