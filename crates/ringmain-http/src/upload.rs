//! The body of a request, whole and within its bounds: it must be whole before it is routed, and
//! before a provider is asked for anything.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use http_body::Body as _;
use ringmain_broker::face::{Charged, Exchange, Failure};
use ringmain_wire::{Code, Stage};
use tokio::time::error::Elapsed;
use tokio::time::timeout;

use crate::expand::{Expansions, Packing};
use crate::refusal::Refusal;

/// Room that a body of unknown length is given at first.
const FIRST_BYTES: u64 = 16 * 1024;
/// Bytes of a refused request that are read for the sake of its connection.
const DISCARD_BYTES_MAX: u64 = 1 << 20;

/// Bounds of a body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub bytes_max: u64,
    pub time: Duration,
}

/// A body and what it is charged, which go together.
pub(crate) struct Upload {
    pub bytes: Bytes,
    pub charged: Vec<Charged>,
}

/// Reads a body to its end and undoes its encoding.
pub(crate) async fn read(
    headers: &HeaderMap,
    body: &mut Body,
    bounds: Bounds,
    expansions: &Expansions,
    exchange: &Exchange,
) -> Result<Upload, Refusal> {
    let packing = packing(headers)?;
    let told = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if told.is_some_and(|bytes: u64| bytes > bounds.bytes_max) {
        return Err(too_large(bounds.bytes_max));
    }
    let reading = pin!(async {
        let upload = collect(body, told, bounds.bytes_max, exchange).await?;
        match packing {
            None => Ok(upload),
            Some(packing) => {
                expansions.expand(packing, upload.bytes, bounds.bytes_max, exchange).await
            }
        }
    });
    within(bounds.time, reading).await.unwrap_or_else(|_| {
        let text = format!("the body of the request was not whole within {:?}", bounds.time);
        Err(Refusal { status: 408, ..Refusal::new(Code::InvalidRequest, text) })
    })
}

/// Waits for a body within a time. That of a small request came with its head, but the server
/// library gives it only to who has asked once: a timer is set when it is still not there then.
async fn within<F: Future + Unpin>(time: Duration, mut reading: F) -> Result<F::Output, Elapsed> {
    let mut asked = false;
    let at_hand = poll_fn(|cx| match Pin::new(&mut reading).poll(cx) {
        Poll::Ready(read) => Poll::Ready(Some(read)),
        Poll::Pending if asked => Poll::Ready(None),
        Poll::Pending => {
            asked = true;
            cx.waker().wake_by_ref();
            Poll::Pending
        }
    });
    match at_hand.await {
        Some(read) => Ok(read),
        None => timeout(time, reading).await,
    }
}

/// Reads what is left of a refused request, within bounds. True: all of it was read, so the
/// connection may be used again.
pub(crate) async fn discard(body: &mut Body, bytes_max: Option<u64>, time: Duration) -> bool {
    let bytes_max = bytes_max.unwrap_or(DISCARD_BYTES_MAX);
    let reading = async {
        let mut bytes = 0;
        while bytes <= bytes_max {
            match next(body).await {
                Some(Ok(chunk)) => bytes += chunk.len() as u64,
                Some(Err(_)) => return false,
                None => return true,
            }
        }
        false
    };
    timeout(time, reading).await.unwrap_or(false)
}

async fn collect(
    body: &mut Body,
    told: Option<u64>,
    bytes_max: u64,
    exchange: &Exchange,
) -> Result<Upload, Refusal> {
    let mut room = told.unwrap_or(FIRST_BYTES);
    let mut charged = vec![charge(exchange, room)?];
    let mut first = Bytes::new();
    let mut whole = BytesMut::new();
    // Bound: the size of the body, checked with every piece; the caller bounds the time.
    while let Some(chunk) = next(body).await {
        let chunk = chunk.map_err(|_| broken())?;
        let bytes = (first.len() + whole.len() + chunk.len()) as u64;
        if bytes > bytes_max {
            return Err(too_large(bytes_max));
        }
        if bytes > room {
            let more = room.max(bytes - room);
            charged.push(charge(exchange, more)?);
            room += more;
        }
        if first.is_empty() && whole.is_empty() {
            // A body of one piece stays where it is.
            first = chunk;
            continue;
        }
        if whole.is_empty() {
            whole.reserve(told.map_or(bytes as usize * 2, |told| told as usize));
            whole.extend_from_slice(&std::mem::take(&mut first));
        }
        whole.extend_from_slice(&chunk);
    }
    let bytes = if whole.is_empty() { first } else { whole.freeze() };
    Ok(Upload { bytes, charged })
}

async fn next(body: &mut Body) -> Option<Result<Bytes, axum::Error>> {
    loop {
        let frame = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await?;
        match frame.map(http_body::Frame::into_data) {
            Ok(Ok(data)) => return Some(Ok(data)),
            Ok(Err(_trailers)) => {}
            Err(error) => return Some(Err(error)),
        }
    }
}

pub(crate) fn charge(exchange: &Exchange, bytes: u64) -> Result<Charged, Refusal> {
    exchange.charge(bytes).map_err(|failure| Refusal::of(failure, exchange.id().to_string(), 0))
}

fn packing(headers: &HeaderMap) -> Result<Option<Packing>, Refusal> {
    let mut fields = headers.get_all(CONTENT_ENCODING).iter();
    let Some(field) = fields.next() else { return Ok(None) };
    let name = field.to_str().unwrap_or_default().trim().to_ascii_lowercase();
    match (name.as_str(), fields.next()) {
        ("gzip" | "x-gzip", None) => Ok(Some(Packing::Gzip)),
        ("zstd", None) => Ok(Some(Packing::Zstd)),
        ("identity" | "", None) => Ok(None),
        _ => {
            let text = format!("bodies are taken plain, as gzip or as zstd, not as {name:?}");
            Err(Refusal::unknown_encoding(text))
        }
    }
}

fn broken() -> Refusal {
    let text = "the body of the request ended before its end";
    let failure = Failure::new(Code::InvalidRequest, Stage::Intake, text);
    Refusal { closes: true, ..Refusal::of(failure, String::new(), 0) }
}

pub(crate) fn too_large(bytes_max: u64) -> Refusal {
    let text = format!("the body is larger than the limit of {bytes_max} bytes");
    Refusal::new(Code::BodyTooLarge, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_and_stacked_encodings_are_refused() {
        let of = |names: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for name in names {
                headers.append(CONTENT_ENCODING, http::HeaderValue::from_static(name));
            }
            packing(&headers).map_err(|refusal| refusal.status)
        };
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&["GZIP"]), Ok(Some(Packing::Gzip)));
        assert_eq!(of(&["zstd"]), Ok(Some(Packing::Zstd)));
        assert_eq!(of(&["br"]), Err(415));
        assert_eq!(of(&["gzip, gzip"]), Err(415));
        assert_eq!(of(&["gzip", "gzip"]), Err(415));
    }
}
