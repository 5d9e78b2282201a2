//! How a machine becomes a member, or comes back.
//!
//! [`plan`] is pure: from the model and the token's row to the writes of one commit or a refusal.

use super::{Actor, RegisterError, Service, allocate, draft, offer, policy};
use crate::model::{ClassKey, Model, NodeRecord, Owner, Write};
use crate::store::tokens::{TokenRecord, TokenWrite};
use crate::store::{Batch, StoreError};
use meshd_proto::netmap::PeerKind;
use meshd_proto::token::TokenSecret;
use meshd_proto::{
    ClassId, Hostname, MachineKey, MeshAddrs, NodeId, NodeKey, Prefix, UnixSeconds, Version, limits,
};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// A machine asks to be let in, or a member says that it is back. The control channel has proved both
/// keys before.
#[derive(Clone, Debug)]
pub struct RegisterRequest {
    /// Proved by the Noise handshake.
    pub machine_key: MachineKey,
    /// Proved by the registration message.
    pub node_key: NodeKey,
    /// The join token's secret.
    pub token: Option<TokenSecret>,
    /// What the machine calls itself; made into a valid, unique name.
    pub hostname: String,
    /// Hash of the machine's own id.
    pub machine_id_hash: Option<[u8; 32]>,
    /// Prefixes behind it, without default routes.
    pub advertised: BTreeSet<Prefix>,
    /// Offers itself as exit node.
    pub exit: bool,
    /// Wants to be forgotten when it stays away (the token may demand it, too).
    pub ephemeral: bool,
    /// For display.
    pub os: String,
    /// For display.
    pub client_version: String,
    /// Where it came from, for the audit log.
    pub remote: Option<IpAddr>,
}

/// A machine is a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// Its id.
    pub node: NodeId,
    /// Its name; not always what it asked for.
    pub name: Hostname,
    /// Its addresses.
    pub addrs: MeshAddrs,
    /// Whether it may talk to others yet.
    pub admitted: bool,
    /// Whether it was a member before.
    pub rejoined: bool,
}

impl Service {
    /// Lets a machine in, or recognises a member. The token is consumed in the commit that adds the node.
    ///
    /// # Errors
    /// Says why the machine was not let in; nothing was changed then.
    pub async fn register(
        &self,
        request: &RegisterRequest,
        now: UnixSeconds,
    ) -> Result<Registration, RegisterError> {
        let result = self.try_register(request, now).await;
        let outcome = match &result {
            Ok(r) if r.rejoined => "rejoined",
            Ok(_) => "joined",
            Err(RegisterError::Store(_)) => "failed",
            Err(_) => "refused",
        };
        metrics::counter!("meshd_coordinator_registrations_total", "outcome" => outcome).increment(1);
        result
    }

    async fn try_register(
        &self,
        request: &RegisterRequest,
        now: UnixSeconds,
    ) -> Result<Registration, RegisterError> {
        // A stranger without a token costs a look at the model, never a turn at the store. A join that was
        // interrupted behind its commit still has its token.
        if request.token.is_none() && self.model().node_by_machine_key(&request.machine_key).is_none() {
            return Err(RegisterError::TokenRequired);
        }
        let mut turn = self.lock().await?;
        let token = match &request.token {
            Some(secret) => turn.writer.store.token_by_fingerprint(&secret.fingerprint()).await?,
            None => None,
        };
        let planned = plan(&turn.model, request, token.as_ref(), turn.next_node(), now);
        let planned = match planned {
            Ok(planned) => planned,
            Err(error) => {
                self.note_refusal(turn, request, &error, now).await;
                return Err(error);
            }
        };
        let registration = &planned.registration;
        if registration.rejoined && !planned.batch.writes.is_empty() {
            self.pace.take(registration.node, now).map_err(|wait| RegisterError::TooOften { wait })?;
        }
        if !planned.batch.writes.is_empty() || !planned.batch.tokens.is_empty() {
            turn.commit(planned.batch).await.map_err(|e| match e {
                StoreError::TokenSpent => RegisterError::TokenUsedUp,
                e => RegisterError::Store(e),
            })?;
        }
        Ok(planned.registration)
    }

