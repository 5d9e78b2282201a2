//! How names are answered, for people.

use meshd_proto::localapi::{DnsStatus, NameAnswer};
use std::fmt::Write;

/// `meshd dns query`.
pub(crate) fn answer(answer: &NameAnswer) -> String {
    let mut out = String::new();
    for record in &answer.records {
        let _ = writeln!(out, "{record}");
    }
    if answer.records.is_empty() {
        let _ = writeln!(out, "no such record: {}{}", answer.code, because(answer));
    }
    out
}

/// `meshd dns explain`.
pub(crate) fn explained(answer: &NameAnswer, took: &str) -> String {
    let mut out = String::new();
    for (n, step) in answer.steps.iter().enumerate() {
        let _ = writeln!(out, "{}. {step}", n + 1);
    }
    let word = if answer.authoritative { ", with authority" } else { "" };
    let _ = writeln!(out, "answer: {}{word}{} ({took})", answer.code, because(answer));
    for record in &answer.records {
        let _ = writeln!(out, "  {record}");
    }
    out
}

fn because(answer: &NameAnswer) -> String {
    if answer.why.is_empty() { String::new() } else { format!(": {}", answer.why) }
}

/// `meshd dns status`.
pub(crate) fn status(dns: &DnsStatus) -> String {
    let mut out = String::new();
    let mut line = |label: &str, value: &str| {
        if !value.is_empty() {
            let _ = writeln!(out, "{label:<13}{value}");
        }
    };
    line("domain", &dns.domain);
    match dns.resolver.as_str() {
        "" => line("resolver", &format!("none yet ({})", dns.mode)),
        resolver => line("resolver", &format!("{resolver} ({})", dns.mode)),
    }
    line("problem", &dns.problem);
    line("takes", takes(&dns.scope));
    line("search", &dns.search.join(", "));
    for split in &dns.split {
        line("split", &format!("{} → {}", split.domain, split.resolvers.join(", ")));
    }
    line("nameservers", &dns.nameservers.join(", "));
    let label = if dns.nameservers.is_empty() { "upstreams" } else { "fallback" };
    line(label, &dns.upstreams.join(", "));
    line("serves", &dns.lan);
    line("", &dns.lan_addresses.join(", "));
    line("problem", &dns.lan_problem);
    let counters: Vec<String> = dns.counters.iter().map(|c| format!("{} {}", c.count, c.name)).collect();
    line("questions", &counters.join(", "));
    line("cache", &format!("{} replies, {} KiB", dns.cached_replies, dns.cached_bytes / 1024));
    out
}

/// What a scope means.
fn takes(scope: &str) -> &'static str {
    match scope {
        "off" => "nothing: this host's own DNS stays as it is",
        "names" => "names of the mesh only",
        "split" => "names of the mesh, domains with resolvers of their own",
        _ => "",
    }
}
