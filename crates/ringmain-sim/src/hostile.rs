//! Peers that attach as the protocol asks and then break its rules.
//!
//! A [`Hostile`] shakes hands like any caller and then does what it likes with everything that it
//! was given. It only uses what a process of another uid could use too: descriptors, its mapping
//! and the socket.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use ringmain_shm::{Control, ReadMap, WriteMap, monotonic_ns};
use ringmain_wire::control::{Goodbye, Hello, Message, Welcome};
use ringmain_wire::limits::{CONTROL_BYTES_MAX, LINE_BYTES};
use ringmain_wire::{Entry, ExchangeId, Geometry, LaneId};

use crate::contract::Hostility;
use crate::text::mix;

/// How long a handshake may take.
const ATTACH_PATIENCE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(1);
const WORD: usize = 8;

/// An attached caller without manners.
#[derive(Debug)]
pub struct Hostile {
    control: Control,
    welcome: Welcome,
    /// The mapping of the caller segment.
    caller: WriteMap,
    /// The mapping of the responder segment.
    responder: ReadMap,
    caller_fd: File,
    responder_fd: File,
    broker_bell: OwnedFd,
    own_bell: OwnedFd,
    position: u64,
}

/// What a peer saw of its broker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The reason that it was given.
    pub goodbye: Option<Goodbye>,
    /// When the connection ended, ns of the shared clock; `None`: not within the patience.
    pub closed_ns: Option<u64>,
    /// Rings that came over the socket.
    pub rings: u64,
    /// Everything else that came.
    pub messages: Vec<Message>,
}

impl Hostile {
    /// Attaches with segments of the default size.
    ///
    /// # Errors
    /// When the broker is absent, refuses, or answers nonsense.
    pub fn attach(socket: &Path) -> io::Result<Hostile> {
        Hostile::attach_as(socket, &Hello::caller(Geometry::default(), monotonic_ns()))
    }

    /// Attaches with this Hello.
    ///
    /// # Errors
    /// As [`Hostile::attach`].
    pub fn attach_as(socket: &Path, hello: &Hello) -> io::Result<Hostile> {
        Hostile::attach_over(Control::connect(socket)?, hello)
    }

