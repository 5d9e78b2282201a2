//! The web admin: pages for people, rendered here, working without JavaScript.
//!
//! A page asks the service as the signed-in person and shows what it may show; no rule lives here. What
//! changes something is a form with the session's token, sent from our own origin; the answer is a
//! redirect. Scripts make lists search as one types and keep figures live, nothing more.

mod access;
mod account;
mod approvals;
mod assets;
mod audit;
mod dns;
mod entry;
mod events;
mod form;
pub(crate) mod guard;
mod keys;
mod layout;
mod nodes;
mod overview;
mod parts;
mod policy;
mod relays;
mod resolving;
mod routing;
mod settings;
mod tokens;
mod users;

use crate::api::table::Routes;
use crate::api::{Face, Need};
use crate::service::Permission as P;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// What pages keep in memory: one message for each session, shown on its next page.
#[derive(Debug)]
pub struct Pages {
    notes: Mutex<HashMap<[u8; 32], Note>>,
    streams: Arc<tokio::sync::Semaphore>,
}

/// Most event streams at once.
const MAX_STREAMS: usize = 256;
/// Most notes that wait for a page.
const MAX_NOTES: usize = 1000;

impl Default for Pages {
    fn default() -> Self {
        Self { notes: Mutex::default(), streams: Arc::new(tokio::sync::Semaphore::new(MAX_STREAMS)) }
    }
}

/// What a page says at its top, once.
#[derive(Clone, Debug)]
pub(super) struct Note {
    good: bool,
    text: String,
}

impl Pages {
    fn leave(&self, session: [u8; 32], note: Note) {
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        if notes.len() >= MAX_NOTES {
            notes.clear();
        }
        notes.insert(session, note);
    }

    fn take(&self, session: &[u8; 32]) -> Option<Note> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).remove(session)
    }
}

/// The pages of people who signed in.
pub(crate) fn routes() -> Routes {
    let status = Need::May(P::ReadStatus);
    let read = Need::May(P::Read);
    let nodes = Need::May(P::ManageNodes);
    let join = Need::May(P::ManageTokens);
    let names = Need::May(P::ManageDns);
    let law = Need::May(P::ManagePolicy);
    let keys = Need::May(P::ManageApiTokens);
    let people = Need::May(P::ManageUsers);
    Routes::new(Face::Page)
        .get("/", status, "Overview", overview::show)
        .get("/events", status, "Live changes", events::stream)
        .get("/nodes", read, "Nodes", nodes::list)
        .get("/nodes/{name}", read, "A node", nodes::show)
        .post("/nodes/{name}/rename", nodes, "Rename a node", nodes::rename)
        .post("/nodes/{name}/tag", nodes, "Tag a node", nodes::tag)
        .post("/nodes/{name}/approve", nodes, "Let a node in", nodes::approve)
        .post("/nodes/{name}/expire", nodes, "End a node's key", nodes::expire)
        .post("/nodes/{name}/revoke", nodes, "Cut a node off", nodes::revoke)
        .post("/nodes/{name}/remove", nodes, "Remove a node", nodes::remove)
        .get("/approvals", read, "What waits for approval", approvals::show)
        .post("/approvals/{id}/approve", join, "Let a machine in that asks", approvals::approve)
        .post("/approvals/{id}/refuse", join, "Turn a machine away that asks", approvals::refuse)
        .get("/routes", read, "Routes and exit nodes", routing::list)
        .post("/routes/approve", nodes, "Approve a route", routing::approve)
        .post("/routes/unapprove", nodes, "Take an approval back", routing::unapprove)
        .get("/policy", read, "Policy", policy::edit)
        .post("/policy/review", read, "Check a policy", policy::review)
        .post("/policy", law, "Set the policy", policy::save)
        .get("/policy/history", read, "Past policies", policy::history)
        .post("/policy/rollback", law, "Put a past policy back", policy::rollback)
        .get("/access", read, "Access explorer", access::show)
        .get("/dns", read, "DNS", dns::list)
        .post("/dns/add", names, "Add a record", dns::add)
        .post("/dns/remove", names, "Remove a record", dns::remove)
        .post("/dns/split", names, "Set a domain's resolvers", resolving::split)
        .post("/dns/split/remove", names, "Remove a domain's resolvers", resolving::remove_split)
        .post("/dns/resolving", names, "Set resolvers and search domains", resolving::everything_else)
        .get("/tokens", read, "Join tokens", tokens::list)
        .post("/tokens", join, "Make a join token", tokens::create)
        .post("/tokens/{id}/revoke", join, "Revoke a join token", tokens::revoke)
        .get("/relays", read, "Relays", relays::list)
        .get("/users", people, "Users and roles", users::list)
        .post("/users/invite", people, "Invite a person", users::invite)
        .post("/users/{name}/role", people, "Change a role", users::role)
        .post("/users/{name}/state", people, "Switch an account off or on", users::state)
        .post("/users/{name}/remove", people, "Remove an account", users::remove)
        .post("/users/invitations/{id}/withdraw", people, "Take a link back", users::withdraw)
        .get("/api-tokens", keys, "API tokens", keys::list)
        .post("/api-tokens", keys, "Make an API token", keys::create)
        .post("/api-tokens/{id}/revoke", keys, "Revoke an API token", keys::revoke)
        .get("/audit", Need::May(P::ReadAudit), "Audit log", audit::list)
        .post("/audit/verify", Need::May(P::ReadAudit), "Verify the audit log", audit::verify)
        .get("/settings", read, "Settings", settings::show)
        .post("/settings/backup", Need::May(P::Backup), "Download a backup", settings::backup)
        .get("/account", Need::Person, "One's own account", account::show)
        .post("/account/password", Need::Person, "Change one's password", account::password)
        .post("/account/recovery", Need::Person, "New recovery codes", account::recovery)
        .post("/account/sessions/end", Need::Person, "End one's other sessions", account::end_others)
        .post("/logout", Need::Person, "Sign out", entry::logout)
}

/// What is shown to everybody: the door, and what pages are drawn with.
pub(crate) fn open_routes(routes: Routes) -> Routes {
    routes
        .get("/login", Need::Nothing, "Sign in", entry::login_page)
        .post("/login", Need::Nothing, "Sign in", entry::login)
        .get("/welcome/{link}", Need::Nothing, "Make an account with a link", entry::welcome_page)
        .post("/welcome/{link}", Need::Nothing, "Make an account with a link", entry::welcome)
        .get("/assets/{file}", Need::Nothing, "Style and scripts", assets::show)
        .get("/favicon.ico", Need::Nothing, "The icon", assets::icon)
}
