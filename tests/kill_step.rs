//! A client killed at any instruction of an attachment, a publication, a read or a cancel: nothing
//! arrives torn, nothing leaks, nobody hangs.
//!
//! The client is this binary again. It stops at the beginning of the operation, executes one
//! instruction after the other under the eyes of its parent, and is killed after as many as were
//! drawn. The draws are spread evenly over the length of the operation, which a run without a
//! kill has measured before.
//!
//! `RINGMAIN_STEPS` sets the number of instructions that clients are killed at (2,000 for the long
//! run), `RINGMAIN_SEED` chooses other draws.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

#[path = "kill_step/client.rs"]
mod client;
#[path = "kill_step/judge.rs"]
mod judge;
#[path = "kill_step/march.rs"]
mod march;
#[allow(dead_code, reason = "shared with the kills at any time")]
#[path = "kill/random.rs"]
mod random;
#[path = "kill_step/responder.rs"]
mod responder;
#[path = "kill_step/stepper.rs"]
mod stepper;
#[allow(dead_code, reason = "shared with the kills at any time")]
#[path = "kill/tape.rs"]
mod tape;

/// See [`march`].
#[test]
fn kill_step_of_clients_leaves_nothing_behind() {
    if common::child_script().is_none() {
        march::run();
    }
}

/// See [`responder`].
#[test]
fn kill_step_of_the_broker_leaves_a_prefix() {
    if common::child_script().is_none() && march::may_trace() {
        responder::run(march::steps());
    }
}

/// What this binary does when the first test starts it again.
#[test]
fn kill_step_child() {
    let Some(script) = common::child_script() else { return };
    let (case, process) = script.split_once(' ').expect("a case and a number");
    client::run(client::Case::find(case), process.parse().unwrap())
}
