//! The process itself: its clock, its descriptor limit, its ids, and names for ids.
use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Gid, Group, Uid, User};

/// `CLOCK_MONOTONIC` in nanoseconds: the clock of every time in a segment.
#[must_use]
pub fn monotonic_ns() -> u64 {
    // The call can only fail for an unknown clock or a bad pointer, and has neither.
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map_or(0, |t| t.tv_sec() as u64 * 1_000_000_000 + t.tv_nsec() as u64)
}

/// What the calling thread has used of its CPU, in nanoseconds: a time in which no other thread of
/// the machine counts.
#[must_use]
pub fn thread_cpu_ns() -> u64 {
    // As above: neither an unknown clock nor a bad pointer.
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
        .map_or(0, |t| t.tv_sec() as u64 * 1_000_000_000 + t.tv_nsec() as u64)
}

/// The uid by which the kernel judges this process, and by which it is seen at accept.
#[must_use]
pub fn own_uid() -> u32 {
    Uid::effective().as_raw()
}

/// The gid by which the kernel judges this process.
#[must_use]
pub fn own_gid() -> u32 {
    Gid::effective().as_raw()
}

/// The gid of a group by its name; `None` when there is no such group.
pub fn group_id(name: &str) -> io::Result<Option<u32>> {
    Ok(Group::from_name(name)?.map(|group| group.gid.as_raw()))
}

/// The uid of a user by its name; `None` when there is no such user.
pub fn user_id(name: &str) -> io::Result<Option<u32>> {
    Ok(User::from_name(name)?.map(|user| user.uid.as_raw()))
}

/// The name of a uid; `None` when the system knows none.
pub fn user_name(uid: u32) -> io::Result<Option<String>> {
    Ok(User::from_uid(Uid::from_raw(uid))?.map(|user| user.name))
}

/// Raises the soft limit of open descriptors to the hard one and returns both as they are now.
pub fn raise_nofile() -> io::Result<(u64, u64)> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok((hard.max(soft), hard))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_never_goes_back() {
        let first = monotonic_ns();
        assert!(first > 0);
        assert!(monotonic_ns() >= first);
    }

    #[test]
    fn nofile_soft_limit_meets_the_hard_one() {
        let (soft, hard) = raise_nofile().unwrap();
        assert_eq!(soft, hard);
        assert_eq!(raise_nofile().unwrap(), (soft, hard));
    }

    #[test]
    fn names_and_ids_are_found_or_none() {
        assert_eq!(user_id("root").unwrap(), Some(0));
        assert_eq!(user_name(0).unwrap().as_deref(), Some("root"));
        assert_eq!(group_id("root").unwrap(), Some(0));
        assert_eq!(group_id("no such group").unwrap(), None);
        assert_eq!(user_id("no such user").unwrap(), None);
    }
}
