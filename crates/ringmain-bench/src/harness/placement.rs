//! Which CPUs a process may run on.

use std::fmt;

use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::error::{BenchError, Result, Tried};

/// The CPUs that this process was given when it started.
#[derive(Clone, Debug)]
pub(crate) struct Cpus {
    ids: Vec<usize>,
}

/// Where a process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Wherever the kernel likes.
    Any,
    /// On one CPU, by its number.
    Cpu(usize),
}

impl Cpus {
    pub(crate) fn of_this_process() -> Result<Cpus> {
        let set = sched_getaffinity(Pid::from_raw(0)).tried("sched_getaffinity")?;
        let ids = (0..CpuSet::count()).filter(|&cpu| set.is_set(cpu).unwrap_or(false));
        Ok(Cpus { ids: ids.collect() })
    }

    pub(crate) fn count(&self) -> usize {
        self.ids.len()
    }

    /// The CPU on which the process that is measured runs. The last one: the first of a machine
    /// takes most interrupts.
    pub(crate) fn measured(&self) -> Place {
        self.ids.last().map_or(Place::Any, |&cpu| Place::Cpu(cpu))
    }

    /// The CPU of its peer when the two run on different ones.
    pub(crate) fn other(&self) -> Result<Place> {
        match self.ids[..] {
            [cpu, _, ..] => Ok(Place::Cpu(cpu)),
            _ => Err(BenchError::Skip("this machine has one CPU".to_owned())),
        }
    }

    /// Keeps this thread where a row wants it. For threads that end soon.
    pub(crate) fn stay(&self, place: Place) -> Result<(), Errno> {
        match place {
            Place::Any => set_affinity(&self.ids),
            Place::Cpu(cpu) => set_affinity(&[cpu]),
        }
    }

    /// Runs `spawn` with the affinity of this thread set to `place`, which a child inherits.
    pub(crate) fn at<T>(&self, place: Place, spawn: impl FnOnce() -> T) -> Result<T> {
        let Place::Cpu(cpu) = place else { return Ok(spawn()) };
        set_affinity(&[cpu]).tried(format!("pinning to CPU {cpu}"))?;
        let spawned = spawn();
        set_affinity(&self.ids).tried("undoing the pinning")?;
        Ok(spawned)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Any => f.write_str("any CPU"),
            Place::Cpu(cpu) => write!(f, "CPU {cpu}"),
        }
    }
}

fn set_affinity(ids: &[usize]) -> Result<(), Errno> {
    let mut set = CpuSet::new();
    for &id in ids {
        set.set(id)?;
    }
    sched_setaffinity(Pid::from_raw(0), &set)
}
