//! `meshd status` and `meshd routes` as text.

use super::{Style, ago, bytes, millis, table};
use meshd_proto::localapi::{CoordinatorStatus, DnsStatus, PeerStatus, Problem, SelfStatus, Status};
use std::fmt::Write as _;

/// The whole status.
pub(crate) fn status(status: &Status, style: Style) -> String {
    let mut out = headline(status, style);
    if let Some(me) = &status.me {
        this_node(&mut out, me, style);
    }
    if let Some(c) = &status.coordinator {
        let _ = writeln!(out, "  coordinator  {}", coordinator(c, style));
    }
    if let Some(userspace) = &status.userspace {
        let parts: Vec<&str> =
            userspace.proxies.iter().chain(&userspace.forwards).map(String::as_str).collect();
        let serves = if parts.is_empty() { "no proxy, no forward".to_owned() } else { parts.join("  ") };
        let _ = writeln!(out, "  userspace    {serves} ({} connections)", userspace.connections);
    }
    if let Some(dns) = status.dns.as_ref().filter(|dns| status.userspace.is_none() && tells(dns)) {
        let state = if dns.problem.is_empty() {
            format!("names of {} by {} ({})", dns.domain, dns.resolver, dns.mode)
        } else {
            style.warn(&dns.problem)
        };
        let _ = writeln!(out, "  dns          {state}");
    }
    if !status.peers.is_empty() {
        out.push('\n');
        out.push_str(&peers(&status.peers, style));
    }
    problems(&mut out, &status.problems, style);
    out
}

/// What needs somebody's attention.
pub(super) fn problems(out: &mut String, problems: &[Problem], style: Style) {
    for p in problems {
        let _ = writeln!(out, "\n{} {}: {}", style.warn("!"), p.what, p.why);
        if !p.help.is_empty() {
            let _ = writeln!(out, "  {} {}", style.bold("→"), p.help);
        }
    }
}

/// Without a map there is no domain, no resolver, and nothing to say of them.
const fn tells(dns: &DnsStatus) -> bool {
    !dns.domain.is_empty() || !dns.problem.is_empty()
}

fn headline(status: &Status, style: Style) -> String {
    let word = match status.state.as_str() {
        "up" => style.good("up"),
        "up-offline" => style.warn("up, coordinator away"),
        "stopped" => style.dim("stopped"),
        "needs-token" => style.warn("not in a mesh yet"),
        "refused" => style.bad("refused by the coordinator"),
        other => style.warn(other),
    };
    let name = status.me.as_ref().map_or("meshd", |me| if me.name.is_empty() { "meshd" } else { &me.name });
    format!("{}  {word}\n", style.bold(name))
}

fn this_node(out: &mut String, me: &SelfStatus, style: Style) {
    if !me.addresses.is_empty() {
        let _ = writeln!(out, "  addresses    {}", me.addresses.join("  "));
        let _ = writeln!(out, "  name         {}", me.fqdn);
    }
    if !me.approved_routes.is_empty() {
        let _ = writeln!(out, "  routes       {}", style.good(&me.approved_routes.join("  ")));
    }
    if me.draining {
        let _ = writeln!(
            out,
            "  {} other routers of these networks take new flows; `meshd drain --off` ends it",
            style.warn("draining    ")
        );
    }
    for route in &me.pending_routes {
        let _ = writeln!(out, "  {} {route} {}", style.warn("route       "), pending(me, route));
    }
}

fn coordinator(c: &CoordinatorStatus, style: Style) -> String {
    if c.connected {
        format!("{} (map version {})", c.address, c.map_version)
    } else {
        let lease = if c.map_version == 0 {
            String::new()
        } else {
            format!("; the stored map is good for {} more", ago(c.lease_left))
        };
        style.warn(&format!("{} away: {}{lease}", c.address, c.reason))
    }
}

