//! A second handle on a connection that a library owns and gives no handle to.
//!
//! What is under way on it is flushed before it closes, by the library or by the kernel, so a server
//! that reads nothing keeps an abandoned request, and over HTTP/2 the memory that was lent to it, for
//! as long as the kernel is patient.
//! Only the socket itself can be cut. It is found among the descriptors of this process by what
//! the kernel says of it, duplicated, and judged again on the duplicate: a number that was given
//! to another file in between is noticed, not cut.
//!
//! A duplicate keeps its connection open after the library has closed its own. Whoever holds a
//! handle drops it when the connection is over; [`SocketHandle::hung_up`] tells when.
use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{LazyLock, Mutex, PoisonError};

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{
    AddressFamily, Shutdown, SockaddrLike, SockaddrStorage, UnixAddr, getpeername, getsockname,
    setsockopt, shutdown, sockopt,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Numbers that are tried before all descriptors are: a new descriptor gets the lowest free
/// number, so that of a young one is near the lowest that is free now.
const NEAR: RawFd = 64;

/// The two ends of a TCP connection: its own address and that of its peer.
type Ends = (SocketAddr, SocketAddr);

/// Where the last look at all descriptors saw TCP connections that nobody has asked for since.
/// Thousands of connections that are made at once would else cost thousands of such looks.
/// Bound: the descriptor limit, since each look begins anew. An entry may be out of date: it is a
/// guess, and what it names is judged like any other.
static SEEN: LazyLock<Mutex<HashMap<Ends, RawFd>>> = LazyLock::new(Mutex::default);

/// The Unix stream connections that there are handles on. Bound: one for each handle.
static HELD: LazyLock<Mutex<HashSet<u64>>> = LazyLock::new(Mutex::default);

/// A duplicate of the descriptor of a connection.
#[derive(Debug)]
pub struct SocketHandle {
    inner: AsyncFd<OwnedFd>,
    /// Over a Unix socket. Dropped with the handle, it takes the connection off [`HELD`].
    _claim: Option<Claim>,
}

/// A connection, by its number, stands among those that there are handles on until this is dropped.
#[derive(Debug)]
struct Claim(u64);

/// Numbers above the lowest free one that a new descriptor may get, if others take those below it
/// at the same time.
const AHEAD: RawFd = 16;

/// Where a new descriptor may come to stand, and the Unix stream connections of this process that
/// stood there at one moment.
///
/// It gets the lowest free number, so it is looked for near that alone, and not among thousands.
#[derive(Debug)]
pub struct UnixConnections {
    places: Range<RawFd>,
    known: HashSet<u64>,
}

impl SocketHandle {
    /// The TCP connection between these two addresses.
    ///
    /// # Errors
    /// This process has no such connection, or the descriptor limit is reached.
    ///
    /// # Panics
    /// Outside a tokio runtime, or in one without its I/O driver.
    pub fn of_tcp(local: SocketAddr, remote: SocketAddr) -> io::Result<SocketHandle> {
        let wanted = (plain(local), plain(remote));
        let is_it = |fd| tcp_ends(fd) == Some(wanted);
        let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(handle) = seen.remove(&wanted).and_then(|fd| SocketHandle::of(fd, is_it).ok()) {
            return Ok(handle);
        }
        if let Some(fd) = near()?.find(|fd| is_it(*fd)) {
            return SocketHandle::of(fd, is_it);
        }
        // Under the lock: whoever waits for it finds what this look sees.
        *seen = all()?.into_iter().filter_map(|fd| Some((tcp_ends(fd)?, fd))).collect();
        SocketHandle::of(seen.remove(&wanted).ok_or_else(absent)?, is_it)
    }

    /// The only Unix stream connection that this process has made since `before`, which was right
    /// before. Such a connection has no name of its own, so whoever connects must be alone in
    /// connecting.
    ///
    /// # Errors
    /// There is none or more than one, or the descriptor limit is reached.
    ///
    /// # Panics
    /// As [`SocketHandle::of_tcp`].
    pub fn of_unix_since(before: &UnixConnections) -> io::Result<SocketHandle> {
        let near: Vec<_> = before.places.clone().filter_map(unix_connection).collect();
        let mut new = near.into_iter().filter(|(_, cookie)| !before.known.contains(cookie));
        let (fd, cookie) = match (new.next(), new.next()) {
            (Some(one), None) => one,
            (Some(_), Some(_)) => return Err(several()),
            // Many others were opened or closed at the same time, and it stands elsewhere.
            (None, _) => only_unheld()?,
        };
        let mut handle = SocketHandle::of(fd, |fd| unix_cookie(fd) == Some(cookie))?;
        handle._claim = Some(Claim::on(cookie));
        Ok(handle)
    }

    fn of(fd: RawFd, is_it: impl Fn(RawFd) -> bool) -> io::Result<SocketHandle> {
        // SAFETY: a system call on plain integers. Whatever the number names by now, the
        // duplicate is judged below before anything is done to it.
        let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) };
        if copy < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor for us.
        let copy = unsafe { OwnedFd::from_raw_fd(copy) };
        if !is_it(copy.as_raw_fd()) {
            return Err(absent());
        }
        // That both directions are shut down is told whatever is asked for. What comes in concerns
        // whoever asks for reading or for urgent data, so that each token would cost one more look
        // at the socket. Room to write is told to one who found none, and over a Unix socket when
        // the server reads a request.
        // SAFETY: an `OwnedFd` names one open descriptor, the same at every call, until it is
        // dropped; it is private to the `AsyncFd`, which deregisters before it drops it.
        let inner = unsafe { AsyncFd::register_with_interest(copy, Interest::WRITABLE)? };
        Ok(SocketHandle { inner, _claim: None })
    }

    /// Has the kernel tell of what comes only when so many bytes are there, or the end; from the
    /// first byte on with 1 (`SO_RCVLOWAT`, tcp(7)). Whoever reads before finds what there is. A
    /// Unix socket tells of everything.
    pub fn tell_from(&self, bytes: u16) {
        let (value, fd) = (libc::c_int::from(bytes), self.inner.get_ref().as_raw_fd());
        // SAFETY: the descriptor is open as long as its owner; the kernel reads one integer, whose
        // size it is told. That it may refuse changes nothing: then it tells of everything.
        unsafe {
            let value = std::ptr::from_ref(&value).cast();
            let len = size_of::<libc::c_int>() as libc::socklen_t;
            libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_RCVLOWAT, value, len);
        }
    }

    /// Cuts the connection: whoever waits to write or read finds it broken at once, and what the
    /// kernel still holds of it is thrown away when the last descriptor is closed.
    pub fn cut(&self) {
        let fd = self.inner.get_ref();
        // A connection that is gone already needs no cutting, so no error is of interest.
        let _ = setsockopt(fd, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 });
        let _ = shutdown(fd.as_raw_fd(), Shutdown::Both);
    }

    /// Waits until both directions are shut down, by whichever side, or the connection broke.
    /// Dropping the future loses nothing. It costs no wake-up while data flows.
    pub async fn hung_up(&self) {
        // Bound: each round but the first and the last comes with room to write that was waited
        // for.
        loop {
            match self.inner.ready(Interest::WRITABLE).await {
                Ok(ready) if ready.ready().is_write_closed() => return,
                Ok(mut ready) => ready.clear_ready(),
                Err(_) => return,
            }
        }
    }
}

