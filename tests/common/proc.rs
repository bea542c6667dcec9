//! What the kernel says of a process.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;

/// A mapping of this process.
#[derive(Clone, Debug)]
pub struct Mapping {
    pub range: Range<usize>,
    pub is_writable: bool,
}

impl Mapping {
    /// Whether all of these addresses lie inside.
    pub fn holds(&self, range: &Range<usize>) -> bool {
        self.range.start <= range.start && range.end <= self.range.end
    }
}

/// The mappings of this process of memfds with this name.
pub fn mappings(name: &str) -> Vec<Mapping> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let wanted = format!("/memfd:{name} ");
    maps.lines().filter(|line| line.contains(&wanted)).map(mapping).collect()
}

fn mapping(line: &str) -> Mapping {
    let (range, rest) = line.split_once(' ').unwrap();
    let (start, end) = range.split_once('-').unwrap();
    let address = |text| usize::from_str_radix(text, 16).unwrap();
    Mapping { range: address(start)..address(end), is_writable: rest.as_bytes()[1] == b'w' }
}

/// The addresses of a slice.
pub fn addresses(bytes: &[u8]) -> Range<usize> {
    let start = bytes.as_ptr().addr();
    start..start + bytes.len()
}

/// Resident memory of a process, private and shared, in bytes.
pub fn resident_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let kib = |name: &str| -> u64 {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
    };
    (kib("RssAnon:") + kib("RssShmem:")) * 1024
}

/// CPU time of a process so far, in ticks of a hundredth of a second.
pub fn cpu_ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // Behind the name, which may hold anything: fields 14 and 15, counted from the state as 3.
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let field = |number: usize| fields.split_ascii_whitespace().nth(number - 3).unwrap();
    field(14).parse::<u64>().unwrap() + field(15).parse::<u64>().unwrap()
}

/// Bells, process handles and segments of a broker: what only sessions, and connections that may
/// become one, have. Upstream connections may stay open, they are there to be used again.
pub fn holdings(broker: u32) -> BTreeMap<String, usize> {
    let kinds = ["eventfd", "pidfd", "ringmain-caller", "ringmain-responder"];
    let fds = fs::read_dir(format!("/proc/{broker}/fd")).unwrap().flatten();
    // One may be closed while it is looked at.
    let fds = fds.map(|fd| fs::read_link(fd.path()).unwrap_or_default());
    let fds: Vec<String> = fds.map(|path| path.to_string_lossy().into_owned()).collect();
    let maps = fs::read_to_string(format!("/proc/{broker}/maps")).unwrap();
    let lines = || fds.iter().map(String::as_str).chain(maps.lines());
    let count = |kind: &str| lines().filter(|line| line.contains(kind)).count();
    kinds.iter().map(|kind| ((*kind).to_owned(), count(kind))).collect()
}

/// The same of a broker that nobody is attached to, to compare with later. Whoever looked whether
/// it is there leaves a process handle behind for a moment.
pub fn holdings_at_rest(broker: u32) -> BTreeMap<String, usize> {
    let mut held = holdings(broker);
    super::eventually("the broker holds nothing of a peer", || {
        held = holdings(broker);
        held.iter().all(|(kind, count)| kind == "eventfd" || *count == 0)
    });
    held
}
