//! Requests written by hand, for peers that do not use the client library.

use ringmain_ring::LaneReader;
use ringmain_shm::{ReadMap, WriteMap};
use ringmain_sim::hostile::Hostile;
use ringmain_wire::entry::body_distance;
use ringmain_wire::{Code, Entry, ErrorFrame, ExchangeId, Flags, Kind, LaneId, Mode, RequestHead};

/// A lane of the peer's session.
pub fn lane(peer: &Hostile, number: u32) -> LaneId {
    peer.welcome().geometry.lane(number).unwrap()
}

/// The encoded head of a chat with this model.
pub fn head_of(model: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    RequestHead::new(model, "/chat/completions").encode(&mut bytes).unwrap();
    bytes
}

/// The body of a streamed chat with this prompt.
pub fn chat(prompt: &str) -> String {
    format!(
        r#"{{"model":"tiny","stream":true,"messages":[{{"role":"user","content":"{prompt}"}}]}}"#
    )
}

/// Writes head and body into the lane's share of the arena; the entry that names them.
pub fn entry(peer: &Hostile, number: u32, head: &[u8], body: &[u8]) -> Entry {
    let geometry = peer.welcome().geometry;
    let share = geometry.arena_bytes() / u64::from(geometry.lanes()) / 64 * 64;
    let offset = share * u64::from(number);
    let head_bytes = head.len() as u32;
    peer.write_arena(offset, head);
    peer.write_arena(offset + body_distance(head_bytes), body);
    let (lane, body_bytes) = (lane(peer, number), body.len() as u32);
    let flags = Flags::USAGE_REQUESTED;
    Entry::request(lane, Mode::Deltas, flags, None, offset, head_bytes, body_bytes)
}

/// Sends a request and rings for it.
pub fn ask(peer: &mut Hostile, number: u32, head: &[u8], body: &[u8]) -> ExchangeId {
    let entry = entry(peer, number, head, body);
    let id = peer.submit(&entry);
    peer.ring(1).unwrap();
    id
}

/// Reads a fresh lane to the end of its exchange: the code and message of its ERROR, `None` for
/// END.
pub fn end_of(peer: &Hostile, number: u32) -> Option<(Code, String)> {
    let geometry = peer.welcome().geometry;
    let (own, theirs) = (peer.caller().clone(), peer.responder().clone());
    read_on(peer, LaneReader::new(own, theirs, geometry, lane(peer, number)))
}

/// The same for a lane whose earlier exchanges were read, up to the cursor that was published.
pub fn end_of_next(peer: &Hostile, number: u32) -> Option<(Code, String)> {
    let geometry = peer.welcome().geometry;
    let cursor = peer.caller().load(geometry.cursor_offset(lane(peer, number)));
    let (own, theirs) = (peer.caller().clone(), peer.responder().clone());
    read_on(peer, LaneReader::new_at(own, theirs, geometry, lane(peer, number), cursor))
}

fn read_on(peer: &Hostile, mut reader: LaneReader<WriteMap, ReadMap>) -> Option<(Code, String)> {
    let mut payload = Vec::new();
    let mut end = None;
    super::eventually("the exchange ends", || {
        // Bound: a stream that is read as it comes ends.
        while let Some(header) = reader.next_copied(&mut payload).unwrap() {
            if reader.take_ring() {
                peer.ring(1).unwrap();
            }
            end = match Kind::from_number(header.kind).unwrap() {
                Kind::End => Some(None),
                Kind::Error => {
                    let frame = ErrorFrame::parse(&payload).unwrap();
                    Some(Some((frame.code, frame.message.to_owned())))
                }
                _ => None,
            };
        }
        end.is_some()
    });
    end.unwrap()
}
