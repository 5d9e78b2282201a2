//! Kills of `meshd run` during `up`, `set`, `down` and its start, and of `meshd cleanup` itself.
//!
//! The programs number their planned changes of the host and of their files, and stop before or after
//! the one that a file names (`debug_stop_file` of their configuration): there the kill lands exactly.
//! What lies between two system calls of one change is met by the kills at random moments.

use std::collections::BTreeMap;
use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use meshd_lab::mesh::{SmallInternet, status, up};
use meshd_lab::{Host, Process, wait_until, wait_within};
use rustix::process::Signal;
use serde_json::Value;

use crate::kills::{Budget, end};

/// Where the number of the step to stop at is.
const STOP: &str = "/var/lib/stop";
/// What a program writes where it stops.
const STOPPED: &str = "(stopped)";
const PATIENCE: Duration = Duration::from_secs(15);
/// Two values for each setting: a change goes to the other one.
const ROUTES: [&str; 2] = ["192.168.1.0/24", "192.168.1.0/24,10.77.0.0/16"];
const EXITS: [&str; 2] = ["", "laptop"];

/// The coordinator hears of routes, and a node that keeps changing them is slowed down there.
const CHANGES_PER_ROUTES: usize = 6;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Operation {
    Start,
    Up,
    Set,
    Down,
    Cleanup,
}

const OPERATIONS: [Operation; 5] =
    [Operation::Up, Operation::Set, Operation::Down, Operation::Start, Operation::Cleanup];

/// A step that a program has written to its log.
struct Step {
    number: u64,
    /// `before` or `after`.
    when: String,
    /// What it is, without its arguments.
    kind: String,
    stopped: bool,
}

/// The steps in what a program wrote.
fn steps(log: &str) -> Vec<Step> {
    let step = |line: &str| {
        let (number, rest) = line.strip_prefix("step ")?.split_once(' ')?;
        let (when, what) = rest.split_once(": ")?;
        let stopped = what.ends_with(STOPPED);
        let what = what.trim_end_matches(STOPPED).trim_end();
        // `add rule 5210: …` and `restore net/ipv4/… to 0`: the words of the kind come first.
        let kind: Vec<&str> = what
            .split(' ')
            .take_while(|word| !word.contains(|c: char| c.is_ascii_digit() || c == '/' || c == ':'))
            .take(4)
            .collect();
        Some(Step { number: number.parse().ok()?, when: when.to_owned(), kind: kind.join(" "), stopped })
    };
    log.lines().filter_map(step).collect()
}

/// Where in an operation to stop: at the n-th of so many shares.
type Share = (usize, usize);

/// What a user has chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Chosen {
    up: bool,
    snat: bool,
    routes: usize,
    exit: usize,
}

impl Chosen {
    fn other(&self, routes_too: bool) -> Chosen {
        let routes = if routes_too { 1 - self.routes } else { self.routes };
        Chosen { up: self.up, snat: !self.snat, routes, exit: 1 - self.exit }
    }

    fn flags(&self) -> [String; 3] {
        [
            format!("--snat={}", self.snat),
            format!("--advertise-routes={}", ROUTES[self.routes]),
            format!("--exit-node={}", EXITS[self.exit]),
        ]
    }

    /// What a node says of itself.
    fn of(host: &Host) -> Result<Chosen> {
        let status = status(host)?;
        let settings = &status["settings"];
        let all = settings["advertise_routes"].as_array().with_context(|| format!("{status:#}"))?;
        let mut all: Vec<&str> = all.iter().filter_map(|route| route.as_str()).collect();
        all.sort_unstable_by(|a, b| b.cmp(a));
        let place = |list: &[&str], value: &str| list.iter().position(|known| *known == value);
        Ok(Chosen {
            up: status["state"] != "stopped",
            snat: settings["snat"].as_bool().context("snat")?,
            routes: place(&ROUTES, &all.join(",")).with_context(|| format!("routes: {all:?}"))?,
            exit: settings["exit_node"].as_str().and_then(|e| place(&EXITS, e)).context("exit_node")?,
        })
    }
}

