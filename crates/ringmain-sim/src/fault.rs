//! What a provider can do wrong, by name.
//!
//! A fault acts at one place: on the head of the answer or inside its body. Another fault is one
//! more row of the table here and one more arm where it acts.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

macro_rules! faults {
    ($($(#[$doc:meta])+ $variant:ident $name:literal;)+) => {
        /// A scripted fault.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[non_exhaustive]
        pub enum Fault {
            $($(#[$doc])+ #[serde(rename = $name)] $variant,)+
        }

        impl Fault {
            /// All faults.
            pub const ALL: &'static [Fault] = &[$(Fault::$variant,)+];

            /// The name, as a script carries it.
            pub fn name(self) -> &'static str {
                match self { $(Fault::$variant => $name,)+ }
            }
        }
    };
}

faults! {
    /// One event whose text is larger than anybody should accept; the stream goes on after it.
    BigEvent "big_event";
    /// The connection (HTTP/2: the stream) ends inside the body.
    CloseEarly "close_early";
    /// Status 200, the right content type and no byte of a body.
    Empty "empty";
    /// An error object instead of the next event, then a clean end.
    ErrorEvent "error_event";
    /// A correct answer in gzip, asked for or not. Not a fault of the provider but of whoever
    /// does not decode it.
    Gzip "gzip";
    /// One event that is not JSON; the stream goes on after it.
    InvalidJson "invalid_json";
    /// The body ends cleanly without finish reason and `[DONE]`.
    NoDone "no_done";
    /// An HTML page under status 200.
    NotSse "not_sse";
    /// The request is read and never answered.
    RefuseHead "refuse_head";
    /// The whole connection is reset inside the body.
    Reset "reset";
    /// The head comes late, the rest is as it should be.
    SlowHead "slow_head";
    /// Nothing comes any more inside the body, and nothing ends.
    Stall "stall";
}

impl Fault {
    /// Whether the answer is whole in spite of it.
    pub fn is_harmless(self) -> bool {
        matches!(self, Fault::Gzip | Fault::SlowHead)
    }

    /// Whether it acts between the tokens of a body.
    pub fn is_inside_body(self) -> bool {
        use Fault::*;
        matches!(self, CloseEarly | NoDone | Reset | Stall) || self.inserts()
    }

    /// Whether it puts an event of its own between the others.
    pub fn inserts(self) -> bool {
        matches!(self, Fault::BigEvent | Fault::ErrorEvent | Fault::InvalidJson)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// No fault has this name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no fault has this name")]
pub struct UnknownFault;

impl FromStr for Fault {
    type Err = UnknownFault;

    fn from_str(name: &str) -> Result<Fault, UnknownFault> {
        Fault::ALL.iter().copied().find(|fault| fault.name() == name).ok_or(UnknownFault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_and_are_sorted() {
        assert!(Fault::ALL.is_sorted_by_key(|fault| fault.name()));
        for &fault in Fault::ALL {
            assert_eq!(fault.name().parse(), Ok(fault));
        }
    }
}
