//! What the unit allows its processes to ask of the kernel, read as systemd reads it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use syscalls::Sysno;

use crate::arguments::Arguments;
use crate::{told, unit};

/// What the kernel does about a call that is not on the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beyond {
    /// The call fails with this error.
    Fails(u32),
    /// The process ends.
    Kills,
}

/// Names of allowed calls, what becomes of others, and what those that are allowed may ask for.
#[derive(Clone)]
pub struct Filter {
    pub allowed: BTreeSet<String>,
    pub beyond: Beyond,
    pub arguments: Arguments,
}

impl Filter {
    /// Of `ringmain.service`: the first line decides that it is a list of allowed calls, lines
    /// with `~` take away, further ones add.
    pub fn of_unit(analyze: &Path) -> Filter {
        let service = fs::read_to_string(unit("ringmain.service")).unwrap();
        let values = |key: &'static str| {
            service.lines().filter_map(move |line| line.strip_prefix(key)?.strip_prefix('='))
        };
        let mut allowed = expand(analyze, "@default");
        // systemd itself needs it to start the program.
        allowed.insert("execve".to_owned());
        for line in values("SystemCallFilter") {
            let (takes_away, names) = match line.strip_prefix('~') {
                Some(names) => (true, names),
                None => (false, line),
            };
            for call in names.split_ascii_whitespace().flat_map(|name| expand(analyze, name)) {
                match takes_away {
                    true => drop(allowed.remove(&call)),
                    false => drop(allowed.insert(call)),
                }
            }
        }
        let beyond = match values("SystemCallErrorNumber").next_back() {
            Some("EPERM") => Beyond::Fails(libc::EPERM as u32),
            Some(other) => panic!("SystemCallErrorNumber={other} is not known here"),
            None => Beyond::Kills,
        };
        Filter { allowed, beyond, arguments: Arguments::of_unit(values) }
    }

    /// For a process that installs it.
    pub fn write(&self, path: &Path) {
        let beyond = match self.beyond {
            Beyond::Fails(errno) => errno.to_string(),
            Beyond::Kills => "kill".to_owned(),
        };
        let list = |names: &BTreeSet<String>| names.iter().cloned().collect::<Vec<_>>().join(" ");
        let (calls, families) = (list(&self.allowed), list(&self.arguments.families));
        let new_code = self.arguments.allows_new_code;
        fs::write(path, format!("{beyond}\n{calls}\n{families}\n{new_code}")).unwrap();
    }

    /// What [`Filter::write`] wrote.
    pub fn read(path: &Path) -> Filter {
        let text = fs::read_to_string(path).unwrap();
        let [beyond, calls, families, new_code] =
            text.lines().collect::<Vec<_>>().try_into().unwrap();
        let list = |names: &str| names.split_ascii_whitespace().map(str::to_owned).collect();
        let beyond = match beyond {
            "kill" => Beyond::Kills,
            errno => Beyond::Fails(errno.parse().unwrap()),
        };
        let allows_new_code = new_code.parse().unwrap();
        let arguments = Arguments { families: list(families), allows_new_code };
        Filter { allowed: list(calls), beyond, arguments }
    }

    /// Holds this process and what it becomes to the filter. The list of calls comes last, as with
    /// systemd: it need not allow the installing of another filter.
    pub fn install(&self) {
        for program in self.arguments.compile(self.beyond) {
            seccompiler::apply_filter(&program).unwrap();
        }
        seccompiler::apply_filter(&self.compile()).unwrap();
    }

    /// The program for the kernel. Names that this architecture does not have are left out, as
    /// systemd does.
    fn compile(&self) -> BpfProgram {
        let numbers = self.allowed.iter().filter_map(|name| name.parse::<Sysno>().ok());
        let rules: BTreeMap<_, _> = numbers.map(|call| (call.id().into(), Vec::new())).collect();
        let beyond = match self.beyond {
            Beyond::Fails(errno) => SeccompAction::Errno(errno),
            Beyond::Kills => SeccompAction::KillProcess,
        };
        let arch = std::env::consts::ARCH.try_into().unwrap();
        let filter = SeccompFilter::new(rules, beyond, SeccompAction::Allow, arch).unwrap();
        filter.try_into().unwrap()
    }
}

/// The calls of a group, or the call of this name.
fn expand(analyze: &Path, name: &str) -> BTreeSet<String> {
    if !name.starts_with('@') {
        return BTreeSet::from([name.to_owned()]);
    }
    let output = Command::new(analyze).args(["syscall-filter", "--no-pager", name]).output();
    let text = told(&output.unwrap());
    let entries = text.lines().filter(|line| line.starts_with("    ")).map(str::trim);
    let entries = entries.filter(|entry| !entry.is_empty() && !entry.starts_with('#'));
    entries.flat_map(|entry| expand(analyze, entry)).collect()
}
