//! `meshd path NODE`: which ways data went lately, and why it changed.

use super::{Globals, print_json};
use crate::cli::Path;
use crate::client;
use crate::clock;
use crate::output::{CliError, millis};
use meshd_proto::localapi::{Ask, PathHistory, PathQuery, Tell};
use std::process::ExitCode;

pub(crate) fn run(globals: &Globals, args: &Path) -> anyhow::Result<ExitCode> {
    let query = PathQuery { target: args.target.clone(), since_secs: args.since.as_secs() };
    let mut answers = client::ask(&globals.socket, Ask::PathHistory(query))?;
    while let Some(tell) = answers.next()? {
        if let Tell::PathHistory(history) = tell {
            if globals.json {
                print_json(&history)?;
            } else {
                print!("{}", text(&history, clock::unix_now()));
            }
            return Ok(ExitCode::SUCCESS);
        }
    }
    Err(CliError::new("the daemon gave no answer", "").into())
}

fn text(history: &PathHistory, now: u64) -> String {
    if history.moments.is_empty() {
        return format!("{}: nothing in that time\n", history.name);
    }
    let mut out = String::new();
    for moment in &history.moments {
        let rtt = moment.rtt_us.map_or(String::new(), |us| format!("  {}", millis(us)));
        let ago = age(now.saturating_sub(moment.at));
        out += &format!("{ago:>8} ago  {:<6} {:<24} {}{rtt}\n", moment.path, moment.via, moment.why);
    }
    out
}

fn age(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        _ => format!("{} h", seconds / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshd_proto::localapi::PathMoment;

    #[test]
    fn each_line_says_when_which_way_and_why() {
        let moment = |at, path: &str, why: &str, rtt_us| PathMoment {
            at,
            path: path.to_owned(),
            via: "192.0.2.7:41820".to_owned(),
            why: why.to_owned(),
            rtt_us,
        };
        let moments = vec![
            moment(100, "relay", "first path", None),
            moment(9000, "direct", "direct path proved", None),
            moment(10_000, "direct", "still", Some(12_300)),
        ];
        let history = PathHistory { name: "pi".to_owned(), moments };
        let expected = [
            "     2 h ago  relay  192.0.2.7:41820          first path",
            "  17 min ago  direct 192.0.2.7:41820          direct path proved",
            "    30 s ago  direct 192.0.2.7:41820          still  12.3 ms",
        ];
        assert_eq!(text(&history, 10_030).lines().collect::<Vec<_>>(), expected);
        assert!(text(&PathHistory { moments: Vec::new(), ..history }, 1).contains("nothing"));
    }
}
