//! What the unit restricts by the arguments of calls, as systemd makes filters of it:
//! `RestrictAddressFamilies=` judges the first argument of `socket`, `MemoryDenyWriteExecute=` the
//! protection that `mmap`, `mprotect`, `pkey_mprotect` and `shmat` ask for. (On newer kernels
//! systemd sets a flag of the process in the place of the latter filter, with the same effect.)

use std::collections::{BTreeMap, BTreeSet};

use seccompiler::SeccompCmpArgLen::{Dword, Qword};
use seccompiler::SeccompCmpOp::{MaskedEq, Ne};
use seccompiler::{BpfProgram, SeccompAction, SeccompCondition, SeccompFilter, SeccompRule};
use syscalls::Sysno;

use crate::calls::Beyond;

/// The unit's restrictions on arguments.
#[derive(Clone)]
pub struct Arguments {
    /// Address families that a socket may have.
    pub families: BTreeSet<String>,
    /// Whether memory that was written may be executed.
    pub allows_new_code: bool,
}

impl Arguments {
    /// Of what the unit says for a key: a list of allowed families, and a switch.
    pub fn of_unit<'a, I: Iterator<Item = &'a str>>(values: impl Fn(&'static str) -> I) -> Self {
        let families = values("RestrictAddressFamilies").flat_map(str::split_ascii_whitespace);
        let switch = values("MemoryDenyWriteExecute").last();
        Arguments {
            families: families.map(str::to_owned).collect(),
            allows_new_code: switch != Some("yes"),
        }
    }

    /// The programs for the kernel; where several speak, it takes the strictest word.
    ///
    /// The C library looks for the host's addresses over netlink when it resolves a name, and does
    /// without where that fails: so it fails even where everything else kills.
    pub fn compile(&self, beyond: Beyond) -> Vec<BpfProgram> {
        let refused = SeccompAction::Errno(libc::EAFNOSUPPORT as u32);
        let mut programs = vec![filter(self.family_rules(&[]), refused)];
        let action = match beyond {
            Beyond::Fails(errno) => SeccompAction::Errno(errno),
            Beyond::Kills => {
                let rules = self.family_rules(&["AF_NETLINK"]);
                programs.push(filter(rules, SeccompAction::KillProcess));
                SeccompAction::KillProcess
            }
        };
        if !self.allows_new_code {
            programs.push(filter(new_code_rules(), action));
        }
        programs
    }

    /// A socket of none of the allowed families, nor of these.
    fn family_rules(&self, also: &[&str]) -> Vec<(Sysno, SeccompRule)> {
        let known = self.families.iter().map(String::as_str).chain(also.iter().copied());
        let other = known.map(|name| condition(0, Dword, Ne, family(name) as u64)).collect();
        vec![(Sysno::socket, SeccompRule::new(other).unwrap())]
    }
}

/// Memory that is writable and executable at once, or made executable later.
fn new_code_rules() -> Vec<(Sysno, SeccompRule)> {
    let both = (libc::PROT_WRITE | libc::PROT_EXEC) as u64;
    let (exec, attach) = (libc::PROT_EXEC as u64, libc::SHM_EXEC as u64);
    [
        (Sysno::mmap, both),
        (Sysno::mprotect, exec),
        (Sysno::pkey_mprotect, exec),
        (Sysno::shmat, attach),
    ]
    .map(|(call, bits)| {
        let asks = condition(2, Qword, MaskedEq(bits), bits);
        (call, SeccompRule::new(vec![asks]).unwrap())
    })
    .into()
}

fn filter(rules: Vec<(Sysno, SeccompRule)>, action: SeccompAction) -> BpfProgram {
    let rules: BTreeMap<_, _> =
        rules.into_iter().map(|(call, rule)| (call.id().into(), vec![rule])).collect();
    let arch = std::env::consts::ARCH.try_into().unwrap();
    SeccompFilter::new(rules, SeccompAction::Allow, action, arch).unwrap().try_into().unwrap()
}

fn condition(
    index: u8,
    len: seccompiler::SeccompCmpArgLen,
    operator: seccompiler::SeccompCmpOp,
    value: u64,
) -> SeccompCondition {
    SeccompCondition::new(index, len, operator, value).unwrap()
}

fn family(name: &str) -> i32 {
    match name {
        "AF_INET" => libc::AF_INET,
        "AF_INET6" => libc::AF_INET6,
        "AF_NETLINK" => libc::AF_NETLINK,
        "AF_UNIX" => libc::AF_UNIX,
        other => panic!("the family {other} is not known here"),
    }
}
