//! What the user wants of names: how much of the mesh's this host takes, and which networks it answers.

use super::SettingsError;
use crate::os::{BadIfName, IfName};
use ipnet::IpNet;
use meshd_dns::Scope;
use meshd_proto::Prefix;
use meshd_proto::localapi::LanNames as Patch;

/// Questions a second from one address, when nothing else is said: several busy browsers.
pub const DEFAULT_LAN_RATE: u32 = 100;
/// No machine asks as much.
const MAX_LAN_RATE: u32 = 100_000;
/// More networks than anybody has plugged in.
const MAX_LANS: usize = 16;
/// More than a list that a person keeps.
const MAX_ALLOWED: usize = 64;

/// How much of what the mesh says about names this host takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NameScope {
    /// Names of the mesh's own domain.
    Names,
    /// And domains with resolvers of their own, and records outside the mesh's domain.
    Split,
    /// And the mesh's nameservers for everything else.
    #[default]
    Full,
}

impl NameScope {
    /// As the command line writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Names => "names",
            Self::Split => "split",
            Self::Full => "full",
        }
    }

    /// For the resolver.
    pub const fn scope(self) -> Scope {
        match self {
            Self::Names => Scope::Names,
            Self::Split => Scope::Split,
            Self::Full => Scope::Full,
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        [Self::Names, Self::Split, Self::Full].into_iter().find(|scope| scope.as_str() == text)
    }
}

/// Networks whose machines run nothing of ours and get names from this node.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LanNames {
    /// Interfaces; none: nobody is answered.
    pub interfaces: Vec<String>,
    /// Who may ask; none: everybody on those networks.
    pub allow: Vec<Prefix>,
    /// Most questions a second from one address.
    pub rate: u32,
    /// Whether they see of the mesh what this node sees.
    pub sees_mesh: bool,
}

impl LanNames {
    pub(super) fn parse(patch: &Patch) -> Result<Self, SettingsError> {
        let wrong = |why: String| SettingsError::LanNames(why);
        if patch.interfaces.len() > MAX_LANS {
            return Err(wrong(format!("at most {MAX_LANS} interfaces can be served")));
        }
        if patch.allow.len() > MAX_ALLOWED {
            return Err(wrong(format!("at most {MAX_ALLOWED} prefixes can be allowed")));
        }
        let mut interfaces = Vec::new();
        for name in &patch.interfaces {
            let name: IfName = name.parse().map_err(|e: BadIfName| wrong(e.to_string()))?;
            interfaces.push(name.to_string());
        }
        interfaces.sort_unstable();
        interfaces.dedup();
        if interfaces.is_empty() {
            return Ok(Self::default());
        }
        let mut allow = patch.allow.iter().map(|p| p.trim().parse()).collect::<Result<Vec<Prefix>, _>>()?;
        allow.sort_unstable();
        allow.dedup();
        let rate = match patch.rate {
            0 => DEFAULT_LAN_RATE,
            1..=MAX_LAN_RATE => patch.rate,
            more => {
                return Err(wrong(format!("{more} questions a second are too many: at most {MAX_LAN_RATE}")));
            }
        };
        let sees_mesh = match patch.view.as_str() {
            "" | "guest" => false,
            "node" => true,
            other => return Err(wrong(format!("there is no view `{other}`: use guest or node"))),
        };
        Ok(Self { interfaces, allow, rate, sees_mesh })
    }

    pub(super) fn shown(&self) -> Patch {
        Patch {
            interfaces: self.interfaces.clone(),
            allow: self.allow.iter().map(ToString::to_string).collect(),
            rate: self.rate,
            view: if self.sees_mesh { "node" } else { "guest" }.to_owned(),
        }
    }

    /// Who may ask on a network that has these addresses.
    pub(crate) fn allowed(&self, connected: &[IpNet]) -> Vec<IpNet> {
        match self.allow.is_empty() {
            true => connected.iter().map(IpNet::trunc).collect(),
            false => self.allow.iter().map(Prefix::net).collect(),
        }
    }

    /// One line for people.
    pub(crate) fn describe(&self) -> String {
        let who = match self.allow.is_empty() {
            true => "everybody there".to_owned(),
            false => self.allow.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        };
        let view = if self.sees_mesh { "names of the mesh, too" } else { "names of the internet only" };
        format!("{} for {who}: {view}, {} questions a second each", self.interfaces.join(", "), self.rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patch(interfaces: &[&str]) -> Patch {
        Patch { interfaces: interfaces.iter().map(ToString::to_string).collect(), ..Patch::default() }
    }

    #[test]
    fn a_lan_is_served_as_guests_at_a_rate_unless_more_is_said() {
        let lan = LanNames::parse(&patch(&["eth0", "eth0"])).unwrap();
        assert_eq!((lan.interfaces.len(), lan.rate, lan.sees_mesh), (1, DEFAULT_LAN_RATE, false));
        let connected: [IpNet; 1] = ["192.168.1.7/24".parse().unwrap()];
        assert_eq!(lan.allowed(&connected), ["192.168.1.0/24".parse::<IpNet>().unwrap()]);
        assert_eq!(LanNames::parse(&lan.shown()).unwrap(), lan);
        let told = Patch {
            allow: vec!["192.168.1.64/26".to_owned()],
            rate: 5,
            view: "node".to_owned(),
            ..patch(&["eth0"])
        };
        let lan = LanNames::parse(&told).unwrap();
        assert_eq!(lan.allowed(&connected), ["192.168.1.64/26".parse::<IpNet>().unwrap()]);
        assert_eq!((lan.rate, lan.sees_mesh), (5, true));
        assert_eq!(LanNames::parse(&patch(&[])).unwrap(), LanNames::default());
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_reason() {
        let refuse = |p: Patch| LanNames::parse(&p).unwrap_err().to_string();
        assert!(refuse(Patch { view: "all".to_owned(), ..patch(&["eth0"]) }).contains("guest or node"));
        assert!(refuse(Patch { rate: u32::MAX, ..patch(&["eth0"]) }).contains("too many"));
        assert!(refuse(Patch { allow: vec!["lan".to_owned()], ..patch(&["eth0"]) }).contains("lan"));
        refuse(patch(&["../etc"]));
        refuse(patch(&["eth0"; 17]));
    }
}
