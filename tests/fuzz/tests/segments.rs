//! Random inputs for splitting and joining, the same in every run: what libFuzzer begins with, where
//! there is none.

#[test]
fn random_runs_of_segments_come_through() {
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..400 {
        let len = next() as usize % 200;
        let bytes: Vec<u8> = (0..len).map(|_| next() as u8).collect();
        meshd_fuzz::segments(&bytes);
    }
}
