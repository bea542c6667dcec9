//! Where the pipeline's frames become bytes of a response. The pipeline pushes into the outlet and
//! the body of the response takes out of it; both run in one task, so the lock is never contended.

use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use memchr::memmem::Finder;
use parking_lot::Mutex;
use ringmain_broker::face::{Charged, Egress, Failure, Push};
use ringmain_wire::frame::Usage;
use ringmain_wire::{Code, Kind, ResponseHead, Stage};
use serde_json::Value;

use crate::names;
use crate::refusal::put;
use crate::shape::Shape;

/// Most bytes that wait for the server. Bound: beyond it the pipeline stops reading its provider.
pub(crate) const WAITING_BYTES_MAX: usize = 64 * 1024;

/// Memory for streams is taken in steps of this.
const STEP_BYTES: usize = 8 * 1024;

/// The name that every error object has.
static ERROR: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"error\""));

/// What the pipeline has written and the server has not taken yet.
#[derive(Debug, Default)]
pub(crate) struct Outlet {
    pub head: Option<Head>,
    waiting: BytesMut,
    /// Whether the pipeline has told of what waits: in a burst it goes on reading before it does.
    is_told: bool,
    /// The pipeline, when it waits for room.
    room: Option<Waker>,
    /// Whether the last byte written is inside of an event.
    is_mid_event: bool,
    /// The last event written.
    last: Last,
    pub usage: Option<Usage>,
    /// What it may take of memory, where its caller may leave it untaken when the exchange is
    /// over.
    pub charged: Option<Charged>,
}

/// Whether the last event written is an error of the provider's own. It is looked into when it
/// leaves or when somebody asks, for of all the events that leave together it is one.
#[derive(Clone, Copy, Debug)]
enum Last {
    /// It waits whole, from here on.
    Waits(usize),
    IsError(bool),
}

/// The head of a response.
#[derive(Debug)]
pub(crate) struct Head {
    pub response: Response<()>,
    pub is_stream: bool,
    /// Plain JSON: small, and worth nothing in parts.
    pub is_json: bool,
}

/// The pipeline's end.
pub(crate) struct OutletEgress {
    pub outlet: Arc<Mutex<Outlet>>,
    pub shape: Shape,
}

impl Default for Last {
    fn default() -> Last {
        Last::IsError(false)
    }
}

impl Outlet {
    /// Everything that waits.
    pub fn take(&mut self) -> Bytes {
        self.is_told = false;
        self.last = Last::IsError(self.is_error());
        if let Some(pipeline) = self.room.take() {
            pipeline.wake();
        }
        self.waiting.split().freeze()
    }

    /// Whether what waits is to leave now. What the pipeline has not told of, it adds to before it
    /// waits for anything.
    pub fn is_due(&self) -> bool {
        self.is_told || self.waiting.len() >= WAITING_BYTES_MAX
    }

    /// Whether whoever reads the answer finds something to do.
    pub fn has_news(&self) -> bool {
        self.is_due() && (self.head.is_some() || !self.waiting.is_empty())
    }

    pub fn waiting_bytes(&self) -> usize {
        self.waiting.len()
    }

    /// Whether a line written now stands between two events.
    pub fn is_between_events(&self) -> bool {
        !self.is_mid_event
    }

    /// Whether the caller was told by the provider itself, in a whole event.
    pub fn told_error(&self) -> bool {
        self.is_error() && !self.is_mid_event
    }

    fn is_error(&self) -> bool {
        match self.last {
            Last::Waits(at) => tells_error(&self.waiting[at..]),
            Last::IsError(is_error) => is_error,
        }
    }

    fn write_event(&mut self, payload: &[u8]) -> Push {
        let (goes_on, at) = (self.is_mid_event, self.waiting.len());
        let push = self.write(payload);
        if push != Push::Full {
            if !goes_on {
                self.last = match push {
                    Push::Written => Last::Waits(at),
                    // What is written in parts came whole the first time.
                    _ => Last::IsError(tells_error(payload)),
                };
            }
            // An event that its provider cut off has no end either.
            self.is_mid_event |= !ends_event(payload);
        }
        push
    }

    fn write(&mut self, payload: &[u8]) -> Push {
        let room = WAITING_BYTES_MAX.saturating_sub(self.waiting.len());
        if room == 0 && !payload.is_empty() {
            return Push::Full;
        }
        let taken = payload.len().min(room);
        if self.waiting.capacity() - self.waiting.len() < taken {
            // Many tokens at once: what was taken went with its memory. Plain JSON comes whole.
            let step =
                if self.head.as_ref().is_some_and(|head| head.is_json) { 0 } else { STEP_BYTES };
            self.waiting.reserve(taken.max(step));
        }
        self.waiting.extend_from_slice(&payload[..taken]);
        self.is_mid_event = taken < payload.len();
        match self.is_mid_event {
            true => Push::Partly(taken),
            false => Push::Written,
        }
    }
}

