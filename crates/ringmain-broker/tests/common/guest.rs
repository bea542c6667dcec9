//! A caller that came by no session: its frames are kept in a list.

use std::task::{Context, Poll};

use bytes::Bytes;
use ringmain_broker::Identity;
use ringmain_broker::face::{Egress, Failure, Push, Request};
use ringmain_shm::own_uid;
use ringmain_wire::{Kind, Mode, RequestHead};

#[derive(Default)]
pub struct Kept {
    pub frames: Vec<(Kind, Vec<u8>)>,
    pub released: bool,
}

impl Kept {
    pub fn text(&self) -> String {
        let deltas = self.frames.iter().filter(|(kind, _)| *kind == Kind::Delta);
        deltas.map(|(_, payload)| String::from_utf8_lossy(payload)).collect()
    }
}

impl Egress for Kept {
    fn push(&mut self, kind: Kind, _choice: u16, payload: &[u8]) -> Result<Push, Failure> {
        self.frames.push((kind, payload.to_vec()));
        Ok(Push::Written)
    }

    fn poll_room(&mut self, _: &mut Context<'_>, _: u64) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn release_request(&mut self) {
        self.released = true;
    }

    fn flush(&mut self) {}
}

pub fn caller() -> Identity {
    Identity { uid: own_uid(), ..Identity::default() }
}

pub fn chat() -> Request<'static> {
    let head = RequestHead::new("tiny", "/chat/completions");
    Request::new(head, Bytes::from_static(b"{}"), Mode::Deltas)
}
