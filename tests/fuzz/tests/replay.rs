//! Every committed input still passes its target; a finding becomes a file here and stays one.

use std::path::Path;

#[test]
fn every_committed_input_passes_its_target() {
    for (name, target) in meshd_fuzz::TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
        let mut count = 0;
        for file in std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
            target(&std::fs::read(file.unwrap().path()).unwrap());
            count += 1;
        }
        assert!(count >= 5, "{name} has {count} inputs only");
    }
}