/// Everything of a host that `meshd` may touch, as text.
fn host_state(host: &Host) -> Result<String> {
    host.sh(
        "ip rule; ip -6 rule; ip route show table all; ip -6 route show table all; \
         ip -o addr; ip -o link | sed 's/^[0-9]*: //'; nft list ruleset; \
         od -c /etc/resolv.conf; stat -c '%a %u %g %F' /etc/resolv.conf; ls -a /etc | grep -F resolv.conf; \
         grep -r . /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv4/conf /proc/sys/net/ipv6/conf 2>/dev/null | sort",
    )
}

/// The lines in which two dumps differ.
fn difference(before: &str, after: &str) -> String {
    let only = |sign: &'static str, of: &str, not: &str| {
        let lines = of.lines().filter(|line| !not.lines().any(|other| other == *line));
        lines.map(|line| format!("{sign} {line}\n")).collect::<String>()
    };
    format!("{}{}", only("-", before, after), only("+", after, before))
}

struct Tortured {
    net: SmallInternet,
    before: String,
    acknowledged: Chosen,
    /// A change whose command did not succeed: it may be stored or not.
    open: Option<Chosen>,
    changes: usize,
    pings: usize,
    rounds: usize,
    /// How often a kill had left the host changed: without that, comparing would prove nothing.
    left_changed: usize,
    /// Where an operation can be stopped, by the exit node that was chosen before: it makes a difference.
    places: BTreeMap<(Operation, usize), u64>,
}

pub(crate) fn torture(mut budget: Budget) -> Result<()> {
    let net = SmallInternet::new("torture_node")?;
    let before = host_state(&net.pi)?;
    let coordinator = net.coordinator()?;
    let token = coordinator.token()?;
    up(&net.laptop, &[&token, "--advertise-exit-node"])?;
    coordinator.run(&["routes", "approve", "laptop"])?;
    let acknowledged = Chosen { up: true, snat: true, routes: 0, exit: 0 };
    fs::create_dir_all(net.pi.file("/etc/meshd"))?;
    fs::write(net.pi.file("/etc/meshd/meshd.toml"), format!("debug_stop_file = \"{STOP}\"\n"))?;
    let daemon = net.pi.spawn("meshd", ["run"])?;
    daemon.wait_for_log("ready", PATIENCE)?;
    net.pi
        .run(
            "meshd",
            ["up", "--no-service", token.as_str()].into_iter().chain(["--advertise-routes", ROUTES[0]]),
        )?
        .success()?;
    let mut node = Tortured {
        net,
        before,
        acknowledged,
        open: None,
        changes: 0,
        pings: 0,
        rounds: 0,
        left_changed: 0,
        places: BTreeMap::new(),
    };
    node.bury(daemon)?;

    // Every step of every operation: how many there are is counted first.
    for operation in OPERATIONS {
        node.step_through(operation, None)?;
        // Back to where it began, or from there.
        node.step_through(operation, None)?;
    }
    println!("places to stop: {:#?}", node.places);
    ensure!(node.places.values().all(|places| *places >= 4), "so few places cannot be: {:#?}", node.places);
    let of =
        |operation| node.places.iter().filter(|((o, _), _)| *o == operation).map(|(_, places)| *places).max();
    let each: Vec<usize> =
        OPERATIONS.iter().map(|o| usize::try_from(of(*o).unwrap_or(0)).unwrap_or(0)).collect();
    let all: usize = each.iter().sum();
    let kills = budget.kills * 3 / 4;
    while budget.goes_on(75) {
        for (operation, places) in OPERATIONS.into_iter().zip(&each) {
            // Each operation gets its share; where that is fewer than its places, they are spread evenly.
            let shares = (kills * places / all).clamp(4.min(*places), *places);
            for n in 0..shares {
                if budget.goes_on(75) {
                    let stopped = node
                        .step_through(operation, Some((n, shares)))
                        .with_context(|| format!("{operation:?} killed at place {n} of {shares}"))?;
                    match stopped {
                        Some(Step { when, kind, .. }) => {
                            budget.killed(&format!("{operation:?}, {when} a change"));
                            budget.hit(&kind);
                        }
                        None => budget.killed(&format!("{operation:?}, when it was over")),
                    }
                }
            }
        }
    }
    while budget.goes_on(100) {
        node.kill_somewhere(&mut budget)?;
    }

    node.works()?;
    ensure!(node.left_changed * 3 > node.rounds, "{} of {} kills mattered", node.left_changed, node.rounds);
    let result = format!(
        "{} kills left the host changed, and after `meshd cleanup` it differed 0 times; {} acknowledged changes, 0 lost; the peer answered {} times, also at the end",
        node.left_changed, node.changes, node.pings
    );
    budget.report("node", &result)
}

