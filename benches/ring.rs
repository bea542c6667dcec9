//! One thread, warm caches: what the instructions of a frame, a submission and a ring cost. Two
//! processes and cache lines in motion are the business of `ringmain bench --suite lane`.
#![expect(clippy::unwrap_used, reason = "what cannot be set up has nothing to measure")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringmain_ring::{
    Arena, Armed, LaneReader, LaneWriter, Push, Ring, SubmissionReader, SubmissionWriter,
};
use ringmain_shm::{
    Compat, Control, Listener, OwnSegment, PeerSegment, ReadMap, TrustedMap, WriteMap,
};
use ringmain_wire::limits::{ARENA_BYTES_DEFAULT, LANE_BYTES_DEFAULT, LANE_BYTES_MAX};
use ringmain_wire::{Entry, ExchangeId, Geometry, Kind, LaneId};

/// The two segments of a session, as each side maps them.
struct Segments {
    geometry: Geometry,
    lane: LaneId,
    caller: WriteMap,
    caller_seen: ReadMap,
    responder: WriteMap,
    responder_seen: TrustedMap,
}

impl Segments {
    fn new(lane_bytes: u32) -> Segments {
        let geometry = Geometry::new(64, lane_bytes, ARENA_BYTES_DEFAULT).unwrap();
        let compat = Compat::default();
        let uid = ringmain_shm::own_uid();
        let theirs = PeerSegment::create("bench", geometry.caller_bytes(), &compat).unwrap();
        let ours = OwnSegment::create("bench", geometry.responder_bytes(), uid, &compat).unwrap();
        // Both sides are this thread, which chose itself.
        let dir = tempfile::tempdir().unwrap();
        let _listener = Listener::bind(&dir.path().join("s"), 0o600, None).unwrap();
        let (_control, trust) = Control::connect_trusting(&dir.path().join("s")).unwrap();
        let bytes = geometry.responder_bytes();
        Segments {
            geometry,
            lane: geometry.lane(0).unwrap(),
            caller: WriteMap::attach(theirs.fd, geometry.caller_bytes()).unwrap(),
            caller_seen: theirs.map,
            responder: ours.map,
            responder_seen: TrustedMap::attach(ours.fd, bytes, &trust).unwrap(),
        }
    }

    fn writer(&self) -> LaneWriter<WriteMap, ReadMap> {
        let (own, peer) = (self.responder.clone(), self.caller_seen.clone());
        let mut writer = LaneWriter::new(own, peer, self.geometry, self.lane);
        writer.begin(ExchangeId(0)).unwrap();
        writer
    }

    fn reader(&self) -> LaneReader<WriteMap, TrustedMap> {
        let (own, peer) = (self.caller.clone(), self.responder_seen.clone());
        LaneReader::new(own, peer, self.geometry, self.lane)
    }
}

/// Frames written and then read, as in a burst.
const BATCH: usize = 16;

fn lane(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("lane_16_frames");
    group.throughput(Throughput::Elements(BATCH as u64));
    for (name, payload_bytes, lane_bytes) in [
        ("16b", 16, LANE_BYTES_DEFAULT),
        ("256b", 256, LANE_BYTES_DEFAULT),
        ("4k", 4096, LANE_BYTES_MAX),
    ] {
        let segments = Segments::new(lane_bytes);
        let (mut writer, mut reader) = (segments.writer(), segments.reader());
        let payload = vec![b'x'; payload_bytes];
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                for _ in 0..BATCH {
                    let pushed = writer.push(Kind::Delta, 0, &payload, 1).unwrap();
                    assert_eq!(pushed, Push::Written);
                }
                while let Some(frame) = reader.next().unwrap() {
                    black_box(frame.payload);
                }
            });
        });
    }
    group.finish();
}

fn lane_copied(criterion: &mut Criterion) {
    let segments = Segments::new(LANE_BYTES_DEFAULT);
    let (mut writer, mut reader) = (segments.writer(), segments.reader());
    let mut copy = Vec::with_capacity(4096);
    criterion.bench_function("lane_16_frames_16b_copied_by_words", |bencher| {
        bencher.iter(|| {
            for _ in 0..BATCH {
                let pushed = writer.push(Kind::Delta, 0, &[b'x'; 16], 1).unwrap();
                assert_eq!(pushed, Push::Written);
            }
            while reader.next_copied(&mut copy).unwrap().is_some() {
                black_box(copy.as_slice());
            }
        });
    });
}

fn submission(criterion: &mut Criterion) {
    let segments = Segments::new(LANE_BYTES_DEFAULT);
    let mut writer = SubmissionWriter::new(segments.caller.clone(), segments.geometry);
    let mut reader = SubmissionReader::new(segments.caller_seen.clone(), segments.geometry);
    criterion.bench_function("submission_push_and_next", |bencher| {
        bencher.iter(|| {
            writer.push(black_box(Entry::ping(segments.lane)));
            black_box(reader.next())
        });
    });
}

fn bell(criterion: &mut Criterion) {
    let segments = Segments::new(LANE_BYTES_DEFAULT);
    let mut armed = Armed::new(segments.caller.clone(), Geometry::CALLER_ARMED);
    let ring = Ring::new(segments.caller_seen.clone(), Geometry::CALLER_ARMED);
    criterion.bench_function("bell_due_while_awake", |bencher| bencher.iter(|| ring.due()));
    criterion.bench_function("bell_arm_due_disarm", |bencher| {
        bencher.iter(|| {
            armed.arm();
            let due = ring.due();
            armed.disarm();
            assert!(due);
        });
    });
}

fn arena(criterion: &mut Criterion) {
    let mut arena = Arena::new(ARENA_BYTES_DEFAULT);
    criterion.bench_function("arena_take_and_give_back", |bencher| {
        bencher.iter(|| {
            let chunk = arena.take(black_box(900)).unwrap();
            arena.give_back(chunk)
        });
    });
}

criterion_group!(benches, lane, lane_copied, submission, bell, arena);
criterion_main!(benches);
