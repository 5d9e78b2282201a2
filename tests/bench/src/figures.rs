//! The figures that the design promises for throughput, cost, footprint and start, each judged by what
//! this run measured.

use crate::contestant::Kind;
use crate::iperf::Direction;
use crate::measure::{self, memory_metric, tcp_metric};
use crate::samples::Samples;
use crate::settings::Settings;
use crate::start::FIRST_PING;
use crate::table::{align, number};
use crate::thousand;
use crate::underlay::Underlay;
use std::collections::BTreeMap;

/// One promise and what became of it.
#[derive(Debug)]
pub(crate) struct Figure {
    pub(crate) what: String,
    pub(crate) measured: Option<f64>,
    /// The floor or ceiling.
    pub(crate) wanted: f64,
    /// Beyond the promise.
    pub(crate) aim: Option<f64>,
    /// Whether more is better.
    more: bool,
}

impl Figure {
    /// Nothing when it was not measured.
    pub(crate) fn reached(&self) -> Option<bool> {
        self.measured.map(|m| if self.more { m >= self.wanted } else { m <= self.wanted })
    }

    pub(crate) fn verdict(&self) -> &'static str {
        let aimed = |m: f64| self.aim.is_some_and(|aim| if self.more { m >= aim } else { m <= aim });
        match (self.reached(), self.measured) {
            (None, _) => "not measured",
            (Some(false), _) => "NOT REACHED",
            (Some(true), Some(m)) if aimed(m) => "reached, aim too",
            (Some(true), _) => "reached",
        }
    }
}

/// Judges a run.
pub(crate) fn judge(samples: &Samples, bounds: &BTreeMap<Underlay, f64>, settings: &Settings) -> Vec<Figure> {
    let mut all = Vec::new();
    for &underlay in &settings.underlays {
        speed(samples, bounds, underlay, &mut all);
    }
    footprint(samples, &mut all);
    all
}

fn speed(samples: &Samples, bounds: &BTreeMap<Underlay, f64>, underlay: Underlay, all: &mut Vec<Figure>) {
    let on = Some(underlay);
    let ratio = |kind: Kind, metric: &str| {
        Some(samples.median(Kind::Meshd, on, metric)? / samples.median(kind, on, metric)?)
    };
    let mut add = |what: String, measured: Option<f64>, wanted: f64, aim: Option<f64>, more: bool| {
        all.push(Figure { what: format!("{what} [{}]", underlay.name()), measured, wanted, aim, more });
    };
    for streams in [1, 4] {
        let metric = tcp_metric(streams, Direction::Forth);
        let name = format!("TCP {streams}");
        add(format!("{name}: × boringtun-cli"), ratio(Kind::BoringTun, &metric), 5.0, Some(8.0), true);
        add(format!("{name}: × wireguard-go"), ratio(Kind::WireguardGo, &metric), 1.5, Some(2.5), true);
        let share = samples.median(Kind::Meshd, on, &metric).zip(bounds.get(&underlay)).map(|(m, b)| m / b);
        add(format!("{name}: share of the crypto+TCP bound"), share, 0.4, Some(0.6), true);
    }
    add(
        "CPU-s/GB per side: × wireguard-go".into(),
        ratio(Kind::WireguardGo, measure::COST),
        0.6,
        Some(0.45),
        false,
    );
    let loaded = ratio(Kind::WireguardGo, measure::PING_LOADED);
    add("ping under load: × wireguard-go".into(), loaded, 0.6, None, false);
    add("UDP 64 B: × boringtun-cli".into(), ratio(Kind::BoringTun, measure::UDP_SMALL), 1.3, None, true);
}

fn footprint(samples: &Samples, all: &mut Vec<Figure>) {
    let worst = |metric: &str| samples.all(Kind::Meshd, None, metric).iter().copied().reduce(f64::max);
    let mut add = |what: &str, measured: Option<f64>, wanted: f64| {
        all.push(Figure { what: what.to_owned(), measured, wanted, aim: None, more: false });
    };
    add("RSS idle, MiB", worst(&memory_metric("RSS", "idle")), 16.0);
    add("RSS after load, MiB", worst(&memory_metric("RSS", "after load")), 32.0);
    add("RSS with 1,000 peers, MiB", worst(&memory_metric("RSS", thousand::WHEN)), 45.0);
    add("CPU with 1,000 peers, % of a core", worst(thousand::CPU), 1.0);
    add("`up` to first reply by name, ms", worst(FIRST_PING), 1000.0);
}

/// The list as text.
pub(crate) fn render(figures: &[Figure]) -> String {
    let mut rows: Vec<Vec<String>> =
        vec![["figure", "measured", "wanted", "aim", ""].map(str::to_owned).to_vec()];
    rows.extend(figures.iter().map(|f| {
        let sign = if f.more { "≥" } else { "≤" };
        vec![
            f.what.clone(),
            f.measured.map_or("·".to_owned(), number),
            format!("{sign} {}", number(f.wanted)),
            f.aim.map_or(String::new(), |aim| format!("{sign} {}", number(aim))),
            f.verdict().to_owned(),
        ]
    }));
    align(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(measured: Option<f64>, more: bool) -> &'static str {
        Figure { what: String::new(), measured, wanted: 2.0, aim: Some(if more { 4.0 } else { 1.0 }), more }
            .verdict()
    }

    #[test]
    fn a_figure_is_reached_only_by_a_measurement_on_the_right_side() {
        assert_eq!(figure(None, true), "not measured");
        assert_eq!(figure(Some(1.9), true), "NOT REACHED");
        assert_eq!(figure(Some(2.0), true), "reached");
        assert_eq!(figure(Some(4.0), true), "reached, aim too");
        assert_eq!(figure(Some(2.1), false), "NOT REACHED");
        assert_eq!(figure(Some(0.9), false), "reached, aim too");
    }
}
