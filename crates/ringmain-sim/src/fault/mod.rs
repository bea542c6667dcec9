//! What a provider can do wrong, by name.
//!
//! `table` holds one row per fault: its name, the place where it acts, the HTTP versions that
//! can show it, the codes that a caller may see, and a sentence. Whatever tests, prompts and
//! people know of a fault stands in that row; how it is done stands at its place.

mod table;

use std::fmt;
use std::str::FromStr;

use ringmain_wire::Code;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use table::Fault;

/// Where a fault acts, which says how it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Place {
    /// Between two answers of a connection.
    Between,
    /// The coding of the body.
    Coding,
    /// A connection before its first request: asked for by
    /// [`ProviderConfig::connections`](crate::ProviderConfig) or a rule.
    Connection,
    /// The end of the body, behind the tokens that `at` tells.
    Ending,
    /// Frames of HTTP/2 beside the answer.
    Frames,
    /// The framing of an answer in HTTP/1.1, byte for byte.
    Framing,
    /// The time of the head.
    Head,
    /// An event of its own between those of the answer.
    Insert,
    /// The request while it is sent: asked for by the header `x-sim` or a rule, for its body is
    /// not read.
    Intake,
    /// The same events, written in another way.
    Shape,
    /// Status and header fields.
    Status,
    /// Something else in the place of the body.
    Whole,
}

/// The HTTP versions that can show a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Versions {
    /// HTTP/1.1 alone.
    One,
    /// HTTP/2 alone.
    Two,
    /// Both.
    Both,
    /// Both, over TLS alone.
    Tls,
}

/// The row of a fault.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The fault.
    pub fault: Fault,
    /// Its name, as scripts carry it.
    pub name: &'static str,
    /// Where it acts.
    pub place: Place,
    /// The HTTP versions that can show it.
    pub versions: Versions,
    /// What the caller of a streamed chat in mode deltas may be told; empty: a good end.
    pub codes: &'static [Code],
    /// What it does.
    pub what: &'static str,
}

impl Fault {
    /// The name, as a script carries it.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// Where it acts.
    pub fn place(self) -> Place {
        self.row().place
    }

    /// What the caller of a streamed chat may be told; empty: a good end.
    pub fn codes(self) -> &'static [Code] {
        self.row().codes
    }

    /// Whether this version of HTTP can show it.
    pub fn is_of(self, is_http2: bool) -> bool {
        match self.row().versions {
            Versions::One => !is_http2,
            Versions::Two => is_http2,
            Versions::Both | Versions::Tls => true,
        }
    }

    /// Whether the answer is whole in spite of it.
    pub fn is_harmless(self) -> bool {
        self.codes().is_empty()
    }

    /// Whether it acts between the tokens of a body.
    pub fn is_inside_body(self) -> bool {
        use Fault::*;
        matches!(self, CloseEarly | NoDone | Reset | Stall) || self.inserts()
    }

    /// Whether it puts an event of its own between the others.
    pub fn inserts(self) -> bool {
        self.place() == Place::Insert
    }

    /// Whether the provider did nothing at all for the request, and said so.
    pub fn is_unprocessed(self) -> bool {
        use Fault::*;
        matches!(self, GoawayBefore | GoawayThenFine | RefusedStream | RefusedThenFine)
    }

    /// Whether the answer is whole and well framed, but no stream of events.
    pub fn is_other_body(self) -> bool {
        use Fault::*;
        matches!(self, ErrorObject | ErrorThenFine | NotSse | Switching)
    }

    /// Whether the connection is reset, with what its client has not read yet.
    pub fn resets_connection(self) -> bool {
        matches!(self, Fault::Reset | Fault::GoawayCut)
    }

    /// Whether only the first request with its correlation id meets it.
    pub fn is_transient(self) -> bool {
        use Fault::*;
        matches!(
            self,
            ErrorThenFine | GoawayThenFine | RateThenFine | RefusedThenFine | UnavailableThenFine
        )
    }

    /// Whether an error object comes under a good status.
    pub fn is_error_object(self) -> bool {
        use Fault::*;
        matches!(self, ErrorEvent | ErrorFirst | ErrorLines | ErrorObject | ErrorThenFine)
    }

    /// Whether the end of an answer with it is not the end that its provider means.
    pub(crate) fn spoils_end(self) -> bool {
        !self.is_harmless() && !matches!(self, Fault::BigEvent | Fault::InvalidJson)
    }

    /// Whether the bytes of its stream are the rendered events, as they are.
    pub(crate) fn keeps_bytes(self) -> bool {
        use Place::*;
        matches!(self.place(), Between | Ending | Head | Insert | Status)
            || matches!(self, Fault::Gzip | Fault::Empty | Fault::NotSse | Fault::RefuseHead)
    }
}

impl Versions {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Versions::One => "1.1",
            Versions::Two => "2",
            Versions::Both => "1.1, 2",
            Versions::Tls => "1.1, 2 (TLS)",
        }
    }
}

impl Row {
    /// The codes for people.
    pub fn outcome(&self) -> String {
        match self.codes {
            [] => "END".to_owned(),
            codes => codes.iter().map(|code| code.name()).collect::<Vec<_>>().join(" | "),
        }
    }
}

/// The table as lines of text, its head first.
pub fn list() -> impl Iterator<Item = String> {
    let line = |name: &str, versions: &str, outcome: &str, what: &str| {
        format!("{name:<24} {versions:<13} {outcome:<34} {what}")
    };
    let head = line("fault", "HTTP", "outcome in mode deltas", "what it does");
    let rows = Fault::ROWS.iter();
    let rows = rows.map(move |row| line(row.name, row.versions.name(), &row.outcome(), row.what));
    std::iter::once(head).chain(rows)
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
        let row = Fault::ROWS.iter().find(|row| row.name == name);
        row.map(|row| row.fault).ok_or(UnknownFault)
    }
}

impl Serialize for Fault {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Fault {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Fault, D::Error> {
        let name = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        name.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_come_back_and_differ() {
        let names: HashSet<_> = Fault::ROWS.iter().map(|row| row.name).collect();
        assert_eq!(names.len(), Fault::ROWS.len());
        for row in Fault::ROWS {
            assert_eq!(row.name.parse(), Ok(row.fault));
            assert_eq!(row.fault.name(), row.name);
            let json = serde_json::to_string(&row.fault).unwrap();
            assert_eq!(serde_json::from_str::<Fault>(&json).unwrap(), row.fault);
        }
        assert!(Fault::ROWS.len() >= 60);
        assert_eq!(list().count(), Fault::ROWS.len() + 1);
    }
}
