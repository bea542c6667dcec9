//! A bucket that refills at a rate per minute and may be paid back.
//!
//! A request reserves what it may need and settles with what it used, perhaps minutes later. What
//! it gives back then must not be more than it would be worth today had it never been taken: a
//! bucket that was full in between has spilled it. Otherwise old refunds would let a burst pass on
//! top of a full bucket. So the bucket remembers the highest levels since its recent takes, and a
//! settled bucket stands exactly where it would if every take had been of the right amount at
//! once.

use std::collections::VecDeque;

use crate::clock::NS_PER_S;

/// How fast a bucket refills and how much it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Amount per minute.
    pub per_minute: u64,
    /// Most that it holds; at least 1.
    pub burst: u64,
}

/// Something that is used up and refills.
///
/// ```
/// use ringmain_policy::{Bucket, Rate};
/// let second = 1_000_000_000;
/// let mut bucket = Bucket::new(Rate::per_minute(600), 0);
/// let taken = bucket.take(10, 0).unwrap();
/// assert!(bucket.take(1, 0).is_none(), "the burst of one second is used up");
/// assert_eq!(bucket.due_ns(0, 1, 0), second / 10);
/// bucket.settle(taken, 4, 0);
/// assert_eq!(bucket.level(0), 6);
/// ```
#[derive(Clone, Debug)]
pub struct Bucket {
    rate: Rate,
    /// In [`UNIT`]s; below zero while there is a debt.
    level: i128,
    filled_ns: u64,
    takes: u64,
    /// The level right before some takes, oldest first: each is higher than all after it.
    peaks: VecDeque<Peak>,
}

/// What was taken from a bucket, to be settled once.
#[derive(Debug, PartialEq, Eq)]
pub struct Taken {
    amount: u64,
    take: u64,
}

#[derive(Clone, Copy, Debug)]
struct Peak {
    take: u64,
    level: i128,
}

/// One of the amount in units of the level: a rate per minute then gains whole units in every
/// nanosecond, so nothing is lost to rounding.
const UNIT: i128 = 60 * NS_PER_S as i128;
/// Most that one take can be charged in the end, in minutes of the rate.
const DEBT_MINUTES_MAX: u64 = 10;
/// Peaks kept. Bound: beyond it the two oldest become one, at the higher level, so that an old
/// refund may be worth less than it should and never more.
const PEAKS_MAX: usize = 64;

impl Rate {
    /// This much per minute, with a burst of one second of it.
    pub fn per_minute(per_minute: u64) -> Rate {
        Rate { per_minute, burst: (per_minute / 60).max(1) }
    }

    fn cap(self) -> i128 {
        units(self.burst.max(1))
    }
}

impl Taken {
    /// How much it was.
    pub fn amount(&self) -> u64 {
        self.amount
    }
}

impl Bucket {
    /// A full bucket.
    pub fn new(rate: Rate, now_ns: u64) -> Bucket {
        let peaks = VecDeque::new();
        Bucket { rate, level: rate.cap(), filled_ns: now_ns, takes: 0, peaks }
    }

    /// Takes this much if it is there. More than the burst is there when the bucket is full: it
    /// leaves a debt, and whoever comes next waits until that is paid. Nobody takes more than what
    /// a minute brings, or a wild estimate would shut everybody out for as long as its request
    /// runs.
    pub fn take(&mut self, amount: u64, now_ns: u64) -> Option<Taken> {
        if !self.has(amount, now_ns) {
            return None;
        }
        let amount = amount.min(self.rate.burst.max(self.rate.per_minute).max(1));
        self.note_peak();
        self.level = self.level.saturating_sub(units(amount));
        Some(Taken { amount, take: self.takes })
    }

    /// Ends what a take began: the bucket is charged what was really used. What was used beyond
    /// the take is a debt, but no one answer's word shuts everybody out for longer than
    /// ten minutes.
    pub fn settle(&mut self, taken: Taken, used: u64, now_ns: u64) {
        self.fill(now_ns);
        let minute = self.rate.burst.max(self.rate.per_minute).max(1);
        let used = used.min(minute.saturating_mul(DEBT_MINUTES_MAX));
        match taken.amount.checked_sub(used) {
            Some(unused) => self.refund(units(unused), taken.take),
            None => self.level = self.level.saturating_sub(units(used - taken.amount)),
        }
    }

