//! Admission against the plain list of what was let in.

use super::*;
use crate::bucket::Rate;
use crate::clock::NS_PER_S;
use crate::limit::LimitUid;
use proptest::prelude::*;

const BOUNDS: QueueBounds = QueueBounds { total: 60, per_uid: 25 };
const ENDPOINTS: [Option<&str>; 3] = [Some("a"), Some("b"), None];
const ROUTES: [&str; 2] = ["m", "n"];

#[derive(Clone, Debug)]
enum Step {
    Pause(u64),
    /// uid, session, endpoint, route, tokens, patience.
    Ask(u32, u64, usize, usize, u64, u64),
    /// Ends one of those let in: 0 unsent, 1 failed, 2 unknown, else this percent of the estimate.
    Settle(usize, u64),
    Leave(usize),
    RefuseUpstream(usize, Option<u64>),
    Reload(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let ask = (0u32..3, 0u64..2, 0usize..3, 0usize..2, 0u64..40, 0u64..60 * NS_PER_S);
    let step = prop_oneof![
        3 => (0u64..NS_PER_S).prop_map(Step::Pause),
        5 => ask.prop_map(|(u, s, e, r, t, p)| Step::Ask(u, s, e, r, t, p)),
        3 => (any::<usize>(), 0u64..100).prop_map(|(i, p)| Step::Settle(i, p)),
        1 => any::<usize>().prop_map(Step::Leave),
        1 => (any::<usize>(), prop::option::of(0..3 * NS_PER_S))
            .prop_map(|(i, w)| Step::RefuseUpstream(i, w)),
        1 => (0usize..3).prop_map(Step::Reload),
    ];
    prop::collection::vec(step, 1..150)
}

fn rules() -> Vec<LimitRule> {
    let rate = |per_minute, burst| Some(Rate { per_minute, burst });
    vec![
        LimitRule {
            endpoint: Some("a".into()),
            requests: rate(120, 6),
            tokens: rate(1500, 60),
            ..LimitRule::default()
        },
        LimitRule { route: Some("m".into()), in_flight: Some(5), ..LimitRule::default() },
        LimitRule {
            uid: Some(LimitUid::Each),
            requests: rate(90, 4),
            in_flight: Some(4),
            queue: Some(9),
            ..LimitRule::default()
        },
        LimitRule { uid: Some(LimitUid::One(1)), tokens: rate(600, 50), ..LimitRule::default() },
    ]
}

/// What was asked, and what became of it.
#[derive(Clone, Copy, Debug)]
struct Sent {
    at_ns: u64,
    uid: u32,
    endpoint: Option<&'static str>,
    route: &'static str,
    tokens: u64,
    requests: u64,
    used: u64,
    is_over: bool,
}

impl Sent {
    fn is_under(&self, rule: &LimitRule, uid: u32) -> bool {
        let is_uid = match rule.uid {
            Some(LimitUid::One(only)) => only == self.uid,
            Some(LimitUid::Each) => uid == self.uid,
            None => true,
        };
        let is_endpoint = rule.endpoint.is_none() || rule.endpoint.as_deref() == self.endpoint;
        is_uid && is_endpoint && rule.route.as_deref().is_none_or(|route| route == self.route)
    }
}

struct World {
    admission: Admission<usize>,
    now_ns: u64,
    asked: Vec<Sent>,
    waiting: Vec<(Ticket, usize)>,
    held: Vec<(Hold, usize)>,
    log: Vec<usize>,
}

impl World {
    fn new(start_ns: u64) -> World {
        World {
            admission: Admission::new(rules(), BOUNDS),
            now_ns: start_ns,
            asked: Vec::new(),
            waiting: Vec::new(),
            held: Vec::new(),
            log: Vec::new(),
        }
    }

    fn grant(&mut self, index: usize, hold: Hold) {
        assert!(!self.log.contains(&index), "let in twice");
        self.asked[index].at_ns = self.now_ns;
        self.log.push(index);
        self.held.push((hold, index));
        self.waiting.retain(|(_, other)| *other != index);
    }

    fn serve(&mut self) -> Option<u64> {
        let Served { granted, due_ns } = self.admission.serve(self.now_ns);
        granted.into_iter().for_each(|(index, hold)| self.grant(index, hold));
        due_ns
    }

