//! `token create | list | revoke`.

use super::duration;
use super::output::{Failure, Output};
use super::table::{Table, joined};
use crate::api::views::{NewTokenView, TokenInput, TokenView, when};
use crate::client::Client;
use clap::{Args, Subcommand};
use hyper::Method;
use meshd_proto::Tag;

#[derive(Debug, Subcommand)]
pub(super) enum TokenCommand {
    /// Make a token and print the command that joins a machine
    Create(CreateArgs),
    /// Show tokens, without their secrets
    List,
    /// Take a token back; machines that joined with it stay
    Revoke {
        /// As shown by `token list`
        id: u64,
    },
}

#[derive(Debug, Args)]
pub(super) struct CreateArgs {
    /// How many machines may join with it
    #[arg(long, default_value_t = 10)]
    uses: u32,
    /// How long it is good for: 30m, 24h, 7d
    #[arg(long, value_name = "SPAN", default_value = "24h", value_parser = duration::seconds)]
    expires: u64,
    /// Tag of the machines, such as tag:router; may be given several times
    #[arg(long = "tag", value_name = "TAG", value_delimiter = ',')]
    tags: Vec<Tag>,
    /// The machines are forgotten when they stay away
    #[arg(long)]
    ephemeral: bool,
    /// Let the machines talk at once; with `false` they wait for `nodes approve`
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", default_value_t = true,
          action = clap::ArgAction::Set)]
    pre_approved: bool,
    /// Whom the machines belong to
    #[arg(long, conflicts_with = "tags")]
    user: Option<String>,
    /// What it is for
    #[arg(long, default_value = "")]
    note: String,
}

pub(super) async fn run(command: TokenCommand, client: &Client) -> Result<Output, Failure> {
    match command {
        TokenCommand::Create(args) => create(args, client).await,
        TokenCommand::List => {
            let tokens: Vec<TokenView> = client.get("/api/v1/tokens").await?;
            Ok(Output::new(&tokens, table(&tokens)))
        }
        TokenCommand::Revoke { id } => {
            client.act(Method::DELETE, &format!("/api/v1/tokens/{id}"), &()).await?;
            Ok(Output::done(format!("token {id} is revoked")))
        }
    }
}

async fn create(args: CreateArgs, client: &Client) -> Result<Output, Failure> {
    let input = TokenInput {
        uses: args.uses,
        lifetime: args.expires,
        tags: args.tags,
        ephemeral: args.ephemeral,
        pre_approved: args.pre_approved,
        user: args.user,
        note: args.note,
    };
    let new: NewTokenView = client.call(Method::POST, "/api/v1/tokens", &input).await?;
    Ok(Output::new(&new, created(&new)))
}

pub(super) fn created(new: &NewTokenView) -> String {
    let machines = match new.stored.uses {
        1 => "one machine".to_owned(),
        n => format!("{n} machines"),
    };
    format!(
        "On the machine that joins:\n\n  sudo meshd up {}\n\nToken {}: for {machines}, until {}. It is shown this once.\n",
        new.token,
        new.stored.id,
        when(new.stored.expires)
    )
}

pub(super) fn table(tokens: &[TokenView]) -> String {
    let mut table = Table::new(&["ID", "STATE", "USED", "EXPIRES", "FOR", "KIND", "MADE BY", "NOTE"]);
    for t in tokens {
        let mut kind = Vec::new();
        if t.ephemeral {
            kind.push("ephemeral");
        }
        if !t.pre_approved {
            kind.push("needs approval");
        }
        let whom = if t.tags.is_empty() { t.owner.clone() } else { joined(&t.tags) };
        table.row([
            t.id.to_string(),
            t.state.clone(),
            format!("{}/{}", t.used, t.uses),
            when(t.expires),
            whom,
            kind.join(", "),
            t.created_by.clone(),
            t.note.clone(),
        ]);
    }
    table.render_or("No token yet: make one with `meshd-coordinator token create`.")
}
