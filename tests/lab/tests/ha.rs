//! Two routers for one network: whichever way one of them fails, its clients use the other one.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result};
use meshd_lab::mesh::{Coordinator, ping_until, up};
use meshd_lab::{Host, Lab, Nat, longest_gap};

/// A LAN with a NAS and two routers, each with an uplink of its own, and a client elsewhere.
struct TwoRouters {
    _lab: Lab,
    _coordinator: Coordinator,
    client: Host,
    routers: [Host; 2],
    _switch: Host,
    nas4: Ipv4Addr,
}

const LAN: &str = "10.77.0.0/24";

impl TwoRouters {
    fn new(name: &str) -> Result<Self> {
        let lab = Lab::new(name)?;
        let (vps, vps4, _) = lab.server("vps")?;
        let switch = lab.host("switch")?;
        switch.sh("ip link add lan type bridge && ip link set lan up")?;
        let attach =
            |host: &Host, port: &str, address: &str| lab.cable(host, "lan0", address, &switch, port, "lan");
        let nas = lab.host("nas")?;
        attach(&nas, "nas", "10.77.0.50/24")?;
        let mut routers = Vec::new();
        for n in 1..=2 {
            let router = lab.server(&format!("router{n}"))?.0;
            attach(&router, &format!("router{n}"), &format!("10.77.0.{n}/24"))?;
            routers.push(router);
        }
        let home = lab.router("home", Nat::Home)?;
        let (client, _, _) = lab.behind(&home, "client")?;
        let coordinator = Coordinator::start(&vps, vps4)?;
        let token = coordinator.token()?;
        for router in &routers {
            up(router, &[&token, &format!("--advertise-routes={LAN}")])?;
            coordinator.run(&["routes", "approve", router.name(), LAN])?;
        }
        up(&client, &[&token])?;
        let nas4 = Ipv4Addr::new(10, 77, 0, 50);
        ping_until(&client, &nas4.to_string(), Duration::from_secs(15))?;
        let routers = <[Host; 2]>::try_from(routers).ok().context("two routers")?;
        Ok(Self { _lab: lab, _coordinator: coordinator, client, routers, _switch: switch, nas4 })
    }

    /// How long pings every 50 ms go without an answer around `what`.
    fn gap(&self, what: impl FnOnce() -> Result<()>) -> Result<Duration> {
        let nas = self.nas4.to_string();
        longest_gap(&self.client, &nas, Duration::from_secs(7), what)
    }

    /// Which router the NAS's pings come through right now.
    fn active(&self) -> Result<usize> {
        for (i, router) in self.routers.iter().enumerate() {
            let capturing = router.capture("lan0")?;
            self.client.run("ping", ["-c", "2", "-i", "0.2", "-W", "1", &self.nas4.to_string()])?;
            let nas = self.nas4.into();
            if capturing.finish()?.count(|p| p.transport == meshd_lab::Transport::Icmp && p.touches(nas)) > 0
            {
                return Ok(i);
            }
        }
        anyhow::bail!("no router carries the pings")
    }
}

#[test]
fn a_drained_router_keeps_what_runs_and_gets_nothing_new() -> Result<()> {
    let net = TwoRouters::new("drain")?;
    let first = net.active()?;
    // The same flow goes on: ICMP with one identifier.
    let gap = net.gap(|| {
        net.routers[first].run("meshd", ["drain"])?.success()?;
        Ok(())
    })?;
    assert!(gap < Duration::from_millis(900), "no packet is lost by draining: {gap:?}");
    assert_ne!(net.active()?, first, "a new flow goes elsewhere");
    net.routers[first].run("meshd", ["drain", "--off"])?.success()?;
    Ok(())
}