    /// A cloned disk is worth an entry in the audit log; other refusals are strangers' noise.
    async fn note_refusal(
        &self,
        turn: super::Turn<'_>,
        request: &RegisterRequest,
        error: &RegisterError,
        now: UnixSeconds,
    ) {
        let RegisterError::ClonedMachine(name) = error else { return };
        tracing::warn!(node = %name, "the same machine key came from a machine with another machine-id");
        let Some(node) = turn.model.node_by_machine_key(&request.machine_key).map(|n| n.id) else { return };
        if !self.presence.note_clone(node, now) {
            return;
        }
        let from = request.remote.map(|ip| ip.to_string()).unwrap_or_default();
        let entry = draft(&Actor::Node(node), "node.clone-refused", name, from);
        let batch = Batch { at: now, audit: vec![entry], ..Batch::default() };
        if let Err(error) = turn.commit(batch).await {
            tracing::error!(%error, "cannot write the audit log");
        }
    }
}

#[derive(Debug)]
struct Planned {
    batch: Batch,
    registration: Registration,
}

fn plan(
    model: &Model,
    request: &RegisterRequest,
    token: Option<&TokenRecord>,
    next: NodeId,
    now: UnixSeconds,
) -> Result<Planned, RegisterError> {
    let mine = model.node_by_machine_key(&request.machine_key);
    if let Some(holder) = model.node_by_key(&request.node_key)
        && mine.is_none_or(|m| m.id != holder.id)
    {
        return Err(RegisterError::NodeKeyTaken(holder.name.to_string()));
    }
    match mine {
        Some(node) => plan_return(model, node, request, token, now),
        None => {
            offer::check(model, &request.advertised)?;
            let token = usable(request, token, now)?;
            plan_join(model, request, token, next, now)
        }
    }
}

fn usable<'a>(
    request: &RegisterRequest,
    token: Option<&'a TokenRecord>,
    now: UnixSeconds,
) -> Result<&'a TokenRecord, RegisterError> {
    let missing =
        if request.token.is_none() { RegisterError::TokenRequired } else { RegisterError::TokenUnknown };
    let token = token.ok_or(missing)?;
    if token.revoked.is_some() {
        return Err(RegisterError::TokenRevoked);
    }
    if token.used >= token.max_uses {
        return Err(RegisterError::TokenUsedUp);
    }
    if token.expires <= now {
        return Err(RegisterError::TokenExpired(token.expires));
    }
    Ok(token)
}

fn plan_join(
    model: &Model,
    request: &RegisterRequest,
    token: &TokenRecord,
    id: NodeId,
    now: UnixSeconds,
) -> Result<Planned, RegisterError> {
    let addrs =
        allocate::addresses(model, id).ok_or(RegisterError::AddressesExhausted(model.mesh.prefixes.v4))?;
    let name = allocate::name(model, &Hostname::sanitized(&request.hostname), None);
    let mut batch = Batch { at: now, ..Batch::default() };
    let owner = if token.tags.is_empty() { token.owner.clone() } else { Owner::Tagged };
    let class =
        class_of(model, &mut batch.writes, ClassKey { owner: owner.clone(), tags: token.tags.clone() });
    let mut node = NodeRecord {
        id,
        machine_key: Some(request.machine_key),
        node_key: request.node_key,
        name: name.clone(),
        renamed: false,
        addrs,
        owner,
        tags: token.tags.clone(),
        class,
        advertised: request.advertised.clone(),
        approved: BTreeSet::new(),
        exit_advertised: request.exit,
        exit_approved: false,
        key_expires: None,
        ephemeral: request.ephemeral || token.ephemeral,
        admitted: token.pre_approved,
        revoked: false,
        machine_id_hash: request.machine_id_hash,
        os: cut(&request.os),
        client_version: cut(&request.client_version),
        created: now,
        kind: PeerKind::Meshd,
        via: None,
        publishing: crate::model::Publishing::default(),
        changed: Version(0),
    };
    policy::auto_approve(&model.policy, &mut node);
    let from = request.remote.map(|ip| format!(" from {ip}")).unwrap_or_default();
    let entry = draft(&Actor::Node(id), "node.join", &name, format_args!("with token {}{from}", token.id));
    batch.audit.push(entry);
    batch.tokens.push(TokenWrite::Consume { id: token.id });
    batch.writes.push(Write::PutNode(node));
    let registration = Registration { node: id, name, addrs, admitted: token.pre_approved, rejoined: false };
    Ok(Planned { batch, registration })
}

