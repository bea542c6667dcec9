//! One line of the report: what is claimed, what was measured, whether it holds.

use serde::{Serialize, Serializer};

use super::bench::Sample;
use super::latency::{Buckets, Latency};

/// What a row stands for, before it is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowSpec {
    /// Name, the same in every version.
    pub name: &'static str,
    /// Unit of value and baseline value.
    pub unit: &'static str,
    /// What it is compared with; `None` where the value stands for itself.
    pub baseline: Option<&'static str>,
    /// What it has to reach; `None` where it only informs.
    pub goal: Option<Goal>,
    /// How it is measured, one sentence.
    pub how: &'static str,
}

/// What a row has to reach.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Goal {
    /// The value itself.
    AtLeast(f64),
    /// The value itself.
    AtMost(f64),
    /// Value divided by baseline value.
    RatioAtLeast(f64),
    /// Value divided by baseline value.
    RatioAtMost(f64),
}

/// A measured row. The first eleven keys are the form that other programs read.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Name, the same in every version.
    pub name: &'static str,
    /// What was measured; with a baseline, in the pass whose ratio is the median.
    pub value: Option<f64>,
    /// Unit of value and baseline value.
    pub unit: &'static str,
    /// What it is compared with.
    pub baseline: Option<&'static str>,
    /// The baseline in the same pass.
    pub baseline_value: Option<f64>,
    /// Value divided by baseline value: the median of the passes.
    pub ratio: Option<f64>,
    /// Least ratio of a pass.
    pub ratio_min: Option<f64>,
    /// Greatest ratio of a pass.
    pub ratio_max: Option<f64>,
    /// Passes made.
    pub passes: usize,
    /// The number of the goal.
    #[serde(serialize_with = "goal_number")]
    pub(crate) goal: Option<Goal>,
    /// Whether the goal is reached.
    pub met: Option<bool>,
    /// Why it was not measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
    /// The goal in words.
    pub goal_text: Option<String>,
    /// How it is measured.
    pub how: &'static str,
    /// Suite that it is part of.
    pub suite: &'static str,
    /// The value of each pass.
    pub values: Vec<f64>,
    /// The baseline value of each pass.
    pub baseline_values: Vec<f64>,
    /// Share of the machine's CPU time that other work took in each pass, 0 to 1.
    pub other_cpu_share: Vec<f64>,
    /// Round trip of a cache line between the two CPUs that rows use, ns, before each pass; null
    /// where they were not to be had.
    pub cpus_apart_ns: Vec<Option<f64>>,
    /// Latencies of all passes together, where single ones were measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) latency: Option<Summary>,
    /// The same of the baseline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) baseline_latency: Option<Summary>,
}

/// A histogram and what people ask of it, ns.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Summary {
    pub p50_ns: u64,
    pub p90_ns: u64,
    pub p99_ns: u64,
    pub p999_ns: u64,
    pub max_ns: u64,
    pub count: u64,
    pub buckets: Buckets,
}

/// One pass over all rows of a group.
#[derive(Debug)]
pub(crate) struct Pass {
    pub product: Sample,
    pub baseline: Option<Sample>,
    pub other_cpu_share: f64,
    pub cpus_apart_ns: Option<f64>,
}

impl Row {
    pub(crate) fn skipped(spec: &RowSpec, reason: String) -> Row {
        Row { skipped: Some(reason), ..Row::blank(spec) }
    }

    /// The row of the `index`-th value of each sample. There is at least one pass.
    pub(crate) fn measured(spec: &RowSpec, index: usize, passes: &[Pass]) -> Row {
        let values: Vec<f64> = passes.iter().map(|pass| pass.product.values[index]).collect();
        let baselines = passes.iter().filter_map(|pass| pass.baseline.as_ref());
        let baseline_values: Vec<f64> = baselines.map(|sample| sample.values[index]).collect();
        let mut row = Row::blank(spec);
        row.passes = passes.len();
        row.other_cpu_share = passes.iter().map(|pass| pass.other_cpu_share).collect();
        row.cpus_apart_ns = passes.iter().map(|pass| pass.cpus_apart_ns).collect();
        let ratios = values.iter().zip(&baseline_values).map(|(value, base)| value / base);
        let ratios: Vec<f64> = ratios.collect();
        if ratios.is_empty() || spec.baseline.is_none() {
            row.value = Some(values[median_at(&values)]);
        } else {
            let at = median_at(&ratios);
            row.value = Some(values[at]);
            row.baseline_value = Some(baseline_values[at]);
            row.ratio = Some(ratios[at]);
            row.ratio_min = ratios.iter().copied().reduce(f64::min);
            row.ratio_max = ratios.iter().copied().reduce(f64::max);
            row.baseline_values = baseline_values;
        }
        row.values = values;
        row.met = spec.goal.and_then(|goal| goal.is_met(row.value, row.ratio));
        row.latency = summary(passes.iter().map(|pass| &pass.product));
        row.baseline_latency = summary(passes.iter().filter_map(|pass| pass.baseline.as_ref()));
        row
    }

    /// The greatest share that other work took in one pass.
    pub(crate) fn other_cpu_share_max(&self) -> Option<f64> {
        self.other_cpu_share.iter().copied().reduce(f64::max)
    }

