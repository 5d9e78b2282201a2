//! `users list | invite | role | disable | enable | remove` and `admin-link`.

use super::duration;
use super::output::{Failure, Output};
use super::table::Table;
use crate::api::views::{InvitationInput, LinkView, UserEdit, UserView, when};
use crate::client::{Client, segment};
use crate::service::Role;
use clap::Subcommand;
use hyper::Method;

#[derive(Debug, Subcommand)]
pub(super) enum UsersCommand {
    /// Show everybody with an account
    List,
    /// Print a link with which a person makes an account, once
    Invite {
        /// What the person may do: member, auditor, network-admin, admin or owner
        #[arg(long, default_value = "member")]
        role: Role,
        /// The account's name; without it the person chooses one
        #[arg(long, default_value = "")]
        name: String,
        /// How long the link is good for: 1h, 1d
        #[arg(long, value_name = "SPAN", default_value = "1d", value_parser = duration::seconds)]
        expires: u64,
    },
    /// Give a person another role
    Role {
        /// The account
        name: String,
        /// member, auditor, network-admin, admin or owner
        role: Role,
    },
    /// Switch an account off; its sessions end at once
    Disable {
        /// The account
        name: String,
    },
    /// Switch an account on again
    Enable {
        /// The account
        name: String,
    },
    /// Remove an account; the person's nodes stay
    Remove {
        /// The account
        name: String,
    },
}

pub(super) async fn run(command: UsersCommand, client: &Client) -> Result<Output, Failure> {
    let place = |name: &str| format!("/api/v1/users/{}", segment(name));
    match command {
        UsersCommand::List => {
            let users: Vec<UserView> = client.get("/api/v1/users").await?;
            let mut table = Table::new(&["NAME", "ROLE", "STATE", "LAST SIGN-IN", "SINCE"]);
            for u in &users {
                let state = if u.enabled { "enabled" } else { "disabled" };
                let last = u.last_login.map_or_else(|| "never".to_owned(), when);
                table.row([u.name.clone(), u.role.clone(), state.to_owned(), last, when(u.created)]);
            }
            let none = "Nobody has an account yet: `meshd-coordinator admin-link` prints the first link.";
            Ok(Output::new(&users, table.render_or(none)))
        }
        UsersCommand::Invite { role, name, expires } => {
            let input = InvitationInput { name, role, lifetime: expires };
            let link: LinkView = client.call(Method::POST, "/api/v1/invitations", &input).await?;
            Ok(Output::new(&link, text(&link)))
        }
        UsersCommand::Role { name, role } => {
            let edit = UserEdit { role: Some(role), enabled: None };
            client.act(Method::PATCH, &place(&name), &edit).await?;
            Ok(Output::done(format!("{name} is {role} now")))
        }
        UsersCommand::Disable { name } => {
            let edit = UserEdit { role: None, enabled: Some(false) };
            client.act(Method::PATCH, &place(&name), &edit).await?;
            Ok(Output::done(format!("{name} may no longer sign in")))
        }
        UsersCommand::Enable { name } => {
            let edit = UserEdit { role: None, enabled: Some(true) };
            client.act(Method::PATCH, &place(&name), &edit).await?;
            Ok(Output::done(format!("{name} may sign in again")))
        }
        UsersCommand::Remove { name } => {
            client.act(Method::DELETE, &place(&name), &()).await?;
            Ok(Output::done(format!("{name} has no account any more")))
        }
    }
}

pub(super) async fn admin_link(client: &Client) -> Result<Output, Failure> {
    let link: LinkView = client.call(Method::POST, "/api/v1/admin-link", &()).await?;
    Ok(Output::new(&link, text(&link)))
}

fn text(link: &LinkView) -> String {
    let mut text = String::new();
    for url in &link.urls {
        text.push_str(&format!("{url}\n"));
    }
    text.push_str(&format!(
        "\nIt makes one account with the role {}, once, until {}.\n",
        link.stored.role,
        when(link.stored.expires)
    ));
    if !link.certificate_sha256.is_empty() {
        text.push_str(&format!(
            "The browser warns about a self-made certificate. Its SHA-256 fingerprint must be\n{}\n",
            link.certificate_sha256
        ));
    }
    text
}
