//! Handles on Unix connections that somebody else owns. One test alone in its process: whoever
//! makes such a connection must be the only one.
#![cfg(feature = "tokio")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs::File;
use std::path::Path;

use ringmain_shm::{SocketHandle, UnixConnections};
use tokio::io::AsyncReadExt;
use tokio::net::{UnixListener, UnixStream};

#[tokio::test]
async fn the_one_new_unix_connection_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let before = UnixConnections::now().unwrap();
    let old = UnixStream::connect(&path).await.unwrap();
    let old_handle = SocketHandle::of_unix_since(&before).unwrap();
    let before = UnixConnections::now().unwrap();
    assert!(SocketHandle::of_unix_since(&before).is_err());
    let mut stream = UnixStream::connect(&path).await.unwrap();
    let handle = SocketHandle::of_unix_since(&before).unwrap();
    let _accepted = (listener.accept().await.unwrap(), listener.accept().await.unwrap());
    handle.cut();
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
    let second = UnixStream::connect(&path).await.unwrap();
    assert!(SocketHandle::of_unix_since(&before).is_err(), "two are new");
    drop((stream, second, handle));
    it_is_found_among_many(&path, &listener).await;
    it_is_found_where_nobody_expects_it(&path).await;
    drop((old, old_handle));
}

/// However many stand already, and wherever: it is not looked for among them.
async fn it_is_found_among_many(path: &Path, listener: &UnixListener) {
    let mut standing = Vec::new();
    for _ in 0..400 {
        standing.push((UnixStream::connect(path).await.unwrap(), listener.accept().await.unwrap()));
    }
    // Numbers are free in the midst of them.
    standing.drain(100..103);
    for _ in 0..20 {
        let before = UnixConnections::now().unwrap();
        let mut stream = UnixStream::connect(path).await.unwrap();
        let handle = SocketHandle::of_unix_since(&before).unwrap();
        handle.cut();
        assert_eq!(stream.read(&mut [0; 1]).await.unwrap_or(0), 0, "it is the new one");
        standing.push((stream, listener.accept().await.unwrap()));
    }
}

/// Others closed what they had right before: it stands far below.
async fn it_is_found_where_nobody_expects_it(path: &Path) {
    let mut files: Vec<_> = (0..200).map(|_| File::open("/dev/null").unwrap()).collect();
    let before = UnixConnections::now().unwrap();
    files.drain(..50);
    let mut stream = UnixStream::connect(path).await.unwrap();
    let handle = SocketHandle::of_unix_since(&before).unwrap();
    handle.cut();
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap_or(0), 0, "it is the new one");
    // Another one, also without a handle, and nothing tells them apart.
    let _unheld = UnixStream::connect(path).await.unwrap();
    drop(handle);
    assert!(SocketHandle::of_unix_since(&before).is_err());
}