    fn ask(&mut self, sent: Sent, session: u64, deadline_ns: u64) {
        let Sent { uid, endpoint, route, tokens, .. } = sent;
        let ask = Ask { uid, session, deadline_ns, endpoint, route, tokens };
        let index = self.asked.len();
        self.asked.push(sent);
        match self.admission.ask(&ask, self.now_ns) {
            Entry::Admitted(hold) => self.grant(index, hold),
            Entry::MustWait => {
                let ticket = self.admission.wait(&ask, index, self.now_ns).unwrap();
                self.waiting.push((ticket, index));
                self.serve();
            }
            Entry::Refused(refusal) => {
                let late = refusal.cause == RefusalCause::TooLate;
                assert!(!late || self.now_ns.saturating_add(refusal.retry_after_ns) > deadline_ns);
            }
        }
    }

    fn settle(&mut self, at: usize, how: u64) {
        let (hold, index) = self.held.swap_remove(at % self.held.len());
        let sent = &mut self.asked[index];
        let (outcome, requests, used) = match how {
            0 => (Outcome::Unsent, 0, 0),
            1 => (Outcome::Failed, 1, 0),
            2 => (Outcome::Unknown, 1, sent.tokens),
            percent => {
                let used = sent.tokens * percent / 100;
                (Outcome::Used(used), 1, used)
            }
        };
        (sent.requests, sent.used, sent.is_over) = (requests, used, true);
        self.admission.settle(hold, outcome, self.now_ns);
        self.serve();
    }

    /// Every limit by plain sums over the list, in every window and for every uid.
    fn judge(&self, rules: &[LimitRule]) -> Result<(), TestCaseError> {
        for rule in rules {
            for uid in 0..3 {
                let under = |index: &&usize| self.asked[**index].is_under(rule, uid);
                let sent: Vec<Sent> =
                    self.log.iter().filter(under).map(|i| self.asked[*i]).collect();
                let running = sent.iter().filter(|sent| !sent.is_over).count() as u64;
                prop_assert!(rule.in_flight.is_none_or(|most| running <= most));
                for (rate, amount) in [
                    (rule.requests, (|sent: &Sent| sent.requests) as fn(&Sent) -> u64),
                    (rule.tokens, |sent: &Sent| sent.used),
                ] {
                    let Some(rate) = rate else { continue };
                    judge_windows(rate, &sent, amount)?;
                }
            }
        }
        Ok(())
    }
}

fn judge_windows(rate: Rate, sent: &[Sent], amount: fn(&Sent) -> u64) -> Result<(), TestCaseError> {
    for from in 0..sent.len() {
        let mut sum = 0u128;
        for to in from..sent.len() {
            sum += u128::from(amount(&sent[to]));
            let passed_ns = u128::from(sent[to].at_ns - sent[from].at_ns);
            let minute_ns = 60 * u128::from(NS_PER_S);
            let most = u128::from(rate.burst) * minute_ns + passed_ns * u128::from(rate.per_minute);
            prop_assert!(
                sum * minute_ns <= most,
                "{sum} in {passed_ns} ns: {:?}",
                &sent[from..=to]
            );
        }
    }
    Ok(())
}

fn starts() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), Just(u64::MAX - 1000 * NS_PER_S)]
}

