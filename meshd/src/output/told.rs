//! What `meshd set` has set, in a line each: and whether it awaits somebody's approval.

use super::{Style, status};
use meshd_proto::localapi::{Settings, Status};
use std::fmt::Write as _;

/// The default routes, by which an exit is approved.
const EXIT: [&str; 2] = ["0.0.0.0/0", "::/0"];

/// Whether the coordinator has heard of all that `patch` offers, or cannot hear of it now.
pub(crate) fn is_known(patch: &Settings, status: &Status) -> bool {
    let connected = status.coordinator.as_ref().is_some_and(|c| c.connected);
    let Some(me) = status.me.as_ref().filter(|me| connected && !me.addresses.is_empty()) else { return true };
    let known = |p: &str| me.approved_routes.iter().chain(&me.pending_routes).any(|r| r == p);
    let offered = patch.advertise_routes.as_ref().is_none_or(|l| l.prefixes.iter().all(|p| known(p)));
    offered && (patch.advertise_exit_node != Some(true) || EXIT.iter().any(|p| known(p)))
}

/// What `patch` set, and what in `status` needs attention.
pub(crate) fn told(patch: &Settings, now: &Status, style: Style) -> String {
    let mut out = String::new();
    for line in lines(patch, now) {
        let _ = writeln!(out, "{line}");
    }
    if now.state == "stopped" || now.state == "needs-token" {
        let _ = writeln!(out, "this node is down: it counts with the next `meshd up`");
    } else if now.coordinator.as_ref().is_some_and(|c| !c.connected)
        && (patch.advertise_routes.is_some()
            || patch.advertise_exit_node.is_some()
            || patch.hostname.is_some())
    {
        let _ = writeln!(out, "{}", style.warn("the coordinator is away: it hears of this when it is back"));
    }
    status::problems(&mut out, &now.problems, style);
    out
}

fn lines(patch: &Settings, now: &Status) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(list) = &patch.advertise_routes {
        lines.extend(list.prefixes.iter().map(|p| format!("offers {p}{}", approval(now, p, &[p]))));
        if list.prefixes.is_empty() {
            lines.push("offers no network".to_owned());
        }
    }
    match patch.advertise_exit_node {
        Some(true) => lines.push(format!("offers to be an exit{}", approval(now, "0.0.0.0/0", &EXIT))),
        Some(false) => lines.push("offers no exit".to_owned()),
        None => {}
    }
    match patch.exit_node.as_deref() {
        Some("") => lines.push("internet traffic leaves directly".to_owned()),
        Some(exit) => lines.push(format!("internet traffic is for the exit node {exit}")),
        None => {}
    }
    match patch.hostname.as_deref() {
        Some("") => lines.push("asks for no name".to_owned()),
        Some(name) => lines.push(format!("asks for the name {name}")),
        None => {}
    }
    if let Some(list) = &patch.prefer_mesh {
        lines.push(match list.prefixes.as_slice() {
            [] => "networks that are here are reached directly".to_owned(),
            some => format!("reached through the mesh although they are here: {}", some.join(", ")),
        });
    }
    let dns = patch.dns.as_deref().or(patch.accept_dns.map(|on| if on { "full" } else { "off" }));
    lines.extend(dns.map(|how| format!("dns: {how}")));
    let switches = [
        ("use of networks behind other nodes", patch.accept_routes),
        ("masquerading into offered networks", patch.snat),
        ("leaving directly while the exit is away", patch.exit_fallback),
        ("rules in hooks of other firewalls", patch.firewall_assist),
    ];
    let word = |on| if on { "on" } else { "off" };
    lines.extend(switches.iter().filter_map(|(what, on)| Some(format!("{what}: {}", word((*on)?)))));
    lines
}

/// Whether one of `routes` is approved or waits; empty when the coordinator has not said.
fn approval(now: &Status, route: &str, routes: &[&str]) -> String {
    let Some(me) = &now.me else { return String::new() };
    let among = |list: &[String]| list.iter().any(|r| routes.contains(&r.as_str()));
    if among(&me.approved_routes) {
        ": approved".to_owned()
    } else if among(&me.pending_routes) {
        format!(": {}", status::pending(me, route))
    } else {
        String::new()
    }
}
