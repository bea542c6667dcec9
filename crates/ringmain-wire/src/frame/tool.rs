//! The payload of TOOL.

use std::str;

use bytemuck::{Pod, Zeroable};

use super::{Kind, PayloadError, split_raw};
use crate::head::cut;

/// A piece of a tool call, payload of TOOL.
///
/// `index` tells parallel calls apart; `id` and `name` are empty except on the first piece.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ToolFrame<'a> {
    /// Index of the call within the answer.
    pub index: u32,
    /// The provider's id of the call.
    pub id: &'a str,
    /// Name of the function.
    pub name: &'a str,
    /// Fragment of the arguments (JSON text, cut anywhere between characters).
    pub arguments: &'a str,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct RawTool {
    index: u32,
    id_bytes: u16,
    name_bytes: u16,
}

impl<'a> ToolFrame<'a> {
    /// Bytes of the payload before the texts.
    pub const PREFIX_BYTES: usize = size_of::<RawTool>();

    /// Appends the payload. An id or name above 256 bytes is cut.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let (id, name) = (cut(self.id, 256), cut(self.name, 256));
        let raw =
            RawTool { index: self.index, id_bytes: id.len() as u16, name_bytes: name.len() as u16 };
        out.extend_from_slice(bytemuck::bytes_of(&raw));
        for text in [id, name, self.arguments] {
            out.extend_from_slice(text.as_bytes());
        }
    }

    /// Reads the payload.
    ///
    /// # Errors
    /// [`PayloadError`] when lengths or UTF-8 are wrong.
    pub fn parse(payload: &'a [u8]) -> Result<ToolFrame<'a>, PayloadError> {
        let bad = PayloadError(Kind::Tool);
        let (raw, rest) = split_raw::<RawTool>(payload).ok_or(bad)?;
        let (id, rest) = rest.split_at_checked(raw.id_bytes.into()).ok_or(bad)?;
        let (name, rest) = rest.split_at_checked(raw.name_bytes.into()).ok_or(bad)?;
        let text = |bytes| str::from_utf8(bytes).map_err(|_| bad);
        Ok(ToolFrame { index: raw.index, id: text(id)?, name: text(name)?, arguments: text(rest)? })
    }
}
