//! The queue against the plain list of who waits.

use std::collections::HashSet;

use super::*;
use proptest::prelude::*;

const WIDE: QueueBounds = QueueBounds { total: 1000, per_uid: 1000 };

#[derive(Clone, Debug)]
enum Step {
    Push(u32, u64, u64, u64),
    Remove(usize),
    /// Serves at most so many, and nobody of one kind.
    Serve(usize, u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0u32..4, 0u64..3, 0u64..3, 0u64..50).prop_map(|(u, s, k, d)| Step::Push(u, s, k, d)),
        1 => any::<usize>().prop_map(Step::Remove),
        2 => (0usize..6, 0u64..4).prop_map(|(n, k)| Step::Serve(n, k)),
    ];
    prop::collection::vec(step, 0..150)
}

proptest! {
    /// Whoever took a place leaves it exactly once, served or removed, and in its session nobody of
    /// its kind with an earlier deadline is left behind.
    #[test]
    fn property_everybody_leaves_exactly_once(steps in steps(), per_uid in 1usize..30) {
        let mut queue = FairQueue::new(QueueBounds { total: 40, per_uid });
        let mut model: Vec<(Ticket, usize)> = Vec::new();
        let mut gone = HashSet::new();
        for (item, step) in steps.into_iter().enumerate() {
            match step {
                Step::Push(uid, session, kind, deadline_ns) => {
                    let place = Place { uid, session, kind, deadline_ns };
                    let of_uid = model.iter().filter(|(t, _)| t.uid() == uid).count();
                    let expected = model.len() < 40 && of_uid < per_uid;
                    let ticket = queue.push(place, item);
                    prop_assert_eq!(ticket.is_ok(), expected);
                    model.extend(ticket.ok().map(|ticket| (ticket, item)));
                }
                Step::Remove(at) if !model.is_empty() => {
                    let (ticket, item) = model.swap_remove(at % model.len());
                    prop_assert_eq!(queue.remove(ticket), Some(item));
                    prop_assert_eq!(queue.remove(ticket), None);
                    prop_assert!(gone.insert(item));
                }
                Step::Remove(_) => {}
                Step::Serve(mut most, but) => {
                    let kind = |item: &usize| model.iter().find(|(_, i)| i == item).unwrap().0.place;
                    let served = queue.serve(|_, item| {
                        let yes = most > 0 && kind(item).kind != but;
                        most -= usize::from(yes);
                        yes
                    });
                    for item in &served {
                        prop_assert!(gone.insert(*item), "served twice");
                        let place = kind(item);
                        let earlier = model.iter().filter(|(t, other)| {
                            let same = Place { deadline_ns: 0, ..t.place };
                            same == Place { deadline_ns: 0, ..place }
                                && t.place.deadline_ns < place.deadline_ns
                                && !gone.contains(other)
                        });
                        prop_assert_eq!(earlier.count(), 0);
                    }
                    model.retain(|(_, item)| !served.contains(item));
                }
            }
            prop_assert_eq!(queue.len(), model.len());
            prop_assert_eq!(queue.turn.len(), queue.uids.len());
            for (uid, of_uid) in &queue.uids {
                let waits = model.iter().filter(|(t, _)| t.uid() == *uid).count();
                prop_assert_eq!((of_uid.len, of_uid.turn.len()), (waits, of_uid.sessions.len()));
                prop_assert_eq!(of_uid.kinds.values().sum::<usize>(), waits);
            }
        }
        prop_assert_eq!(queue.serve(|_, _| true).len(), model.len());
        prop_assert!(queue.is_empty() && queue.uids.is_empty() && queue.turn.is_empty());
    }

    /// With n uids waiting, each is served once in every n, however many of the others wait in
    /// however many sessions, and however few are served at a time.
    #[test]
    fn property_uids_are_served_in_turn(
        crowds in prop::collection::vec(1usize..40, 2..8),
        at_once in 1usize..5,
    ) {
        let mut queue = FairQueue::new(WIDE);
        for (uid, crowd) in crowds.iter().enumerate() {
            for n in 0..*crowd {
                let place = Place { uid: uid as u32, session: n as u64 % 5, kind: 0, deadline_ns: 0 };
                queue.push(place, uid).unwrap();
            }
        }
        let mut order = Vec::new();
        while !queue.is_empty() {
            let mut left = at_once;
            order.extend(queue.serve(|_, _| {
                let yes = left > 0;
                left -= usize::from(yes);
                yes
            }));
        }
        let least = *crowds.iter().min().unwrap();
        for round in order.chunks(crowds.len()).take(least) {
            let uids: HashSet<_> = round.iter().collect();
            prop_assert_eq!(uids.len(), crowds.len(), "{:?}", order);
        }
    }
}

#[test]
fn sessions_take_turns_and_each_goes_by_deadline() {
    let mut queue = FairQueue::new(WIDE);
    for (session, deadline_ns) in [(1, 30), (1, 10), (1, 20), (2, 99), (2, 98)] {
        let place = Place { uid: 7, session, kind: 0, deadline_ns };
        queue.push(place, (session, deadline_ns)).unwrap();
    }
    assert_eq!(queue.serve(|_, _| true), [(1, 10), (2, 98), (1, 20), (2, 99), (1, 30)]);
}

#[test]
fn one_kind_does_not_stand_in_the_way_of_another() {
    let mut queue = FairQueue::new(WIDE);
    for (kind, deadline_ns) in [(1, 1), (1, 2), (u64::MAX, 3), (0, 4)] {
        queue.push(Place { uid: 7, session: 1, kind, deadline_ns }, kind).unwrap();
    }
    let mut asked = Vec::new();
    let served = queue.serve(|_, kind| {
        asked.push(*kind);
        *kind != 1
    });
    assert_eq!(served, [u64::MAX, 0]);
    assert_eq!(asked, [1, u64::MAX, 0], "the first of each kind, no further and no second time");
}

/// However many wait, a no is asked for once per uid and kind, and again when it is served anew.
#[test]
fn a_crowd_without_room_is_asked_once() {
    let mut queue = FairQueue::new(QueueBounds { total: 20_000, per_uid: 2000 });
    for uid in 0..16 {
        for session in 0..1000 {
            let kind = u64::from(session == 999);
            queue.push(Place { uid, session, kind, deadline_ns: 0 }, kind).unwrap();
        }
    }
    for _ in 0..2 {
        let mut asked = 0;
        let none = queue.serve(|_, _| {
            asked += 1;
            false
        });
        assert_eq!((none.len(), asked), (0, 32));
    }
    let mut asked = 0;
    let served = queue.serve(|_, kind| {
        asked += 1;
        *kind == 1
    });
    assert_eq!((served.len(), asked), (16, 32));
}

#[test]
fn full_queues_say_whose_bound_it_is() {
    let mut queue = FairQueue::new(QueueBounds { total: 2, per_uid: 1 });
    let place = |uid| Place { uid, session: 1, kind: 0, deadline_ns: 0 };
    queue.push(place(1), ()).unwrap();
    assert_eq!(queue.push(place(1), ()), Err(QueueFull::Uid(1)));
    queue.push(place(2), ()).unwrap();
    assert_eq!(queue.push(place(3), ()), Err(QueueFull::Total(2)));
}
