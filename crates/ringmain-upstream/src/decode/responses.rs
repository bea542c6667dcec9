//! The responses API, streamed or plain.
//!
//! Output text and refusals are DELTA, reasoning texts and their summaries REASONING, and the calls
//! of the caller's own functions TOOL, numbered among themselves. Calls of the provider's own
//! tools are left out in mode deltas, as is every event of a kind not known here. A response that
//! failed is an error in mode deltas; where events are passed on it is an event like any other,
//! and the last one.

use ringmain_wire::Kind;
use ringmain_wire::frame::{EndFrame, FinishReason, Usage};
use ringmain_wire::head::cut;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::failure::{self, is_truthy};
use super::queue::{Queue, ToolText};
use super::seen::{Seen, Unreadable, Whole};
use super::text::{inside, owned};
use super::usage;

/// Most items of an answer that call functions.
const CALLS_MAX: usize = 4096;

/// What the events of an answer have said so far.
#[derive(Debug, Default)]
pub(super) struct Responses {
    pub usage: Option<Usage>,
    /// The item of each function call, by its place in the output.
    calls: Vec<Call>,
    refused: bool,
    finish: FinishReason,
    finish_text: String,
}

#[derive(Debug)]
struct Call {
    item: u64,
    /// Whether any piece of its arguments came.
    is_argued: bool,
}

#[derive(Deserialize)]
struct Typed<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    delta: Option<&'a RawValue>,
    output_index: Option<u64>,
    #[serde(borrow)]
    item: Option<&'a RawValue>,
    #[serde(borrow)]
    response: Option<&'a RawValue>,
}

/// An item of the output.
#[derive(Deserialize)]
struct Item<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    call_id: Option<&'a RawValue>,
    #[serde(borrow)]
    name: Option<&'a RawValue>,
    #[serde(borrow)]
    arguments: Option<&'a RawValue>,
    /// The arguments of a call in free text.
    #[serde(borrow)]
    input: Option<&'a RawValue>,
    #[serde(borrow)]
    content: Option<Vec<Part<'a>>>,
    #[serde(borrow)]
    summary: Option<Vec<Part<'a>>>,
}

#[derive(Deserialize)]
struct Part<'a> {
    #[serde(borrow)]
    text: Option<&'a RawValue>,
    #[serde(borrow)]
    refusal: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Response<'a> {
    #[serde(borrow)]
    status: Option<&'a RawValue>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
    #[serde(borrow)]
    incomplete_details: Option<Incomplete<'a>>,
    #[serde(borrow)]
    output: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Incomplete<'a> {
    #[serde(borrow)]
    reason: Option<&'a RawValue>,
}

impl Responses {
    /// Reads one event.
    pub fn read(
        &mut self,
        told: &[u8],
        data: &[u8],
        queue: &mut Queue,
    ) -> Result<Seen, Unreadable> {
        let event: Typed<'_> = serde_json::from_slice(data)?;
        let kind = event.kind.and_then(inside).map_or(told, str::as_bytes);
        match kind {
            b"response.output_text.delta" => queue.push_text(Kind::Delta, 0, data, event.delta),
            b"response.refusal.delta" => {
                self.refused = true;
                queue.push_text(Kind::Delta, 0, data, event.delta);
            }
            b"response.reasoning_text.delta" | b"response.reasoning_summary_text.delta" => {
                queue.push_text(Kind::Reasoning, 0, data, event.delta);
            }
            b"response.function_call_arguments.delta"
            | b"response.custom_tool_call_input.delta" => {
                self.read_arguments(&event, queue);
            }
            b"response.output_item.added" => {
                self.read_call(&event, queue)?;
                return Ok(Seen::Part { content: false });
            }
            b"response.output_item.done" => self.read_call(&event, queue)?,
            b"response.completed" | b"response.incomplete" => return Ok(self.read_end(&event)),
            b"response.failed" => {
                let failed = event.response.map(|response| response.get().as_bytes());
                let seen = self.read_end(&event);
                return Ok(match queue.silent {
                    true => seen,
                    false => Seen::Error(failed.map(failure::read).unwrap_or_default()),
                });
            }
            b"error" => return Ok(Seen::Error(failure::read(data))),
            b"response.created"
            | b"response.queued"
            | b"response.in_progress"
            | b"response.content_part.added" => return Ok(Seen::Part { content: false }),
            _ => {}
        }
        // Whatever else is told is a part of the answer.
        Ok(Seen::Part { content: queue.silent || queue.content })
    }

