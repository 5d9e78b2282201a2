//! People: how an account comes to be (a link that works once), what may be changed of it, how it goes.
//!
//! Invariants: nobody gives a role above the own one; the last owner who can sign in stays; a link is used
//! up in the commit that makes the account; the second factor of an account was shown to no other browser
//! than the one that made it.

use super::sessions::{self, MAX_SECRET, NewSession, person};
use super::{Actor, Permission, Role, Service, ServiceError, Turn, draft, passcode};
use crate::entropy;
use crate::store::accounts::{AccountWrite, InvitationRecord, TOTP_BYTES, TotpSecret, UserRecord};
use crate::store::tokens::TokenWrite;
use crate::store::{Batch, StoreError};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use meshd_proto::{UnixSeconds, keys};
use std::fmt;
use std::net::IpAddr;
use zeroize::Zeroizing;

/// Shortest password.
pub const MIN_PASSWORD: usize = 10;
/// How long a link that makes an owner is good for.
const ADMIN_LINK_LIFETIME: u64 = 3600;
/// Longest life of an invitation.
const MAX_INVITATION: u64 = 30 * 24 * 3600;
/// Most people with an account.
const MAX_USERS: usize = 1000;

/// A link that was made. The secret is in here and nowhere else.
#[derive(Debug)]
pub struct Invited {
    /// The last part of the link's path.
    pub secret: Zeroizing<String>,
    /// What is stored of it.
    pub record: InvitationRecord,
}

/// What a person sees behind a link, before the account is made.
#[derive(Debug)]
pub struct SetUp {
    /// What is stored of the link.
    pub record: InvitationRecord,
    /// The secret for an authenticator app. It is this browser's own.
    pub totp: TotpSecret,
    /// The same in base32.
    pub totp_text: Zeroizing<String>,
}

/// What a browser that opened a link keeps of it, in a cookie. With the link's stored secret it makes the
/// secret for the authenticator app: who else opens the link sees another one.
pub struct LinkView([u8; 24]);

impl fmt::Debug for LinkView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LinkView")
    }
}

impl LinkView {
    /// That of a browser that opens a link for the first time.
    pub fn fresh() -> Self {
        Self(entropy::random())
    }

    /// From its cookie; `None` when that is none of ours.
    pub fn read(cookie: &str) -> Option<Self> {
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(cookie.get(..32)?).ok()?);
        Some(Self(bytes.as_slice().try_into().ok()?)).filter(|_| cookie.len() == 32)
    }

    /// What goes into the cookie.
    pub fn cookie(&self) -> Zeroizing<String> {
        Zeroizing::new(URL_SAFE_NO_PAD.encode(self.0))
    }

    fn totp(&self, link: &InvitationRecord) -> TotpSecret {
        let hash = Zeroizing::new(keys::hash("meshd invitation second factor", &[&link.totp.0, &self.0]));
        let mut secret = TotpSecret([0; TOTP_BYTES]);
        secret.0.copy_from_slice(&hash[..TOTP_BYTES]);
        secret
    }
}

/// What a person chose behind a link.
#[derive(Debug)]
pub struct NewAccount<'a> {
    /// The link's secret.
    pub link: &'a str,
    /// What the browser keeps of it.
    pub view: &'a LinkView,
    /// The name; the link's own where it has one.
    pub name: &'a str,
    /// The password.
    pub password: &'a str,
    /// A code of the authenticator app.
    pub code: &'a str,
}

impl Service {
    /// Makes a link that makes an owner, good for an hour. Links of that kind made before end.
    ///
    /// # Errors
    /// When the actor may not, or the database fails.
    pub async fn create_admin_link(&self, actor: &Actor, now: UnixSeconds) -> Result<Invited, ServiceError> {
        Self::require(actor, Permission::IssueAdminLink)?;
        let mut turn = self.lock().await?;
        let before = turn.writer.store.invitations().await?;
        let mine = before.iter().filter(|i| i.created_by == actor.to_string() && i.role == Role::Owner);
        let ended = mine.map(|i| AccountWrite::TakeInvitation(i.id)).collect();
        self.invite_in(turn, actor, Role::Owner, "", ADMIN_LINK_LIFETIME, ended, now).await
    }

