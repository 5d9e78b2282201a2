//! One "machine" of a lab: its namespaces, its private files, and running programs in it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::lab::program_folder;
use crate::link::Wire;
use crate::process::{Finished, Process, children, run};

/// How long [`Host::run`] lets a program run.
const RUN_LIMIT: Duration = Duration::from_secs(60);

/// What process 1 of a host does: private mounts, then it only collects the dead.
const INIT: &str = r#"
set -e
D=$1
cd /
# What is mounted here stays here. The root of a chroot need not be a mount: then it is said of the one that it lies
# in, which is below the root that the namespace itself has.
mount --make-rprivate / 2>/dev/null || nsenter --mount=/proc/self/ns/mnt mount --make-rprivate /
mount --bind "$D/etc" /etc
mount --bind "$D/var-lib" /var/lib
mount -t tmpfs -o mode=755 tmpfs /run
mount -t sysfs sysfs /sys 2>/dev/null || true
if [ ! -c /dev/net/tun ]; then
  mkdir -p /dev/net && mount -t tmpfs tmpfs /dev/net && mknod /dev/net/tun c 10 200
fi
cat "$D/etc/hostname" > /proc/sys/kernel/hostname
# Addresses count at once: nobody else is on these links.
echo 0 > /proc/sys/net/ipv6/conf/all/accept_dad
echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad
ip link set lo up
echo ready
while :; do sleep 86400 & wait $!; done
"#;

/// A machine of a [`crate::Lab`]. Clones are the same machine.
#[derive(Clone, Debug)]
pub struct Host {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    name: String,
    folder: PathBuf,
    init: Mutex<Option<Init>>,
    pub(crate) wires: Mutex<Vec<Wire>>,
    logs: AtomicUsize,
}

/// Process 1 of the machine.
#[derive(Debug)]
struct Init {
    /// `unshare`, our child; the machine dies with it.
    child: Child,
    /// Process 1 itself, as seen from outside.
    pid: i32,
}

impl Host {
    /// Makes the machine's folder below `lab` and boots it.
    pub(crate) fn new(lab: &Path, name: &str) -> Result<Host> {
        let folder = lab.join(name);
        fs::DirBuilder::new().mode(0o700).create(&folder).with_context(|| format!("{}", folder.display()))?;
        for sub in ["var-lib", "log", "home"] {
            fs::create_dir(folder.join(sub))?;
        }
        private_etc(&folder.join("etc"), name)?;
        let inner = Inner {
            name: name.to_owned(),
            folder,
            init: Mutex::new(None),
            wires: Mutex::default(),
            logs: AtomicUsize::new(0),
        };
        let host = Host { inner: Arc::new(inner) };
        host.boot()?;
        Ok(host)
    }

    /// The machine's name.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// A file of the machine that outlives a reboot, as a path outside: `/etc/…` or `/var/lib/…`.
    pub fn file(&self, path: &str) -> PathBuf {
        let folder = &self.inner.folder;
        match (path.strip_prefix("/etc/"), path.strip_prefix("/var/lib/")) {
            (Some(rest), _) => folder.join("etc").join(rest),
            (_, Some(rest)) => folder.join("var-lib").join(rest),
            _ => panic!("{path}: only /etc and /var/lib outlive a reboot"),
        }
    }

