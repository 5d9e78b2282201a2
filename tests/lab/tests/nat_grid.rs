//! Twelve pairs of uplinks, from the easiest to the most difficult. `make nat-grid` measures all.

use anyhow::Result;
use meshd_lab::grid::{Grid, Kind, expect, head};

#[test]
fn every_pair_of_nats_that_can_be_crossed_is_crossed_and_the_others_use_the_relay() -> Result<()> {
    let left = [Kind::Home, Kind::Symmetric, Kind::CgnatHome];
    let right = [Kind::None, Kind::UdpBlocked, Kind::Home, Kind::Symmetric];
    let grid = Grid::new("nat_grid_ci", &left, &right)?;
    assert!(grid.failures().is_empty(), "{:?}", grid.failures());
    println!("{}", head());
    let mut wrong = Vec::new();
    for (kind, a) in &grid.left {
        for (other, b) in &grid.right {
            let row = grid.measure(a, b, expect(*kind, *other))?;
            println!("{row}");
            if !row.holds() {
                wrong.push(row);
            }
        }
    }
    assert!(wrong.is_empty(), "not as expected: {wrong:#?}");
    Ok(())
}
