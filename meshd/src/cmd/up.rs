//! `meshd up`: join or come back up; starts the daemon where none runs.

use super::{Globals, print_json, propose};
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
    while let Some(tell) = answers.next()? {
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
    let text = text.trim().to_owned();
    // Parsed here too: a mistyped token is told before a daemon is started for it.
    text.parse::<JoinToken>().map_err(|e| {
        CliError::usage(
            format!("that is not a join token: {e}"),
            "make a new one with `meshd-coordinator token create` and copy the whole line",
        )
    })?;
    Ok(Some(text))
}

fn summary(status: &Status, style: Style) -> String {
    let mut text = output::status(status, style);
    if let Some(pi) = status.peers.first() {
        text.push_str(&format!("\n{} meshd ping {}\n", style.dim("try:"), pi.name));
    }
    text
}
