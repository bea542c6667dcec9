//! Why a request cannot be translated, and where in it the reason stands.

use std::fmt;

use thiserror::Error;

/// A request that cannot be said in the other dialect. It names the field, never its value.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{field} {why}")]
pub struct Refused {
    field: String,
    why: &'static str,
}

/// Where a value stands in a body: written out only when it is refused.
#[derive(Clone, Copy, Debug)]
pub(super) enum Path<'p> {
    /// The body as a whole.
    Root,
    /// A field of an object.
    Field(&'p Path<'p>, &'p str),
    /// An item of a list, by its index.
    Item(&'p Path<'p>, usize),
}

impl Path<'_> {
    /// The refusal of what stands here.
    pub fn refused(&self, why: &'static str) -> Refused {
        Refused { field: self.to_string(), why }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root => f.write_str("the body"),
            Path::Field(Path::Root, name) => f.write_str(name),
            Path::Field(parent, name) => write!(f, "{parent}.{name}"),
            Path::Item(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}
