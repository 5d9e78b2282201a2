//! The plot of a run as SVG: TCP throughput of each contestant, on both cables, bars with the range of
//! rounds. Plain text; no drawing library.

use crate::contestant::Kind;
use crate::iperf::Direction;
use crate::measure::tcp_metric;
use crate::samples::Samples;
use crate::underlay::Underlay;
use std::fmt::Write;

const LEFT: f64 = 120.0;
const WIDTH: f64 = 760.0;
const BAR: f64 = 11.0;
const GAP: f64 = 8.0;

/// What the bars of one contestant show: streams and colour.
const BARS: [(u32, &str); 2] = [(1, "#2563a8"), (4, "#7fb2e5")];

/// The plot, one panel for each underlay.
pub(crate) fn svg(kinds: &[Kind], underlays: &[Underlay], samples: &Samples, caption: &str) -> String {
    let group = BARS.len() as f64 * BAR + GAP;
    let panel = kinds.len() as f64 * group + 46.0;
    let height = panel * underlays.len() as f64 + 60.0;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\" role=\"img\"><title>TCP throughput through the tunnel</title>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    let top = underlays
        .iter()
        .flat_map(|u| kinds.iter().flat_map(move |k| BARS.map(|(s, _)| (*u, *k, s))))
        .filter(|(_, kind, _)| *kind != Kind::Veth)
        .filter_map(|(u, k, s)| range(samples, u, k, s))
        .fold(0.1, |top, (_, _, max)| f64::max(top, max));
    for (index, underlay) in underlays.iter().enumerate() {
        let y = index as f64 * panel + 24.0;
        let _ = writeln!(
            out,
            "<text x=\"8\" y=\"{y}\" font-weight=\"bold\">cable `{}`, Gb/s</text>",
            underlay.name()
        );
        for (row, kind) in kinds.iter().enumerate() {
            let y = y + 12.0 + row as f64 * group;
            let _ = writeln!(
                out,
                "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>",
                LEFT - 8.0,
                y + BAR + 3.0,
                kind.name()
            );
            for (bar, (streams, colour)) in BARS.iter().enumerate() {
                if let Some(values) = range(samples, *underlay, *kind, *streams) {
                    draw(&mut out, y + bar as f64 * BAR, values, top, colour);
                }
            }
        }
    }
    let foot = height - 30.0;
    for (index, (streams, colour)) in BARS.iter().enumerate() {
        let x = LEFT + index as f64 * 120.0;
        let _ = writeln!(
            out,
            "<rect x=\"{x}\" y=\"{}\" width=\"11\" height=\"11\" fill=\"{colour}\"/>",
            foot - 10.0
        );
        let s = if *streams == 1 { "stream" } else { "streams" };
        let _ = writeln!(out, "<text x=\"{}\" y=\"{foot}\">{streams} {s}</text>", x + 16.0);
    }
    let _ = writeln!(
        out,
        "<text x=\"8\" y=\"{}\" fill=\"#555\">{}</text>\n</svg>",
        height - 10.0,
        escape(caption)
    );
    out
}

/// Minimum, median and maximum of rounds.
fn range(samples: &Samples, underlay: Underlay, kind: Kind, streams: u32) -> Option<(f64, f64, f64)> {
    let metric = tcp_metric(streams, Direction::Forth);
    let on = Some(underlay);
    let max = samples.all(kind, on, &metric).iter().copied().reduce(f64::max)?;
    Some((samples.min(kind, on, &metric)?, samples.median(kind, on, &metric)?, max))
}

/// A bar to the median, a line from minimum to maximum, the number behind it. What is longer than the
/// scale (the plain cable) ends at its edge.
fn draw(out: &mut String, y: f64, (min, mid, max): (f64, f64, f64), top: f64, colour: &str) {
    let scale = (WIDTH - LEFT - 70.0) / top;
    let x = |value: f64| LEFT + value.min(top) * scale;
    let (h, middle) = (BAR - 1.0, y + BAR / 2.0);
    let _ = writeln!(
        out,
        "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{:.1}\" height=\"{h}\" fill=\"{colour}\"/>",
        x(mid) - LEFT
    );
    let _ = writeln!(out, "<path d=\"M{:.1} {middle}H{:.1}\" stroke=\"#222\"/>", x(min), x(max));
    let more = if mid > top { " →" } else { "" };
    let _ = writeln!(
        out,
        "<text x=\"{:.1}\" y=\"{}\" font-size=\"10\">{mid:.2}{more}</text>",
        x(max) + 4.0,
        y + BAR - 2.0
    );
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_contestant_has_its_bars_and_the_text_is_escaped() {
        let mut samples = Samples::default();
        for value in [1.0, 3.0, 2.0] {
            samples.push(Kind::Meshd, Some(Underlay::Cut), &tcp_metric(1, Direction::Forth), value);
        }
        let svg = svg(&[Kind::Meshd], &[Underlay::Cut], &samples, "a < b");
        assert!(
            svg.contains(">meshd</text>") && svg.contains(">2.00</text>") && svg.contains("a &lt; b"),
            "{svg}"
        );
        assert!(svg.trim_end().ends_with("</svg>"));
    }
}
