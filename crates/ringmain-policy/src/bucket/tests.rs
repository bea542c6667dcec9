//! The bucket against the plain list of what was taken and used.

use super::*;
use proptest::prelude::*;

/// One take, and what was used of it in the end.
#[derive(Clone, Copy, Debug)]
struct Used {
    at_ns: u64,
    amount: u64,
}

#[derive(Clone, Debug)]
enum Step {
    Pause(u64),
    Take(u64),
    /// Settles one of what is out, with this many percent used.
    Settle(usize, u64),
}

fn steps(percent_max: u64) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0u64..2 * NS_PER_S).prop_map(Step::Pause),
        4 => (1u64..30).prop_map(Step::Take),
        3 => (any::<usize>(), 0..=percent_max).prop_map(|(i, p)| Step::Settle(i, p)),
    ];
    prop::collection::vec(step, 1..150)
}

/// Runs the steps; what was used, with everything settled at the end.
fn run(rate: Rate, start_ns: u64, steps: &[Step]) -> (Bucket, Vec<Used>, u64) {
    let mut bucket = Bucket::new(rate, start_ns);
    let (mut now_ns, mut used, mut out) = (start_ns, Vec::new(), Vec::new());
    for step in steps {
        match *step {
            Step::Pause(ns) => now_ns = now_ns.saturating_add(ns),
            Step::Take(amount) => {
                if let Some(taken) = bucket.take(amount, now_ns) {
                    out.push((taken, used.len()));
                    used.push(Used { at_ns: now_ns, amount });
                }
            }
            Step::Settle(at, percent) if !out.is_empty() => {
                let (taken, index) = out.swap_remove(at % out.len());
                used[index].amount = taken.amount * percent / 100;
                bucket.settle(taken, used[index].amount, now_ns);
            }
            Step::Settle(..) => {}
        }
    }
    for (taken, index) in out {
        used[index].amount = taken.amount / 2;
        bucket.settle(taken, used[index].amount, now_ns);
    }
    (bucket, used, now_ns)
}

/// The most by which any window exceeds its rate and burst, in units; none when negative.
fn worst_excess(rate: Rate, used: &[Used]) -> i128 {
    let windows = (0..used.len()).flat_map(|from| (from..used.len()).map(move |to| (from, to)));
    let excess = |(from, to): (usize, usize)| {
        let sum: u64 = used[from..=to].iter().map(|used| used.amount).sum();
        let passed_ns = used[to].at_ns - used[from].at_ns;
        let refilled = i128::from(passed_ns) * i128::from(rate.per_minute);
        units(sum) - rate.cap() - refilled
    };
    windows.map(excess).max().unwrap_or(i128::MIN)
}

fn starts() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), Just(u64::MAX - 100 * NS_PER_S)]
}

proptest! {
    /// In no window is more used than the burst and what the window refills, however late a
    /// request settles and however little it used.
    #[test]
    fn property_no_window_exceeds_burst_and_rate(
        per_minute in 1u64..2000,
        burst in 30u64..100,
        start_ns in starts(),
        steps in steps(100),
    ) {
        let rate = Rate { per_minute, burst };
        let (_, used, _) = run(rate, start_ns, &steps);
        prop_assert!(worst_excess(rate, &used) <= 0, "{used:?}");
    }

    /// A settled bucket stands where one stands that was told the right amounts at once: nothing
    /// is lost either.
    #[test]
    fn property_a_settled_bucket_knew_it_all_along(
        per_minute in 1u64..2000,
        burst in 30u64..100,
        start_ns in starts(),
        steps in steps(100),
    ) {
        let rate = Rate { per_minute, burst };
        let (mut bucket, used, now_ns) = run(rate, start_ns, &steps);
        let mut told = Bucket::new(rate, start_ns);
        for used in &used {
            told.fill(used.at_ns);
            told.level -= units(used.amount);
        }
        told.fill(now_ns);
        bucket.fill(now_ns);
        // Exact while no two peaks became one.
        if bucket.peaks.len() < PEAKS_MAX {
            prop_assert_eq!(bucket.level, told.level);
        }
        prop_assert!(bucket.level <= told.level);
    }

    /// Usage beyond the take is a debt that is paid before anybody else is let in.
    #[test]
    fn property_debts_are_paid(per_minute in 1u64..2000, steps in steps(300)) {
        let rate = Rate { per_minute, burst: 30 };
        let (mut bucket, used, now_ns) = run(rate, 0, &steps);
        let sum: u64 = used.iter().map(|used| used.amount).sum();
        let most = rate.cap() + i128::from(now_ns) * i128::from(per_minute) - units(sum);
        bucket.fill(now_ns);
        prop_assert!(bucket.level <= most, "{} of {most}", bucket.level);
    }

    /// What is due comes exactly then and not a nanosecond before.
    #[test]
    fn property_a_take_succeeds_when_it_is_due(
        per_minute in 1u64..10_000,
        burst in 1u64..50,
        amount in 1u64..200,
        asks in 1u64..20,
    ) {
        let mut bucket = Bucket::new(Rate { per_minute, burst }, 0);
        while bucket.take(1, 0).is_some() {}
        let due_ns = bucket.due_ns(0, amount, 0);
        for ask in 0..asks {
            prop_assert!(bucket.take(amount, (due_ns - 1) / asks * ask).is_none());
        }
        prop_assert!(!bucket.has(amount, due_ns - 1));
        prop_assert!(bucket.take(amount, due_ns).is_some());
    }
}

