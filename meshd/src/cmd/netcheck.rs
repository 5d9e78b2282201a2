//! `meshd netcheck`: what kind of network this is, and what that means for direct paths.

use super::{Globals, print_json};
use crate::client;
use crate::output::{CliError, millis};
use meshd_proto::localapi::{Ask, Empty, FamilyCheck, Netcheck, Tell};
use std::process::ExitCode;
use std::time::Duration;

/// Three rounds of two questions, and names to resolve.
const WAIT: Duration = Duration::from_secs(15);

pub(crate) fn run(globals: &Globals) -> anyhow::Result<ExitCode> {
    let mut answers = client::ask(&globals.socket, Ask::Netcheck(Empty {}))?.with_timeout(WAIT);
    while let Some(tell) = answers.next()? {
        if let Tell::Netcheck(found) = tell {
            if globals.json {
                print_json(&found)?;
            } else {
                print!("{}", text(&found));
            }
            return Ok(ExitCode::SUCCESS);
        }
    }
    Err(CliError::new("the daemon gave no answer", "").into())
}

fn text(found: &Netcheck) -> String {
    let mut out = String::new();
    for family in &found.families {
        out += &family_text(family);
    }
    let blocked = found.families.iter().all(|f| !f.udp);
    if blocked {
        out += "UDP      blocked, or no relay can be reached\n";
    }
    out += &format!("mapping  {}\n", found.port_mapping);
    for relay in &found.relays {
        let rtt = relay.rtt_us.map_or("no answer".to_owned(), millis);
        let role = if relay.role.is_empty() { String::new() } else { format!(" ({})", relay.role) };
        let doubt = if relay.doubtful { ", silent right now" } else { "" };
        out += &format!("relay    {}{role}: {rtt}{doubt}\n", relay.name);
    }
    let link = if found.coordinator { "connected" } else { "away" };
    out += &format!("coordinator {link}\n");
    out
}

fn family_text(family: &FamilyCheck) -> String {
    if !family.udp {
        return format!("{:<8} no answer over UDP\n", family.family);
    }
    let by_port = if family.servers < 2 { " (judged by the ports of one relay)" } else { "" };
    let meaning = match family.mapping.as_str() {
        "none" => "no NAT: others reach this node directly",
        "endpoint-independent" => "direct paths to nearly everybody",
        "endpoint-dependent" => "direct paths to all but others like it; those use the relay",
        _ => "not enough relays and ports to tell",
    };
    format!(
        "{:<8} NAT mapping {}{by_port}, filtering {}: {meaning}\n         seen as {}\n",
        family.family,
        family.mapping,
        family.filtering,
        family.seen.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshd_proto::localapi::RelayCheck;

    #[test]
    fn the_text_says_what_the_class_means() {
        let family = |name: &str, udp, mapping: &str| FamilyCheck {
            family: name.to_owned(),
            udp,
            mapping: mapping.to_owned(),
            filtering: "by port".to_owned(),
            seen: vec!["203.0.113.7:41820".to_owned()],
            servers: 1,
        };
        let found = Netcheck {
            families: vec![family("IPv4", true, "endpoint-dependent"), family("IPv6", false, "unknown")],
            relays: vec![RelayCheck {
                name: "home".to_owned(),
                role: "home".to_owned(),
                rtt_us: Some(12_300),
                doubtful: false,
            }],
            coordinator: true,
            port_mapping: "none".to_owned(),
        };
        let expected = [
            "IPv4     NAT mapping endpoint-dependent (judged by the ports of one relay), filtering by port: \
             direct paths to all but others like it; those use the relay",
            "         seen as 203.0.113.7:41820",
            "IPv6     no answer over UDP",
            "mapping  none",
            "relay    home (home): 12.3 ms",
            "coordinator connected",
        ];
        assert_eq!(text(&found).lines().collect::<Vec<_>>(), expected);
    }
}
