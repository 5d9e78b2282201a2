//! `join list | approve | refuse`: machines that ask to be let in without a token.

use super::output::{Failure, Output};
use super::table::Table;
use crate::api::views::JoinRequestView;
use crate::client::Client;
use clap::Subcommand;
use hyper::Method;

#[derive(Debug, Subcommand)]
pub(super) enum JoinCommand {
    /// Show the machines that ask
    List,
    /// Let a machine in
    Approve {
        /// The six digits that the machine shows
        code: String,
    },
    /// Turn a machine away
    Refuse {
        /// The six digits that the machine shows
        code: String,
    },
}

pub(super) async fn run(command: JoinCommand, client: &Client) -> Result<Output, Failure> {
    let asking: Vec<JoinRequestView> = client.get("/api/v1/join-requests").await?;
    let (code, verb, told) = match command {
        JoinCommand::List => return Ok(Output::new(&asking, table(&asking))),
        JoinCommand::Approve { code } => (code, "approve", "may come in; it does so by itself"),
        JoinCommand::Refuse { code } => (code, "refuse", "is turned away"),
    };
    let machine = of_code(&asking, &code)?;
    let path = format!("/api/v1/join-requests/{}/{verb}", machine.id);
    client.act(Method::POST, &path, &()).await?;
    Ok(Output::done(format!("{} {told}", machine.hostname)))
}

/// By the code, since that is what a person compares; the number of a request is shown nowhere.
fn of_code<'a>(asking: &'a [JoinRequestView], code: &str) -> Result<&'a JoinRequestView, Failure> {
    let digits: String = code.chars().filter(char::is_ascii_digit).collect();
    asking.iter().find(|r| r.code == digits).ok_or_else(|| {
        Failure::new(format!("no machine asks with code {code}"))
            .hint("`meshd-coordinator join list` shows who does; after 15 minutes a machine must ask again")
    })
}

pub(super) fn table(asking: &[JoinRequestView]) -> String {
    let mut table = Table::new(&["CODE", "NAME", "SYSTEM", "FROM"]);
    for r in asking {
        table.row([r.code.clone(), r.hostname.clone(), r.os.clone(), r.remote.clone()]);
    }
    table.render_or("No machine asks: `meshd up --coordinator https://…` on a machine does so.")
}
