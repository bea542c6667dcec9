//! A client that writes and reads its bytes itself, so that a test sees what stands on the wire.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::common::WATCHDOG;

/// One connection.
pub struct Connection {
    stream: Stream,
    /// Read and not taken.
    seen: Vec<u8>,
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A response, as far as it came.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Whether its framing says that it is whole.
    pub is_whole: bool,
}

impl Connection {
    pub fn tcp(addr: SocketAddr) -> Connection {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(WATCHDOG)).unwrap();
        stream.set_nodelay(true).unwrap();
        Connection { stream: Stream::Tcp(stream), seen: Vec::new() }
    }

    pub fn unix(path: &Path) -> Connection {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(WATCHDOG)).unwrap();
        Connection { stream: Stream::Unix(stream), seen: Vec::new() }
    }

    /// Sends bytes; what the other end does not take any more is no failure of its own.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = match &mut self.stream {
            Stream::Tcp(stream) => stream.write_all(bytes),
            Stream::Unix(stream) => stream.write_all(bytes),
        };
    }

    /// Sends a request as written and reads the response.
    pub fn ask(&mut self, request: &str) -> Reply {
        self.send(request.as_bytes());
        self.reply()
    }

    pub fn post(&mut self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        self.send_post(path, headers, body);
        self.reply()
    }

    pub fn send_post(&mut self, path: &str, headers: &[(&str, &str)], body: &[u8]) {
        let mut head = format!("POST {path} HTTP/1.1\r\ncontent-length: {}\r\n", body.len());
        for (name, value) in [("host", "localhost"), ("content-type", "application/json")] {
            if !headers.iter().any(|(given, _)| *given == name) {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        self.send(&[head.as_bytes(), b"\r\n", body].concat());
    }

    /// Reads a whole response, or what comes of it before the connection ends.
    pub fn reply(&mut self) -> Reply {
        let mut reply = self.head();
        if reply.status == 0 {
            return reply;
        }
        if reply.header("transfer-encoding") == Some("chunked") {
            self.read_chunks(&mut reply);
        } else {
            let bytes = reply.header("content-length").map_or(0, |text| text.parse().unwrap());
            while self.seen.len() < bytes && self.read_more() {}
            reply.is_whole = self.seen.len() >= bytes;
            reply.body = self.seen.drain(..bytes.min(self.seen.len())).collect();
        }
        reply
    }

    /// Reads the head of a response; status 0 when the connection ended before it.
    pub fn head(&mut self) -> Reply {
        let mut reply = Reply::default();
        let end = loop {
            match self.seen.windows(4).position(|window| window == b"\r\n\r\n") {
                Some(at) => break at,
                None if self.read_more() => {}
                None => return reply,
            }
        };
        let head: Vec<u8> = self.seen.drain(..end + 4).collect();
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.trim_end().lines();
        reply.status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        reply.headers = lines
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        reply
    }

    /// Reads until this many bytes of the body have come, chunk borders and all.
    pub fn read_at_least(&mut self, bytes: usize) {
        while self.seen.len() < bytes && self.read_more() {}
    }

    /// Everything until the connection ends, chunk borders and all.
    pub fn rest(&mut self) -> Vec<u8> {
        while self.read_more() {}
        std::mem::take(&mut self.seen)
    }

    /// The same, and whether that end was a good one and no reset.
    pub fn rest_and_end(&mut self) -> (Vec<u8>, bool) {
        let ended_well = loop {
            match self.read_some() {
                Ok(0) => break true,
                Ok(_) => {}
                Err(_) => break false,
            }
        };
        (std::mem::take(&mut self.seen), ended_well)
    }

    /// Whether the other end has closed, within this time.
    pub fn is_closed_within(&mut self, time: Duration) -> bool {
        self.limit(time);
        let closed = loop {
            match self.read_some() {
                Ok(0) => break true,
                Ok(_) => {}
                Err(kind) => break !matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut),
            }
        };
        self.limit(WATCHDOG);
        closed
    }

    fn limit(&self, time: Duration) {
        match &self.stream {
            Stream::Tcp(stream) => stream.set_read_timeout(Some(time)).unwrap(),
            Stream::Unix(stream) => stream.set_read_timeout(Some(time)).unwrap(),
        }
    }

    fn read_chunks(&mut self, reply: &mut Reply) {
        loop {
            let Some(line) = self.line() else { return };
            let bytes = usize::from_str_radix(&line, 16).unwrap();
            while self.seen.len() < bytes + 2 {
                if !self.read_more() {
                    let came = bytes.min(self.seen.len());
                    reply.body.extend(self.seen.drain(..came));
                    return;
                }
            }
            reply.body.extend_from_slice(&self.seen[..bytes]);
            self.seen.drain(..bytes + 2);
            if bytes == 0 {
                reply.is_whole = true;
                return;
            }
        }
    }

    fn line(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.seen.windows(2).position(|window| window == b"\r\n") {
                let line: Vec<u8> = self.seen.drain(..at + 2).collect();
                return Some(String::from_utf8(line[..at].to_vec()).unwrap());
            }
            if !self.read_more() {
                return None;
            }
        }
    }

    fn read_more(&mut self) -> bool {
        matches!(self.read_some(), Ok(bytes) if bytes > 0)
    }

    fn read_some(&mut self) -> Result<usize, ErrorKind> {
        let mut buffer = [0; 65536];
        let read = match &mut self.stream {
            Stream::Tcp(stream) => stream.read(&mut buffer),
            Stream::Unix(stream) => stream.read(&mut buffer),
        };
        let bytes = read.map_err(|error| error.kind())?;
        self.seen.extend_from_slice(&buffer[..bytes]);
        Ok(bytes)
    }
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{self:?}"))
    }

    /// What the data lines of an event stream say, comments left out.
    pub fn data(&self) -> Vec<&str> {
        self.text().lines().filter_map(|line| line.strip_prefix("data: ")).collect()
    }

    /// The `code` of an error object.
    pub fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
    }
}
