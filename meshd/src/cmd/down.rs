//! `meshd down`.

use super::{Globals, print_json};
use crate::cli::Down;
use crate::client;
use meshd_proto::localapi::{Ask, Empty, Tell};
use std::process::ExitCode;
use std::time::Duration;

pub(crate) fn run(globals: &Globals, args: &Down) -> anyhow::Result<ExitCode> {
    let ask = if args.logout { Ask::Logout(Empty {}) } else { Ask::Down(Empty {}) };
    let mut answers = client::ask(&globals.socket, ask)?.with_timeout(Duration::from_secs(20));
    let mut note = None;
    while let Some(tell) = answers.next()? {
        if let Tell::Progress(text) = tell {
            note = Some(text);
        }
    }
    if globals.json {
        print_json(&serde_json::json!({ "state": "stopped", "left": args.logout, "note": note }))?;
    } else if args.logout {
        println!("left the mesh; keys and map are gone from this machine");
        if let Some(note) = note {
            println!("{note}");
        }
    } else {
        println!("down; the host is as it was. `meshd up` brings it back");
    }
    Ok(ExitCode::SUCCESS)
}