    /// Whether nobody has an account yet.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn has_no_account(&self) -> Result<bool, StoreError> {
        Ok(self.lock().await?.writer.store.users().await?.is_empty())
    }

    /// Makes a link for another person.
    ///
    /// # Errors
    /// When the actor may not, the role is above its own, the name is taken, or the database fails.
    pub async fn invite(
        &self,
        actor: &Actor,
        role: Role,
        name: &str,
        lifetime: u64,
        now: UnixSeconds,
    ) -> Result<Invited, ServiceError> {
        Self::require(actor, Permission::ManageUsers)?;
        refuse_above(actor, role)?;
        if lifetime == 0 || lifetime > MAX_INVITATION {
            return Err(ServiceError::Invalid("an invitation is good for up to 30 days".to_owned()));
        }
        let name = if name.trim().is_empty() { String::new() } else { user_name(name)? };
        let mut turn = self.lock().await?;
        if turn.writer.store.user_by_name(&name).await?.is_some() {
            return Err(ServiceError::Conflict(format!("`{name}` already has an account")));
        }
        self.invite_in(turn, actor, role, &name, lifetime, Vec::new(), now).await
    }

    #[expect(clippy::too_many_arguments, reason = "one commit of two callers")]
    async fn invite_in(
        &self,
        turn: Turn<'_>,
        actor: &Actor,
        role: Role,
        name: &str,
        lifetime: u64,
        mut accounts: Vec<AccountWrite>,
        now: UnixSeconds,
    ) -> Result<Invited, ServiceError> {
        let secret = Zeroizing::new(URL_SAFE_NO_PAD.encode(entropy::random::<24>()));
        let record = InvitationRecord {
            id: 0,
            fingerprint: link_fingerprint(&secret),
            role,
            name: name.to_owned(),
            totp: TotpSecret(entropy::random()),
            created: now,
            expires: UnixSeconds(now.0 + lifetime),
            created_by: actor.to_string(),
        };
        accounts.push(AccountWrite::InsertInvitation(record.clone()));
        let audit = vec![draft(actor, "user.invite", name, role)];
        turn.commit(Batch { at: now, accounts, audit, ..Batch::default() }).await?;
        let stored = self.lock().await?.writer.store.invitation(&record.fingerprint).await?;
        Ok(Invited { secret, record: stored.unwrap_or(record) })
    }

    /// What is behind a link; `None` when it is unknown, used or too old.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn behind_link(
        &self,
        secret: &str,
        view: &LinkView,
        now: UnixSeconds,
    ) -> Result<Option<SetUp>, ServiceError> {
        if secret.len() > 100 {
            return Ok(None);
        }
        let found = self.lock().await?.writer.store.invitation(&link_fingerprint(secret)).await?;
        Ok(found.filter(|i| now < i.expires).map(|record| {
            let totp = view.totp(&record);
            let totp_text = Zeroizing::new(passcode::base32(&totp));
            SetUp { record, totp, totp_text }
        }))
    }

    /// Uses a link up and makes the account. Returns its session and its recovery codes, shown this once.
    ///
    /// # Errors
    /// When the link is not good any more, name, password or code do not do, or the database fails.
    pub async fn accept_link(
        &self,
        new: &NewAccount<'_>,
        from: (IpAddr, &str),
        now: UnixSeconds,
    ) -> Result<(NewSession, Vec<Zeroizing<String>>), ServiceError> {
        let SetUp { record: link, totp, .. } =
            self.behind_link(new.link, new.view, now).await?.ok_or_else(link_gone)?;
        let name = if link.name.is_empty() { user_name(new.name)? } else { link.name.clone() };
        check_password(new.password, &name)?;
        let step = passcode::step_of(&totp, new.code, 0, now).ok_or_else(wrong_code)?;
        let password = self.hash(new.password).await?;
        let (codes, hashes) = passcode::recovery_codes();
        let user = UserRecord {
            id: 0,
            name: name.clone(),
            role: link.role,
            password,
            totp,
            totp_step: step,
            created: now,
            created_by: link.created_by.clone(),
            disabled: None,
            last_login: Some(now),
        };
        let mut turn = self.lock().await?;
        let known = turn.writer.store.users().await?;
        if known.iter().any(|u| u.name == name) {
            return Err(ServiceError::Conflict(format!(
                "`{name}` already has an account: choose another name"
            )));
        }
        if known.len() >= MAX_USERS {
            return Err(ServiceError::Conflict(format!(
                "there are {MAX_USERS} accounts, the most there can be"
            )));
        }
        let actor = sessions::actor(&user);
        let audit = vec![draft(
            &actor,
            "user.join",
            &name,
            format_args!("{} by a link of {}", link.role, link.created_by),
        )];
        let accounts = vec![AccountWrite::TakeInvitation(link.id), AccountWrite::InsertUser(user, hashes)];
        match turn.commit(Batch { at: now, accounts, audit, ..Batch::default() }).await {
            Ok(_) => {}
            Err(StoreError::TokenSpent) => return Err(link_gone()),
            Err(error) => return Err(error.into()),
        }
        let made = self.lock().await?.writer.store.user_by_name(&name).await?.ok_or_else(link_gone)?;
        Ok((self.open_session(&made, from, now).await?, codes))
    }

    /// Everybody with an account, by name.
    ///
    /// # Errors
    /// When the actor may not, or the database fails.
    pub async fn users(&self, actor: &Actor) -> Result<Vec<UserRecord>, ServiceError> {
        Self::require(actor, Permission::ManageUsers)?;
        Ok(self.lock().await?.writer.store.users().await?)
    }

    /// Links that were not used yet.
    ///
    /// # Errors
    /// When the actor may not, or the database fails.
    pub async fn invitations(
        &self,
        actor: &Actor,
        now: UnixSeconds,
    ) -> Result<Vec<InvitationRecord>, ServiceError> {
        Self::require(actor, Permission::ManageUsers)?;
        let mut found = self.lock().await?.writer.store.invitations().await?;
        found.retain(|i| now < i.expires);
        Ok(found)
    }

    /// Takes a link back.
    ///
    /// # Errors
    /// When the actor may not, there is no such link, or the database fails.
    pub async fn withdraw_invitation(
        &self,
        actor: &Actor,
        id: u64,
        now: UnixSeconds,
    ) -> Result<(), ServiceError> {
        Self::require(actor, Permission::ManageUsers)?;
        let audit = vec![draft(actor, "user.uninvite", id, "")];
        let accounts = vec![AccountWrite::TakeInvitation(id)];
        match self.lock().await?.commit(Batch { at: now, accounts, audit, ..Batch::default() }).await {
            Ok(_) => Ok(()),
            Err(StoreError::TokenSpent) => Err(ServiceError::NotFound {
                what: "invitation",
                name: id.to_string(),
                hint: ": it may have been used".to_owned(),
            }),
            Err(error) => Err(error.into()),
        }
    }

    /// Gives a person another role. Takes effect at once, for open sessions, too.
    ///
    /// # Errors
    /// When the actor may not, one of the roles is above its own, or it would leave no owner.
    pub async fn set_role(
        &self,
        actor: &Actor,
        name: &str,
        role: Role,
        now: UnixSeconds,
    ) -> Result<(), ServiceError> {
        refuse_above(actor, role)?;
        self.change_user(actor, name, "user.role", role.as_str(), now, |user| {
            user.role = role;
            None
        })
        .await
    }

    /// Switches an account off, which ends its sessions, or on again.
    ///
    /// # Errors
    /// When the actor may not, the person's role is above its own, or it would leave no owner.
    pub async fn set_enabled(
        &self,
        actor: &Actor,
        name: &str,
        enabled: bool,
        now: UnixSeconds,
    ) -> Result<(), ServiceError> {
        let action = if enabled { "user.enable" } else { "user.disable" };
        self.change_user(actor, name, action, "", now, |user| {
            user.disabled = (!enabled).then_some(now);
            (!enabled).then_some(AccountWrite::DeleteSessions(user.id, None))
        })
        .await
    }

    /// Removes an account. The person's nodes stay.
    ///
    /// # Errors
    /// When the actor may not, the person's role is above its own, or it would leave no owner.
    pub async fn remove_user(&self, actor: &Actor, name: &str, now: UnixSeconds) -> Result<(), ServiceError> {
        self.change_user(actor, name, "user.remove", "", now, |user| {
            user.disabled = Some(now);
            Some(AccountWrite::DeleteUser(user.id))
        })
        .await
    }

    async fn change_user(
        &self,
        actor: &Actor,
        name: &str,
        action: &'static str,
        detail: &str,
        now: UnixSeconds,
        edit: impl FnOnce(&mut UserRecord) -> Option<AccountWrite>,
    ) -> Result<(), ServiceError> {
        Self::require(actor, Permission::ManageUsers)?;
        let mut turn = self.lock().await?;
        let all = turn.writer.store.users().await?;
        let user = all.iter().find(|u| u.name == name).ok_or_else(|| ServiceError::NotFound {
            what: "user",
            name: name.chars().filter(|c| !c.is_control()).take(80).collect(),
            hint: "; `meshd-coordinator users list` shows them".to_owned(),
        })?;
        refuse_above(actor, user.role)?;
        let mut next = user.clone();
        let more = edit(&mut next);
        let is_owner = |u: &UserRecord| u.role == Role::Owner && u.disabled.is_none();
        let others = all.iter().filter(|u| u.id != user.id).any(is_owner);
        if is_owner(user) && !is_owner(&next) && !others {
            return Err(ServiceError::Conflict(format!(
                "`{name}` is the only owner who can sign in: make somebody else owner first"
            )));
        }
        let mut audit = vec![draft(actor, action, name, detail)];
        let loses = next.role < user.role || next.disabled.is_some();
        let mut accounts: Vec<_> = [AccountWrite::UpdateUser(next)].into_iter().chain(more).collect();
        let mut tokens = Vec::new();
        if loses {
            // What a person made with rights that are gone is taken back with them.
            let maker = format!("user:{name}");
            let api = turn.writer.store.api_tokens(u32::MAX).await?;
            let made = api.iter().filter(|t| t.created_by == maker && t.revoked.is_none());
            tokens.extend(made.map(|t| TokenWrite::RevokeApi { id: t.id, at: now }));
            let open = turn.writer.store.invitations().await?;
            let links: Vec<_> = open.iter().filter(|i| i.created_by == maker).map(|i| i.id).collect();
            if !(tokens.is_empty() && links.is_empty()) {
                let what = format_args!("{} API tokens, {} invitations", tokens.len(), links.len());
                audit.push(draft(actor, "user.made-revoked", name, what));
            }
            accounts.extend(links.into_iter().map(AccountWrite::TakeInvitation));
        }
        turn.commit(Batch { at: now, accounts, tokens, audit, ..Batch::default() }).await?;
        Ok(())
    }

    /// The account of the person who asks, and how many recovery codes are left.
    ///
    /// # Errors
    /// When the actor is no person, or the database fails.
    pub async fn own_account(&self, actor: &Actor) -> Result<(UserRecord, u64), ServiceError> {
        let (_, name, _) = person(actor)?;
        let mut turn = self.lock().await?;
        let user = turn.writer.store.user_by_name(name).await?.ok_or_else(link_gone)?;
        let left = turn.writer.store.recovery_codes(user.id).await?;
        Ok((user, left))
    }

    /// The person who asks takes another password. Other sessions end.
    ///
    /// # Errors
    /// When the present password does not fit, the new one does not do, or the database fails.
    pub async fn change_password(
        &self,
        session: &super::Session,
        present: &str,
        next: &str,
        now: UnixSeconds,
    ) -> Result<(), ServiceError> {
        let (user, _) = self.own_account(&session.actor).await?;
        check_password(next, &user.name)?;
        let keys = [(format!("password of {}", user.name), 1)];
        let wait = self.throttle.wait(&keys, now);
        if wait > 0 {
            return Err(ServiceError::Conflict(format!("too many failed attempts: wait {wait} seconds")));
        }
        self.throttle.begin(&keys, now);
        let (shown, stored) = (Zeroizing::new(present.to_owned()), user.password.clone());
        if self.hashed(move || passcode::password_fits(&shown, Some(&stored))).await != Some(true) {
            return Err(ServiceError::Invalid("the present password is another one".to_owned()));
        }
        self.throttle.succeeded(&keys);
        let password = self.hash(next).await?;
        let accounts = vec![
            AccountWrite::DeleteSessions(user.id, Some(session.fingerprint)),
            // Nothing else of the record: it was read before, and an admin may have changed it meanwhile.
            AccountWrite::SetPassword { id: user.id, before: user.password, after: password },
        ];
        let audit = vec![draft(&session.actor, "user.password", "", "")];
        let done = self.lock().await?.commit(Batch { at: now, accounts, audit, ..Batch::default() }).await;
        match done {
            Err(StoreError::TokenSpent) => {
                Err(ServiceError::Conflict("the account was changed meanwhile: sign in again".to_owned()))
            }
            other => Ok(other.map(drop)?),
        }
    }

    /// The person who asks gets other recovery codes, shown this once; those before end.
    ///
    /// # Errors
    /// When the actor is no person, or the database fails.
    pub async fn renew_recovery_codes(
        &self,
        actor: &Actor,
        now: UnixSeconds,
    ) -> Result<Vec<Zeroizing<String>>, ServiceError> {
        let (id, _, _) = person(actor)?;
        let (codes, hashes) = passcode::recovery_codes();
        let audit = vec![draft(actor, "user.recovery-codes", "", "")];
        let accounts = vec![AccountWrite::PutRecoveryCodes(id, hashes)];
        self.lock().await?.commit(Batch { at: now, accounts, audit, ..Batch::default() }).await?;
        Ok(codes)
    }

    async fn hash(&self, password: &str) -> Result<String, ServiceError> {
        let password = Zeroizing::new(password.to_owned());
        let hash = self.hashed(move || passcode::hash_password(&password)).await.flatten();
        hash.ok_or_else(|| ServiceError::Conflict("the password cannot be stored: try again".to_owned()))
    }
}

