//! A provider that costs next to nothing: it looks for the end of a request and answers with bytes
//! that were rendered once.

use std::sync::Arc;

use memchr::memmem;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::consume::runtime;
use super::say;
use crate::error::{BenchError, Result, Tried};

/// What it answers with.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RawProvider {
    /// Tokens of a stream.
    pub tokens: u32,
}

/// Both answers, head and body.
#[derive(Debug)]
struct Answers {
    stream: Vec<u8>,
    plain: Vec<u8>,
}

// Bound: a request of the harness is a few hundred bytes.
const REQUEST_BYTES_MAX: usize = 64 * 1024;

/// Listens, prints its address, and answers until its parent ends it.
pub(crate) fn raw_provider(told: &RawProvider) -> Result<()> {
    let answers = Arc::new(Answers::new(told.tokens));
    runtime()?.block_on(async {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.tried("binding a port")?;
        say(&format!("http://{}/v1", listener.local_addr().tried("the port bound")?))?;
        // Bound: the life of the parent.
        loop {
            let (stream, _) = listener.accept().await.tried("accept")?;
            let answers = Arc::clone(&answers);
            tokio::spawn(async move {
                // A client that goes away in the middle is its own business.
                let _ = serve(stream, &answers).await;
            });
        }
    })
}

async fn serve(mut stream: TcpStream, answers: &Answers) -> Result<()> {
    stream.set_nodelay(true).tried("TCP_NODELAY")?;
    let mut buffer = Vec::with_capacity(4096);
    // Bound: the life of the connection.
    loop {
        while let Some(request) = whole_request(&buffer)? {
            let streams = memmem::find(&buffer[..request], b"\"stream\":true").is_some();
            let answer = if streams { &answers.stream } else { &answers.plain };
            stream.write_all(answer).await.tried("answering")?;
            buffer.drain(..request);
        }
        if stream.read_buf(&mut buffer).await.tried("reading a request")? == 0 {
            return Ok(());
        }
    }
}

/// Bytes of the first request, when all of it is there.
fn whole_request(buffer: &[u8]) -> Result<Option<usize>> {
    let too_long = || BenchError::NotIntact("a request of the harness is too long".to_owned());
    let Some(head) = memmem::find(buffer, b"\r\n\r\n") else {
        return if buffer.len() > REQUEST_BYTES_MAX { Err(too_long()) } else { Ok(None) };
    };
    let lines = buffer[..head].split(|&byte| byte == b'\n');
    let length = lines.filter_map(content_length).next().unwrap_or(0);
    if length > REQUEST_BYTES_MAX {
        return Err(too_long());
    }
    let whole = head + 4 + length;
    Ok((buffer.len() >= whole).then_some(whole))
}

fn content_length(line: &[u8]) -> Option<usize> {
    let colon = line.iter().position(|&byte| byte == b':')?;
    let (name, value) = line.split_at(colon);
    let value = str::from_utf8(&value[1..]).ok()?;
    name.eq_ignore_ascii_case(b"content-length").then(|| value.trim().parse().ok())?
}

impl Answers {
    fn new(tokens: u32) -> Answers {
        let mut events = String::new();
        for token in 0..tokens {
            events.push_str(&event(&format!("{{\"content\":\" token{token}\"}}"), "null"));
        }
        events.push_str(&event("{}", "\"stop\""));
        events.push_str("data: [DONE]\n\n");
        // All events in one chunk: what is measured is everything but this process.
        let stream = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\
             transfer-encoding: chunked\r\n\r\n{:x}\r\n{events}\r\n0\r\n\r\n",
            events.len()
        );
        let body = "{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion\",\"created\":1700000000,\
             \"model\":\"bench\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\
             \"content\":\"pong\"},\"finish_reason\":\"stop\"}]}";
        let plain = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        Answers { stream: stream.into_bytes(), plain: plain.into_bytes() }
    }
}

fn event(delta: &str, finish: &str) -> String {
    format!(
        "data: {{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\
         \"created\":1700000000,\"model\":\"bench\",\"choices\":[{{\"index\":0,\"delta\":{delta},\
         \"logprobs\":null,\"finish_reason\":{finish}}}]}}\n\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_whole_with_its_body() {
        let text = b"POST /v1/x HTTP/1.1\r\nhost: a\r\nContent-Length: 3\r\n\r\nabcPOST";
        assert_eq!(whole_request(text).unwrap(), Some(text.len() - 4));
        assert_eq!(whole_request(&text[..text.len() - 5]).unwrap(), None);
        assert_eq!(whole_request(&text[..20]).unwrap(), None);
        let get = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        assert_eq!(whole_request(get).unwrap(), Some(get.len()));
        assert!(whole_request(b"POST / HTTP/1.1\r\ncontent-length: 99999999\r\n\r\n").is_err());
    }
}
