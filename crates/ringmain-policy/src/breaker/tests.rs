use proptest::prelude::*;

use super::*;
use crate::clock::NS_PER_S;

fn tripped() -> Breaker {
    let mut breaker = Breaker::new(BreakerRule::default());
    (0..5).for_each(|_| breaker.failed(0, false));
    assert_eq!(breaker.state(), BreakerState::Open);
    breaker
}

#[test]
fn one_probe_at_a_time_decides() {
    let mut breaker = tripped();
    assert_eq!(breaker.leave(5 * NS_PER_S - 1), Leave::No { until_ns: 5 * NS_PER_S });
    assert_eq!(breaker.leave(5 * NS_PER_S), Leave::Probe);
    assert!(matches!(breaker.leave(6 * NS_PER_S), Leave::No { .. }));
    breaker.abandoned(true);
    assert_eq!(breaker.leave(6 * NS_PER_S), Leave::Probe);
    breaker.failed(7 * NS_PER_S, true);
    assert_eq!(breaker.leave(8 * NS_PER_S), Leave::No { until_ns: 17 * NS_PER_S }, "doubled");
    assert_eq!(breaker.leave(17 * NS_PER_S), Leave::Probe);
    breaker.succeeded(17 * NS_PER_S, true);
    assert_eq!((breaker.leave(17 * NS_PER_S), breaker.opened_total()), (Leave::Yes, 2));
}

#[test]
fn those_that_were_sent_before_it_opened_decide_nothing() {
    let mut breaker = tripped();
    breaker.succeeded(0, false);
    assert_eq!(breaker.state(), BreakerState::Open);
    assert_eq!(breaker.leave(5 * NS_PER_S), Leave::Probe);
    breaker.failed(5 * NS_PER_S, false);
    breaker.abandoned(false);
    assert_eq!(breaker.state(), BreakerState::HalfOpen);
    assert!(!breaker.would_leave(5 * NS_PER_S), "the probe is under way");
}

#[test]
fn every_second_request_failing_opens_it() {
    let mut breaker = Breaker::new(BreakerRule::default());
    for _ in 0..10 {
        breaker.succeeded(0, false);
        breaker.failed(0, false);
    }
    assert_eq!(breaker.state(), BreakerState::Open);
    // The same so slowly that no window holds twenty requests.
    let mut breaker = Breaker::new(BreakerRule::default());
    for second in 0..100 {
        match second % 2 {
            0 => breaker.succeeded(second * NS_PER_S, false),
            _ => breaker.failed(second * NS_PER_S, false),
        }
    }
    assert_eq!(breaker.state(), BreakerState::Closed);
}

#[test]
fn health_checks_count_in_a_row_and_undo_only_themselves() {
    let mut breaker = Breaker::new(BreakerRule::default());
    // An idle endpoint whose checks fail now and then is well.
    for second in 0..50 {
        breaker.checked(second * NS_PER_S, second % 5 == 4);
    }
    assert_eq!(breaker.state(), BreakerState::Closed);
    (0..4).for_each(|_| breaker.failed(100 * NS_PER_S, false));
    breaker.checked(100 * NS_PER_S, true);
    breaker.checked(100 * NS_PER_S, false);
    assert_eq!(breaker.state(), BreakerState::Open, "requests that failed are not undone");
    breaker.checked(104 * NS_PER_S, false);
    assert_eq!(breaker.leave(108 * NS_PER_S), Leave::No { until_ns: 109 * NS_PER_S });
    breaker.checked(108 * NS_PER_S, true);
    assert_eq!(breaker.leave(108 * NS_PER_S), Leave::Probe, "and a request finds out");
    breaker.checked(108 * NS_PER_S, false);
    assert_eq!(breaker.state(), BreakerState::HalfOpen, "the request decides");
    breaker.succeeded(109 * NS_PER_S, true);
    assert_eq!(breaker.state(), BreakerState::Closed);
    (0..4).for_each(|_| breaker.checked(110 * NS_PER_S, false));
    assert_eq!(breaker.state(), BreakerState::Closed, "and from then on they count anew");
}