proptest! {
    /// No window of any limit holds more than it may, nothing is let in twice, and after any
    /// sequence of asking, waiting, leaving, settling and reloading nothing is left behind.
    #[test]
    fn property_limits_hold_and_nothing_leaks(steps in steps(), start_ns in starts()) {
        let mut world = World::new(start_ns);
        let mut is_same = true;
        for step in steps {
            match step {
                Step::Pause(ns) => {
                    world.now_ns += ns;
                    world.serve();
                }
                Step::Ask(uid, session, endpoint, route, tokens, patience_ns) => {
                    let sent = Sent {
                        at_ns: 0,
                        uid,
                        endpoint: ENDPOINTS[endpoint],
                        route: ROUTES[route],
                        tokens,
                        requests: 1,
                        used: tokens,
                        is_over: false,
                    };
                    world.ask(sent, session, world.now_ns + patience_ns);
                }
                Step::Settle(at, how) if !world.held.is_empty() => world.settle(at, how),
                Step::Leave(at) if !world.waiting.is_empty() => {
                    let (ticket, index) = world.waiting.swap_remove(at % world.waiting.len());
                    prop_assert_eq!(world.admission.leave(ticket), Some(index));
                    prop_assert_eq!(world.admission.leave(ticket), None);
                    world.serve();
                }
                Step::RefuseUpstream(at, wait_ns) if !world.held.is_empty() => {
                    let (hold, _) = &world.held[at % world.held.len()];
                    world.admission.refused_upstream(hold, wait_ns, world.now_ns);
                }
                Step::Reload(0) => {
                    // The same rules keep what was taken.
                    world.admission.reload(rules(), world.now_ns);
                    world.serve();
                }
                Step::Reload(1) => {
                    is_same = false;
                    world.admission.reload(rules().split_off(1), world.now_ns);
                    world.serve();
                }
                _ => {}
            }
            prop_assert_eq!(world.admission.waiting(), world.waiting.len());
        }
        let in_force = rules().split_off(usize::from(!is_same));
        world.judge(&in_force)?;
        while let Some((ticket, _)) = world.waiting.pop() {
            prop_assert!(world.admission.leave(ticket).is_some());
        }
        while !world.held.is_empty() {
            world.settle(0, 50);
        }
        prop_assert!(world.admission.is_at_rest());
    }

    /// Everybody who waits is served in the end, at the times that are told: the timer alone
    /// suffices, no further event.
    #[test]
    fn property_the_timer_serves_everybody(
        asks in prop::collection::vec((0u32..3, 0usize..3, 0u64..40), 1..60),
    ) {
        let mut world = World::new(0);
        for (uid, endpoint, tokens) in asks {
            let (endpoint, route) = (ENDPOINTS[endpoint], "n");
            let sent = Sent {
                at_ns: 0, uid, endpoint, route, tokens, requests: 1, used: tokens, is_over: false,
            };
            world.ask(sent, 1, u64::MAX);
            if world.held.len() > 2 {
                world.settle(0, 99);
            }
        }
        let mut rounds = 0;
        while !world.waiting.is_empty() {
            rounds += 1;
            prop_assert!(rounds < 300, "it stalls with {} waiting", world.waiting.len());
            while !world.held.is_empty() {
                world.settle(0, 99);
            }
            match world.serve() {
                Some(due_ns) => {
                    prop_assert!(due_ns > world.now_ns || world.waiting.is_empty());
                    world.now_ns = due_ns;
                    world.serve();
                }
                None => prop_assert!(!world.held.is_empty() || world.waiting.is_empty()),
            }
        }
    }

}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// With n uids that always want more, each is let in for at least 1 in 2n, or has 1 in 2n of
    /// the tokens, whatever its requests cost and however greedy the others are.
    #[test]
    fn property_contract_14_every_uid_gets_its_share(
        uids in prop::collection::vec((1usize..20, 1u64..4, 0u64..50), 2..8),
        in_flight in prop::option::of(1u64..10),
    ) {
        let rule = LimitRule {
            endpoint: Some("a".into()),
            requests: Some(Rate { per_minute: 600, burst: 10 }),
            tokens: Some(Rate { per_minute: 6000, burst: 100 }),
            in_flight,
            ..LimitRule::default()
        };
        let bounds = QueueBounds::default();
        let mut admission: Admission<u32> = Admission::new(vec![rule], bounds);
        let mut counts = vec![0u64; uids.len()];
        let mut waiting = vec![0usize; uids.len()];
        let mut now_ns = 0;
        // Bound: a minute and more of its time.
        for _ in 0..900 {
            for (uid, (greed, sessions, tokens)) in uids.iter().enumerate() {
                while waiting[uid] < *greed {
                    let ask = Ask {
                        uid: uid as u32,
                        session: waiting[uid] as u64 % sessions,
                        deadline_ns: u64::MAX,
                        endpoint: Some("a"),
                        route: "m",
                        tokens: *tokens,
                    };
                    match admission.ask(&ask, now_ns) {
                        // Before there is any contention.
                        Entry::Admitted(hold) => admission.settle(hold, Outcome::Unknown, now_ns),
                        Entry::MustWait => {
                            admission.wait(&ask, uid as u32, now_ns).unwrap();
                            waiting[uid] += 1;
                        }
                        Entry::Refused(refusal) => panic!("{refusal:?}"),
                    }
                }
            }
            now_ns += NS_PER_S / 10;
            for (uid, hold) in admission.serve(now_ns).granted {
                counts[uid as usize] += 1;
                waiting[uid as usize] -= 1;
                admission.settle(hold, Outcome::Unknown, now_ns);
            }
        }
        let (sum, n) = (counts.iter().sum::<u64>(), counts.len() as u64);
        prop_assert!(sum > 100, "{sum}");
        // Who asks for nothing but what is scarce may have all of that and still be let in less
        // often than those who never ask for it.
        let spent: u64 = counts.iter().zip(&uids).map(|(count, uid)| count * uid.2).sum();
        for (count, (.., tokens)) in counts.iter().zip(&uids) {
            let has_share = |got: u64, all: u64| got * 2 * n >= all;
            prop_assert!(has_share(*count, sum) || has_share(count * tokens, spent), "{counts:?}");
        }
    }
}

