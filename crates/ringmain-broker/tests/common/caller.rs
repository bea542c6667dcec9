//! A caller made of bare ring ends, so that a test can also do what no client library would.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use ringmain_ring::{LaneReader, LoanReader, Ring, SubmissionWriter};
use ringmain_shm::{Control, ReadMap, Ringer, WriteMap, monotonic_ns};
use ringmain_wire::control::{Goodbye, Hello, Message, Refused, Welcome};
use ringmain_wire::entry::body_distance;
use ringmain_wire::frame::EndFrame;
use ringmain_wire::{
    Code, Entry, ErrorFrame, ExchangeId, Flags, FrameHeader, Geometry, Kind, LaneId, Mode,
    RequestHead,
};

use super::{soon, until};

type Reader = LaneReader<WriteMap, ReadMap>;

pub struct Caller {
    pub control: Control,
    pub welcome: Welcome,
    pub geometry: Geometry,
    pub own: WriteMap,
    pub broker: ReadMap,
    pub ringer: Ringer,
    pub bell: OwnedFd,
    due: Ring<ReadMap>,
    submissions: SubmissionWriter<WriteMap>,
    readers: Vec<Reader>,
    loans: Vec<LoanReader<ReadMap>>,
}

/// Everything of one exchange, collected to its terminal.
#[derive(Debug, Default)]
pub struct Got {
    pub frames: Vec<(Kind, Vec<u8>)>,
    pub end: Option<u64>,
    pub error: Option<(Code, String)>,
}

impl Got {
    pub fn text(&self) -> String {
        let deltas = self.frames.iter().filter(|(kind, _)| *kind == Kind::Delta);
        deltas.map(|(_, payload)| String::from_utf8(payload.clone()).unwrap()).collect()
    }

    pub fn code(&self) -> Code {
        self.error.as_ref().expect("an error").0
    }

    pub fn message(&self) -> &str {
        &self.error.as_ref().expect("an error").1
    }
}

pub fn small() -> Geometry {
    Geometry::new(4, 4096, 64 * 1024).unwrap()
}

impl Caller {
    pub async fn attach(socket: &Path) -> Caller {
        Caller::try_attach(socket, small()).await.unwrap()
    }

    pub async fn try_attach(socket: &Path, geometry: Geometry) -> Result<Caller, Refused> {
        let control = Control::connect(socket).unwrap();
        let hello = Message::Hello(Hello::caller(geometry, monotonic_ns()));
        control.send(&hello.encode(), &[]).unwrap();
        let (message, fds) = soon(hear(&control)).await.unwrap();
        let welcome = match message {
            Message::Welcome(welcome) => welcome,
            Message::Refused(refused) => return Err(refused),
            other => panic!("{other:?}"),
        };
        assert_eq!(welcome.geometry, geometry);
        let [own, broker, bell, own_bell] = fds.try_into().unwrap();
        let own = WriteMap::attach(own, geometry.caller_bytes()).unwrap();
        let broker = ReadMap::attach(broker, geometry.responder_bytes()).unwrap();
        let reader = |lane| Reader::new(own.clone(), broker.clone(), geometry, lane);
        let loan = |lane| LoanReader::new(broker.clone(), geometry, lane);
        Ok(Caller {
            control,
            welcome,
            geometry,
            submissions: SubmissionWriter::new(own.clone(), geometry),
            due: Ring::new(broker.clone(), Geometry::RESPONDER_ARMED),
            readers: geometry.all_lanes().map(reader).collect(),
            loans: geometry.all_lanes().map(loan).collect(),
            ringer: Ringer::write(bell),
            bell: own_bell,
            own,
            broker,
        })
    }

    pub fn lane(&self, index: u32) -> LaneId {
        self.geometry.lane(index).unwrap()
    }

    pub fn push(&mut self, entry: Entry) -> ExchangeId {
        let id = self.submissions.push(entry);
        if self.due.due() {
            self.ringer.ring().unwrap();
        }
        id
    }

    /// Writes head and body into the lane's part of the arena and submits.
    pub fn request(&mut self, lane: u32, mode: Mode, head: &[u8], body: &[u8]) -> ExchangeId {
        self.request_until(lane, mode, head, body, None)
    }