    /// Attaches over a connection that exists.
    ///
    /// # Errors
    /// As [`Hostile::attach`].
    pub fn attach_over(control: Control, hello: &Hello) -> io::Result<Hostile> {
        control.send(&Message::Hello(hello.clone()).encode(), &[])?;
        let start = Instant::now();
        let (message, fds) = loop {
            match receive(&control)? {
                Received::Message(message, fds) => break (message, fds),
                Received::HangUp => return Err(io::ErrorKind::ConnectionAborted.into()),
                Received::Nothing if start.elapsed() > ATTACH_PATIENCE => {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                Received::Nothing => thread::sleep(POLL),
            }
        };
        let Message::Welcome(welcome) = message else {
            return Err(io::Error::other(format!("not welcome: {message:?}")));
        };
        let fds: Result<[OwnedFd; 4], _> = fds.try_into();
        let [caller, responder, broker_bell, own_bell] =
            fds.map_err(|_| io::Error::other("a welcome without its four descriptors"))?;
        let geometry = &welcome.geometry;
        let map = WriteMap::attach(caller.try_clone()?, geometry.caller_bytes());
        let responder_map = ReadMap::attach(responder.try_clone()?, geometry.responder_bytes());
        Ok(Hostile {
            caller: map.map_err(io::Error::other)?,
            responder: responder_map.map_err(io::Error::other)?,
            control,
            welcome,
            caller_fd: caller.into(),
            responder_fd: responder.into(),
            broker_bell,
            own_bell,
            position: 0,
        })
    }

    /// What the broker granted.
    pub fn welcome(&self) -> &Welcome {
        &self.welcome
    }

    /// The caller segment, to write anything anywhere.
    pub fn caller(&self) -> &WriteMap {
        &self.caller
    }

    /// The responder segment, to look at.
    pub fn responder(&self) -> &ReadMap {
        &self.responder
    }

    /// The control socket.
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// Writes garbage over the whole caller segment: armed word, cursors, entries and arena.
    pub fn scribble(&self, seed: u64) {
        self.scribble_range(0, self.caller.len(), seed);
    }

    /// Writes garbage over a part of the caller segment, in whole words.
    pub fn scribble_range(&self, offset: usize, len: usize, seed: u64) {
        for at in (offset..offset + len).step_by(WORD) {
            self.caller.store(at, mix(seed ^ mix(at as u64)));
        }
    }

    /// Writes garbage over all entries but keeps their publish words right, so that every one of
    /// them is looked at.
    pub fn publish_garbage(&mut self, seed: u64) {
        for _ in 0..self.welcome.geometry.entries() {
            let at = self.position;
            let word = |index: u64| mix(seed ^ mix(at * 8 + index));
            self.publish([word(1), word(2), word(3), word(4), word(5), word(6), word(7)]);
        }
    }

    /// Publishes an entry, whatever is in it.
    pub fn submit(&mut self, entry: &Entry) -> ExchangeId {
        let Entry { op, mode, flags, lane, deadline_ns, offset, target, reserved, .. } = *entry;
        let kind = u64::from(op) | u64::from(mode) << 8 | u64::from(flags) << 16;
        let bytes = u64::from(entry.head_bytes) | u64::from(entry.body_bytes) << 32;
        let lane = u64::from(lane) << 32;
        let [a, b] = reserved;
        self.publish([kind | lane, deadline_ns, offset, bytes, target, a, b])
    }

    /// Publishes the seven words of an entry as they are.
    pub fn publish(&mut self, words: [u64; 7]) -> ExchangeId {
        let position = self.position;
        let start = self.welcome.geometry.entry_offset(position);
        for (index, word) in words.into_iter().enumerate() {
            self.caller.store(start + (index + 1) * WORD, word);
        }
        self.caller.store_release(start, position + 1);
        self.position += 1;
        ExchangeId(position)
    }

    /// Writes bytes into the arena at a multiple of 64.
    pub fn write_arena(&self, offset: u64, bytes: &[u8]) {
        let offset = offset.next_multiple_of(LINE_BYTES as u64) as usize;
        self.caller.copy_in(self.welcome.geometry.arena_offset() + offset, bytes);
    }

    /// Claims to have read a lane up to here.
    pub fn set_cursor(&self, lane: LaneId, cursor: u64) {
        self.caller.store_release(self.welcome.geometry.cursor_offset(lane), cursor);
    }

    /// Claims to sleep (odd) or not (even).
    pub fn set_armed(&self, value: u64) {
        self.caller.store_release(Geometry::CALLER_ARMED, value);
    }

    /// Frees the caller segment's pages under whoever reads them.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn punch(&self) -> io::Result<()> {
        self.caller.punch(0, self.caller.len())
    }

    /// Rings the broker `times` times, for whatever reason.
    ///
    /// # Errors
    /// `WouldBlock` when the bell is saturated.
    pub fn ring(&self, times: u64) -> io::Result<()> {
        let mut bell = File::from(self.broker_bell.try_clone()?);
        (0..times).try_for_each(|_| bell.write_all(&1u64.to_ne_bytes()))
    }

    /// Fills its own bell to the brim and makes every descriptor blocking, so that whoever writes
    /// the bell waits for ever.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_traps(&self) -> io::Result<()> {
        self.set_nonblocking(true)?;
        let mut bell = File::from(self.own_bell.try_clone()?);
        match bell.write(&(u64::MAX - 1).to_ne_bytes()) {
            Ok(_) => {}
            // Someone has rung already: what is left fits one at a time or not at all.
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
        self.set_nonblocking(false)
    }

