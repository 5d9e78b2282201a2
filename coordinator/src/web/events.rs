//! What changes while one looks: one small event for each new state, as server-sent events.
//!
//! An event says that something changed and carries the counts that every page shows; what a page needs
//! it fetches itself, as the person it is for. A stream ends with its session, and after a while by
//! itself: browsers open it again.

use super::guard::{PageError, Seat};
use crate::api::status_of;
use crate::clock;
use axum::body::{Body, Bytes};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use http_body_util::StreamBody;
use hyper::body::Frame;
use std::convert::Infallible;
use std::time::Duration;

/// Presence has no change log: it is looked at this often.
const LOOK: Duration = Duration::from_secs(2);
/// Looks of one stream: twenty minutes.
const LOOKS: u32 = 600;

/// What one stream remembers.
struct Stream {
    seat: Seat,
    sent: String,
    quiet: u32,
    looks: u32,
    _slot: tokio::sync::OwnedSemaphorePermit,
}

pub(super) async fn stream(seat: Seat) -> Result<Response, PageError> {
    use crate::service::{Permission, Service};
    Service::require(seat.actor(), Permission::ReadStatus)?;
    let Ok(slot) = seat.api.pages.streams.clone().try_acquire_owned() else {
        let text = "Too many pages are open. This one shows what was when it was loaded.";
        return Err(PageError::new(StatusCode::SERVICE_UNAVAILABLE, text));
    };
    let stream = Stream { seat, sent: String::new(), quiet: 0, looks: 0, _slot: slot };
    let events = futures_util::stream::unfold(stream, |mut stream| async move {
        let bytes = stream.next().await?;
        Some((Ok::<_, Infallible>(Frame::data(bytes)), stream))
    });
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, Body::new(StreamBody::new(events))).into_response())
}

impl Stream {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let now = self.state();
            if now != self.sent {
                self.sent.clone_from(&now);
                self.quiet = 0;
                return Some(Bytes::from(format!("event: mesh\ndata: {now}\n\n")));
            }
            if self.looks >= LOOKS {
                return None;
            }
            self.looks += 1;
            self.quiet += 1;
            let stop = self.seat.api.stop.clone();
            tokio::select! {
                () = stop.cancelled() => return None,
                () = tokio::time::sleep(LOOK) => {}
            }
            if self.quiet >= 10 {
                self.quiet = 0;
                if !self.may_go_on().await {
                    return None;
                }
                return Some(Bytes::from_static(b": still here\n\n"));
            }
        }
    }

    fn state(&self) -> String {
        let (service, status) = (&self.seat.api.service, status_of(&self.seat.api));
        let waiting = super::approvals::count(service, clock::unix_now());
        format!(
            r#"{{"version":{},"online":{},"nodes":{},"waiting":{waiting}}}"#,
            status.map_version, status.online, status.nodes
        )
    }

    async fn may_go_on(&self) -> bool {
        let service = &self.seat.api.service;
        service.session_stands(&self.seat.session, clock::unix_now()).await.unwrap_or(false)
    }
}
