//! What connections are made of: TLS and its sessions, Unix sockets, proxies, header fields.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use bytes::Bytes;
use common::tls::{Authority, Speaks};
use common::{call, endpoint, http1, send, send_body, soon, until};
use ringmain_upstream::{Call, ClientCert, Health, Http2, Probe, Proxy, RequestEncoding};
use ringmain_wire::{Code, Flags, Mode, RequestHead, Sent};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};

#[tokio::test]
async fn a_new_connection_goes_on_with_an_earlier_session() {
    let authority = Authority::new();
    for speaks in [Speaks::Http1, Speaks::Http2] {
        let server = authority.serve(speaks, false).await;
        let endpoint = endpoint(&server.url, |config| {
            config.ca_file = Some(authority.file("ca.pem"));
            config.idle_timeout = Duration::ZERO;
        });
        for _ in 0..4 {
            call(&endpoint).await.unwrap();
            // No connection lives long enough to be used again.
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let gauges = endpoint.gauges();
        let handshakes = (gauges.full_handshakes, gauges.resumed_handshakes);
        assert_eq!((gauges.opened, handshakes), (4, (1, 3)), "{gauges:?}");
        assert_eq!(server.resumed.load(SeqCst), 3);
    }
}

#[tokio::test]
async fn the_protocol_is_agreed_on_in_the_handshake() {
    let authority = Authority::new();
    for (speaks, places) in [(Speaks::Http1, 1), (Speaks::Http2, 100)] {
        let server = authority.serve(speaks, false).await;
        let endpoint = Arc::new(endpoint(&server.url, |config| {
            config.ca_file = Some(authority.file("ca.pem"));
        }));
        let calls: Vec<_> = (0..100)
            .map(|_| {
                let endpoint = endpoint.clone();
                tokio::spawn(async move { call(&endpoint).await })
            })
            .collect();
        for call in calls {
            soon(call).await.unwrap().unwrap();
        }
        // The first connection shows what is spoken; over HTTP/2 it serves them all.
        assert!(places == 1 || endpoint.gauges().opened == 1, "{:?}", endpoint.gauges());
        // A request that is dropped is let go.
        drop(send_body(&endpoint, Bytes::from(vec![0; 1 << 20])));
        until(|| endpoint.gauges().streams == 0).await;
    }
}

#[tokio::test]
async fn only_the_configured_authority_is_trusted() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let server = authority.serve(Speaks::Http1, false).await;
    for file in [Some(stranger.file("ca.pem")), None] {
        let endpoint = endpoint(&server.url, |config| config.ca_file = file);
        let error = send(&endpoint).await.unwrap_err();
        assert_eq!((error.code, error.sent), (Code::UpstreamTls, Sent::No), "{error}");
        assert_eq!(endpoint.gauges().opened, 0);
    }
}

#[tokio::test]
async fn a_server_that_asks_is_shown_the_certificate() {
    let authority = Authority::new();
    authority.vouch_for_client();
    let server = authority.serve(Speaks::Http1, true).await;
    let known = endpoint(&server.url, |config| {
        config.ca_file = Some(authority.file("ca.pem"));
        let (cert, key) = (authority.file("own.pem"), authority.file("own.key"));
        config.client_cert = Some(ClientCert { cert, key });
    });
    call(&known).await.unwrap();
    let nobody = endpoint(&server.url, |config| config.ca_file = Some(authority.file("ca.pem")));
    assert!(call(&nobody).await.is_err());
}

#[tokio::test]
async fn a_unix_socket_serves_like_any_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let seen = Arc::new(http1::Seen::default());
    let watch = seen.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let watch = watch.clone();
            tokio::spawn(async move {
                if watch.connections() == 0 {
                    return http1::serve(stream, http1::Manners::default(), watch).await;
                }
                // The second connection is not read from until the other side gives up.
                watch.connections.fetch_add(1, SeqCst);
                let _ = stream.ready(tokio::io::Interest::READABLE).await;
                tokio::time::sleep(Duration::from_secs(60)).await;
                let _ = stream.shutdown().await;
            });
        }
    });
    let endpoint = endpoint(&format!("unix:{}:/v1", path.display()), |_| {});
    for _ in 0..3 {
        call(&endpoint).await.unwrap();
    }
    assert_eq!((seen.connections(), endpoint.gauges().reused), (1, 2));
    // Two at once, of which the second is given up in its middle and cut.
    let held = send(&endpoint).await.unwrap();
    let body = Bytes::from(vec![b' '; 16 << 20]);
    let stuck = send_body(&endpoint, body.clone());
    assert!(tokio::time::timeout(Duration::from_millis(100), stuck).await.is_err());
    until(|| body.is_unique()).await;
    assert_eq!(endpoint.gauges().open, 1);
    common::finish(held).await.unwrap();
}

