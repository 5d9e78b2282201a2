//! The door of one listener: who may ask, how often, and what they are answered from.

use super::Audience;
use super::pace::Pace;
use super::resolve::{Names, count};
use super::side::Side;
use super::source::Source;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Shared by the listener's UDP and TCP halves, so that nobody gets twice his rate.
#[derive(Debug)]
pub(super) struct Gate {
    audience: Audience,
    pace: Option<Mutex<Pace>>,
}

impl Gate {
    pub(super) fn new(audience: Audience, now: Instant) -> Self {
        let pace = match &audience {
            Audience::Lan(lan) => Some(Mutex::new(Pace::new(lan.rate, now))),
            Audience::Node { .. } | Audience::Guests(_) => None,
        };
        Self { audience, pace }
    }

    /// What a source is answered from, of which `kind` knows who it is; `None`: no reply.
    pub(super) fn side<'n>(
        &self,
        names: &'n Names,
        source: IpAddr,
        kind: impl FnOnce(IpAddr) -> Source,
        now: Instant,
    ) -> Option<&'n Arc<Side>> {
        let side = names.side_for(&self.audience, source, kind)?;
        if let Some(pace) = &self.pace {
            // What a panic could leave behind is a wrong number of questions.
            let granted = pace.lock().unwrap_or_else(PoisonError::into_inner).allows(source, now);
            if !granted {
                count(&names.counters().limited);
                return None;
            }
        }
        Some(side)
    }
}