    fn blank(spec: &RowSpec) -> Row {
        Row {
            name: spec.name,
            value: None,
            unit: spec.unit,
            baseline: spec.baseline,
            baseline_value: None,
            ratio: None,
            ratio_min: None,
            ratio_max: None,
            passes: 0,
            goal: spec.goal,
            met: None,
            skipped: None,
            goal_text: spec.goal.map(|goal| goal.text(spec.unit)),
            how: spec.how,
            suite: "",
            values: Vec::new(),
            baseline_values: Vec::new(),
            other_cpu_share: Vec::new(),
            cpus_apart_ns: Vec::new(),
            latency: None,
            baseline_latency: None,
        }
    }
}

impl Goal {
    pub(crate) fn number(self) -> f64 {
        match self {
            Goal::AtLeast(n) | Goal::AtMost(n) | Goal::RatioAtLeast(n) | Goal::RatioAtMost(n) => n,
        }
    }

    fn is_met(self, value: Option<f64>, ratio: Option<f64>) -> Option<bool> {
        Some(match self {
            Goal::AtLeast(goal) => value? >= goal,
            Goal::AtMost(goal) => value? <= goal,
            Goal::RatioAtLeast(goal) => ratio? >= goal,
            Goal::RatioAtMost(goal) => ratio? <= goal,
        })
    }

    fn text(self, unit: &str) -> String {
        match self {
            Goal::AtLeast(goal) => format!("at least {goal} {unit}"),
            Goal::AtMost(goal) => format!("at most {goal} {unit}"),
            Goal::RatioAtLeast(goal) => format!("at least {goal:.3} x the baseline"),
            Goal::RatioAtMost(goal) => format!("at most {goal:.3} x the baseline"),
        }
    }
}

/// Where the median stands; of an even number the lower one, so that it was really measured.
fn median_at(values: &[f64]) -> usize {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    order[(order.len() - 1) / 2]
}

fn summary<'a>(samples: impl Iterator<Item = &'a Sample>) -> Option<Summary> {
    let mut all: Option<Latency> = None;
    for latency in samples.filter_map(|sample| sample.latency.as_ref()) {
        all.get_or_insert_with(Latency::new).add(latency);
    }
    let all = all.filter(|latency| latency.count() > 0)?;
    Some(Summary {
        p50_ns: all.quantile(0.5),
        p90_ns: all.quantile(0.9),
        p99_ns: all.quantile(0.99),
        p999_ns: all.quantile(0.999),
        max_ns: all.max(),
        count: all.count(),
        buckets: all.buckets(),
    })
}

fn goal_number<S: Serializer>(goal: &Option<Goal>, serializer: S) -> Result<S::Ok, S::Error> {
    goal.map(Goal::number).serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: RowSpec = RowSpec {
        name: "n",
        unit: "ns",
        baseline: Some("b"),
        goal: Some(Goal::RatioAtMost(1.75)),
        how: "so",
    };

    fn pass(value: f64, baseline: f64) -> Pass {
        Pass {
            product: Sample::of([value]),
            baseline: Some(Sample::of([baseline])),
            other_cpu_share: 0.25,
            cpus_apart_ns: Some(140.0),
        }
    }

    #[test]
    fn value_and_baseline_are_of_the_median_pass() {
        let passes =
            [pass(3.0, 2.0), pass(9.0, 3.0), pass(4.0, 4.0), pass(5.0, 4.0), pass(8.0, 1.0)];
        let row = Row::measured(&SPEC, 0, &passes);
        assert_eq!((row.value, row.baseline_value, row.ratio), (Some(3.0), Some(2.0), Some(1.5)));
        assert_eq!((row.ratio_min, row.ratio_max, row.passes), (Some(1.0), Some(8.0), 5));
        assert_eq!(row.met, Some(true));
        assert_eq!(row.other_cpu_share_max(), Some(0.25));
    }

    #[test]
    fn the_json_has_the_agreed_keys() {
        let row = serde_json::to_value(Row::measured(&SPEC, 0, &[pass(4.0, 2.0)])).unwrap();
        assert_eq!(
            (&row["goal"], &row["met"], &row["ratio"]),
            (&1.75.into(), &false.into(), &2.0.into())
        );
        for key in ["name", "value", "unit", "baseline", "baseline_value", "ratio_min", "ratio_max"]
        {
            assert!(!row[key].is_null(), "{key}");
        }
        assert_eq!(row["passes"], 1);
        assert!(row.get("skipped").is_none());
        let row = serde_json::to_value(Row::skipped(&SPEC, "no nginx".to_owned())).unwrap();
        assert_eq!(row["skipped"], "no nginx");
        assert!(row["value"].is_null() && row["met"].is_null());
    }

    #[test]
    fn a_row_without_baseline_is_judged_by_its_value() {
        let spec = RowSpec { baseline: None, goal: Some(Goal::AtMost(2.0)), ..SPEC };
        let alone = |value| Pass { baseline: None, ..pass(value, 1.0) };
        let row = Row::measured(&spec, 0, &[alone(1.0), alone(3.0), alone(2.0)]);
        assert_eq!((row.value, row.ratio, row.met), (Some(2.0), None, Some(true)));
    }
}
