//! The client against a responder over real segments and a real socket.

mod blocking;
mod fake;
#[cfg(feature = "tokio")]
mod shared;

use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;

use crate::{Client, Config, Geometry, Session};
use fake::Fake;

/// A folder for the socket, and the broker behind it.
fn broker() -> (TempDir, Fake) {
    let dir = TempDir::new().unwrap();
    let fake = Fake::start(&socket(&dir), 1);
    (dir, fake)
}

fn socket(dir: &TempDir) -> PathBuf {
    dir.path().join("broker.sock")
}

fn client(fake: &Fake) -> Client {
    Client::at(fake.path()).unwrap()
}

/// A session of one lane and a small arena.
fn narrow(fake: &Fake) -> Config {
    let mut config = Config::at(fake.path());
    config.geometry = Geometry::new(1, 4096, 64 * 1024).unwrap();
    config.attach_wait = Duration::from_secs(20);
    config
}

fn session(fake: &Fake) -> Session {
    Session::attach(Config::at(fake.path())).unwrap()
}