fn ask<'a>(uid: u32, endpoint: &'a str, tokens: u64) -> Ask<'a> {
    Ask { uid, session: 1, deadline_ns: u64::MAX, endpoint: Some(endpoint), route: "m", tokens }
}

/// A limit that is used up holds back only those who need it.
#[test]
fn who_waits_for_one_limit_does_not_hold_up_another() {
    let rate = |per_minute| Some(Rate { per_minute, burst: 1 });
    let of = |name: &str| LimitRule {
        endpoint: Some(name.into()),
        requests: rate(60),
        ..LimitRule::default()
    };
    let mut admission: Admission<&str> = Admission::new(vec![of("a"), of("b")], BOUNDS);
    for endpoint in ["a", "b"] {
        assert!(matches!(admission.ask(&ask(1, endpoint, 0), 0), Entry::Admitted(_)));
    }
    admission.wait(&ask(1, "a", 0), "a", 0).unwrap();
    admission.wait(&ask(1, "a", 0), "a again", 0).unwrap();
    admission.wait(&ask(1, "b", 0), "b", 0).unwrap();
    assert_eq!(admission.serve(0).due_ns, Some(NS_PER_S));
    let served = admission.serve(NS_PER_S);
    let woken: Vec<_> = served.granted.iter().map(|(wake, _)| *wake).collect();
    assert_eq!((woken, served.due_ns), (vec!["a", "b"], Some(2 * NS_PER_S)));
}

/// A large request is not starved by small ones that would fit.
#[test]
fn nobody_overtakes_who_waits_for_the_same() {
    let tokens = Some(Rate { per_minute: 60, burst: 10 });
    let rule = LimitRule { route: Some("m".into()), tokens, ..LimitRule::default() };
    let mut admission: Admission<&str> = Admission::new(vec![rule], BOUNDS);
    assert!(matches!(admission.ask(&ask(1, "a", 5), 0), Entry::Admitted(_)));
    admission.wait(&ask(1, "a", 10), "large", 0).unwrap();
    assert!(matches!(admission.ask(&ask(2, "a", 1), 0), Entry::MustWait));
    admission.wait(&ask(2, "a", 1), "small", 0).unwrap();
    assert_eq!(admission.serve(0).due_ns, Some(5 * NS_PER_S));
    let woken: Vec<_> = admission.serve(5 * NS_PER_S).granted.iter().map(|g| g.0).collect();
    assert_eq!(woken, ["large"]);
}

#[test]
fn a_refusal_names_the_limit_and_when_to_come_again() {
    let requests = Some(Rate { per_minute: 60, burst: 1 });
    let uid = Some(LimitUid::Each);
    let queue = Some(1);
    let rule = LimitRule { uid, requests, queue, ..LimitRule::default() };
    let mut admission: Admission<()> = Admission::new(vec![rule], BOUNDS);
    assert!(matches!(admission.ask(&ask(1, "a", 0), 0), Entry::Admitted(_)));
    let late = Ask { deadline_ns: NS_PER_S / 2, ..ask(1, "a", 0) };
    let Entry::Refused(refusal) = admission.ask(&late, 0) else { panic!("let in") };
    assert_eq!(refusal.cause, RefusalCause::TooLate);
    assert_eq!((refusal.limit.as_str(), refusal.retry_after_ns), ("each uid", NS_PER_S));
    admission.wait(&ask(1, "a", 0), (), 0).unwrap();
    let Entry::Refused(refusal) = admission.ask(&ask(1, "a", 0), 0) else { panic!("let in") };
    assert_eq!((refusal.cause, refusal.retry_after_ns), (RefusalCause::Full, 2 * NS_PER_S));
    assert_eq!(admission.gauges(0)[0].refused, 2);
    assert!(matches!(admission.ask(&ask(2, "a", 0), 0), Entry::Admitted(_)), "another uid");
}

