//! What the figures were measured on.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::placement::Cpus;

/// The machine and the build, as far as figures depend on them.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Model name of the first CPU.
    pub cpu: String,
    /// CPUs that the run may use.
    pub cpus: usize,
    /// Release of the kernel.
    pub kernel: String,
    /// Memory, MiB.
    pub memory_mib: u64,
    /// Load average of the last minute when the run began.
    pub load: String,
    /// Version of this binary.
    pub version: &'static str,
    /// Whether it is an optimized build.
    pub optimized: bool,
    /// Whether the run was a quick one.
    pub quick: bool,
    /// Seconds since 1970 when the run began.
    pub unix_s: u64,
}

impl Machine {
    pub(crate) fn here(cpus: &Cpus, quick: bool) -> Machine {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let after = |text: &str, key: &str| -> Option<String> {
            let line = text.lines().find(|line| line.starts_with(key))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let memory = after(&read("/proc/meminfo"), "MemTotal");
        let memory = memory.and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
        let load = read("/proc/loadavg");
        Machine {
            cpu: after(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| "unknown".into()),
            cpus: cpus.count(),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            memory_mib: memory.unwrap_or(0) / 1024,
            load: load.split(' ').next().unwrap_or_default().to_owned(),
            version: env!("CARGO_PKG_VERSION"),
            optimized: !cfg!(debug_assertions),
            quick,
            unix_s: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
        }
    }

    /// One line for people.
    pub fn sentence(&self) -> String {
        let build =
            if self.optimized { "optimized" } else { "NOT optimized: figures mean nothing" };
        format!(
            "ringmain {} ({build}) on {} x {}, {} MiB, Linux {}, load {}",
            self.version, self.cpus, self.cpu, self.memory_mib, self.kernel, self.load
        )
    }
}