impl Egress for OutletEgress {
    fn take_head(&mut self, head: &ResponseHead<'_>) -> Result<bool, Failure> {
        self.outlet.lock().head = Some(Head::of(head, self.shape));
        Ok(true)
    }

    fn push(&mut self, kind: Kind, _choice: u16, payload: &[u8]) -> Result<Push, Failure> {
        let mut outlet = self.outlet.lock();
        match kind {
            Kind::Event => Ok(outlet.write_event(payload)),
            Kind::Body => Ok(outlet.write(payload)),
            Kind::Head => {
                let head = ResponseHead::parse(payload);
                let head = head.map_err(|error| {
                    Failure::new(Code::Internal, Stage::Relay, error.to_string())
                })?;
                outlet.head = Some(Head::of(&head, self.shape));
                Ok(Push::Written)
            }
            Kind::Usage => {
                outlet.usage = Usage::parse(payload).ok();
                Ok(Push::Written)
            }
            _ => Ok(Push::Written),
        }
    }

    fn poll_room(&mut self, cx: &mut Context<'_>, _: u64) -> Poll<Result<(), Failure>> {
        let mut outlet = self.outlet.lock();
        if outlet.waiting.len() < WAITING_BYTES_MAX {
            return Poll::Ready(Ok(()));
        }
        outlet.room = Some(cx.waker().clone());
        Poll::Pending
    }

    fn release_request(&mut self) {}

    fn flush(&mut self) {
        self.outlet.lock().is_told = true;
    }
}

fn ends_event(payload: &[u8]) -> bool {
    [&b"\n\n"[..], b"\r\n\r\n", b"\r\r", b"\n\r\n"].iter().any(|end| payload.ends_with(end))
}

/// Whether an event says in its provider's words that the answer failed.
fn tells_error(event: &[u8]) -> bool {
    // Inside of a text the quotes would be escaped, so nearly no other event is looked into.
    if ERROR.find(event).is_none() {
        return false;
    }
    let lines = event.split(|byte| matches!(byte, b'\n' | b'\r'));
    let data: Vec<&[u8]> = lines.filter_map(|line| line.strip_prefix(b"data:")).collect();
    let Ok(object) = serde_json::from_slice::<Value>(&data.join(&b'\n')) else { return false };
    let of_type = matches!(object["type"].as_str(), Some("error" | "response.failed"));
    of_type || !object["error"].is_null()
}

impl Head {
    fn of(head: &ResponseHead<'_>, shape: Shape) -> Head {
        let essence = head.content_type.split(';').next().unwrap_or_default().trim();
        let is_stream = essence.eq_ignore_ascii_case("text/event-stream");
        let is_json = essence.eq_ignore_ascii_case("application/json");
        let mut response = Response::new(());
        *response.status_mut() =
            StatusCode::from_u16(head.status).unwrap_or(StatusCode::BAD_GATEWAY);
        fill(response.headers_mut(), head, shape);
        if is_stream {
            response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        }
        Head { response, is_stream, is_json }
    }
}

