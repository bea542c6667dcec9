//! The pictures of the page: ratios as ranges, latencies as densities. Both on a log scale.

use std::fmt::Write as _;

use super::text::{number, time};
use crate::harness::row::{Goal, Row, Summary};

/// A log scale from values to pixels.
struct Scale {
    low: f64,
    high: f64,
    left: f64,
    width: f64,
}

impl Scale {
    fn new(low: f64, high: f64, left: f64, width: f64) -> Scale {
        Scale { low: low.max(1e-9).ln(), high: high.max(2e-9).ln(), left, width }
    }

    fn x(&self, value: f64) -> f64 {
        let share = (value.max(1e-9).ln() - self.low) / (self.high - self.low).max(1e-9);
        self.left + share.clamp(0.0, 1.0) * self.width
    }
}

const RATIO_WIDTH: f64 = 230.0;
const RATIO_HEIGHT: f64 = 34.0;
/// Room for half a label.
const RATIO_LEFT: f64 = 36.0;

/// The ratios of one row: the range of the passes, their median, the baseline at 1, the goal.
pub(super) fn ratio(row: &Row) -> Option<String> {
    let (ratio, min, max) = (row.ratio?, row.ratio_min?, row.ratio_max?);
    let goal = match row.goal {
        Some(Goal::RatioAtLeast(goal) | Goal::RatioAtMost(goal)) => Some(goal),
        _ => None,
    };
    let all = [ratio, min, max, 1.0, goal.unwrap_or(1.0)];
    let low = all.iter().copied().fold(f64::INFINITY, f64::min) / 1.4;
    let high = all.iter().copied().fold(0.0, f64::max) * 1.4;
    let scale = Scale::new(low, high, RATIO_LEFT, RATIO_WIDTH - 2.0 * RATIO_LEFT);
    let mut svg = open(RATIO_WIDTH, RATIO_HEIGHT, "ratios of the passes");
    let mid = 12.0;
    line(&mut svg, (RATIO_LEFT, mid), (RATIO_WIDTH - RATIO_LEFT, mid), "axis");
    line(&mut svg, (scale.x(1.0), 3.0), (scale.x(1.0), 21.0), "one");
    if let Some(goal) = goal {
        line(&mut svg, (scale.x(goal), 1.0), (scale.x(goal), 23.0), "goal");
    }
    let class = if row.met == Some(false) { "missed" } else { "product" };
    let (left, right) = (scale.x(min), scale.x(max));
    rect(&mut svg, left - 1.0, mid - 4.0, right - left + 2.0, 8.0, &format!("{class} range"));
    let _ = write!(
        svg,
        "<circle class=\"{class}\" cx=\"{:.1}\" cy=\"{mid}\" r=\"5\"/>",
        scale.x(ratio)
    );
    label(&mut svg, scale.x(1.0), 32.0, "1x");
    if let Some(goal) = goal
        && (scale.x(goal) - scale.x(1.0)).abs() > 46.0
    {
        label(&mut svg, scale.x(goal), 32.0, &format!("goal {}x", number(goal)));
    }
    svg.push_str("</svg>");
    Some(svg)
}

const LATENCY_WIDTH: f64 = 560.0;
const LATENCY_HEIGHT: f64 = 190.0;
const LEFT: f64 = 28.0;
const FLOOR: f64 = 150.0;
const BINS: usize = 120;

