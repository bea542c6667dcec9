//! One piece of an answer, borrowed from the lane or owned.

use ringmain_wire::frame::{EndFrame, PayloadError, ToolFrame, Usage};
use ringmain_wire::{FinishReason, Kind, ResponseHead};

/// A piece of an answer. Text and bytes are borrowed from the mapped lane.
///
/// A text longer than a quarter of the lane comes as several pieces, each of whole characters:
/// joining them gives what the provider sent. Tool pieces and events are always whole.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Item<'a> {
    /// Status and origin of the answer; the first item of every answer that has one.
    Head(ResponseHead<'a>),
    /// A piece of the text.
    Delta {
        /// Choice that it belongs to.
        choice: u16,
        /// The text.
        text: &'a str,
    },
    /// A piece of the model's reasoning.
    Reasoning {
        /// Choice that it belongs to.
        choice: u16,
        /// The text.
        text: &'a str,
    },
    /// A piece of a tool call.
    Tool {
        /// Choice that it belongs to.
        choice: u16,
        /// Index, id, name, and a fragment of the arguments.
        call: ToolFrame<'a>,
    },
    /// One upstream event, byte for byte.
    Event(&'a [u8]),
    /// Bytes of a plain answer, cut anywhere.
    Body(&'a [u8]),
    /// Tokens used.
    Usage(Usage),
    /// The good end. Nothing follows.
    End(EndFrame<'a>),
}

/// An [`Item`] that owns its bytes, as `Stream` and `Iterator` yield it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OwnedItem {
    /// Status and origin of the answer.
    Head(Head),
    /// A piece of the text.
    Delta {
        /// Choice that it belongs to.
        choice: u16,
        /// The text.
        text: String,
    },
    /// A piece of the model's reasoning.
    Reasoning {
        /// Choice that it belongs to.
        choice: u16,
        /// The text.
        text: String,
    },
    /// A piece of a tool call.
    Tool {
        /// Choice that it belongs to.
        choice: u16,
        /// The piece.
        call: ToolCall,
    },
    /// One upstream event, byte for byte.
    Event(Vec<u8>),
    /// Bytes of a plain answer, cut anywhere.
    Body(Vec<u8>),
    /// Tokens used.
    Usage(Usage),
    /// The good end.
    End {
        /// Choice and reason, for each choice that said one.
        finish: Vec<(u16, FinishReason)>,
        /// The provider's own word for the first choice's reason.
        text: String,
    },
}

/// Status and origin of an answer, owned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Head {
    /// HTTP status of the provider's answer.
    pub status: u16,
    /// Number of the attempt that answered, from 1.
    pub attempt: u16,
    /// Whether the answer came from a cache.
    pub cached: bool,
    /// The broker's id of the exchange, as in its log.
    pub log_id: String,
    /// Route that matched.
    pub route: String,
    /// Endpoint that answered.
    pub endpoint: String,
    /// Content type of the answer.
    pub content_type: String,
    /// The provider's id of the request.
    pub upstream_request_id: Option<String>,
    /// Header fields of the answer that callers may need.
    pub headers: Vec<(String, String)>,
}

/// A tool call, or a piece of one, owned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ToolCall {
    /// Index of the call within the answer.
    pub index: u32,
    /// The provider's id of the call.
    pub id: String,
    /// Name of the function.
    pub name: String,
    /// The arguments, JSON text.
    pub arguments: String,
}

impl<'a> Item<'a> {
    /// Reads the payload of a whole frame other than ERROR and SKIP.
    #[inline]
    pub(crate) fn parse(
        kind: Kind,
        choice: u16,
        payload: &'a [u8],
    ) -> Result<Item<'a>, PayloadError> {
        let text = || str::from_utf8(payload).map_err(|_| PayloadError(kind));
        Ok(match kind {
            Kind::Head => Item::Head(ResponseHead::parse(payload).map_err(|_| PayloadError(kind))?),
            Kind::Delta => Item::Delta { choice, text: text()? },
            Kind::Reasoning => Item::Reasoning { choice, text: text()? },
            Kind::Tool => Item::Tool { choice, call: ToolFrame::parse(payload)? },
            Kind::Event => Item::Event(payload),
            Kind::Body => Item::Body(payload),
            Kind::Usage => Item::Usage(Usage::parse(payload)?),
            Kind::End => Item::End(EndFrame::parse(payload)?),
            _ => return Err(PayloadError(kind)),
        })
    }

    /// The text, when this is a piece of the first choice's text.
    pub fn text(&self) -> Option<&'a str> {
        match *self {
            Item::Delta { choice: 0, text } => Some(text),
            _ => None,
        }
    }

    /// A copy that owns its bytes.
    pub fn into_owned(self) -> OwnedItem {
        match self {
            Item::Head(head) => OwnedItem::Head(Head::from(&head)),
            Item::Delta { choice, text } => OwnedItem::Delta { choice, text: text.to_owned() },
            Item::Reasoning { choice, text } => {
                OwnedItem::Reasoning { choice, text: text.to_owned() }
            }
            Item::Tool { choice, call } => OwnedItem::Tool { choice, call: ToolCall::from(&call) },
            Item::Event(bytes) => OwnedItem::Event(bytes.to_vec()),
            Item::Body(bytes) => OwnedItem::Body(bytes.to_vec()),
            Item::Usage(usage) => OwnedItem::Usage(usage),
            Item::End(end) => OwnedItem::End { finish: end.finish, text: end.text.to_owned() },
        }
    }
}

impl From<&ResponseHead<'_>> for Head {
    fn from(head: &ResponseHead<'_>) -> Head {
        let headers = head.headers.iter().map(|&(n, v)| (n.to_owned(), v.to_owned()));
        Head {
            status: head.status,
            attempt: head.attempt,
            cached: head.cached,
            log_id: head.log_id.to_owned(),
            route: head.route.to_owned(),
            endpoint: head.endpoint.to_owned(),
            content_type: head.content_type.to_owned(),
            upstream_request_id: head.upstream_request_id.map(str::to_owned),
            headers: headers.collect(),
        }
    }
}

impl From<&ToolFrame<'_>> for ToolCall {
    fn from(call: &ToolFrame<'_>) -> ToolCall {
        ToolCall {
            index: call.index,
            id: call.id.to_owned(),
            name: call.name.to_owned(),
            arguments: call.arguments.to_owned(),
        }
    }
}
