//! The session's task by hand, one poll at a time.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;

use ringmain_policy::Slot;
use ringmain_ring::{Ring, SubmissionWriter};
use ringmain_shm::{
    Compat, Control, OwnSegment, PeerSegment, Readiness, Ringer, bell_pair, own_uid,
};
use ringmain_upstream::{Endpoint, EndpointConfig};
use ringmain_wire::{Geometry, Kind};

use super::*;
use crate::allow::Identity;
use crate::config::BrokerConfig;
use crate::routes::RouteTable;
use crate::session::SessionParts;
use crate::session::watch::WatchParts;

/// A session that nobody runs, and the peer's side of its memory.
pub(crate) struct Bench {
    pub broker: Arc<Broker>,
    pub session: Arc<Session>,
    task: Task,
    caller: WriteMap,
    submissions: SubmissionWriter<WriteMap>,
    geometry: Geometry,
    _peer: Control,
}

pub(crate) fn bench() -> Bench {
    let geometry = Geometry::new(2, 4096, 1 << 16).unwrap();
    let endpoint = Endpoint::new(EndpointConfig::new("none", "http://127.0.0.1:9/v1")).unwrap();
    let table = RouteTable::new(vec![], vec![Arc::new(endpoint)]).unwrap();
    let broker = Broker::new(BrokerConfig::default(), table);
    let compat = Compat::default();
    let peer_segment = PeerSegment::create("test", geometry.caller_bytes(), &compat).unwrap();
    let own_segment =
        OwnSegment::create("test", geometry.responder_bytes(), own_uid(), &compat).unwrap();
    let caller = WriteMap::attach(peer_segment.fd, geometry.caller_bytes()).unwrap();
    let (bell, _) = bell_pair().unwrap();
    let (_, ringer) = bell_pair().unwrap();
    let (control, peer) = Control::pair().unwrap();
    let control_ready = Readiness::new(control.try_clone_fd().unwrap()).unwrap();
    let exited = Readiness::new(control.peer(&compat).unwrap().pidfd).unwrap();
    let ring = Ring::new(peer_segment.map.clone(), Geometry::CALLER_ARMED);
    let charge = |slot| broker.ledger().charge(1, slot, 1).unwrap();
    let session = Session::new(SessionParts {
        id: 1,
        peer: Identity { uid: own_uid(), ..Identity::default() },
        geometry,
        caller: peer_segment.map.clone(),
        responder: own_segment.map.clone(),
        bell: broker.bells().bell(own_uid(), ring, Ringer::write(ringer)),
        punchers: [peer_segment.punch, own_segment.punch],
        charges: [charge(Slot::Sessions), charge(Slot::SegmentBytes)],
        reaper: broker.reaper().clone(),
    });
    let bell = Readiness::new(bell.into()).unwrap();
    let io = SessionIo {
        submissions: SubmissionReader::new(peer_segment.map, geometry),
        armed: Armed::new(own_segment.map, Geometry::RESPONDER_ARMED),
        watch: Watch::new(WatchParts { control, control_ready, bell, exited }),
    };
    let submissions = SubmissionWriter::new(caller.clone(), geometry);
    let spin = Spin::default();
    let task = Task { broker: broker.clone(), session: session.clone(), io, spin };
    Bench { broker, session, task, caller, submissions, geometry, _peer: peer }
}

async fn poll_once<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    let mut future = Some(future);
    poll_fn(|cx| Poll::Ready(future.take().map(|future| future.poll(cx)))).await.unwrap()
}

/// A peer that has one more entry ready whenever the task is about to sleep does not keep the
/// worker: the task lets others run first.
#[tokio::test]
async fn work_found_while_about_to_sleep_waits_for_others() {
    let mut bench = bench();
    assert_eq!(bench.task.turn(), Ok(false));
    let lane = bench.geometry.lane(0).unwrap();
    bench.submissions.push(Entry::cancel(lane, ExchangeId(7)));
    let mut rest = pin!(bench.task.rest());
    assert!(poll_once(rest.as_mut()).await.is_pending());
    assert!(matches!(rest.await, Ok(None)));
}

/// The look between arming and sleeping clears the bit of the lane whose cursor it finds
/// impossible; the turn that follows must know all the same.
#[tokio::test]
async fn an_impossible_cursor_found_before_a_sleep_ends_the_session() {
    let mut bench = bench();
    let lane = bench.geometry.lane(1).unwrap();
    let session = bench.session.clone();
    session.lane(lane).begin(ExchangeId(0), None).unwrap();
    poll_fn(|cx| {
        // Bound: the lane is finite.
        let push = || session.push(lane, Kind::Delta, 0, &[b'x'; 500], monotonic_ns());
        while push() == Ok(ringmain_ring::Push::Written) {}
        assert!(session.poll_room(lane, cx, 8).is_pending());
        Poll::Ready(())
    })
    .await;
    bench.caller.store_release(bench.geometry.cursor_offset(lane), 1 << 40);
    assert!(bench.task.is_ready());
    let ending = bench.task.turn().unwrap_err();
    assert!(
        matches!(&ending, Ending::Violation(why) if why.code == Code::ViolationCursor),
        "{ending:?}"
    );
}
