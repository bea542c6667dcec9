//! Rings arrive, whatever the other side does to the shared descriptor, and nobody waits for it.
#![allow(unsafe_code, clippy::unwrap_used)] // helpers of tests are tests

mod common;

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use common::{Gate, alone, spawn};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use ringmain_shm::{Bell, Compat, Control, Ringer, RingerKind, Sleeper, Woken, bell_pair, own_uid};

/// Far more than anything here takes; a test that hangs fails rather than blocks the run.
const WATCHDOG: Duration = Duration::from_secs(20);
const NOW: Option<Duration> = Some(Duration::ZERO);

/// A client's side: its bell, its end of the control socket, a pidfd of this process.
struct Client {
    sleeper: Sleeper,
    control: Control,
    broker: Control,
}

fn client(bell: &Bell) -> Client {
    let (control, broker) = Control::pair().unwrap();
    let peer = control.peer(&Compat::default()).unwrap();
    let sleeper = Sleeper::new(bell, control.as_fd(), peer.pidfd.as_fd()).unwrap();
    // The pidfd may be closed: this process is there as long as the test is.
    Client { sleeper, control, broker }
}

fn ringers() -> Vec<(Bell, Client, Ringer)> {
    [RingerKind::Write, RingerKind::Aio, RingerKind::Control]
        .map(|kind| {
            let (bell, fd) = bell_pair().unwrap();
            let client = client(&bell);
            let ringer = match kind {
                RingerKind::Write => Ringer::write(fd),
                RingerKind::Aio => Ringer::aio(fd).unwrap(),
                _ => Ringer::control(client.broker.try_clone_fd().unwrap()),
            };
            assert_eq!(ringer.kind(), kind);
            (bell, client, ringer)
        })
        .into()
}

fn drain(control: &Control) -> usize {
    let mut buf = [0; 64];
    let mut count = 0;
    while let Ok(received) = control.recv(&mut buf) {
        assert_eq!(received.bytes, 1);
        count += 1;
    }
    count
}

#[test]
fn ringer_of_each_kind_wakes_a_sleeper_once_per_ring() {
    let _alone = alone();
    for (_bell, client, ringer) in ringers() {
        assert_eq!(client.sleeper.sleep(NOW).unwrap(), Woken::default());
        // More rings than an AIO context holds completions.
        for _ in 0..300 {
            ringer.ring().unwrap();
            let woken = client.sleeper.sleep(Some(WATCHDOG)).unwrap();
            let by_datagram = ringer.kind() == RingerKind::Control;
            assert_eq!((woken.bell, woken.control), (!by_datagram, by_datagram));
            assert_eq!(drain(&client.control), usize::from(by_datagram));
            assert_eq!(client.sleeper.sleep(NOW).unwrap(), Woken::default());
        }
    }
}

#[test]
fn ringer_of_each_kind_wakes_a_sleeper_on_another_thread() {
    let _alone = alone();
    for (bell, client, ringer) in ringers() {
        let (woke, woken) = mpsc::channel();
        let sleeper = thread::spawn(move || {
            let _bell = bell;
            let result = client.sleeper.sleep(Some(WATCHDOG)).unwrap();
            woke.send((result, client)).unwrap();
        });
        ringer.ring().unwrap();
        let (result, _client) = woken.recv_timeout(WATCHDOG).unwrap();
        assert!(result.bell || result.control);
        sleeper.join().unwrap();
    }
}

#[test]
fn ringer_of_each_kind_is_remembered_when_nobody_sleeps() {
    let _alone = alone();
    for (_bell, client, ringer) in ringers() {
        for _ in 0..3 {
            ringer.ring().unwrap();
        }
        let woken = client.sleeper.sleep(Some(WATCHDOG)).unwrap();
        assert!(woken.bell || woken.control);
    }
}

