//! A client killed at any instruction of an attachment, a publication, a read or a cancel, and a
//! producer at any of its registration, of taking a request, of its frames and of their end:
//! nothing arrives torn, nothing leaks, nobody hangs.
//!
//! The process is this binary again. It stops at the beginning of the operation, executes one
//! instruction after the other under the eyes of its parent, and is killed after as many as were
//! drawn. The draws are spread evenly over the length of the operation, which a run without a
//! kill has measured before.
//!
//! `RINGMAIN_STEPS` sets the number of instructions that clients are killed at (2,000 for the long
//! run), producers at half as many; `RINGMAIN_SEED` chooses other draws.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use ringmain_client::Code;

use judge::World;
use march::Clients;

#[path = "kill_step/client.rs"]
mod client;
#[path = "kill_step/judge.rs"]
mod judge;
#[path = "kill_step/march.rs"]
mod march;
#[path = "kill_step/producer.rs"]
mod producer;
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
    if common::child_script().is_none() && march::may_trace() {
        let world = World::start("", &[Code::Cancelled, Code::SessionClosed]);
        march::run(Clients, world, march::steps());
    }
}

/// See [`producer`].
#[test]
fn kill_step_of_producers_ends_in_errors() {
    if common::child_script().is_none() && march::may_trace() {
        producer::kill_all(march::steps() / 2);
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
    let (case, argument) = script.split_once(' ').expect("a case and its argument");
    client::run(client::Case::find(case), argument)
}