    /// Goes on at another rate; the burst stays.
    pub fn set_per_minute(&mut self, per_minute: u64, now_ns: u64) {
        self.fill(now_ns);
        self.rate.per_minute = per_minute;
    }

    /// Goes on at another rate with another burst; what is there beyond that is spilled.
    pub fn set_rate(&mut self, rate: Rate, now_ns: u64) {
        self.fill(now_ns);
        self.rate = rate;
        let cap = rate.cap();
        self.level = self.level.min(cap);
        for peak in &mut self.peaks {
            peak.level = peak.level.min(cap);
        }
    }

    /// Whether a take of this much would succeed.
    pub fn has(&mut self, amount: u64, now_ns: u64) -> bool {
        self.fill(now_ns);
        self.level >= units(amount).min(self.rate.cap())
    }

    /// When a take of this much will succeed if only `ahead` is taken before it; `u64::MAX` for
    /// never.
    pub fn due_ns(&mut self, ahead: u64, amount: u64, now_ns: u64) -> u64 {
        self.fill(now_ns);
        let wanted = units(ahead).saturating_add(units(amount).min(self.rate.cap()));
        let lacking = wanted.saturating_sub(self.level).max(0);
        let per_ns = i128::from(self.rate.per_minute);
        match (lacking, per_ns) {
            (0, _) => now_ns,
            (_, 0) => u64::MAX,
            (lacking, per_ns) => {
                // Both are above zero, so this rounds up.
                let wait_ns = (lacking - 1) / per_ns + 1;
                now_ns.saturating_add(u64::try_from(wait_ns).unwrap_or(u64::MAX))
            }
        }
    }

    /// What is there, rounded down; below zero: the debt.
    pub fn level(&mut self, now_ns: u64) -> i64 {
        self.fill(now_ns);
        let whole = self.level.div_euclid(UNIT);
        i64::try_from(whole).unwrap_or(if whole < 0 { i64::MIN } else { i64::MAX })
    }

    /// Whether a new bucket would be the same.
    pub fn is_full(&mut self, now_ns: u64) -> bool {
        self.fill(now_ns);
        self.level == self.rate.cap()
    }

    /// The rate now.
    pub fn rate(&self) -> Rate {
        self.rate
    }

    /// A clock that goes backwards adds nothing.
    fn fill(&mut self, now_ns: u64) {
        let passed_ns = i128::from(now_ns.saturating_sub(self.filled_ns));
        let gained = passed_ns.saturating_mul(i128::from(self.rate.per_minute));
        self.level = self.level.saturating_add(gained).min(self.rate.cap());
        self.filled_ns = self.filled_ns.max(now_ns);
    }

    fn note_peak(&mut self) {
        self.takes += 1;
        while self.peaks.back().is_some_and(|peak| peak.level <= self.level) {
            self.peaks.pop_back();
        }
        self.peaks.push_back(Peak { take: self.takes, level: self.level });
        if self.peaks.len() > PEAKS_MAX {
            let oldest = self.peaks.pop_front();
            if let (Some(oldest), Some(next)) = (oldest, self.peaks.front_mut()) {
                next.level = oldest.level;
            }
        }
    }

    /// Adds what this much, left in the bucket at the time of its take, would be worth now; the
    /// levels since then would have been higher by it, too.
    fn refund(&mut self, unused: i128, take: u64) {
        let cap = self.rate.cap();
        let since = self.peaks.partition_point(|peak| peak.take <= take);
        let kept = match self.peaks.get(since) {
            Some(highest) => unused.min(cap - highest.level),
            None => unused,
        };
        for peak in self.peaks.range_mut(since..) {
            peak.level += kept;
        }
        if let Some(highest) = self.peaks.get(since).map(|peak| peak.level) {
            let still_higher = self.peaks.range(..since).filter(|p| p.level > highest).count();
            self.peaks.drain(still_higher..since);
        }
        self.level = self.level.saturating_add(kept).min(cap);
    }
}

// Bound: 2^64 times a unit is below 2^100.
fn units(amount: u64) -> i128 {
    i128::from(amount) * UNIT
}

#[cfg(test)]
mod tests;
