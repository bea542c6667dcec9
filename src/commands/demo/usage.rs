//! CPU and wake-ups of another process, from `/proc`.

use std::fs;
use std::path::Path;

/// What a process has used since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU, ns.
    pub cpu_ns: u64,
    /// Times that its threads went to sleep.
    pub wakeups: u64,
}

impl Usage {
    /// Reads the counters of all threads that the process has now.
    pub fn of(pid: u32) -> Usage {
        let mut usage = Usage::default();
        let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return usage };
        for thread in threads.flatten() {
            usage.cpu_ns += cpu_ns(&thread.path()).unwrap_or(0);
            usage.wakeups += wakeups(&thread.path()).unwrap_or(0);
        }
        usage
    }

    /// What was used since `earlier`.
    pub fn since(self, earlier: Usage) -> Usage {
        Usage {
            cpu_ns: self.cpu_ns.saturating_sub(earlier.cpu_ns),
            wakeups: self.wakeups.saturating_sub(earlier.wakeups),
        }
    }
}

/// The scheduler's own count, which is exact; `stat` counts in ticks of 10 ms.
fn cpu_ns(thread: &Path) -> Option<u64> {
    let text = fs::read_to_string(thread.join("schedstat")).ok()?;
    text.split_ascii_whitespace().next()?.parse().ok()
}

fn wakeups(thread: &Path) -> Option<u64> {
    let text = fs::read_to_string(thread.join("status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_seen() {
        let pid = std::process::id();
        let before = Usage::of(pid);
        let mut sum = 0u64;
        for n in 0..20_000_000u64 {
            sum = std::hint::black_box(sum.wrapping_add(n));
        }
        assert!(Usage::of(pid).since(before).cpu_ns > 0);
        assert_eq!(Usage::of(0), Usage::default());
    }
}
