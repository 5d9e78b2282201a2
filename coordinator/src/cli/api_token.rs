//! `api-token create | list | revoke`.

use super::duration;
use super::output::{Failure, Output};
use super::table::Table;
use crate::api::views::{ApiTokenInput, ApiTokenView, NewApiTokenView, when};
use crate::client::Client;
use crate::service::Role;
use clap::Subcommand;
use hyper::Method;

#[derive(Debug, Subcommand)]
pub(super) enum ApiTokenCommand {
    /// Make a token and print it, this once
    Create {
        /// Its name, for the audit log
        name: String,
        /// What it may do: member, auditor, network-admin, admin or owner
        #[arg(long, default_value = "auditor")]
        role: Role,
        /// Only this part of it: dns:write, policy:write… May be given several times
        #[arg(long = "scope", value_name = "SCOPE")]
        scopes: Vec<String>,
        /// How long it is good for: 24h, 90d
        #[arg(long, value_name = "SPAN", default_value = "90d", value_parser = duration::seconds)]
        expires: u64,
    },
    /// Show tokens, without their secrets
    List,
    /// Take a token back
    Revoke {
        /// As shown by `api-token list`
        id: u64,
    },
}

pub(super) async fn run(command: ApiTokenCommand, client: &Client) -> Result<Output, Failure> {
    match command {
        ApiTokenCommand::Create { name, role, scopes, expires } => {
            let input = ApiTokenInput { name, role, scopes, lifetime: expires };
            let new: NewApiTokenView = client.call(Method::POST, "/api/v1/api-tokens", &input).await?;
            let text = format!(
                "{}\n\nRole {}, until {}. Send it as `Authorization: Bearer …`; it is shown this once.\n",
                new.secret,
                new.stored.role,
                when(new.stored.expires)
            );
            Ok(Output::new(&new, text))
        }
        ApiTokenCommand::List => {
            let tokens: Vec<ApiTokenView> = client.get("/api/v1/api-tokens").await?;
            let mut table = Table::new(&["ID", "NAME", "ROLE", "STATE", "EXPIRES", "MADE BY"]);
            for t in &tokens {
                table.row([
                    t.id.to_string(),
                    t.name.clone(),
                    t.role.clone(),
                    t.state.clone(),
                    when(t.expires),
                    t.created_by.clone(),
                ]);
            }
            Ok(Output::new(&tokens, table.render_or("No API token yet.")))
        }
        ApiTokenCommand::Revoke { id } => {
            client.act(Method::DELETE, &format!("/api/v1/api-tokens/{id}"), &()).await?;
            Ok(Output::done(format!("API token {id} is revoked")))
        }
    }
}
