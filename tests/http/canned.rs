//! A provider that answers with bytes which a test has written.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

/// Starts it; what it answers with is made from the body of the request. It ends with the test's
/// process.
pub fn provider(answer: impl Fn(&[u8]) -> Vec<u8> + Clone + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, answer) = (stream.unwrap(), answer.clone());
            thread::spawn(move || serve(stream, answer));
        }
    });
    addr
}

/// One request, one answer, and the end.
fn serve(stream: TcpStream, answer: impl Fn(&[u8]) -> Vec<u8>) {
    let mut stream = BufReader::new(stream);
    let mut length = 0;
    for line in stream.by_ref().lines().map_while(Result::ok).take_while(|line| !line.is_empty()) {
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length: ") {
            length = value.parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    if stream.read_exact(&mut body).is_ok() {
        // A broker that has had enough hangs up.
        let _ = stream.get_mut().write_all(&answer(&body));
    }
}

/// A whole answer with a length.
pub fn answer(status: u64, content_type: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 {status} X\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}
