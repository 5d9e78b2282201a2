//! `meshd set`: change what is named, keep the rest.

use super::{Globals, print_json, propose, status};
use crate::cli::Set;
use crate::output::{self, CliError, told};
use crate::{client, clock};
use meshd_proto::localapi::{Ask, Status, Tell};
use std::process::ExitCode;
use std::time::Duration;

/// How long the coordinator has to say what it thinks of an offer.
const PATIENCE: Duration = Duration::from_secs(4);
/// How often that is looked for.
const LOOK: Duration = Duration::from_millis(100);

pub(crate) fn run(globals: &Globals, mut args: Set) -> anyhow::Result<ExitCode> {
    if args.settings.is_empty() {
        let hint = "for example `meshd set --advertise-routes 192.168.1.0/24`; `meshd set --help` lists all";
        return Err(CliError::usage("nothing to set", hint).into());
    }
    propose::routes(&mut args.settings)?;
    let mut patch = args.settings.patch();
    let mut answers =
        client::ask(&globals.socket, Ask::Set(patch.clone()))?.with_timeout(Duration::from_secs(20));
    let mut after = Status::default();
    while let Some(tell) = answers.next()? {
        if let Tell::Status(status) = tell {
            after = *status;
            break;
        }
    }
    if globals.json {
        print_json(&after.settings)?;
        return Ok(ExitCode::SUCCESS);
    }
    if patch.advertise_routes.is_some() {
        // As the daemon writes them, to be found among those that the coordinator knows.
        patch.advertise_routes = after.settings.as_ref().and_then(|s| s.advertise_routes.clone());
    }
    // It is set; what is left is the coordinator's word on what is offered.
    let until = clock::now() + PATIENCE;
    while !told::is_known(&patch, &after) && clock::now() < until {
        std::thread::sleep(LOOK);
        match status::fetch(globals) {
            Ok(status) => after = status,
            Err(_) => break,
        }
    }
    print!("{}", told::told(&patch, &after, output::stdout_style()));
    Ok(ExitCode::SUCCESS)
}
