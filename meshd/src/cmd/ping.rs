//! `meshd ping NODE`: says path and round-trip time; with `--until-direct` it goes on until it is direct.

use super::{Globals, print_json};
use crate::cli::Ping;
use crate::client;
use crate::output::{CliError, millis};
use meshd_proto::localapi::{self, Ask, Pong, Tell};
use std::process::ExitCode;
use std::time::Duration;

/// How often `--until-direct` asks at least.
const UNTIL_DIRECT: u32 = 20;

pub(crate) fn run(globals: &Globals, args: &Ping) -> anyhow::Result<ExitCode> {
    let mut answered = 0;
    let mut all = Vec::new();
    let count = if args.until_direct { args.count.max(UNTIL_DIRECT) } else { args.count };
    let mut direct = false;
    for n in 0..count {
        if n > 0 {
            std::thread::sleep(Duration::from_millis(500));
        }
        let pong = once(globals, args)?;
        answered += u32::from(pong.answered);
        if !globals.json {
            println!("{}", line(&pong));
        }
        direct = pong.answered && pong.path == "direct";
        all.push(pong);
        if args.until_direct && direct {
            break;
        }
    }
    if globals.json {
        print_json(&all)?;
    }
    if answered == 0 {
        let hint = format!("see why with `meshd status`; is `{}` online and allowed by policy?", args.target);
        return Err(CliError::new(format!("no answer from {}", args.target), hint).into());
    }
    if args.until_direct && !direct {
        let hint = "`meshd netcheck` on both nodes says what their NATs allow";
        return Err(CliError::new(format!("no direct path to {} so far", args.target), hint).into());
    }
    Ok(ExitCode::SUCCESS)
}

fn once(globals: &Globals, args: &Ping) -> Result<Pong, CliError> {
    let ask = Ask::Ping(localapi::Ping { target: args.target.clone(), timeout_ms: args.timeout });
    let wait = Duration::from_millis(u64::from(args.timeout) + 2000);
    let mut answers = client::ask(&globals.socket, ask)?.with_timeout(wait);
    while let Some(tell) = answers.next()? {
        if let Tell::Pong(pong) = tell {
            return Ok(pong);
        }
    }
    Err(CliError::new("the daemon gave no answer to the ping", ""))
}

fn line(pong: &Pong) -> String {
    if pong.answered {
        format!("{} ({}): {} {} in {}", pong.name, pong.address, pong.path, pong.via, millis(pong.rtt_us))
    } else {
        format!("{} ({}): no answer", pong.name, pong.address)
    }
}
