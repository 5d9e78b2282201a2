//! A firewall's rules, as far as a verdict depends on what we know: interfaces, addresses, connection
//! state. Parsed leniently from `nft -j list ruleset`: whatever is not understood becomes a condition
//! that nobody can tell the outcome of.

use ipnet::IpNet;
use serde_json::Value;
use std::fmt::Write;

/// Most chains and rules we keep.
const MAX_CHAINS: usize = 20_000;
const MAX_RULES: usize = 200_000;

/// Every chain of every firewall on the host.
#[derive(Clone, Debug, Default)]
pub struct Ruleset {
    /// The chains.
    pub chains: Vec<Chain>,
}

/// One chain.
#[derive(Clone, Debug)]
pub struct Chain {
    /// `ip`, `ip6`, `inet`, ….
    pub family: String,
    /// Its table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// The hook of a base chain, such as `forward`.
    pub hook: Option<String>,
    /// A base chain that drops what no rule decides.
    pub drops_by_default: bool,
    /// The program of an old iptables ruleset that nft does not show.
    pub legacy: Option<&'static str>,
    /// Its rules.
    pub rules: Vec<Rule>,
}

/// One rule.
#[derive(Clone, Debug)]
pub struct Rule {
    /// All must hold.
    pub conditions: Vec<Condition>,
    /// Then this.
    pub verdict: Verdict,
    /// The rule as a person would read it; what was not understood is `…`.
    pub text: String,
}

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// What is compared.
    pub field: Field,
    /// The rule says "not".
    pub negated: bool,
}

/// What is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field {
    /// Name of the interface it came in on; a trailing `*` or `+` matches any rest.
    Arrives(Vec<String>),
    /// Name of the interface it leaves on.
    Leaves(Vec<String>),
    /// Source address.
    Source(Vec<IpNet>),
    /// Destination address.
    Destination(Vec<IpNet>),
    /// Connection state.
    State(Vec<String>),
    /// Some connection state: an iptables match that nft does not translate.
    SomeState,
    /// IP version 4 (or 6).
    IsV4(bool),
    /// Not understood.
    Unknown,
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Let pass (this hook's chain).
    Accept,
    /// Drop or reject.
    Drop,
    /// Back to the caller.
    Return,
    /// Call a chain.
    Jump(String),
    /// Continue in a chain.
    Goto(String),
    /// By value of a field: the first that matches.
    Map(Vec<(Field, Verdict)>),
    /// Go on with the next rule.
    Continue,
}

impl Ruleset {
    /// Parses what `nft -j list ruleset` printed.
    pub fn from_nft_json(json: &Value) -> Self {
        let mut chains: Vec<Chain> = Vec::new();
        let objects = json.get("nftables").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        for chain in objects.iter().filter_map(|o| o.get("chain")).take(MAX_CHAINS) {
            chains.push(Chain {
                family: string(chain, "family"),
                table: string(chain, "table"),
                name: string(chain, "name"),
                hook: chain.get("hook").and_then(Value::as_str).map(str::to_owned),
                drops_by_default: chain["policy"] == "drop",
                legacy: None,
                rules: Vec::new(),
            });
        }
        let mut last = 0;
        for rule in objects.iter().filter_map(|o| o.get("rule")).take(MAX_RULES) {
            let is_of = |c: &Chain| {
                rule["chain"] == *c.name && rule["table"] == *c.table && rule["family"] == *c.family
            };
            // Rules are listed chain by chain.
            if !chains.get(last).is_some_and(is_of) {
                match chains.iter().position(is_of) {
                    Some(index) => last = index,
                    None => continue,
                }
            }
            let statements = rule.get("expr").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            chains[last].rules.push(parse_rule(statements));
        }
        Self { chains }
    }
}

