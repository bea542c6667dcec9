//! What an error on the way to an answer means, and what it proves about the request.

use std::error::Error;
use std::io;

use ringmain_wire::head::cut;
use ringmain_wire::{Code, Sent, Stage};

use crate::call::Progress;
use crate::error::UpstreamError;
use crate::http1;
use crate::pool::{Broken, Cause, LinkError};

/// An error before the head of an answer.
///
/// `sent` is no where nothing can have reached the provider's application: there was no
/// connection; the connection died before the request was written; or the provider said that it
/// did not process the stream (REFUSED_STREAM, or a GOAWAY, which is given only to streams above
/// the last one that the provider took).
pub(crate) fn of_send(broken: &Broken, endpoint: &str, progress: &Progress) -> UpstreamError {
    match broken {
        Broken::Unconnected(error) => of_connect(error, endpoint),
        Broken::Unspoken(error) => {
            let text =
                format!("endpoint {endpoint}: the connection broke at once: {}", root(error));
            UpstreamError::new(Code::UpstreamConnect, Stage::Connect, Sent::No, text)
        }
        Broken::Spent => {
            let text = format!(
                "endpoint {endpoint}: the connection was closed before the request was sent"
            );
            UpstreamError::new(Code::UpstreamReset, Stage::Send, Sent::No, text)
        }
        Broken::Unanswered(error) => of_request(error, endpoint, progress),
    }
}

fn of_connect(error: &reqwest::Error, endpoint: &str) -> UpstreamError {
    // Its own words name the address; the innermost ones do not.
    let told = root(error);
    let (code, what) = match () {
        () if error.is_builder() => (Code::Internal, "its HTTP client cannot be made"),
        () if error.is_dns() => (Code::UpstreamDns, "its name could not be resolved"),
        () if error.is_timeout() => (Code::ConnectTimeout, "connecting"),
        () if is_tls(error) => (Code::UpstreamTls, "the TLS handshake failed"),
        () => (Code::UpstreamConnect, "no connection could be made"),
    };
    let text = format!("endpoint {endpoint}: {what}: {told}");
    UpstreamError::new(code, Stage::Connect, Sent::No, text)
}

fn of_request(error: &LinkError, endpoint: &str, progress: &Progress) -> UpstreamError {
    let told = root(error);
    let new = |code, stage, sent, what: &str| {
        UpstreamError::new(code, stage, sent, format!("endpoint {endpoint}: {what}: {told}"))
    };
    let stage = progress.stage().max(Stage::Send);
    if is_unprocessed(error) {
        return new(Code::UpstreamRefused, stage, Sent::No, "it refused the request");
    }
    if let LinkError::Http1(http1::Error::Head(_)) = error {
        let what = "the head of the answer is not valid";
        return new(Code::UpstreamProtocol, stage, Sent::Yes, what);
    }
    new(Code::UpstreamReset, stage, Sent::Maybe, "the connection broke before the answer")
}

/// An error inside the body of an answer.
pub(crate) fn of_body(error: &LinkError) -> UpstreamError {
    let told = root(error);
    let io = find::<io::Error>(error).map(io::Error::kind);
    let (code, what) = match (error, io) {
        // Over TLS an end without a farewell is an I/O error.
        (LinkError::Http1(http1::Error::Cut), _) | (_, Some(io::ErrorKind::UnexpectedEof)) => {
            (Code::UpstreamTruncated, "the body of the answer was cut short")
        }
        // As is a record that is none.
        (LinkError::Http1(http1::Error::Chunk(_)), _)
        | (_, Some(io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData)) => {
            (Code::UpstreamProtocol, "the framing of the answer is not valid")
        }
        _ => (Code::UpstreamReset, "the connection broke within the answer"),
    };
    UpstreamError::answered(code, format!("{what}: {told}"))
}

/// Whether the provider refused one stream more than it takes at once.
pub(crate) fn is_refused_stream(broken: &Broken) -> bool {
    let Broken::Unanswered(error) = broken else { return false };
    find::<h2::Error>(error).is_some_and(|h2| {
        h2.is_remote() && h2.is_reset() && h2.reason() == Some(h2::Reason::REFUSED_STREAM)
    })
}

/// What an error says of the connection; `None` when only its stream is broken.
pub(crate) fn of_connection(error: &LinkError) -> Option<Cause> {
    match find::<h2::Error>(error) {
        Some(h2) if h2.is_go_away() => Some(Cause::GoAway),
        Some(h2) if h2.is_reset() => None,
        _ => Some(Cause::Failed),
    }
}

/// A failed handshake is an I/O error that the system knows nothing of.
fn is_tls(error: &reqwest::Error) -> bool {
    chain(error).filter_map(|error| error.downcast_ref::<io::Error>()).any(|io| {
        let kinds = [io::ErrorKind::InvalidData, io::ErrorKind::UnexpectedEof];
        io.raw_os_error().is_none() && kinds.contains(&io.kind())
    })
}

fn is_unprocessed(error: &LinkError) -> bool {
    find::<h2::Error>(error).is_some_and(|h2| {
        let refused = h2.is_reset() && h2.reason() == Some(h2::Reason::REFUSED_STREAM);
        h2.is_remote() && (refused || h2.is_go_away())
    })
}

/// The error and everything that caused it. An I/O error gives its cause away as `get_ref` only.
/// Bound: each error owns its cause, so the chain is finite.
fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| {
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        inner.map(|inner| inner as &(dyn Error + 'static)).or_else(|| error.source())
    })
}

fn find<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    chain(error).find_map(|error| error.downcast_ref())
}

/// What the innermost error says.
fn root(error: &(dyn Error + 'static)) -> String {
    let innermost = chain(error).last().map(ToString::to_string).unwrap_or_default();
    cut(&innermost, 200).to_owned()
}
