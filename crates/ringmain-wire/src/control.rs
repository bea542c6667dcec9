//! The datagrams of the control socket (SOCK_SEQPACKET).
//!
//! ```text
//! 0   magic 4 | ABI version 4 | kind 2 | reserved 2 | body bytes 4
//! 16  body
//! ```
//! The attaching side sends [`Hello`]; the broker answers [`Welcome`] with four descriptors
//! (the segment that the peer writes, the segment that it reads, the bell of the broker, the bell
//! of the peer) or [`Refused`]. Afterwards the broker may send [`Message::Draining`] and
//! [`Goodbye`]; a one-byte datagram is a ring of the bell where eventfds cannot be used.

use std::str;

use bytemuck::{Pod, Zeroable};
use thiserror::Error;

use crate::code::Code;
use crate::geometry::{Geometry, GeometryError};
use crate::head::cut;
use crate::limits::{ABI_VERSION, CONTROL_BYTES_MAX, CREDENTIAL_BYTES_MAX};

/// First four bytes of every control datagram but the one-byte ring.
pub const MAGIC: u32 = u32::from_le_bytes(*b"RGMN");
/// The one-byte datagram that rings a bell.
pub const RING: [u8; 1] = [1];

/// Which side of a session the attaching process takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Role {
    /// It sends requests: an application.
    #[default]
    Caller = 1,
    /// It answers requests: a local producer.
    Responder = 2,
}

/// What the attaching side asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Hello {
    /// Its side.
    pub role: Role,
    /// Sizes that it asks for.
    pub geometry: Geometry,
    /// Optional parts of the protocol that it knows; none exist yet.
    pub features: u64,
    /// Its CLOCK_MONOTONIC, ns: tells a time namespace.
    pub now_ns: u64,
    /// A credential beyond that of the kernel (a JWT); may be empty.
    pub credential: String,
    /// Name of a producer; empty for a caller.
    pub name: String,
}

/// What the broker grants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Welcome {
    /// Number of the session, as in the broker's log.
    pub session: u64,
    /// Differs for each start of a broker.
    pub epoch: u64,
    /// The broker's CLOCK_MONOTONIC, ns.
    pub now_ns: u64,
    /// Optional parts of the protocol that both sides use.
    pub features: u64,
    /// Most bytes of a request body, whatever the arena.
    pub body_bytes_max: u64,
    /// Longest time to the deadline of an exchange, ns: later ones are brought forward.
    pub deadline_ns_max: u64,
    /// Sizes granted.
    pub geometry: Geometry,
}

/// Why the broker does not grant it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refused {
    /// What happened.
    pub code: Code,
    /// For people: what happened, what to do.
    pub text: String,
}

/// Why the broker closes a session.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Goodbye {
    /// What happened.
    pub code: Code,
    /// For people.
    pub text: String,
}

/// A control datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Message {
    /// The broker takes nothing new; what runs goes on.
    Draining,
    /// The broker closes the session.
    Goodbye(Goodbye),
    /// A peer wants a session.
    Hello(Hello),
    /// The broker refuses it.
    Refused(Refused),
    /// A ring of the bell.
    Ring,
    /// The broker grants it.
    Welcome(Welcome),
}

