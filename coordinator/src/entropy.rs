//! The only place in this crate that draws randomness.

/// Random bytes of the operating system.
///
/// # Panics
/// When the system has no random source: nothing this program does would be safe then.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system's random source works");
    bytes
}