#[cfg(feature = "tokio")]
#[tokio::test]
async fn ringer_of_each_kind_wakes_a_task() {
    use ringmain_shm::Readiness;
    for (bell, client, ringer) in ringers() {
        let by_datagram = ringer.kind() == RingerKind::Control;
        let fd: OwnedFd =
            if by_datagram { client.control.try_clone_fd().unwrap() } else { bell.into() };
        let readiness = Readiness::new(fd).unwrap();
        for _ in 0..100 {
            let quiet = tokio::time::timeout(Duration::ZERO, readiness.readable()).await;
            assert!(quiet.is_err(), "an edge was told twice");
            let wait = tokio::time::timeout(WATCHDOG, readiness.readable());
            let (woken, ()) = tokio::join!(wait, async { ringer.ring().unwrap() });
            woken.unwrap().unwrap();
            drain(&client.control);
        }
        // Deregistered, a ring is kept for the next registration.
        let fd = readiness.into_fd();
        ringer.ring().unwrap();
        let again = Readiness::new(fd).unwrap();
        tokio::time::timeout(WATCHDOG, again.readable()).await.unwrap().unwrap();
    }
}

/// Fills the counter and makes the description block, as a hostile holder of the bell would.
fn freeze(fd: &OwnedFd) {
    nix::unistd::write(fd, &(u64::MAX - 1).to_ne_bytes()).unwrap();
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL).unwrap());
    fcntl(fd, FcntlArg::F_SETFL(flags.difference(OFlag::O_NONBLOCK))).unwrap();
    let mut ready = [PollFd::new(fd.as_fd(), PollFlags::POLLOUT)];
    assert_eq!(poll(&mut ready, PollTimeout::ZERO).unwrap(), 0, "a write would wait now");
}

#[test]
fn ringer_by_aio_does_not_wait_for_a_frozen_bell_and_still_wakes() {
    let _alone = alone();
    let (bell, fd) = bell_pair().unwrap();
    let client = client(&bell);
    freeze(&fd);
    // Registered before it was frozen: the counter itself is one edge.
    client.sleeper.sleep(NOW).unwrap();
    let ringer = Ringer::aio(fd).unwrap();
    let (done, finished) = mpsc::channel();
    thread::spawn(move || {
        for _ in 0..300 {
            ringer.ring().unwrap();
            done.send(client.sleeper.sleep(Some(WATCHDOG)).unwrap().bell).unwrap();
        }
    });
    for ring in 0..300 {
        assert!(finished.recv_timeout(WATCHDOG).unwrap(), "ring {ring} was lost");
    }
    drop(bell);
}

#[test]
fn ringer_by_write_would_wait_for_a_frozen_bell() {
    let _alone = alone();
    let (_bell, fd) = bell_pair().unwrap();
    freeze(&fd);
    // A child hangs in the write until it is killed: why no stranger's bell is written.
    let gate = Gate::new();
    let child = spawn(None, || {
        gate.open();
        i32::from(Ringer::write(fd.try_clone().unwrap()).ring().is_err())
    });
    gate.pass();
    let path = format!("/proc/{}/wchan", child.pid());
    let state = || std::fs::read_to_string(format!("/proc/{}/stat", child.pid())).unwrap();
    // Bound: the child needs a moment to reach the call; it then stays there.
    let asleep = (0..100_000).any(|_| {
        thread::yield_now();
        state().rsplit(") ").next().is_some_and(|rest| rest.starts_with('S'))
    });
    assert!(asleep, "{:?}", std::fs::read_to_string(path));
    nix::unistd::read(&fd, &mut [0; 8]).unwrap();
    assert_eq!(child.wait(), 0);
}

#[test]
fn ringer_by_aio_works_from_many_threads_and_after_they_end() {
    let _alone = alone();
    let (bell, fd) = bell_pair().unwrap();
    let client = client(&bell);
    let ringer = Arc::new(Ringer::aio(fd.try_clone().unwrap()).unwrap());
    for _ in 0..4 {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let ringer = ringer.clone();
                thread::spawn(move || (0..200).for_each(|_| ringer.ring().unwrap()))
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert!(client.sleeper.sleep(Some(WATCHDOG)).unwrap().bell);
    }
    let mut counter = [0; 8];
    nix::unistd::read(&fd, &mut counter).unwrap();
    assert_eq!(u64::from_ne_bytes(counter), 4 * 4 * 200);
}

