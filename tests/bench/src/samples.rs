//! What was measured: values by contestant, underlay and metric, in the order of rounds.

use crate::contestant::Kind;
use crate::underlay::Underlay;
use std::collections::BTreeMap;

/// Whose value, and of what.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    /// Nothing for what does not depend on the cable.
    pub(crate) underlay: Option<Underlay>,
    /// With its unit, as in `TCP 1 → Gb/s`.
    pub(crate) metric: String,
    pub(crate) kind: Kind,
}

/// All values of a run.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    values: BTreeMap<Key, Vec<f64>>,
}

impl Samples {
    pub(crate) fn push(&mut self, kind: Kind, underlay: Option<Underlay>, metric: &str, value: f64) {
        let key = Key { underlay, metric: metric.to_owned(), kind };
        self.values.entry(key).or_default().push(value);
    }

    pub(crate) fn all(&self, kind: Kind, underlay: Option<Underlay>, metric: &str) -> &[f64] {
        let key = Key { underlay, metric: metric.to_owned(), kind };
        self.values.get(&key).map_or(&[], Vec::as_slice)
    }

    /// The median of rounds.
    pub(crate) fn median(&self, kind: Kind, underlay: Option<Underlay>, metric: &str) -> Option<f64> {
        median(self.all(kind, underlay, metric))
    }

    pub(crate) fn min(&self, kind: Kind, underlay: Option<Underlay>, metric: &str) -> Option<f64> {
        self.all(kind, underlay, metric).iter().copied().reduce(f64::min)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Key, &[f64])> {
        self.values.iter().map(|(key, values)| (key, values.as_slice()))
    }
}

/// The middle value, or the mean of both in the middle.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len();
    match n {
        0 => None,
        _ if n % 2 == 1 => Some(sorted[n / 2]),
        _ => Some((sorted[n / 2 - 1] + sorted[n / 2]) / 2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_of_the_sorted_values() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn values_of_one_contestant_do_not_mix_with_those_of_another() {
        let mut samples = Samples::default();
        samples.push(Kind::Meshd, Some(Underlay::Cut), "x", 1.0);
        samples.push(Kind::Meshd, Some(Underlay::Whole), "x", 2.0);
        samples.push(Kind::Nebula, Some(Underlay::Cut), "x", 3.0);
        assert_eq!(samples.all(Kind::Meshd, Some(Underlay::Cut), "x"), [1.0]);
        assert_eq!(samples.median(Kind::Nebula, Some(Underlay::Cut), "x"), Some(3.0));
        assert_eq!(samples.min(Kind::Nebula, None, "x"), None);
    }
}