impl Tortured {
    fn pi(&self) -> &Host {
        &self.net.pi
    }

    /// Starts the daemon and holds it to what it has acknowledged.
    fn start(&mut self) -> Result<Process> {
        let daemon = self.pi().spawn("meshd", ["run"])?;
        let now = wait_within(PATIENCE, || Chosen::of(self.pi()).ok());
        let now = now.with_context(|| format!("round {}: no status: {}", self.rounds, daemon.log()))?;
        let known = now == self.acknowledged || Some(&now) == self.open.as_ref();
        ensure!(
            known,
            "round {}: lost: acknowledged {:?}, perhaps {:?}, and now {now:?}",
            self.rounds,
            self.acknowledged,
            self.open
        );
        self.acknowledged = now;
        self.open = None;
        Ok(daemon)
    }

    /// A daemon in the state that `operation` begins in.
    fn ready_for(&mut self, operation: Operation) -> Result<Process> {
        let daemon = self.start()?;
        match operation {
            Operation::Up if self.acknowledged.up => {
                self.settled()?;
                ensure!(self.perform(Operation::Down)?, "`down` failed: {}", daemon.log());
                let now = host_state(self.pi())?;
                ensure!(now == self.before, "after `down`:\n{}", difference(&self.before, &now));
            }
            Operation::Up => {}
            _ if self.acknowledged.up => self.settled()?,
            _ => ensure!(self.perform(Operation::Up)?, "`up` failed: {}", daemon.log()),
        }
        Ok(daemon)
    }

    /// Waits until the node is up by itself.
    fn settled(&self) -> Result<()> {
        let up = wait_until(PATIENCE, || {
            status(self.pi()).is_ok_and(|status| status["state"] == "up" && status["dns"]["mode"] != "off")
        });
        ensure!(up, "round {}: not up by itself: {:#}", self.rounds, status(self.pi())?);
        Ok(())
    }

    /// The arguments of an operation's command, and what it wants.
    fn command(&self, operation: Operation) -> (Vec<String>, Chosen) {
        let mut wanted = self.acknowledged.clone();
        let mut args: Vec<String> = match operation {
            Operation::Up => ["up", "--no-service", "--timeout", "10"].map(String::from).to_vec(),
            Operation::Set => vec!["set".into()],
            Operation::Down | Operation::Start | Operation::Cleanup => vec!["down".into()],
        };
        if operation == Operation::Down {
            wanted.up = false;
        } else {
            wanted = wanted.other(self.changes.is_multiple_of(CHANGES_PER_ROUTES));
            wanted.up |= operation == Operation::Up;
            args.extend(wanted.flags());
        }
        (args, wanted)
    }

    /// Runs the command of an operation; whether it was acknowledged.
    fn perform(&mut self, operation: Operation) -> Result<bool> {
        let (args, wanted) = self.command(operation);
        let said = self.pi().run_within(Duration::from_secs(30), "meshd", args)?;
        self.note(said.is_success(), wanted);
        Ok(said.is_success())
    }

    fn note(&mut self, acknowledged: bool, wanted: Chosen) {
        if acknowledged {
            self.acknowledged = wanted;
            self.changes += 1;
        } else {
            self.open = Some(wanted);
        }
    }

    fn stop_at(&self, step: u64) -> Result<()> {
        // Whole or not at all: it is read at any time.
        let path = self.pi().file(STOP);
        let new = path.with_extension("new");
        fs::write(&new, step.to_string())?;
        Ok(fs::rename(new, path)?)
    }