    fn boot(&self) -> Result<()> {
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--net", "--mount", "--uts", "--ipc", "--pid", "--fork"])
            .args([
                "--propagation=unchanged",
                "--kill-child=SIGKILL",
                "--mount-proc",
                "bash",
                "-c",
                INIT,
                "init",
            ])
            .arg(&self.inner.folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start setpriv and unshare (package util-linux)")?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("stdout is piped")).read_line(&mut line)?;
        if line.trim() != "ready" {
            let output = child.wait_with_output()?;
            bail!(
                "cannot make a namespace for {} (are you root?): {}",
                self.name(),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        let pid = *children(child.id()).first().context("process 1 has gone")?;
        *self.inner.init.lock().expect("not poisoned") = Some(Init { child, pid });
        Ok(())
    }

    /// Power off: every process and the whole state of the network are gone; files stay.
    pub fn power_off(&self) {
        // The kernel takes a namespace down in its own time; the cables go now.
        let names: Vec<String> =
            self.inner.wires.lock().expect("not poisoned").iter().map(|wire| wire.name.clone()).collect();
        for name in names {
            let _ = self.ip(&format!("link del {name}\n"));
        }
        if let Some(mut init) = self.inner.init.lock().expect("not poisoned").take() {
            let _ = init.child.kill();
            let _ = init.child.wait();
        }
    }

    /// Boots a machine that was powered off, and plugs its cables in again.
    pub fn power_on(&self) -> Result<()> {
        ensure!(self.inner.init.lock().expect("not poisoned").is_none(), "{} is on", self.name());
        self.boot()?;
        let wires = self.inner.wires.lock().expect("not poisoned").clone();
        wires.iter().try_for_each(|wire| wire.plug(self))
    }

    /// [`Host::power_off`] and [`Host::power_on`].
    pub fn reboot(&self) -> Result<()> {
        self.power_off();
        self.power_on()
    }

    /// Process 1 as seen from outside.
    pub(crate) fn pid(&self) -> Result<i32> {
        let init = self.inner.init.lock().expect("not poisoned");
        init.as_ref().map(|init| init.pid).with_context(|| format!("{} is powered off", self.inner.name))
    }

    /// Runs a program to its end, for at most a minute. A shell line: `host.run("sh", ["-c", …])`.
    pub fn run<S: AsRef<str>>(&self, program: &str, args: impl IntoIterator<Item = S>) -> Result<Finished> {
        self.run_within(RUN_LIMIT, program, args)
    }

    /// Runs a program to its end, for at most `limit`.
    pub fn run_within<S: AsRef<str>>(
        &self,
        limit: Duration,
        program: &str,
        args: impl IntoIterator<Item = S>,
    ) -> Result<Finished> {
        let (command, shown) = self.command(program, args)?;
        run(command, shown, limit)
    }

    /// Runs a command line that has no quotes in it; an error when it fails.
    pub fn sh(&self, line: &str) -> Result<String> {
        Ok(self.run("bash", ["-c", line])?.success()?.stdout)
    }

    /// Starts a program and leaves it running.
    pub fn spawn<S: AsRef<str>>(&self, program: &str, args: impl IntoIterator<Item = S>) -> Result<Process> {
        let (mut command, shown) = self.command(program, args)?;
        let number = self.inner.logs.fetch_add(1, Ordering::Relaxed);
        let name = program.rsplit('/').next().unwrap_or(program);
        let log = self.inner.folder.join("log").join(format!("{number:03}-{name}.log"));
        let file = fs::File::create(&log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start `{shown}`"))?;
        Ok(Process { child, command: shown, log })
    }

    fn command<S: AsRef<str>>(
        &self,
        program: &str,
        args: impl IntoIterator<Item = S>,
    ) -> Result<(Command, String)> {
        let mut shown = format!("{}$ {program}", self.name());
        let mut command = self.enter(&["--net", "--mount", "--uts", "--ipc", "--pid", "--root", "--wd"])?;
        command.arg(program);
        for arg in args {
            shown.push(' ');
            shown.push_str(arg.as_ref());
            command.arg(arg.as_ref());
        }
        let path = format!(
            "{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            program_folder().display()
        );
        command
            .env_clear()
            .env("PATH", path)
            .env("HOME", self.inner.folder.join("home"))
            .env("LANG", "C.UTF-8")
            .env("TERM", "dumb")
            .env("RUST_BACKTRACE", "1");
        if let Ok(level) = std::env::var("RUST_LOG") {
            command.env("RUST_LOG", level);
        }
        Ok((command, shown))
    }

    /// Moves the calling thread into this machine's network, for a test that holds devices itself. For good:
    /// give it a thread of its own. Files and processes stay the outside's.
    ///
    /// # Errors
    /// When the machine is off, or without root.
    pub fn enter_network(&self) -> Result<()> {
        use std::os::fd::AsFd;
        let space = fs::File::open(format!("/proc/{}/ns/net", self.pid()?))?;
        let network = rustix::thread::LinkNameSpaceType::Network;
        rustix::thread::move_into_link_name_space(space.as_fd(), Some(network))?;
        Ok(())
    }

    fn enter(&self, namespaces: &[&str]) -> Result<Command> {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.pid()?.to_string()]).args(namespaces).arg("--");
        Ok(command)
    }

    /// Runs a program of the outside in this machine's network, with `input` as its stdin.
    pub(crate) fn configure(&self, program: &[&str], input: &str) -> Result<()> {
        use std::io::Write;
        let mut child = self
            .enter(&["--net"])?
            .args(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", program[0]))?;
        child.stdin.take().expect("stdin is piped").write_all(input.as_bytes())?;
        let output = child.wait_with_output()?;
        ensure!(
            output.status.success(),
            "{} on {}: {}\n{input}",
            program.join(" "),
            self.name(),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    /// `ip -batch`.
    pub(crate) fn ip(&self, batch: &str) -> Result<()> {
        self.configure(&["ip", "-batch", "-"], batch)
    }

    /// `nft -f`.
    pub fn nft(&self, rules: &str) -> Result<()> {
        self.configure(&["nft", "-f", "-"], rules)
    }

    /// Sets sysctls below `/proc/sys/net`, as `("ipv4/ip_forward", "1")`.
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        let lines: String =
            settings.iter().map(|(key, value)| format!("echo {value} > /proc/sys/net/{key}\n")).collect();
        // /proc shows the network of the process that looks, so this needs no mount.
        self.configure(&["bash", "-e"], &lines)
    }

    /// The ends of all logs, for a test that failed.
    pub(crate) fn log_tails(&self) -> String {
        let Ok(entries) = fs::read_dir(self.inner.folder.join("log")) else { return String::new() };
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        let mut out = String::new();
        for path in paths {
            let text = String::from_utf8_lossy(&fs::read(&path).unwrap_or_default()).into_owned();
            let lines: Vec<&str> = text.lines().collect();
            let tail = &lines[lines.len().saturating_sub(40)..];
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            out.push_str(&format!("--- {} {name}\n{}\n", self.name(), tail.join("\n")));
        }
        out
    }
}

/// A copy of `/etc` without secrets, with this machine's own names.
fn private_etc(etc: &Path, name: &str) -> Result<()> {
    let copied = Command::new("cp").args(["-a", "/etc"]).arg(etc).output().context("cp")?;
    ensure!(etc.is_dir(), "cannot copy /etc: {}", String::from_utf8_lossy(&copied.stderr));
    for secret in ["shadow", "shadow-", "gshadow", "gshadow-", "ssh", "ssl/private", "meshd", "machine-id"] {
        let path = etc.join(secret);
        let _ = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
    }
    let seed = format!("{}{}", etc.display(), std::process::id());
    let id = seed.bytes().fold([0xcbf2_9ce4_8422_2325_u64, 0x1000_0000_01b3], |[a, b], byte| {
        let a = (a ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        [a, b.rotate_left(7) ^ a]
    });
    fs::write(etc.join("machine-id"), format!("{:016x}{:016x}\n", id[0], id[1]))?;
    fs::write(etc.join("hostname"), format!("{name}\n"))?;
    fs::write(etc.join("hosts"), format!("127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {name}\n"))?;
    let _ = fs::remove_file(etc.join("resolv.conf"));
    fs::write(etc.join("resolv.conf"), "# of the lab\nnameserver 192.0.2.53\n")?;
    fs::write(etc.join("nsswitch.conf"), "passwd: files\ngroup: files\nhosts: files dns\nservices: files\n")?;
    Ok(())
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Ok(mut init) = self.init.lock()
            && let Some(mut init) = init.take()
        {
            let _ = init.child.kill();
            let _ = init.child.wait();
        }
    }
}
