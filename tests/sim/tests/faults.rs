//! The faults of `make sim-mutants` can still be put in.

use meshd_sim::faults::FAULTS;
use std::path::Path;

#[test]
fn every_fault_has_its_place_in_the_engine() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    assert!(FAULTS.len() >= 12);
    for fault in FAULTS {
        for edit in fault.edits {
            let text = std::fs::read_to_string(root.join(edit.file)).expect("a file of the engine");
            let wrong = edit.apply(&text).unwrap_or_else(|why| panic!("{}: {why}", fault.name));
            assert_ne!(text, wrong, "{}", fault.name);
        }
    }
}
