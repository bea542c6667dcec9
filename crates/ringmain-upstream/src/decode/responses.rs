//! Streams of the responses API: passed on as they are, watched for their end.

use ringmain_wire::frame::{EndFrame, FinishReason, Usage};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::text::owned;
use super::usage;

/// What the events of an answer have said so far.
#[derive(Debug, Default)]
pub(super) struct Responses {
    pub usage: Option<Usage>,
    finish: FinishReason,
    finish_text: String,
}

/// What one event was.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// It tells how the work proceeds.
    Lifecycle,
    /// Something of the answer.
    Part,
    /// The last one.
    Terminal,
    /// An error object.
    Error,
}

#[derive(Deserialize)]
struct Typed<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    response: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Response<'a> {
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
    #[serde(borrow)]
    incomplete_details: Option<Incomplete<'a>>,
}

#[derive(Deserialize)]
struct Incomplete<'a> {
    #[serde(borrow)]
    reason: Option<&'a RawValue>,
}

impl Responses {
    /// Looks at one event. What cannot be read is a part: the consumer will judge it.
    pub fn read(&mut self, kind: &[u8], data: &[u8]) -> Event {
        let Ok(typed) = serde_json::from_slice::<Typed<'_>>(data) else {
            return Event::Part;
        };
        let told = owned(typed.kind);
        let kind = if told.is_empty() { kind } else { told.as_bytes() };
        let (finish, text) = match kind {
            b"response.completed" => (FinishReason::Stop, "completed"),
            b"response.incomplete" => (FinishReason::Other, "incomplete"),
            b"response.failed" => (FinishReason::Other, "failed"),
            b"error" => return Event::Error,
            b"response.created"
            | b"response.queued"
            | b"response.in_progress"
            | b"response.output_item.added"
            | b"response.content_part.added" => return Event::Lifecycle,
            _ => return Event::Part,
        };
        (self.finish, self.finish_text) = (finish, text.to_owned());
        let response = typed.response.map(RawValue::get).map(serde_json::from_str::<Response<'_>>);
        if let Some(Ok(response)) = response {
            self.usage = response.usage.and_then(usage::read);
            if let Some(details) = response.incomplete_details {
                let reason = owned(details.reason);
                self.finish = match reason.as_str() {
                    "max_output_tokens" => FinishReason::Length,
                    "content_filter" => FinishReason::ContentFilter,
                    _ => self.finish,
                };
                self.finish_text = reason;
            }
        }
        Event::Terminal
    }

    pub fn end(&self) -> EndFrame<'_> {
        EndFrame { bytes: 0, finish: vec![(0, self.finish)], text: &self.finish_text }
    }
}
