//! `acls` and `grants`.

use super::{CONDITION, Context, Keys};
use crate::diagnostic::{Pos, quoted};
use crate::json::{Kind, Member, Value};
use crate::policy::{Policy, Rule, Target, Term};
use crate::ports::{PortRange, combine, grant_ports, ports, protocols};
use crate::selector::Selector;
use meshd_proto::limits;
use std::collections::BTreeMap;

type Fields<'v> = BTreeMap<&'static str, &'v Member>;

const ACL: Keys = Keys {
    known: &["action", "src", "dst", "proto"],
    ignored: &["name", "description"],
    refused: &[
        ("srcPosture", CONDITION),
        ("users", "is the old name: write `src`"),
        ("ports", "is the old name: write `dst`"),
    ],
};

const GRANT: Keys = Keys {
    known: &["src", "dst", "ip", "app"],
    ignored: &["name", "description"],
    refused: &[("srcPosture", CONDITION), ("via", CONDITION)],
};

impl Context {
    pub(super) fn acls(&mut self, value: &Value, policy: &mut Policy) {
        for entry in self.list(value, "`acls`") {
            let Some(fields) = self.fields(entry, "an entry of `acls`", &ACL) else {
                continue;
            };
            self.action(entry.pos, fields.get("action"));
            let protocols = fields.get("proto").map_or(Some(vec![None]), |m| self.protocol(&m.value));
            let sources = self.sources(entry.pos, &fields);
            let mut targets = Vec::new();
            for item in self.required(entry.pos, &fields, "dst") {
                let Some(text) = self.text(item, "a destination") else { continue };
                let parts = split_ports(text);
                let Some((name, ports_text)) = self.check(item.pos, parts) else { continue };
                let Some(selector) = self.target_selector(item.pos, name) else { continue };
                let Some(protocols) = &protocols else { continue };
                let ranges = ports(ports_text).and_then(|list| combine(protocols, &list));
                if let Some(ports) = self.check(item.pos, ranges) {
                    targets.push(Target { selector, pos: item.pos, ports });
                }
            }
            self.add_rule(entry.pos, sources, targets, policy);
        }
    }

    pub(super) fn grants(&mut self, value: &Value, policy: &mut Policy) {
        for entry in self.list(value, "`grants`") {
            let Some(fields) = self.fields(entry, "an entry of `grants`", &GRANT) else {
                continue;
            };
            if let Some(app) = fields.get("app") {
                self.report
                    .warn(app.pos, "`app` is not supported, ignored: only the ip part of a grant counts");
                if !fields.contains_key("ip") {
                    continue;
                }
            }
            let sources = self.sources(entry.pos, &fields);
            let mut ranges = Vec::new();
            for item in self.required(entry.pos, &fields, "ip") {
                let Some(text) = self.text(item, "a port of `ip`") else { continue };
                let parsed = grant_ports(text);
                ranges.extend(self.check(item.pos, parsed).unwrap_or_default());
            }
            let mut targets = Vec::new();
            for item in self.required(entry.pos, &fields, "dst") {
                let Some(text) = self.text(item, "a destination") else { continue };
                if let Some(selector) = self.target_selector(item.pos, text) {
                    targets.push(Target { selector, pos: item.pos, ports: ranges.clone() });
                }
                if targets.len().saturating_mul(ranges.len()) > limits::MAX_RULE_TERMS {
                    break;
                }
            }
            self.add_rule(entry.pos, sources, targets, policy);
        }
    }

    fn action(&mut self, entry: Pos, field: Option<&&Member>) {
        let Some(member) = field else {
            self.error(entry, "`action` is missing: write \"action\": \"accept\"");
            return;
        };
        if let Some(text) = self.text(&member.value, "`action`")
            && text != "accept"
        {
            let message =
                format!("action {} is not known: rules only accept, everything else is denied", quoted(text));
            self.error(member.value.pos, message);
        }
    }

    pub(super) fn protocol(&mut self, value: &Value) -> Option<Vec<Option<u8>>> {
        let text = match &value.kind {
            Kind::Number(raw) => raw,
            _ => self.text(value, "`proto`")?,
        };
        let parsed = protocols(text);
        self.check(value.pos, parsed)
    }

