//! Kills of `meshd run` during `up`, `set`, `down` and its start, and of `meshd cleanup` itself.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use meshd_lab::mesh::{SmallInternet, status, up};
use meshd_lab::{Host, Process, wait_until, wait_within};
use rustix::process::Signal;

use crate::kills::{Budget, Step, Steps, attach, end, steps};

/// Where strace writes inside the host.
const TRACE: &str = "/var/lib/steps";
/// The daemon with one worker thread, so that the k-th step of a thread is the same one in each run.
const DAEMON: [&str; 3] = ["TOKIO_WORKER_THREADS=1", "meshd", "run"];
const PATIENCE: Duration = Duration::from_secs(15);
/// Two values for each setting: a change goes to the other one.
const ROUTES: [&str; 2] = ["192.168.1.0/24", "192.168.1.0/24,10.77.0.0/16"];
const EXITS: [&str; 2] = ["", "laptop"];

/// What is on the disk, and what changes the kernel or starts a program that does.
const CLASSES: [Steps; 2] = [
    Steps { name: "store", calls: "write,fdatasync,fsync,rename,unlink" },
    Steps { name: "kernel", calls: "sendto,sendmsg,vfork,clone3,clone" },
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Start,
    Up,
    Set,
    Down,
    Cleanup,
}

const OPERATIONS: [Operation; 5] =
    [Operation::Up, Operation::Set, Operation::Down, Operation::Start, Operation::Cleanup];

/// What a user has chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Chosen {
    up: bool,
    snat: bool,
    routes: usize,
    exit: usize,
}

impl Chosen {
    fn other(&self) -> Chosen {
        Chosen { up: self.up, snat: !self.snat, routes: 1 - self.routes, exit: 1 - self.exit }
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
}

pub(crate) fn torture(mut budget: Budget) -> Result<()> {
    let net = SmallInternet::new("torture_node")?;
    let before = host_state(&net.pi)?;
    let coordinator = net.coordinator()?;
    let token = coordinator.token()?;
    up(&net.laptop, &[&token, "--advertise-exit-node"])?;
    coordinator.run(&["routes", "approve", "laptop"])?;
    let acknowledged = Chosen { up: true, snat: true, routes: 0, exit: 0 };
    let daemon = net.pi.spawn("env", DAEMON)?;
    daemon.wait_for_log("ready", PATIENCE)?;
    net.pi
        .run(
            "meshd",
            ["up", "--no-service", token.as_str()].into_iter().chain(["--advertise-routes", ROUTES[0]]),
        )?
        .success()?;
    let mut node = Tortured { net, before, acknowledged, open: None, changes: 0, pings: 0, rounds: 0 };
    node.bury(daemon)?;

    // Every k-th step of every operation: how many there are is counted first.
    let mut plans = Vec::new();
    for operation in OPERATIONS {
        for class in &CLASSES {
            let steps = node.count(operation, class)?;
            println!("{operation:?}, {}: {} steps", class.name, steps.len());
            plans.push((operation, class, steps));
        }
    }
    let each = (budget.kills * 3 / 4 / plans.len()).max(1);
    'kills: for n in 0..each {
        for (operation, class, steps) in &plans {
            if !budget.goes_on(75) {
                break 'kills;
            }
            // Spread evenly over the steps; each step once where there are fewer than kills.
            let place = if steps.len() <= each { n } else { n * steps.len() / each };
            if let Some(step) = steps.get(place) {
                node.kill_at(*operation, class, step, &mut budget)?;
            }
        }
    }
    while budget.goes_on(100) {
        node.kill_somewhere(&mut budget)?;
    }

    node.works()?;
    let result = format!(
        "the host differed 0 times; {} acknowledged changes, 0 lost; the peer answered {} times, also at the end",
        node.changes, node.pings
    );
    budget.report("node", &result)
}

impl Tortured {
    fn pi(&self) -> &Host {
        &self.net.pi
    }

    /// Starts the daemon and holds it to what it has acknowledged.
    fn start(&mut self) -> Result<Process> {
        let daemon = self.pi().spawn("env", DAEMON)?;
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

    /// Runs the command of an operation; whether it was acknowledged.
    fn perform(&mut self, operation: Operation) -> Result<bool> {
        let mut wanted = self.acknowledged.clone();
        let mut args: Vec<String> = match operation {
            Operation::Start | Operation::Cleanup => return Ok(true),
            Operation::Up => ["up", "--no-service", "--timeout", "10"].map(String::from).to_vec(),
            Operation::Set => vec!["set".into()],
            Operation::Down => vec!["down".into()],
        };
        if operation == Operation::Down {
            wanted.up = false;
        } else {
            wanted = wanted.other();
            wanted.up |= operation == Operation::Up;
            args.extend(wanted.flags());
        }
        let said = self.pi().run_within(Duration::from_secs(30), "meshd", args)?;
        if said.is_success() {
            self.acknowledged = wanted;
            self.changes += 1;
        } else {
            self.open = Some(wanted);
        }
        Ok(said.is_success())
    }

    /// How many steps of a class an operation has.
    fn count(&mut self, operation: Operation, class: &Steps) -> Result<Vec<Step>> {
        self.step_through(operation, &class.watch())?;
        steps(self.pi(), TRACE)
    }

    fn kill_at(
        &mut self,
        operation: Operation,
        class: &Steps,
        step: &Step,
        budget: &mut Budget,
    ) -> Result<()> {
        let died = self
            .step_through(operation, &class.kill_at(step))
            .with_context(|| format!("{operation:?} killed at {step:?} of {}", class.name))?;
        let when = if died { "at a step of" } else { "just after" };
        budget.killed(&format!("{} {when} {operation:?}", class.name));
        Ok(())
    }

    /// One operation under strace, then SIGKILL if that has not happened, then [`Tortured::bury`].
    fn step_through(&mut self, operation: Operation, args: &[String]) -> Result<bool> {
        self.rounds += 1;
        let whole = ["-f", "-qq", "-o", TRACE].into_iter().chain(args.iter().map(String::as_str));
        match operation {
            Operation::Start => {
                let mut tracer =
                    self.pi().spawn("strace", whole.chain(["-E", DAEMON[0]]).chain(["meshd", "run"]))?;
                wait_until(PATIENCE, || {
                    !tracer.is_running()
                        || status(self.pi()).is_ok_and(|s| s["state"] == "up" && s["dns"]["mode"] != "off")
                });
                let died = !tracer.is_running();
                self.bury(tracer)?;
                Ok(died)
            }
            Operation::Cleanup => {
                let daemon = self.ready_for(operation)?;
                end(daemon)?;
                self.kill_all(true)?;
                let done = self.pi().run("strace", whole.chain(["meshd", "cleanup"]))?;
                self.restored()?;
                Ok(!done.is_success())
            }
            _ => {
                let daemon = self.ready_for(operation)?;
                let tracer = attach(self.pi(), &daemon, args, TRACE)?;
                self.perform(operation)?;
                let died = self.bury(daemon)?;
                tracer.wait(Duration::from_secs(5))?;
                Ok(died)
            }
        }
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
