//! Forked children and named counters.
#![allow(unsafe_code, clippy::unwrap_used)] // helpers of tests are tests

mod common;

use std::fs;
use std::io;

use common::spawn;
use ringmain_shm::{ForkMark, open_shared_counters};

#[test]
fn fork_mark_tells_a_child_and_its_child_from_the_parent() {
    let mark = ForkMark::new().unwrap();
    assert!(!mark.is_child());
    let child = spawn(None, || {
        let grandchild = spawn(None, || i32::from(!mark.is_child()));
        let own = ForkMark::new().unwrap();
        i32::from(!mark.is_child() || own.is_child() || grandchild.wait() != 0)
    });
    assert_eq!(child.wait(), 0);
    assert!(!mark.is_child());
}

struct Named(String);

impl Named {
    fn new(what: &str, bytes: &[u8]) -> Named {
        let name = format!("ringmain-test-{}-{what}", std::process::id());
        fs::write(format!("/dev/shm/{name}"), bytes).unwrap();
        Named(name)
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        let _ = fs::remove_file(format!("/dev/shm/{}", self.0));
    }
}

#[test]
fn counters_are_a_copy_that_a_shorter_file_does_not_harm() {
    let named = Named::new("copy", &[7u64.to_ne_bytes(), 8u64.to_ne_bytes()].concat());
    let map = open_shared_counters(&named.0).unwrap();
    fs::write(format!("/dev/shm/{}", named.0), []).unwrap();
    assert_eq!((map.len(), map.load(0), map.load(8)), (16, 7, 8));
    let odd = Named::new("odd", &[1; 9]);
    let map = open_shared_counters(&format!("/{}", odd.0)).unwrap();
    assert_eq!((map.len(), map.load(8)), (16, u64::from_ne_bytes([1, 0, 0, 0, 0, 0, 0, 0])));
}

#[test]
fn counters_of_a_bad_name_or_file_are_an_error() {
    for name in ["", "/", "..", ".", "a/b", "//a", "/../etc/passwd"] {
        let error = open_shared_counters(name).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{name}");
    }
    let empty = Named::new("empty", &[]);
    assert_eq!(open_shared_counters(&empty.0).unwrap_err().kind(), io::ErrorKind::InvalidData);
    let missing = open_shared_counters("ringmain-test-missing").unwrap_err();
    assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    let link = Named(format!("ringmain-test-{}-link", std::process::id()));
    std::os::unix::fs::symlink("/etc/passwd", format!("/dev/shm/{}", link.0)).unwrap();
    assert!(open_shared_counters(&link.0).is_err());
    let pipe = Named(format!("ringmain-test-{}-pipe", std::process::id()));
    let path = format!("/dev/shm/{}", pipe.0);
    nix::unistd::mkfifo(path.as_str(), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(open_shared_counters(&pipe.0).unwrap_err().kind(), io::ErrorKind::InvalidData);
}
