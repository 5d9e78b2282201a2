//! Scenarios of `docs/scenarios.md` as tests: each is played twice, with the feature that it is about and
//! without it. Without, it must fail: a scenario that passes then proves nothing.
//!
//! A test is named after its id (`s4_3_…`), calls [`prove`] once, and asserts only by what unmodified programs
//! say inside the lab's machines. `make scenarios` reads the lines that are printed here.

use anyhow::{Result, ensure};

use crate::clock::now;

/// Whether the feature that a scenario is about is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// It is there: the scenario must succeed.
    On,
    /// It is switched off: the scenario must fail.
    Off,
}

impl Feature {
    /// Whether it is there.
    pub fn is_on(self) -> bool {
        self == Feature::On
    }
}

/// Plays scenario `id` ("S4.3") with its feature and without `feature` (a few words that name it).
pub fn prove(id: &str, feature: &str, play: impl Fn(Feature) -> Result<()>) -> Result<()> {
    let began = now();
    play(Feature::On)?;
    println!("scenario {id}: passed in {:.1} s", (now() - began).as_secs_f64());
    let began = now();
    let failed = play(Feature::Off).err();
    let took = (now() - began).as_secs_f64();
    ensure!(failed.is_some(), "{id} passes also without {feature}: it proves nothing");
    let why = failed.map(|error| error.to_string()).unwrap_or_default();
    let why: String =
        why.lines().find(|line| !line.trim().is_empty()).unwrap_or_default().chars().take(100).collect();
    println!("scenario {id} without {feature}: fails in {took:.1} s: {why}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;

    #[test]
    fn a_scenario_that_passes_without_its_feature_is_refused() {
        let refused = prove("S0.0", "anything", |_| Ok(())).unwrap_err().to_string();
        assert!(refused.contains("without anything"), "{refused}");
        let play = |wanted: Feature| {
            prove("S0.0", "it", |feature| if feature == wanted { Ok(()) } else { bail!("no") })
        };
        assert!(play(Feature::On).is_ok());
        assert!(play(Feature::Off).is_err(), "it fails with its feature");
    }
}
