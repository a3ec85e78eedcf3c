//! How long to leave a lost device alone before it is looked for again.

use std::time::{Duration, Instant};

use crate::clock;

/// First and longest wait. The longest leaves half of the two seconds in which a device that is back must serve.
const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(1);

/// A wait that doubles with each failure and differs between instances, so that a cluster does not come back in step.
#[derive(Debug, Default)]
pub(super) struct BackOff {
    wait: Option<Duration>,
    until: Option<Instant>,
}

impl BackOff {
    /// Another failure: wait twice as long as before.
    pub(super) fn longer(&mut self) {
        let wait = self.wait.map_or(FIRST, |wait| (wait * 2).min(LONGEST));
        let [byte] = clock::random::<1>().unwrap_or([128]);
        // Between three and five quarters of the wait, and never above the longest.
        let jittered = wait * 3 / 4 + wait * u32::from(byte) / 510;
        (self.wait, self.until) = (Some(wait), Some(Instant::now() + jittered.min(LONGEST)));
    }

    /// It works again.
    pub(super) fn reset(&mut self) {
        *self = BackOff::default();
    }

    /// Whether the device may be tried now.
    pub(super) fn is_over(&self) -> bool {
        self.remaining().is_zero()
    }

    /// What is left of the wait.
    pub(super) fn remaining(&self) -> Duration {
        self.until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_longest_and_start_again_after_success() {
        let mut back_off = BackOff::default();
        assert!(back_off.is_over());
        back_off.longer();
        assert!(!back_off.is_over() && back_off.remaining() <= FIRST * 5 / 4);
        for _ in 0..20 {
            back_off.longer();
            assert!(back_off.remaining() <= LONGEST);
        }
        assert!(back_off.remaining() > LONGEST / 2);
        back_off.reset();
        assert!(back_off.is_over());
    }
}
