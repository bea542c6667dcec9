//! What stands in the counters segment.
//!
//! ```text
//! 0      header: magic, version, sequence, totals, numbers of rows
//! ..     refusals by code, failures by code (one word per code number)
//! ..     endpoint rows
//! ..     session rows
//! ..     limit rows
//! ```
//! The sequence word is odd while the broker writes.

use std::io;

use bytemuck::{Pod, Zeroable};
use ringmain_upstream::PoolGauges;
use ringmain_wire::Code;
use ringmain_wire::head::cut;
use thiserror::Error;

use super::health::EndpointHealth;
use super::limits::{LIMIT_ROWS, LimitRow, RawLimit};

/// Counts that are not 0, by code.
type Counts = Vec<(Code, u64)>;

const MAGIC: u64 = u64::from_le_bytes(*b"RGMNCNT\0");
const VERSION: u32 = 3;
/// Words of a table by code; every code number is below.
pub(super) const CODES: usize = 128;
/// Most endpoints listed.
const ENDPOINT_ROWS: usize = 64;
/// Most sessions listed; more are counted and not listed.
const SESSION_ROWS: usize = 2048;
const NAME_BYTES: usize = 64;

/// Most bytes that a snapshot takes: the size of the segment.
pub(super) const SEGMENT_BYTES: usize = size_of::<RawHeader>()
    + 2 * CODES * size_of::<u64>()
    + ENDPOINT_ROWS * size_of::<RawEndpoint>()
    + SESSION_ROWS * size_of::<RawSession>()
    + LIMIT_ROWS * size_of::<RawLimit>();
/// Byte offset of the sequence word.
pub(super) const SEQUENCE_OFFSET: usize = std::mem::offset_of!(RawHeader, sequence);

/// The counters at one instant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// What the broker is doing.
    pub state: State,
    /// Process id of the broker.
    pub pid: u32,
    /// Differs for each start of a broker.
    pub epoch: u64,
    /// When it started, ms since 1970.
    pub started_ms: u64,
    /// When this was written, ms since 1970.
    pub updated_ms: u64,
    /// Sessions attached now.
    pub sessions: u64,
    /// Sessions ever attached.
    pub sessions_total: u64,
    /// Exchanges in flight.
    pub exchanges: u64,
    /// Exchanges ever accepted.
    pub exchanges_total: u64,
    /// Exchanges that ended in END.
    pub ended: u64,
    /// Exchanges that ended in ERROR.
    pub failed: u64,
    /// Content frames written.
    pub content_frames: u64,
    /// Payload bytes of content frames written.
    pub content_bytes: u64,
    /// Attachments and requests refused, and sessions closed for a violation, by code.
    pub refusals: Vec<(Code, u64)>,
    /// Accepted exchanges that ended in ERROR, by code.
    pub failures: Vec<(Code, u64)>,
    /// The endpoints, in the order of the configuration, at most 64.
    pub endpoints: Vec<EndpointRow>,
    /// The sessions by number, at most 2,048.
    pub session_rows: Vec<SessionRow>,
    /// The rate limits in the order of the configuration, then the endpoints that are held to a
    /// rate because they refused; at most 256.
    pub limits: Vec<LimitRow>,
}

/// What the broker is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// It finishes what is in flight and takes nothing new.
    Draining = 2,
    /// It has ended.
    #[default]
    Ended = 3,
    /// It takes requests.
    Serving = 1,
}

/// One endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndpointRow {
    /// Its name, cut at 64 bytes.
    pub name: String,
    /// Connections opened.
    pub connections_opened: u64,
    /// Answers that needed no new connection.
    pub connections_reused: u64,
    /// Requests sent.
    pub requests: u64,
    /// Answers whose head arrived.
    pub answers: u64,
    /// Its connections.
    pub pool: PoolGauges,
    /// How well it does.
    pub health: EndpointHealth,
}