#[test]
fn ringer_by_datagram_takes_a_full_queue_for_rung_and_a_closed_one_for_gone() {
    let _alone = alone();
    let (control, broker) = Control::pair().unwrap();
    let ringer = Ringer::control(broker.try_clone_fd().unwrap());
    // Bound: a socket's buffer holds some hundred datagrams.
    let full = (0..100_000).any(|_| {
        ringer.ring().unwrap();
        broker.send(&[2], &[]).is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock)
    });
    assert!(full);
    ringer.ring().unwrap();
    drop(control);
    // What it had not read is told first, and once.
    assert_eq!(ringer.ring().unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(ringer.ring().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}

#[test]
fn ringer_for_a_peer_is_picked_by_uid_and_falls_back_to_the_control_socket() {
    let _alone = alone();
    let (control, _other) = Control::pair().unwrap();
    let no_aio = Compat { aio: false, ..Compat::default() };
    let stranger = own_uid() + 1;
    let cases = [
        (own_uid(), Compat::default(), RingerKind::Write),
        (own_uid(), no_aio, RingerKind::Write),
        (stranger, Compat::default(), RingerKind::Aio),
        (stranger, no_aio, RingerKind::Control),
    ];
    for (uid, compat, kind) in cases {
        let (_bell, fd) = bell_pair().unwrap();
        let ringer = Ringer::for_peer(fd, control.as_fd(), uid, &compat).unwrap();
        assert_eq!(ringer.kind(), kind);
        ringer.ring().unwrap();
    }
}

#[test]
fn sleeper_wakes_for_the_peer_hanging_up() {
    let _alone = alone();
    let (bell, _fd) = bell_pair().unwrap();
    let client = client(&bell);
    drop(client.broker);
    let woken = client.sleeper.sleep(Some(WATCHDOG)).unwrap();
    assert_eq!((woken.bell, woken.control), (false, true));
    assert_eq!(client.control.recv(&mut [0; 8]).unwrap().bytes, 0);
}

#[test]
fn sleeper_wakes_for_a_message_until_it_is_read() {
    let _alone = alone();
    let (bell, _fd) = bell_pair().unwrap();
    let client = client(&bell);
    client.broker.send(b"goodbye", &[]).unwrap();
    for _ in 0..2 {
        assert!(client.sleeper.sleep(Some(WATCHDOG)).unwrap().control);
    }
    assert_eq!(client.control.recv(&mut [0; 64]).unwrap().bytes, 7);
    assert_eq!(client.sleeper.sleep(NOW).unwrap(), Woken::default());
}

#[test]
fn sleeper_wakes_for_the_exit_of_the_peer_process() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let listener = ringmain_shm::Listener::bind(&dir.path().join("s"), 0o600, None).unwrap();
    let gate = Gate::new();
    let child = spawn(None, || {
        let control = Control::connect(&dir.path().join("s")).unwrap();
        // A socket that somebody else still holds does not hang up; the exit shows all the same.
        std::mem::forget(control);
        gate.pass();
        0
    });
    let control = accept(&listener);
    let peer = control.peer(&Compat::default()).unwrap();
    assert_eq!(peer.pid, child.pid());
    let (bell, _fd) = bell_pair().unwrap();
    let (quiet, _held) = Control::pair().unwrap();
    let sleeper = Sleeper::new(&bell, quiet.as_fd(), peer.pidfd.as_fd()).unwrap();
    assert_eq!(sleeper.sleep(NOW).unwrap(), Woken::default());
    gate.open();
    let woken = sleeper.sleep(Some(WATCHDOG)).unwrap();
    assert_eq!(woken, Woken { exited: true, ..Woken::default() });
    assert_eq!(child.wait(), 0);
}

fn accept(listener: &ringmain_shm::Listener) -> Control {
    let mut ready = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut ready, 20_000u16).unwrap(), 1);
    listener.accept().unwrap().unwrap()
}

#[test]
fn sleeper_ends_at_its_time() {
    let _alone = alone();
    let (bell, fd) = bell_pair().unwrap();
    let client = client(&bell);
    let woken = client.sleeper.sleep(Some(Duration::from_millis(1))).unwrap();
    assert_eq!(woken, Woken::default());
    assert!(fd.as_raw_fd() >= 0);
}
