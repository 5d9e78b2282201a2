//! DNS records that an admin makes, for hosts behind subnet routers and other names of the mesh.

use super::bound::Place;
use super::{Actor, Permission, Service, ServiceError, draft};
use crate::model::{Model, Records};
use crate::store::Batch;
use meshd_proto::netmap::{RecordSet, RecordType, RecordValue};
use meshd_proto::{DnsName, Hostname, UnixSeconds, limits};
use std::net::IpAddr;

/// Seconds that answers about a record may be cached when nobody says otherwise.
pub(super) const DEFAULT_TTL: u32 = 60;
/// Longest TTL, RFC 2181 §8 allows more; a week is a typing mistake's bound.
pub(super) const MAX_TTL: u32 = 7 * 24 * 3600;
/// How a whole subtree is written by a person.
const SUBTREE: &str = "suffix:";

/// A value to add to a name.
#[derive(Clone, Debug)]
pub struct RecordInput {
    /// The name; a bare label means one under the mesh's domain, `suffix:d` the subtree of `d`.
    pub name: String,
    /// Which type; `None`: an address tells by itself, anything else is a name (CNAME).
    pub kind: Option<RecordType>,
    /// The value as text.
    pub value: String,
    /// Seconds to cache; `None`: as the set has it, or one minute.
    pub ttl: Option<u32>,
}

impl Service {
    /// Every record set, by name and type.
    ///
    /// # Errors
    /// When the actor may not.
    pub fn records(&self, actor: &Actor) -> Result<Vec<(DnsName, RecordType, RecordSet)>, ServiceError> {
        Self::require(actor, Permission::Read)?;
        let model = self.model();
        Ok(model.records.iter().map(|((name, kind), set)| (name.clone(), *kind, set.clone())).collect())
    }

    /// Adds a value to a name; the name's other values stay.
    ///
    /// # Errors
    /// When the actor may not, the value does not fit, the name belongs to a node, or the database fails.
    pub async fn add_record(
        &self,
        actor: &Actor,
        input: &RecordInput,
        now: UnixSeconds,
    ) -> Result<(DnsName, RecordType, RecordSet), ServiceError> {
        self.add_record_for(actor, &[], input, now).await
    }

    /// The same for some only: users, groups and tags; none: for everybody.
    ///
    /// # Errors
    /// As [`Service::add_record`], and when one of `who` is no user, group or tag.
    pub async fn add_record_for(
        &self,
        actor: &Actor,
        who: &[String],
        input: &RecordInput,
        now: UnixSeconds,
    ) -> Result<(DnsName, RecordType, RecordSet), ServiceError> {
        Self::require(actor, Permission::ManageDns)?;
        let (kind, value) = parse_value(input)?;
        let turn = self.lock().await?;
        let place = Place::of(&turn.model, who)?;
        let name = full_name(&turn.model, &input.name)?;
        refuse_clash(&turn.model, place.records(&turn.model), &name, kind)?;
        let mut set = place
            .records(&turn.model)
            .get(&(name.clone(), kind))
            .cloned()
            .unwrap_or(RecordSet { ttl: DEFAULT_TTL, values: Vec::new() });
        if let Some(ttl) = input.ttl {
            if ttl > MAX_TTL {
                return Err(ServiceError::Invalid(format!("a TTL has at most {MAX_TTL} seconds (a week)")));
            }
            set.ttl = ttl;
        }
        if kind == RecordType::Cname {
            set.values.clear();
        }
        if !set.values.contains(&value) {
            set.values.push(value);
        }
        if set.values.len() > limits::MAX_RECORD_VALUES {
            return Err(ServiceError::Conflict(format!(
                "`{name}` already has {} values, the most a name can have",
                limits::MAX_RECORD_VALUES
            )));
        }
        let key = (name.clone(), kind);
        if place.records(&turn.model).get(&key) != Some(&set) {
            let detail = format!("{} {}{}", kind.as_str(), input.value, place.note());
            let batch = Batch {
                at: now,
                writes: place.put_records(&turn.model, vec![(key, Some(set.clone()))])?,
                audit: vec![draft(actor, "record.add", &name, detail)],
                ..Batch::default()
            };
            turn.commit(batch).await?;
        }
        Ok((name, kind, set))
    }

    /// Removes a name's records: all, those of one type, or one value. Returns how many values went.
    ///
    /// # Errors
    /// When the actor may not, there is no such record, or the database fails.
    pub async fn remove_record(
        &self,
        actor: &Actor,
        name: &str,
        kind: Option<RecordType>,
        value: Option<&str>,
        now: UnixSeconds,
    ) -> Result<usize, ServiceError> {
        self.remove_record_for(actor, &[], name, kind, value, now).await
    }

    /// The same of what is there for some only.
    ///
    /// # Errors
    /// As [`Service::remove_record`].
    pub async fn remove_record_for(
        &self,
        actor: &Actor,
        who: &[String],
        name: &str,
        kind: Option<RecordType>,
        value: Option<&str>,
        now: UnixSeconds,
    ) -> Result<usize, ServiceError> {
        Self::require(actor, Permission::ManageDns)?;
        let turn = self.lock().await?;
        let place = Place::of(&turn.model, who)?;
        let name = full_name(&turn.model, name)?;
        let (mut changed, mut gone) = (Vec::new(), 0);
        for ((n, k), set) in place.records(&turn.model).iter().filter(|((n, _), _)| *n == name) {
            if kind.is_some_and(|wanted| wanted != *k) {
                continue;
            }
            let kept: Vec<RecordValue> = match value {
                Some(text) => set.values.iter().filter(|v| show_value(v) != text).cloned().collect(),
                None => Vec::new(),
            };
            gone += set.values.len() - kept.len();
            if kept.is_empty() {
                changed.push(((n.clone(), *k), None));
            } else if kept.len() < set.values.len() {
                changed.push(((n.clone(), *k), Some(RecordSet { ttl: set.ttl, values: kept })));
            }
        }
        if gone == 0 {
            return Err(ServiceError::NotFound {
                what: "record",
                name: name.to_string(),
                hint: "; `meshd-coordinator dns list` shows them".to_owned(),
            });
        }
        let detail = format!("{}{}", value.unwrap_or_default(), place.note());
        let audit = vec![draft(actor, "record.remove", &name, detail)];
        let writes = place.put_records(&turn.model, changed)?;
        turn.commit(Batch { at: now, writes, audit, ..Batch::default() }).await?;
        Ok(gone)
    }
}

