//! What the service publishes: the current model with a bounded history for diffs.

use super::{Change, Model};
use meshd_proto::Version;
use std::collections::VecDeque;
use std::sync::Arc;

/// How many steps of history stay in memory. Who acknowledged an older version gets a snapshot.
pub const HISTORY: usize = 256;

/// One version of the log with the model it led to.
#[derive(Clone, Debug)]
pub struct Step {
    /// The version; equals `model.version`.
    pub version: Version,
    /// The model at that version.
    pub model: Arc<Model>,
    /// What this version touched.
    pub changes: Vec<Change>,
}

/// The current model and how it came about. Published whole by a watch channel: who reads late skips
/// versions and loses none, because the history has them.
#[derive(Clone, Debug)]
pub struct Published {
    /// The newest model.
    pub model: Arc<Model>,
    /// The newest steps, oldest first, without gaps. The last one led to `model`. Empty after a start.
    pub history: VecDeque<Arc<Step>>,
    /// The oldest version a diff can start from: the one before the first step of `history`.
    pub base: Arc<Model>,
}

impl Published {
    /// The state after a start: no history.
    pub fn starting(model: Arc<Model>) -> Self {
        Self { base: model.clone(), model, history: VecDeque::new() }
    }

    /// The state after one more commit.
    #[must_use]
    pub fn next(&self, step: Step) -> Self {
        debug_assert_eq!(step.version.0, self.model.version.0 + 1);
        let (mut history, mut base) = (self.history.clone(), self.base.clone());
        let model = step.model.clone();
        history.push_back(Arc::new(step));
        while history.len() > HISTORY {
            if let Some(oldest) = history.pop_front() {
                base = oldest.model.clone();
            }
        }
        Self { model, history, base }
    }

    /// The model at exactly `version`, when it is still in memory.
    pub fn at(&self, version: Version) -> Option<&Arc<Model>> {
        if version == self.base.version {
            return Some(&self.base);
        }
        let index = version.0.checked_sub(self.base.version.0 + 1)?;
        self.history.get(usize::try_from(index).ok()?).map(|step| &step.model)
    }

    /// Everything touched after `version`, in order; `None` when the log in memory begins later.
    pub fn changes_after(&self, version: Version) -> Option<impl Iterator<Item = &Change>> {
        let skip = usize::try_from(version.0.checked_sub(self.base.version.0)?).ok()?;
        (skip <= self.history.len()).then(|| self.history.iter().skip(skip).flat_map(|s| s.changes.iter()))
    }
}
