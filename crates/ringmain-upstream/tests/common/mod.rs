//! What the tests of the pool share: servers that do what a test tells them, and calls.
#![allow(dead_code, reason = "each test file uses its part")]

pub mod http1;
pub mod http2;
pub mod tls;

use std::time::Duration;

use bytes::Bytes;
use ringmain_upstream::{Answer, Call, Endpoint, EndpointConfig, UpstreamError, UsageSplice};
use ringmain_wire::{Flags, Mode, RequestHead};

/// Nothing in these tests takes this long unless it hangs.
pub const WATCHDOG: Duration = Duration::from_secs(20);

/// An endpoint with what a test changes of its configuration.
pub fn endpoint(url: &str, change: impl FnOnce(&mut EndpointConfig)) -> Endpoint {
    let mut config = EndpointConfig::new("test", url);
    config.usage = UsageSplice::Off;
    change(&mut config);
    Endpoint::new(config).unwrap()
}

/// Sends a small request.
pub async fn send(endpoint: &Endpoint) -> Result<Box<Answer>, UpstreamError> {
    send_body(endpoint, Bytes::from(b"{}".to_vec())).await
}

pub async fn send_body(endpoint: &Endpoint, body: Bytes) -> Result<Box<Answer>, UpstreamError> {
    let head = RequestHead::new("tiny", "/embeddings");
    endpoint.send(Call::new(&head, body, Mode::Body, Flags::NONE)).await
}

/// Sends a small request of a uid.
pub async fn send_of(endpoint: &Endpoint, uid: u32) -> Result<Box<Answer>, UpstreamError> {
    let head = RequestHead::new("m", "/chat/completions");
    let mut call = Call::new(&head, Bytes::from_static(b"{}"), Mode::Body, Flags::NONE);
    call.uid = uid;
    endpoint.send(call).await
}

/// Reads an answer to its end.
pub async fn finish(mut answer: Box<Answer>) -> Result<usize, UpstreamError> {
    let mut bytes = 0;
    while let Some(chunk) = answer.body.chunk().await? {
        bytes += chunk.len();
    }
    Ok(bytes)
}

/// A request and its whole answer.
pub async fn call(endpoint: &Endpoint) -> Result<usize, UpstreamError> {
    finish(send(endpoint).await?).await
}

/// Fails a test that hangs instead of hanging with it.
pub async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(WATCHDOG, future).await.expect("the watchdog bit")
}

/// Looks again and again, within the watchdog.
pub async fn until(mut is_so: impl FnMut() -> bool) {
    soon(async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}
