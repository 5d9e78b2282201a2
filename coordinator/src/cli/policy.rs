//! `policy show | set | check | plan | explain | history | rollback`.

use super::input::read;
use super::output::{Failure, Output};
use super::table::Table;
use crate::api::views::{
    PolicyBody, PolicyChecked, PolicyExplained, PolicyInput, PolicyVersion, RollbackInput, when,
};
use crate::client::{Client, segment};
use clap::Subcommand;
use hyper::Method;
use meshd_policy::Plan;
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(super) enum PolicyCommand {
    /// Print the policy in force
    Show,
    /// Put a policy into force, when it has no error and its tests pass
    Set {
        /// The text; `-` reads standard input
        file: PathBuf,
        /// Only when the policy in force is still that of this version
        #[arg(long, value_name = "VERSION")]
        expect: Option<u64>,
        /// Also when it cuts most of the mesh apart
        #[arg(long)]
        force: bool,
    },
    /// Say what a policy would change: who gains and who loses access to what
    Plan {
        /// The text; `-` reads standard input
        file: PathBuf,
    },
    /// Put a past policy back into force
    Rollback {
        /// As shown by `policy history`
        version: u64,
        /// Also when it cuts most of the mesh apart
        #[arg(long)]
        force: bool,
    },
    /// Look for errors and run the tests of a policy, and change nothing
    Check {
        /// The text; `-` reads standard input
        file: PathBuf,
    },
    /// Say whether a flow passes, and why
    Explain {
        /// Name or address of the sender
        from: String,
        /// Name or address of the receiver, with a port: nas:443, 192.168.1.10:22, [fd00::1]:53
        to: String,
        /// tcp, udp, icmp, icmpv6 or a protocol number
        #[arg(long, default_value = "tcp")]
        protocol: String,
    },
    /// Show who set which policy
    History,
}

pub(super) async fn run(command: PolicyCommand, client: &Client) -> Result<Output, Failure> {
    match command {
        PolicyCommand::Show => {
            let policy: PolicyBody = client.get("/api/v1/policy").await?;
            Ok(Output::new(&policy, policy.text.clone()))
        }
        PolicyCommand::Set { file, expect, force } => {
            let input = PolicyInput { text: read(&file)?, expected_version: expect, force };
            let policy: PolicyBody = client.call(Method::PUT, "/api/v1/policy", &input).await?;
            let text =
                format!("{}the policy is in force (version {})", warnings(&policy.warnings), policy.version);
            Ok(Output::new(&policy, text))
        }
        PolicyCommand::Check { file } => {
            let input = PolicyInput { text: read(&file)?, expected_version: None, force: false };
            let checked: PolicyChecked = client.call(Method::POST, "/api/v1/policy/check", &input).await?;
            let text = format!("{}no errors", warnings(&checked.warnings));
            Ok(Output::new(&checked, text))
        }
        PolicyCommand::Plan { file } => {
            let input = PolicyInput { text: read(&file)?, expected_version: None, force: false };
            let plan: Plan = client.call(Method::POST, "/api/v1/policy/plan", &input).await?;
            Ok(Output::new(&plan, plan_text(&plan)))
        }
        PolicyCommand::Rollback { version, force } => {
            let input = RollbackInput { version, force };
            let policy: PolicyBody = client.call(Method::POST, "/api/v1/policy/rollback", &input).await?;
            let text = format!(
                "{}the policy of version {version} is in force again (version {})",
                warnings(&policy.warnings),
                policy.version
            );
            Ok(Output::new(&policy, text))
        }
        PolicyCommand::Explain { from, to, protocol } => {
            let (from, to, protocol) = (segment(&from), segment(&to), segment(&protocol));
            let path = format!("/api/v1/policy/explain?from={from}&to={to}&protocol={protocol}");
            let explained: PolicyExplained = client.get(&path).await?;
            let verdict = if explained.allowed { "allowed" } else { "denied" };
            let steps: String = explained.steps.iter().map(|s| format!("\n  {s}")).collect();
            Ok(Output::new(&explained, format!("{verdict}{steps}")))
        }
        PolicyCommand::History => {
            let versions: Vec<PolicyVersion> = client.get("/api/v1/policy/history").await?;
            let mut table = Table::new(&["VERSION", "SET BY", "AT", "LINES"]);
            for v in &versions {
                table.row([
                    v.version.to_string(),
                    v.set_by.clone(),
                    when(v.at),
                    v.text.lines().count().to_string(),
                ]);
            }
            Ok(Output::new(&versions, table.render_or("No policy was ever set.")))
        }
    }
}

fn plan_text(plan: &Plan) -> String {
    let mut text = String::new();
    for (sign, list) in [('+', &plan.gained), ('-', &plan.lost)] {
        for d in list {
            text.push_str(&format!("{sign} {} -> {} {} (line {})\n", d.from, d.to, d.ports, d.line));
        }
    }
    if text.is_empty() {
        text.push_str("nobody gains or loses access\n");
    }
    if plan.cut {
        text.push_str("the mesh has more kinds of nodes than are compared; this is about the first ones\n");
    }
    text.push_str(&format!(
        "pairs of nodes that are connected: {} now, {} then\n",
        plan.pairs_before, plan.pairs_after
    ));
    if plan.cuts_most() {
        text.push_str("this cuts most of the mesh apart: `policy set` takes it only with --force\n");
    }
    text
}

fn warnings(found: &[String]) -> String {
    found.iter().map(|w| format!("{w}\n")).collect()
}
