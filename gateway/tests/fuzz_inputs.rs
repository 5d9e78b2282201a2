//! The committed inputs of the fuzz target `gateway_wire` pass it; a finding stays one of them.

#[expect(unreachable_pub, reason = "it is the fuzz crate's own file")]
#[path = "../../tests/fuzz/src/gateway.rs"]
mod target;

#[test]
fn every_committed_input_of_the_wire_parsers_passes() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus/gateway_wire");
    let mut count = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        target::gateway_wire(&std::fs::read(file.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count >= 5);
}
