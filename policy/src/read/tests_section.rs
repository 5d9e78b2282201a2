//! `tests`: what must hold before a policy is accepted.

use super::rules::split_ports;
use super::{CONDITION, Context, Keys};
use crate::diagnostic::{Pos, quoted};
use crate::index::has_ports;
use crate::json::Value;
use crate::policy::{PolicyTest, Term, TestTarget};
use crate::ports::ports;
use crate::selector::Selector;

const TCP: u8 = 6;

const TEST: Keys = Keys {
    known: &["src", "proto", "accept", "deny"],
    ignored: &["name", "description"],
    refused: &[
        ("srcPostureAttrs", CONDITION),
        ("user", "is the old name: write `src`"),
        ("allow", "is the old name: write `accept`"),
    ],
};

impl Context {
    pub(super) fn test(&mut self, value: &Value) -> Option<PolicyTest> {
        let fields = self.fields(value, "an entry of `tests`", &TEST)?;
        let Some(src) = fields.get("src") else {
            self.error(value.pos, "`src` is missing: name one user, group, tag or address");
            return None;
        };
        let text = self.text(&src.value, "`src`")?;
        let selector = self.names.selector(text);
        let selector = self.check(src.value.pos, selector)?;
        if !is_concrete(&selector, true) {
            let message = format!("{} is not one source: name a user, group, tag or address", quoted(text));
            self.error(src.value.pos, message);
            return None;
        }
        let protocols = match fields.get("proto") {
            None => vec![TCP],
            Some(m) => self.protocol(&m.value)?.into_iter().map(|p| p.unwrap_or(TCP)).collect(),
        };
        let mut test = PolicyTest {
            src: Term { selector, pos: src.value.pos },
            protocols,
            accept: vec![],
            deny: vec![],
        };
        for (key, accept) in [("accept", true), ("deny", false)] {
            let Some(member) = fields.get(key) else { continue };
            for item in self.list(&member.value, &format!("`{key}`")) {
                let Some(text) = self.text(item, "a destination") else { continue };
                let target = self.test_target(item.pos, text, &test.protocols);
                let list = if accept { &mut test.accept } else { &mut test.deny };
                list.extend(target);
            }
        }
        if test.accept.is_empty() && test.deny.is_empty() {
            self.error(value.pos, "this test tests nothing: give `accept` or `deny` a destination");
        }
        Some(test)
    }

    fn test_target(&mut self, pos: Pos, text: &str, protocols: &[u8]) -> Option<TestTarget> {
        let parts = split_ports(text);
        let (name, port_text) = self.check(pos, parts)?;
        let selector = self.names.selector(name);
        let selector = self.check(pos, selector)?;
        if !is_concrete(&selector, false) {
            let message =
                format!("{} is not one destination: name a user, tag, host or address", quoted(name));
            self.error(pos, message);
            return None;
        }
        let ranges = ports(port_text);
        let ranges = self.check(pos, ranges)?;
        let port = match ranges[..] {
            [(first, last)] if first == last => Some(first),
            [(0, u16::MAX)] if protocols.iter().all(|p| !has_ports(*p)) => None,
            _ => {
                self.error(pos, format!("{} is not one port: a test tries one", quoted(port_text)));
                return None;
            }
        };
        Some(TestTarget { selector, text: text.to_owned(), pos, port })
    }
}

fn is_concrete(selector: &Selector, source: bool) -> bool {
    match selector {
        Selector::User(_) | Selector::Tag(_) => true,
        Selector::Group(_) => source,
        Selector::Addresses(prefix) => prefix.net().prefix_len() == prefix.net().max_prefix_len(),
        Selector::Everything
        | Selector::Members
        | Selector::Tagged
        | Selector::Myself
        | Selector::Internet => false,
    }
}
