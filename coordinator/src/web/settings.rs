//! The mesh's settings, backup and restore.

use super::guard::{PageError, Seat};
use super::parts::{self, act};
use crate::certificate::Made;
use crate::clock;
use crate::service::{Permission, Service};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use maud::{Markup, html};

pub(super) async fn show(seat: Seat) -> Result<Response, PageError> {
    Service::require(seat.actor(), Permission::Read)?;
    let model = seat.api.service.model();
    let mesh = &model.mesh;
    let keys = seat.api.service.public_keys();
    let body = html! {
        (parts::title("Settings", "", html! {}))
        div.columns {
            section.card {
                h2 { "Mesh" }
                dl.facts {
                    dt { "Name" } dd { (mesh.name) }
                    dt { "Domain" } dd { code { (mesh.domain) } }
                    dt { "IPv4 range" } dd { code { (mesh.prefixes.v4) } }
                    dt { "IPv6 range" } dd { code { (mesh.prefixes.v6) } }
                    dt { "Network id" } dd { code.wrap { (model.network) } }
                    dt { "Map lease" } dd { (mesh.map_lease / 86_400) " days without the coordinator" }
                    dt { "DNS cache" } dd { (mesh.dns_ttl) " s" }
                }
                p.hint { "Name and ranges are chosen at the first start and stay." }
            }
            section.card {
                h2 { "Coordinator" }
                dl.facts {
                    dt { "Reached at" } dd { @for a in &mesh.addresses { code { (a) } " " } }
                    dt { "Control key" } dd { code.wrap { (keys.control) } }
                    (certificate(&seat))
                }
                p.hint { "Addresses are set with " code { "meshd-coordinator serve --public NAME" } "." }
            }
        }
        section.card {
            h2 { "Backup" }
            p { "A copy of everything while the coordinator runs, its keys included: whoever has the file is the coordinator. Keep it like a password." }
            @if seat.may(Permission::Backup) { (act(&seat, "/settings/backup", "Download backup", "primary", &[])) }
            @else { p.muted { "Owners only." } }
        }
        section.card {
            h2 { "Restore" }
            p { "The coordinator must be stopped for it, so it is done on its machine. The database that was there is kept beside it." }
            pre tabindex="0" { "sudo systemctl stop meshd-coordinator\nsudo meshd-coordinator restore BACKUP.db\nsudo systemctl start meshd-coordinator" }
        }
    };
    Ok(seat.page("Settings", body))
}

/// What browsers are shown, and what people compare.
fn certificate(seat: &Seat) -> Markup {
    let (certificates, now) = (&seat.api.certificates, clock::unix_now());
    let own = if certificates.made() == Made::Here { "Self-made certificate" } else { "Certificate" };
    html! {
        @if !certificates.wanted().is_empty() {
            dt { "Certificate" }
            dd {
                @match certificates.issued(now) {
                    Some(issued) => { "by an authority for " @for name in &issued.names { code { (name) } " " } "until " (parts::time(issued.ends, now)) }
                    None => { "being ordered for " @for name in certificates.wanted() { code { (name) } " " } }
                }
            }
        }
        dt { (own) } dd { code.wrap { (certificates.own_fingerprint()) } }
    }
}

pub(super) async fn backup(seat: Seat) -> Result<Response, PageError> {
    let now = clock::unix_now();
    let bytes = seat.api.service.backup(seat.actor(), now).await?;
    let name = seat.api.service.model().mesh.name.to_string();
    let day: String = clock::show(now).chars().take(10).collect();
    let headers = [
        (header::CONTENT_TYPE, "application/vnd.sqlite3".to_owned()),
        (header::CONTENT_DISPOSITION, format!("attachment; filename=\"meshd-{name}-{day}.db\"")),
    ];
    Ok((headers, bytes).into_response())
}
