//! What the kernel counts: CPU time of processes and of the machine, switches, memory.

use std::collections::HashMap;
use std::fs;

use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

use crate::error::{BenchError, Result, Tried};

/// CPU time of a running process with all its threads, those that ended too, ns.
pub(crate) fn cpu_ns(pid: u32) -> Result<u64> {
    let clock = clock_getcpuclockid(Pid::from_raw(pid.cast_signed()))
        .tried(format!("CPU clock of process {pid}"))?;
    let time = clock_gettime(clock).tried(format!("CPU time of process {pid}"))?;
    Ok(time.tv_sec().unsigned_abs() * 1_000_000_000 + time.tv_nsec().unsigned_abs())
}

/// Voluntary and involuntary switches of all threads of a process.
pub(crate) fn switches(pid: u32) -> Result<u64> {
    let folder = format!("/proc/{pid}/task");
    let mut sum = 0;
    for entry in fs::read_dir(&folder).tried(folder.clone())? {
        let path = entry.tried(folder.clone())?.path().join("status");
        // A thread may end between the two looks; it switches no more.
        let Ok(status) = fs::read_to_string(path) else { continue };
        sum += field(&status, "voluntary_ctxt_switches:");
        sum += field(&status, "nonvoluntary_ctxt_switches:");
    }
    Ok(sum)
}

/// Private and shared memory of a process, KiB: RssAnon + RssShmem.
pub(crate) fn resident_kib(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).tried(path)?;
    Ok(field(&status, "RssAnon:") + field(&status, "RssShmem:"))
}

/// Open descriptors of a process.
pub(crate) fn open_fds(pid: u32) -> Result<usize> {
    let folder = format!("/proc/{pid}/fd");
    Ok(fs::read_dir(&folder).tried(folder)?.count())
}

/// CPU time of the whole machine and of this process's family at one moment, in clock ticks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MachineTime {
    total: u64,
    idle: u64,
    /// Of this process, its living descendants and those that were waited for.
    ours: u64,
}

impl MachineTime {
    pub(crate) fn now() -> Result<MachineTime> {
        let stat = fs::read_to_string("/proc/stat").tried("/proc/stat")?;
        let (total, idle) = machine_ticks(&stat)
            .ok_or_else(|| BenchError::Skip("/proc/stat has no line for all CPUs".to_owned()))?;
        Ok(MachineTime { total, idle, ours: family_ticks()? })
    }

    /// Share of the machine's CPU time since then that work outside of this family took, the
    /// hypervisor included: 0 to 1.
    pub(crate) fn other_share_since(self, before: MachineTime) -> f64 {
        let total = self.total.saturating_sub(before.total);
        let idle = self.idle.saturating_sub(before.idle);
        let ours = self.ours.saturating_sub(before.ours);
        let other = total.saturating_sub(idle).saturating_sub(ours);
        if total == 0 { 0.0 } else { other as f64 / total as f64 }
    }
}

/// Total and idle ticks of the line for all CPUs.
fn machine_ticks(stat: &str) -> Option<(u64, u64)> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> = line.split_ascii_whitespace().map_while(|n| n.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal; guest time is part of user.
    let first_eight = ticks.get(..8)?;
    Some((first_eight.iter().sum(), first_eight[3] + first_eight[4]))
}

fn family_ticks() -> Result<u64> {
    let mut processes = HashMap::new();
    for entry in fs::read_dir("/proc").tried("/proc")? {
        let name = entry.tried("/proc")?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // A process may end between the two looks; its parent then carries its time.
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        if let Some(parsed) = parent_and_ticks(&stat) {
            processes.insert(pid, parsed);
        }
    }
    let own = std::process::id();
    let belongs = |mut pid: u32| {
        // Bound: a chain of parents is no longer than the list, and 64 is deep for a family.
        for _ in 0..64 {
            if pid == own {
                return true;
            }
            let Some(&(parent, _)) = processes.get(&pid) else { return false };
            pid = parent;
        }
        false
    };
    Ok(processes.iter().filter(|&(&pid, _)| belongs(pid)).map(|(_, &(_, ticks))| ticks).sum())
}

/// Parent, and user + system ticks with those of children that were waited for.
fn parent_and_ticks(stat: &str) -> Option<(u32, u64)> {
    // The name in parentheses may hold anything; what follows it are plain numbers.
    let rest = &stat[stat.rfind(')')? + 1..];
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    let ticks = number(11)? + number(12)? + number(13)? + number(14)?;
    Some((number(1)? as u32, ticks))
}

fn field(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|rest| rest.split_ascii_whitespace().next());
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_of_all_cpus_are_read() {
        let stat = "cpu  10 1 5 100 4 0 2 3 7 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        assert_eq!(machine_ticks(stat), Some((125, 104)));
        assert_eq!(machine_ticks("nothing"), None);
    }

    #[test]
    fn a_process_name_may_hold_anything() {
        let stat = "7 (a) b) S 3 7 7 0 -1 4194560 1 2 3 4 11 12 13 14 20 0 1 0 100";
        assert_eq!(parent_and_ticks(stat), Some((3, 50)));
    }

    #[test]
    fn status_fields_are_told_apart() {
        let status = "RssAnon:\t  120 kB\nvoluntary_ctxt_switches:\t5\n\
                      nonvoluntary_ctxt_switches:\t2\n";
        assert_eq!(field(status, "RssAnon:"), 120);
        assert_eq!(field(status, "voluntary_ctxt_switches:"), 5);
        assert_eq!(field(status, "nonvoluntary_ctxt_switches:"), 2);
        assert_eq!(field(status, "RssShmem:"), 0);
    }

    #[test]
    fn this_process_counts_as_ours() {
        let before = MachineTime::now().unwrap();
        let pid = std::process::id();
        let start = cpu_ns(pid).unwrap();
        while cpu_ns(pid).unwrap() - start < 30_000_000 {
            std::hint::spin_loop();
        }
        let after = MachineTime::now().unwrap();
        assert!(after.ours > before.ours);
        assert!((0.0..=1.0).contains(&after.other_share_since(before)));
        assert!(resident_kib(pid).unwrap() > 0);
        assert!(switches(pid).unwrap() < u64::MAX);
    }
}
