//! `GET /metrics`: the broker's counters in the text format of Prometheus.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use parking_lot::Mutex;
use ringmain_broker::counters::Snapshot;
use ringmain_wire::Code;
use ringmain_wire::frame::Usage;

use crate::paths;
use crate::server::Face;

/// What the face counts itself.
#[derive(Default)]
pub(crate) struct Metrics {
    /// Requests refused before they became an exchange. Bound: one row per code.
    refused: Mutex<BTreeMap<&'static str, u64>>,
    input: Summary,
    output: Summary,
    /// Microseconds.
    duration: Summary,
}

/// A sum and how many were added.
#[derive(Default)]
struct Summary {
    sum: AtomicU64,
    count: AtomicU64,
}

impl Summary {
    fn add(&self, value: u64) {
        self.sum.fetch_add(value, Relaxed);
        self.count.fetch_add(1, Relaxed);
    }

    fn read(&self) -> (u64, u64) {
        (self.sum.load(Relaxed), self.count.load(Relaxed))
    }
}

impl Metrics {
    pub fn refused(&self, code: Code) {
        *self.refused.lock().entry(code.name()).or_default() += 1;
    }

    /// An exchange that ran is over.
    pub fn ended(&self, took: Duration, usage: Option<Usage>) {
        self.duration.add(took.as_micros() as u64);
        if let Some(usage) = usage {
            self.input.add(usage.input);
            self.output.add(usage.output);
        }
    }
}

/// Answers with everything that is counted.
pub(crate) async fn show(State(face): State<Arc<Face>>) -> Response<Body> {
    let mut page = Page::default();
    page.broker(&face.broker().snapshot());
    page.gauge("http_connections", "HTTP connections open now", face.watch().connection_count());
    let refused = face.metrics.refused.lock().clone();
    let rows: Vec<_> = refused.iter().map(|(code, count)| (*code, *count)).collect();
    page.rows("http_refused_total", "HTTP requests refused before they ran", "code", &rows);
    page.gen_ai(&face.metrics);
    let mut response = paths::text(StatusCode::OK, page.0);
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

#[derive(Default)]
struct Page(String);

impl Page {
    fn broker(&mut self, counts: &Snapshot) {
        self.gauge("sessions", "Sessions attached now", counts.sessions);
        self.counter("sessions_total", "Sessions ever attached", counts.sessions_total);
        self.gauge("exchanges", "Exchanges in flight", counts.exchanges);
        self.counter("exchanges_total", "Exchanges ever accepted", counts.exchanges_total);
        self.counter("exchanges_ended_total", "Exchanges that ended well", counts.ended);
        self.counter("exchanges_failed_total", "Exchanges that ended in an error", counts.failed);
        self.counter("content_frames_total", "Content frames delivered", counts.content_frames);
        self.counter("content_bytes_total", "Bytes of content delivered", counts.content_bytes);
        let by_code = |counts: &[(Code, u64)]| -> Vec<(&'static str, u64)> {
            counts.iter().map(|(code, count)| (code.name(), *count)).collect()
        };
        let (refusals, failures) = (by_code(&counts.refusals), by_code(&counts.failures));
        self.rows("refusals_total", "Attachments and requests refused", "code", &refusals);
        self.rows("failures_total", "Exchanges that ended in an error", "code", &failures);
        type Count = fn(&ringmain_broker::counters::EndpointRow) -> u64;
        let columns: [(&str, &str, Count); 4] = [
            ("endpoint_requests_total", "Requests sent", |row| row.requests),
            ("endpoint_answers_total", "Answers whose head arrived", |row| row.answers),
            ("endpoint_connections_opened_total", "Connections opened", |row| {
                row.connections_opened
            }),
            ("endpoint_connections_reused_total", "Answers on a connection in use", |row| {
                row.connections_reused
            }),
        ];
        for (name, help, count) in columns {
            let rows: Vec<_> =
                counts.endpoints.iter().map(|row| (row.name.as_str(), count(row))).collect();
            self.rows(name, help, "endpoint", &rows);
        }
    }

    /// What has a name in the semantic conventions of OpenTelemetry, of the HTTP face alone.
    fn gen_ai(&mut self, metrics: &Metrics) {
        let name = "gen_ai_client_token_usage";
        let _ =
            writeln!(self.0, "# HELP {name} Tokens of requests over HTTP\n# TYPE {name} summary");
        for (kind, summary) in [("input", &metrics.input), ("output", &metrics.output)] {
            let ((sum, count), label) = (summary.read(), format!("gen_ai_token_type=\"{kind}\""));
            let _ =
                writeln!(self.0, "{name}_sum{{{label}}} {sum}\n{name}_count{{{label}}} {count}");
        }
        let name = "gen_ai_server_request_duration_seconds";
        let help = "Time of requests over HTTP, from the whole request to the end of the answer";
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} summary");
        let (micros, count) = metrics.duration.read();
        let seconds = micros as f64 / 1e6;
        let _ = writeln!(self.0, "{name}_sum {seconds:.6}\n{name}_count {count}");
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.one(name, help, "gauge", value);
    }

    fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.one(name, help, "counter", value);
    }

    fn one(&mut self, name: &str, help: &str, kind: &str, value: impl Display) {
        self.head(name, help, kind);
        let _ = writeln!(self.0, "ringmain_{name} {value}");
    }

    fn rows(&mut self, name: &str, help: &str, label: &str, rows: &[(&str, u64)]) {
        self.head(name, help, "counter");
        for (value, count) in rows {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = writeln!(self.0, "ringmain_{name}{{{label}=\"{value}\"}} {count}");
        }
    }

    fn head(&mut self, name: &str, help: &str, kind: &str) {
        let _ = writeln!(self.0, "# HELP ringmain_{name} {help}\n# TYPE ringmain_{name} {kind}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_in_the_format() {
        let mut page = Page::default();
        page.counter("a_total", "A", 3);
        page.rows("b_total", "B", "endpoint", &[("x\"y", 1), ("z", 2)]);
        let text = "# HELP ringmain_a_total A\n# TYPE ringmain_a_total counter\n\
            ringmain_a_total 3\n# HELP ringmain_b_total B\n# TYPE ringmain_b_total counter\n\
            ringmain_b_total{endpoint=\"x\\\"y\"} 1\nringmain_b_total{endpoint=\"z\"} 2\n";
        assert_eq!(page.0, text);
    }
}