/// Why a datagram was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ControlError {
    /// The other side speaks another version.
    #[error("the peer speaks protocol version {theirs}, this side {ours}")]
    Abi {
        /// Version of the peer.
        theirs: u32,
        /// Version of this side.
        ours: u32,
    },
    /// A field holds something that it may not hold.
    #[error("{0} is not valid")]
    Bad(&'static str),
    /// Sizes that no session can have.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    /// Not a datagram of this protocol.
    #[error("this is not a Ringmain control message")]
    Magic,
    /// Shorter or longer than it says.
    #[error("a control message of {0} bytes does not have the length that it says")]
    Length(usize),
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Header {
    magic: u32,
    abi: u32,
    kind: u16,
    reserved: u16,
    body_bytes: u32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct RawGeometry {
    lanes: u32,
    lane_bytes: u32,
    arena_bytes: u64,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct RawHello {
    geometry: RawGeometry,
    features: u64,
    now_ns: u64,
    role: u32,
    credential_bytes: u32,
    name_bytes: u32,
    reserved: u32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct RawWelcome {
    session: u64,
    epoch: u64,
    now_ns: u64,
    features: u64,
    body_bytes_max: u64,
    deadline_ns_max: u64,
    geometry: RawGeometry,
}

const KIND_HELLO: u16 = 1;
const KIND_WELCOME: u16 = 2;
const KIND_REFUSED: u16 = 3;
const KIND_GOODBYE: u16 = 4;
const KIND_DRAINING: u16 = 5;
const NAME_BYTES_MAX: usize = 256;
const TEXT_BYTES_MAX: usize = 2048;

impl Hello {
    /// Asks for a caller session of the default size.
    pub fn caller(geometry: Geometry, now_ns: u64) -> Hello {
        Hello {
            role: Role::Caller,
            geometry,
            features: 0,
            now_ns,
            credential: String::new(),
            name: String::new(),
        }
    }

    /// Asks for a producer's session under this name.
    pub fn producer(geometry: Geometry, now_ns: u64, name: &str) -> Hello {
        let (role, name) = (Role::Responder, name.to_owned());
        Hello { role, name, ..Hello::caller(geometry, now_ns) }
    }
}

impl Welcome {
    /// A grant without optional features.
    pub fn new(session: u64, epoch: u64, now_ns: u64, geometry: Geometry) -> Welcome {
        Welcome {
            session,
            epoch,
            now_ns,
            features: 0,
            body_bytes_max: geometry.arena_bytes(),
            deadline_ns_max: u64::MAX,
            geometry,
        }
    }
}

impl Refused {
    /// A refusal with its sentence.
    pub fn new(code: Code, text: impl Into<String>) -> Refused {
        Refused { code, text: text.into() }
    }
}

impl Goodbye {
    /// An end with its sentence.
    pub fn new(code: Code, text: impl Into<String>) -> Goodbye {
        Goodbye { code, text: text.into() }
    }
}

impl Message {
    /// The datagram, at most [`CONTROL_BYTES_MAX`] bytes; texts are cut to their bounds.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Message::Draining => datagram(KIND_DRAINING, &[], &[]),
            Message::Goodbye(Goodbye { code, text }) => reason(KIND_GOODBYE, *code, text),
            Message::Hello(hello) => encode_hello(hello),
            Message::Refused(Refused { code, text }) => reason(KIND_REFUSED, *code, text),
            Message::Ring => RING.to_vec(),
            Message::Welcome(welcome) => {
                datagram(KIND_WELCOME, bytemuck::bytes_of(&RawWelcome::from(welcome)), &[])
            }
        }
    }

    /// Judges a datagram.
    ///
    /// # Errors
    /// [`ControlError`]; [`ControlError::Abi`] comes before anything else is looked at.
    pub fn parse(bytes: &[u8]) -> Result<Message, ControlError> {
        if bytes == RING {
            return Ok(Message::Ring);
        }
        let (header, body) = split::<Header>(bytes).ok_or(ControlError::Magic)?;
        if header.magic != MAGIC {
            return Err(ControlError::Magic);
        }
        if header.abi != ABI_VERSION {
            return Err(ControlError::Abi { theirs: header.abi, ours: ABI_VERSION });
        }
        if body.len() != header.body_bytes as usize || bytes.len() > CONTROL_BYTES_MAX {
            return Err(ControlError::Length(bytes.len()));
        }
        match header.kind {
            KIND_HELLO => parse_hello(body).map(Message::Hello),
            KIND_WELCOME => parse_welcome(body).map(Message::Welcome),
            KIND_REFUSED => {
                parse_reason(body).map(|(code, text)| Message::Refused(Refused { code, text }))
            }
            KIND_GOODBYE => {
                parse_reason(body).map(|(code, text)| Message::Goodbye(Goodbye { code, text }))
            }
            KIND_DRAINING if body.is_empty() => Ok(Message::Draining),
            _ => Err(ControlError::Bad("the kind")),
        }
    }
}

fn encode_hello(hello: &Hello) -> Vec<u8> {
    let credential = cut(&hello.credential, CREDENTIAL_BYTES_MAX);
    let name = cut(&hello.name, NAME_BYTES_MAX);
    let raw = RawHello {
        geometry: (&hello.geometry).into(),
        features: hello.features,
        now_ns: hello.now_ns,
        role: hello.role as u32,
        credential_bytes: credential.len() as u32,
        name_bytes: name.len() as u32,
        reserved: 0,
    };
    datagram(KIND_HELLO, bytemuck::bytes_of(&raw), &[credential.as_bytes(), name.as_bytes()])
}

fn parse_hello(body: &[u8]) -> Result<Hello, ControlError> {
    let (raw, rest) = split::<RawHello>(body).ok_or(ControlError::Bad("the length"))?;
    let (credential, rest) = rest
        .split_at_checked(raw.credential_bytes as usize)
        .filter(|(credential, _)| credential.len() <= CREDENTIAL_BYTES_MAX)
        .ok_or(ControlError::Bad("the credential"))?;
    if rest.len() != raw.name_bytes as usize || rest.len() > NAME_BYTES_MAX {
        return Err(ControlError::Bad("the name"));
    }
    let role = match raw.role {
        1 => Role::Caller,
        2 => Role::Responder,
        _ => return Err(ControlError::Bad("the role")),
    };
    Ok(Hello {
        role,
        geometry: raw.geometry.check()?,
        features: raw.features,
        now_ns: raw.now_ns,
        credential: string("the credential", credential)?,
        name: string("the name", rest)?,
    })
}

fn parse_welcome(body: &[u8]) -> Result<Welcome, ControlError> {
    let (raw, rest) = split::<RawWelcome>(body).ok_or(ControlError::Bad("the length"))?;
    if !rest.is_empty() {
        return Err(ControlError::Bad("the length"));
    }
    Ok(Welcome {
        session: raw.session,
        epoch: raw.epoch,
        now_ns: raw.now_ns,
        features: raw.features,
        body_bytes_max: raw.body_bytes_max,
        deadline_ns_max: raw.deadline_ns_max,
        geometry: raw.geometry.check()?,
    })
}

fn reason(kind: u16, code: Code, text: &str) -> Vec<u8> {
    datagram(kind, &(code as u16).to_le_bytes(), &[cut(text, TEXT_BYTES_MAX).as_bytes()])
}

fn parse_reason(body: &[u8]) -> Result<(Code, String), ControlError> {
    let (&number, text) = body.split_first_chunk().ok_or(ControlError::Bad("the length"))?;
    let code =
        Code::from_number(u16::from_le_bytes(number)).ok_or(ControlError::Bad("the code"))?;
    Ok((code, string("the text", text)?))
}

fn datagram(kind: u16, fixed: &[u8], texts: &[&[u8]]) -> Vec<u8> {
    let body_bytes = fixed.len() + texts.iter().map(|text| text.len()).sum::<usize>();
    let header =
        Header { magic: MAGIC, abi: ABI_VERSION, kind, reserved: 0, body_bytes: body_bytes as u32 };
    let mut out = Vec::with_capacity(size_of::<Header>() + body_bytes);
    out.extend_from_slice(bytemuck::bytes_of(&header));
    out.extend_from_slice(fixed);
    for text in texts {
        out.extend_from_slice(text);
    }
    out
}

fn string(field: &'static str, bytes: &[u8]) -> Result<String, ControlError> {
    str::from_utf8(bytes).map(str::to_owned).map_err(|_| ControlError::Bad(field))
}

fn split<T: Pod>(bytes: &[u8]) -> Option<(T, &[u8])> {
    let (raw, rest) = bytes.split_at_checked(size_of::<T>())?;
    Some((bytemuck::pod_read_unaligned(raw), rest))
}

impl From<&Geometry> for RawGeometry {
    fn from(geometry: &Geometry) -> RawGeometry {
        RawGeometry {
            lanes: geometry.lanes(),
            lane_bytes: geometry.lane_bytes(),
            arena_bytes: geometry.arena_bytes(),
        }
    }
}

impl From<&Welcome> for RawWelcome {
    fn from(welcome: &Welcome) -> RawWelcome {
        RawWelcome {
            session: welcome.session,
            epoch: welcome.epoch,
            now_ns: welcome.now_ns,
            features: welcome.features,
            body_bytes_max: welcome.body_bytes_max,
            deadline_ns_max: welcome.deadline_ns_max,
            geometry: (&welcome.geometry).into(),
        }
    }
}

impl RawGeometry {
    fn check(self) -> Result<Geometry, GeometryError> {
        Geometry::new(self.lanes, self.lane_bytes, self.arena_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn messages_come_back() {
        let mut hello = Hello::caller(Geometry::default(), 5);
        hello.credential = "a.b.c".into();
        hello.name = "llama".into();
        for message in [
            Message::Draining,
            Message::Ring,
            Message::Hello(hello),
            Message::Welcome(Welcome::new(1, 2, 3, Geometry::default())),
            Message::Refused(Refused::new(Code::NotAllowed, "uid 7 is not allowed")),
            Message::Goodbye(Goodbye::new(Code::ViolationEntry, "op 9 does not exist")),
        ] {
            assert_eq!(Message::parse(&message.encode()), Ok(message));
        }
    }

    #[test]
    fn another_version_is_told_before_anything_else() {
        let mut bytes = Message::Draining.encode();
        bytes[4] = 9;
        bytes[8] = 77;
        let error = Message::parse(&bytes).unwrap_err();
        assert_eq!(error.to_string(), "the peer speaks protocol version 9, this side 1");
    }

    proptest! {
        #[test]
        fn property_any_bytes_are_judged(mut bytes in prop::collection::vec(any::<u8>(), 0..200), valid in any::<bool>()) {
            if valid && bytes.len() > 16 {
                let body_bytes = (bytes.len() - 16) as u32;
                let kind = u16::from(bytes[8] % 7);
                let header = Header { magic: MAGIC, abi: ABI_VERSION, kind, reserved: 0, body_bytes };
                bytes[..16].copy_from_slice(bytemuck::bytes_of(&header));
            }
            let _ = Message::parse(&bytes);
        }
    }
}
