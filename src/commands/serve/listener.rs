//! The control socket: handed over by the service manager, or bound here.

use std::fs::DirBuilder;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use listenfd::ListenFd;
use ringmain_shm::Listener;

use crate::config::{BrokerSection, SOCKET_VARIABLE, server_socket};

use super::Failed;

/// The listening socket and its path.
pub fn open(section: &BrokerSection) -> Result<(Listener, PathBuf), Failed> {
    match activated()? {
        Some((fd, path)) => Ok((Listener::from_fd(fd)?, path)),
        None => {
            let path = server_socket(section.socket.clone());
            make_folder(&path)?;
            let listener = Listener::bind(&path, section.socket_mode, section.socket_group)?;
            Ok((listener, path))
        }
    }
}

/// The first socket that the service manager handed over, if it did.
fn activated() -> Result<Option<(OwnedFd, PathBuf)>, Failed> {
    let mut handed = ListenFd::from_env();
    if handed.len() > 1 {
        return Err(format!("{} sockets were handed over, one is needed", handed.len()).into());
    }
    let hint = "Unix socket for sequential packets (ListenSequentialPacket=)";
    let fd = handed.take_custom::<OwnedFd>(0, libc::AF_UNIX, libc::SOCK_SEQPACKET, hint)?;
    let Some(fd) = fd else { return Ok(None) };
    // The standard library asks any Unix socket for its name, whatever its type.
    let socket = UnixListener::from(fd);
    let name = socket.local_addr()?;
    let path = name.as_pathname().ok_or("the socket handed over has no path")?.to_owned();
    Ok(Some((socket.into(), path)))
}

fn make_folder(socket: &Path) -> io::Result<()> {
    let Some(folder) = socket.parent() else { return Ok(()) };
    let made = DirBuilder::new().recursive(true).mode(0o755).create(folder);
    made.map_err(|error| {
        let text = format!(
            "{} cannot be made: {error}; name another place as `socket` in [broker], or in \
             ${SOCKET_VARIABLE} for broker and clients",
            folder.display()
        );
        io::Error::new(error.kind(), text)
    })
}