/// Tunnels and forwards, and notes the first line and the login of what it is asked.
async fn proxy() -> (String, Arc<std::sync::Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(std::sync::Mutex::new(Vec::new()));
    let notes = asked.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let notes = notes.clone();
            tokio::spawn(async move {
                let head = http1::read_request(&mut stream).await?;
                let target = head.split(' ').nth(1)?.to_owned();
                notes.lock().unwrap().push(head.clone());
                if head.starts_with("connect ") {
                    let mut server = TcpStream::connect(target).await.ok()?;
                    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.ok()?;
                    tokio::io::copy_bidirectional(&mut stream, &mut server).await.ok()?;
                    return Some(());
                }
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
                stream.write_all(answer).await.ok()?;
                stream.read(&mut [0; 1]).await.ok().map(|_| ())
            });
        }
    });
    (url, asked)
}

#[tokio::test]
async fn a_proxy_is_gone_through_with_its_login() {
    use std::os::unix::fs::PermissionsExt;
    let (url, asked) = proxy().await;
    let folder = tempfile::tempdir().unwrap();
    let login = folder.path().join("login");
    std::fs::write(&login, "user:secret\n").unwrap();
    std::fs::set_permissions(&login, std::fs::Permissions::from_mode(0o600)).unwrap();
    let through = Proxy { url, login_file: Some(login) };
    let plain = endpoint("http://provider.invalid/v1", |config| {
        config.proxy = Some(through.clone());
    });
    call(&plain).await.unwrap();
    let authority = Authority::new();
    let server = authority.serve(Speaks::Http1, false).await;
    let tunnelled = endpoint(&server.url, |config| {
        config.proxy = Some(through);
        config.ca_file = Some(authority.file("ca.pem"));
    });
    call(&tunnelled).await.unwrap();
    let asked = asked.lock().unwrap();
    assert!(asked[0].starts_with("post http://provider.invalid/v1/embeddings http/1.1\r\n"));
    assert!(asked[1].starts_with("connect 127.0.0.1:"));
    for head in asked.iter() {
        assert!(head.contains("proxy-authorization: basic dxnlcjpzzwnyzxq="), "{head}");
    }
}

/// What is refused for a login is not repeated in the refusal.
#[test]
fn a_proxy_has_its_login_in_a_file_of_its_own() {
    for url in ["http://user:secret@proxy:3128", "user:secret@proxy:3128", "http://user@proxy"] {
        let mut config = ringmain_upstream::EndpointConfig::new("e", "http://host/v1");
        config.proxy = Some(Proxy { url: url.to_owned(), login_file: None });
        let error = ringmain_upstream::Endpoint::new(config).unwrap_err();
        let text = error.to_string();
        assert_eq!(error.key(), "proxy");
        assert!(text.contains("proxy_login_file") && !text.contains("secret"), "{text}");
    }
}

#[tokio::test]
async fn a_caller_or_else_the_configuration_or_else_the_broker_says_who_asks() {
    let agent = |value: &str| vec![("User-Agent".to_owned(), value.to_owned())];
    for (configured, own, told) in [
        (Vec::new(), None, concat!("ringmain/", env!("CARGO_PKG_VERSION"))),
        (Vec::new(), Some("mine/1"), "mine/1"),
        (agent("ours/2"), Some("mine/1"), "ours/2"),
        (agent("ours/2"), None, "ours/2"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let endpoint = endpoint(&url, |config| config.headers = configured);
        let mut head = RequestHead::new("tiny", "/embeddings");
        head.headers = own.iter().map(|own| ("user-agent", *own)).collect();
        let call = Call::new(&head, Bytes::from_static(b"{}"), Mode::Body, Flags::NONE);
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let seen = http1::read_request(&mut stream).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            seen
        };
        let (seen, answer) = soon(async { tokio::join!(server, endpoint.send(call)) }).await;
        answer.unwrap();
        let told = format!("\r\nuser-agent: {told}\r\n");
        assert_eq!(seen.matches("user-agent:").count(), 1, "{seen}");
        assert!(seen.contains(&told), "{told} {seen}");
    }
}

