//! Sees that this machine was suspended: no timer runs meanwhile, and afterwards every path, mapping and
//! connection may be dead although nothing has changed here.
//!
//! Of two clocks one counts sleep and one does not: when their difference has grown, it slept.

use crate::clock;
use std::time::Duration;

/// A shorter sleep leaves everything as it was.
pub const WORTH_TELLING: Duration = Duration::from_secs(2);
/// How often the clocks are looked at. This timer stands still during the sleep as well, so that a
/// resume is seen within this time.
const LOOK: Duration = Duration::from_secs(1);

/// A watch for suspends.
#[derive(Debug)]
pub struct Suspends<C = fn() -> Duration> {
    /// All the time this machine was suspended so far.
    suspended: C,
    known: Duration,
    look: Duration,
}

impl Suspends {
    /// Watches from now on.
    pub fn watch() -> Self {
        Self::new(clock::suspended, LOOK)
    }
}

impl<C: FnMut() -> Duration> Suspends<C> {
    fn new(mut suspended: C, look: Duration) -> Self {
        let known = suspended();
        Self { suspended, known, look }
    }

    /// How long the machine was suspended, once it is awake again. May be dropped while waiting.
    pub async fn resumed(&mut self) -> Duration {
        loop {
            let now = (self.suspended)();
            let slept = now.saturating_sub(self.known);
            if slept >= WORTH_TELLING {
                self.known = now;
                return slept;
            }
            tokio::time::sleep(self.look).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[tokio::test]
    async fn a_suspend_is_told_once_with_its_length_and_a_nap_is_not() {
        const AWHILE: Duration = Duration::from_millis(50);
        let slept = Cell::new(Duration::from_secs(3600));
        let mut suspends = Suspends::new(|| slept.get(), Duration::from_millis(1));
        let none = tokio::time::timeout(AWHILE, suspends.resumed()).await;
        assert!(none.is_err(), "what was before the start does not count");
        slept.set(slept.get() + Duration::from_secs(1));
        assert!(tokio::time::timeout(AWHILE, suspends.resumed()).await.is_err());
        slept.set(slept.get() + Duration::from_secs(90));
        let told = tokio::time::timeout(100 * AWHILE, suspends.resumed()).await;
        assert_eq!(told, Ok(Duration::from_secs(91)));
        assert!(tokio::time::timeout(AWHILE, suspends.resumed()).await.is_err());
    }

    #[tokio::test]
    async fn the_real_clocks_agree_while_this_machine_is_awake() {
        let before = clock::suspended();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(clock::suspended().saturating_sub(before) < Duration::from_millis(20));
    }
}
