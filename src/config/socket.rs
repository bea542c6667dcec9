//! Where the control socket is, for server and clients alike.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;

/// Names the socket for server and client, before any configuration.
pub const SOCKET_VARIABLE: &str = "RINGMAIN_SOCKET";

/// The places where a client looks for a broker, best first.
pub fn client_candidates() -> Vec<PathBuf> {
    candidates(env::var_os(SOCKET_VARIABLE), env::var_os("XDG_RUNTIME_DIR"))
}

/// The socket of a server: `$RINGMAIN_SOCKET`, else the configured one, else the first of the
/// usual places whose parent folder this user can make: `/run` for root, the user's own runtime
/// folder otherwise.
pub fn server_socket(configured: Option<PathBuf>) -> PathBuf {
    let named = env::var_os(SOCKET_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
    named.or(configured).unwrap_or_else(|| {
        let runtime = env::var_os("XDG_RUNTIME_DIR").filter(|_| ringmain_shm::own_uid() != 0);
        // The list always ends in the system-wide place.
        candidates(None, runtime).swap_remove(0)
    })
}

fn candidates(named: Option<OsString>, runtime: Option<OsString>) -> Vec<PathBuf> {
    if let Some(path) = named.filter(|path| !path.is_empty()) {
        return vec![PathBuf::from(path)];
    }
    let own = runtime.filter(|folder| !folder.is_empty()).map(PathBuf::from);
    let own = own.map(|folder| folder.join("ringmain/broker.sock"));
    own.into_iter().chain([PathBuf::from("/run/ringmain/broker.sock")]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_wins_and_the_system_place_comes_last() {
        let paths = |named: Option<&str>, runtime: Option<&str>| -> Vec<String> {
            let found = candidates(named.map(Into::into), runtime.map(Into::into));
            found.iter().map(|path| path.display().to_string()).collect()
        };
        let system = "/run/ringmain/broker.sock";
        assert_eq!(paths(Some("/s"), Some("/r")), ["/s"]);
        assert_eq!(paths(Some(""), Some("/r")), ["/r/ringmain/broker.sock", system]);
        assert_eq!(paths(None, None), [system]);
        assert_eq!(paths(None, Some("")), [system]);
    }
}