    /// Sets or clears `O_NONBLOCK` on both bells and the socket: the flag belongs to the open
    /// description, which the broker may share.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_nonblocking(&self, is_nonblocking: bool) -> io::Result<()> {
        let socket = self.control.try_clone_fd()?;
        for fd in [self.broker_bell.try_clone()?, self.own_bell.try_clone()?, socket] {
            // The one call of std that changes the flag does not ask what kind of file it is.
            UnixStream::from(fd).set_nonblocking(is_nonblocking)?;
        }
        Ok(())
    }

    /// Tries everything that would pull memory from under the broker or change what only the
    /// broker may write. Each attempt with its outcome: all must fail.
    pub fn tamper(&self) -> Vec<(&'static str, io::Result<()>)> {
        let caller_bytes = self.caller.len() as u64;
        let responder_bytes = self.responder.len() as u64;
        let write = |mut file: &File| file.write_all(&[0xff; WORD]);
        vec![
            ("truncate the caller segment", self.caller_fd.set_len(0)),
            ("cut the caller segment by a page", self.caller_fd.set_len(caller_bytes - 4096)),
            ("grow the caller segment", self.caller_fd.set_len(caller_bytes + 4096)),
            ("truncate the responder segment", self.responder_fd.set_len(0)),
            ("grow the responder segment", self.responder_fd.set_len(responder_bytes + 4096)),
            ("write the responder segment", write(&self.responder_fd)),
            ("map the responder segment writable", self.map_responder()),
            ("reopen the responder segment and write", self.reopen().and_then(|file| write(&file))),
            (
                "reopen the responder segment and cut it",
                self.reopen().and_then(|file| file.set_len(0)),
            ),
        ]
    }

    /// Sends any bytes over the control socket.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn send(&self, bytes: &[u8]) -> io::Result<()> {
        self.control.send(bytes, &[])
    }

    /// Sends bytes with a descriptor, which a broker never takes.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn send_descriptor(&self, bytes: &[u8]) -> io::Result<()> {
        self.control.send(bytes, &[self.own_bell.as_fd()])
    }

    /// Reads what the broker has to say until it hangs up, at most for `patience`.
    pub fn wait_closed(&self, patience: Duration) -> Seen {
        wait_closed(&self.control, patience)
    }

    /// For a history: what this peer did at `at_ns` and what came of it.
    pub fn report(&self, what: impl Into<String>, at_ns: u64, seen: &Seen) -> Hostility {
        Hostility {
            session: self.welcome.session,
            what: what.into(),
            at_ns,
            code: seen.goodbye.as_ref().map(|goodbye| goodbye.code as u16),
            closed_ns: seen.closed_ns,
        }
    }

    fn map_responder(&self) -> io::Result<()> {
        let fd = self.responder_fd.try_clone()?.into();
        WriteMap::attach(fd, self.responder.len()).map(drop).map_err(io::Error::other)
    }

    fn reopen(&self) -> io::Result<File> {
        let path = format!("/proc/self/fd/{}", self.responder_fd.as_raw_fd());
        OpenOptions::new().read(true).write(true).open(path)
    }
}

/// Connects, sends these datagrams and reads what comes until the broker hangs up: for what goes
/// wrong before a session exists.
///
/// # Errors
/// When nobody listens.
pub fn knock(socket: &Path, datagrams: &[&[u8]], patience: Duration) -> io::Result<Seen> {
    let control = Control::connect(socket)?;
    for datagram in datagrams {
        // A broker may hang up after the first; what it said is still to be read.
        if control.send(datagram, &[]).is_err() {
            break;
        }
    }
    Ok(wait_closed(&control, patience))
}

fn wait_closed(control: &Control, patience: Duration) -> Seen {
    let mut seen = Seen::default();
    let start = Instant::now();
    loop {
        match receive(control) {
            Ok(Received::Message(Message::Goodbye(goodbye), _)) => seen.goodbye = Some(goodbye),
            Ok(Received::Message(Message::Ring, _)) => seen.rings += 1,
            Ok(Received::Message(message, _)) => seen.messages.push(message),
            Ok(Received::HangUp) | Err(_) => {
                seen.closed_ns = Some(monotonic_ns());
                return seen;
            }
            Ok(Received::Nothing) if start.elapsed() > patience => return seen,
            Ok(Received::Nothing) => thread::sleep(POLL),
        }
    }
}

enum Received {
    HangUp,
    Message(Message, Vec<OwnedFd>),
    Nothing,
}