#[test]
fn another_rule_goes_on_with_what_is_known() {
    let usual = BreakerRule::default();
    let mut breaker = Breaker::new(usual);
    (0..4).for_each(|_| breaker.failed(0, false));
    breaker.set_rule(BreakerRule { failures: 3, open: Duration::from_secs(1), ..usual }, 0);
    assert_eq!(breaker.state(), BreakerState::Closed);
    breaker.failed(0, false);
    assert_eq!(breaker.leave(0), Leave::No { until_ns: NS_PER_S });
    breaker.set_rule(usual, 0);
    assert_eq!(breaker.leave(0), Leave::No { until_ns: NS_PER_S }, "still open");
    let short = BreakerRule { open_max: Duration::from_millis(500), ..usual };
    breaker.set_rule(short, 0);
    assert_eq!(breaker.leave(0), Leave::No { until_ns: NS_PER_S / 2 });
    assert_eq!(breaker.opened_total(), 1);
    breaker.set_rule(BreakerRule { failures: 0, percent: 0, ..usual }, 0);
    assert_eq!((breaker.leave(0), breaker.opened_total()), (Leave::Yes, 1));
}

#[test]
fn a_window_of_another_length_holds_what_was_counted() {
    let usual = BreakerRule { failures: 0, ..BreakerRule::default() };
    for window in [Duration::from_secs(1), Duration::from_secs(100)] {
        let mut breaker = Breaker::new(usual);
        (0..10).for_each(|_| breaker.failed(50 * NS_PER_S, false));
        (0..9).for_each(|_| breaker.succeeded(50 * NS_PER_S, false));
        breaker.set_rule(BreakerRule { window, ..usual }, 50 * NS_PER_S);
        assert_eq!(breaker.state(), BreakerState::Closed);
        breaker.failed(50 * NS_PER_S, false);
        assert_eq!(breaker.state(), BreakerState::Open, "the twentieth: {window:?}");
    }
}

#[derive(Clone, Debug)]
enum Step {
    Ask,
    End(usize, u8),
    Pass(u64),
    Check(bool),
    Rule(u32, u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let end = (any::<usize>(), 0u8..3).prop_map(|(at, how)| Step::End(at, how));
    let pass = (0u64..8 * NS_PER_S).prop_map(Step::Pass);
    let check = any::<bool>().prop_map(Step::Check);
    let rule = (0u32..6, 1u64..20).prop_map(|(failures, window)| Step::Rule(failures, window));
    let each = prop_oneof![3 => Just(Step::Ask), 3 => end, 1 => pass, 1 => check, 1 => rule];
    prop::collection::vec(each, 0..300)
}

proptest! {
    /// Never two probes at once, no leave while it is open, and it is never shut for ever: when
    /// all requests are over and the longest time has passed, there is leave again.
    #[test]
    fn property_a_breaker_probes_alone_and_comes_back(steps in steps()) {
        let rule = BreakerRule::default();
        let mut breaker = Breaker::new(rule);
        let (mut now_ns, mut running) = (0u64, Vec::new());
        for step in steps {
            match step {
                Step::Pass(pause) => now_ns += pause,
                Step::Check(is_well) => breaker.checked(now_ns, is_well),
                Step::Rule(failures, window) => {
                    let window = Duration::from_secs(window);
                    let rule = BreakerRule { failures, window, ..BreakerRule::default() };
                    breaker.set_rule(rule, now_ns);
                }
                Step::Ask => {
                    let would = breaker.would_leave(now_ns);
                    match breaker.leave(now_ns) {
                        Leave::Yes => running.push(false),
                        Leave::Probe => running.push(true),
                        Leave::No { until_ns } => {
                            prop_assert!(!would && until_ns >= now_ns);
                            continue;
                        }
                    }
                    prop_assert!(would);
                    prop_assert!(running.iter().filter(|probe| **probe).count() <= 1);
                }
                Step::End(at, how) if !running.is_empty() => {
                    let is_probe = running.swap_remove(at % running.len());
                    match how {
                        0 => breaker.succeeded(now_ns, is_probe),
                        1 => breaker.failed(now_ns, is_probe),
                        _ => breaker.abandoned(is_probe),
                    }
                }
                Step::End(..) => {}
            }
        }
        running.into_iter().for_each(|is_probe| breaker.abandoned(is_probe));
        now_ns += rule.open_max.as_nanos() as u64;
        prop_assert!(breaker.would_leave(now_ns));
    }

}
