//! Any 64 bytes as a submission entry, in sessions of several sizes.
//!
//! What is accepted lies in the arena, computed without overflow in wider numbers, names a lane
//! that exists, and is the entry that an honest caller would have written for the same request.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringmain_wire::{Entry, Geometry, LaneId, Request, Submission};

/// The least session, the usual one and the largest.
const SIZES: [(u32, u32, u64); 3] =
    [(1, 4096, 65_536), (64, 16_384, 1 << 24), (1024, 1 << 20, 1 << 30)];

fuzz_target!(|data: &[u8]| {
    let Some((&[size], rest)) = data.split_first_chunk() else { return };
    let Some(bytes) = rest.first_chunk::<64>() else { return };
    let (lanes, lane_bytes, arena_bytes) = SIZES[usize::from(size) % SIZES.len()];
    let geometry = Geometry::new(lanes, lane_bytes, arena_bytes).expect("possible sizes");
    let entry: Entry = bytemuck::pod_read_unaligned(bytes);
    match Submission::parse(&entry, &geometry) {
        Ok(Submission::Request(request)) => check_request(&entry, &request, &geometry),
        Ok(Submission::Cancel { lane, target }) => {
            check_lane(lane, &entry, &geometry);
            assert_eq!(target.0, entry.target);
        }
        Ok(Submission::Ping { lane }) => check_lane(lane, &entry, &geometry),
        Ok(other) => panic!("{other:?} has no check"),
        Err(_) => {}
    }
});

fn check_request(entry: &Entry, request: &Request, geometry: &Geometry) {
    check_lane(request.lane, entry, geometry);
    let head_end = u128::from(request.head_offset()) + request.head_bytes() as u128;
    let body_end = u128::from(request.body_offset()) + request.body_bytes() as u128;
    assert!(request.head_bytes() > 0 && head_end <= u128::from(request.body_offset()));
    assert!(body_end <= u128::from(geometry.arena_bytes()));
    assert!(request.head_offset() % 64 == 0 && request.body_offset() % 64 == 0);
    let honest = Entry::request(
        request.lane,
        request.mode,
        request.flags,
        request.deadline_ns,
        request.head_offset(),
        request.head_bytes() as u32,
        request.body_bytes() as u32,
    );
    assert_eq!(honest, Entry { publish: 0, target: 0, ..*entry });
}

fn check_lane(lane: LaneId, entry: &Entry, geometry: &Geometry) {
    assert_eq!(geometry.lane(entry.lane), Some(lane));
    assert!(
        geometry.lane_offset(lane) + geometry.lane_bytes() as usize <= geometry.responder_bytes()
    );
}