fn receive(control: &Control) -> io::Result<Received> {
    let mut buf = vec![0; CONTROL_BYTES_MAX];
    match control.recv(&mut buf) {
        Ok(received) if received.bytes == 0 => Ok(Received::HangUp),
        Ok(received) => {
            let message = Message::parse(&buf[..received.bytes]).map_err(io::Error::other)?;
            Ok(Received::Message(message, received.fds))
        }
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(Received::Nothing),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use ringmain_shm::{Bell, Compat, OwnSegment, PeerSegment, bell_pair, own_uid};
    use ringmain_wire::{Code, Flags, Mode, Submission};

    use super::*;

    /// As much of a broker as a handshake needs.
    struct Granted {
        control: Control,
        caller: PeerSegment,
        _responder: OwnSegment,
        _bells: (Bell, Bell),
    }

    fn attached() -> (Granted, Hostile) {
        let geometry = Geometry::new(2, 4096, 65536).unwrap();
        let (ours, theirs) = Control::pair().unwrap();
        let compat = Compat::default();
        let caller = PeerSegment::create("caller", geometry.caller_bytes(), &compat).unwrap();
        let bytes = geometry.responder_bytes();
        let responder = OwnSegment::create("responder", bytes, own_uid(), &compat).unwrap();
        let (bell, bell_fd) = bell_pair().unwrap();
        let (peer_bell, peer_bell_fd) = bell_pair().unwrap();
        let welcome = Message::Welcome(Welcome::new(3, 4, monotonic_ns(), geometry)).encode();
        let fds = [caller.fd.as_fd(), responder.fd.as_fd(), bell_fd.as_fd(), peer_bell_fd.as_fd()];
        ours.send(&welcome, &fds).unwrap();
        let hello = Hello::caller(geometry, monotonic_ns());
        let hostile = Hostile::attach_over(theirs, &hello).unwrap();
        let bells = (bell, peer_bell);
        (Granted { control: ours, caller, _responder: responder, _bells: bells }, hostile)
    }

    #[test]
    fn what_it_writes_is_seen() {
        let (granted, mut hostile) = attached();
        let geometry = hostile.welcome().geometry;
        let lane = geometry.lane(1).unwrap();
        let entry = Entry::request(lane, Mode::Events, Flags::ONCE, Some(9), 64, 5, 6);
        hostile.submit(&Entry::default());
        assert_eq!(hostile.submit(&entry), ExchangeId(1));
        let offset = geometry.entry_offset(1);
        let mut words = [0; 8];
        for (index, word) in words.iter_mut().enumerate() {
            *word = granted.caller.map.load(offset + index * WORD);
        }
        assert_eq!(words[0], 2);
        let mut bytes = [0; LINE_BYTES];
        granted.caller.map.copy_out(offset, &mut bytes);
        assert_eq!((bytes[8], bytes[9]), (1, Mode::Events as u8));
        assert!(Submission::parse(&entry, &geometry).is_ok());
        hostile.set_cursor(lane, 77);
        assert_eq!(granted.caller.map.load(geometry.cursor_offset(lane)), 77);
        hostile.scribble(1);
        assert_ne!(granted.caller.map.load(geometry.caller_bytes() - WORD), 0);
        hostile.punch().unwrap();
        assert_eq!(granted.caller.map.load(geometry.caller_bytes() - WORD), 0);
    }

    #[test]
    fn what_it_must_not_do_it_cannot() {
        let (_granted, hostile) = attached();
        for (what, outcome) in hostile.tamper() {
            assert!(outcome.is_err(), "it could {what}");
        }
    }

    #[test]
    fn its_traps_are_set() {
        let (_granted, hostile) = attached();
        hostile.ring(3).unwrap();
        hostile.set_traps().unwrap();
        hostile.set_nonblocking(true).unwrap();
        let mut bell = File::from(hostile.own_bell.try_clone().unwrap());
        let error = bell.write_all(&1u64.to_ne_bytes()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn it_reports_why_it_was_closed() {
        let (granted, hostile) = attached();
        let goodbye = Goodbye::new(Code::ViolationEntry, "op 0 does not exist");
        granted.control.send(&Message::Ring.encode(), &[]).unwrap();
        granted.control.send(&Message::Goodbye(goodbye.clone()).encode(), &[]).unwrap();
        drop(granted);
        let seen = hostile.wait_closed(Duration::from_secs(5));
        assert_eq!((seen.goodbye.as_ref(), seen.rings), (Some(&goodbye), 1));
        let report = hostile.report("nonsense", 1, &seen);
        assert_eq!(report.code, Some(Code::ViolationEntry as u16));
        assert!(report.closed_ns.is_some());
    }
}