fn refuse_above(actor: &Actor, role: Role) -> Result<(), ServiceError> {
    if actor.may_grant(role) {
        return Ok(());
    }
    Err(ServiceError::Forbidden { actor: actor.to_string(), permission: Permission::ManageUsers })
}

fn link_fingerprint(secret: &str) -> [u8; 32] {
    keys::hash("meshd invitation", &[secret.as_bytes()])
}

fn link_gone() -> ServiceError {
    ServiceError::Conflict(
        "this link was used, taken back or is too old: ask for a new one, or run `meshd-coordinator admin-link` \
         as root on the coordinator"
            .to_owned(),
    )
}

fn wrong_code() -> ServiceError {
    ServiceError::Invalid(
        "the code does not fit: scan the picture with the authenticator app and type the six digits it shows now; \
         the clock of the phone must be right"
            .to_owned(),
    )
}

fn user_name(text: &str) -> Result<String, ServiceError> {
    let name = text.trim().to_lowercase();
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-@+".contains(c);
    if name.is_empty() || name.len() > 60 || !name.chars().all(fits) {
        return Err(ServiceError::Invalid(
            "a user name has 1 to 60 letters, digits and . _ - @ +".to_owned(),
        ));
    }
    Ok(name)
}

fn check_password(password: &str, name: &str) -> Result<(), ServiceError> {
    let length = password.chars().count();
    let bad = if length < MIN_PASSWORD {
        format!("a password has at least {MIN_PASSWORD} characters; several words are easy to remember")
    } else if length > MAX_SECRET {
        format!("a password has at most {MAX_SECRET} characters")
    } else if password.to_lowercase() == name || password.chars().all(|c| password.starts_with(c)) {
        "choose a password that is not your name and not one character over and over".to_owned()
    } else {
        return Ok(());
    };
    Err(ServiceError::Invalid(bad))
}