    fn required<'v>(&mut self, entry: Pos, fields: &Fields<'v>, key: &str) -> &'v [Value] {
        let Some(member) = fields.get(key) else {
            self.error(entry, format!("`{key}` is missing"));
            return &[];
        };
        let items = self.list(&member.value, &format!("`{key}`"));
        if items.is_empty() && matches!(member.value.kind, Kind::Array(_)) {
            self.error(member.value.pos, format!("`{key}` is empty: the rule would do nothing, remove it"));
        }
        if items.len() > limits::MAX_RULE_TERMS {
            let message = format!(
                "`{key}` has {} entries, at most {} are accepted: split the rule",
                items.len(),
                limits::MAX_RULE_TERMS
            );
            self.error(member.value.pos, message);
            return &[];
        }
        items
    }

    fn sources(&mut self, entry: Pos, fields: &Fields<'_>) -> Vec<Term> {
        let mut sources = Vec::new();
        for item in self.required(entry, fields, "src") {
            let Some(text) = self.text(item, "a source") else { continue };
            let selector = self.names.selector(text);
            let Some(selector) = self.check(item.pos, selector) else { continue };
            if matches!(selector, Selector::Myself | Selector::Internet) {
                self.error(item.pos, format!("{selector} can be a destination only"));
                continue;
            }
            sources.push(Term { selector, pos: item.pos });
        }
        sources
    }

    fn target_selector(&mut self, pos: Pos, text: &str) -> Option<Selector> {
        let selector = self.names.selector(text);
        self.check(pos, selector)
    }

    fn add_rule(&mut self, pos: Pos, sources: Vec<Term>, targets: Vec<Target>, policy: &mut Policy) {
        if targets.iter().map(|t| t.ports.len()).sum::<usize>() > limits::MAX_RULE_TERMS {
            let max = limits::MAX_RULE_TERMS;
            self.error(
                pos,
                format!("the destinations and ports of this rule are more than {max}: split the rule"),
            );
            return;
        }
        if let Some(own) = targets.iter().find(|t| t.selector == Selector::Myself) {
            let by_person =
                |s: &Selector| matches!(s, Selector::User(_) | Selector::Group(_) | Selector::Members);
            if let Some(other) = sources.iter().find(|t| !by_person(&t.selector)) {
                let message = format!(
                    "autogroup:self needs sources that are people, not {}: write autogroup:member",
                    other.selector
                );
                self.error(own.pos, message);
                return;
            }
        }
        let content = content_hash(&sources, &targets);
        let turn = self.turns.entry(content).or_insert(0);
        let id = mix(content, *turn);
        *turn += 1;
        policy.rules.push(Rule { pos, id, sources, targets });
    }
}

/// Splits `name:ports` at the last colon; an IPv6 address stands in brackets.
pub(super) fn split_ports(text: &str) -> Result<(&str, &str), String> {
    let missing =
        || format!("{} has no port: write it like tag:server:443, nas:80,443 or 10.0.0.0/8:*", quoted(text));
    let (name, ports) = text.rsplit_once(':').ok_or_else(missing)?;
    if matches!(name, "tag" | "group" | "autogroup") {
        return Err(missing());
    }
    let is_v6 = name.contains(':') && !["tag:", "group:", "autogroup:"].iter().any(|p| name.starts_with(p));
    if is_v6 && !name.starts_with('[') && !name.contains('/') {
        return Err(format!(
            "{} is ambiguous: write an IPv6 address in brackets, like [fd00::1]:443",
            quoted(text)
        ));
    }
    Ok((name, ports))
}

fn content_hash(sources: &[Term], targets: &[Target]) -> [u8; 32] {
    let mut parts: Vec<String> = sources.iter().map(|t| format!("<{}", t.selector)).collect();
    for target in targets {
        parts.extend(target.ports.iter().map(|range: &PortRange| format!(">{} {range}", target.selector)));
    }
    parts.sort_unstable();
    parts.dedup();
    let bytes: Vec<&[u8]> = parts.iter().map(String::as_bytes).collect();
    meshd_proto::keys::hash("meshd policy rule", &bytes)
}

fn mix(content: [u8; 32], turn: u64) -> u64 {
    let hash = meshd_proto::keys::hash("meshd policy rule turn", &[&content, &turn.to_le_bytes()]);
    let mut first = [0; 8];
    first.copy_from_slice(&hash[..8]);
    u64::from_le_bytes(first)
}