/// The latencies of product and baseline over each other.
pub(super) fn latency(product: &Summary, baseline: Option<&Summary>) -> String {
    let sides = [Some(product), baseline];
    let pairs = || sides.iter().flatten().flat_map(|side| side.buckets.pairs());
    let low = pairs().map(|&(ns, _)| ns).min().unwrap_or(1) as f64;
    let high = pairs().map(|&(ns, _)| ns).max().unwrap_or(10) as f64;
    let scale = Scale::new(low / 1.1, high * 1.1, LEFT, LATENCY_WIDTH - 2.0 * LEFT);
    let mut svg = open(LATENCY_WIDTH, LATENCY_HEIGHT, "histogram of latencies");
    for tick in ticks(low / 1.1, high * 1.1) {
        line(&mut svg, (scale.x(tick), 8.0), (scale.x(tick), FLOOR), "grid");
        label(&mut svg, scale.x(tick), FLOOR + 14.0, &time(tick));
    }
    for (side, class) in [(baseline, "baseline"), (Some(product), "product")] {
        let Some(side) = side else { continue };
        let _ = write!(svg, "<path class=\"{class} area\" d=\"{}\"/>", area(&scale, side));
        let median = scale.x(side.p50_ns as f64);
        line(&mut svg, (median, 8.0), (median, FLOOR), &format!("{class} median"));
        let tail = scale.x(side.p99_ns as f64);
        line(&mut svg, (tail, FLOOR - 24.0), (tail, FLOOR), &format!("{class} tail"));
    }
    line(&mut svg, (LEFT, FLOOR), (LATENCY_WIDTH - LEFT, FLOOR), "axis");
    label(
        &mut svg,
        LATENCY_WIDTH / 2.0,
        FLOOR + 32.0,
        "height: square root of the count; line: median; short line: p99",
    );
    svg.push_str("</svg>");
    svg
}

/// Counts per bin of the log scale, the highest bin as high as the picture. Heights grow with the
/// square root, so that a thin tail can be seen.
fn area(scale: &Scale, side: &Summary) -> String {
    let mut bins = [0u64; BINS];
    for &(ns, count) in side.buckets.pairs() {
        let share = (scale.x(ns as f64) - scale.left) / scale.width;
        bins[((share * BINS as f64) as usize).min(BINS - 1)] += count;
    }
    let top = bins.iter().copied().max().unwrap_or(1).max(1) as f64;
    let step = scale.width / BINS as f64;
    let mut path = format!("M{:.1} {FLOOR}", scale.left);
    for (at, &count) in bins.iter().enumerate() {
        let height = (count as f64 / top).sqrt() * (FLOOR - 12.0);
        let (x, y) = (scale.left + at as f64 * step, FLOOR - height);
        let _ = write!(path, "L{x:.1} {y:.1}L{:.1} {y:.1}", x + step);
    }
    let _ = write!(path, "L{:.1} {FLOOR}Z", scale.left + scale.width);
    path
}

/// 1, 2 and 5 of each power of ten in the range; only the powers where those would be too many.
fn ticks(low: f64, high: f64) -> Vec<f64> {
    let mut ticks = Vec::new();
    let wide = high / low > 2_000.0;
    let mut power = 1.0;
    // Bound: eleven powers of ten between a nanosecond and a minute.
    while power <= high {
        let factors: &[f64] = if wide { &[1.0] } else { &[1.0, 2.0, 5.0] };
        let inside =
            factors.iter().map(|factor| factor * power).filter(|t| *t >= low && *t <= high);
        ticks.extend(inside);
        power *= 10.0;
    }
    ticks
}

fn open(width: f64, height: f64, title: &str) -> String {
    format!(
        "<svg role=\"img\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\"><title>{title}</title>"
    )
}

fn line(svg: &mut String, from: (f64, f64), to: (f64, f64), class: &str) {
    let ((x1, y1), (x2, y2)) = (from, to);
    let _ = write!(
        svg,
        "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"
    );
}

fn rect(svg: &mut String, x: f64, y: f64, width: f64, height: f64, class: &str) {
    let _ = write!(
        svg,
        "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" \
         height=\"{height:.1}\" rx=\"3\"/>"
    );
}

fn label(svg: &mut String, x: f64, y: f64, text: &str) {
    let _ = write!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\">{text}</text>");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round() {
        assert_eq!(ticks(800.0, 30_000.0), [1000.0, 2000.0, 5000.0, 10_000.0, 20_000.0]);
        assert_eq!(ticks(90.0, 1e6), [100.0, 1000.0, 10_000.0, 100_000.0, 1e6]);
    }
}
