//! `meshd up`: join or come back up; starts the daemon where none runs.

use super::{Globals, print_json, propose, status};
use crate::approval;
use crate::cli::{CONNECTED, Up};
use crate::client;
use crate::output::{self, CliError, Style};
use crate::service::{self, Started};
use anyhow::Context;
use meshd_proto::localapi::{self, Ask, Status, Tell};
use meshd_proto::token::JoinToken;
use std::io::{IsTerminal, Read};
use std::process::ExitCode;
use std::time::Duration;

const MAX_TOKEN_FILE: u64 = 4096;

pub(crate) fn run(globals: &Globals, mut args: Up) -> anyhow::Result<ExitCode> {
    swap_token_behind_a_flag(&mut args);
    let mut token = token(&args)?;
    propose::routes(&mut args.settings)?;
    let style = output::stderr_style();
    if let Some(url) = &args.coordinator {
        let place = approval::Place::parse(url, args.coordinator_key.as_deref())?;
        if client::daemon_runs(&globals.socket) && is_member(globals)? {
            return Err(CliError::usage(
                "this machine is in a mesh already",
                "bring it up with `meshd up`; to join another mesh, leave this one first: `meshd down --logout`",
            )
            .into());
        }
        token = Some(ask_to_join(globals, &place, &args)?.to_text().to_string());
    }
    let say = |text: &str| {
        if !globals.json {
            eprintln!("{} {text}", style.dim("·"));
        }
    };
    if !client::daemon_runs(&globals.socket) {
        match service::start(&globals.socket, args.no_service)? {
            Started::Unit => say("installed, enabled and started the service meshd"),
            Started::Process(pid) => say(&format!("started the daemon (pid {pid})")),
        }
    }
    let ask = Ask::Up(localapi::Up { token, settings: Some(args.settings.patch()) });
    let mut answers = client::ask(&globals.socket, ask)?.with_timeout(Duration::from_secs(args.timeout));
    let mut last = None;
    while let Some(tell) = answers.next().map_err(|error| who_is_late(globals, error))? {
        match tell {
            Tell::Progress(text) => say(&text),
            Tell::Status(status) => {
                last = Some(status);
                break;
            }
            _ => {}
        }
    }
    let Some(status) = last else { return Ok(ExitCode::SUCCESS) };
    if globals.json {
        print_json(&status)?;
    } else {
        print!("{}", summary(&status, output::stdout_style()));
    }
    Ok(ExitCode::SUCCESS)
}

/// When nothing came in time: was it the coordinator, which the daemon waits for?
fn who_is_late(globals: &Globals, error: CliError) -> CliError {
    if error.code != client::TIMED_OUT {
        return error;
    }
    status::fetch(globals).ok().and_then(|status| coordinator_is_late(&status)).unwrap_or(error)
}

fn coordinator_is_late(status: &Status) -> Option<CliError> {
    let c = status.coordinator.as_ref().filter(|c| !c.connected)?;
    // A reason names the address that was tried.
    let why = if c.reason.is_empty() { &c.address } else { &c.reason };
    Some(CliError {
        message: format!("no connection to the coordinator in time: {why}"),
        hint: "the daemon goes on trying: `meshd status` says when it is in; does the coordinator run, and is its \
               TCP port open?"
            .to_owned(),
        code: client::TIMED_OUT,
    })
}

/// Shows the code that an admin is to compare, and waits for his word: the join token.
fn ask_to_join(globals: &Globals, place: &approval::Place, args: &Up) -> anyhow::Result<JoinToken> {
    let name = args.settings.hostname.clone().unwrap_or_else(machine_name);
    let asked = approval::ask(place, &name)?;
    let url = place.approvals();
    if globals.json {
        print_json(&serde_json::json!({ "approve_at": url, "code": asked.code, "seconds": asked.patience }))?;
    } else {
        let style = output::stderr_style();
        if std::io::stderr().is_terminal() {
            eprintln!("\n{}", output::qr(&url)?);
        }
        eprintln!("To let this machine in, open {}", style.bold(&url));
        eprintln!("and approve `{name}` with code {}", style.bold(&asked.code));
        eprintln!("(or on the coordinator: meshd-coordinator join approve {})", asked.code);
        eprintln!("{}", style.dim(&format!("waiting, for {} at most…", output::ago(asked.patience))));
    }
    Ok(approval::wait(place, &asked)?)
}

/// By its state: one that was never let in, or was put out, may ask.
fn is_member(globals: &Globals) -> Result<bool, CliError> {
    let mut answers = client::ask(&globals.socket, Ask::Status(localapi::Empty {}))?;
    while let Some(tell) = answers.next()? {
        if let Tell::Status(status) = tell {
            return Ok(!matches!(status.state.as_str(), "needs-token" | "refused"));
        }
    }
    Ok(false)
}

