//! What a segment keeps from its peers, shown by peers that try: forked processes, of another uid
//! where the test runs as root.
#![allow(unsafe_code, clippy::unwrap_used)] // helpers of tests are tests

mod common;

use std::fs::OpenOptions;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use common::{Gate, STRANGER, can_change_uid, spawn};
use memmap2::MmapOptions;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::{Mode, fchmod, fstat};
use nix::unistd::ftruncate;
use ringmain_shm::{AttachError, Compat, OwnSegment, PeerSegment, ReadMap, WriteMap, own_uid};

const BYTES: usize = 64 * 1024;

const MAPPED: i32 = 1;
const WRITTEN: i32 = 2;
const PUNCHED: i32 = 4;
const CUT: i32 = 8;
const GROWN: i32 = 16;
const SEALED: i32 = 32;

fn compat() -> Compat {
    Compat::default()
}

fn other_uid() -> u32 {
    own_uid() + 1
}

fn punch(fd: &impl AsFd) -> Result<(), Errno> {
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    fallocate(fd, flags, 0, BYTES as i64)
}

/// Everything that harms, on one descriptor. The bits of what went through.
fn harm(fd: &OwnedFd) -> i32 {
    let mut done = 0;
    if let Ok(map) = MmapOptions::new().len(BYTES).map_raw(fd) {
        // SAFETY: a fresh writable mapping of our own.
        unsafe { map.as_mut_ptr().write_volatile(0xee) };
        done |= MAPPED;
    }
    if let Ok(map) = MmapOptions::new().len(BYTES).map_raw_read_only(fd) {
        // SAFETY: our own mapping; the call is expected to fail.
        let made = unsafe {
            let access = libc::PROT_READ | libc::PROT_WRITE;
            libc::mprotect(map.as_mut_ptr().cast(), BYTES, access)
        };
        done |= if made == 0 { MAPPED } else { 0 };
    }
    done |= if nix::sys::uio::pwrite(fd, &[0xee], 0).is_ok() { WRITTEN } else { 0 };
    done |= if punch(fd).is_ok() { PUNCHED } else { 0 };
    done |= if ftruncate(fd, 0).is_ok() { CUT } else { 0 };
    done |= if ftruncate(fd, 2 * BYTES as i64).is_ok() { GROWN } else { 0 };
    let seals = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SEAL;
    done |= if fcntl(fd, FcntlArg::F_ADD_SEALS(seals)).is_ok() { SEALED } else { 0 };
    done
}

/// The attack of a reader: on what it was given, and on whatever it can open from there.
fn attack(fd: &OwnedFd) -> i32 {
    let mut done = harm(fd);
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let _ = fchmod(fd, Mode::from_bits_truncate(0o666));
    for options in [OpenOptions::new().read(true).write(true), OpenOptions::new().write(true)] {
        if let Ok(file) = options.open(&path) {
            done |= harm(&file.into());
        }
    }
    if let Ok(file) = OpenOptions::new().read(true).write(true).truncate(true).open(&path) {
        done |= harm(&file.into());
    }
    done
}

/// 512-byte blocks of memory behind a segment.
fn blocks(fd: &impl AsFd) -> i64 {
    fstat(fd).unwrap().st_blocks
}

#[test]
fn segment_of_the_broker_withstands_a_peer_of_another_uid() {
    if !can_change_uid() {
        return;
    }
    let own = OwnSegment::create("withstands", BYTES, STRANGER, &compat()).unwrap();
    own.map.store(0, 7);
    let child = spawn(Some(STRANGER), || {
        let path = format!("/proc/self/fd/{}", own.fd.as_raw_fd());
        let reopened = OpenOptions::new().read(true).write(true).open(path).is_ok();
        let owned = fchmod(&own.fd, Mode::from_bits_truncate(0o666)).is_ok();
        attack(&own.fd) | if reopened || owned { 64 } else { 0 }
    });
    assert_eq!(child.wait(), 0);
    assert_eq!(own.map.load(0), 7);
}

#[test]
fn segment_of_the_broker_withstands_a_peer_of_its_own_uid() {
    let own = OwnSegment::create("withstands", BYTES, own_uid(), &compat()).unwrap();
    own.map.store(0, 7);
    assert_eq!(spawn(None, || attack(&own.fd)).wait(), 0);
    assert_eq!(own.map.load(0), 7);
    own.map.store(0, 8);
    assert_eq!(own.map.load(0), 8, "the mapping made before the seal still writes");
}

