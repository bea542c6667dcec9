//! A POST, from its head to the response.

use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use axum::body::Body;
use http::header::{CONTENT_TYPE, EXPECT};
use http::request::Parts;
use http::{HeaderMap, HeaderName, Request as HttpRequest, Response, Version};
use parking_lot::Mutex;
use ringmain_broker::Identity;
use ringmain_broker::face::{Ended, Exchange, Request};
use ringmain_upstream::reach;
use ringmain_wire::head::Method;
use ringmain_wire::{Code, Mode, RequestHead};

use crate::answer::{self, Manner};
use crate::ask;
use crate::config::HttpConfig;
use crate::gather::Gatherer;
use crate::gauge::Gauge;
use crate::names;
use crate::outlet::{Outlet, OutletEgress, WAITING_BYTES_MAX};
use crate::pipelines::Outcome;
use crate::refusal::Refusal;
use crate::running::Running;
use crate::server::Face;
use crate::shape::Shape;
use crate::upload::{self, Bounds, Upload};

/// Header fields that are passed on to providers: they choose versions and features, and say
/// nothing of who calls.
const FORWARDED: [&str; 7] = [
    "anthropic-beta",
    "anthropic-version",
    "http-referer",
    "openai-beta",
    "traceparent",
    "tracestate",
    "x-title",
];

/// A refused body may be longer than the limit by this factor and is still read, for then its
/// sender reads the refusal.
const DISCARD_FACTOR: u64 = 8;

/// The head of a request, owned by the work that it becomes.
struct Asked {
    route: String,
    path: String,
    content_type: Option<String>,
    idempotency_key: Option<String>,
    headers: Vec<(String, String)>,
}

/// An exchange that was accepted, with all that its pipeline takes and where its answer goes.
pub(crate) struct Job {
    face: Arc<Face>,
    exchange: Exchange,
    asked: Asked,
    upload: Upload,
    egress: OutletEgress,
}

/// Where a request came from, and what was in effect then.
#[derive(Clone)]
pub(crate) struct Origin {
    pub caller: Identity,
    pub gauge: Arc<Gauge>,
    pub config: Arc<HttpConfig>,
}

/// Answers a POST below `/v1`.
pub(crate) async fn post(
    face: Arc<Face>,
    origin: Origin,
    request: HttpRequest<Body>,
) -> Response<Body> {
    let (parts, mut body) = request.into_parts();
    let shape = Shape::of(below_v1(&parts), &parts.headers);
    match run(&face, &origin, &parts, &mut body, shape).await {
        Ok(response) => response,
        Err(mut refusal) => {
            let bytes_max = match refusal.failure.code {
                Code::BodyTooLarge => Some(DISCARD_FACTOR * origin.config.body_bytes_max),
                _ => None,
            };
            finish_reading(&face, &parts, &mut body, bytes_max, &mut refusal).await;
            match origin.gauge.fault() {
                Some(fault) => Refusal { id: refusal.id, ..Refusal::faulty(fault) },
                None => refusal,
            }
            .response(shape)
        }
    }
}

/// A connection over which a request was not read to its end cannot take another one, and must say
/// so: a caller that finds it closed without a word fails with its next request.
pub(crate) async fn finish_reading(
    face: &Face,
    parts: &Parts,
    body: &mut Body,
    bytes_max: Option<u64>,
    refusal: &mut Refusal,
) {
    if parts.version >= Version::HTTP_2 || http_body::Body::is_end_stream(body) {
        return;
    }
    // Whoever waits for leave to send its body is not given it.
    let waits = parts.headers.contains_key(EXPECT);
    let was_read = !waits && upload::discard(body, bytes_max, face.config().body).await;
    refusal.closes |= !was_read;
}

fn below_v1(parts: &Parts) -> &str {
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    path.strip_prefix("/v1").unwrap_or(path)
}

async fn run(
    face: &Arc<Face>,
    origin: &Origin,
    parts: &Parts,
    body: &mut Body,
    shape: Shape,
) -> Result<Response<Body>, Refusal> {
    let Origin { caller, gauge, config } = origin;
    let begun = Exchange::begin(face.broker(), caller.clone());
    let mut exchange =
        begun.map_err(|refused| Refusal::of(refused.failure, refused.id.to_string(), 0))?;
    let prepared = prepare(face, config, parts, body, &exchange).await;
    let (asked, upload) = prepared.map_err(|refusal| {
        exchange.fail(&refusal.failure);
        Refusal { id: exchange.id().to_string(), ..refusal }
    })?;
    let outlet = outlet(parts, &mut exchange)?;
    let stop = exchange.stop();
    let gatherer = (parts.version < Version::HTTP_11)
        .then(|| Gatherer { charger: exchange.charger(), bytes_max: config.body_bytes_max });
    let egress = OutletEgress { outlet: outlet.clone(), shape };
    let work = face.pipelines.begin(Job { face: face.clone(), exchange, asked, upload, egress });
    let running = Running::new(work, outlet, stop);
    // Each stream of an HTTP/2 connection has a task of its own, which is the server's.
    if parts.version < Version::HTTP_2 {
        gauge.hosts(&running);
    }
    let manner = Manner { shape, heartbeat: config.heartbeat, gatherer };
    answer::of(running, manner, face.watch(), gauge).await
}

