//! Faults that the model checks switch on to prove that they would be seen.
//!
//! Outside the model checks [`is`] is a constant `false` and leaves nothing in the code. In them,
//! one fault is chosen per process by the variable `RINGMAIN_MUTANT`.

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
    NoLookFence,
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
    #[cfg(all(test, loom))]
    OneLaneLook,
    #[cfg(all(test, loom))]
    BellOmitsStarved,
    #[cfg(all(test, loom))]
    LateWaker,
    #[cfg(all(test, loom))]
    EarlyReturn,
    #[cfg(all(test, loom))]
    LateRegistration,
    #[cfg(all(test, loom))]
    ArmAfterLook,
    #[cfg(all(test, loom))]
    NoLookOnceArmed,
    #[cfg(all(test, loom))]
    UnarmedWhileWatched,
    #[cfg(all(test, loom))]
    OneLaneWoken,
    #[cfg(all(test, loom))]
    BitClearedLate,
    #[cfg(all(test, loom))]
    HeldReadBeforeLook,
    #[cfg(all(test, loom))]
    HeldClearedLate,
    #[cfg(all(test, loom))]
    HeldTakenBack,
}

#[cfg(not(all(test, loom)))]
#[inline(always)]
pub(crate) const fn is(_: Mutant) -> bool {
    false
}

#[cfg(all(test, loom))]
pub(crate) use chosen::{CHOICE, chosen, is};

#[cfg(all(test, loom))]
mod chosen {
    use std::sync::OnceLock;

    use super::Mutant;

    /// Environment variable that names the fault.
    pub(crate) const CHOICE: &str = "RINGMAIN_MUTANT";

    /// The fault of this process, if any. Read once, behind a std lock that loom does not see:
    /// the answer is the same in every interleaving.
    pub(crate) fn chosen() -> Option<&'static str> {
        static CHOSEN: OnceLock<Option<String>> = OnceLock::new();
        CHOSEN.get_or_init(|| std::env::var(CHOICE).ok()).as_deref()
    }

    pub(crate) fn is(mutant: Mutant) -> bool {
        chosen().is_some_and(|name| name == format!("{mutant:?}"))
    }
}
