//! `make nat-grid`: every kind of uplink against every other one, as a table. Arguments name kinds to keep.

use std::process::ExitCode;

use anyhow::Result;
use meshd_lab::grid::{Grid, Kind, head};

fn main() -> Result<ExitCode> {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let kinds: Vec<Kind> =
        Kind::ALL.into_iter().filter(|k| wanted.is_empty() || wanted.iter().any(|w| w == k.name())).collect();
    let grid = Grid::new("nat_grid", &kinds, &kinds)?;
    for (machine, why) in grid.failures() {
        println!("{machine} could not join: {}", why.lines().next().unwrap_or_default());
    }
    println!("{}", head());
    let (mut rows, mut unmet) = (0, grid.failures().len());
    for left in &grid.left {
        for right in grid.right.iter().filter(|r| left.kind <= r.kind) {
            let row = grid.measure(left, right)?;
            println!("{row}");
            rows += 1;
            unmet += usize::from(!row.holds());
        }
    }
    println!("{rows} pairs, {unmet} not as expected");
    Ok(if unmet == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
