//! The control socket's path: one owner, exact permissions, no stale file.
//!
//! * **One owner.** Whoever binds holds a lock on a file beside the socket (`PATH.lock`) for as
//!   long as it listens. Two starters can not both find a stale socket and each remove the other's
//!   new one: the second gets no lock. The kernel drops the lock when its holder dies, so a crash
//!   leaves nothing to repair; the lock file stays, because removing one opens the same race again.
//! * **No stale file.** Under the lock, a socket file that refuses connections has no listener and
//!   is removed. One that answers belongs to somebody who takes no lock: in use. What is no socket
//!   is never touched.
//! * **Exact permissions**, whatever the umask: the socket is made with mode 0600, gets its group
//!   while only its owner can connect, then its mode, and listens only after that.
//!   The directory belongs to the broker's user; nobody else may rename things in it.
//! * **Unlink on drop** only while the path is still the inode that was bound.
use std::fmt;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, Flock, FlockArg, OFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrLike, SockaddrStorage, UnixAddr, accept4,
    bind, connect, getsockname, getsockopt, listen, socket, sockopt,
};
use nix::sys::stat::{Mode, fchmod};

use crate::control::{Control, seqpacket};

/// Connections that wait to be accepted.
/// Bound: a full queue makes a connect wait at the peer's side, at its own cost.
const BACKLOG: i32 = 1024;

/// Socket option: may the peer attach descriptors (Linux 6.16).
const SO_PASSRIGHTS: libc::c_int = 83;

/// Why a path was not bound.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// Somebody listens there.
    #[error("{} is in use by a running broker", path.display())]
    InUse {
        /// The socket's path.
        path: PathBuf,
    },
    /// One step failed.
    #[error("{} can not be made: {step} failed: {source}", path.display())]
    Io {
        /// The path that the step was about.
        path: PathBuf,
        /// What was tried.
        step: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Something else than a socket stands there, and is left alone.
    #[error("{} exists and is not a socket", path.display())]
    NotASocket {
        /// The socket's path.
        path: PathBuf,
    },
}

/// A listening control socket. Never waits.
pub struct Listener {
    fd: OwnedFd,
    /// The path that was bound, if it was this process that bound it.
    place: Option<Place>,
}

/// A listening stream socket whose path has the same guarantees.
#[derive(Debug)]
pub struct StreamListener {
    socket: UnixListener,
    _place: Place,
}

/// A bound path and the lock on it.
#[derive(Debug)]
struct Place {
    path: PathBuf,
    device: u64,
    inode: u64,
    /// Removed on drop unless it was released.
    remove: bool,
    _lock: Flock<File>,
}

impl Listener {
    /// Binds `path` with exactly the permissions `mode` (`0o666` and less) and, if given, the group
    /// `gid`. A stale socket file is replaced.
    pub fn bind(path: &Path, mode: u32, gid: Option<u32>) -> Result<Listener, BindError> {
        let (fd, place) = bind_place(path, mode, gid, SockType::SeqPacket)?;
        Ok(Listener { fd, place: Some(place) })
    }

    /// Takes a socket that a service manager made. Its path is left alone.
    ///
    /// # Errors
    /// `InvalidInput` when it is not a listening `SOCK_SEQPACKET` socket of the Unix domain.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Listener> {
        let wrong = |text: &str| io::Error::new(io::ErrorKind::InvalidInput, text.to_owned());
        if getsockopt(&fd, sockopt::SockType)? != SockType::SeqPacket {
            return Err(wrong("passed socket is not of type SOCK_SEQPACKET"));
        }
        let name: SockaddrStorage = getsockname(fd.as_raw_fd())?;
        if name.family() != Some(AddressFamily::Unix) {
            return Err(wrong("passed socket is not a Unix socket"));
        }
        if !getsockopt(&fd, sockopt::AcceptConn)? {
            return Err(wrong("passed socket does not listen"));
        }
        fcntl(&fd, FcntlArg::F_SETFL(OFlag::O_RDWR | OFlag::O_NONBLOCK))?;
        fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        refuse_descriptors(&fd);
        Ok(Listener { fd, place: None })
    }

    /// Takes the next connection; `None` when nobody waits.
    pub fn accept(&self) -> io::Result<Option<Control>> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        match accept4(self.fd.as_raw_fd(), flags) {
            Ok(fd) => {
                // SAFETY: the kernel has just made this descriptor for us.
                let fd = unsafe { OwnedFd::from_raw_fd(fd) };
                // Inherited as a rule, but not by who came before the listener was ours.
                refuse_descriptors(&fd);
                Ok(Some(Control::from_fd(fd)))
            }
            Err(Errno::EAGAIN) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Closes the socket and leaves its file in place.
    pub fn release(mut self) {
        if let Some(place) = &mut self.place {
            place.remove = false;
        }
    }
}

impl StreamListener {
    /// Binds `path` as [`Listener::bind`] does. The socket does not block.
    ///
    /// # Errors
    /// [`BindError`] names the path and the step.
    pub fn bind(path: &Path, mode: u32, gid: Option<u32>) -> Result<StreamListener, BindError> {
        let (fd, place) = bind_place(path, mode, gid, SockType::Stream)?;
        Ok(StreamListener { socket: fd.into(), _place: place })
    }

