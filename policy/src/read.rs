//! From text to [`Policy`]: sections, keys and types.
//!
//! Unknown keys and wrong types are errors. Sections that other products have and this one does not
//! are warnings, because leaving them out grants nothing; a condition on a rule (a posture, a `via`)
//! is an error, because the rule without it would grant more.

mod rules;
mod tests_section;

use crate::diagnostic::{Diagnostic, Pos, Report, quoted};
use crate::json::{self, Kind, Member, Value};
use crate::party::RuleIndex;
use crate::policy::{Expose, Policy};
use crate::ports::grant_ports;
use crate::selector::{self, Names, Selector};
use meshd_proto::{DnsName, Prefix, Tag, limits};
use std::collections::BTreeMap;

/// The keys of an object.
struct Keys {
    known: &'static [&'static str],
    /// Leaving them out grants nothing: named in a warning.
    ignored: &'static [&'static str],
    /// Named in an error, with what to do.
    refused: &'static [(&'static str, &'static str)],
}

const CONDITION: &str =
    "is not supported, and without it more would be allowed: remove it, or the rules it narrows";

const SECTIONS: Keys = Keys {
    known: &["groups", "hosts", "tagOwners", "acls", "grants", "autoApprovers", "tests", "expose"],
    // What Tailscale and headscale have besides.
    ignored: &[
        "ssh",
        "sshTests",
        "nodeAttrs",
        "postures",
        "ipsets",
        "derpMap",
        "disableIPv4",
        "OneCGNATRoute",
        "randomizeClientPort",
        "extraDNSRecords",
        "$schema",
    ],
    refused: &[("defaultSrcPosture", CONDITION)],
};

const AUTO_APPROVERS: Keys = Keys { known: &["routes", "exitNode"], ignored: &["services"], refused: &[] };

const EXPOSE: Keys = Keys { known: &["src", "names", "ports", "on"], ignored: &[], refused: &[] };

/// Reads a whole policy.
pub(crate) fn policy(text: &str) -> Result<Policy, Vec<Diagnostic>> {
    let mut cx = Context { report: Report::default(), names: Names::default(), turns: BTreeMap::new() };
    let root = match json::parse(text) {
        Ok(root) => root,
        Err(e) => {
            cx.report.error(e.pos, e.message);
            return Err(cx.report.finish().err().unwrap_or_default());
        }
    };
    let mut policy = Policy::deny_all();
    policy.text = text.to_owned();
    if let Some(fields) = cx.fields(&root, "the policy", &SECTIONS) {
        cx.groups(fields.get("groups").map(|m| &m.value));
        cx.hosts(fields.get("hosts").map(|m| &m.value));
        policy.tag_owners = cx.tag_owners(fields.get("tagOwners").map(|m| &m.value));
        if let Some(m) = fields.get("acls") {
            cx.acls(&m.value, &mut policy);
        }
        if let Some(m) = fields.get("grants") {
            cx.grants(&m.value, &mut policy);
        }
        if let Some(m) = fields.get("autoApprovers") {
            cx.auto_approvers(&m.value, &mut policy);
        }
        if let Some(m) = fields.get("expose") {
            policy.exposes = cx.list(&m.value, "`expose`").iter().filter_map(|v| cx.expose(v)).collect();
        }
        if let Some(m) = fields.get("tests") {
            policy.tests = cx.list(&m.value, "`tests`").iter().filter_map(|v| cx.test(v)).collect();
        }
        cx.warn_of_undefined_tags(&policy);
    }
    policy.warnings = cx.report.finish()?;
    policy.names = cx.names;
    policy.index = RuleIndex::build(&policy.rules);
    Ok(policy)
}

struct Context {
    report: Report,
    names: Names,
    /// How many rules of the same content were read so far.
    turns: BTreeMap<[u8; 32], u64>,
}

impl Context {
    fn error(&mut self, pos: Pos, message: impl Into<String>) {
        self.report.error(pos, message);
    }

