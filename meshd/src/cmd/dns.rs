//! `meshd dns status | query NAME | explain NAME | serve`: how names are answered on this host, and for whom.

use super::{Globals, print_json};
use crate::cli::{Dns, DnsServe, NameArgs};
use crate::client;
use crate::output::{CliError, millis, names};
use meshd_proto::localapi::{Ask, Empty, LanNames, NameAnswer, NameQuestion, Settings, Tell};
use std::process::ExitCode;
use std::time::Duration;

/// Longer than the daemon waits for upstreams.
const PATIENCE: Duration = Duration::from_secs(8);

pub(crate) fn run(globals: &Globals, what: &Dns) -> anyhow::Result<ExitCode> {
    match what {
        Dns::Status => status(globals),
        Dns::Serve(args) => serve(globals, args),
        Dns::Query(args) => {
            let answer = ask(globals, args)?;
            match globals.json {
                true => print_json(&answer)?,
                false => print!("{}", names::answer(&answer)),
            }
            Ok(if answer.records.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
        }
        Dns::Explain(args) => {
            let answer = ask(globals, args)?;
            match globals.json {
                true => print_json(&answer)?,
                false => print!("{}", names::explained(&answer, &millis(answer.took_us))),
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn status(globals: &Globals) -> anyhow::Result<ExitCode> {
    let mut answers = client::ask(&globals.socket, Ask::Status(Empty {}))?;
    while let Some(tell) = answers.next()? {
        if let Tell::Status(status) = tell {
            let dns = status.dns.unwrap_or_default();
            match globals.json {
                true => print_json(&dns)?,
                false => print!("{}", names::status(&dns)),
            }
            return Ok(ExitCode::SUCCESS);
        }
    }
    Err(CliError::new("the daemon gave no status", "").into())
}

fn serve(globals: &Globals, args: &DnsServe) -> anyhow::Result<ExitCode> {
    let lan = LanNames {
        interfaces: args.lan.clone(),
        allow: args.allow.clone(),
        rate: args.rate,
        view: args.view.clone(),
    };
    let ask = Ask::Set(Settings { dns_lan: Some(lan), ..Settings::default() });
    let mut answers = client::ask(&globals.socket, ask)?.with_timeout(2 * PATIENCE);
    while let Some(tell) = answers.next()? {
        let Tell::Status(status) = tell else { continue };
        let dns = status.dns.unwrap_or_default();
        if !dns.lan_problem.is_empty() {
            let hint = "it is kept, and tried again when something changes; `meshd dns serve --off` ends it";
            return Err(CliError::new(dns.lan_problem, hint).into());
        }
        match (globals.json, args.off) {
            (true, _) => print_json(&dns)?,
            (false, true) => println!("only this host is answered"),
            (false, false) if dns.lan.is_empty() => println!("kept; it begins when this node is up"),
            (false, false) => {
                println!("answering {}", dns.lan);
                println!("machines there ask {}", dns.lan_addresses.join(" or "));
            }
        }
        return Ok(ExitCode::SUCCESS);
    }
    Err(CliError::new("the daemon gave no status", "").into())
}

fn ask(globals: &Globals, args: &NameArgs) -> Result<NameAnswer, CliError> {
    let question = NameQuestion { name: args.name.clone(), kind: args.kind.clone() };
    let mut answers = client::ask(&globals.socket, Ask::Name(question))?.with_timeout(PATIENCE);
    while let Some(tell) = answers.next()? {
        if let Tell::Named(answer) = tell {
            return Ok(answer);
        }
    }
    Err(CliError::new("the daemon gave no answer about the name", ""))
}
