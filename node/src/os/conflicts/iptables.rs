//! The old iptables interface, which nft does not list: parses `iptables-save -t filter`.

use super::ruleset::{Chain, Condition, Field, Rule, Verdict};

/// Most lines we read.
const MAX_LINES: usize = 100_000;

/// The chains in `text`; `family` is `ip` or `ip6`.
pub(super) fn parse(text: &str, family: &str) -> Vec<Chain> {
    let tool = if family == "ip" { "iptables-legacy" } else { "ip6tables-legacy" };
    let mut chains: Vec<Chain> = Vec::new();
    for line in text.lines().take(MAX_LINES) {
        if let Some(declared) = line.strip_prefix(':') {
            let mut words = declared.split_whitespace();
            let (Some(name), policy) = (words.next(), words.next()) else { continue };
            let hook = match name {
                "INPUT" | "FORWARD" | "OUTPUT" => Some(name.to_ascii_lowercase()),
                _ => None,
            };
            chains.push(Chain {
                family: family.into(),
                table: "filter".into(),
                name: name.into(),
                hook,
                drops_by_default: policy == Some("DROP"),
                legacy: Some(tool),
                rules: vec![],
            });
        } else if let Some(added) = line.strip_prefix("-A ") {
            let (name, rest) = added.split_once(' ').unwrap_or((added, ""));
            if let Some(chain) = chains.iter_mut().find(|c| c.name == name) {
                chain.rules.push(parse_rule(rest));
            }
        }
    }
    chains
}

fn parse_rule(text: &str) -> Rule {
    let mut rule = Rule { conditions: vec![], verdict: Verdict::Continue, text: text.to_owned() };
    let mut words = text.split_whitespace();
    let mut negated = false;
    while let Some(word) = words.next() {
        let mut value = || words.next().unwrap_or_default().to_owned();
        let net = |text: String| {
            text.parse().or_else(|_| text.parse::<std::net::IpAddr>().map(ipnet::IpNet::from)).ok()
        };
        let field = match word {
            "!" => {
                negated = true;
                continue;
            }
            "-i" => Field::Arrives(vec![value()]),
            "-o" => Field::Leaves(vec![value()]),
            "-s" => net(value()).map_or(Field::Unknown, |n| Field::Source(vec![n])),
            "-d" => net(value()).map_or(Field::Unknown, |n| Field::Destination(vec![n])),
            "--ctstate" | "--state" => Field::State(value().split(',').map(str::to_owned).collect()),
            "-j" | "-g" => {
                let target = value();
                rule.verdict = match target.as_str() {
                    "ACCEPT" => Verdict::Accept,
                    "DROP" | "REJECT" => Verdict::Drop,
                    "RETURN" => Verdict::Return,
                    "LOG" | "MARK" | "CONNMARK" | "NFLOG" | "TCPMSS" => Verdict::Continue,
                    _ if word == "-g" => Verdict::Goto(target),
                    _ => Verdict::Jump(target),
                };
                // What follows belongs to the target.
                break;
            }
            "-m" => {
                match value().as_str() {
                    "conntrack" | "state" | "comment" => {}
                    _ => rule.conditions.push(Condition { field: Field::Unknown, negated: false }),
                }
                continue;
            }
            "--comment" => {
                let first = value();
                let quoted = first.starts_with('"') && !(first.len() > 1 && first.ends_with('"'));
                if quoted {
                    // The rest of the quoted text.
                    words.by_ref().find(|w| w.ends_with('"'));
                }
                continue;
            }
            _ if word.starts_with('-') => Field::Unknown,
            // The value of an option that was not understood.
            _ => continue,
        };
        rule.conditions.push(Condition { field, negated });
        negated = false;
    }
    rule
}
