//! Signing in: name, password and a code make a session; a session's cookie makes an [`Actor`].
//!
//! Invariants: a cookie's secret is stored hashed; a session ends when it is idle or old, when its account is
//! switched off, and with a change of password; a code opens once.
//!
//! Who guesses is slowed down (`throttle`) by three keys: the name from one place, the place, and the name
//! from everywhere, against many places together. The last one would let a stranger with many addresses
//! keep a person out. So a browser that signed this person in before (`browsers`) is held back by a key of
//! its own instead of all three: nobody else's failures count for it, and who steals its token gains five
//! free guesses. A person without such a browser waits at most a quarter of an hour at a time, or gets in
//! with a new link of another owner or of root.

use super::{Actor, Permission, Role, Service, ServiceError, browsers, draft, passcode, tokens};
use crate::entropy;
use crate::store::accounts::{AccountWrite, SessionRecord, UserRecord};
use crate::store::{Batch, StoreError};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use meshd_proto::{UnixSeconds, keys};
use std::net::IpAddr;
use zeroize::Zeroizing;

/// A session that nobody uses ends.
const IDLE: u64 = 8 * 3600;
/// So does one that is this old.
const ABSOLUTE: u64 = 3 * 24 * 3600;
/// `seen` is written this often.
const SEEN_INTERVAL: u64 = 60;

/// A session that was opened. The secret is in here and nowhere else.
#[derive(Debug)]
pub struct NewSession {
    /// What goes into the cookie.
    pub secret: Zeroizing<String>,
    /// What the browser keeps for the next time, in a cookie that outlives the session.
    pub browser: Zeroizing<String>,
    /// Who signed in.
    pub actor: Actor,
}

/// What somebody says who wants to sign in.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    /// The name.
    pub name: &'a str,
    /// The password.
    pub password: &'a str,
    /// A code of the authenticator app, or a recovery code.
    pub code: &'a str,
    /// What the browser kept of an earlier time.
    pub browser: Option<&'a str>,
}

/// A valid session.
#[derive(Clone, Debug)]
pub struct Session {
    /// Who asks.
    pub actor: Actor,
    /// What every form of this session has to carry.
    pub csrf: String,
    /// Which one it is.
    pub fingerprint: [u8; 32],
}

/// Why nobody was signed in.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// One of the three is wrong; which one is not said.
    #[error("name, password and code do not fit together: try again with a new code")]
    Wrong,
    /// Too many failures.
    #[error("too many failed attempts: wait {0} seconds and try again")]
    Wait(u64),
    /// The database failed.
    #[error("the database failed: try again later")]
    Store(#[from] StoreError),
}

impl Service {
    /// Signs a person in.
    ///
    /// # Errors
    /// When something is wrong, somebody guessed too often, or the database fails.
    pub async fn login(
        &self,
        attempt: &Attempt<'_>,
        from: (IpAddr, &str),
        now: UnixSeconds,
    ) -> Result<NewSession, LoginError> {
        let name = attempt.name.trim().to_lowercase();
        let keys = match self.known_browser(&name, attempt.browser, now).await? {
            Some(id) => vec![(format!("browser {id}"), 1)],
            None => throttle_keys(&name, from.0).to_vec(),
        };
        let wait = self.throttle.wait(&keys, now);
        if wait > 0 {
            return Err(LoginError::Wait(wait));
        }
        self.throttle.begin(&keys, now);
        let result = self.try_login(&name, attempt.password, attempt.code, from, now).await;
        match &result {
            Ok(_) => self.throttle.succeeded(&keys),
            Err(LoginError::Wrong) => {
                tracing::info!(from = %from.0, "a sign-in was refused");
                let shown = tokens::line(&name, 60);
                let audit = draft(&Actor::System, "login.refused", shown, from.0);
                let batch = Batch { at: now, audit: vec![audit], ..Batch::default() };
                self.lock().await?.commit(batch).await?;
            }
            Err(_) => {}
        }
        result
    }

    /// The id of the browser, when this person signed in there before.
    async fn known_browser(
        &self,
        name: &str,
        token: Option<&str>,
        now: UnixSeconds,
    ) -> Result<Option<String>, StoreError> {
        let Some(token) = token.filter(|t| browsers::may_be_token(t)) else { return Ok(None) };
        let user = self.lock().await?.writer.store.user_by_name(name).await?;
        Ok(user.and_then(|user| browsers::known(&user, token, now)))
    }

