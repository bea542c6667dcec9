//! Handles on connections that somebody else owns.
#![cfg(feature = "tokio")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::AsFd;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use ringmain_shm::SocketHandle;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (stream, listener.accept().await.unwrap().0)
}

fn handle(stream: &TcpStream) -> std::io::Result<SocketHandle> {
    SocketHandle::of_tcp(stream.local_addr().unwrap(), stream.peer_addr().unwrap())
}

#[tokio::test]
async fn a_cut_ends_a_write_that_the_peer_does_not_read() {
    let (mut stream, peer) = pair().await;
    let handle = handle(&stream).unwrap();
    let writing = tokio::spawn(async move { stream.write_all(&vec![0; 64 << 20]).await });
    // The kernel takes what it has room for; then the write waits.
    assert!(timeout(Duration::from_millis(50), handle.hung_up()).await.is_err());
    handle.cut();
    let failed = timeout(Duration::from_secs(10), writing).await.unwrap().unwrap();
    assert!(failed.is_err());
    timeout(Duration::from_secs(10), handle.hung_up()).await.unwrap();
    drop(handle);
    let mut peer = peer;
    let mut sink = vec![0; 1 << 20];
    // The peer reads what had arrived, and then that the connection was reset.
    let end = timeout(Duration::from_secs(10), async {
        loop {
            match peer.read(&mut sink).await {
                Ok(0) => return None,
                Ok(_) => {}
                Err(error) => return Some(error.kind()),
            }
        }
    });
    assert!(matches!(end.await.unwrap(), None | Some(ErrorKind::ConnectionReset)));
}

#[tokio::test]
async fn a_handle_tells_the_end_and_not_the_data() {
    let (mut stream, mut peer) = pair().await;
    let handle = handle(&stream).unwrap();
    peer.write_all(b"data").await.unwrap();
    stream.read_exact(&mut [0; 4]).await.unwrap();
    assert!(timeout(Duration::from_millis(20), handle.hung_up()).await.is_err());
    drop(peer);
    stream.shutdown().await.unwrap();
    timeout(Duration::from_secs(10), handle.hung_up()).await.unwrap();
}

#[tokio::test]
async fn only_the_connection_that_was_meant_is_found() {
    let (stream, _peer) = pair().await;
    let (own, peer) = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
    drop(stream);
    let gone = SocketHandle::of_tcp(own, peer).unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
    // Beyond the numbers that are tried first.
    let (stream, _peer) = pair().await;
    let holders: Vec<_> = (0..200).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
    assert!(handle(&stream).is_ok());
    drop(holders);
}

#[tokio::test]
async fn each_of_many_connections_made_at_once_is_told_from_the_others() {
    let mut pairs = Vec::new();
    for _ in 0..300 {
        pairs.push(pair().await);
    }
    // The oldest first: far from the lowest free number, so what one look saw serves the others.
    let handles: Vec<_> = pairs.iter().map(|(stream, _)| handle(stream).unwrap()).collect();
    // A number that was seen and given to another connection since is noticed.
    let (stale, _peer) = pairs.swap_remove(7);
    let ends = (stale.local_addr().unwrap(), stale.peer_addr().unwrap());
    drop((stale, _peer));
    let mut handles = handles;
    drop(handles.swap_remove(7));
    let (_young, _its_peer) = pair().await;
    assert!(SocketHandle::of_tcp(ends.0, ends.1).is_err());
    for (at, handle) in handles.iter().enumerate() {
        handle.cut();
        let (stream, _peer) = &mut pairs[at];
        assert_eq!(stream.read(&mut [0; 1]).await.unwrap_or(0), 0);
        if let Some((next, _)) = pairs.get_mut(at + 1) {
            assert_eq!(next.try_read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::WouldBlock);
        }
    }
}

#[tokio::test]
async fn a_connection_that_tells_of_much_alone_keeps_the_rest() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut peer, _) = listener.accept().unwrap();
    stream.set_nonblocking(true).unwrap();
    let ends = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
    let handle = SocketHandle::of_tcp(ends.0, ends.1).unwrap();
    let within = std::time::Instant::now() + Duration::from_secs(10);
    let soon = |is_so: &dyn Fn() -> bool| {
        while !is_so() {
            assert!(std::time::Instant::now() < within, "the watchdog bit");
            std::thread::yield_now();
        }
    };
    let has_come =
        |stream: &std::net::TcpStream, bytes| stream.peek(&mut [0; 2000]).is_ok_and(|n| n == bytes);
    let tells = |stream: &std::net::TcpStream| {
        let mut fds = [PollFd::new(stream.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).unwrap() == 1
    };
    handle.tell_from(1000);
    peer.write_all(&[0; 10]).unwrap();
    soon(&|| has_come(&stream, 10));
    assert!(!tells(&stream), "ten bytes are not much");
    peer.write_all(&[0; 990]).unwrap();
    soon(&|| has_come(&stream, 1000));
    assert!(tells(&stream));
    assert_eq!(stream.read(&mut [0; 2000]).unwrap(), 1000);
    peer.write_all(&[0; 10]).unwrap();
    soon(&|| has_come(&stream, 10));
    assert!(!tells(&stream));
    handle.tell_from(1);
    assert!(tells(&stream), "what came meanwhile is told of now");
    assert_eq!(stream.read(&mut [0; 2000]).unwrap(), 10, "and a reader finds it in any case");
    handle.tell_from(1000);
    drop(peer);
    soon(&|| tells(&stream));
}
