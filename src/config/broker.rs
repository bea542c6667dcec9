//! The `[broker]` table.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use ringmain_broker::Wait;
use ringmain_wire::limits::ARENA_BYTES_MAX;
use tracing::level_filters::LevelFilter;

use super::identity::{self, Identity};
use super::section::{Section, wrong_type};

/// What a limit of a body may be.
const SIZES: RangeInclusive<u64> = 1 << 10..=ARENA_BYTES_MAX;

/// The broker itself. What is `None` has a default that depends on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerSection {
    /// Path of the control socket.
    pub socket: Option<PathBuf>,
    /// Permission bits of the socket file.
    pub socket_mode: u32,
    /// Group of the socket file.
    pub socket_group: Option<u32>,
    /// Who may attach, besides root, the broker's own uid and the group of the socket.
    pub allow: Option<Vec<Identity>>,
    /// How long exchanges in flight may go on after a request to stop.
    pub drain: Duration,
    /// How long a producer may take to let go of an exchange that is over.
    pub loan: Duration,
    /// Most bytes of a request body.
    pub body_max: u64,
    /// Most bytes of a request body that has to be looked into, and so is copied.
    pub copied_body_max: u64,
    /// Threads of the runtime.
    pub threads: Option<usize>,
    /// How sessions wait for their callers.
    pub wait: Wait,
    /// Least level of the log.
    pub log: LevelFilter,
}

impl Default for BrokerSection {
    fn default() -> Self {
        BrokerSection {
            socket: None,
            socket_mode: 0o660,
            socket_group: None,
            allow: None,
            drain: Duration::from_secs(120),
            loan: Duration::from_secs(60),
            body_max: 256 << 20,
            copied_body_max: 32 << 20,
            threads: None,
            wait: Wait::default(),
            log: LevelFilter::INFO,
        }
    }
}

impl BrokerSection {
    /// Reads the table; what is faulty keeps its default and is reported.
    pub(super) fn read(mut table: Section<'_>) -> BrokerSection {
        let usual = BrokerSection::default();
        let mode = table.parsed("socket_mode", parse_mode).map(|at| at.value);
        let section = BrokerSection {
            socket: table.parsed("socket", parse_socket).map(|at| at.value),
            socket_mode: mode.unwrap_or(usual.socket_mode),
            socket_group: table.parsed("socket_group", identity::gid).map(|at| at.value),
            allow: read_allow(&mut table),
            drain: table.duration("drain").unwrap_or(usual.drain),
            loan: table.duration("loan").unwrap_or(usual.loan),
            // Bound: what the largest arena holds.
            body_max: table.size("body_max", SIZES).unwrap_or(usual.body_max),
            copied_body_max: table.size("copied_body_max", SIZES).unwrap_or(usual.copied_body_max),
            // Bound: more threads than this only add wake-ups.
            threads: table.integer("threads", 1..=256).map(|threads| threads as usize),
            wait: table.parsed("wait", parse_wait).map(|at| at.value).unwrap_or(usual.wait),
            log: table.parsed("log", parse_level).map_or(usual.log, |at| at.value),
        };
        table.finish();
        section
    }

    /// The threads to use on a host with this many CPUs: the configured number, else one on a
    /// small host (a second thread would only move wake-ups across cores) and half the CPUs, at
    /// most four, on a larger one.
    pub fn threads(&self, cpus: usize) -> usize {
        self.threads.unwrap_or(if cpus <= 2 { 1 } else { (cpus / 2).min(4) })
    }
}

/// Reads a key `allow`, which stands in `[broker]` and in routes.
pub(super) fn read_allow(table: &mut Section<'_>) -> Option<Vec<Identity>> {
    let elements = table.list("allow")?;
    let mut allowed = Vec::with_capacity(elements.len());
    for element in elements {
        match element.get_ref().as_str().map(Identity::parse) {
            Some(Ok(identity)) => allowed.push(identity),
            Some(Err(sentence)) => table.fault(element.span(), "allow", sentence),
            None => table.fault(element.span(), "allow", wrong_type("text in quotes", element)),
        }
    }
    Some(allowed)
}

fn parse_socket(text: &str) -> Result<PathBuf, String> {
    // Bound: sun_path of a Unix socket address, with its closing zero.
    match text {
        path if !path.starts_with('/') => Err(format!("{text:?} is not an absolute path")),
        path if path.len() > 107 => Err(format!("is {} bytes long, at most 107", path.len())),
        path => Ok(PathBuf::from(path)),
    }
}

pub(super) fn parse_mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 && text.bytes().all(|b| b.is_ascii_digit()) => Ok(mode),
        _ => Err(format!("{text:?} is not a file mode such as \"0660\"")),
    }
}

fn parse_wait(text: &str) -> Result<Wait, String> {
    match text {
        "block" => Ok(Wait::Block),
        "spin" => Ok(Wait::Spin),
        _ => Err(format!("{text:?} is not one of \"block\", \"spin\"")),
    }
}

fn parse_level(text: &str) -> Result<LevelFilter, String> {
    match text {
        "error" => Ok(LevelFilter::ERROR),
        "warn" => Ok(LevelFilter::WARN),
        "info" => Ok(LevelFilter::INFO),
        "debug" => Ok(LevelFilter::DEBUG),
        "trace" => Ok(LevelFilter::TRACE),
        _ => Err(format!(
            "{text:?} is not one of \"error\", \"warn\", \"info\", \"debug\", \"trace\""
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_follow_the_host_unless_configured() {
        let usual = BrokerSection::default();
        let counts: Vec<_> = [1, 2, 3, 4, 8, 64].map(|cpus| usual.threads(cpus)).into();
        assert_eq!(counts, [1, 1, 1, 2, 4, 4]);
        assert_eq!(BrokerSection { threads: Some(7), ..usual }.threads(2), 7);
    }

    #[test]
    fn a_wait_is_one_of_two() {
        assert_eq!(parse_wait("block"), Ok(Wait::Block));
        assert_eq!(parse_wait("spin"), Ok(Wait::Spin));
        assert!(parse_wait("Spin").is_err());
    }

    #[test]
    fn modes_are_octal() {
        assert_eq!(parse_mode("0660"), Ok(0o660));
        for bad in ["", "888", "+660", "07777", "rw"] {
            assert!(parse_mode(bad).is_err(), "{bad:?}");
        }
    }
}