fn fill(headers: &mut HeaderMap, head: &ResponseHead<'_>, shape: Shape) {
    for (name, value) in &head.headers {
        let name = HeaderName::from_bytes(name.as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(value)) {
            headers.append(name, value);
        }
    }
    if !head.content_type.is_empty() {
        put(headers, &CONTENT_TYPE, head.content_type);
    }
    let id = head.upstream_request_id.unwrap_or(head.log_id);
    put(headers, shape.id_header(), id);
    put(headers, &names::X_RINGMAIN_ID, head.log_id);
    if head.status >= 400 && head.attempt > 1 {
        // The broker has tried again already; its caller would multiply that.
        headers.insert(&names::X_SHOULD_RETRY, HeaderValue::from_static("false"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
    use std::task::Wake;

    fn egress() -> OutletEgress {
        OutletEgress { outlet: Arc::default(), shape: Shape::OpenAi }
    }

    #[test]
    fn what_does_not_fit_waits() {
        let mut egress = egress();
        let large = vec![b'x'; WAITING_BYTES_MAX - 1];
        assert_eq!(egress.push(Kind::Event, 0, &large), Ok(Push::Written));
        assert_eq!(egress.push(Kind::Event, 0, b"ab\n\n"), Ok(Push::Partly(1)));
        assert!(!egress.outlet.lock().is_between_events());
        assert_eq!(egress.push(Kind::Event, 0, b"b\n\n"), Ok(Push::Full));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(egress.poll_room(&mut cx, 1).is_pending());
        assert_eq!(egress.outlet.lock().take().len(), WAITING_BYTES_MAX);
        assert!(egress.poll_room(&mut cx, 1).is_ready());
        assert_eq!(egress.push(Kind::Event, 0, b"b\n\n"), Ok(Push::Written));
        assert!(egress.outlet.lock().is_between_events());
        assert_eq!(egress.push(Kind::Event, 0, b"data: torn"), Ok(Push::Written));
        assert!(!egress.outlet.lock().is_between_events());
    }

    #[test]
    fn what_was_not_told_of_may_be_added_to() {
        let mut egress = egress();
        assert_eq!(egress.push(Kind::Event, 0, b"a\n\n"), Ok(Push::Written));
        assert!(!egress.outlet.lock().is_due());
        egress.flush();
        assert!(egress.outlet.lock().is_due());
        assert_eq!(egress.push(Kind::Event, 0, b"b\n\n"), Ok(Push::Written));
        assert!(egress.outlet.lock().is_due(), "what was told of stays due");
        assert_eq!(egress.outlet.lock().take(), b"a\n\nb\n\n"[..]);
        let full = vec![b'x'; WAITING_BYTES_MAX];
        assert!(!egress.outlet.lock().is_due());
        assert_eq!(egress.push(Kind::Body, 0, &full), Ok(Push::Written));
        assert!(egress.outlet.lock().is_due(), "nothing can be added");
    }

    /// The pipeline is asked for more when it was woken, and not before.
    #[test]
    fn who_makes_room_wakes_the_pipeline() {
        struct Woken(AtomicBool);
        impl Wake for Woken {
            fn wake(self: Arc<Self>) {
                self.0.store(true, Relaxed);
            }
        }
        let (mut egress, woken) = (egress(), Arc::new(Woken(AtomicBool::new(false))));
        let waker = Waker::from(woken.clone());
        let full = vec![b'x'; WAITING_BYTES_MAX];
        assert_eq!(egress.push(Kind::Body, 0, &full), Ok(Push::Written));
        assert!(egress.poll_room(&mut Context::from_waker(&waker), 1).is_pending());
        assert!(!woken.0.load(Relaxed));
        egress.outlet.lock().take();
        assert!(woken.0.load(Relaxed));
    }

    #[test]
    fn an_error_of_the_provider_is_known_as_long_as_it_is_the_last_event() {
        let mut egress = egress();
        let mut told = |payload: &[u8]| {
            assert_eq!(egress.push(Kind::Event, 0, payload), Ok(Push::Written));
            let told = egress.outlet.lock().told_error();
            egress.outlet.lock().take();
            assert_eq!(egress.outlet.lock().told_error(), told, "it has left");
            told
        };
        assert!(told(b"data: {\"error\": {\"message\": \"no\"}}\n\n"));
        assert!(!told(b"data: {}\n\n"), "another one came behind it");
        assert!(!told(b"data: {\"x\": \"\\\"error\\\"\", \"error\": null}\n\n"));
        assert!(told(b"event: error\ndata: {\"type\": \"error\"}\n\n"));
        assert!(!told(b"data: {\"choices\": []}\n\n"));
        assert!(told(b"data: {\"type\":\"response.failed\",\"response\":{\"error\":{}}}\n\n"));
        assert!(!told(b"data: {\"error\": {}}"), "it was cut off");
    }

    #[test]
    fn a_head_becomes_that_of_a_response() {
        let mut egress = egress();
        let mut head = ResponseHead::default();
        (head.status, head.attempt) = (429, 2);
        (head.log_id, head.content_type) = ("rm-1", "application/json; charset=utf-8");
        head.headers = vec![("retry-after", "2"), ("x-ratelimit-limit-requests", "5")];
        let mut payload = Vec::new();
        head.encode(&mut payload);
        assert_eq!(egress.push(Kind::Head, 0, &payload), Ok(Push::Written));
        let head = egress.outlet.lock().head.take().unwrap();
        assert!(head.is_json && !head.is_stream);
        let (status, headers) = (head.response.status(), head.response.headers());
        assert_eq!(status.as_u16(), 429);
        for (name, value) in
            [("retry-after", "2"), ("x-request-id", "rm-1"), ("x-should-retry", "false")]
        {
            assert_eq!(headers[name], value);
        }
    }
}
