//! The messages API of Anthropic, streamed or plain.
//!
//! An answer is a list of content blocks. Text is DELTA, thinking is REASONING, and the calls of
//! the caller's own tools are TOOL, numbered among themselves. What tools of the provider are
//! called with, and what they gave, is nothing that a caller could act on: in mode deltas it is
//! left out, as are signatures, citations and every block and event of a kind not known here.

use ringmain_wire::Kind;
use ringmain_wire::frame::{EndFrame, FinishReason, Usage};
use ringmain_wire::head::cut;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::failure::{self, is_truthy};
use super::queue::{Queue, ToolText};
use super::seen::{Seen, Unreadable, Whole};
use super::text::{inside, owned};
use super::usage::Cumulative;

/// Most content blocks of an answer.
const BLOCKS_MAX: usize = 4096;

/// What the events of an answer have said so far.
#[derive(Debug, Default)]
pub(super) struct Messages {
    /// The tool that each content block calls, by the blocks' own numbers.
    tools: Vec<(u32, u32)>,
    usage: Cumulative,
    finish: Option<FinishReason>,
    finish_text: String,
}

/// An event, or a whole answer: their fields do not contradict each other.
#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<&'a RawValue>,
    index: Option<u32>,
    #[serde(borrow)]
    delta: Option<Delta<'a>>,
    #[serde(borrow)]
    content_block: Option<Block<'a>>,
    #[serde(borrow)]
    message: Option<&'a RawValue>,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
    #[serde(borrow)]
    stop_reason: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

/// Of a content block, or of the message as a whole.
#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow)]
    text: Option<&'a RawValue>,
    #[serde(borrow)]
    thinking: Option<&'a RawValue>,
    #[serde(borrow)]
    partial_json: Option<&'a RawValue>,
    #[serde(borrow)]
    stop_reason: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Block<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    name: Option<&'a RawValue>,
    #[serde(borrow)]
    input: Option<&'a RawValue>,
    #[serde(borrow)]
    text: Option<&'a RawValue>,
    #[serde(borrow)]
    thinking: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Started<'a> {
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
}

impl Messages {
    /// Reads one event of a stream.
    pub fn read(
        &mut self,
        told: &[u8],
        data: &[u8],
        queue: &mut Queue,
    ) -> Result<Seen, Unreadable> {
        let event: Event<'_> = serde_json::from_slice(data)?;
        // The type stands in the data and, but for some servers, in the event's name too.
        let kind = event.kind.and_then(inside).map_or(told, str::as_bytes);
        match kind {
            b"content_block_delta" => self.read_delta(&event, data, queue),
            b"content_block_start" => self.read_start(&event, data, queue)?,
            b"message_start" => {
                let usage = event.message.map(RawValue::get).map(serde_json::from_str);
                if let Some(Ok(Started { usage: Some(usage) })) = usage {
                    self.usage.add(usage);
                }
            }
            b"message_delta" => {
                self.finish(event.delta.and_then(|delta| delta.stop_reason));
                event.usage.inspect(|usage| self.usage.add(usage));
            }
            b"message_stop" => return Ok(Seen::Terminal { content: false }),
            b"error" => return Ok(Seen::Error(failure::read(data))),
            b"ping" | b"content_block_stop" => {}
            // Of a kind that is not known here: perhaps a part of the answer.
            _ if queue.silent => queue.content = true,
            _ => {}
        }
        Ok(Seen::Part { content: queue.content })
    }

    /// Reads a whole plain answer.
    pub fn read_whole(&mut self, body: &[u8], queue: &mut Queue) -> Result<Whole, Unreadable> {
        let answer: Event<'_> = serde_json::from_slice(body)?;
        if answer.error.is_some_and(is_truthy) {
            return Ok(Whole::Error(failure::read(body)));
        }
        let Some(content) = answer.content else { return Ok(Whole::Nothing) };
        let blocks: Vec<Block<'_>> = serde_json::from_str(content.get())?;
        for (index, block) in blocks.iter().enumerate() {
            self.read_block(index as u32, block, body, queue)?;
        }
        self.finish(answer.stop_reason);
        answer.usage.inspect(|usage| self.usage.add(usage));
        Ok(Whole::Answer)
    }

    pub fn usage(&self) -> Option<Usage> {
        self.usage.told()
    }

    pub fn end(&self) -> EndFrame<'_> {
        let finish = self.finish.map(|reason| (0, reason)).into_iter().collect();
        EndFrame { bytes: 0, finish, text: &self.finish_text }
    }

    fn read_delta(&self, event: &Event<'_>, data: &[u8], queue: &mut Queue) {
        // A signature, a citation, or something newer, is a part of the answer too.
        queue.content = true;
        let Some(delta) = &event.delta else { return };
        queue.push_text(Kind::Delta, 0, data, delta.text);
        queue.push_text(Kind::Reasoning, 0, data, delta.thinking);
        let block = event.index.unwrap_or(0);
        let tool = self.tools.iter().rfind(|tool| tool.0 == block);
        if let Some(fragment) = delta.partial_json.filter(|raw| raw.get().len() > 2)
            && let Some(&(_, index)) = tool
        {
            queue.push_tool(0, index, ToolText { arguments: Some(fragment), ..Default::default() });
        }
    }

    fn read_start(
        &mut self,
        event: &Event<'_>,
        data: &[u8],
        queue: &mut Queue,
    ) -> Result<(), Unreadable> {
        match &event.content_block {
            Some(block) => self.read_block(event.index.unwrap_or(0), block, data, queue),
            None => Ok(()),
        }
    }

    /// Reads a block: the beginning of one, mostly empty, or a whole one.
    fn read_block(
        &mut self,
        index: u32,
        block: &Block<'_>,
        data: &[u8],
        queue: &mut Queue,
    ) -> Result<(), Unreadable> {
        match block.kind.and_then(inside) {
            Some("text") => queue.push_text(Kind::Delta, 0, data, block.text),
            Some("thinking") => queue.push_text(Kind::Reasoning, 0, data, block.thinking),
            Some("tool_use") => {
                if self.tools.len() == BLOCKS_MAX {
                    return Err(Unreadable(format!("more than {BLOCKS_MAX} tool calls")));
                }
                let tool = self.tools.len() as u32;
                self.tools.push((index, tool));
                // A stream begins each call with an empty input and tells it piece by piece.
                let input = block.input.filter(|input| input.get() != "{}");
                let call = ToolText { id: block.id, name: block.name, arguments: input };
                queue.push_tool(0, tool, call);
            }
            _ => {}
        }
        Ok(())
    }

    fn finish(&mut self, word: Option<&RawValue>) {
        let word = owned(word);
        if word.is_empty() {
            return;
        }
        self.finish = Some(match word.as_str() {
            "end_turn" | "stop_sequence" => FinishReason::Stop,
            "max_tokens" | "model_context_window_exceeded" => FinishReason::Length,
            "tool_use" => FinishReason::ToolCalls,
            "refusal" => FinishReason::Refusal,
            _ => FinishReason::Other,
        });
        self.finish_text = cut(&word, 64).to_owned();
    }
}
