//! What the user of a node chose, parsed once into types.

mod names;

pub use names::{DEFAULT_LAN_RATE, LanNames, NameScope};

use meshd_proto::addr::PrefixError;
use meshd_proto::id::NameError;
use meshd_proto::limits::MAX_ADVERTISED_ROUTES;
use meshd_proto::localapi::{PrefixList, Settings as Patch};
use meshd_proto::{Hostname, MeshPrefixes, Prefix};

/// The settings of a node, whole.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Prefixes to offer to the mesh.
    pub advertise_routes: Vec<Prefix>,
    /// Offer to carry internet traffic.
    pub advertise_exit_node: bool,
    /// Name or mesh address of the node to send internet traffic through.
    pub exit_node: Option<String>,
    /// Use prefixes behind other nodes.
    pub accept_routes: bool,
    /// The name to ask for; `None`: what the machine calls itself.
    pub hostname: Option<Hostname>,
    /// Masquerade traffic from the mesh into advertised prefixes.
    pub snat: bool,
    /// Let internet traffic leave directly while the exit node is away.
    pub exit_fallback: bool,
    /// Add rules to hooks that other firewalls offer for it.
    pub firewall_assist: bool,
    /// Set the host's DNS to answer mesh names.
    pub accept_dns: bool,
    /// How much of the mesh's names the host takes, where it takes any.
    pub dns: NameScope,
    /// Which networks are answered names.
    pub dns_lan: LanNames,
    /// Prefixes that go through the mesh although they are connected here.
    pub prefer_mesh: Vec<Prefix>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            advertise_routes: Vec::new(),
            advertise_exit_node: false,
            exit_node: None,
            accept_routes: true,
            hostname: None,
            snat: true,
            exit_fallback: false,
            firewall_assist: false,
            accept_dns: true,
            dns: NameScope::Full,
            dns_lan: LanNames::default(),
            prefer_mesh: Vec::new(),
        }
    }
}

/// Why a change of settings was refused. Nothing of it is applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// Not a prefix.
    #[error(transparent)]
    Prefix(#[from] PrefixError),
    /// Not a name.
    #[error("the host name cannot be used: {0}")]
    Hostname(#[from] NameError),
    /// Two advertised prefixes share addresses.
    #[error("{0} and {1} overlap: advertise only one of them")]
    Overlap(Prefix, Prefix),
    /// A default route among the subnet routes.
    #[error("{0} is a default route: use --advertise-exit-node to carry internet traffic")]
    Default(Prefix),
    /// A range that cannot lie behind a node.
    #[error(
        "{0} cannot be advertised: loopback, link-local, multicast and reserved ranges lie behind no node"
    )]
    Special(Prefix),
    /// The mesh's own range.
    #[error("{0} overlaps the mesh's own range {1}: nodes are reached by their own addresses already")]
    MeshRange(Prefix, ipnet::IpNet),
    /// More than anybody needs.
    #[error("{0} routes are too many: at most {MAX_ADVERTISED_ROUTES} can be advertised")]
    TooMany(usize),
    /// Not a part of the mesh's names.
    #[error("there is no `--dns={0}`: use off, names, split or full")]
    Dns(String),
    /// Networks that cannot be answered names like that.
    #[error("names cannot be served like that: {0}")]
    LanNames(String),
    /// Both carrying and sending.
    #[error("a node cannot be an exit node and use one: drop --advertise-exit-node or --exit-node")]
    ExitLoop,
}

impl Settings {
    /// These settings with `patch` on top; what the patch leaves out stays.
    ///
    /// # Errors
    /// Says what is wrong with the patch.
    pub fn patched(&self, patch: &Patch) -> Result<Self, SettingsError> {
        let mut next = self.clone();
        if let Some(list) = &patch.advertise_routes {
            next.advertise_routes = advertised(list)?;
        }
        if let Some(list) = &patch.prefer_mesh {
            next.prefer_mesh = prefixes(list)?;
        }
        if let Some(name) = &patch.hostname {
            next.hostname = if name.is_empty() { None } else { Some(name.parse()?) };
        }
        if let Some(node) = &patch.exit_node {
            next.exit_node = Some(node.trim().to_owned()).filter(|n| !n.is_empty());
        }
        let set = |field: &mut bool, value: Option<bool>| *field = value.unwrap_or(*field);
        set(&mut next.advertise_exit_node, patch.advertise_exit_node);
        set(&mut next.accept_routes, patch.accept_routes);
        set(&mut next.snat, patch.snat);
        set(&mut next.exit_fallback, patch.exit_fallback);
        set(&mut next.firewall_assist, patch.firewall_assist);
        set(&mut next.accept_dns, patch.accept_dns);
        match patch.dns.as_deref() {
            None => {}
            Some("off") => next.accept_dns = false,
            Some(text) => {
                let scope = NameScope::parse(text);
                next.dns = scope.ok_or_else(|| SettingsError::Dns(text.chars().take(20).collect()))?;
                next.accept_dns = true;
            }
        }
        if let Some(lan) = &patch.dns_lan {
            next.dns_lan = LanNames::parse(lan)?;
        }
        if next.advertise_exit_node && next.exit_node.is_some() {
            return Err(SettingsError::ExitLoop);
        }
        Ok(next)
    }

