//! The order of the measurements: product and baseline in turn, pass after pass.

use std::path::PathBuf;

use super::apart;
use super::latency::Latency;
use super::placement::Cpus;
use super::procfs::MachineTime;
use super::progress::Progress;
use super::row::{Pass, Row, RowSpec};
use super::workdir::Workdir;
use crate::error::{BenchError, Result};

/// What a measurement may use.
#[derive(Debug)]
pub(crate) struct Stage {
    /// The binary whose subcommands are the child processes.
    pub program: PathBuf,
    pub workdir: Workdir,
    pub cpus: Cpus,
    pub quick: bool,
    /// How long the run that takes as long as one likes is to take.
    pub minutes: u32,
}

/// One run of a product or of a baseline: one value for each row of the group.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample {
    pub values: Vec<f64>,
    pub latency: Option<Latency>,
}

/// A run of suites.
#[derive(Debug)]
pub(crate) struct Bench {
    pub stage: Stage,
    progress: Progress,
    rows: Vec<Row>,
    failures: usize,
    /// The suite that runs.
    suite: &'static str,
}

/// A run of a product or a baseline.
pub(crate) type Run<'a> = &'a mut dyn FnMut(&Stage) -> Result<Sample>;

/// Passes of every row, odd so that the median is one of them.
const PASSES: usize = 5;

impl Stage {
    /// A size that depends on how long the run may take.
    pub(crate) fn pick<T>(&self, quick: T, full: T) -> T {
        if self.quick { quick } else { full }
    }
}

impl Sample {
    pub(crate) fn of<const N: usize>(values: [f64; N]) -> Sample {
        Sample { values: values.into(), latency: None }
    }

    /// What several runs of the same come to: the median of each value, and all latencies. For
    /// runs that the scheduler treats in one of a few ways, each by chance.
    pub(crate) fn median(samples: &[Sample]) -> Sample {
        let values = samples.first().map_or(0, |sample| sample.values.len());
        let median = |index: usize| {
            let mut of_all: Vec<f64> = samples.iter().map(|sample| sample.values[index]).collect();
            of_all.sort_by(f64::total_cmp);
            of_all[(of_all.len() - 1) / 2]
        };
        let mut latency: Option<Latency> = None;
        for one in samples.iter().filter_map(|sample| sample.latency.as_ref()) {
            latency.get_or_insert_with(Latency::new).add(one);
        }
        Sample { values: (0..values).map(median).collect(), latency }
    }

    pub(crate) fn with_latency(mut self, latency: Latency) -> Sample {
        self.latency = Some(latency);
        self
    }
}

impl Bench {
    pub(crate) fn new(stage: Stage, progress: Progress) -> Bench {
        Bench { stage, progress, rows: Vec::new(), failures: 0, suite: "" }
    }

    /// Says which suite begins.
    pub(crate) fn begin_suite(&mut self, name: &'static str, about: &str) {
        self.suite = name;
        self.progress.suite(name, about);
    }

    /// Measures a group of rows that share their runs, against a baseline.
    pub(crate) fn compare(&mut self, specs: &[RowSpec], product: Run<'_>, baseline: Run<'_>) {
        let passes = self.passes(specs, PASSES, product, Some(baseline));
        self.finish(specs, passes);
    }

    /// Measures a group of rows that stand for themselves.
    pub(crate) fn observe(&mut self, specs: &[RowSpec], product: Run<'_>) {
        // Without a baseline nothing is compared, so a look needs no second one.
        let passes = self.passes(specs, self.stage.pick(1, PASSES), product, None);
        self.finish(specs, passes);
    }

    /// The same in one pass, where that one is long and holds many samples.
    pub(crate) fn observe_once(&mut self, specs: &[RowSpec], product: Run<'_>) {
        let passes = self.passes(specs, 1, product, None);
        self.finish(specs, passes);
    }

    /// Does what several groups need, or lets all of them say why there is nothing.
    pub(crate) fn prepare<T>(
        &mut self,
        specs: &[RowSpec],
        make: impl FnOnce(&Stage) -> Result<T>,
    ) -> Option<T> {
        match make(&self.stage) {
            Ok(made) => Some(made),
            Err(error) => {
                self.finish(specs, Err(error));
                None
            }
        }
    }

    /// The rows, and how many groups failed.
    pub(crate) fn into_rows(self) -> (Vec<Row>, usize) {
        self.progress.clear();
        (self.rows, self.failures)
    }

    fn passes(
        &self,
        specs: &[RowSpec],
        count: usize,
        product: Run<'_>,
        mut baseline: Option<Run<'_>>,
    ) -> Result<Vec<Pass>> {
        let mut passes = Vec::with_capacity(count);
        for index in 0..count {
            let cpus_apart_ns = apart::round_trip_ns(&self.stage.cpus);
            let before = MachineTime::now()?;
            self.progress.pass(specs, index, count);
            // Each goes first in every other pass: what the one leaves behind in caches and in
            // the scheduler is not always to the advantage of the same side.
            let early = match &mut baseline {
                Some(baseline) if index % 2 == 1 => Some(baseline(&self.stage)?),
                _ => None,
            };
            let product = product(&self.stage)?;
            let late = match (&early, &mut baseline) {
                (None, Some(baseline)) => Some(baseline(&self.stage)?),
                _ => None,
            };
            let other_cpu_share = MachineTime::now()?.other_share_since(before);
            let baseline = early.or(late);
            passes.push(Pass { product, baseline, other_cpu_share, cpus_apart_ns });
        }
        Ok(passes)
    }

    fn finish(&mut self, specs: &[RowSpec], passes: Result<Vec<Pass>>) {
        for (index, spec) in specs.iter().enumerate() {
            let mut row = match &passes {
                Ok(passes) => Row::measured(spec, index, passes),
                Err(BenchError::Skip(reason)) => Row::skipped(spec, reason.clone()),
                Err(error) => Row::skipped(spec, format!("failed: {error}")),
            };
            row.suite = self.suite;
            self.progress.row(&row);
            self.rows.push(row);
        }
        if matches!(&passes, Err(error) if !matches!(error, BenchError::Skip(_))) {
            self.failures += 1;
        }
    }
}
