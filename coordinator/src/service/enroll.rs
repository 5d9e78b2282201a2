//! Machines that ask to be let in without a token: each shows its person a code; who approves it in the
//! pages compares the code and so lets in the machine he means. Approval makes a one-off join token, which
//! only the machine that asked can fetch, once.
//!
//! Soft state: a restart forgets who asked. Bounded, since anybody can ask.

use super::{Actor, Permission, Service, ServiceError, TokenRequest, draft, tokens};
use crate::entropy;
use crate::store::Batch;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use meshd_proto::{UnixSeconds, keys};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use zeroize::Zeroizing;

/// How long a machine may wait for somebody.
const PATIENCE: u64 = 900;
/// Most machines that wait.
const MAX_WAITING: usize = 64;
/// Most of them from one place.
const MAX_OF_PLACE: usize = 4;

/// A machine that asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinRequest {
    /// Its number.
    pub id: u64,
    /// Six digits that the machine shows, too.
    pub code: String,
    /// What it calls itself.
    pub hostname: String,
    /// Its operating system.
    pub os: String,
    /// Where it asked from.
    pub remote: IpAddr,
    /// When.
    pub created: UnixSeconds,
}

/// What a machine is told when it asks. The secret is in here and nowhere else.
#[derive(Debug)]
pub struct Asking {
    /// As the pages show it.
    pub request: JoinRequest,
    /// With it the machine hears what became of its request.
    pub secret: Zeroizing<String>,
    /// Seconds until nobody knows of it any more.
    pub patience: u64,
}

/// What became of a request.
#[derive(Debug)]
pub enum Outcome {
    /// Nobody has decided yet.
    Waiting,
    /// Somebody said no, or it is too late.
    Gone,
    /// A join token; it is given once.
    Token(Zeroizing<String>),
}

#[derive(Debug, Default)]
pub(super) struct Desk(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    last: u64,
    waiting: BTreeMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    request: JoinRequest,
    fingerprint: [u8; 32],
    token: Option<Zeroizing<String>>,
}

impl Desk {
    fn open(&self, now: UnixSeconds) -> MutexGuard<'_, State> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.waiting.retain(|_, e| now.0.saturating_sub(e.request.created.0) < PATIENCE);
        state
    }
}

impl Service {
    /// A machine asks to be let in.
    ///
    /// # Errors
    /// When too many wait already.
    pub fn ask_to_join(
        &self,
        hostname: &str,
        os: &str,
        remote: IpAddr,
        now: UnixSeconds,
    ) -> Result<Asking, ServiceError> {
        let mut state = self.desk.open(now);
        let of_place = state.waiting.values().filter(|e| e.request.remote == remote).count();
        if state.waiting.len() >= MAX_WAITING || of_place >= MAX_OF_PLACE {
            return Err(ServiceError::Conflict(
                "too many machines wait for approval: try again in some minutes, or use a join token"
                    .to_owned(),
            ));
        }
        let code = loop {
            let code = format!("{:06}", u32::from_le_bytes(entropy::random()) % 1_000_000);
            if !state.waiting.values().any(|e| e.request.code == code) {
                break code;
            }
        };
        let secret = Zeroizing::new(URL_SAFE_NO_PAD.encode(entropy::random::<32>()));
        state.last += 1;
        let request = JoinRequest {
            id: state.last,
            code,
            hostname: tokens::line(hostname, 63),
            os: tokens::line(os, 60),
            remote,
            created: now,
        };
        let entry = Entry { request: request.clone(), fingerprint: fingerprint(&secret), token: None };
        let id = state.last;
        state.waiting.insert(id, entry);
        Ok(Asking { request, secret, patience: PATIENCE })
    }

    /// Machines that ask and were not answered yet, oldest first.
    ///
    /// # Errors
    /// When the actor may not.
    pub fn join_requests(&self, actor: &Actor, now: UnixSeconds) -> Result<Vec<JoinRequest>, ServiceError> {
        Self::require(actor, Permission::Read)?;
        let state = self.desk.open(now);
        Ok(state.waiting.values().filter(|e| e.token.is_none()).map(|e| e.request.clone()).collect())
    }

    /// How many ask.
    pub fn asking_count(&self, now: UnixSeconds) -> usize {
        self.desk.open(now).waiting.values().filter(|e| e.token.is_none()).count()
    }

    /// Lets a machine in that asks: it belongs to `user` (or to the person who approves), and may talk at once.
    ///
    /// # Errors
    /// When the actor may not, nobody asks under that number, or the database fails.
    pub async fn approve_join(
        &self,
        actor: &Actor,
        id: u64,
        user: Option<&str>,
        now: UnixSeconds,
    ) -> Result<JoinRequest, ServiceError> {
        Self::require(actor, Permission::ManageTokens)?;
        let found =
            self.desk.open(now).waiting.get(&id).filter(|e| e.token.is_none()).map(|e| e.request.clone());
        let request = found.ok_or_else(|| nobody(id))?;
        let own = if let Actor::User { name, .. } = actor { Some(name.as_str()) } else { None };
        let wanted = TokenRequest {
            uses: 1,
            lifetime: PATIENCE,
            user: user.or(own).map(str::to_owned),
            note: format!("{} asked with code {}", request.hostname, request.code),
            ..TokenRequest::default()
        };
        let made = self.create_token(actor, &wanted, now).await?;
        match self.desk.open(now).waiting.get_mut(&id) {
            Some(entry) => entry.token = Some(made.token.to_text()),
            None => return Err(nobody(id)),
        }
        Ok(request)
    }

    /// Turns a machine away that asks.
    ///
    /// # Errors
    /// When the actor may not, nobody asks under that number, or the database fails.
    pub async fn refuse_join(&self, actor: &Actor, id: u64, now: UnixSeconds) -> Result<(), ServiceError> {
        Self::require(actor, Permission::ManageTokens)?;
        let gone = self.desk.open(now).waiting.remove(&id).ok_or_else(|| nobody(id))?;
        let audit = vec![draft(actor, "join.refuse", &gone.request.hostname, gone.request.remote)];
        self.lock().await?.commit(Batch { at: now, audit, ..Batch::default() }).await?;
        Ok(())
    }

    /// What became of the request of that secret.
    pub fn outcome_of(&self, secret: &str, now: UnixSeconds) -> Outcome {
        let mut state = self.desk.open(now);
        let hash = fingerprint(secret);
        let found = state.waiting.values_mut().find(|e| e.fingerprint == hash);
        let Some(entry) = found else { return Outcome::Gone };
        let Some(token) = entry.token.take() else { return Outcome::Waiting };
        let id = entry.request.id;
        state.waiting.remove(&id);
        Outcome::Token(token)
    }
}

fn fingerprint(secret: &str) -> [u8; 32] {
    keys::hash("meshd join request", &[secret.as_bytes()])
}

fn nobody(id: u64) -> ServiceError {
    ServiceError::NotFound {
        what: "machine that asks under number",
        name: id.to_string(),
        hint: ": it may have been answered, or have waited too long".to_owned(),
    }
}
