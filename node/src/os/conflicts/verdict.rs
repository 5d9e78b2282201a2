//! Follows a probe packet through a firewall's rules. A rule with a condition that nobody can tell is
//! passed over: what is reported as dropped is dropped as far as the rules can be read.

use super::ruleset::{Chain, Condition, Field, Rule, Ruleset, Verdict};
use std::net::IpAddr;

/// Deepest chain of jumps (the kernel's own limit is 16).
const MAX_DEPTH: usize = 16;
/// Most rules looked at for one probe, whatever the jumps.
const MAX_STEPS: usize = 100_000;

/// A packet that must pass.
#[derive(Clone, Debug)]
pub(super) struct Probe {
    /// `input` or `forward`.
    pub(super) hook: &'static str,
    /// Interface it comes in on.
    pub(super) arrives_on: String,
    /// Interface it leaves on, when forwarded.
    pub(super) leaves_on: Option<String>,
    /// Source.
    pub(super) source: IpAddr,
    /// Destination.
    pub(super) destination: IpAddr,
    /// First of its connection; else part of an established one.
    pub(super) new: bool,
}

/// Where a probe is dropped.
#[derive(Debug)]
pub(super) struct Drop<'a> {
    /// The base chain it entered.
    pub(super) base: &'a Chain,
    /// The rule and its chain; `None`: by the base chain's policy.
    pub(super) rule: Option<(&'a Chain, &'a Rule)>,
    has_docker: bool,
    has_ufw: bool,
    has_firewalld: bool,
}

enum Outcome<'a> {
    Accepted,
    Dropped(&'a Chain, &'a Rule),
    Undecided,
}

/// Every base chain that drops the probe, in the ruleset's order.
pub(super) fn drops<'a>(ruleset: &'a Ruleset, probe: &Probe) -> Vec<Drop<'a>> {
    let mut found = Vec::new();
    for base in ruleset.chains.iter().filter(|c| c.hook.as_deref() == Some(probe.hook)) {
        let ours = base.family == "inet" && base.table == super::super::nft::TABLE_NAME;
        let fits = match base.family.as_str() {
            "ip" => probe.source.is_ipv4(),
            "ip6" => probe.source.is_ipv6(),
            family => family == "inet",
        };
        if ours || !fits {
            continue;
        }
        let mut steps = 0;
        let rule = match walk(ruleset, base, probe, 0, &mut steps) {
            Outcome::Accepted => continue,
            Outcome::Dropped(chain, rule) => Some((chain, rule)),
            Outcome::Undecided if base.drops_by_default => None,
            Outcome::Undecided => continue,
        };
        let same_table = |c: &&Chain| c.family == base.family && c.table == base.table;
        let has = |prefix: &str| ruleset.chains.iter().filter(same_table).any(|c| c.name.starts_with(prefix));
        found.push(Drop {
            base,
            rule,
            has_docker: has("DOCKER-USER"),
            has_ufw: has("ufw"),
            has_firewalld: base.table == "firewalld",
        });
    }
    found
}

impl Drop<'_> {
    /// Whether the rule goes by the source address: another VPN guarding its range.
    pub(super) fn by_address(&self) -> bool {
        let by_source = |c: &Condition| matches!(c.field, Field::Source(_)) && !c.negated;
        self.rule.is_some_and(|(_, rule)| rule.conditions.iter().any(by_source))
    }

    /// The firewall that offers a hook for others where this happens.
    pub(super) fn hook_owner(&self) -> Option<&'static str> {
        let forwards = self.base.hook.as_deref() == Some("forward");
        match self {
            _ if self.base.legacy.is_some() => None,
            _ if self.has_firewalld => Some("firewalld"),
            _ if self.has_ufw => Some("ufw"),
            _ if self.has_docker && forwards => Some("Docker"),
            _ => None,
        }
    }

    /// "Docker's ", "Tailscale's ", or nothing.
    pub(super) fn owner(&self) -> String {
        let chain = self.rule.map_or("", |(chain, _)| chain.name.as_str());
        if chain.starts_with("ts-") {
            return "Tailscale's ".into();
        }
        match self.hook_owner() {
            Some(name) => format!("{name}'s "),
            None => String::new(),
        }
    }
}

fn walk<'a>(
    ruleset: &'a Ruleset,
    chain: &'a Chain,
    probe: &Probe,
    depth: usize,
    steps: &mut usize,
) -> Outcome<'a> {
    let mut may_have_returned = false;
    for rule in &chain.rules {
        *steps += 1;
        if depth > MAX_DEPTH || *steps > MAX_STEPS {
            return Outcome::Undecided;
        }
        // What accepts by a state that we cannot read accepts answers; nobody writes it for new ones only.
        let lets_answers_in = !probe.new && rule.verdict == Verdict::Accept;
        let applies = |c: &Condition| match c.field {
            Field::SomeState => lets_answers_in,
            _ => holds(c, probe) == Some(true),
        };
        if !rule.conditions.iter().all(applies) {
            let excluded = rule.conditions.iter().any(|c| holds(c, probe) == Some(false));
            may_have_returned |= rule.verdict == Verdict::Return && !excluded;
            continue;
        }
        let verdict = match &rule.verdict {
            Verdict::Map(entries) => {
                let hit = |(field, _): &&(Field, Verdict)| matches(field, probe) == Some(true);
                entries.iter().find(hit).map_or(&Verdict::Continue, |(_, verdict)| verdict)
            }
            other => other,
        };
        let (target, comes_back) = match verdict {
            Verdict::Accept => return Outcome::Accepted,
            // "Return if local, then drop": we cannot tell that this is reached.
            Verdict::Drop if may_have_returned => return Outcome::Undecided,
            Verdict::Drop => return Outcome::Dropped(chain, rule),
            Verdict::Return => return Outcome::Undecided,
            Verdict::Continue | Verdict::Map(_) => continue,
            Verdict::Jump(target) => (target, true),
            Verdict::Goto(target) => (target, false),
        };
        let same_table =
            |c: &&Chain| c.family == chain.family && c.table == chain.table && c.legacy == chain.legacy;
        let Some(next) = ruleset.chains.iter().filter(same_table).find(|c| c.name == *target) else {
            continue;
        };
        match walk(ruleset, next, probe, depth + 1, steps) {
            Outcome::Undecided if comes_back => {}
            decided => return decided,
        }
    }
    Outcome::Undecided
}

/// Whether a condition holds; `None`: nobody can tell.
fn holds(condition: &Condition, probe: &Probe) -> Option<bool> {
    matches(&condition.field, probe).map(|hit| hit != condition.negated)
}

fn matches(field: &Field, probe: &Probe) -> Option<bool> {
    let named = |names: &[String], name: &str| {
        names.iter().any(|n| match n.strip_suffix(['*', '+']) {
            Some(stem) => name.starts_with(stem),
            None => n == name,
        })
    };
    Some(match field {
        Field::Arrives(names) => named(names, &probe.arrives_on),
        Field::Leaves(names) => named(names, probe.leaves_on.as_deref()?),
        Field::Source(nets) => nets.iter().any(|n| n.contains(&probe.source)),
        Field::Destination(nets) => nets.iter().any(|n| n.contains(&probe.destination)),
        Field::State(states) => {
            let state = if probe.new { "new" } else { "established" };
            states.iter().any(|s| s.eq_ignore_ascii_case(state))
        }
        Field::IsV4(v4) => probe.source.is_ipv4() == *v4,
        Field::SomeState | Field::Unknown => return None,
    })
}
