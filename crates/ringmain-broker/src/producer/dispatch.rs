//! A request's way to a producer: a place in its arena, head and body copied there, an entry.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use ringmain_upstream::splice::{Wanted, splice};
use ringmain_wire::head::Method;
use ringmain_wire::{Code, RequestHead, Sent, Stage};

use super::desk::{Ask, NoPlace, Place};
use super::{Held, Producer};
use crate::egress::Egress;
use crate::failure::Failure;
use crate::intake::Body;
use crate::pipeline::{Inbound, private_body};
use crate::record::Record;
use crate::routes::{Served, ServedTarget};

/// Bytes that are copied at once: through private memory, for the two arenas never meet.
const PIECE: usize = 16 * 1024;
/// Pieces that are copied before others have their turn.
const PIECES_PER_TURN: usize = 64;

/// Gives a request to a producer of the target's name. Its caller has the memory of the request
/// back when this returns: it is asked at most once, and from a copy.
pub(crate) async fn ask<E: Egress>(
    route: &Served,
    target: &ServedTarget,
    inbound: &mut Inbound<'_>,
    egress: &mut E,
    record: &mut Record,
) -> Result<Held, Failure> {
    record.producer(target.name());
    let text = Text::of(inbound, target).await?;
    let head = head_of(target.model.as_deref(), inbound)?;
    // A head is at most HEAD_BYTES_MAX; a body that 32 bits do not count fits no arena.
    let head_bytes = head.len() as u32;
    let body_bytes = u32::try_from(text.len()).unwrap_or(u32::MAX);
    let mut draft = reserve(target.name(), inbound, head_bytes, body_bytes)?;
    draft.put_head(head);
    draft.put_body(text).await;
    // Looked at before the caller has its memory back: who is asked next needs it.
    if let Some(gone) = draft.producer.gone() {
        let text = format!("producer {} is gone: {}", target.name(), gone.text);
        return Err(Failure::new(Code::ProducerGone, Stage::Admit, text));
    }
    // From here on nothing fails: the request is the producer's.
    inbound.body.release();
    egress.release_request();
    egress.flush();
    record.target(&route.model, target.name());
    record.is_free = !draft.producer.is_trusted;
    record.produced = Some((Stage::AwaitHead, Sent::Maybe));
    Ok(draft.submit(Ask {
        mode: inbound.mode,
        flags: inbound.flags,
        deadline_ns: inbound.alarm.deadline().at_ns,
        head_bytes,
        body_bytes,
    }))
}

/// Where the body comes from that a producer is given.
enum Text<'a> {
    /// The arena of the caller: nothing is decided by what it says.
    Lent(&'a Body),
    /// A private copy that names the judged model, in order.
    Judged(Vec<Bytes>),
}

impl<'a> Text<'a> {
    async fn of(inbound: &'a Inbound<'_>, target: &ServedTarget) -> Result<Text<'a>, Failure> {
        if !target.is_guarded {
            return Ok(Text::Lent(&inbound.body));
        }
        if inbound.head.method != Method::Post {
            return Ok(Text::Judged(Vec::new()));
        }
        let model = target.model.as_deref().unwrap_or(inbound.head.route);
        let body = private_body(inbound).await?;
        let wanted = Wanted { model: Some(model), usage: false };
        let spliced = splice(&body, wanted).map_err(|error| {
            let name = target.name();
            let text = format!("producer {name} needs the judged model in the request: {error}");
            Failure::new(Code::InvalidRequest, Stage::Intake, text)
        })?;
        Ok(Text::Judged(spliced.pieces))
    }

    fn len(&self) -> usize {
        match self {
            Text::Lent(body) => body.len(),
            Text::Judged(pieces) => pieces.iter().map(Bytes::len).sum(),
        }
    }

    /// Copies the next bytes, which are those from `at`.
    fn read(&mut self, at: usize, out: &mut [u8]) {
        match self {
            Text::Lent(body) => body.copy_piece(at, out),
            Text::Judged(pieces) => {
                let mut rest = out;
                for piece in pieces {
                    let (now, later) = rest.split_at_mut(piece.len().min(rest.len()));
                    now.copy_from_slice(&piece.split_to(now.len()));
                    rest = later;
                }
            }
        }
    }
}