    /// Checks what only a member can know: that nothing advertised overlaps the mesh itself.
    ///
    /// # Errors
    /// Names the prefix and the range.
    pub fn check_against(&self, mesh: &MeshPrefixes) -> Result<(), SettingsError> {
        let ranges = [ipnet::IpNet::V4(mesh.v4), ipnet::IpNet::V6(mesh.v6)];
        for prefix in &self.advertise_routes {
            let net = prefix.net();
            if let Some(range) = ranges.iter().find(|r| r.contains(&net) || net.contains(*r)) {
                return Err(SettingsError::MeshRange(*prefix, *range));
            }
        }
        Ok(())
    }

    /// All settings as the local API shows them.
    pub fn shown(&self) -> Patch {
        let list = |l: &[Prefix]| Some(PrefixList { prefixes: l.iter().map(ToString::to_string).collect() });
        Patch {
            advertise_routes: list(&self.advertise_routes),
            advertise_exit_node: Some(self.advertise_exit_node),
            exit_node: Some(self.exit_node.clone().unwrap_or_default()),
            accept_routes: Some(self.accept_routes),
            hostname: Some(self.hostname.as_ref().map(ToString::to_string).unwrap_or_default()),
            snat: Some(self.snat),
            exit_fallback: Some(self.exit_fallback),
            firewall_assist: Some(self.firewall_assist),
            accept_dns: Some(self.accept_dns),
            dns: Some(if self.accept_dns { self.dns.as_str() } else { "off" }.to_owned()),
            dns_lan: Some(self.dns_lan.shown()),
            prefer_mesh: list(&self.prefer_mesh),
        }
    }
}

fn prefixes(list: &PrefixList) -> Result<Vec<Prefix>, SettingsError> {
    if list.prefixes.len() > MAX_ADVERTISED_ROUTES {
        return Err(SettingsError::TooMany(list.prefixes.len()));
    }
    let mut parsed = list.prefixes.iter().map(|p| p.trim().parse()).collect::<Result<Vec<Prefix>, _>>()?;
    parsed.sort_unstable();
    parsed.dedup();
    Ok(parsed)
}

fn advertised(list: &PrefixList) -> Result<Vec<Prefix>, SettingsError> {
    let parsed = prefixes(list)?;
    if let Some(default) = parsed.iter().find(|p| p.is_default()) {
        return Err(SettingsError::Default(*default));
    }
    if let Some(special) = parsed.iter().find(|p| !p.can_lie_behind_a_node()) {
        return Err(SettingsError::Special(*special));
    }
    for (i, a) in parsed.iter().enumerate() {
        if let Some(b) = parsed[i + 1..].iter().find(|b| a.overlaps(b)) {
            return Err(SettingsError::Overlap(*a, *b));
        }
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(list: &[&str]) -> Patch {
        let prefixes = list.iter().map(ToString::to_string).collect();
        Patch { advertise_routes: Some(PrefixList { prefixes }), ..Patch::default() }
    }

    #[test]
    fn a_patch_changes_only_what_it_names() {
        let first = Settings::default().patched(&routes(&["192.168.1.0/24"])).unwrap();
        let second = first.patched(&Patch { snat: Some(false), ..Patch::default() }).unwrap();
        assert_eq!(second.advertise_routes, first.advertise_routes);
        assert!(!second.snat && second.accept_routes);
        assert_eq!(Settings::default().patched(&second.shown()).unwrap(), second);
    }

    #[test]
    fn bad_routes_are_refused_with_what_to_do() {
        let refuse = |list: &[&str]| Settings::default().patched(&routes(list)).unwrap_err().to_string();
        assert!(refuse(&["192.168.1.7/24"]).contains("did you mean `192.168.1.0/24`"));
        assert!(refuse(&["10.0.0.0/8", "10.1.0.0/16"]).contains("overlap"));
        assert!(refuse(&["0.0.0.0/0"]).contains("--advertise-exit-node"));
        assert!(refuse(&["169.254.0.0/16"]).contains("link-local"));
        let mesh = MeshPrefixes { v4: "10.7.0.0/16".parse().unwrap(), v6: "fd00::/48".parse().unwrap() };
        let wide = Settings::default().patched(&routes(&["10.0.0.0/8"])).unwrap();
        assert!(wide.check_against(&mesh).unwrap_err().to_string().contains("mesh's own range 10.7.0.0/16"));
    }

    #[test]
    fn how_much_of_the_names_is_taken_is_one_word() {
        let with = |settings: &Settings, dns: &str| {
            settings.patched(&Patch { dns: Some(dns.to_owned()), ..Patch::default() })
        };
        let names = with(&Settings::default(), "names").unwrap();
        assert_eq!((names.accept_dns, names.dns), (true, NameScope::Names));
        let off = with(&names, "off").unwrap();
        assert_eq!((off.accept_dns, off.shown().dns.as_deref()), (false, Some("off")));
        assert!(with(&off, "full").unwrap().accept_dns);
        assert!(with(&off, "some").unwrap_err().to_string().contains("off, names, split or full"));
    }

    #[test]
    fn a_node_is_not_an_exit_and_a_user_of_one() {
        let patch =
            Patch { advertise_exit_node: Some(true), exit_node: Some("pi".into()), ..Patch::default() };
        assert_eq!(Settings::default().patched(&patch), Err(SettingsError::ExitLoop));
    }
}
