//! `meshd set`: change what is named, keep the rest.

use super::{Globals, print_json, propose};
use crate::cli::Set;
use crate::client;
use crate::output::CliError;
use meshd_proto::localapi::{Ask, Tell};
use std::process::ExitCode;
use std::time::Duration;

pub(crate) fn run(globals: &Globals, mut args: Set) -> anyhow::Result<ExitCode> {
    if args.settings.is_empty() {
        let hint = "for example `meshd set --advertise-routes 192.168.1.0/24`; `meshd set --help` lists all";
        return Err(CliError::usage("nothing to set", hint).into());
    }
    propose::routes(&mut args.settings)?;
    let ask = Ask::Set(args.settings.patch());
    let mut answers = client::ask(&globals.socket, ask)?.with_timeout(Duration::from_secs(20));
    let mut settings = None;
    while let Some(tell) = answers.next()? {
        if let Tell::Status(status) = tell {
            settings = status.settings;
            break;
        }
    }
    if globals.json {
        print_json(&settings)?;
    } else {
        println!("done");
    }
    Ok(ExitCode::SUCCESS)
}