    async fn try_login(
        &self,
        name: &str,
        password: &str,
        code: &str,
        (remote, agent): (IpAddr, &str),
        now: UnixSeconds,
    ) -> Result<NewSession, LoginError> {
        let user = self.lock().await?.writer.store.user_by_name(name).await?;
        let user = user.filter(|u| u.disabled.is_none());
        let stored = user.as_ref().map(|u| u.password.clone());
        let password = Zeroizing::new(password.chars().take(MAX_SECRET).collect::<String>());
        let fits = self.hashed(move || passcode::password_fits(&password, stored.as_deref())).await;
        let user = user.filter(|_| fits == Some(true)).ok_or(LoginError::Wrong)?;
        let second = match passcode::step_of(&user.totp, code, user.totp_step, now) {
            Some(step) => AccountWrite::TakeTotpStep(user.id, step),
            None => AccountWrite::TakeRecoveryCode(user.id, passcode::recovery_fingerprint(code)),
        };
        let how =
            if matches!(second, AccountWrite::TakeRecoveryCode(..)) { "with a recovery code" } else { "" };
        let (secret, session) = open(user.id, remote, agent, now);
        let actor = actor(&user);
        let audit = vec![draft(&actor, "login", remote, how)];
        // While the password was looked at, the account may have been switched off or got another one.
        let stands = AccountWrite::NoteLogin { id: user.id, password: user.password.clone(), at: now };
        let accounts = vec![stands, second, AccountWrite::InsertSession(session)];
        let done = self.lock().await?.commit(Batch { at: now, accounts, audit, ..Batch::default() }).await;
        match done {
            Ok(_) => Ok(NewSession { secret, browser: browsers::issue(&user, now), actor }),
            Err(StoreError::TokenSpent) => Err(LoginError::Wrong),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens a session for an account that was just made.
    pub(super) async fn open_session(
        &self,
        user: &UserRecord,
        (remote, agent): (IpAddr, &str),
        now: UnixSeconds,
    ) -> Result<NewSession, StoreError> {
        let (secret, session) = open(user.id, remote, agent, now);
        let accounts = vec![AccountWrite::InsertSession(session)];
        self.lock().await?.commit(Batch { at: now, accounts, ..Batch::default() }).await?;
        Ok(NewSession { secret, browser: browsers::issue(user, now), actor: actor(user) })
    }

    /// A session of a person with that role, who is made when not there. Without a password's cost.
    #[cfg(test)]
    pub(crate) async fn session_for_test(&self, name: &str, role: Role, now: UnixSeconds) -> NewSession {
        let mut turn = self.lock().await.unwrap();
        if turn.writer.store.user_by_name(name).await.unwrap().is_none() {
            let user = UserRecord {
                id: 0,
                name: name.to_owned(),
                role,
                password: String::new(),
                totp: crate::store::accounts::TotpSecret([1; 20]),
                totp_step: 0,
                created: now,
                created_by: "test".to_owned(),
                disabled: None,
                last_login: None,
            };
            let accounts = vec![AccountWrite::InsertUser(user, Vec::new())];
            turn.commit(Batch { at: now, accounts, ..Batch::default() }).await.unwrap();
            turn = self.lock().await.unwrap();
        }
        let user = turn.writer.store.user_by_name(name).await.unwrap().unwrap();
        drop(turn);
        self.open_session(&user, (IpAddr::from([127, 0, 0, 1]), "test"), now).await.unwrap()
    }

    /// The session of a cookie's secret; `None` for a wrong or ended one.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn session(&self, secret: &str, now: UnixSeconds) -> Result<Option<Session>, ServiceError> {
        if secret.len() > 100 {
            return Ok(None);
        }
        let fingerprint = fingerprint(secret);
        let mut turn = self.lock().await?;
        let Some((record, user)) = turn.writer.store.session(&fingerprint).await? else { return Ok(None) };
        let idle = now.0.saturating_sub(record.seen.0);
        if idle >= IDLE || now.0.saturating_sub(record.created.0) >= ABSOLUTE || user.disabled.is_some() {
            return Ok(None);
        }
        if idle >= SEEN_INTERVAL {
            let accounts = vec![AccountWrite::TouchSession(fingerprint, now)];
            turn.commit(Batch { at: now, accounts, ..Batch::default() }).await?;
        }
        Ok(Some(Session { actor: actor(&user), csrf: csrf(secret), fingerprint }))
    }

    /// Whether a session is still valid.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn session_stands(&self, session: &Session, now: UnixSeconds) -> Result<bool, ServiceError> {
        let found = self.lock().await?.writer.store.session(&session.fingerprint).await?;
        Ok(found.is_some_and(|(record, user)| {
            user.disabled.is_none()
                && now.0.saturating_sub(record.seen.0) < IDLE
                && now.0.saturating_sub(record.created.0) < ABSOLUTE
                && actor(&user) == session.actor
        }))
    }