#[test]
fn segment_of_a_broker_without_privileges_withstands_root_and_its_own_uid() {
    if !can_change_uid() {
        return;
    }
    let child = spawn(Some(STRANGER), || {
        let own = OwnSegment::create("plain", BYTES, STRANGER, &compat()).unwrap();
        let to_root = OwnSegment::create("plain", BYTES, 0, &compat()).unwrap();
        let to_other = OwnSegment::create("plain", BYTES, STRANGER + 1, &compat()).unwrap();
        to_other.map.store(0, 7);
        to_other.punch.punch_all().unwrap();
        let kept = to_other.map.load(0) == 0 && !to_root.punch.is_effective();
        attack(&own.fd) | if kept { 0 } else { 64 }
    });
    assert_eq!(child.wait(), 0);
}

#[test]
fn segment_of_the_broker_is_read_by_its_peer() {
    let own = OwnSegment::create("read", BYTES, other_uid(), &compat()).unwrap();
    own.map.copy_in(4096 + 3, b"one writer");
    own.map.store_release(8, 42);
    let uid = can_change_uid().then_some(STRANGER);
    let child = spawn(uid, || {
        let map = ReadMap::attach(own.fd.try_clone().unwrap(), BYTES).unwrap();
        let mut bytes = [0; 10];
        map.copy_out(4096 + 3, &mut bytes);
        let whole = &bytes == b"one writer" && map.load(8) == 42;
        i32::from(!whole)
    });
    assert_eq!(child.wait(), 0);
}

#[test]
fn segment_of_the_broker_is_punched_by_the_broker() {
    let own = OwnSegment::create("punched", BYTES, other_uid(), &compat()).unwrap();
    let peer = ReadMap::attach(own.fd, BYTES).unwrap();
    for offset in (0..BYTES).step_by(8) {
        own.map.store(offset, 1);
    }
    assert_eq!(peer.load(BYTES - 8), 1);
    own.map.punch(4096, 4096).unwrap();
    assert_eq!((peer.load(0), peer.load(4096), peer.load(8192)), (1, 0, 1));
    assert!(own.punch.is_effective());
    own.punch.punch_all().unwrap();
    assert_eq!((peer.load(0), peer.load(BYTES - 8)), (0, 0));
}

#[test]
fn segment_that_the_peer_writes_gives_its_memory_back_while_the_peer_keeps_it() {
    let peer = PeerSegment::create("kept", BYTES, &compat()).unwrap();
    let (wrote, punched) = (Gate::new(), Gate::new());
    let uid = can_change_uid().then_some(STRANGER);
    let child = spawn(uid, || {
        let map = WriteMap::attach(peer.fd.try_clone().unwrap(), BYTES).unwrap();
        for offset in (0..BYTES).step_by(8) {
            map.store(offset, 9);
        }
        wrote.open();
        punched.pass();
        i32::from(map.load(BYTES - 8) != 0)
    });
    wrote.pass();
    assert_eq!(peer.map.load(BYTES - 8), 9);
    assert_eq!(blocks(&peer.fd), BYTES as i64 / 512);
    peer.punch.punch_all().unwrap();
    assert_eq!(blocks(&peer.fd), 0);
    punched.open();
    assert_eq!(child.wait(), 0);
}

#[test]
fn segment_that_the_peer_writes_keeps_its_size_and_seals() {
    let peer = PeerSegment::create("size", BYTES, &compat()).unwrap();
    let uid = can_change_uid().then_some(STRANGER);
    let child = spawn(uid, || attack(&peer.fd) & (CUT | GROWN | SEALED));
    assert_eq!(child.wait(), 0);
    assert_eq!(fstat(&peer.fd).unwrap().st_size, BYTES as i64);
}

/// The kernel refuses to punch behind any seal against writing; the type says so and does nothing.
#[test]
fn segment_sealed_against_future_writers_can_not_be_punched_and_says_so() {
    let own = OwnSegment::create("sealed", BYTES, own_uid(), &compat()).unwrap();
    own.map.store(0, 5);
    assert!(!own.punch.is_effective());
    own.punch.punch_all().unwrap();
    own.map.punch(0, 4096).unwrap();
    assert_eq!(own.map.load(0), 5);
    fchmod(&own.fd, Mode::from_bits_truncate(0o600)).unwrap();
    let path = format!("/proc/self/fd/{}", own.fd.as_raw_fd());
    let writable = OpenOptions::new().read(true).write(true).open(path).unwrap();
    assert_eq!(punch(&writable), Err(Errno::EPERM));
}

fn memfd(seals: SealFlag) -> OwnedFd {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let fd = memfd_create("judged", flags).unwrap();
    ftruncate(&fd, BYTES as i64).unwrap();
    fcntl(&fd, FcntlArg::F_ADD_SEALS(seals)).unwrap();
    fd
}