    /// Reads a whole plain answer.
    pub fn read_whole(&mut self, body: &[u8], queue: &mut Queue) -> Result<Whole, Unreadable> {
        let answer: Response<'_> = serde_json::from_slice(body)?;
        if answer.error.is_some_and(is_truthy) {
            return Ok(Whole::Error(failure::read(body)));
        }
        let Some(output) = answer.output else { return Ok(Whole::Nothing) };
        let items: Vec<Item<'_>> = serde_json::from_str(output.get())?;
        for (index, item) in items.iter().enumerate() {
            self.read_item(index as u64, item, body, queue)?;
        }
        let status = owned(answer.status);
        self.finish(if status.is_empty() { "completed" } else { &status }, &answer);
        Ok(Whole::Answer)
    }

    pub fn end(&self) -> EndFrame<'_> {
        EndFrame { bytes: 0, finish: vec![(0, self.finish)], text: &self.finish_text }
    }

    fn read_item(
        &mut self,
        index: u64,
        item: &Item<'_>,
        body: &[u8],
        queue: &mut Queue,
    ) -> Result<(), Unreadable> {
        match item.kind.and_then(inside) {
            Some("message") => {
                for part in item.content.iter().flatten() {
                    queue.push_text(Kind::Delta, 0, body, part.text);
                    self.refused |= part.refusal.is_some();
                    queue.push_text(Kind::Delta, 0, body, part.refusal);
                }
            }
            Some("reasoning") => {
                let told = item.content.iter().chain(&item.summary).flatten();
                for part in told {
                    queue.push_text(Kind::Reasoning, 0, body, part.text);
                }
            }
            _ => self.push_call(index, item, queue)?,
        }
        Ok(())
    }

    /// An item that begins or is whole. Of a call that told its arguments in pieces the end says
    /// nothing new.
    fn read_call(&mut self, event: &Typed<'_>, queue: &mut Queue) -> Result<(), Unreadable> {
        let Some(item) = event.item else { return Ok(()) };
        let item: Item<'_> = serde_json::from_str(item.get())?;
        self.push_call(event.output_index.unwrap_or(0), &item, queue)
    }

    fn push_call(
        &mut self,
        index: u64,
        item: &Item<'_>,
        queue: &mut Queue,
    ) -> Result<(), Unreadable> {
        if !matches!(item.kind.and_then(inside), Some("function_call" | "custom_tool_call")) {
            return Ok(());
        }
        let arguments = item.arguments.or(item.input).filter(|raw| raw.get().len() > 2);
        let known = self.calls.iter().rposition(|call| call.item == index);
        let (at, call) = match known {
            Some(at) => (at, ToolText { arguments, ..ToolText::default() }),
            None if self.calls.len() == CALLS_MAX => {
                return Err(Unreadable(format!("more than {CALLS_MAX} function calls")));
            }
            None => {
                self.calls.push(Call { item: index, is_argued: false });
                (self.calls.len() - 1, ToolText { id: item.call_id, name: item.name, arguments })
            }
        };
        let is_new = known.is_none() || arguments.is_some() && !self.calls[at].is_argued;
        if is_new {
            self.calls[at].is_argued |= arguments.is_some();
            queue.push_tool(0, at as u32, call);
        }
        Ok(())
    }

    fn read_arguments(&mut self, event: &Typed<'_>, queue: &mut Queue) {
        let item = event.output_index.unwrap_or(0);
        let Some(at) = self.calls.iter().rposition(|call| call.item == item) else { return };
        if event.delta.and_then(inside).is_some_and(|fragment| !fragment.is_empty()) {
            self.calls[at].is_argued = true;
            let call = ToolText { arguments: event.delta, ..ToolText::default() };
            queue.push_tool(0, at as u32, call);
        }
    }

    fn read_end(&mut self, event: &Typed<'_>) -> Seen {
        let status = event.kind.and_then(inside).and_then(|kind| kind.strip_prefix("response."));
        let response = event.response.map(RawValue::get).map(serde_json::from_str::<Response<'_>>);
        match response {
            Some(Ok(response)) => self.finish(status.unwrap_or("completed"), &response),
            _ => self.finish(status.unwrap_or("completed"), &NOTHING),
        }
        Seen::Terminal { content: true }
    }

    fn finish(&mut self, status: &str, response: &Response<'_>) {
        self.usage = response.usage.and_then(usage::read);
        let why = response.incomplete_details.as_ref().map(|details| owned(details.reason));
        let why = why.filter(|reason| !reason.is_empty());
        self.finish = match why.as_deref() {
            Some("max_output_tokens") => FinishReason::Length,
            Some("content_filter") => FinishReason::ContentFilter,
            _ if status != "completed" => FinishReason::Other,
            _ if self.refused => FinishReason::Refusal,
            _ if !self.calls.is_empty() => FinishReason::ToolCalls,
            _ => FinishReason::Stop,
        };
        self.finish_text = cut(why.as_deref().unwrap_or(status), 64).to_owned();
    }
}

const NOTHING: Response<'_> =
    Response { status: None, usage: None, incomplete_details: None, output: None, error: None };
