//! The one table: a line for each figure, a column for each contestant, and in brackets what ours is
//! of theirs.

use crate::bound;
use crate::contestant::{Contestant, Kind};
use crate::iperf::Direction;
use crate::measure::{self, memory_metric, tcp_metric};
use crate::samples::Samples;
use crate::start::FIRST_PING;
use crate::thousand;
use crate::underlay::Underlay;
use crate::userspace;
use std::collections::BTreeMap;

/// What the table shows of each underlay, in this order.
fn per_underlay() -> Vec<String> {
    let tcp = [1, 4, 8].into_iter().flat_map(|streams| {
        [Direction::Forth, Direction::Back].map(|direction| tcp_metric(streams, direction))
    });
    let rest = [
        measure::COST,
        "TCP CPU-s/GB sending side",
        "TCP CPU-s/GB receiving side",
        measure::RETRANSMITS,
        measure::PING_IDLE,
        measure::PING_LOADED,
        "ping under load p95 ms",
        measure::UDP_SMALL,
        "UDP 64 B kpps at ≤ 1 % loss",
        measure::UDP_LARGE,
        "UDP 1280 B Gb/s at ≤ 1 % loss",
    ];
    tcp.chain(rest.map(str::to_owned)).collect()
}

/// What it shows once.
fn once() -> Vec<String> {
    let mut all = vec![FIRST_PING.to_owned()];
    for when in ["idle", "after load"] {
        all.extend(["RSS", "PSS"].map(|what| memory_metric(what, when)));
    }
    all.extend(["threads", measure::IDLE_CPU, measure::IDLE_WAKEUPS, bound::HANDSHAKES].map(str::to_owned));
    all.extend(["RSS", "PSS"].map(|what| memory_metric(what, thousand::WHEN)));
    all.extend([thousand::CPU, thousand::WAKEUPS, thousand::JOIN].map(str::to_owned));
    all.extend(userspace::WAYS.map(str::to_owned));
    all.push(userspace::MEMORY.to_owned());
    all
}

/// The table as text.
pub(crate) fn render(
    all: &[Contestant],
    underlays: &[Underlay],
    samples: &Samples,
    bounds: &BTreeMap<Underlay, f64>,
) -> String {
    let kinds: Vec<Kind> = all.iter().map(|c| c.kind).collect();
    let mut rows = vec![head(&kinds)];
    for underlay in underlays {
        let bound = bounds.get(underlay).map_or(String::new(), |b| format!(", bound {b:.2} Gb/s"));
        rows.push(vec![format!("cable `{}`{bound}", underlay.name())]);
        rows.extend(per_underlay().iter().filter_map(|m| row(&kinds, Some(*underlay), m, samples)));
    }
    rows.push(vec!["any cable".to_owned()]);
    rows.extend(once().iter().filter_map(|m| row(&kinds, None, m, samples)));
    format!(
        "{}\nMedians of rounds. In brackets: meshd's figure divided by that contestant's.\n",
        align(&rows)
    )
}

fn head(kinds: &[Kind]) -> Vec<String> {
    let mut head = vec![String::new()];
    head.extend(kinds.iter().map(|k| k.name().to_owned()));
    head
}

/// Nothing when nobody has that figure.
fn row(kinds: &[Kind], underlay: Option<Underlay>, metric: &str, samples: &Samples) -> Option<Vec<String>> {
    let ours = samples.median(Kind::Meshd, underlay, metric);
    let mut seen = false;
    let mut cells = vec![format!("  {metric}")];
    for kind in kinds {
        let Some(value) = samples.median(*kind, underlay, metric) else {
            cells.push("·".to_owned());
            continue;
        };
        seen = true;
        let shown = number(value);
        cells.push(match ours {
            Some(ours) if *kind != Kind::Meshd && value > 0.0 => format!("{shown} ({:.2})", ours / value),
            _ => shown,
        });
    }
    seen.then_some(cells)
}

/// Three figures that count.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 0.1 || v == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// Columns of one width, the first to the left, the others to the right.
pub(crate) fn align(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let cell = |row: &Vec<String>, i: usize| row.get(i).map_or(0, |c| c.chars().count());
    let heading = |row: &Vec<String>| row.len() == 1;
    let widths: Vec<usize> = (0..columns)
        .map(|i| rows.iter().filter(|r| !heading(r)).map(|r| cell(r, i)).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().enumerate().map(|(i, cell)| {
            let width = widths[i];
            if i == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_is_divided_by_each_of_theirs() {
        let mut samples = Samples::default();
        let on = Some(Underlay::Cut);
        samples.push(Kind::Meshd, on, "m", 3.0);
        samples.push(Kind::BoringTun, on, "m", 1.5);
        let cells = row(&[Kind::Veth, Kind::Meshd, Kind::BoringTun], on, "m", &samples).unwrap();
        assert_eq!(cells, ["  m", "·", "3.00", "1.50 (2.00)"]);
        assert!(row(&[Kind::Meshd], on, "other", &samples).is_none());
    }
}