fn string(object: &Value, key: &str) -> String {
    object.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn parse_rule(statements: &[Value]) -> Rule {
    let mut rule = Rule { conditions: vec![], verdict: Verdict::Continue, text: String::new() };
    for statement in statements {
        let Some((kind, body)) = statement.as_object().and_then(|o| o.iter().next()) else { continue };
        match kind.as_str() {
            "match" => {
                let condition = parse_match(body);
                rule.say(&condition.to_string());
                rule.conditions.push(condition);
            }
            "vmap" => {
                rule.verdict = parse_map(body);
                rule.say("…");
            }
            "xt" => {
                // An iptables extension. Comments and marks decide nothing; the rest is not understood.
                let name = body.get("name").and_then(Value::as_str).unwrap_or_default();
                match (body["type"].as_str(), name) {
                    (Some("match"), "comment") => {}
                    (Some("match"), "conntrack" | "state") => {
                        rule.conditions.push(Condition { field: Field::SomeState, negated: false });
                    }
                    (Some("target"), "REJECT") => rule.verdict = Verdict::Drop,
                    (Some("target"), _) => {}
                    _ => rule.conditions.push(Condition { field: Field::Unknown, negated: false }),
                }
                rule.say(if name.is_empty() { "…" } else { name });
            }
            "counter" => rule.say("counter"),
            _ => {
                if let Some(verdict) = parse_verdict(kind, body) {
                    rule.say(&verdict.to_string());
                    rule.verdict = verdict;
                }
            }
        }
    }
    rule
}

impl Rule {
    pub(super) fn say(&mut self, words: &str) {
        if !self.text.is_empty() {
            self.text.push(' ');
        }
        self.text.push_str(words);
    }
}

fn parse_verdict(kind: &str, body: &Value) -> Option<Verdict> {
    let target = || string(body, "target");
    Some(match kind {
        "accept" => Verdict::Accept,
        "drop" | "reject" => Verdict::Drop,
        "return" => Verdict::Return,
        "jump" => Verdict::Jump(target()),
        "goto" => Verdict::Goto(target()),
        _ => return None,
    })
}

/// A condition from the `match` statement; also used for the keys of a verdict map.
fn parse_match(body: &Value) -> Condition {
    let negated = body["op"] == "!=";
    let right = &body["right"];
    let values: Vec<&Value> = match right.get("set").and_then(Value::as_array).or_else(|| right.as_array()) {
        Some(set) => set.iter().collect(),
        None => vec![right],
    };
    Condition { field: parse_field(&body["left"], &values), negated }
}

fn parse_field(left: &Value, values: &[&Value]) -> Field {
    let texts = || values.iter().map(|v| v.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>();
    let nets = || values.iter().map(|v| parse_net(v)).collect::<Option<Vec<_>>>();
    let meta = left.get("meta").and_then(|m| m.get("key")).and_then(Value::as_str);
    let ct = left.get("ct").and_then(|m| m.get("key")).and_then(Value::as_str);
    let payload = left.get("payload").map(|p| (string(p, "protocol"), string(p, "field")));
    let field = match (meta, ct, payload.as_ref().map(|(p, f)| (p.as_str(), f.as_str()))) {
        (Some("iifname" | "iif"), ..) => texts().map(Field::Arrives),
        (Some("oifname" | "oif"), ..) => texts().map(Field::Leaves),
        (Some("nfproto"), ..) => match values {
            [one] if one.as_str() == Some("ipv4") => Some(Field::IsV4(true)),
            [one] if one.as_str() == Some("ipv6") => Some(Field::IsV4(false)),
            _ => None,
        },
        (_, Some("state"), _) => texts().map(Field::State),
        (.., Some(("ip" | "ip6", "saddr"))) => nets().map(Field::Source),
        (.., Some(("ip" | "ip6", "daddr"))) => nets().map(Field::Destination),
        _ => None,
    };
    field.unwrap_or(Field::Unknown)
}

fn parse_net(value: &Value) -> Option<IpNet> {
    if let Some(text) = value.as_str() {
        return text.parse::<std::net::IpAddr>().ok().map(IpNet::from);
    }
    let prefix = value.get("prefix")?;
    let addr = prefix.get("addr")?.as_str()?.parse().ok()?;
    IpNet::new(addr, u8::try_from(prefix.get("len")?.as_u64()?).ok()?).ok()
}

fn parse_map(body: &Value) -> Verdict {
    let entries = body["data"].get("set").and_then(Value::as_array);
    let mut map = Vec::new();
    for entry in entries.into_iter().flatten() {
        let (Some(key), Some(action)) = (entry.get(0), entry.get(1)) else { continue };
        let Some((kind, target)) = action.as_object().and_then(|o| o.iter().next()) else { continue };
        if let Some(verdict) = parse_verdict(kind, target) {
            map.push((parse_field(&body["key"], &[key]), verdict));
        }
    }
    Verdict::Map(map)
}

impl std::fmt::Display for Condition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        fn list<T: std::fmt::Display>(items: &[T], quote: &str) -> String {
            let mut text = String::new();
            for (index, item) in items.iter().take(4).enumerate() {
                let _ = write!(text, "{}{quote}{item}{quote}", if index == 0 { "" } else { ", " });
            }
            let more = if items.len() > 4 { ", …" } else { "" };
            if items.len() == 1 { text } else { format!("{{ {text}{more} }}") }
        }
        let family = |nets: &[IpNet]| if nets.iter().all(|n| n.addr().is_ipv4()) { "ip" } else { "ip6" };
        let not = if self.negated { "!= " } else { "" };
        match &self.field {
            Field::Arrives(names) => write!(f, "iifname {not}{}", list(names, "\"")),
            Field::Leaves(names) => write!(f, "oifname {not}{}", list(names, "\"")),
            Field::Source(nets) => write!(f, "{} saddr {not}{}", family(nets), list(nets, "")),
            Field::Destination(nets) => write!(f, "{} daddr {not}{}", family(nets), list(nets, "")),
            Field::State(states) => write!(f, "ct state {not}{}", states.join(",")),
            Field::IsV4(v4) => write!(f, "meta nfproto {not}{}", if *v4 { "ipv4" } else { "ipv6" }),
            Field::SomeState | Field::Unknown => f.write_str("…"),
        }
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::Return => f.write_str("return"),
            Self::Jump(target) => write!(f, "jump {target}"),
            Self::Goto(target) => write!(f, "goto {target}"),
            Self::Map(_) | Self::Continue => f.write_str("…"),
        }
    }
}
