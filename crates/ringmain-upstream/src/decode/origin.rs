//! Where an answer comes from, in the provider's words: told once, by the first events.

use ringmain_wire::head::cut;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::text::owned;

/// Most bytes that are kept of each.
const BYTES_MAX: usize = 256;

/// The provider's id of an answer, and its name of the model. Empty where they were not told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Origin {
    pub id: String,
    pub model: String,
}

#[derive(Deserialize)]
struct Told<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    model: Option<&'a RawValue>,
    /// The first event of a messages stream holds both one level deeper.
    #[serde(borrow)]
    message: Option<&'a RawValue>,
}

impl Origin {
    /// Reads what an event, or a whole answer, tells.
    pub fn read(&mut self, data: &[u8]) {
        let Ok(mut told) = serde_json::from_slice::<Told<'_>>(data) else { return };
        if let Some(message) = told.message
            && let Ok(inner) = serde_json::from_str::<Told<'_>>(message.get())
        {
            told = inner;
        }
        for (known, told) in [(&mut self.id, told.id), (&mut self.model, told.model)] {
            if known.is_empty() {
                *known = cut(&owned(told), BYTES_MAX).to_owned();
            }
        }
    }
}
