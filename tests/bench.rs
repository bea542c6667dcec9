//! The harness plays its whole run: child processes, passes, files. That a figure is good is never
//! asserted, only that it was measured and written down as agreed.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::process::{Command, Output};

use serde_json::Value;

fn ringmain(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ringmain")).args(args).output().unwrap()
}

#[test]
fn a_suite_writes_rows_that_agree_with_themselves() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name| folder.path().join(name).to_str().unwrap().to_owned();
    let (json, html) = (path("bench.json"), path("bench.html"));
    let args = ["bench", "--quick", "--suite", "hop", "--json", &json, "--html", &html];
    let output = ringmain(&args);
    assert!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    assert!(report["machine"]["cpus"].as_u64().unwrap() > 0);
    let rows = report["rows"].as_array().unwrap();
    let names: Vec<&str> = rows.iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert!(names.starts_with(&["parked_hop_same_core", "parked_hop_cross_core"]), "{names:?}");
    let page = fs::read_to_string(&html).unwrap();
    for row in rows {
        let name = row["name"].as_str().unwrap();
        assert!(page.contains(name) && String::from_utf8_lossy(&output.stdout).contains(name));
        // Some rows need two CPUs, or a broker that spins.
        if row.get("skipped").is_none() {
            check_row(row);
        }
    }
    assert!(!page.contains("<script") && !page.contains("src="), "the page needs something else");
}

fn check_row(row: &Value) {
    let number = |key: &str| row[key].as_f64().unwrap_or_else(|| panic!("no {key} in {row}"));
    let ratio = number("value") / number("baseline_value");
    assert!((number("ratio") - ratio).abs() <= 1e-9 * ratio, "{row}");
    assert!(number("ratio_min") <= ratio && ratio <= number("ratio_max"), "{row}");
    assert!(row["passes"].as_u64().unwrap() >= 5, "{row}");
    match row["goal"].as_f64() {
        Some(goal) => assert_eq!(row["met"], ratio <= goal, "{row}"),
        None => assert!(row["met"].is_null(), "{row}"),
    }
    assert!(row["baseline"].is_string() && row["unit"].is_string(), "{row}");
}

/// The long run in its shortest form: a few processes that attach, run streams and end.
#[test]
fn a_soak_ends_with_everything_given_back() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("soak.json").to_str().unwrap().to_owned();
    let output =
        ringmain(&["bench", "--quick", "--suite", "soak", "--minutes", "0", "--json", &json]);
    assert!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    let value = |name: &str| {
        let rows = report["rows"].as_array().unwrap();
        let row = rows.iter().find(|row| row["name"] == name).unwrap();
        row["value"].as_f64().unwrap_or_else(|| panic!("{row}"))
    };
    assert_eq!(value("soak_held"), 0.0);
    // A connection more to the provider is none that leaks: each run makes as many as it needs.
    assert!(value("soak_fds") <= 32.0, "{}", value("soak_fds"));
    assert!(value("soak_resident_slope").is_finite());
}

#[test]
fn an_unknown_suite_is_answered_with_all_names() {
    let output = ringmain(&["bench", "--suite", "nothing"]);
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    for name in ["nothing", "hop", "lane", "consumer", "soak"] {
        assert!(said.contains(name), "{said}");
    }
}

#[test]
fn a_role_that_does_not_exist_is_an_error() {
    let output = ringmain(&["bench-role", "{\"nobody\":{}}"]);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("nobody"));
}
