//! Which networks this host is plugged into, so that a change is seen even where every address stays:
//! another router, another interface, a cable that was out for a moment.

use super::OsError;
use super::desired::IfName;
use super::links::leads_outside;
use super::netlink::{DefaultRoute, Hardware, Link, Netlink};

/// The networks that lead outside, comparable with those of another moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uplinks {
    /// Interfaces that lead outside, as pieces of hardware.
    links: Vec<(String, Hardware)>,
    /// Default routes by them.
    gateways: Vec<DefaultRoute>,
}

/// The networks that this host is plugged into now.
///
/// # Errors
/// When the kernel does not answer.
pub async fn uplinks(mesh: &IfName) -> Result<Uplinks, OsError> {
    let netlink = Netlink::open()?;
    let (links, hardware) = netlink.links_with_hardware().await?;
    Ok(Uplinks::of(&links, hardware, netlink.default_routes().await?, mesh))
}

impl Uplinks {
    fn of(links: &[Link], hardware: Vec<Hardware>, routes: Vec<DefaultRoute>, mesh: &IfName) -> Self {
        let outside: Vec<&Link> = links.iter().filter(|l| leads_outside(l, mesh)).collect();
        let name = |index: u32| outside.iter().find(|l| l.index == index).map(|l| l.name.clone());
        let mut links: Vec<_> = hardware.into_iter().filter_map(|h| Some((name(h.index)?, h))).collect();
        // An interface without addresses is not in use: its cable does not matter.
        let used = |index: u32| outside.iter().any(|l| l.index == index && !l.addresses.is_empty());
        links.retain(|(_, h)| used(h.index));
        links.sort();
        let mut gateways: Vec<_> = routes.into_iter().filter(|r| name(r.link).is_some()).collect();
        gateways.sort();
        Self { links, gateways }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str, addresses: &[&str]) -> Link {
        Link {
            index,
            name: name.to_owned(),
            kind: None,
            up: true,
            loopback: false,
            mtu: 1500,
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        }
    }

    fn hardware(index: u32, carriers: u32) -> Hardware {
        Hardware { index, address: vec![2, 0, 0, 0, 0, 1], carriers }
    }

    fn route(gateway: &str, link: u32) -> DefaultRoute {
        DefaultRoute { gateway: Some(gateway.parse().unwrap()), link }
    }

    #[test]
    fn another_router_card_or_plug_is_another_network_although_the_address_stays() {
        let links = [link(2, "eth0", &["192.168.1.5/24"]), link(3, "mesh0", &["100.71.0.1/32"])];
        let of = |h: Hardware, r: DefaultRoute| Uplinks::of(&links, vec![h], vec![r], &IfName::mesh0());
        let before = of(hardware(2, 1), route("192.168.1.1", 2));
        assert_eq!(of(hardware(2, 1), route("192.168.1.1", 2)), before);
        assert_ne!(of(hardware(2, 1), route("192.168.1.254", 2)), before, "another router");
        assert_ne!(of(hardware(2, 2), route("192.168.1.1", 2)), before, "unplugged and plugged");
        let card = Hardware { address: vec![2, 0, 0, 0, 0, 9], ..hardware(2, 1) };
        assert_ne!(of(card, route("192.168.1.1", 2)), before, "another card");
    }

    #[test]
    fn containers_the_mesh_itself_and_unused_plugs_do_not_count() {
        let links = [
            link(2, "eth0", &["192.168.1.5/24"]),
            link(3, "mesh0", &["100.71.0.1/32"]),
            link(4, "docker0", &["172.17.0.1/16"]),
            link(5, "eth1", &[]),
        ];
        let of = |carriers: u32| {
            let all =
                vec![hardware(2, 1), hardware(3, carriers), hardware(4, carriers), hardware(5, carriers)];
            Uplinks::of(&links, all, vec![route("192.168.1.1", 2)], &IfName::mesh0())
        };
        assert_eq!(of(1), of(2));
    }
}