fn machine_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// `--advertise-routes mesh_…` means the flag without a value and then the token.
fn swap_token_behind_a_flag(args: &mut Up) {
    let is_token = |v: &String| v.starts_with("mesh_");
    if args.token.is_none() && args.settings.advertise_routes.as_ref().is_some_and(is_token) {
        args.token = args.settings.advertise_routes.replace(CONNECTED.to_owned());
    }
}

fn token(args: &Up) -> anyhow::Result<Option<String>> {
    let text = match (&args.token, &args.token_file) {
        (Some(token), _) if token == "-" => {
            let mut text = String::new();
            std::io::stdin()
                .take(MAX_TOKEN_FILE)
                .read_to_string(&mut text)
                .context("cannot read standard input")?;
            Some(text)
        }
        (Some(token), _) => Some(token.clone()),
        (None, Some(path)) => {
            let file =
                std::fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
            let mut text = String::new();
            file.take(MAX_TOKEN_FILE).read_to_string(&mut text)?;
            Some(text)
        }
        (None, None) => None,
    };
    let Some(text) = text else { return Ok(None) };
    checked(&text).map(Some)
}

/// A token in a text. Parsed here too: a mistyped one is told before a daemon is started for it.
fn checked(text: &str) -> anyhow::Result<String> {
    let text = pasted(text);
    text.parse::<JoinToken>().map_err(|e| {
        let hint = "make a new one with `meshd-coordinator token create` and copy the whole line";
        CliError::usage(e.to_string(), hint)
    })?;
    Ok(text.to_owned())
}

/// The token of a whole line `sudo meshd up mesh_…` that was pasted; any other text as it is. Line breaks inside
/// a token are the parser's business.
fn pasted(text: &str) -> &str {
    let text = text.trim();
    let word = text.match_indices("mesh_").find(|(at, _)| {
        text[..*at].ends_with(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '`' | '='))
    });
    match word {
        Some((at, _)) if !text.starts_with("mesh_") => {
            let rest = &text[at..];
            let end = rest.find([' ', '\t', '"', '\'', '`']).unwrap_or(rest.len());
            rest[..end].trim_end()
        }
        _ => text,
    }
}

fn summary(status: &Status, style: Style) -> String {
    let mut text = output::status(status, style);
    if let Some(pi) = status.peers.first() {
        text.push_str(&format!("\n{} meshd ping {}\n", style.dim("try:"), pi.name));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshd_proto::NetworkId;
    use meshd_proto::localapi::CoordinatorStatus;
    use meshd_proto::token::{CoordinatorKeys, TokenSecret};

    fn a_token() -> String {
        let keys = CoordinatorKeys {
            control: meshd_proto::CoordinatorKey::from_bytes([1; 32]),
            signing: meshd_proto::VerifyingKey::from_bytes([2; 32]),
        };
        let (network, secret) = (NetworkId::from_bytes([3; 16]), TokenSecret::from_bytes([4; 16]));
        let token = JoinToken::new(vec!["203.0.113.1:443".to_owned()], network, keys.hash(), secret).unwrap();
        token.to_text().to_string()
    }

    #[test]
    fn a_pasted_line_is_as_good_as_the_token_in_it() {
        let token = a_token();
        for line in [
            token.clone(),
            format!("  {token}\n"),
            format!("sudo meshd up {token}"),
            format!("$ sudo meshd up \"{token}\" --hostname mesh_pi\n"),
        ] {
            assert_eq!(checked(&line).unwrap(), token, "{line}");
        }
        let broken = format!("{}\n{}", &token[..20], &token[20..]);
        assert_eq!(pasted(&broken), broken, "a line break inside is for the parser");
        assert!(checked(&broken).is_ok());
        assert_eq!(checked(&format!("meshd up {broken}\n")).unwrap(), broken);
    }

    #[test]
    fn what_is_no_token_is_said_once() {
        let said = |text: &str| checked(text).unwrap_err().to_string();
        assert_eq!(said("foo"), "this is not a join token: one begins with `mesh_`");
        assert_eq!(said("home_mesh_x"), "this is not a join token: one begins with `mesh_`");
        assert!(said(&a_token()[..40]).starts_with("the token is cut off"));
    }

    #[test]
    fn a_coordinator_that_is_away_is_not_the_daemons_fault() {
        let away = CoordinatorStatus {
            address: "203.0.113.1:443".into(),
            reason: "203.0.113.1:443: connection refused".into(),
            ..CoordinatorStatus::default()
        };
        let status = Status { coordinator: Some(away.clone()), ..Status::default() };
        let error = coordinator_is_late(&status).unwrap();
        assert_eq!(
            (error.message.as_str(), error.code),
            ("no connection to the coordinator in time: 203.0.113.1:443: connection refused", 75)
        );
        let there = CoordinatorStatus { connected: true, ..away };
        assert!(coordinator_is_late(&Status { coordinator: Some(there), ..status }).is_none());
        assert!(coordinator_is_late(&Status::default()).is_none());
    }
}
