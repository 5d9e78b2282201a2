//! The authorization matrix of the command line: every command that clap knows, and what it asks the daemon.
//!
//! Who may ask what is decided by the daemon, and tried there for each question and kind of user
//! (`node::local_api`). Here each command is really run against a socket whose daemon refuses: it has to ask what
//! its row says, and to end with the refusal's exit status. A command without a row fails.

use super::Cli;
use clap::{CommandFactory, Parser};
use meshd_proto::localapi::{
    Ask, Failure, LENGTH_PREFIX, Request, Response, SelfStatus, Status, Tell, frame, frame_len,
};
use prost::Message;
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc;
use std::time::Duration;

/// What a command does.
enum Way {
    /// It asks the daemon this, in order.
    Asks(&'static [&'static str]),
    /// It asks no daemon; what keeps others from it.
    AsksNobody(&'static str),
}

use Way::{Asks, AsksNobody};

/// What the daemon says to those who may not.
const REFUSED: u8 = 77;

/// For a command to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// Command, the arguments it is tried with, what it does.
const ROWS: &[(&str, &str, Way)] = &[
    ("up", "", Asks(&["Up"])),
    ("down", "", Asks(&["Down"])),
    ("down", "--logout", Asks(&["Logout"])),
    ("status", "", Asks(&["Status"])),
    ("status", "--counters", Asks(&["Status"])),
    ("routes", "", Asks(&["Status"])),
    ("ping", "pi", Asks(&["Ping"])),
    ("netcheck", "", Asks(&["Netcheck"])),
    ("path", "pi", Asks(&["PathHistory"])),
    ("drain", "", Asks(&["Drain"])),
    ("drain", "--off", Asks(&["Drain"])),
    ("dns status", "", Asks(&["Status"])),
    ("dns query", "pi", Asks(&["Name"])),
    ("dns explain", "pi", Asks(&["Name"])),
    ("dns serve", "--lan eth0", Asks(&["Set"])),
    ("set", "--snat=false", Asks(&["Set"])),
    ("logs", "", Asks(&["Logs"])),
    ("expose", "9 --tcp --public :5432", Asks(&["Status", "Expose"])),
    ("export wg-quick", "phone", Asks(&["CreateDevice"])),
    ("version", "", AsksNobody("it prints what it knows itself")),
    ("completions", "bash", AsksNobody("it prints what it knows itself")),
    ("man", "DIR", AsksNobody("it prints what it knows itself")),
    ("run", "", AsksNobody("it is the daemon: whoever may make a TUN device, or his own in userspace mode")),
    ("cleanup", "", AsksNobody("it changes the host's network: the kernel lets nobody but root")),
    ("supervise-dns", "DIR", AsksNobody("it reads the state directory, which only its owner may enter")),
];

const fn name(ask: &Ask) -> &'static str {
    match ask {
        Ask::Status(_) => "Status",
        Ask::Up(_) => "Up",
        Ask::Down(_) => "Down",
        Ask::Set(_) => "Set",
        Ask::Ping(_) => "Ping",
        Ask::Logs(_) => "Logs",
        Ask::CreateDevice(_) => "CreateDevice",
        Ask::Logout(_) => "Logout",
        Ask::Name(_) => "Name",
        Ask::Netcheck(_) => "Netcheck",
        Ask::PathHistory(_) => "PathHistory",
        Ask::Drain(_) => "Drain",
        Ask::Expose(_) => "Expose",
    }
}

/// The commands that clap knows, down to those that do something.
fn commands(of: &clap::Command, before: &str, found: &mut BTreeSet<String>) {
    for command in of.get_subcommands() {
        let words = format!("{before} {}", command.get_name()).trim().to_owned();
        if command.has_subcommands() {
            commands(command, &words, found);
        } else {
            found.insert(words);
        }
    }
}

fn question(stream: &mut UnixStream) -> Option<Ask> {
    let mut prefix = [0; LENGTH_PREFIX];
    // A command looks first whether anybody listens, and says nothing.
    stream.read_exact(&mut prefix).ok()?;
    let mut body = vec![0; frame_len(prefix).unwrap()];
    stream.read_exact(&mut body).unwrap();
    Request::decode(&*body).unwrap().ask
}

/// A node that is up, with an address that this machine has.
fn status() -> Response {
    let me = SelfStatus {
        fqdn: "pi.home.internal.".to_owned(),
        addresses: vec!["127.0.0.1".to_owned()],
        ..SelfStatus::default()
    };
    let status = Status { state: "up".to_owned(), me: Some(me), ..Status::default() };
    Response::last(Tell::Status(Box::new(status)))
}

/// Runs a command against a daemon that refuses the last thing that it is expected to be asked.
fn run(words: &str, arguments: &str, expected: &[&str]) -> (Vec<&'static str>, u8) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let (asked, questions) = mpsc::channel();
    let mut before = expected.len() - 1;
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let Some(ask) = question(&mut stream) else { continue };
            let answer = if before > 0 && matches!(ask, Ask::Status(_)) {
                before -= 1;
                status()
            } else {
                Response::last(Tell::Failed(Failure {
                    message: "not allowed".to_owned(),
                    hint: String::new(),
                    exit_code: REFUSED.into(),
                }))
            };
            if asked.send(name(&ask)).is_err() || stream.write_all(&frame(&answer)).is_err() {
                return;
            }
        }
    });
    let line = ["meshd", "--socket", path.to_str().unwrap()].into_iter();
    let line = line.chain(words.split(' ')).chain(arguments.split(' ').filter(|a| !a.is_empty()));
    let cli = Cli::try_parse_from(line).unwrap();
    let (ended, end) = mpsc::channel();
    std::thread::spawn(move || ended.send(crate::cmd::run(cli).map_err(|e| crate::output::exit_code(&e))));
    let end = end
        .recv_timeout(PATIENCE)
        .unwrap_or_else(|_| panic!("meshd {words} {arguments} goes on though refused"));
    (questions.try_iter().collect(), end.expect_err("the daemon refused"))
}

#[test]
fn every_command_has_a_row_and_every_row_a_command() {
    let mut known = BTreeSet::new();
    commands(&Cli::command(), "", &mut known);
    let rows: BTreeSet<String> = ROWS.iter().map(|(words, ..)| (*words).to_owned()).collect();
    let without: Vec<_> = known.difference(&rows).collect();
    assert!(without.is_empty(), "no row in cli/matrix.rs, say what they ask: {without:?}");
    let stale: Vec<_> = rows.difference(&known).collect();
    assert!(stale.is_empty(), "there are no such commands: {stale:?}");
    for (words, _, way) in ROWS {
        if let AsksNobody(why) = way {
            assert!(!why.is_empty(), "{words} does not say what keeps others from it");
        }
    }
}

#[test]
fn each_command_asks_what_its_row_says_and_a_refusal_is_its_exit_status() {
    for (words, arguments, way) in ROWS {
        let Asks(expected) = way else { continue };
        let (asked, code) = run(words, arguments, expected);
        assert_eq!((asked.as_slice(), code), (*expected, REFUSED), "meshd {words} {arguments}");
    }
}