    pub fn request_until(
        &mut self,
        lane: u32,
        mode: Mode,
        head: &[u8],
        body: &[u8],
        deadline_ns: Option<u64>,
    ) -> ExchangeId {
        let share = self.geometry.arena_bytes() / u64::from(self.geometry.lanes()) / 64 * 64;
        let offset = share * u64::from(lane);
        let at = self.geometry.arena_offset() + offset as usize;
        self.own.copy_in(at, head);
        self.own.copy_in(at + body_distance(head.len() as u32) as usize, body);
        let (head_bytes, body_bytes) = (head.len() as u32, body.len() as u32);
        let lane = self.lane(lane);
        let entry =
            Entry::request(lane, mode, Flags::NONE, deadline_ns, offset, head_bytes, body_bytes);
        self.push(entry)
    }

    /// A chat request for a model.
    pub fn chat(&mut self, lane: u32, model: &str) -> ExchangeId {
        self.request(lane, Mode::Deltas, &head(model), br#"{"stream":true}"#)
    }

    pub fn cancel(&mut self, lane: u32, target: ExchangeId) {
        let entry = Entry::cancel(self.lane(lane), target);
        self.push(entry);
    }

    /// The next frame of a lane, copied; `None` when there is none yet.
    pub fn next(&mut self, lane: u32) -> Option<(FrameHeader, Vec<u8>)> {
        let mut payload = Vec::new();
        let reader = &mut self.readers[lane as usize];
        let header = reader.next_copied(&mut payload).unwrap();
        if reader.take_ring() {
            self.ringer.ring().unwrap();
        }
        header.map(|header| (header, payload))
    }

    /// Whether a frame stands ready.
    pub fn is_ready(&self, lane: u32) -> bool {
        self.readers[lane as usize].is_ready()
    }

    /// Waits for the next frame of a kind.
    pub async fn wait_for(&mut self, lane: u32, kind: Kind) {
        let mut seen = Vec::new();
        until(|| {
            let frame = self.next(lane);
            seen.extend(frame.map(|(header, _)| header.kind));
            seen.last() == Some(&(kind as u8))
        })
        .await;
    }

    /// Collects an exchange to its terminal.
    pub async fn finish(&mut self, lane: u32) -> Got {
        let mut got = Got::default();
        soon(async {
            let mut idle_looks = 0;
            loop {
                match self.next(lane) {
                    Some((header, payload)) if got.take(&header, &payload) => return,
                    Some(_) => idle_looks = 0,
                    None if idle_looks < 50 => {
                        idle_looks += 1;
                        tokio::task::yield_now().await;
                    }
                    None => tokio::time::sleep(Duration::from_millis(1)).await,
                }
            }
        })
        .await;
        assert!(self.next(lane).is_none(), "nothing follows a terminal");
        got
    }

    pub fn loan_is_back(&self, lane: u32, id: ExchangeId) -> bool {
        self.loans[lane as usize].is_back(id)
    }

    /// Waits for the broker's Goodbye and the end of the connection.
    pub async fn goodbye(&mut self) -> Goodbye {
        let mut goodbye = None;
        soon(async {
            while let Some((message, _)) = hear(&self.control).await {
                if let Message::Goodbye(said) = message {
                    goodbye = Some(said);
                }
            }
        })
        .await;
        goodbye.expect("a goodbye before the end")
    }
}

impl Got {
    fn take(&mut self, header: &FrameHeader, payload: &[u8]) -> bool {
        match Kind::from_number(header.kind).unwrap() {
            Kind::End => self.end = Some(EndFrame::parse(payload).unwrap().bytes),
            Kind::Error => {
                let frame = ErrorFrame::parse(payload).unwrap();
                self.error = Some((frame.code, frame.message.to_owned()));
            }
            kind => {
                self.frames.push((kind, payload.to_vec()));
                return false;
            }
        }
        true
    }
}

pub fn head(model: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    RequestHead::new(model, "/chat/completions").encode(&mut bytes).unwrap();
    bytes
}

/// The next control message with its descriptors; `None` at the end of the connection.
pub async fn hear(control: &Control) -> Option<(Message, Vec<OwnedFd>)> {
    loop {
        let mut datagram = [0; 4096];
        match control.recv(&mut datagram) {
            Ok(received) if received.bytes == 0 => return None,
            Ok(received) => {
                let message = Message::parse(&datagram[..received.bytes]).unwrap();
                return Some((message, received.fds));
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Err(_) => return None,
        }
    }
}