/// One session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionRow {
    /// Its number, as in the log.
    pub session: u64,
    /// Uid of the peer.
    pub uid: u32,
    /// Process id of the peer when it attached.
    pub pid: u32,
    /// Exchanges in flight.
    pub exchanges: u64,
    /// Exchanges ever accepted.
    pub exchanges_total: u64,
}

/// Why no snapshot could be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CountersError {
    /// The broker wrote during every attempt.
    #[error("the counters changed during each of {0} attempts to read them")]
    Busy(u32),
    /// Not a counters segment of this version.
    #[error("this is not a counters segment of version {VERSION}")]
    Format,
    /// The segment could not be read.
    #[error("the counters {name:?} cannot be read: {source}")]
    Open {
        /// Name of the segment.
        name: String,
        /// Why.
        source: io::Error,
    },
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct RawHeader {
    magic: u64,
    sequence: u64,
    version: u32,
    state: u32,
    pid: u32,
    endpoint_rows: u32,
    session_rows: u32,
    limit_rows: u32,
    epoch: u64,
    started_ms: u64,
    updated_ms: u64,
    totals: [u64; 8],
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct RawEndpoint {
    name: [u8; NAME_BYTES],
    counts: [u64; 4],
    pool: [u64; PoolGauges::WORDS],
    health: [u64; 6],
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct RawSession {
    session: u64,
    uid: u32,
    pid: u32,
    exchanges: u64,
    exchanges_total: u64,
}

/// Attempts to read between two writes; the broker writes at most four times a second.
const ATTEMPTS: u32 = 16;

impl Snapshot {
    /// Reads the counters segment of this name.
    ///
    /// # Errors
    /// [`CountersError`]; bytes that another process left there never make it panic.
    pub fn read(name: &str) -> Result<Snapshot, CountersError> {
        for _ in 0..ATTEMPTS {
            let open = |source| CountersError::Open { name: name.to_owned(), source };
            let map = ringmain_shm::open_shared_counters(name).map_err(open)?;
            let mut bytes = vec![0; map.len()];
            map.copy_out(0, &mut bytes);
            // A copy that took part of two writes has an odd sequence or does not repeat.
            let again = ringmain_shm::open_shared_counters(name).map_err(open)?;
            let sequence = sequence_of(&bytes).ok_or(CountersError::Format)?;
            let still = again.len() == map.len() && again.load(SEQUENCE_OFFSET) == sequence;
            if sequence.is_multiple_of(2) && still {
                return Snapshot::decode(&bytes);
            }
        }
        Err(CountersError::Busy(ATTEMPTS))
    }

    /// Judges a copy of the segment.
    ///
    /// # Errors
    /// [`CountersError::Format`].
    pub fn decode(bytes: &[u8]) -> Result<Snapshot, CountersError> {
        decode(bytes).ok_or(CountersError::Format)
    }

    /// The bytes of the segment, with this sequence; rows beyond the bounds are left out.
    pub(super) fn encode(&self, sequence: u64) -> Vec<u8> {
        let endpoints = &self.endpoints[..self.endpoints.len().min(ENDPOINT_ROWS)];
        let sessions = &self.session_rows[..self.session_rows.len().min(SESSION_ROWS)];
        let limits = &self.limits[..self.limits.len().min(LIMIT_ROWS)];
        let header = RawHeader {
            magic: MAGIC,
            sequence,
            version: VERSION,
            state: self.state as u32,
            pid: self.pid,
            endpoint_rows: endpoints.len() as u32,
            session_rows: sessions.len() as u32,
            limit_rows: limits.len() as u32,
            epoch: self.epoch,
            started_ms: self.started_ms,
            updated_ms: self.updated_ms,
            totals: self.totals(),
        };
        let mut out = Vec::with_capacity(SEGMENT_BYTES);
        out.extend_from_slice(bytemuck::bytes_of(&header));
        out.extend_from_slice(bytemuck::cast_slice(&table(&self.refusals)));
        out.extend_from_slice(bytemuck::cast_slice(&table(&self.failures)));
        endpoints.iter().for_each(|row| out.extend_from_slice(bytemuck::bytes_of(&row.raw())));
        sessions.iter().for_each(|row| out.extend_from_slice(bytemuck::bytes_of(&row.raw())));
        limits.iter().for_each(|row| out.extend_from_slice(bytemuck::bytes_of(&row.raw())));
        out
    }

    fn totals(&self) -> [u64; 8] {
        [
            self.sessions,
            self.sessions_total,
            self.exchanges,
            self.exchanges_total,
            self.ended,
            self.failed,
            self.content_frames,
            self.content_bytes,
        ]
    }
}

impl EndpointRow {
    fn raw(&self) -> RawEndpoint {
        let mut name = [0; NAME_BYTES];
        let text = cut(&self.name, NAME_BYTES).as_bytes();
        name[..text.len()].copy_from_slice(text);
        let counts =
            [self.connections_opened, self.connections_reused, self.requests, self.answers];
        RawEndpoint { name, counts, pool: self.pool.to_words(), health: self.health.words() }
    }

    fn of(raw: &RawEndpoint) -> EndpointRow {
        let end = raw.name.iter().position(|b| *b == 0).unwrap_or(NAME_BYTES);
        let [connections_opened, connections_reused, requests, answers] = raw.counts;
        let name = String::from_utf8_lossy(&raw.name[..end]).into_owned();
        EndpointRow {
            name,
            connections_opened,
            connections_reused,
            requests,
            answers,
            pool: PoolGauges::from_words(raw.pool),
            health: EndpointHealth::of_words(raw.health),
        }
    }
}

impl SessionRow {
    fn raw(&self) -> RawSession {
        let SessionRow { session, uid, pid, exchanges, exchanges_total } = *self;
        RawSession { session, uid, pid, exchanges, exchanges_total }
    }

    fn of(raw: &RawSession) -> SessionRow {
        let RawSession { session, uid, pid, exchanges, exchanges_total } = *raw;
        SessionRow { session, uid, pid, exchanges, exchanges_total }
    }
}

fn sequence_of(bytes: &[u8]) -> Option<u64> {
    let word = bytes.get(SEQUENCE_OFFSET..)?.first_chunk()?;
    Some(u64::from_ne_bytes(*word))
}

fn table(counts: &[(Code, u64)]) -> [u64; CODES] {
    let mut table = [0; CODES];
    for (code, count) in counts {
        table[*code as usize % CODES] = *count;
    }
    table
}

fn decode(bytes: &[u8]) -> Option<Snapshot> {
    let (header, rest) = take::<RawHeader>(bytes)?;
    let rows = (header.endpoint_rows as usize, header.session_rows as usize);
    let is_ours = header.magic == MAGIC && header.version == VERSION;
    let limit_rows = header.limit_rows as usize;
    if !is_ours || rows.0 > ENDPOINT_ROWS || rows.1 > SESSION_ROWS || limit_rows > LIMIT_ROWS {
        return None;
    }
    let (refusals, rest) = take_table(rest)?;
    let (failures, mut rest) = take_table(rest)?;
    let mut endpoints = Vec::with_capacity(rows.0);
    for _ in 0..rows.0 {
        let (raw, after) = take::<RawEndpoint>(rest)?;
        (rest, _) = (after, endpoints.push(EndpointRow::of(&raw)));
    }
    let mut session_rows = Vec::with_capacity(rows.1);
    for _ in 0..rows.1 {
        let (raw, after) = take::<RawSession>(rest)?;
        (rest, _) = (after, session_rows.push(SessionRow::of(&raw)));
    }
    let mut limits = Vec::with_capacity(limit_rows);
    for _ in 0..limit_rows {
        let (raw, after) = take::<RawLimit>(rest)?;
        (rest, _) = (after, limits.push(LimitRow::of(&raw)));
    }
    let state = match header.state {
        1 => State::Serving,
        2 => State::Draining,
        _ => State::Ended,
    };
    let [sessions, sessions_total, exchanges, exchanges_total, ..] = header.totals;
    let [.., ended, failed, content_frames, content_bytes] = header.totals;
    Some(Snapshot {
        state,
        pid: header.pid,
        epoch: header.epoch,
        started_ms: header.started_ms,
        updated_ms: header.updated_ms,
        sessions,
        sessions_total,
        exchanges,
        exchanges_total,
        ended,
        failed,
        content_frames,
        content_bytes,
        refusals,
        failures,
        endpoints,
        session_rows,
        limits,
    })
}

fn take<T: Pod>(bytes: &[u8]) -> Option<(T, &[u8])> {
    let (raw, rest) = bytes.split_at_checked(size_of::<T>())?;
    Some((bytemuck::pod_read_unaligned(raw), rest))
}

fn take_table(bytes: &[u8]) -> Option<(Counts, &[u8])> {
    let (table, rest) = take::<[u64; CODES]>(bytes)?;
    let counts = Code::ALL.iter().map(|code| (*code, table[*code as usize % CODES]));
    Some((counts.filter(|(_, count)| *count > 0).collect(), rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn full() -> Snapshot {
        let endpoint = |n: u64| EndpointRow {
            name: format!("endpoint-{n}"),
            connections_opened: n,
            connections_reused: 2 * n,
            requests: 3,
            answers: 4,
            pool: PoolGauges::from_words([n; PoolGauges::WORDS]),
            health: EndpointHealth::of_words([n, 5, 6, 7, 8, 9]),
        };
        let session =
            |n: u64| SessionRow { session: n, uid: 1000, pid: 7, exchanges: 1, exchanges_total: n };
        let limit = |n: i64| LimitRow {
            name: format!("limit-{n}"),
            requests: (n % 2 == 0).then_some(n),
            tokens: (n > 1).then_some(-n),
            in_flight: 1,
            waiting: 2,
            refused: 3,
        };
        Snapshot {
            state: State::Draining,
            pid: 1,
            epoch: 2,
            started_ms: 3,
            updated_ms: 4,
            sessions: 5,
            sessions_total: 6,
            exchanges: 7,
            exchanges_total: 8,
            ended: 9,
            failed: 10,
            content_frames: 11,
            content_bytes: 12,
            refusals: vec![(Code::UnknownRoute, 3), (Code::ViolationSegment, 1)],
            failures: vec![(Code::UpstreamReset, 9)],
            endpoints: (0..3).map(endpoint).collect(),
            session_rows: (0..9).map(session).collect(),
            limits: (0..4).map(limit).collect(),
        }
    }

    #[test]
    fn every_code_has_a_place_of_its_own() {
        assert!(Code::ALL.iter().all(|code| (*code as usize) < CODES));
    }

    #[test]
    fn a_snapshot_comes_back() {
        let bytes = full().encode(4);
        assert_eq!(sequence_of(&bytes), Some(4));
        assert_eq!(Snapshot::decode(&bytes).unwrap(), full());
    }

    #[test]
    fn rows_beyond_the_bounds_are_left_out() {
        let mut many = full();
        many.session_rows = vec![SessionRow::default(); SESSION_ROWS + 9];
        many.endpoints = vec![EndpointRow::default(); ENDPOINT_ROWS + 9];
        many.limits = vec![LimitRow::default(); LIMIT_ROWS + 9];
        let bytes = many.encode(2);
        assert_eq!(bytes.len(), SEGMENT_BYTES);
        assert_eq!(Snapshot::decode(&bytes).unwrap().session_rows.len(), SESSION_ROWS);
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged(at in 0usize..3000, with in any::<u8>(), cut in 0usize..3000) {
            let mut bytes = full().encode(2);
            let (at, cut) = (at % bytes.len(), cut % bytes.len());
            bytes[at] = with;
            let _ = (Snapshot::decode(&bytes), Snapshot::decode(&bytes[..cut]));
        }
    }
}