/// The head that the producer is given: the caller's, with the judged name of the model.
fn head_of(model: Option<&str>, inbound: &Inbound<'_>) -> Result<Vec<u8>, Failure> {
    let mut head: RequestHead<'_> = inbound.head.clone();
    head.route = model.unwrap_or(inbound.head.route);
    let mut bytes = Vec::with_capacity(256);
    let encoded = head.encode(&mut bytes);
    encoded.map_err(|error| Failure::new(Code::InvalidHead, Stage::Admit, error.to_string()))?;
    Ok(bytes)
}

/// A place at the producer of this name that has the least to do and room for it.
fn reserve(
    name: &str,
    inbound: &Inbound<'_>,
    head_bytes: u32,
    body_bytes: u32,
) -> Result<Draft, Failure> {
    let producers = inbound.producers.of_name(name);
    if producers.is_empty() {
        let text = format!("no producer {name} is attached");
        return Err(Failure::new(Code::ProducerAbsent, Stage::Admit, text));
    }
    let mut largest = None;
    for producer in producers {
        let place = producer.desk.lock().reserve(head_bytes, body_bytes);
        match place {
            Ok(place) => return Ok(Draft { producer, place, is_submitted: false }),
            Err(NoPlace::Busy) => largest = Some(u64::MAX),
            Err(NoPlace::TooLarge { arena_bytes }) => largest = largest.max(Some(arena_bytes)),
        }
    }
    Err(match largest {
        Some(u64::MAX) | None => {
            let text = format!("every lane of producer {name}, or its arena, is taken");
            Failure::new(Code::EndpointUnavailable, Stage::Admit, text)
        }
        Some(arena_bytes) => {
            let text = format!(
                "a body of {body_bytes} bytes does not fit the arena of producer {name}, \
                 {arena_bytes} bytes"
            );
            Failure::new(Code::BodyTooLarge, Stage::Admit, text)
        }
    })
}

/// A place that is being filled. Dropped, it is free again.
struct Draft {
    producer: Arc<Producer>,
    place: Place,
    is_submitted: bool,
}

impl Draft {
    /// Takes the head, of which no copy is kept while others have their turn.
    fn put_head(&mut self, head: Vec<u8>) {
        self.producer.own.copy_in(self.place.head_at, &head);
    }

    /// Copies the body. What the caller changes meanwhile in one that nobody looked into is what
    /// the producer is asked: nothing is decided by it here.
    async fn put_body(&mut self, mut text: Text<'_>) {
        let (own, bytes) = (&self.producer.own, text.len());
        let mut piece = vec![0; PIECE.min(bytes)];
        for (number, at) in (0..bytes).step_by(PIECE).enumerate() {
            let piece = &mut piece[..PIECE.min(bytes - at)];
            text.read(at, piece);
            own.copy_in(self.place.body_at + at, piece);
            if number % PIECES_PER_TURN == PIECES_PER_TURN - 1 {
                tokio::task::yield_now().await;
            }
        }
    }

    fn submit(mut self, ask: Ask) -> Held {
        self.is_submitted = true;
        let (producer, lane) = (self.producer.clone(), self.place.lane);
        producer.exchanges.fetch_add(1, Ordering::Relaxed);
        producer.exchanges_total.fetch_add(1, Ordering::Relaxed);
        let id = producer.desk.lock().submit(lane, ask);
        producer.ring();
        Held::new(producer, lane, id)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.is_submitted {
            self.producer.desk.lock().abandon(self.place.lane);
        }
    }
}
