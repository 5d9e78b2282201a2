//! All names of the mesh as one file: what it says is so afterwards, and nothing else.
//!
//! Records, and what is bound to users, groups or tags, are left as they are by a file that does not speak
//! of them.

use super::bound::{audiences_within, within};
use super::records::{DEFAULT_TTL, MAX_TTL, full_name, parse_value, refuse_clash, show_value};
use super::resolving::{Resolving, ResolvingChange, SplitText, apply, shown};
use super::{Actor, Permission, RecordInput, Service, ServiceError, draft};
use crate::model::{Audience, Bound, MeshSettings, Model, Records, Write};
use crate::store::Batch;
use meshd_proto::netmap::{RecordSet, RecordType};
use meshd_proto::{UnixSeconds, limits};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Most record sets of a file.
const MAX_RECORDS: usize = 20_000;

/// All names of the mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Declared {
    /// Search domains beside the mesh's own.
    #[serde(default)]
    pub search: Vec<String>,
    /// Domains whose names are asked of resolvers of their own.
    #[serde(default)]
    pub split: Vec<SplitText>,
    /// Resolvers for everything else; empty: each host's own.
    #[serde(default)]
    pub nameservers: Vec<String>,
    /// Records for everybody; absent: those that are there stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub records: Option<Vec<RecordText>>,
    /// What is there for some only; absent: what is there stays.
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    pub bound: Option<Vec<BoundText>>,
}

/// A record set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordText {
    /// The name; one word means one in the mesh's domain, `suffix:d` the subtree of `d`.
    pub name: String,
    /// Its type; absent: as the values tell.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The values.
    pub values: Vec<String>,
    /// Seconds to cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u32>,
}

/// What is there for some only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BoundText {
    /// Users, groups and tags, as a policy names them.
    pub who: Vec<String>,
    /// Records.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub records: Vec<RecordText>,
    /// Domains whose names are asked of resolvers of their own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub split: Vec<SplitText>,
    /// Resolvers for everything else; none: as for everybody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    /// Further search domains.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
}

impl Service {
    /// All names of the mesh.
    ///
    /// # Errors
    /// When the actor may not.
    pub fn declared_names(&self, actor: &Actor) -> Result<Declared, ServiceError> {
        Self::require(actor, Permission::Read)?;
        Ok(declared(&self.model()))
    }

    /// Sets all names of the mesh; nothing happens when they are so already, or something is wrong.
    ///
    /// # Errors
    /// When the actor may not, the file says what cannot be, or the database fails.
    pub async fn declare_names(
        &self,
        actor: &Actor,
        file: Declared,
        now: UnixSeconds,
    ) -> Result<Declared, ServiceError> {
        Self::require(actor, Permission::ManageDns)?;
        let turn = self.lock().await?;
        let model = &turn.model;
        let mut writes = Vec::new();
        let mesh = resolved(&model.mesh, file.search, file.split, file.nameservers)?;
        if mesh != model.mesh {
            writes.push(Write::PutMesh(mesh));
        }
        if let Some(texts) = &file.records {
            let wanted = records(model, texts)?;
            let gone = model.records.keys().filter(|key| !wanted.contains_key(*key));
            writes.extend(gone.map(|(name, kind)| Write::DeleteRecord(name.clone(), *kind)));
            let new = wanted.into_iter().filter(|(key, set)| model.records.get(key) != Some(set));
            writes.extend(new.map(|((name, kind), set)| Write::PutRecord(name, kind, set)));
        }
        if let Some(texts) = file.bound {
            let wanted = bound(model, texts)?;
            let gone = model.bound.keys().filter(|who| !wanted.contains_key(*who));
            writes.extend(gone.map(|who| Write::PutBound(who.clone(), Bound::default())));
            let new = wanted.into_iter().filter(|(who, b)| model.bound.get(who).map(|old| &**old) != Some(b));
            writes.extend(new.map(|(who, b)| Write::PutBound(who, b)));
        }
        if !writes.is_empty() {
            let what = format!("{} changes by a file", writes.len());
            let audit = vec![draft(actor, "dns.apply", &model.mesh.name, what)];
            turn.commit(Batch { at: now, writes, audit, ..Batch::default() }).await?;
        }
        Ok(declared(&self.model()))
    }
}

