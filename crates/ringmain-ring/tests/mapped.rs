//! The rings over real mappings, with the two sides on two threads: what the models cannot show,
//! namely that mapped memory keeps what `Memory` promises.
//!
//! An application session: the broker, as the responder, makes both segments; the application
//! borrows frames in place, and the same again with copied frames.

#![cfg(not(loom))]
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::thread;

use ringmain_ring::{LaneReader, LaneWriter, Push, SubmissionReader, SubmissionWriter};
use ringmain_shm::{
    Compat, Control, Listener, OwnSegment, PeerSegment, ReadMap, TrustedMap, WriteMap, own_uid,
};
use ringmain_wire::{Entry, Geometry, Kind, LaneId, Submission};

const EXCHANGES: u64 = 20;
const FRAMES: u64 = 400;

/// What the broker holds of a session, and what the application holds of it.
struct Session {
    responder: WriteMap,
    caller_seen: ReadMap,
    caller: WriteMap,
    responder_seen: TrustedMap,
}

fn session(geometry: Geometry) -> Session {
    let compat = Compat::default();
    let own = OwnSegment::create("lanes", geometry.responder_bytes(), own_uid(), &compat).unwrap();
    let peer = PeerSegment::create("arena", geometry.caller_bytes(), &compat).unwrap();
    // The broker is a thread of this process, chosen like any other.
    let dir = tempfile::tempdir().unwrap();
    let _listener = Listener::bind(&dir.path().join("s"), 0o600, None).unwrap();
    let (_control, trust) = Control::connect_trusting(&dir.path().join("s")).unwrap();
    let responder_bytes = geometry.responder_bytes();
    let seen = TrustedMap::attach(own.fd.try_clone().unwrap(), responder_bytes, &trust).unwrap();
    let caller = WriteMap::attach(peer.fd.try_clone().unwrap(), geometry.caller_bytes()).unwrap();
    Session {
        responder: own.map.clone(),
        caller_seen: peer.map.clone(),
        caller,
        responder_seen: seen,
    }
}

/// Sizes from one byte to some lines, so that laps end in every way.
fn payload(exchange: u64, frame: u64) -> Vec<u8> {
    let bytes = 1 + (exchange * 31 + frame * 97) % 400;
    (0..bytes).map(|at| (at ^ frame ^ exchange) as u8).collect()
}

fn answer(session: (WriteMap, ReadMap), geometry: Geometry, lane: LaneId) {
    let (own, peer) = session;
    let mut submissions = SubmissionReader::new(peer.clone(), geometry);
    let mut writer = LaneWriter::new(own, peer, geometry, lane);
    for exchange in 0..EXCHANGES {
        let (id, entry) = loop {
            match submissions.next() {
                Some(taken) => break taken,
                None => thread::yield_now(),
            }
        };
        assert_eq!(Submission::parse(&entry, &geometry), Ok(Submission::Ping { lane }));
        writer.begin(id).unwrap();
        for frame in 0..FRAMES {
            let payload = payload(exchange, frame);
            while writer.push(Kind::Body, 3, &payload, frame).unwrap() == Push::Full {
                thread::yield_now();
            }
        }
        writer.finish(Kind::End, b"end", 0).unwrap();
    }
}

fn call(session: (WriteMap, TrustedMap), geometry: Geometry, lane: LaneId, copied: bool) {
    let (own, peer) = session;
    let inside = peer.address_range();
    let mut submissions = SubmissionWriter::new(own.clone(), geometry);
    let mut reader = LaneReader::new(own, peer, geometry, lane);
    let mut copy = Vec::new();
    for exchange in 0..EXCHANGES {
        let id = submissions.push(Entry::ping(lane));
        let mut frames = 0;
        loop {
            let kind = if copied {
                let Some(header) = reader.next_copied(&mut copy).unwrap() else {
                    thread::yield_now();
                    continue;
                };
                assert_eq!(header.exchange, id.0);
                Kind::from_number(header.kind).unwrap()
            } else {
                let Some(frame) = reader.next().unwrap() else {
                    thread::yield_now();
                    continue;
                };
                assert_eq!(frame.exchange, id);
                assert!(inside.contains(&frame.payload.as_ptr().addr()), "borrowed in place");
                copy.clear();
                copy.extend_from_slice(frame.payload);
                frame.kind
            };
            if kind == Kind::End {
                assert_eq!((frames, &copy[..]), (FRAMES, &b"end"[..]));
                break reader.release();
            }
            assert_eq!(copy, payload(exchange, frames));
            frames += 1;
        }
    }
}

fn run(copied: bool) {
    let geometry = Geometry::new(2, 4096, 65536).unwrap();
    let lane = geometry.lane(1).unwrap();
    let Session { responder, caller_seen, caller, responder_seen } = session(geometry);
    let broker = thread::spawn(move || answer((responder, caller_seen), geometry, lane));
    call((caller, responder_seen), geometry, lane, copied);
    broker.join().unwrap();
}

#[test]
fn frames_are_borrowed_from_a_mapping() {
    run(false);
}

#[test]
fn frames_are_copied_from_a_mapping() {
    run(true);
}