    /// The step to stop at, `done` being the last one before the operation.
    fn choose(&self, operation: Operation, share: Option<Share>, done: u64) -> Result<u64> {
        let Some((n, of)) = share else { return Ok(0) };
        let of_any =
            || self.places.iter().filter(|((o, _), _)| *o == operation).map(|(_, places)| *places).max();
        let known = self.places.get(&(operation, self.acknowledged.exit)).copied();
        let places = known.or_else(of_any).context("not counted")?;
        Ok(done + 1 + places * u64::try_from(n)? / u64::try_from(of)?)
    }

    /// One operation that stops at a step, or nowhere and is counted; SIGKILL; [`Tortured::bury`]. Gives
    /// where it stopped.
    fn step_through(&mut self, operation: Operation, share: Option<Share>) -> Result<Option<Step>> {
        self.rounds += 1;
        self.stop_at(0)?;
        let (log, done, exit) = match operation {
            Operation::Start => {
                self.be_wanted_up()?;
                self.stop_at(self.choose(operation, share, 0)?)?;
                let exit = self.acknowledged.exit;
                let daemon = self.pi().spawn("meshd", ["run"])?;
                // A daemon that has stopped answers nobody: no question of this may take long.
                let is_up = || -> Option<bool> {
                    let brief = Duration::from_secs(2);
                    let said = self.pi().run_within(brief, "meshd", ["status", "--json"]).ok()?;
                    let status: Value = serde_json::from_str(&said.stdout).ok()?;
                    Some(status["state"] == "up" && status["dns"]["mode"] != "off")
                };
                wait_until(PATIENCE, || daemon.log().contains(STOPPED) || is_up() == Some(true));
                let log = daemon.log.clone();
                self.stop_at(0)?;
                self.bury(daemon)?;
                (log, 0, exit)
            }
            Operation::Cleanup => {
                let daemon = self.ready_for(operation)?;
                end(daemon)?;
                self.kill_all(true)?;
                self.stop_at(self.choose(operation, share, 0)?)?;
                let mut cleanup = self.pi().spawn("meshd", ["cleanup"])?;
                let over = wait_until(PATIENCE, || cleanup.log().contains(STOPPED) || !cleanup.is_running());
                ensure!(over, "`meshd cleanup` does not end: {}", cleanup.log());
                let log = cleanup.log.clone();
                self.stop_at(0)?;
                end(cleanup)?;
                self.kill_all(true)?;
                self.restored()?;
                (log, 0, self.acknowledged.exit)
            }
            Operation::Up | Operation::Set | Operation::Down => {
                let daemon = self.ready_for(operation)?;
                let done = steps(&daemon.log()).last().map_or(0, |step| step.number);
                let exit = self.acknowledged.exit;
                self.stop_at(self.choose(operation, share, done)?)?;
                let mut command = self.perform_or_stop(operation, &daemon)?;
                let log = daemon.log.clone();
                self.stop_at(0)?;
                self.bury(daemon)?;
                ensure!(
                    command.is_gone_within(PATIENCE)?,
                    "a command outlives its daemon: {}",
                    command.log()
                );
                (log, done, exit)
            }
        };
        let all = steps(&fs::read_to_string(log)?);
        if share.is_none() {
            let last = all.last().map_or(done, |step| step.number);
            self.places.insert((operation, exit), last - done);
        }
        Ok(all.into_iter().find(|step| step.stopped))
    }

    /// Runs the command of an operation until it ends or the daemon has stopped: then the command would
    /// wait for ever.
    fn perform_or_stop(&mut self, operation: Operation, daemon: &Process) -> Result<Process> {
        let (args, wanted) = self.command(operation);
        let mut command = self.pi().spawn("meshd", args)?;
        let over =
            wait_until(Duration::from_secs(30), || !command.is_running() || daemon.log().contains(STOPPED));
        ensure!(over, "`meshd` does not end: {}", command.log());
        // It may have its answer already, and only be about to end.
        wait_until(Duration::from_millis(200), || !command.is_running());
        let acknowledged = command.ended()?.is_some_and(|status| status.success());
        self.note(acknowledged, wanted);
        Ok(command)
    }

    /// The state in which a start brings the node up.
    fn be_wanted_up(&mut self) -> Result<()> {
        if self.acknowledged.up && self.open.is_none() {
            return Ok(());
        }
        let daemon = self.start()?;
        if !self.acknowledged.up {
            ensure!(self.perform(Operation::Up)?, "`up` failed: {}", daemon.log());
        }
        self.bury(daemon).map(drop)
    }

