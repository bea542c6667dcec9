//! `GET /metrics`: the broker's counters in the text format of Prometheus.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use parking_lot::Mutex;
use ringmain_broker::counters::Snapshot;
use ringmain_wire::Code;

use crate::paths;
use crate::server::Face;

/// What the face counts itself.
#[derive(Default)]
pub(crate) struct Metrics {
    /// Requests refused before they became an exchange. Bound: one row per code.
    refused: Mutex<BTreeMap<&'static str, u64>>,
}

impl Metrics {
    pub fn refused(&self, code: Code) {
        *self.refused.lock().entry(code.name()).or_default() += 1;
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
