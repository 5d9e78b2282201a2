//! Names for everybody, or for some users, groups and tags only: where a change belongs.

use super::{Actor, Permission, Service, ServiceError, resolving};
use crate::model::{Audience, Bound, MeshSettings, Model, Records, Write};
use meshd_proto::DnsName;
use meshd_proto::netmap::{RecordSet, RecordType};
use std::sync::Arc;

/// Most audiences that names are bound to.
const MAX_AUDIENCES: usize = 64;
/// Most record sets that are bound to one of them.
const MAX_BOUND_RECORDS: usize = 1024;

/// For whom something is set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Everybody,
    Only(Audience),
}

/// What is bound to an audience, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoundView {
    /// Who it is for.
    pub who: Vec<String>,
    /// What is wrong with that: a group that the policy no longer has.
    pub problem: String,
    /// Record sets, by name and type.
    pub records: Vec<(DnsName, RecordType, RecordSet)>,
    /// Split domains, nameservers and search domains.
    pub resolving: resolving::Resolving,
}

impl Service {
    /// What is bound to users, groups and tags.
    ///
    /// # Errors
    /// When the actor may not.
    pub fn bound_names(&self, actor: &Actor) -> Result<Vec<BoundView>, ServiceError> {
        Self::require(actor, Permission::Read)?;
        let model = self.model();
        let view = |(who, bound): (&Audience, &Arc<Bound>)| BoundView {
            who: who.who().map(str::to_owned).collect(),
            problem: Audience::parse(who.who(), &model.policy).err().map_or_else(String::new, |e| {
                format!("{e}: until the policy has it, it is for nobody by that name")
            }),
            records: bound.records.iter().map(|((n, k), set)| (n.clone(), *k, set.clone())).collect(),
            resolving: resolving::shown(&bound.as_mesh(&model.mesh)),
        };
        Ok(model.bound.iter().map(view).collect())
    }
}

impl Place {
    /// Reads for whom; nobody named: everybody. What is bound already is found whatever the policy says now.
    pub(super) fn of(model: &Model, who: &[String]) -> Result<Self, ServiceError> {
        let texts = || who.iter().flat_map(|text| text.split(',')).map(str::trim).filter(|t| !t.is_empty());
        if texts().next().is_none() {
            return Ok(Self::Everybody);
        }
        let known = Audience::stored(&texts().collect::<Vec<_>>().join(","));
        if let Ok(known) = known
            && model.bound.contains_key(&known)
        {
            return Ok(Self::Only(known));
        }
        let audience = Audience::parse(texts(), &model.policy);
        audience.map(Self::Only).map_err(|e| ServiceError::Invalid(e.to_string()))
    }

    /// What the audit log says of it, behind the rest.
    pub(super) fn note(&self) -> String {
        match self {
            Self::Everybody => String::new(),
            Self::Only(who) => format!(" for {who}"),
        }
    }

    /// The records that are set here.
    pub(super) fn records<'m>(&self, model: &'m Model) -> &'m Records {
        static NONE: Records = Records::new();
        match self {
            Self::Everybody => &model.records,
            Self::Only(who) => model.bound.get(who).map_or(&NONE, |bound| &bound.records),
        }
    }

    /// Settings with the resolvers and search domains that are set here.
    pub(super) fn as_mesh(&self, model: &Model) -> MeshSettings {
        match self {
            Self::Everybody => model.mesh.clone(),
            Self::Only(_) => self.bound(model).as_mesh(&model.mesh),
        }
    }

    /// The writes that set these records, or take them away.
    pub(super) fn put_records(
        &self,
        model: &Model,
        changed: Vec<((DnsName, RecordType), Option<RecordSet>)>,
    ) -> Result<Vec<Write>, ServiceError> {
        let Self::Only(_) = self else {
            let write = |((name, kind), set)| match set {
                Some(set) => Write::PutRecord(name, kind, set),
                None => Write::DeleteRecord(name, kind),
            };
            return Ok(changed.into_iter().map(write).collect());
        };
        let mut bound = self.bound(model);
        for (key, set) in changed {
            match set {
                Some(set) => drop(bound.records.insert(key, set)),
                None => drop(bound.records.remove(&key)),
            }
        }
        Ok(vec![self.put_bound(model, bound)?])
    }

    /// The write that sets what [`Place::as_mesh`] gave.
    pub(super) fn put_mesh(&self, model: &Model, mesh: MeshSettings) -> Result<Write, ServiceError> {
        let Self::Only(_) = self else { return Ok(Write::PutMesh(mesh)) };
        let mut bound = self.bound(model);
        bound.take(mesh);
        self.put_bound(model, bound)
    }

    fn bound(&self, model: &Model) -> Bound {
        match self {
            Self::Everybody => Bound::default(),
            Self::Only(who) => model.bound.get(who).map_or_else(Bound::default, |bound| (**bound).clone()),
        }
    }

    fn put_bound(&self, model: &Model, bound: Bound) -> Result<Write, ServiceError> {
        let Self::Only(who) = self else {
            return Err(ServiceError::Invalid("nobody is named".to_owned()));
        };
        within(&bound)?;
        if !model.bound.contains_key(who) && model.bound.len() >= MAX_AUDIENCES {
            return Err(too_many_audiences());
        }
        Ok(Write::PutBound(who.clone(), bound))
    }
}

/// Refuses more than one audience may have.
pub(super) fn within(bound: &Bound) -> Result<(), ServiceError> {
    if bound.records.len() > MAX_BOUND_RECORDS {
        return Err(ServiceError::Conflict(format!(
            "at most {MAX_BOUND_RECORDS} record sets are bound to the same users, groups and tags"
        )));
    }
    Ok(())
}

/// Refuses more audiences than there may be.
pub(super) fn audiences_within(count: usize) -> Result<(), ServiceError> {
    if count > MAX_AUDIENCES { Err(too_many_audiences()) } else { Ok(()) }
}

fn too_many_audiences() -> ServiceError {
    ServiceError::Conflict(format!(
        "names are bound to {MAX_AUDIENCES} sets of users, groups and tags at most: use a group"
    ))
}
