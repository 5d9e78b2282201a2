//! Kills of `meshd-coordinator serve` while its store takes changes.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use meshd_lab::mesh::{SmallInternet, up};
use meshd_lab::{Process, wait_until};
use rustix::process::Signal;
use serde_json::Value;

use crate::kills::{Budget, Steps, attach, end, steps};

const TRACE: &str = "/var/lib/steps";
/// What makes or syncs the database and its log.
const STORE: Steps = Steps { calls: "pwrite64,fdatasync,fsync,ftruncate,unlink" };
/// Routes that the Pi offers, to be approved and unapproved one at a time.
const ROUTES: usize = 20;

/// Starts it and waits until it answers.
pub(crate) fn serve(net: &SmallInternet) -> Result<Process> {
    let serve = net.vps.spawn("meshd-coordinator", ["serve", "--public", &net.vps4.to_string()])?;
    let ready = wait_until(Duration::from_secs(20), || {
        net.vps.run("meshd-coordinator", ["dns", "list", "--json"]).is_ok_and(|said| said.is_success())
    });
    ensure!(ready, "it does not start: {}", serve.log());
    Ok(serve)
}

struct Tortured {
    net: SmallInternet,
    names: Vec<String>,
    tokens: Vec<String>,
    /// For each route whether it is approved; nothing while that is open.
    approved: Vec<Option<bool>>,
    next: usize,
    changes: usize,
}

pub(crate) fn torture(mut budget: Budget) -> Result<()> {
    let net = SmallInternet::new("torture_store")?;
    let mut coordinator = net.coordinator()?;
    let token = coordinator.token()?;
    let routes: Vec<String> = (0..ROUTES).map(route).collect();
    up(&net.pi, &[&token, &format!("--advertise-routes={}", routes.join(","))])?;
    coordinator.kill()?;
    let mut store = Tortured {
        net,
        names: Vec::new(),
        tokens: Vec::new(),
        approved: vec![Some(false); ROUTES],
        next: 0,
        changes: 0,
    };

    // Three changes, one of each kind, step by step.
    let serving = serve(&store.net)?;
    let tracer = attach(&store.net.vps, &serving, &STORE.watch(), TRACE)?;
    for _ in 0..3 {
        ensure!(store.change()?, "a change failed: {}", serving.log());
    }
    end(serving)?;
    tracer.wait(Duration::from_secs(5))?;
    let steps = steps(&store.net.vps, TRACE)?;
    println!("coordinator: {} store steps in three changes", steps.len());
    ensure!(steps.len() >= 6, "three changes cannot have so few steps: {steps:?}");

    let mut round = 0;
    while budget.goes_on(70) {
        let step = &steps[round % steps.len()];
        round += 1;
        let serving = store.start()?;
        let tracer = attach(&store.net.vps, &serving, &STORE.kill_at(step), TRACE)?;
        // One more than was counted, in case fewer steps were needed this time.
        for _ in 0..4 {
            if !store.change()? {
                break;
            }
        }
        let died = end(serving)?;
        tracer.wait(Duration::from_secs(5))?;
        budget.killed(if died { "at a store step" } else { "just after a change" });
    }
    while budget.goes_on(100) {
        let moment = Duration::from_millis(budget.random(250));
        let serving = store.start()?;
        thread::scope(|scope| -> Result<()> {
            let killer = scope.spawn(|| {
                thread::sleep(moment);
                serving.signal(Signal::KILL)
            });
            while store.change()? {}
            match killer.join() {
                Ok(done) => done,
                Err(_) => bail!("the killer panicked"),
            }
        })?;
        end(serving)?;
        budget.killed("at a random moment");
    }

    let serving = store.start()?;
    ensure!(store.change()?, "no change after all that: {}", serving.log());
    let back = wait_until(Duration::from_secs(60), || {
        meshd_lab::mesh::status(&store.net.pi).is_ok_and(|status| status["state"] == "up")
    });
    ensure!(back, "the Pi did not come back: {}", serving.log());
    end(serving)?;
    let changes = store.changes;
    budget.report("coordinator", &format!("{changes} acknowledged changes, 0 lost; the audit log verifies"))
}

fn route(n: usize) -> String {
    format!("10.{}.0.0/16", 100 + n)
}

impl Tortured {
    fn list(&self, what: &str) -> Result<Value> {
        let said = self.net.vps.run("meshd-coordinator", [what, "list", "--json"])?.success()?.stdout;
        serde_json::from_str(&said).with_context(|| format!("not JSON: {said}"))
    }

    /// One change through the command line, each time of another kind; whether it was acknowledged.
    fn change(&mut self) -> Result<bool> {
        self.next += 1;
        let run = |args: &[&str]| self.net.vps.run("meshd-coordinator", args.iter().copied());
        let done = match self.next % 3 {
            0 => {
                let name = format!("n{}.home.internal", self.next);
                let said = run(&["dns", "add", &name, "192.168.1.10"])?;
                if said.is_success() {
                    self.names.push(name);
                }
                said.is_success()
            }
            1 => {
                let said = run(&["token", "create", "--json"])?;
                if said.is_success() {
                    let made: Value = serde_json::from_str(&said.stdout)?;
                    let id =
                        made["id"].as_str().map(str::to_owned).or(made["id"].as_u64().map(|n| n.to_string()));
                    self.tokens.push(
                        id.with_context(|| format!("no id in {:?}", made.as_object().map(|o| o.keys())))?,
                    );
                }
                said.is_success()
            }
            _ => {
                let which = (self.next / 3) % ROUTES;
                let wanted = !self.approved[which].unwrap_or(false);
                let said =
                    run(&["routes", if wanted { "approve" } else { "unapprove" }, "pi", &route(which)])?;
                self.approved[which] = said.is_success().then_some(wanted);
                said.is_success()
            }
        };
        self.changes += usize::from(done);
        Ok(done)
    }

    /// Starts it and holds it to what it has acknowledged.
    fn start(&mut self) -> Result<Process> {
        let serving = serve(&self.net)?;
        let (names, tokens) = (self.list("dns")?.to_string(), self.list("token")?);
        let lost: Vec<&String> =
            self.names.iter().filter(|name| !names.contains(&format!("\"{name}\""))).collect();
        ensure!(lost.is_empty(), "acknowledged names are lost: {lost:?}");
        let known = |id: &str| {
            tokens.as_array().is_some_and(|all| {
                all.iter().any(|t| {
                    t["id"].as_str() == Some(id) || t["id"].as_u64().is_some_and(|n| n.to_string() == id)
                })
            })
        };
        let lost: Vec<&String> = self.tokens.iter().filter(|id| !known(id)).collect();
        ensure!(lost.is_empty(), "acknowledged tokens are lost: {lost:?} of {tokens:#}");
        let routes = self.list("routes")?;
        for (n, wanted) in self.approved.iter_mut().enumerate() {
            let prefix = route(n);
            let found = routes.as_array().and_then(|all| all.iter().find(|r| r["prefix"] == prefix.as_str()));
            let now = found.is_some_and(|r| r["approved"] == true);
            ensure!(wanted.is_none_or(|w| w == now), "{prefix} should be {wanted:?}: {routes:#}");
            *wanted = Some(now);
        }
        self.net.vps.run("meshd-coordinator", ["audit", "verify"])?.success()?;
        Ok(serving)
    }
}