fn resolved(
    mesh: &MeshSettings,
    search: Vec<String>,
    split: Vec<SplitText>,
    nameservers: Vec<String>,
) -> Result<MeshSettings, ServiceError> {
    let mut mesh = mesh.clone();
    apply(&mut mesh, ResolvingChange::Whole(Resolving { search, split, nameservers }))?;
    Ok(mesh)
}

fn records(model: &Model, texts: &[RecordText]) -> Result<Records, ServiceError> {
    if texts.len() > MAX_RECORDS {
        return Err(ServiceError::Invalid(format!("{} records: at most {MAX_RECORDS}", texts.len())));
    }
    let mut all = Records::new();
    for text in texts {
        let name = full_name(model, &text.name)?;
        let wrong = |why: String| ServiceError::Invalid(format!("`{name}`: {why}"));
        let named = text
            .kind
            .as_deref()
            .map(|kind| RecordType::named(kind).ok_or_else(|| wrong("this is no type of record".to_owned())));
        let named = named.transpose()?;
        let mut set = RecordSet { ttl: text.ttl.unwrap_or(DEFAULT_TTL), values: Vec::new() };
        let mut kind = named;
        for value in &text.values {
            let input = RecordInput { name: text.name.clone(), kind: named, value: value.clone(), ttl: None };
            let (its, value) = parse_value(&input)?;
            if kind.is_some_and(|kind| kind != its) {
                return Err(wrong("values of several types: write one entry for each type".to_owned()));
            }
            kind = Some(its);
            if !set.values.contains(&value) {
                set.values.push(value);
            }
        }
        let Some(kind) = kind.filter(|_| !set.values.is_empty()) else {
            return Err(wrong("it has no value".to_owned()));
        };
        if set.ttl > MAX_TTL {
            return Err(wrong(format!("a TTL has at most {MAX_TTL} seconds (a week)")));
        }
        let most = if kind == RecordType::Cname { 1 } else { limits::MAX_RECORD_VALUES };
        if set.values.len() > most {
            return Err(wrong(format!("at most {most} values of this type")));
        }
        refuse_clash(model, &all, &name, kind)?;
        if all.insert((name.clone(), kind), set).is_some() {
            return Err(wrong(format!("two entries of type {}: join them", kind.as_str())));
        }
    }
    Ok(all)
}

fn bound(model: &Model, texts: Vec<BoundText>) -> Result<BTreeMap<Audience, Bound>, ServiceError> {
    audiences_within(texts.len())?;
    let mut all = BTreeMap::new();
    for text in texts {
        let who = Audience::parse(text.who.iter().map(String::as_str), &model.policy)
            .map_err(|e| ServiceError::Invalid(e.to_string()))?;
        let mut bound = Bound { records: records(model, &text.records)?, ..Bound::default() };
        bound.take(resolved(&model.mesh, text.search, text.split, text.nameservers)?);
        within(&bound)?;
        if bound.is_empty() || all.contains_key(&who) {
            return Err(ServiceError::Invalid(format!("`{who}` needs one entry that says something")));
        }
        all.insert(who, bound);
    }
    Ok(all)
}

fn declared(model: &Model) -> Declared {
    let Resolving { search, split, nameservers } = shown(&model.mesh);
    let bound = model.bound.iter().map(|(who, bound)| {
        let Resolving { search, split, nameservers } = shown(&bound.as_mesh(&model.mesh));
        let who = who.who().map(str::to_owned).collect();
        BoundText { who, records: texts(&bound.records), split, nameservers, search }
    });
    let bound = Some(bound.collect());
    Declared { search, split, nameservers, records: Some(texts(&model.records)), bound }
}

fn texts(records: &Records) -> Vec<RecordText> {
    let text = |((name, kind), set): (&(_, RecordType), &RecordSet)| RecordText {
        name: shown_name(name),
        kind: Some(kind.as_str().to_owned()),
        values: set.values.iter().map(show_value).collect(),
        ttl: Some(set.ttl),
    };
    records.iter().map(text).collect()
}

/// A record's name as a person writes it.
fn shown_name(name: &meshd_proto::DnsName) -> String {
    match name.subtree() {
        Some(top) => format!("suffix:{top}"),
        None => name.to_string(),
    }
}
