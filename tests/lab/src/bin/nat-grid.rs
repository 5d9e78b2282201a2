//! `make nat-grid`: every kind of uplink against every other one, and neighbours, as a table. Arguments name kinds
//! to keep. The exit status is non-zero when a pair's path is of another kind than it should be; a late one is
//! counted.

use std::process::ExitCode;

use anyhow::Result;
use meshd_lab::grid::{Grid, Kind, Neighbours, Row, expect, head};

fn main() -> Result<ExitCode> {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let keep = |name: &str| wanted.is_empty() || wanted.iter().any(|w| w == name);
    let kinds: Vec<Kind> = Kind::ALL.into_iter().filter(|k| keep(k.name())).collect();
    let grid = Grid::new("nat_grid", &kinds, &kinds)?;
    for (machine, why) in grid.failures() {
        println!("{machine} could not join: {}", why.lines().next().unwrap_or_default());
    }
    println!("{}", head());
    let mut rows = Vec::new();
    let mut show = |row: Row| {
        println!("{row}");
        rows.push(row);
    };
    for (kind, left) in &grid.left {
        for (other, right) in grid.right.iter().filter(|(other, _)| kind <= other) {
            show(grid.measure(left, right, expect(*kind, *other))?);
        }
    }
    for kind in Neighbours::ALL.into_iter().filter(|k| keep(k.name())) {
        let [left, right] = grid.neighbours(kind)?;
        show(grid.measure(&left, &right, kind.expect())?);
    }
    Ok(summary(&grid, &rows))
}

/// Counts what reached its goal and what did not.
fn summary(grid: &Grid, rows: &[Row]) -> ExitCode {
    let count = |holds: &dyn Fn(&Row) -> bool| rows.iter().filter(|row| holds(row)).count();
    let direct: Vec<bool> = rows.iter().filter_map(Row::direct_in_time).collect();
    let unmet = rows.len() - count(&Row::holds) + grid.failures().len();
    println!(
        "{} pairs: {} as expected; first answer within 1 s: {}; direct in time: {} of {}; {} nodes could not join",
        rows.len(),
        count(&Row::holds),
        count(&Row::answers_in_time),
        direct.iter().filter(|in_time| **in_time).count(),
        direct.len(),
        grid.failures().len()
    );
    println!("{} reached every goal, {} missed one", count(&Row::reaches), rows.len() - count(&Row::reaches));
    if unmet == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
