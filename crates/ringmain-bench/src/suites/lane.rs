//! Throughput from one process to another.

use crate::error::Result;
use crate::harness::bench::Stage;
use crate::harness::{Bench, Child, Goal, Place, RowSpec, Sample};
use crate::roles::Role;
use crate::roles::lane::{Medium, Transfer, Transferred};
use crate::roles::meet::Meet;

const SMALL: RowSpec = RowSpec {
    name: "lane_throughput_16b",
    unit: "frames/s",
    baseline: Some("bare unvalidated ring"),
    goal: Some(Goal::RatioAtLeast(0.6)),
    how: "frames of 16 bytes through a lane of 16 KiB from one CPU to another, both spinning, each \
        payload read in place; the baseline has a sequence word, a length and the payload",
};
const LARGE: RowSpec = RowSpec {
    name: "lane_throughput_4k",
    goal: Some(Goal::RatioAtLeast(0.85)),
    how: "frames of 4 KiB through a lane of 256 KiB from one CPU to another, both spinning, every \
        word read in place",
    ..SMALL
};
const STREAM: RowSpec = RowSpec {
    name: "lane_vs_unix_stream_16b",
    baseline: Some("Unix stream socket"),
    goal: Some(Goal::RatioAtLeast(20.0)),
    how: "frames of 16 bytes through a lane, against a stream socket with one write for each frame \
        and reads of as much as there is",
    ..SMALL
};

const KIB: u32 = 1024;

pub(super) fn run(bench: &mut Bench) {
    let Some(other) = bench.prepare(&[SMALL, LARGE, STREAM], |stage| stage.cpus.other()) else {
        return;
    };
    let small = |stage: &Stage, medium| transfer(stage, other, medium, 16, 16 * KIB);
    let large = |stage: &Stage, medium| transfer(stage, other, medium, 4096, 256 * KIB);
    bench.compare(&[SMALL], &mut |stage| small(stage, Medium::Lane), &mut |stage| {
        small(stage, Medium::BareRing)
    });
    bench.compare(&[LARGE], &mut |stage| large(stage, Medium::Lane), &mut |stage| {
        large(stage, Medium::BareRing)
    });
    bench.compare(&[STREAM], &mut |stage| small(stage, Medium::Lane), &mut |stage| {
        small(stage, Medium::UnixStream)
    });
}

/// One process writes, the other reads and has the clock.
fn transfer(
    stage: &Stage,
    other: Place,
    medium: Medium,
    payload_bytes: usize,
    ring_bytes: u32,
) -> Result<Sample> {
    let meet = Meet { path: stage.workdir.fresh(".meet") };
    let (warm_up_ms, measure_ms) = (stage.pick(10, 200), stage.pick(50, 1_000));
    let told = Transfer { meet, medium, payload_bytes, ring_bytes, warm_up_ms, measure_ms };
    let mut writer = Child::role(stage, &Role::LaneWrite(told.clone()), other)?;
    writer.ready()?;
    let mut reader = Child::role(stage, &Role::LaneRead(told), stage.cpus.measured())?;
    let transferred: Transferred = reader.answer()?;
    Ok(Sample::of([transferred.frames_per_s]))
}