    /// Ends a session.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn logout(&self, session: &Session, now: UnixSeconds) -> Result<(), ServiceError> {
        let accounts = vec![AccountWrite::DeleteSession(session.fingerprint)];
        let audit = vec![draft(&session.actor, "logout", "", "")];
        self.lock().await?.commit(Batch { at: now, accounts, audit, ..Batch::default() }).await?;
        Ok(())
    }

    /// The sessions of the person who asks.
    ///
    /// # Errors
    /// When the actor is no person, or the database fails.
    pub async fn own_sessions(&self, actor: &Actor) -> Result<Vec<SessionRecord>, ServiceError> {
        let (id, _, _) = person(actor)?;
        Ok(self.lock().await?.writer.store.sessions(id).await?)
    }

    /// Ends every other session of the person who asks.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn end_other_sessions(&self, session: &Session, now: UnixSeconds) -> Result<(), ServiceError> {
        let (id, _, _) = person(&session.actor)?;
        let accounts = vec![AccountWrite::DeleteSessions(id, Some(session.fingerprint))];
        let audit = vec![draft(&session.actor, "sessions.end", "", "all others of this person")];
        self.lock().await?.commit(Batch { at: now, accounts, audit, ..Batch::default() }).await?;
        Ok(())
    }

    /// Removes what ended: sessions and invitations.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn sweep_accounts(&self, now: UnixSeconds) -> Result<(), StoreError> {
        let ended = |span: u64| UnixSeconds(now.0.saturating_sub(span));
        let accounts = vec![
            AccountWrite::SweepSessions(ended(ABSOLUTE), ended(IDLE)),
            AccountWrite::SweepInvitations(now),
        ];
        self.lock().await?.commit(Batch { at: now, accounts, ..Batch::default() }).await?;
        Ok(())
    }

    /// Runs a slow hash on a thread of its own; only few at once, whoever asks.
    pub(super) async fn hashed<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let _slot = self.hashing.acquire().await.ok()?;
        tokio::task::spawn_blocking(work).await.ok()
    }
}

/// Longest password or code that is looked at.
pub(super) const MAX_SECRET: usize = 200;

/// The actor of an account.
pub(super) fn actor(user: &UserRecord) -> Actor {
    Actor::User { id: user.id, name: user.name.clone(), role: user.role }
}

/// The account behind an actor.
pub(super) fn person(actor: &Actor) -> Result<(u64, &str, Role), ServiceError> {
    match actor {
        Actor::User { id, name, role } => Ok((*id, name, *role)),
        other => {
            Err(ServiceError::Forbidden { actor: other.to_string(), permission: Permission::ReadStatus })
        }
    }
}

fn open(user: u64, remote: IpAddr, agent: &str, now: UnixSeconds) -> (Zeroizing<String>, SessionRecord) {
    let secret = Zeroizing::new(URL_SAFE_NO_PAD.encode(entropy::random::<32>()));
    let record = SessionRecord {
        fingerprint: fingerprint(&secret),
        user,
        created: now,
        seen: now,
        remote: remote.to_string(),
        agent: tokens::line(agent, 200),
    };
    (secret, record)
}

fn fingerprint(secret: &str) -> [u8; 32] {
    keys::hash("meshd session", &[secret.as_bytes()])
}

/// Known to pages of this session only: it follows from the cookie, which a foreign page cannot read.
fn csrf(secret: &str) -> String {
    URL_SAFE_NO_PAD.encode(keys::hash("meshd session form", &[secret.as_bytes()]))
}

/// One person from one place is slowed down first, then the place, at last the account as a whole: that
/// needs so many failures that nobody is locked out by a stranger's few.
pub(super) fn throttle_keys(name: &str, from: IpAddr) -> [(String, u32); 3] {
    let place = match from.to_canonical() {
        IpAddr::V4(v4) => v4.to_string(),
        // A household has a /64.
        IpAddr::V6(v6) => format!("{:x?}", &v6.segments()[..4]),
    };
    let name: String = name.chars().take(64).collect();
    [(format!("{name} from {place}"), 1), (format!("place {place}"), 4), (format!("name {name}"), 20)]
}