    /// SIGKILL at a random moment of a random series of commands.
    fn kill_somewhere(&mut self, budget: &mut Budget) -> Result<()> {
        self.rounds += 1;
        let moment = Duration::from_millis(budget.random(1200));
        let first = usize::try_from(budget.random(3))?;
        let daemon = self.start()?;
        thread::scope(|scope| -> Result<()> {
            let killer = scope.spawn(|| {
                thread::sleep(moment);
                daemon.signal(Signal::KILL)
            });
            let mut series = [Operation::Set, Operation::Down, Operation::Up].into_iter().cycle().skip(first);
            // After the kill no `up` may start another daemon behind our back.
            while !killer.is_finished()
                && series.next().map(|next| self.perform(next)).transpose()? == Some(true)
            {}
            match killer.join() {
                Ok(done) => done,
                Err(_) => bail!("the killer panicked"),
            }
        })
        .with_context(|| format!("killed after {moment:?}"))?;
        self.bury(daemon).with_context(|| format!("killed after {moment:?}"))?;
        budget.killed("at a random moment");
        Ok(())
    }

    /// SIGKILL, `meshd cleanup`, and the host is as before. Whether the program was dead already.
    fn bury(&mut self, daemon: Process) -> Result<bool> {
        let died = end(daemon)?;
        // Half of the time the helper that gives the host's DNS back dies as well.
        self.kill_all(self.rounds.is_multiple_of(2))?;
        self.left_changed += usize::from(host_state(self.pi())? != self.before);
        self.restored()?;
        if self.rounds.is_multiple_of(10) {
            self.works()?;
        }
        Ok(died)
    }

    /// No daemon is left, down to its last thread; perhaps its helper neither.
    fn kill_all(&self, helper: bool) -> Result<()> {
        let which = if helper { "(^|/)meshd " } else { "(^|/)meshd run" };
        self.pi().run("pkill", ["-KILL", "-f", which])?;
        let gone = wait_until(Duration::from_secs(5), || {
            let left = self.pi().run("ps", ["-C", "meshd", "-o", "args="]);
            left.is_ok_and(|left| left.stdout.lines().all(|line| !helper && line.contains("supervise-dns")))
        });
        ensure!(gone, "round {}: a meshd outlived SIGKILL", self.rounds);
        Ok(())
    }

    fn restored(&self) -> Result<()> {
        // The kernel may close the dead daemon's socket a moment after its end was seen.
        let mut last = None;
        let clean = wait_until(Duration::from_secs(3), || {
            let done = self.pi().run("meshd", ["cleanup"]);
            let clean = done.as_ref().is_ok_and(|done| done.is_success());
            let early = done.as_ref().is_ok_and(|done| done.stderr.contains("a daemon is running"));
            last = Some(done);
            clean || !early
        });
        if !clean || !matches!(&last, Some(Ok(done)) if done.is_success()) {
            let all = self.pi().sh("ps -eo pid,ppid,args").unwrap_or_default();
            bail!("round {}: `meshd cleanup` failed: {last:?}; processes:\n{all}", self.rounds);
        }
        let mut now = String::new();
        let same = wait_until(Duration::from_secs(3), || {
            host_state(self.pi()).is_ok_and(|state| {
                now = state;
                now == self.before
            })
        });
        ensure!(
            same,
            "round {}: the host is not as before:\n{}",
            self.rounds,
            difference(&self.before, &now)
        );
        Ok(())
    }

    /// The mesh works after a start and, if needed, `up`; the host is put back.
    fn works(&mut self) -> Result<()> {
        let daemon = self.start()?;
        if !self.acknowledged.up {
            ensure!(self.perform(Operation::Up)?, "`up` failed: {}", daemon.log());
        }
        let answered = wait_until(PATIENCE, || {
            let said = self.pi().run("meshd", ["ping", "-c", "1", "--timeout", "1000", "laptop"]);
            said.is_ok_and(|said| said.is_success())
        });
        ensure!(answered, "round {}: the peer does not answer: {}", self.rounds, daemon.log());
        self.pings += 1;
        end(daemon)?;
        self.kill_all(true)?;
        self.restored()
    }
}
