//! A short random run of faults, cancels, kills and limits keeps the delivery contract.
//!
//! What is played is drawn from the seed; `ringmain sim --chaos --seed N --minutes M` plays longer
//! ones, and any seed again.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Command, Stdio};

/// Plays a run and returns what it said.
fn chaos(seed: &str, minutes: &str) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_ringmain"))
        .args(["sim", "--chaos", "--seed", seed, "--minutes", minutes])
        .env_remove("RINGMAIN_SOCKET")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    (output.status.success(), said + &errors)
}

#[test]
fn chaos_keeps_the_contract() {
    let (is_kept, said) = chaos("20", "0.15");
    assert!(is_kept, "{said}");
    assert!(said.contains("\n0 violations\n"), "{said}");
    println!("{said}");
}

/// A run is longer than most builds take.
#[test]
fn chaos_goes_on_when_its_program_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("ringmain");
    std::fs::copy(env!("CARGO_BIN_EXE_ringmain"), &program).unwrap();
    let mut run = Command::new(&program)
        .args(["sim", "--chaos", "--seed", "5", "--minutes", "0.02"])
        .env_remove("RINGMAIN_SOCKET")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(run.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().starts_with("seed 5: "));
    std::fs::remove_file(&program).unwrap();
    let said: Vec<_> = lines.map_while(Result::ok).collect();
    let mut errors = String::new();
    run.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    assert!(run.wait().unwrap().success(), "{said:?} {errors}");
    assert_eq!(said.last().map(String::as_str), Some("0 violations"));
}

#[test]
fn chaos_of_one_seed_is_one_schedule() {
    let first_line = |seed| {
        let (is_kept, said) = chaos(seed, "0.01");
        assert!(is_kept, "{said}");
        said.lines().next().unwrap().to_owned()
    };
    assert_eq!(first_line("3"), first_line("3"));
    assert_ne!(first_line("3"), first_line("4"));
}
