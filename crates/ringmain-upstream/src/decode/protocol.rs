//! Which API an answer belongs to, and so what its events mean.

use ringmain_wire::frame::{EndFrame, Usage};

use super::chat::Chat;
use super::failure;
use super::messages::Messages;
use super::queue::Queue;
use super::responses::Responses;
use super::seen::{Seen, Unreadable, Whole};
use crate::reach::without_query;

/// What the events mean, and what they have said so far.
#[derive(Debug)]
pub(super) enum Protocol {
    Chat(Chat),
    Messages(Messages),
    Responses(Responses),
    Other,
}

impl Protocol {
    /// The API behind a path.
    pub fn of(path: &str) -> Protocol {
        let path = without_query(path).trim_end_matches('/');
        // Completions end like chat completions, and both are read alike.
        if path.ends_with("/completions") {
            Protocol::Chat(Chat::default())
        } else if path.ends_with("/responses") {
            Protocol::Responses(Responses::default())
        } else if path == "/messages" || path.ends_with("/v1/messages") {
            Protocol::Messages(Messages::default())
        } else {
            Protocol::Other
        }
    }

    /// Whether it is an API whose answers can be read.
    pub fn is_known(&self) -> bool {
        !matches!(self, Protocol::Other)
    }

    /// Reads one event.
    pub fn read(
        &mut self,
        kind: &[u8],
        data: &[u8],
        queue: &mut Queue,
    ) -> Result<Seen, Unreadable> {
        match self {
            Protocol::Chat(_) | Protocol::Other if data.trim_ascii() == b"[DONE]" => {
                Ok(Seen::Terminal { content: false })
            }
            Protocol::Chat(_) | Protocol::Messages(_) | Protocol::Responses(_)
                if kind == b"error" =>
            {
                Ok(Seen::Error(failure::read(data)))
            }
            Protocol::Chat(chat) => chat.read(data, queue),
            Protocol::Messages(messages) => messages.read(kind, data, queue),
            Protocol::Responses(responses) => responses.read(kind, data, queue),
            Protocol::Other => Ok(Seen::Part { content: true }),
        }
    }

    /// Reads a whole plain answer.
    pub fn read_whole(&mut self, body: &[u8], queue: &mut Queue) -> Result<Whole, Unreadable> {
        match self {
            Protocol::Chat(chat) => chat.read_whole(body, queue),
            Protocol::Messages(messages) => messages.read_whole(body, queue),
            Protocol::Responses(responses) => responses.read_whole(body, queue),
            Protocol::Other => Ok(Whole::Nothing),
        }
    }

    /// Whether a stream that ended here without a terminal event is whole all the same.
    pub fn is_finished(&self) -> bool {
        match self {
            Protocol::Chat(chat) => chat.is_finished(),
            Protocol::Messages(_) | Protocol::Responses(_) => false,
            Protocol::Other => true,
        }
    }

    /// Usage as far as it was told.
    pub fn usage(&self) -> Option<Usage> {
        match self {
            Protocol::Chat(chat) => chat.usage,
            Protocol::Messages(messages) => messages.usage(),
            Protocol::Responses(responses) => responses.usage,
            Protocol::Other => None,
        }
    }

    /// What END tells.
    pub fn end(&self) -> EndFrame<'_> {
        match self {
            Protocol::Chat(chat) => chat.end(),
            Protocol::Messages(messages) => messages.end(),
            Protocol::Responses(responses) => responses.end(),
            Protocol::Other => EndFrame::default(),
        }
    }
}