    /// The socket. Its path is removed when this listener is dropped.
    pub fn socket(&self) -> &UnixListener {
        &self.socket
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.place.as_ref().map(|place| &place.path);
        f.debug_struct("Listener").field("fd", &self.fd).field("path", &path).finish()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // The lock is still held, so nobody of our kind replaces the file between look and unlink.
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|meta| (meta.dev(), meta.ino()) == (self.device, self.inode));
        if ours && self.remove {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Binds and listens; the path is removed again when the place is dropped.
fn bind_place(
    path: &Path,
    mode: u32,
    gid: Option<u32>,
    kind: SockType,
) -> Result<(OwnedFd, Place), BindError> {
    let failed = |step| {
        let path = path.to_path_buf();
        move |source: io::Error| BindError::Io { path, step, source }
    };
    let address = UnixAddr::new(path).map_err(|e| failed("naming the socket")(e.into()))?;
    let lock = lock(path)?;
    clear_stale(path, &address)?;
    let fd = bind_private(&address, kind).map_err(failed("binding"))?;
    let meta = fs::symlink_metadata(path).map_err(failed("looking at the socket"))?;
    let (device, inode) = (meta.dev(), meta.ino());
    // From here on a failure removes the file again.
    let place = Place { path: path.to_path_buf(), device, inode, remove: true, _lock: lock };
    if let Some(gid) = gid {
        std::os::unix::fs::lchown(path, None, Some(gid)).map_err(failed("changing the group"))?;
    }
    let permissions = Permissions::from_mode(mode & 0o777);
    fs::set_permissions(path, permissions).map_err(failed("changing the mode"))?;
    listen_on(&fd).map_err(failed("listening"))?;
    Ok((fd, place))
}

/// The lock that stands for the path. Readable and writable by its owner alone, so that nobody
/// else can hold it.
fn lock(path: &Path) -> Result<Flock<File>, BindError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let name = PathBuf::from(name);
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_CLOEXEC | libc::O_NOFOLLOW)
        .open(&name);
    let failed = |source| BindError::Io { path: name.clone(), step: "locking", source };
    let file = file.map_err(failed)?;
    // A umask that takes the owner's own bits would lock the next start out. Whoever may open the
    // file without owning it needs no change.
    let _ = file.set_permissions(Permissions::from_mode(0o600));
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((_, Errno::EAGAIN)) => Err(BindError::InUse { path: path.to_path_buf() }),
        Err((_, e)) => Err(failed(e.into())),
    }
}

/// Removes a socket file that nobody listens on. Called under the lock.
fn clear_stale(path: &Path, address: &UnixAddr) -> Result<(), BindError> {
    let failed = |step, source| BindError::Io { path: path.to_path_buf(), step, source };
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(failed("looking at the socket", e)),
        Ok(meta) if !meta.file_type().is_socket() => {
            return Err(BindError::NotASocket { path: path.to_path_buf() });
        }
        Ok(_) => {}
    }
    let probe = seqpacket(SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK)
        .map_err(|e| failed("making a socket", e.into()))?;
    match connect(probe.as_raw_fd(), address) {
        Err(Errno::ECONNREFUSED) => {
            fs::remove_file(path).map_err(|e| failed("removing the stale socket", e))
        }
        Err(Errno::ENOENT) => Ok(()),
        // A full queue, or a listener of another type, is a listener.
        Ok(()) | Err(Errno::EAGAIN | Errno::EPROTOTYPE) => {
            Err(BindError::InUse { path: path.to_path_buf() })
        }
        Err(e) => Err(failed("probing the socket", e.into())),
    }
}

/// Binds with mode 0600 whatever the umask: the kernel takes the mode of the unbound socket, less
/// the umask, for the file that it makes.
fn bind_private(address: &UnixAddr, kind: SockType) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, kind, flags, None)?;
    fchmod(&fd, Mode::S_IRUSR | Mode::S_IWUSR)?;
    bind(fd.as_raw_fd(), address)?;
    Ok(fd)
}

fn listen_on(fd: &OwnedFd) -> io::Result<()> {
    refuse_descriptors(fd);
    listen(fd, Backlog::new(BACKLOG)?)?;
    Ok(())
}

/// Tells the kernel to refuse descriptors at the sender, where it can (Linux 6.16); accepted
/// connections inherit it. A descriptor that never arrives need not be closed, and closing the last
/// one of a peer's choice can wait: for a lingering socket, for a file system of the peer's own.
/// Older kernels deliver them; then the broker closes them and ends the connection.
fn refuse_descriptors(fd: &OwnedFd) {
    let no: libc::c_int = 0;
    // SAFETY: the kernel reads one integer of the length given.
    unsafe {
        let len = size_of_val(&no) as libc::socklen_t;
        let value = (&raw const no).cast();
        libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, SO_PASSRIGHTS, value, len);
    }
}
