//! Faults that the model checks switch on to prove that they would be seen.
//!
//! Outside `cfg(loom)` [`is`] is a constant `false` and leaves nothing in the code. Under loom one
//! fault is chosen per process by the variable `RINGMAIN_MUTANT`.

/// A rule of the protocol, broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    // Lane.
    NoClearNext,
    NoClearAfterSkip,
    ClearAfterPublish,
    RelaxedPublish,
    NoAcquireFence,
    RelaxedCursor,
    NoCursorFence,
    EarlyRelease,
    NoFreeLine,
    NoReserve,
    // Armed.
    NoWriterFence,
    FenceBeforePublish,
    NoSleeperFence,
    LookOnlyBeforeArming,
    NoEpoch,
    // Starved.
    NoStarvedWriterFence,
    NoStarvedConsumerFence,
    RecheckBeforeStore,
    PublishOnlyWholeLane,
    // Submission, loan, cancel.
    RelaxedSubmission,
    NoSubmissionFence,
    RelaxedLoan,
    NoLoanFence,
    AnyLoan,
    CancelByLane,
    TerminalCursorKept,
    // What the models themselves do in the place of a session.
    #[cfg(loom)]
    OneLaneLook,
    #[cfg(loom)]
    BellOmitsStarved,
    #[cfg(loom)]
    LateWaker,
    #[cfg(loom)]
    LateReturn,
}

#[cfg(not(loom))]
#[inline(always)]
pub(crate) const fn is(_: Mutant) -> bool {
    false
}

#[cfg(loom)]
pub(crate) use chosen::{CHOICE, is};

#[cfg(loom)]
mod chosen {
    use std::sync::OnceLock;

    use super::Mutant;

    /// Environment variable that names the fault.
    pub(crate) const CHOICE: &str = "RINGMAIN_MUTANT";

    pub(crate) fn is(mutant: Mutant) -> bool {
        // A std lock, invisible to loom: the answer never changes within a process.
        static CHOSEN: OnceLock<String> = OnceLock::new();
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(u32::MAX);
        let number = NUMBER.load(std::sync::atomic::Ordering::Relaxed);
        if number < 1000 {
            return number == mutant as u32;
        }
        let chosen = CHOSEN.get_or_init(|| std::env::var(CHOICE).unwrap_or_default());
        if chosen.is_empty() {
            NUMBER.store(999, std::sync::atomic::Ordering::Relaxed);
            return false;
        }
        let same = *chosen == format!("{mutant:?}");
        if same {
            NUMBER.store(mutant as u32, std::sync::atomic::Ordering::Relaxed);
        }
        same
    }
}
