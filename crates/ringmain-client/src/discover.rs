//! Where the broker's socket is.

use std::env;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use ringmain_wire::{Code, Stage};

use crate::error::Error;

/// Variable that names the socket for server and client alike.
pub const SOCKET_VARIABLE: &str = "RINGMAIN_SOCKET";

const SYSTEM_SOCKET: &str = "/run/ringmain/broker.sock";

/// Paths to try, in order. A path that was given by hand is the only one: falling back from it
/// would reach a broker that nobody asked for.
pub(crate) fn candidates(given: Option<&Path>) -> Vec<PathBuf> {
    let variable = env::var_os(SOCKET_VARIABLE);
    let runtime = env::var_os("XDG_RUNTIME_DIR");
    candidates_from(given, variable.as_deref(), runtime.as_deref())
}

fn candidates_from(
    given: Option<&Path>,
    variable: Option<&OsStr>,
    runtime: Option<&OsStr>,
) -> Vec<PathBuf> {
    if let Some(path) = given {
        return vec![path.to_owned()];
    }
    if let Some(path) = variable.filter(|path| !path.is_empty()) {
        return vec![path.into()];
    }
    let user = runtime.filter(|dir| !dir.is_empty());
    let user = user.map(|dir| Path::new(dir).join("ringmain/broker.sock"));
    user.into_iter().chain([SYSTEM_SOCKET.into()]).collect()
}

/// The error of a search that found no broker: names every path and what was wrong with it.
pub(crate) fn absent(tried: &[(PathBuf, io::Error)]) -> Error {
    let mut text = String::from("no broker answers: tried ");
    for (at, (path, error)) in tried.iter().enumerate() {
        let comma = if at == 0 { "" } else { ", " };
        // Writing to a String cannot fail.
        let _ = write!(text, "{comma}{} ({error})", path.display());
    }
    let _ = write!(text, "; start `ringmain serve` or set {SOCKET_VARIABLE}");
    Error::new(Code::BrokerAbsent, Stage::Attach, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_wish_wins() {
        let (given, variable) = (Path::new("/a"), OsStr::new("/b"));
        let runtime = OsStr::new("/run/user/7");
        let paths = candidates_from(Some(given), Some(variable), Some(runtime));
        assert_eq!(paths, [PathBuf::from("/a")]);
        let paths = candidates_from(None, Some(variable), Some(runtime));
        assert_eq!(paths, [PathBuf::from("/b")]);
        let paths = candidates_from(None, Some(OsStr::new("")), Some(runtime));
        let user = PathBuf::from("/run/user/7/ringmain/broker.sock");
        assert_eq!(paths, [user, PathBuf::from(SYSTEM_SOCKET)]);
        assert_eq!(candidates_from(None, None, None), [PathBuf::from(SYSTEM_SOCKET)]);
    }

    #[test]
    fn the_error_names_every_path() {
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        let error = absent(&[("/x".into(), missing()), ("/y".into(), missing())]);
        let text = error.to_string();
        assert!(text.contains("/x (") && text.contains("/y (") && text.contains("RINGMAIN_SOCKET"));
        assert!(error.is_retryable());
    }
}