fn plan_return(
    model: &Model,
    node: &NodeRecord,
    request: &RegisterRequest,
    token: Option<&TokenRecord>,
    now: UnixSeconds,
) -> Result<Planned, RegisterError> {
    let name = || node.name.to_string();
    if node.revoked {
        return Err(RegisterError::Revoked(name()));
    }
    if let (Some(known), Some(shown)) = (node.machine_id_hash, request.machine_id_hash)
        && known != shown
    {
        return Err(RegisterError::ClonedMachine(name()));
    }
    let mut batch = Batch { at: now, ..Batch::default() };
    let mut next = node.clone();
    if node.is_expired(now) {
        if request.token.is_none() {
            return Err(RegisterError::KeyExpired(name()));
        }
        let token = usable(request, token, now)?;
        // The token decides what it would decide at a first join: any other one would give a machine that an
        // admin shut out its owner, tags and approved routes back.
        if (&token.owner, &token.tags) != (&node.owner, &node.tags) {
            return Err(RegisterError::TokenUnfit { name: name(), options: token_options(node) });
        }
        next.key_expires = None;
        next.admitted = token.pre_approved;
        next.ephemeral |= token.ephemeral;
        batch.tokens.push(TokenWrite::Consume { id: token.id });
        batch.audit.push(draft(
            &Actor::Node(node.id),
            "node.renew",
            &node.name,
            format_args!("with token {}", token.id),
        ));
    }
    if next.node_key != request.node_key {
        next.node_key = request.node_key;
        batch.audit.push(draft(&Actor::Node(node.id), "node.rekey", &node.name, request.node_key.short()));
    }
    offer::apply(
        model,
        &mut next,
        // A member is not put out for a route: what cannot be routed is left out.
        &offer::sound(model, &request.advertised),
        request.exit,
        Some(&Hostname::sanitized(&request.hostname)),
    );
    next.machine_id_hash = request.machine_id_hash.or(node.machine_id_hash);
    (next.os, next.client_version) = (cut(&request.os), cut(&request.client_version));
    if let Some(news) = offer::news(node, &next) {
        batch.audit.push(draft(&Actor::Node(node.id), "node.offer", &next.name, news));
    }
    let registration = Registration {
        node: node.id,
        name: next.name.clone(),
        addrs: node.addrs,
        admitted: next.admitted,
        rejoined: true,
    };
    if next != *node {
        batch.writes.push(Write::PutNode(next));
    }
    Ok(Planned { batch, registration })
}

/// The options of `token create` that make a token for machines like `node`.
fn token_options(node: &NodeRecord) -> String {
    match node.owner.policy_name() {
        Some(user) => format!("--user {user}"),
        None => format!("--tag {}", node.tags.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")),
    }
}

/// The class of `key`; a new one is added to `writes`.
pub(super) fn class_of(model: &Model, writes: &mut Vec<Write>, key: ClassKey) -> ClassId {
    if let Some(known) = model.class_of(&key) {
        return known;
    }
    let id = ClassId(model.classes.keys().next_back().map_or(1, |last| last.0 + 1));
    writes.push(Write::PutClass(id, key));
    id
}

/// Text of a stranger for display: bounded, without control characters.
fn cut(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(limits::MAX_TEXT / 8).collect()
}
