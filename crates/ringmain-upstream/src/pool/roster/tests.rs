use super::*;
use proptest::prelude::*;

const IDLE: Duration = Duration::from_secs(20);
const BOUNDS: Bounds = Bounds { slots_max: 3, lifetime_max: Duration::from_secs(600) };

struct Bench {
    roster: Roster<u64>,
    now: Instant,
    gone: Gone<u64>,
}

impl Bench {
    fn new(expected: Option<u32>) -> Bench {
        let now = Instant::now();
        Bench { roster: Roster::new(BOUNDS, expected, now), now, gone: Vec::new() }
    }

    fn pick(&mut self, waiting: usize) -> Pick<u64> {
        self.roster.pick(waiting, IDLE, self.now, &mut self.gone)
    }

    /// A request that makes a connection with so many places and leaves it.
    fn connect(&mut self, places: u32) -> SlotId {
        let Pick::Vacant(id) = self.pick(0) else { panic!("no vacant slot") };
        self.roster.fill(id, id.serial);
        self.roster.opened(id, places, places);
        id
    }

    fn place(&mut self) -> SlotId {
        let Pick::Place(id, ..) = self.pick(0) else { panic!("no place") };
        id
    }

    fn release(&mut self, id: SlotId) {
        self.gone.extend(self.roster.release(id, self.now));
    }

    fn causes(&self) -> Vec<Cause> {
        self.gone.iter().filter_map(|(_, cause)| *cause).collect()
    }
}

#[test]
fn the_lowest_slot_with_room_is_taken_and_the_others_fall_idle() {
    let mut bench = Bench::new(Some(1));
    let slots = [bench.connect(1), bench.connect(1), bench.connect(1)];
    assert!(matches!(bench.pick(0), Pick::Wait), "the ceiling");
    slots.into_iter().rev().for_each(|id| bench.release(id));
    for _ in 0..5 {
        let id = bench.place();
        assert_eq!(id, slots[0]);
        bench.now += Duration::from_secs(5);
        bench.release(id);
    }
    assert_eq!(bench.place(), slots[0]);
    let id = bench.roster.pick(0, IDLE, bench.now, &mut bench.gone);
    assert!(matches!(id, Pick::Vacant(_)), "what was unused for too long is not used");
    assert_eq!(bench.causes(), [Cause::Idle, Cause::Idle]);
}

#[test]
fn the_first_connection_shows_how_many_are_needed() {
    let mut bench = Bench::new(None);
    let Pick::Vacant(scout) = bench.pick(0) else { panic!() };
    assert!((0..50).all(|waiting| matches!(bench.pick(waiting), Pick::Wait)));
    bench.roster.fill(scout, 1);
    bench.roster.opened(scout, 100, 100);
    let places: Vec<_> = (0..99).map(|_| bench.place()).collect();
    assert!(places.iter().all(|id| *id == scout));
    // From now on each connection that is being made counts for a hundred.
    let Pick::Vacant(_) = bench.pick(0) else { panic!() };
    assert!((0..99).all(|waiting| matches!(bench.pick(waiting), Pick::Wait)));
    assert!(matches!(bench.pick(99), Pick::Vacant(_)));
    assert_eq!(bench.roster.counts(), (1, 1, 102));
}

#[test]
fn a_slot_that_leaves_takes_no_more_and_goes_with_its_last_request() {
    let mut bench = Bench::new(Some(2));
    let first = bench.connect(2);
    assert_eq!(bench.place(), first);
    assert_eq!(bench.roster.retire(first, Cause::GoAway), None);
    assert!(matches!(bench.pick(0), Pick::Vacant(id) if id != first));
    bench.release(first);
    assert!(bench.gone.is_empty());
    bench.release(first);
    assert_eq!(bench.causes(), [Cause::GoAway]);
    // Its number means nothing any more.
    assert_eq!(bench.roster.retire(first, Cause::Failed), None);
    assert_eq!(bench.roster.release(first, bench.now), None);
}

