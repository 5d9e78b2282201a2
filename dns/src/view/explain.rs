//! Why a question is answered as it is, in sentences: the same steps as [`View::decide`].

use super::{Decision, MAX_ALIASES, Route, View, is_canary};
use crate::lookup::Found;
use crate::zone::Zone;
use hickory_proto::rr::{DNSClass, LowerName, Name, RecordType};
use std::net::SocketAddr;

impl View {
    /// What happens to a question in text form, and the steps to it; `None`: it is no name.
    pub fn answer_text(&self, name: &str, kind: u16) -> Option<(Decision, Vec<String>)> {
        let mut name = Name::from_ascii(name).ok()?;
        name.set_fqdn(true);
        let name = LowerName::from(name);
        let kind = RecordType::from(kind);
        Some((self.decide(&name, kind, DNSClass::IN), self.explain(&name, kind)))
    }

    /// The steps from a question to its answer, or to who is asked.
    pub fn explain(&self, name: &LowerName, kind: RecordType) -> Vec<String> {
        if self.domain.is_none() {
            return vec![
                "this node has no names yet: everything goes to the host's own resolvers".to_owned(),
            ];
        }
        if is_canary(name) {
            return vec![format!(
                "{name} does not exist here, so that browsers keep asking this resolver (canary domain)"
            )];
        }
        let mut steps = Vec::new();
        let mut at = name.clone();
        for _ in 0..=MAX_ALIASES {
            let Some((_, found)) = self.find(&at, kind, DNSClass::IN) else {
                steps.push(self.explain_route(&at));
                return steps;
            };
            let place = self.place_of(&at);
            match found {
                Found::Data(records) => {
                    steps.push(format!("{at} has {} {kind} record(s) {place}", records.len()));
                    return steps;
                }
                Found::Alias { target, .. } => {
                    steps.push(format!("{at} is an alias of {target} {place}"));
                    at = target;
                }
                Found::Renamed { target, .. } => {
                    steps.push(format!("{at} lies below a DNAME and is {target} {place}"));
                    at = target;
                }
                Found::TooLong(_) => {
                    steps.push(format!("{at} lies below a DNAME that would make its name too long"));
                    return steps;
                }
                Found::Delegation { servers, glue } => {
                    steps.push(format!(
                        "{at} is delegated to {} name server(s), {} of them with an address here",
                        servers.len(),
                        glue.len()
                    ));
                    return steps;
                }
                Found::NoData => {
                    steps.push(format!("{at} is there and has no {kind} record {place}"));
                    return steps;
                }
                Found::Empty => {
                    steps.push(format!("{at} has no records, only names below it {place}"));
                    return steps;
                }
                Found::NoName => {
                    steps.push(format!("there is no {at}, as far as this node may see, {place}"));
                    return steps;
                }
            }
        }
        steps.push("the aliases go round in a circle".to_owned());
        steps
    }

    /// Where a name of ours stands.
    fn place_of(&self, name: &LowerName) -> String {
        if let Some(zone) = self.zone_of(name) {
            return format!("in the mesh's zone {}{}", zone.origin(), stand_in(zone, name));
        }
        match &self.overrides {
            Some(zone) if name.num_labels() > 1 => {
                format!("among the admin's records outside the mesh's domain{}", stand_in(zone, name))
            }
            _ => "as a bare name directly under the mesh's domain".to_owned(),
        }
    }

    fn explain_route(&self, name: &LowerName) -> String {
        let list = |addrs: &[SocketAddr]| {
            let texts: Vec<String> = addrs.iter().map(ToString::to_string).collect();
            texts.join(", ")
        };
        match self.route(name) {
            Route::Host => format!("{name} is not ours: the host's own resolvers are asked"),
            Route::Global(addrs) => {
                format!("{name} is not ours: the mesh's nameservers are asked ({})", list(&addrs))
            }
            Route::Split(addrs) => {
                let domain = self.split_domain(name).map_or_else(String::new, |d| format!(" of {d}"));
                format!("{name} is not ours: the resolvers{domain} are asked ({})", list(&addrs))
            }
        }
    }

    fn split_domain(&self, name: &LowerName) -> Option<LowerName> {
        let mut at = name.clone();
        while !self.split.contains_key(&at) {
            if at.is_root() {
                return None;
            }
            at = at.base_name();
        }
        Some(at)
    }
}

/// By what a name without records of its own is answered.
fn stand_in(zone: &Zone, name: &LowerName) -> String {
    if zone.sets(name).is_some() {
        return String::new();
    }
    match crate::lookup::stands_in(zone, name) {
        Some(owner) => format!(" by {owner}"),
        None => String::new(),
    }
}