#[tokio::test]
async fn header_fields_of_the_endpoint_go_with_every_request() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let own = endpoint(&url, |config| config.headers = vec![("X-Team".into(), "ml".into())]);
    let seen = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let head = http1::read_request(&mut stream).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        head
    });
    call(&own).await.unwrap();
    assert!(soon(seen).await.unwrap().contains("\r\nx-team: ml\r\n"));
    let mut config = ringmain_upstream::EndpointConfig::new("e", &url);
    config.headers = vec![("Host".into(), "elsewhere".into())];
    assert!(ringmain_upstream::Endpoint::new(config).unwrap_err().to_string().contains("Host"));
}

#[tokio::test]
async fn a_probe_tells_whether_the_endpoint_is_well() {
    let server = http1::Server::start(http1::Manners::default()).await;
    let probe = Probe { path: "/models".into(), interval: Duration::from_secs(60) };
    let well = Arc::new(endpoint(&server.url, |config| config.probe = Some(probe.clone())));
    assert_eq!(well.health(), Health::Unknown);
    well.start();
    well.start();
    until(|| well.health() == Health::Up).await;
    assert_eq!(server.seen.requests(), 1);
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let down = Arc::new(endpoint(&format!("http://{closed}"), |config| {
        config.http2 = Http2::Off;
        config.probe = Some(probe);
    }));
    down.start();
    until(|| down.health() == Health::Down).await;
}

/// A server that answers compressed bodies and others each with a status, and notes which.
async fn answering(
    refusal: &'static str,
    plain: &'static str,
) -> (String, Arc<std::sync::Mutex<Vec<bool>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let codings = Arc::new(std::sync::Mutex::new(Vec::new()));
    let notes = codings.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let notes = notes.clone();
            tokio::spawn(async move {
                while let Some(head) = http1::read_request(&mut stream).await {
                    let is_coded = head.contains("\r\ncontent-encoding: gzip\r\n");
                    notes.lock().unwrap().push(is_coded);
                    let status = if is_coded { refusal } else { plain };
                    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\n{{}}");
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            });
        }
    });
    (url, codings)
}

#[tokio::test]
async fn an_endpoint_that_refuses_a_coding_gets_plain_bodies() {
    for refusal in ["415 X", "400 X"] {
        let (url, codings) = answering(refusal, "200 OK").await;
        let endpoint = endpoint(&url, |config| config.request_encoding = RequestEncoding::Gzip);
        for bytes in [10_000, 10_000, 100] {
            let answer = send_body(&endpoint, Bytes::from(vec![b' '; bytes])).await.unwrap();
            assert_eq!(answer.status, 200);
            common::finish(answer).await.unwrap();
        }
        assert_eq!(*codings.lock().unwrap(), [true, false, false, false], "{refusal}");
    }
}

/// A request that is refused in any case does not switch compression off for the others, and one
/// that is to be made once is made once.
#[tokio::test]
async fn a_refusal_of_the_request_is_none_of_its_coding() {
    let (url, codings) = answering("415 X", "415 X").await;
    let endpoint = endpoint(&url, |config| config.request_encoding = RequestEncoding::Gzip);
    let head = RequestHead::new("m", "/embeddings");
    for flags in [Flags::NONE, Flags::ONCE] {
        let body = Bytes::from(vec![b' '; 10_000]);
        let answer = endpoint.send(Call::new(&head, body, Mode::Body, flags)).await.unwrap();
        assert_eq!(answer.status, 415);
        common::finish(answer).await.unwrap();
    }
    assert_eq!(*codings.lock().unwrap(), [true, false, true]);
}

/// Over HTTP/1.1; HTTP/2 has a field of its own for it.
#[tokio::test]
async fn each_request_names_its_host_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let endpoint = endpoint(&format!("http://{address}/v1"), |_| {});
    let server = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let head = http1::read_request(&mut stream).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await.unwrap();
        head
    };
    let (called, head) = soon(async { tokio::join!(call(&endpoint), server) }).await;
    called.unwrap();
    let hosts: Vec<&str> = head.lines().filter(|line| line.starts_with("host:")).collect();
    assert_eq!(hosts, [format!("host: {address}")]);
}