/// The attack is worth something: without the protection every part of it goes through.
#[test]
fn segment_without_protection_falls_to_the_same_attack() {
    assert_eq!(
        attack(&memfd(SealFlag::empty())) & !SEALED,
        MAPPED | WRITTEN | PUNCHED | CUT | GROWN
    );
    let fd = memfd(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW);
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let read_only = OpenOptions::new().read(true).open(path).unwrap();
    fchmod(&fd, Mode::empty()).unwrap();
    let done = attack(&read_only.into());
    assert_eq!(
        done & (MAPPED | WRITTEN | PUNCHED),
        MAPPED | WRITTEN | PUNCHED,
        "mode 0 binds no owner"
    );
}

#[test]
fn segment_without_all_seals_is_not_attached() {
    let all = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    for missing in [SealFlag::F_SEAL_SHRINK, SealFlag::F_SEAL_GROW, SealFlag::F_SEAL_SEAL, all] {
        let fd = memfd(all.difference(missing));
        let error = ReadMap::attach(fd.try_clone().unwrap(), BYTES).unwrap_err();
        assert!(matches!(error, AttachError::Seals { .. }), "{error}");
        assert!(matches!(WriteMap::attach(fd, BYTES), Err(AttachError::Seals { .. })));
    }
    assert!(ReadMap::attach(memfd(all), BYTES).is_ok());
    let file = tempfile::tempfile().unwrap();
    file.set_len(BYTES as u64).unwrap();
    let error = ReadMap::attach(file.into(), BYTES).unwrap_err();
    assert_eq!(error.to_string(), "segment has seals 0x0, seals 0x7 must be set");
}

#[test]
fn segment_of_another_size_is_not_attached() {
    let peer = PeerSegment::create("size", BYTES, &compat()).unwrap();
    for bytes in [BYTES / 2, BYTES * 2, 8] {
        let error = WriteMap::attach(peer.fd.try_clone().unwrap(), bytes).unwrap_err();
        assert!(matches!(error, AttachError::Size { found, .. } if found == BYTES as i64));
    }
    for bytes in [0, BYTES - 1, usize::MAX & !7] {
        let error = ReadMap::attach(peer.fd.try_clone().unwrap(), bytes).unwrap_err();
        assert!(matches!(error, AttachError::Words(found) if found == bytes), "{error}");
    }
}

#[test]
fn segment_open_for_reading_is_not_attached_for_writing() {
    let own = OwnSegment::create("reading", BYTES, other_uid(), &compat()).unwrap();
    let error = WriteMap::attach(own.fd, BYTES).unwrap_err();
    let text = "segment descriptor is open for reading, this side needs it for reading and writing";
    assert_eq!(error.to_string(), text);
}

#[test]
fn segment_of_an_older_kernel_has_the_same_seals() {
    let old = Compat { noexec_seal: false, ..compat() };
    for compat in [compat(), old] {
        let own = OwnSegment::create("old", BYTES, other_uid(), &compat).unwrap();
        let peer = PeerSegment::create("old", BYTES, &compat).unwrap();
        assert_eq!(fstat(&own.fd).unwrap().st_mode & 0o777, 0);
        ReadMap::attach(own.fd, BYTES).unwrap();
        WriteMap::attach(peer.fd, BYTES).unwrap();
    }
}

#[test]
fn segment_of_no_bytes_or_half_words_is_not_made() {
    for bytes in [0, 12] {
        assert!(PeerSegment::create("odd", bytes, &compat()).is_err());
        assert!(OwnSegment::create("odd", bytes, 1, &compat()).is_err());
    }
}

#[test]
fn segment_mapping_is_absent_from_a_forked_child() {
    let own = OwnSegment::create("absent", BYTES, other_uid(), &compat()).unwrap();
    let range = own.map.address_range();
    // SAFETY: asks about a range, touches nothing.
    let is_mapped =
        || unsafe { libc::msync(range.start as *mut libc::c_void, BYTES, libc::MS_ASYNC) == 0 };
    assert!(is_mapped());
    assert_eq!(spawn(None, || i32::from(is_mapped())).wait(), 0);
}

#[test]
fn segment_populates_only_what_it_is_told() {
    let peer = PeerSegment::create("populate", BYTES, &compat()).unwrap();
    let map = WriteMap::attach(peer.fd.try_clone().unwrap(), BYTES).unwrap();
    assert_eq!(blocks(&peer.fd), 0);
    map.populate(4096, 8192).unwrap();
    assert_eq!(blocks(&peer.fd), 8192 / 512);
    peer.map.populate(4096, 8192).unwrap();
    map.populate(0, 0).unwrap();
    assert_eq!(blocks(&peer.fd), 8192 / 512);
}