/// A value in text form.
pub(crate) fn show_value(value: &RecordValue) -> String {
    match value {
        RecordValue::Address(ip) => ip.to_string(),
        RecordValue::Name(name) => name.to_string(),
        RecordValue::Text(text) => text.clone(),
    }
}

/// The record's name in full. A bare label means one under the mesh's domain, `suffix:d` the whole
/// subtree of `d`. A name outside the mesh's domain answers for itself only; its neighbours are looked up
/// outside as before.
pub(super) fn full_name(model: &Model, text: &str) -> Result<DnsName, ServiceError> {
    let domain = &model.mesh.domain;
    let parsed = match text.strip_prefix(SUBTREE) {
        Some(top) => format!("**.{top}").parse::<DnsName>(),
        None => text.parse(),
    };
    let name = parsed.map_err(|e| ServiceError::Invalid(format!("{e}")))?;
    // `nas`, and `*.apps`, are of the mesh.
    let (star, bare) = match name.as_str().split_once('.') {
        Some((star @ "*", rest)) => (Some(star), rest),
        _ => (None, name.as_str()),
    };
    let name = match bare.parse::<Hostname>() {
        Ok(label) => {
            let full = domain.child(&label).map_err(|e| ServiceError::Invalid(e.to_string()))?;
            match star {
                Some(star) => {
                    format!("{star}.{full}").parse().map_err(|e| ServiceError::Invalid(format!("{e}")))?
                }
                None => full,
            }
        }
        Err(_) => name,
    };
    let labels = name.as_str().split('.').filter(|label| !label.starts_with('*')).count();
    if labels < 2 {
        return Err(ServiceError::Invalid(format!(
            "`{text}` would stand for a whole top-level domain: use a name below one"
        )));
    }
    Ok(name)
}

pub(super) fn parse_value(input: &RecordInput) -> Result<(RecordType, RecordValue), ServiceError> {
    let text = input.value.trim();
    let address = text.parse::<IpAddr>().ok();
    let kind = input.kind.unwrap_or(match address {
        Some(IpAddr::V4(_)) => RecordType::A,
        Some(IpAddr::V6(_)) => RecordType::Aaaa,
        None => RecordType::Cname,
    });
    // No top-level domain is a number (RFC 3696 §2): that was to be an address.
    let looks_like_one =
        text.contains(':') || text.rsplit('.').next().is_some_and(|l| l.bytes().all(|b| b.is_ascii_digit()));
    if input.kind.is_none() && address.is_none() && looks_like_one {
        return Err(ServiceError::Invalid(format!(
            "`{text}` is no address, and no name either: look at its numbers, or say --type TXT for other text"
        )));
    }
    let value = match (kind, address) {
        (RecordType::A | RecordType::Aaaa, Some(ip)) => RecordValue::Address(ip),
        (RecordType::Cname, Some(ip)) => {
            return Err(ServiceError::Invalid(format!("a CNAME leads to a name, and {ip} is an address")));
        }
        (RecordType::Cname, None) => RecordValue::Name(text.parse().map_err(|e| {
            ServiceError::Invalid(format!("{e}; give an address, a name, or --type TXT for other text"))
        })?),
        (RecordType::Txt, _) => RecordValue::Text(input.value.clone()),
        _ => RecordValue::Text(text.to_owned()),
    };
    meshd_dns::record::data(kind, &value).map_err(|e| ServiceError::Invalid(e.to_string()))?;
    Ok((kind, value))
}

/// Refuses a name that is a node's, and an alias beside other records of those it is for.
pub(super) fn refuse_clash(
    model: &Model,
    records: &Records,
    name: &DnsName,
    kind: RecordType,
) -> Result<(), ServiceError> {
    let zone = &model.mesh.domain;
    let node = model.nodes.values().find(|n| zone.child(&n.name).is_ok_and(|full| full == *name));
    if let Some(node) = node {
        return Err(ServiceError::Conflict(format!(
            "`{name}` is the name of a node: choose another name, or rename the node with `meshd-coordinator nodes rename {} NEW`",
            node.name
        )));
    }
    let mut others = records.keys().filter(|(n, k)| n == name && *k != kind).map(|(_, k)| *k);
    let clash =
        if kind == RecordType::Cname { others.next() } else { others.find(|k| *k == RecordType::Cname) };
    match clash {
        // RFC 1034 §3.6.2: a CNAME stands alone.
        Some(other) => Err(ServiceError::Conflict(format!(
            "`{name}` already has a {} record, and a CNAME cannot stand beside others: remove one first",
            other.as_str()
        ))),
        None if kind == RecordType::Cname && name == zone => {
            Err(ServiceError::Conflict(format!("`{name}` is the zone itself and cannot be a CNAME")))
        }
        None => Ok(()),
    }
}
