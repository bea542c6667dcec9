//! Breaks one rule after the other and asserts that a model sees it.

use std::env;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::mutant::{CHOICE, Mutant, chosen};

/// Children at a time.
const CHILDREN: usize = 2;

/// Each fault and the model that has to see it.
const CASES: &[(Mutant, &str)] = &[
    (Mutant::NoClearNext, "lane::loom_lane_2212"),
    (Mutant::NoClearAfterSkip, "lane::loom_lane_122211"),
    (Mutant::ClearAfterPublish, "lane::loom_lane_2212"),
    (Mutant::RelaxedPublish, "lane::loom_lane_2212"),
    (Mutant::NoAcquireFence, "lane::loom_lane_2212"),
    (Mutant::RelaxedCursor, "lane::loom_lane_122211"),
    (Mutant::NoCursorFence, "lane::loom_lane_122211"),
    (Mutant::EarlyRelease, "lane::loom_lane_122211"),
    (Mutant::EarlyRelease, "lane::loom_lane_copied"),
    (Mutant::NoAcquireFence, "lane::loom_lane_texts"),
    (Mutant::RelaxedPublish, "lane::loom_lane_texts"),
    (Mutant::NoClearNext, "lane::loom_lane_texts"),
    (Mutant::NoFreeLine, "lane::loom_lane_122211"),
    (Mutant::NoReserve, "cancel::loom_terminal_reserve"),
    (Mutant::NoWriterFence, "bell::loom_armed_one_writer"),
    (Mutant::FenceBeforePublish, "bell::loom_armed_one_writer"),
    (Mutant::NoSleeperFence, "bell::loom_armed_one_writer"),
    (Mutant::LookOnlyBeforeArming, "bell::loom_armed_one_writer"),
    (Mutant::NoEpoch, "bell::loom_armed_one_writer"),
    (Mutant::OneLaneLook, "bell::loom_armed_two_writers"),
    (Mutant::NoStarvedWriterFence, "starved::loom_starved"),
    (Mutant::NoStarvedConsumerFence, "starved::loom_starved"),
    (Mutant::RecheckBeforeStore, "starved::loom_starved"),
    (Mutant::PublishOnlyWholeLane, "starved::loom_starved"),
    (Mutant::BellOmitsStarved, "starved::loom_starved_bell_task"),
    (Mutant::LateWaker, "starved::loom_starved_bell_task"),
    (Mutant::RelaxedSubmission, "submission::loom_submission"),
    (Mutant::NoSubmissionFence, "submission::loom_submission"),
    (Mutant::RelaxedLoan, "loan::loom_loan"),
    (Mutant::NoLoanFence, "loan::loom_loan"),
    (Mutant::AnyLoan, "loan::loom_loan"),
    (Mutant::EarlyReturn, "loan::loom_loan"),
    (Mutant::CancelByLane, "cancel::loom_cancel_and_lane_reuse"),
    (Mutant::TerminalCursorKept, "cancel::loom_cancel_and_lane_reuse"),
    (Mutant::NoSleeperFence, "session::loom_end_to_end"),
    (Mutant::NoWriterFence, "session::loom_role_swap"),
    (Mutant::LateRegistration, "waiting::loom_waiting_one_frame_each"),
    (Mutant::ArmAfterLook, "waiting::loom_waiting_one_frame_each"),
    (Mutant::NoLookOnceArmed, "waiting::loom_waiting_one_frame_each"),
    (Mutant::UnarmedWhileWatched, "waiting::loom_waiting_one_frame_each"),
    (Mutant::OneLaneWoken, "waiting::loom_waiting_one_frame_each"),
    (Mutant::BitClearedLate, "waiting::loom_waiting_again"),
    (Mutant::NoSleeperFence, "waiting::loom_waiting_one_frame_each"),
    (Mutant::NoWriterFence, "waiting::loom_waiting_one_frame_each"),
    (Mutant::NoEpoch, "waiting::loom_waiting_again"),
    (Mutant::NoLookFence, "held::loom_held"),
    (Mutant::HeldClearedLate, "held::loom_held"),
    (Mutant::HeldReadBeforeLook, "held::loom_held"),
    (Mutant::HeldTakenBack, "held::loom_held_for_too_long"),
    (Mutant::NoWriterFence, "held::loom_held"),
    (Mutant::NoSleeperFence, "held::loom_held"),
];

/// What the child died of, or that it did not.
fn verdict(mutant: Mutant, model: &str) -> Result<&'static str, String> {
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", &format!("models::{model}"), "--nocapture", "--test-threads", "1"])
        .env(CHOICE, format!("{mutant:?}"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    if !out.contains("running 1 test") {
        return Err(format!("{model} is no test"));
    }
    if output.status.success() {
        return Err(format!("{model} did not see it"));
    }
    // Only what a broken rule can cause counts, not a child that died of anything else.
    let reasons = [
        ("deadlock", "a sleep without end"),
        ("exceeded maximum number of branches", "a wait without end"),
        ("Causality violation", "two at one place"),
        ("assertion", "a wrong frame"),
        ("called `Result::unwrap()` on an `Err` value", "an error between honest parties"),
    ];
    let found = reasons.iter().find(|(text, _)| err.contains(text) || out.contains(text));
    found.map(|(_, reason)| *reason).ok_or(format!("{model} died of something else:\n{err}"))
}

#[test]
fn loom_mutants_die() {
    assert_eq!(chosen(), None, "mutants run from a process without one");
    let (next, survivors) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..CHILDREN {
            scope.spawn(|| {
                while let Some((mutant, model)) = CASES.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match verdict(*mutant, model) {
                        Ok(reason) => println!("mutant {mutant:?}: killed by {model}: {reason}"),
                        Err(why) => survivors.lock().unwrap().push(format!("{mutant:?}: {why}")),
                    }
                }
            });
        }
    });
    let survivors = survivors.into_inner().unwrap();
    assert!(survivors.is_empty(), "survivors:\n{}", survivors.join("\n"));
}
