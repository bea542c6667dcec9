//! Processes killed at any time: nobody hangs, nothing leaks, nothing arrives torn.
//!
//! `RINGMAIN_SEED` chooses other draws, `RINGMAIN_KILLS` more of them.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

#[path = "kill/crew.rs"]
mod crew;
#[path = "kill/hunt.rs"]
mod hunt;
#[path = "kill/random.rs"]
mod random;
#[path = "kill/tape.rs"]
mod tape;
#[path = "kill/victim.rs"]
mod victim;

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use tape::Phase;

/// One at a time: both fill the machine, and both promise times.
static TURN: Mutex<()> = Mutex::new(());

/// 500 clients killed over all phases of a call; see [`hunt`].
#[test]
fn kill_of_clients_leaves_nothing_behind() {
    if common::child_script().is_none() {
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        hunt::run();
    }
}

/// 100 brokers killed under load; see [`crew`].
#[test]
fn kill_of_the_broker_ends_every_call_and_the_next_one_goes_on() {
    if common::child_script().is_none() {
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        crew::run();
    }
}

/// What this binary does when the tests above start it again, as a client process.
#[test]
fn kill_child() {
    let Some(script) = common::child_script() else { return };
    let words: Vec<&str> = script.split(' ').collect();
    let number = |word: &str| word.parse::<u64>().unwrap();
    match words[..] {
        ["victim", phase, process] => {
            victim::run(Phase::from_number(number(phase)).unwrap(), number(process))
        }
        ["survivor", process, stop, out] => {
            hunt::survive(number(process), Path::new(stop), Path::new(out));
        }
        ["knocker", stop, out] => crew::knock(Path::new(stop), Path::new(out)),
        _ => panic!("no part is called {script:?}"),
    }
}