    /// The members of an object; an error and none when it is something else.
    fn members<'v>(&mut self, value: &'v Value, what: &str) -> Option<&'v [Member]> {
        if let Kind::Object(members) = &value.kind {
            return Some(members);
        }
        self.error(value.pos, format!("{what} must be an object in braces, not {}", value.kind.name()));
        None
    }

    /// The members of an object with a fixed set of keys, by key. Keys are found in any case, as Go
    /// programs write and read them.
    fn fields<'v>(
        &mut self,
        value: &'v Value,
        what: &str,
        keys: &Keys,
    ) -> Option<BTreeMap<&'static str, &'v Member>> {
        let mut fields = BTreeMap::new();
        for member in self.members(value, what)? {
            let is = |name: &&str| name.eq_ignore_ascii_case(&member.key);
            if let Some(name) = keys.known.iter().copied().find(is) {
                if fields.insert(name, member).is_some() {
                    self.error(member.pos, format!("the key `{name}` appears twice here: join the two"));
                }
            } else if keys.ignored.iter().any(is) {
                self.report.warn(member.pos, format!("{} is not supported, ignored", quoted(&member.key)));
            } else if let Some((name, why)) = keys.refused.iter().find(|(name, _)| is(name)) {
                self.error(member.pos, format!("`{name}` {why}"));
            } else {
                let message = format!(
                    "unknown key {} in {what}: known are {}",
                    quoted(&member.key),
                    keys.known.join(", ")
                );
                self.error(member.pos, message);
            }
        }
        Some(fields)
    }

    fn list<'v>(&mut self, value: &'v Value, what: &str) -> &'v [Value] {
        if let Kind::Array(items) = &value.kind {
            return items;
        }
        self.error(value.pos, format!("{what} must be a list in brackets, not {}", value.kind.name()));
        &[]
    }

    fn text<'v>(&mut self, value: &'v Value, what: &str) -> Option<&'v str> {
        if let Kind::Text(text) = &value.kind {
            return Some(text);
        }
        self.error(value.pos, format!("{what} must be text in double quotes, not {}", value.kind.name()));
        None
    }

    /// Turns a complaint without a place into a diagnostic.
    fn check<T>(&mut self, pos: Pos, result: Result<T, String>) -> Option<T> {
        result.map_err(|message| self.error(pos, message)).ok()
    }

    fn groups(&mut self, section: Option<&Value>) {
        let Some(members) = section.and_then(|v| self.members(v, "`groups`")) else { return };
        for Member { pos, key, value } in members {
            let Some(name) = key.strip_prefix("group:").filter(|name| is_plain(name)) else {
                self.error(
                    *pos,
                    format!(
                        "{} is not a group: write `group:` and a name in letters, digits, `-`",
                        quoted(key)
                    ),
                );
                continue;
            };
            self.names.groups.members.entry(name.to_owned()).or_default();
            for item in self.list(value, "a group") {
                let Some(text) = self.text(item, "a member of a group") else { continue };
                let is_user = !text.contains(':') && text != "*";
                let user = if is_user {
                    selector::user(text)
                } else {
                    Err(format!("{} is not a user: a group holds users only", quoted(text)))
                };
                if let Some(user) = self.check(item.pos, user) {
                    self.names.groups.add(name, user, item.pos);
                }
            }
        }
    }

    fn hosts(&mut self, section: Option<&Value>) {
        let Some(members) = section.and_then(|v| self.members(v, "`hosts`")) else { return };
        for Member { pos, key, value } in members {
            if !is_plain(key) || !matches!(selector::addresses(key), Ok(None)) {
                self.error(
                    *pos,
                    format!("{} is not a name for a host: use letters, digits, `-` and `.`", quoted(key)),
                );
                continue;
            }
            if self.names.groups.of_user.contains_key(key) {
                self.error(*pos, format!("{} is a user in a group and a host: rename the host", quoted(key)));
                continue;
            }
            let Some(text) = self.text(value, "a host") else { continue };
            let found = selector::addresses(text).and_then(|found| {
                found.ok_or_else(|| {
                    format!("{} is not an address or a prefix: write it like 192.168.1.10", quoted(text))
                })
            });
            if let Some(prefix) = self.check(value.pos, found) {
                self.names.hosts.insert(key.clone(), (prefix, *pos));
            }
        }
    }

    fn tag_owners(&mut self, section: Option<&Value>) -> BTreeMap<Tag, Vec<Selector>> {
        let mut owners = BTreeMap::new();
        let Some(members) = section.and_then(|v| self.members(v, "`tagOwners`")) else { return owners };
        for Member { pos, key, value } in members {
            let Some(tag) = self.check(*pos, selector::tag(key)) else { continue };
            let mut who = Vec::new();
            for item in self.list(value, "the owners of a tag") {
                if let Kind::Text(text) = &item.kind
                    && let "autogroup:admin" | "autogroup:owner" | "autogroup:network-admin" = text.as_str()
                {
                    self.report
                        .warn(item.pos, format!("{text} is not needed, ignored: admins may give every tag"));
                    continue;
                }
                who.extend(self.class_selector(item, "an owner of a tag"));
            }
            owners.insert(tag, who);
        }
        owners
    }

    /// A selector that names nodes by who they belong to or what they are.
    fn class_selector(&mut self, item: &Value, what: &str) -> Option<Selector> {
        let text = self.text(item, what)?;
        let selector = self.names.selector(text);
        let selector = self.check(item.pos, selector)?;
        if selector.is_of_class() {
            return Some(selector);
        }
        let message = format!(
            "{} cannot be {what}: write a user, group:…, tag:…, autogroup:member or autogroup:tagged",
            quoted(text)
        );
        self.error(item.pos, message);
        None
    }

    fn class_selectors(&mut self, value: &Value, what: &str) -> Vec<Selector> {
        self.list(value, what).iter().filter_map(|item| self.class_selector(item, what)).collect()
    }

    fn auto_approvers(&mut self, value: &Value, policy: &mut Policy) {
        let Some(fields) = self.fields(value, "`autoApprovers`", &AUTO_APPROVERS) else {
            return;
        };
        if let Some(exit) = fields.get("exitNode") {
            policy.auto_exit = self.class_selectors(&exit.value, "an approver of exit nodes");
        }
        let Some(members) = fields.get("routes").and_then(|m| self.members(&m.value, "`routes`")) else {
            return;
        };
        for Member { pos, key, value } in members {
            let prefix = key.parse::<Prefix>().map_err(|e| e.to_string());
            let who = self.class_selectors(value, "an approver of routes");
            if let Some(prefix) = self.check(*pos, prefix) {
                policy.auto_routes.push((prefix, who));
            }
        }
    }

    fn expose(&mut self, value: &Value) -> Option<Expose> {
        let fields = self.fields(value, "an entry of `expose`", &EXPOSE)?;
        let mut parts = Vec::new();
        for key in ["src", "names", "ports", "on"] {
            match fields.get(key) {
                Some(member) => parts.push(&member.value),
                None => self.error(
                    value.pos,
                    format!("`{key}` is missing: an entry of `expose` needs src, names, ports and on"),
                ),
            }
        }
        let [src, names, ports, on] = parts[..] else { return None };
        let mut expose = Expose {
            pos: value.pos,
            src: self.class_selectors(src, "the source of `expose`"),
            names: Vec::new(),
            ports: Vec::new(),
            on: self.class_selectors(on, "an exit of `expose`"),
        };
        for item in self.list(names, "`names`") {
            let Some(text) = self.text(item, "a name") else { continue };
            let name = text.parse::<DnsName>().map_err(|e| e.to_string());
            let name = name.and_then(|n| {
                if n.as_str() == "*" {
                    Err("`*` is every name of the world: write *.example.com".to_owned())
                } else {
                    Ok(n)
                }
            });
            expose.names.extend(self.check(item.pos, name));
        }
        for item in self.list(ports, "`ports`") {
            let Some(text) = self.text(item, "a port") else { continue };
            let ranges = grant_ports(text);
            expose.ports.extend(self.check(item.pos, ranges).unwrap_or_default());
        }
        if expose.ports.len() > limits::MAX_RULE_TERMS {
            self.error(
                ports.pos,
                format!("more than {} ports in one entry: split it", limits::MAX_RULE_TERMS),
            );
        }
        Some(expose)
    }

    fn warn_of_undefined_tags(&mut self, policy: &Policy) {
        let mut seen = std::collections::BTreeSet::new();
        for rule in &policy.rules {
            let sources = rule.sources.iter().map(|t| (&t.selector, t.pos));
            for (selector, pos) in sources.chain(rule.targets.iter().map(|t| (&t.selector, t.pos))) {
                if let Selector::Tag(tag) = selector
                    && !policy.tag_owners.contains_key(tag)
                    && seen.insert(tag.clone())
                {
                    self.report.warn(
                        pos,
                        format!("{tag} is not in `tagOwners`: only an admin can give it to a node"),
                    );
                }
            }
        }
    }
}

fn is_plain(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !name.is_empty() && name.len() <= limits::MAX_NAME && name.chars().all(fits)
}

#[cfg(test)]
mod tests;
