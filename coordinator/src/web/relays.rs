//! The relays of the mesh.

use super::guard::{PageError, Seat};
use super::parts;
use crate::service::{EMBEDDED_RELAY, Permission, Service};
use axum::response::Response;
use maud::html;

pub(super) async fn list(seat: Seat) -> Result<Response, PageError> {
    Service::require(seat.actor(), Permission::Read)?;
    let model = seat.api.service.model();
    let body = html! {
        (parts::title("Relays", "They forward ciphertext between nodes that cannot reach each other directly", html! {}))
        div.card.flush {
            @if model.relays.is_empty() {
                (parts::empty("No relay", "This coordinator was started with --no-relay: nodes behind strict NATs may not reach each other."))
            } @else {
                div.scroll tabindex="0" role="region" aria-label="Relays" { table {
                    thead { tr { th { "Name" } th { "Where" } th { "Hosts" } th { "UDP" } th { "Second UDP" } th { "Key" } } }
                    tbody { @for relay in model.relays.values() {
                        tr {
                            td { span.strong { (relay.name) } }
                            td { (if relay.id == EMBEDDED_RELAY { "in this coordinator" } else { "on its own" }) }
                            td { @for host in &relay.hosts { code { (host) } " " } }
                            td { code { (relay.udp_port) } }
                            td { @if relay.alt_udp_port == 0 { span.muted { "none" } } @else { code { (relay.alt_udp_port) } } }
                            td { code.wrap { (relay.key) } }
                        }
                    } }
                } }
            }
        }
        p.muted { "A relay sees ciphertext and never a key. Nodes measure their way to each and choose the nearest." }
    };
    Ok(seat.page("Relays", body))
}