/// Where the answer is written. Over HTTP/1 the exchange is over when its caller has taken all of
/// it but what fits into a socket; the streams of HTTP/2 can keep it for longer, many of them on
/// one connection.
fn outlet(parts: &Parts, exchange: &mut Exchange) -> Result<Arc<Mutex<Outlet>>, Refusal> {
    let mut outlet = Outlet::default();
    if parts.version >= Version::HTTP_2 {
        let charged = upload::charge(exchange, WAITING_BYTES_MAX as u64);
        outlet.charged = Some(charged.inspect_err(|refusal| exchange.fail(&refusal.failure))?);
    }
    Ok(Arc::new(Mutex::new(outlet)))
}

async fn prepare(
    face: &Face,
    config: &HttpConfig,
    parts: &Parts,
    body: &mut Body,
    exchange: &Exchange,
) -> Result<(Asked, Upload), Refusal> {
    let bounds = Bounds { bytes_max: config.body_bytes_max, time: config.body };
    let upload = upload::read(&parts.headers, body, bounds, &face.expansions, exchange).await?;
    let default = config.default_route.as_deref();
    let route = ask::route(&parts.headers, &upload.bytes, default).await?;
    let asked = Asked::new(route, below_v1(parts), &parts.headers, config);
    asked.judge()?;
    Ok((asked, upload))
}

impl Job {
    /// Runs the exchange to its end. What is left of it is to be settled once this is dropped.
    pub async fn run(&mut self) -> (Outcome, Ended) {
        let started = Instant::now();
        let bytes = std::mem::take(&mut self.upload.bytes);
        let request = Request::new(self.asked.head(), bytes, Mode::Events);
        let mut ended = self.exchange.run(request, &mut self.egress).await;
        self.upload.charged.clear();
        self.face.metrics.ended(started.elapsed(), self.egress.outlet.lock().usage);
        let verdict = std::mem::replace(&mut ended.verdict, Ok(Vec::new()));
        let outcome = verdict.map(drop).map_err(|failure| {
            let (id, attempts) = (self.exchange.id().to_string(), self.exchange.attempts());
            Box::new(Refusal::of(failure, id, attempts))
        });
        (outcome, ended)
    }
}

/// Reads what is left behind the end of a provider's answer. It mostly came together with the end;
/// else it is waited for beside the response.
pub(crate) fn settle(ended: Ended) {
    if !ended.has_rest() {
        return;
    }
    let mut rest = Box::pin(ended.settle());
    let polled = rest.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    if matches!(polled, Poll::Pending) {
        tokio::spawn(rest);
    }
}

/// The content type of a request. That its body is JSON, where an API takes nothing else, is often
/// forgotten: `curl -d` then calls it a form.
fn content_type<'a>(path: &str, given: Option<&'a str>) -> Option<&'a str> {
    const FORGOTTEN: &str = "application/x-www-form-urlencoded";
    let is_forgotten = given.is_some_and(|given| given.eq_ignore_ascii_case(FORGOTTEN));
    match is_forgotten && reach::goes_by_body_model(Method::Post, path) {
        true => Some("application/json"),
        false => given,
    }
}

impl Asked {
    fn new(route: String, path: &str, headers: &HeaderMap, config: &HttpConfig) -> Asked {
        let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let is_forwarded = |name: &str| {
            FORWARDED.contains(&name) || config.forward_headers.iter().any(|listed| listed == name)
        };
        let named = headers.iter().filter(|(name, _)| is_forwarded(name.as_str()));
        let named = named.filter_map(|(name, value)| {
            Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned()))
        });
        Asked {
            route,
            path: path.to_owned(),
            content_type: content_type(path, text(&CONTENT_TYPE)).map(str::to_owned),
            idempotency_key: text(&names::IDEMPOTENCY_KEY).map(str::to_owned),
            headers: named.collect(),
        }
    }

    fn head(&self) -> RequestHead<'_> {
        let mut head = RequestHead::new(&self.route, &self.path);
        head.content_type = self.content_type.as_deref();
        head.idempotency_key = self.idempotency_key.as_deref();
        let headers = self.headers.iter();
        head.headers = headers.map(|(name, value)| (name.as_str(), value.as_str())).collect();
        head
    }

    /// By the same rules as a head that came through a session.
    fn judge(&self) -> Result<(), Refusal> {
        let mut encoded = Vec::with_capacity(256);
        let judged = self.head().encode(&mut encoded);
        judged.map_err(|error| Refusal::new(Code::InvalidHead, error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forgotten_content_type_is_that_of_the_api() {
        let form = Some("application/x-www-form-urlencoded");
        assert_eq!(content_type("/chat/completions", form), Some("application/json"));
        assert_eq!(content_type("/audio/transcriptions", form), form);
        let other = Some("multipart/form-data; boundary=x");
        assert_eq!(content_type("/chat/completions", other), other);
        assert_eq!(content_type("/chat/completions", None), None);
    }
}