#[test]
fn age_and_lack_of_demand_end_what_nobody_uses() {
    let mut bench = Bench::new(Some(1));
    let slots = [bench.connect(1), bench.connect(1), bench.connect(1)];
    slots.into_iter().for_each(|id| bench.release(id));
    let floor = 1;
    bench.now += Duration::from_secs(9);
    bench.roster.expire(floor, IDLE, bench.now, &mut bench.gone);
    assert!(bench.gone.is_empty(), "the peak is of the window before");
    bench.now += Duration::from_secs(6);
    bench.roster.expire(floor, IDLE, bench.now, &mut bench.gone);
    assert_eq!(bench.causes(), [Cause::Surplus, Cause::Surplus]);
    let due = bench.roster.next_due(floor, IDLE).unwrap();
    assert_eq!(due, bench.now + Duration::from_secs(5));
    let id = bench.place();
    bench.now += BOUNDS.lifetime_max;
    bench.roster.expire(floor, IDLE, bench.now, &mut bench.gone);
    bench.release(id);
    assert_eq!(bench.causes()[2..], [Cause::Aged]);
    assert_eq!((bench.roster.size(), bench.roster.next_due(floor, IDLE)), (0, None));
}

#[test]
fn a_lower_bound_of_places_closes_room() {
    let mut bench = Bench::new(Some(10));
    let id = bench.connect(10);
    assert_eq!(bench.place(), id);
    bench.roster.bound_places(2);
    assert!(matches!(bench.pick(0), Pick::Vacant(_)));
    bench.release(id);
    assert_eq!(bench.place(), id);
    assert!(bench.roster.is_full(id) && !bench.roster.raise_places(5));
    assert_eq!((bench.place(), bench.place()), (id, id));
    assert!(bench.roster.is_full(id));
    assert!(bench.roster.bound_places_of(id, 1) && !bench.roster.bound_places_of(id, 3));
}

proptest! {
    /// Whatever happens in whatever order: no place is given twice, none is lost, and the counts
    /// are those of what was given.
    #[test]
    fn places_are_given_and_taken_back_exactly(
        steps in prop::collection::vec((0_u8..6, any::<prop::sample::Index>()), 0..200),
    ) {
        let mut bench = Bench::new(None);
        let (mut held, mut making): (Vec<SlotId>, Vec<SlotId>) = (Vec::new(), Vec::new());
        for (step, at) in steps {
            match step {
                0 | 1 => match bench.pick(0) {
                    Pick::Place(id, ..) => held.push(id),
                    Pick::Vacant(id) => {
                        bench.roster.fill(id, 0);
                        held.push(id);
                        making.push(id);
                    }
                    Pick::Wait => {}
                },
                2 if !making.is_empty() => {
                    let id = making.swap_remove(at.index(making.len()));
                    bench.roster.opened(id, 2, 2);
                }
                3 if !held.is_empty() => {
                    let id = held.swap_remove(at.index(held.len()));
                    making.retain(|made| *made != id);
                    bench.release(id);
                }
                4 if !held.is_empty() => {
                    let id = held[at.index(held.len())];
                    bench.roster.retire(id, Cause::Failed);
                }
                _ => bench.now += Duration::from_secs(7),
            }
            let (standing, in_use, streams) = bench.roster.counts();
            prop_assert_eq!(streams, held.len());
            prop_assert!(in_use <= standing && bench.roster.size() <= BOUNDS.slots_max);
            for id in &held {
                prop_assert!(held.iter().filter(|other| *other == id).count() <= 2);
            }
        }
        held.into_iter().for_each(|id| bench.release(id));
        prop_assert_eq!(bench.roster.counts().1, 0);
        bench.now += BOUNDS.lifetime_max;
        bench.roster.expire(0, IDLE, bench.now, &mut bench.gone);
        prop_assert_eq!(bench.roster.size(), 0);
    }
}
