//! A writer and a reader on one lane of four lines that wraps, skips, ends exactly with the lap,
//! and whose payload looks like headers to come.

use loom::thread;
use ringmain_wire::Kind;

use super::*;

const SIZES: Sizes = Sizes { lines: 4, quarter: 2, reserve: 0, terminal: 2 };

/// Payload of `lines` lines for a frame at `position`. Where a line of it begins stands a whole
/// header that would be valid there one lap later: what an attacker would have a model say.
fn hostile(position: u64, lines: u64, mark: u8) -> Vec<u8> {
    let mut bytes = payload(lines, mark);
    for line in 1..lines {
        let at = line as usize * LINE_BYTES - 32;
        let publish = position + line + SIZES.lines + 1;
        let forged = [publish, 666, u64::from(Kind::Delta as u8) << 32, 0];
        for (index, word) in forged.iter().enumerate() {
            bytes[at + index * 8..][..8].copy_from_slice(&word.to_ne_bytes());
        }
    }
    bytes
}

/// The frames of one exchange with these sizes; the last one is its END. Those of one line are
/// texts.
fn frames(lines: &[u64]) -> Vec<(Kind, Vec<u8>)> {
    let (mut position, mut frames) = (0u64, Vec::new());
    for (index, &lines_of_frame) in lines.iter().enumerate() {
        let to_end = SIZES.lines - position % SIZES.lines;
        position += if lines_of_frame > to_end { to_end } else { 0 };
        let kind = match lines_of_frame {
            _ if index + 1 == lines.len() => Kind::End,
            1 => Kind::Delta,
            _ => Kind::Body,
        };
        frames.push((kind, hostile(position, lines_of_frame, index as u8 + 1)));
        position += lines_of_frame;
    }
    frames
}

fn lane(name: &str, floor: usize, bound: Option<usize>, reading: Reading, lines: &'static [u64]) {
    check(name, floor, bound, move || {
        let small = Small::new(SIZES);
        let (mut writer, mut reader) = (small.writer(0), small.reader(0));
        let write_all = move || {
            writer.begin(ExchangeId(0)).unwrap();
            for (kind, payload) in frames(lines) {
                // The terminal has no reserve in so small a lane and waits like the others.
                while !writer.has_room(ringmain_wire::frame::lines_of(payload.len())).unwrap() {
                    thread::yield_now();
                }
                assert!(write(&mut writer, kind, &payload));
            }
        };
        let read_all = move || {
            for (kind, payload) in frames(lines) {
                while !read(&mut reader, reading, 0, kind, &payload) {
                    thread::yield_now();
                }
            }
            reader.release();
        };
        run(vec![Box::new(write_all), Box::new(read_all)]);
    });
}

#[test]
fn loom_lane_2212() {
    lane("lane [2,2,1,2]", 75_000, None, Reading::Borrowed, &[2, 2, 1, 2]);
}

#[test]
fn loom_lane_122211() {
    lane("lane [1,2,2,2,1,1]", 35_000, Some(3), Reading::Borrowed, &[1, 2, 2, 2, 1, 1]);
}

#[test]
fn loom_lane_exact_end() {
    lane("lane [2,2,2,2]", 2_500, Some(3), Reading::Borrowed, &[2, 2, 2, 2]);
}

#[test]
fn loom_lane_copied() {
    lane("lane copied [1,2,2,2,1]", 11_000, Some(3), Reading::Copied, &[1, 2, 2, 2, 1]);
}

#[test]
fn loom_lane_texts() {
    lane("lane, texts [1,2,1,2,1,1]", 10_000, Some(3), Reading::Texts, &[1, 2, 1, 2, 1, 1]);
}