#[test]
fn refusals_can_be_left_to_their_callers() {
    let endpoint = Some("a".into());
    let rule = LimitRule { endpoint, ignores_refusals: true, ..LimitRule::default() };
    let mut admission: Admission<()> = Admission::new(vec![rule], BOUNDS);
    let Entry::Admitted(hold) = admission.ask(&ask(1, "a", 0), 0) else { panic!("no limit") };
    admission.refused_upstream(&hold, Some(2 * NS_PER_S), 1);
    admission.settle(hold, Outcome::Failed, 1);
    assert!(matches!(admission.ask(&ask(1, "a", 0), 1), Entry::Admitted(_)));
}

#[test]
fn an_endpoint_that_refused_is_spared_and_others_are_not() {
    let mut admission: Admission<&str> = Admission::new(Vec::new(), BOUNDS);
    let Entry::Admitted(hold) = admission.ask(&ask(1, "a", 0), 0) else { panic!("no limit") };
    admission.refused_upstream(&hold, Some(2 * NS_PER_S), 1);
    admission.settle(hold, Outcome::Failed, 1);
    assert!(matches!(admission.ask(&ask(1, "a", 0), 1), Entry::MustWait));
    assert!(matches!(admission.ask(&ask(1, "b", 0), 1), Entry::Admitted(_)));
    let other_route = Ask { route: "n", ..ask(1, "a", 0) };
    assert!(matches!(admission.ask(&other_route, 1), Entry::Admitted(_)));
    let late = Ask { deadline_ns: NS_PER_S, ..ask(1, "a", 0) };
    let Entry::Refused(refusal) = admission.ask(&late, 1) else { panic!("let in") };
    assert_eq!(refusal.limit, r#"endpoint "a""#);
    admission.wait(&ask(1, "a", 0), "first", 1).unwrap();
    let due_ns = admission.serve(1).due_ns.unwrap();
    assert!(due_ns > 2 * NS_PER_S, "{due_ns}");
    assert_eq!(admission.gauges(1)[0].name, r#"route "m" at endpoint "a" refused: 0/min"#);
    assert_eq!(admission.serve(due_ns).granted.len(), 1);
}

/// The rate that an endpoint is held to is shared, as its key is; and everybody gets a share of it
/// that asks, whoever brought the refusal about and however much that one asks for.
#[test]
fn uids_take_turns_at_the_rate_of_an_endpoint_that_refused() {
    let mut admission: Admission<u32> = Admission::new(Vec::new(), BOUNDS);
    let mut now_ns = 0;
    for _ in 0..200 {
        let Entry::Admitted(hold) = admission.ask(&ask(1, "a", 0), now_ns) else { panic!("full") };
        admission.settle(hold, Outcome::Used(0), now_ns);
        now_ns += NS_PER_S / 20;
    }
    let (mut served, mut waiting) = ([0; 3], [0; 3]);
    let until_ns = now_ns + 12 * NS_PER_S;
    let mut refusals = 0;
    while now_ns < until_ns {
        // The first always has twenty requests waiting, the others one.
        for (uid, most) in [(1, 20), (2, 1), (3, 1)] {
            while waiting[uid - 1] < most {
                match admission.ask(&ask(uid as u32, "a", 0), now_ns) {
                    Entry::Admitted(hold) => {
                        served[uid - 1] += 1;
                        // It is the first one whose requests are refused, again and again.
                        if uid == 1 && refusals < 5 {
                            refusals += 1;
                            admission.refused_upstream(&hold, None, now_ns + 1);
                        }
                        admission.settle(hold, Outcome::Failed, now_ns);
                    }
                    Entry::MustWait => {
                        admission.wait(&ask(uid as u32, "a", 0), uid as u32, now_ns).unwrap();
                        waiting[uid - 1] += 1;
                    }
                    Entry::Refused(refusal) => panic!("{refusal:?}"),
                }
            }
        }
        let round = admission.serve(now_ns);
        for (uid, hold) in round.granted {
            let at = uid as usize - 1;
            (served[at], waiting[at]) = (served[at] + 1, waiting[at] - 1);
            admission.settle(hold, Outcome::Failed, now_ns);
        }
        now_ns = round.due_ns.unwrap_or(now_ns + 1).max(now_ns + 1);
    }
    let all: u32 = served.iter().sum();
    assert!(all > 12, "it goes on: {served:?}");
    assert!(served.iter().all(|own| own * 2 * 3 >= all), "each at least a sixth: {served:?}");
}

/// A request that says it may use any number of tokens keeps others waiting for seconds.
#[test]
fn a_wild_estimate_does_not_shut_others_out() {
    let tokens = Some(Rate { per_minute: 6000, burst: 100 });
    let rule = LimitRule { route: Some("m".into()), tokens, ..LimitRule::default() };
    let mut admission: Admission<&str> = Admission::new(vec![rule], BOUNDS);
    let Entry::Admitted(wild) = admission.ask(&ask(1, "a", u64::MAX), 0) else { panic!("full") };
    admission.wait(&ask(1, "a", u64::MAX), "wild", 0).unwrap();
    let soon = Ask { deadline_ns: 40 * NS_PER_S, ..ask(2, "a", 10) };
    assert!(matches!(admission.ask(&soon, 0), Entry::MustWait));
    admission.wait(&soon, "small", 0).unwrap();
    admission.settle(wild, Outcome::Used(50), NS_PER_S);
    let woken: Vec<_> = admission.serve(16 * NS_PER_S).granted.iter().map(|g| g.0).collect();
    assert_eq!(woken, ["wild"]);
    let woken: Vec<_> = admission.serve(40 * NS_PER_S).granted.iter().map(|g| g.0).collect();
    assert_eq!(woken, ["small"]);
}

/// A long wait that one uid was told of holds others for seconds alone, also behind it.
#[test]
fn what_one_uid_was_told_holds_the_others_for_seconds() {
    let mut admission: Admission<&str> = Admission::new(Vec::new(), BOUNDS);
    let Entry::Admitted(hold) = admission.ask(&ask(1, "a", 0), 0) else { panic!("no limit") };
    admission.refused_upstream(&hold, Some(60 * NS_PER_S), 0);
    admission.settle(hold, Outcome::Failed, 0);
    assert!(matches!(admission.ask(&ask(1, "a", 0), 0), Entry::MustWait));
    admission.wait(&ask(1, "a", 0), "told", 0).unwrap();
    admission.wait(&ask(2, "a", 0), "other", 0).unwrap();
    let due_ns = admission.serve(0).due_ns.unwrap();
    assert!((5 * NS_PER_S..7 * NS_PER_S).contains(&due_ns), "{due_ns}");
    let woken: Vec<_> = admission.serve(due_ns).granted.iter().map(|g| g.0).collect();
    assert_eq!(woken, ["other"]);
    assert_eq!(admission.serve(60 * NS_PER_S).granted.len(), 1);
}

/// New numbers for a limit change neither what is in flight nor what was used up.
#[test]
fn a_changed_limit_goes_on_from_where_it_is() {
    let rule = |in_flight, per_minute| LimitRule {
        route: Some("m".into()),
        in_flight: Some(in_flight),
        requests: Some(Rate { per_minute, burst: 2 }),
        ..LimitRule::default()
    };
    let mut admission: Admission<&str> = Admission::new(vec![rule(2, 60)], BOUNDS);
    let mut held: Vec<_> = (0..2).map(|_| admission.ask_now(&ask(1, "a", 0), 0).unwrap()).collect();
    admission.reload(vec![LimitRule::default(), rule(1, 120)], 0);
    let gauge = admission.gauges(0)[1].clone();
    assert_eq!((gauge.in_flight, gauge.requests), (2, Some(0)));
    admission.settle(held.remove(0), Outcome::Failed, NS_PER_S);
    assert!(admission.ask_now(&ask(1, "a", 0), NS_PER_S).is_err(), "one is one in flight");
    admission.settle(held.remove(0), Outcome::Failed, NS_PER_S);
    let again = admission.ask_now(&ask(1, "a", 0), NS_PER_S).unwrap();
    assert_eq!(admission.gauges(NS_PER_S)[1].requests, Some(1), "two came back in a second");
    admission.settle(again, Outcome::Unsent, NS_PER_S);
    assert!(admission.is_at_rest());
}