#[test]
fn more_than_the_burst_waits_for_a_full_bucket_and_leaves_a_debt() {
    let mut bucket = Bucket::new(Rate { per_minute: 60, burst: 2 }, 0);
    let large = bucket.take(5, 0).unwrap();
    assert_eq!(bucket.level(0), -3);
    assert_eq!(bucket.due_ns(0, 1, 0), 4 * NS_PER_S);
    bucket.settle(large, 5, NS_PER_S);
    assert_eq!(bucket.due_ns(0, 5, NS_PER_S), 5 * NS_PER_S);
    assert_eq!(bucket.due_ns(7, 5, NS_PER_S), 12 * NS_PER_S, "behind others");
}

#[test]
fn a_wild_estimate_takes_no_more_than_a_minute() {
    let mut bucket = Bucket::new(Rate { per_minute: 60, burst: 2 }, 0);
    let wild = bucket.take(u64::MAX, 0).unwrap();
    assert_eq!((wild.amount(), bucket.level(0)), (60, -58));
    bucket.settle(wild, 1, NS_PER_S);
    assert_eq!(bucket.level(NS_PER_S), 2);
    let told_nonsense = bucket.take(1, NS_PER_S).unwrap();
    bucket.settle(told_nonsense, u64::MAX, NS_PER_S);
    assert_eq!(bucket.level(NS_PER_S), 2 - 600);
}

#[test]
fn a_refund_is_worth_nothing_once_the_bucket_was_full() {
    let mut bucket = Bucket::new(Rate { per_minute: 60, burst: 10 }, 0);
    let early = bucket.take(10, 0).unwrap();
    let all = bucket.take(10, 10 * NS_PER_S).unwrap();
    bucket.settle(early, 0, 10 * NS_PER_S);
    assert_eq!(bucket.level(10 * NS_PER_S), 0, "it had spilled by then");
    bucket.settle(all, 0, 10 * NS_PER_S);
    assert_eq!(bucket.level(10 * NS_PER_S), 10);
}

#[test]
fn extremes_neither_overflow_nor_stall() {
    let mut bucket = Bucket::new(Rate { per_minute: u64::MAX, burst: u64::MAX }, u64::MAX - 1);
    let taken = bucket.take(u64::MAX, u64::MAX - 1).unwrap();
    assert_eq!(bucket.due_ns(0, 60, u64::MAX - 1), u64::MAX);
    bucket.settle(taken, 0, u64::MAX);
    assert!(bucket.is_full(u64::MAX));
    let mut none = Bucket::new(Rate { per_minute: 0, burst: 0 }, 0);
    assert!(none.take(1, 0).is_some(), "a burst of at least one");
    assert_eq!(none.due_ns(0, 1, 5), u64::MAX);
    assert!(none.take(1, u64::MAX).is_none());
    let mut back = Bucket::new(Rate::per_minute(60), NS_PER_S);
    assert!(back.take(1, NS_PER_S).is_some() && back.take(1, 0).is_none());
}

#[test]
fn peaks_stay_bounded() {
    let mut bucket = Bucket::new(Rate { per_minute: 1, burst: 1000 }, 0);
    let taken: Vec<_> = (0..500).filter_map(|_| bucket.take(2, 0)).collect();
    assert_eq!((taken.len(), bucket.peaks.len()), (500, PEAKS_MAX));
    for taken in taken {
        bucket.settle(taken, 1, 0);
    }
    assert!(bucket.level(0) <= 500, "never more than is right: {}", bucket.level(0));
    assert!(bucket.peaks.len() <= PEAKS_MAX);
}
