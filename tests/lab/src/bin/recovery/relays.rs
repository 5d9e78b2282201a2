//! The relay that two nodes talk over dies, stops, or falls silent; there are others.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use meshd_lab::mesh::{Coordinator, SmallInternet, mesh_address, peer, ping_until, second_relay, up};
use meshd_lab::{Host, Nat, longest_gap, wait_within};

use crate::Row;

/// The death of a relay is seen by silence only.
const GOAL: Duration = Duration::from_secs(2);
/// After a relay is back: until the nodes have attached to it again.
const SETTLE: Duration = Duration::from_secs(8);

/// What happens to the relay.
pub(super) const ROWS: [Row<Stage>; 3] = [
    Row { name: "relay-killed", goal: GOAL, ready, run: killed },
    Row { name: "relay-stopped", goal: GOAL, ready, run: stopped },
    Row { name: "relay-drops-packets", goal: GOAL, ready, run: drops },
];

/// Two nodes behind symmetric NATs, a coordinator that is no relay for them, and two relays.
pub(super) struct Stage {
    net: SmallInternet,
    _coordinator: Coordinator,
    relays: Vec<Standalone>,
    pi: String,
}

struct Standalone {
    name: String,
    host: Host,
    command: Vec<String>,
}

impl Stage {
    pub(super) fn new() -> Result<Self> {
        let net = SmallInternet::with_nats("recovery_relays", Nat::Symmetric, Nat::Symmetric)?;
        let coordinator = net.coordinator()?;
        // The relay inside the coordinator lives and dies with it: that is another row.
        net.vps.nft(
            "table inet norelay { chain in { type filter hook input priority 0; udp dport 3478 drop; }; }\n",
        )?;
        let mut relays = Vec::new();
        for name in ["fra", "ams"] {
            let (host, v4, _) = net.lab.server(name)?;
            let command = second_relay(&coordinator, &host, name, &[v4.to_string()])?;
            relays.push(Standalone { name: name.to_owned(), host, command });
        }
        let token = coordinator.token()?;
        up(&net.pi, &[&token])?;
        up(&net.laptop, &[&token])?;
        let pi = mesh_address(&net.pi)?.to_string();
        Ok(Self { net, _coordinator: coordinator, relays, pi })
    }

    /// The relay that the laptop sends to.
    fn used(&self) -> Result<&Standalone> {
        let via = peer(&self.net.laptop, "pi")?["via"].as_str().unwrap_or_default().to_owned();
        self.relays.iter().find(|r| via.contains(&r.name)).with_context(|| format!("via {via:?}"))
    }

    /// The gap while `what` happens to that relay, and `after` what sets it right.
    fn gap(
        &self,
        what: impl FnOnce(&Standalone) -> Result<()>,
        after: impl FnOnce(&Standalone) -> Result<()>,
    ) -> Result<Duration> {
        let (laptop, pi) = (self.net.laptop.clone(), self.pi.clone());
        let relay = self.used()?;
        let gap = longest_gap(&laptop, &pi, Duration::from_secs(8), || what(relay));
        after(relay)?;
        std::thread::sleep(SETTLE);
        gap
    }
}

fn ready(stage: &Stage) -> Result<()> {
    ping_until(&stage.net.laptop, &stage.pi, Duration::from_secs(20))?;
    let relayed = wait_within(Duration::from_secs(20), || {
        let path = peer(&stage.net.laptop, "pi").ok()?;
        (path["path"] == "relay").then_some(())
    });
    ensure!(relayed.is_some(), "the pair does not use a relay: {:#}", peer(&stage.net.laptop, "pi")?);
    Ok(())
}

fn signal(relay: &Standalone, signal: &str) -> Result<()> {
    relay.host.sh(&format!("pkill -{signal} meshd-relay")).map(drop)
}

fn killed(stage: &mut Stage) -> Result<Duration> {
    stage
        .gap(|relay| signal(relay, "KILL"), |relay| relay.host.spawn("meshd-relay", &relay.command).map(drop))
}

fn stopped(stage: &mut Stage) -> Result<Duration> {
    stage.gap(|relay| signal(relay, "STOP"), |relay| signal(relay, "CONT"))
}

fn drops(stage: &mut Stage) -> Result<Duration> {
    stage.gap(
        |relay| {
            relay.host.nft(
                "table inet silent { chain in { type filter hook input priority 0; drop; }; \
                 chain out { type filter hook output priority 0; drop; }; }\n",
            )
        },
        |relay| relay.host.nft("table inet silent\ndelete table inet silent\n"),
    )
}