impl UnixConnections {
    /// Those that stand now.
    ///
    /// # Errors
    /// The descriptor limit is reached.
    pub fn now() -> io::Result<UnixConnections> {
        let free = lowest_free()?;
        let places = (free - NEAR).max(0)..free.saturating_add(AHEAD);
        let known = places.clone().filter_map(unix_cookie).collect();
        Ok(UnixConnections { places, known })
    }
}

impl Claim {
    fn on(cookie: u64) -> Claim {
        HELD.lock().unwrap_or_else(PoisonError::into_inner).insert(cookie);
        Claim(cookie)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        HELD.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }
}

/// The only Unix stream connection of this process that there is no handle on.
fn only_unheld() -> io::Result<(RawFd, u64)> {
    let all: Vec<_> = all()?.into_iter().filter_map(unix_connection).collect();
    let held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
    let mut unheld = all.into_iter().filter(|(_, cookie)| !held.contains(cookie));
    match (unheld.next(), unheld.next()) {
        (Some(one), None) => Ok(one),
        (None, _) => Err(absent()),
        _ => Err(several()),
    }
}

fn unix_connection(fd: RawFd) -> Option<(RawFd, u64)> {
    Some((fd, unix_cookie(fd)?))
}

fn several() -> io::Error {
    io::Error::other("several connections were made at the same time")
}

fn absent() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "no descriptor of this process is that connection")
}

/// The numbers below the lowest that is free, from the highest on.
fn near() -> io::Result<impl Iterator<Item = RawFd>> {
    Ok((0..lowest_free()?).rev().take(NEAR as usize))
}

/// The number that the next descriptor gets.
fn lowest_free() -> io::Result<RawFd> {
    Ok(EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?.as_fd().as_raw_fd())
}

/// All descriptors of this process. Bound: the descriptor limit.
fn all() -> io::Result<Vec<RawFd>> {
    let names = std::fs::read_dir("/proc/self/fd")?;
    let number = |name: io::Result<std::fs::DirEntry>| {
        name.ok().and_then(|entry| entry.file_name().to_str()?.parse().ok())
    };
    Ok(names.filter_map(number).collect())
}

/// The ends of the TCP connection that a descriptor names, if it names one.
fn tcp_ends(fd: RawFd) -> Option<Ends> {
    Some((tcp_address(getsockname(fd))?, tcp_address(getpeername(fd))?))
}

fn tcp_address(address: Result<SockaddrStorage, Errno>) -> Option<SocketAddr> {
    let address = address.ok()?;
    let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::V4((*v4).into()));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| plain(SocketAddr::V6((*v6).into()))))
}

/// Without the flow label and the scope, which do not tell connections apart.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip(), address.port())
}

/// The number that the kernel gives this socket and no other, if it is a Unix stream connection
/// that this process made: it has no name, and its peer has one.
fn unix_cookie(fd: RawFd) -> Option<u64> {
    let own: UnixAddr = getsockname(fd).ok()?;
    if own.family() != Some(AddressFamily::Unix) || own.path().is_some() || is_abstract(&own) {
        return None;
    }
    let peer: UnixAddr = getpeername(fd).ok()?;
    if peer.path().is_none() && !is_abstract(&peer) {
        return None;
    }
    cookie(fd).ok()
}

fn is_abstract(address: &UnixAddr) -> bool {
    address.as_abstract().is_some()
}

fn cookie(fd: RawFd) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut bytes = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes at most eight bytes to a valid u64, and the length to a valid
    // place; the descriptor is a plain integer to it.
    let done = unsafe {
        let out = (&raw mut cookie).cast();
        libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_COOKIE, out, &raw mut bytes)
    };
    match done {
        0 => Ok(cookie),
        _ => Err(io::Error::last_os_error()),
    }
}