fn peers(list: &[PeerStatus], style: Style) -> String {
    let mut rows = vec![
        ["PEER", "ADDRESS", "PATH", "RTT", "HANDSHAKE", "RECEIVED", "SENT", "ROUTES"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for p in list {
        let path = match p.path.as_str() {
            "none" if p.reason.is_empty() => "-".to_owned(),
            "none" => p.reason.clone(),
            kind => format!("{kind} {}", p.via),
        };
        let mark = |route: &String| match unused(p, route) {
            Some(_) => format!("{route} (not used)"),
            None => route.clone(),
        };
        let mut routes: Vec<String> = p.routes.iter().map(mark).collect();
        if p.exit_node {
            routes.push("exit node".to_owned());
        }
        rows.push(vec![
            p.name.clone(),
            p.addresses.first().cloned().unwrap_or_default(),
            path,
            p.rtt_us.map_or_else(|| "-".to_owned(), millis),
            p.handshake_age.map_or_else(|| "-".to_owned(), ago),
            bytes(p.rx_bytes),
            bytes(p.tx_bytes),
            routes.join(" "),
        ]);
    }
    table(&rows, |row, column, cell| match (row, column) {
        (0, _) => style.dim(cell),
        (_, 2) if cell.starts_with("direct") => style.good(cell),
        (_, 2) if cell.starts_with("relay") => style.warn(cell),
        _ => cell.to_owned(),
    })
}

/// What a route of this node waits for.
pub(super) fn pending(me: &SelfStatus, route: &str) -> String {
    format!("pending: approve with `meshd-coordinator routes approve {} {route}`", me.name)
}

/// Why a route of a peer is not used, if it is not.
fn unused<'p>(peer: &'p PeerStatus, route: &str) -> Option<&'p str> {
    peer.unused_routes.iter().find(|unused| unused.prefix == route).map(|unused| unused.why.as_str())
}

/// Routes of this node and of its peers.
pub(crate) fn routes(status: &Status, style: Style) -> String {
    let mut rows = vec![["PREFIX", "VIA", "STATE"].map(str::to_owned).to_vec()];
    if let Some(me) = &status.me {
        let row = |p: &String, state: String| vec![p.clone(), "this node".to_owned(), state];
        let approved = if me.draining {
            "offered, approved, being drained: `meshd drain --off` takes new flows again"
        } else {
            "offered, approved"
        };
        rows.extend(me.approved_routes.iter().map(|p| row(p, approved.to_owned())));
        rows.extend(me.pending_routes.iter().map(|p| row(p, pending(me, p))));
    }
    for peer in &status.peers {
        rows.extend(peer.routes.iter().map(|p| {
            let state = match unused(peer, p) {
                Some(why) => format!("not used: {why}"),
                None if peer.path == "none" => "known, no path now".to_owned(),
                None => "in use".to_owned(),
            };
            vec![p.clone(), peer.name.clone(), state]
        }));
    }
    if rows.len() == 1 {
        return "no routes: offer one with `meshd set --advertise-routes PREFIX`\n".to_owned();
    }
    table(&rows, |row, _, cell| if row == 0 { style.dim(cell) } else { cell.to_owned() })
}

/// What was counted since start: by peer, by rule, and what was dropped.
pub(crate) fn counters(status: &Status, style: Style) -> String {
    let show = |rows: &[Vec<String>]| {
        table(rows, |row, _, cell| if row == 0 { style.dim(cell) } else { cell.to_owned() })
    };
    let mut peers = vec![["PEER", "RECEIVED", "SENT"].map(str::to_owned).to_vec()];
    let moved = status.peers.iter().filter(|p| p.rx_bytes > 0 || p.tx_bytes > 0);
    peers.extend(moved.map(|p| vec![p.name.clone(), bytes(p.rx_bytes), bytes(p.tx_bytes)]));
    let mut rules = vec![["POLICY LINE", "FLOWS", "PACKETS", "LET IN"].map(str::to_owned).to_vec()];
    rules.extend(
        status
            .rules
            .iter()
            .map(|r| vec![r.line.to_string(), r.flows.to_string(), r.packets.to_string(), bytes(r.bytes)]),
    );
    let mut drops = vec![["DROPPED", "PACKETS"].map(str::to_owned).to_vec()];
    drops.extend(status.drops.iter().map(|d| vec![d.name.clone(), d.count.to_string()]));
    let parts = [
        (peers, "no peer has sent or received anything\n"),
        (rules, "no rule of the policy has let anything in\n"),
        (drops, "nothing was dropped\n"),
    ];
    let texts: Vec<String> = parts
        .iter()
        .map(|(rows, none)| if rows.len() > 1 { show(rows) } else { (*none).to_owned() })
        .collect();
    texts.join("\n")
}
