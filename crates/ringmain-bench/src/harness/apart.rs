//! How far two CPUs are apart. The CPUs of a virtual machine are threads of its host, which moves
//! them: two that shared a cache in one pass may sit in different sockets in the next, and rows
//! that pass cache lines from one to the other then cost several times as much on either side.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::placement::{Cpus, Place};

/// A cache line of its own, and the one that is fetched along with it.
#[derive(Default)]
#[repr(align(128))]
struct Line(AtomicU64);

/// Round trips whose time is taken at once, and how often.
const BATCH: u64 = 256;
const BATCHES: usize = 9;
/// Longest that this takes, on a machine where others have these CPUs too.
const PATIENCE: Duration = Duration::from_millis(20);

/// The round trip of a cache line between the two CPUs that rows of two CPUs use, ns; `None` with
/// one CPU, or when these are not to be had.
pub(crate) fn round_trip_ns(cpus: &Cpus) -> Option<f64> {
    let (here, there) = (cpus.measured(), cpus.other().ok()?);
    let (ping, pong) = (Line::default(), Line::default());
    let until = Instant::now() + PATIENCE;
    thread::scope(|scope| {
        scope.spawn(|| echo(cpus, there, &ping, &pong, until));
        let batches = scope.spawn(|| play(cpus, here, &ping, &pong, until));
        let mut batches = batches.join().ok()??;
        batches.sort_by(f64::total_cmp);
        Some(batches[batches.len() / 2])
    })
}

const ALL: u64 = BATCH * BATCHES as u64;

/// Times batches of round trips. The first one waits for the other thread and does not count.
fn play(cpus: &Cpus, place: Place, ping: &Line, pong: &Line, until: Instant) -> Option<Vec<f64>> {
    cpus.stay(place).ok()?;
    let mut batches = Vec::with_capacity(BATCHES);
    let mut start = Instant::now();
    for number in 1..=ALL {
        ping.0.store(number, Ordering::Release);
        await_number(pong, number, until)?;
        if number.is_multiple_of(BATCH) {
            batches.push(start.elapsed().as_nanos() as f64 / BATCH as f64);
            start = Instant::now();
        }
    }
    batches.remove(0);
    Some(batches)
}

fn echo(cpus: &Cpus, place: Place, ping: &Line, pong: &Line, until: Instant) -> Option<()> {
    cpus.stay(place).ok()?;
    for number in 1..=ALL {
        await_number(ping, number, until)?;
        pong.0.store(number, Ordering::Release);
    }
    Some(())
}

fn await_number(line: &Line, number: u64, until: Instant) -> Option<()> {
    // Bound: PATIENCE.
    loop {
        for _ in 0..1024 {
            if line.0.load(Ordering::Acquire) == number {
                return Some(());
            }
            spin_loop();
        }
        if Instant::now() > until {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_with_a_number_or_without() {
        let cpus = Cpus::of_this_process().unwrap();
        let start = Instant::now();
        let ns = round_trip_ns(&cpus);
        assert!(ns.is_none_or(|ns| ns > 0.0));
        // A second would do; the machine may be busy.
        assert!(start.elapsed() < Duration::from_secs(30));
    }
}
