//! A broker for tests: the responder's side of real segments and a real socket, on one thread. The
//! route of a request says how it is answered.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ringmain_ring::{LaneWriter, LoanWriter, Push, Ring, SubmissionReader};
use ringmain_shm::{
    Bell, Compat, Control, Listener, OwnSegment, PeerSegment, ReadMap, Ringer, WriteMap, bell_pair,
    monotonic_ns,
};
use ringmain_wire::control::{Goodbye, Message, Refused, Welcome};
use ringmain_wire::frame::{EndFrame, ToolFrame, Usage};
use ringmain_wire::limits::CONTROL_BYTES_MAX;
use ringmain_wire::{
    Code, ErrorFrame, ExchangeId, FinishReason, Geometry, Kind, LaneId, Request, RequestHead,
    ResponseHead, Stage, Submission,
};

/// The broker. Dropping it is its death: nothing is said to anybody.
pub(crate) struct Fake {
    path: PathBuf,
    seen: Arc<Mutex<Seen>>,
    orders: Sender<Order>,
    thread: Option<JoinHandle<()>>,
}

/// What the broker saw.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) arenas: Vec<u64>,
    pub(crate) bodies: Vec<Vec<u8>>,
    pub(crate) heads: Vec<String>,
    pub(crate) deadlines: Vec<Option<u64>>,
    pub(crate) cancels: usize,
}

/// What a test tells it to do.
pub(crate) enum Order {
    /// Send this to every session.
    Say(Message),
    /// Refuse the next so many attachments.
    Refuse(usize, Code),
    /// Refuse attachments with a larger arena.
    ArenaMax(u64),
    /// Give back the loans of route `keep`.
    GiveBack,
}

struct Broker {
    listener: Listener,
    seen: Arc<Mutex<Seen>>,
    orders: Receiver<Order>,
    epoch: u64,
    hosts: Vec<Host>,
    refuse: Option<(usize, Code)>,
    arena_max: u64,
}

struct Host {
    control: Control,
    geometry: Geometry,
    entries: SubmissionReader<ReadMap>,
    caller: ReadMap,
    lanes: Vec<Lane>,
    ring: Ring<ReadMap>,
    ringer: Ringer,
    _bell: Bell,
}

struct Lane {
    writer: LaneWriter<WriteMap, ReadMap>,
    loan: LoanWriter<WriteMap>,
    jobs: VecDeque<Job>,
    kept: Option<ExchangeId>,
    /// Ignores cancels.
    mute: bool,
}

enum Job {
    Frame(Kind, u16, Vec<u8>),
    Finish(Kind, Vec<u8>),
}

impl Fake {
    pub(crate) fn start(path: &Path, epoch: u64) -> Fake {
        let listener = Listener::bind(path, 0o600, None).unwrap();
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let (orders, received) = channel();
        let mut broker = Broker {
            listener,
            seen: seen.clone(),
            orders: received,
            epoch,
            hosts: Vec::new(),
            refuse: None,
            arena_max: u64::MAX,
        };
        let thread = thread::spawn(move || {
            while broker.turn() {
                thread::sleep(Duration::from_micros(100));
            }
        });
        Fake { path: path.to_owned(), seen, orders, thread: Some(thread) }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn order(&self, order: Order) {
        self.orders.send(order).unwrap();
    }

    pub(crate) fn seen<T>(&self, look: impl FnOnce(&Seen) -> T) -> T {
        look(&self.seen.lock().unwrap())
    }

    /// Waits until the broker saw something. A test that hangs here has failed.
    pub(crate) fn until(&self, mut holds: impl FnMut(&Seen) -> bool) {
        while !self.seen(&mut holds) {
            thread::yield_now();
        }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        let (closed, _) = channel();
        self.orders = closed;
        self.thread.take().unwrap().join().unwrap();
    }
}

impl Broker {
    fn turn(&mut self) -> bool {
        loop {
            match self.orders.try_recv() {
                Ok(order) => self.obey(order),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
        while let Some(control) = self.listener.accept().unwrap() {
            self.welcome(control);
        }
        for host in &mut self.hosts {
            host.turn(&self.seen);
        }
        true
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Say(message) => {
                for host in &self.hosts {
                    let _ = host.control.send(&message.encode(), &[]);
                }
                let closes = matches!(message, Message::Goodbye(Goodbye { .. }));
                self.hosts.retain(|_| !closes);
            }
            Order::Refuse(times, code) => self.refuse = Some((times, code)),
            Order::ArenaMax(bytes) => self.arena_max = bytes,
            Order::GiveBack => {
                for lane in self.hosts.iter_mut().flat_map(|host| &mut host.lanes) {
                    if let Some(exchange) = lane.kept.take() {
                        lane.loan.give_back(exchange);
                    }
                }
            }
        }
    }

    fn welcome(&mut self, control: Control) {
        let mut buffer = [0; CONTROL_BYTES_MAX];
        let received = loop {
            match control.recv(&mut buffer) {
                Ok(received) => break received,
                Err(_) => thread::yield_now(),
            }
        };
        let Ok(Message::Hello(hello)) = Message::parse(&buffer[..received.bytes]) else { return };
        let refuse = |code| {
            let refused = Refused::new(code, "uid 7 may not; ask the operator");
            // The client may have lost its patience meanwhile.
            let _ = control.send(&Message::Refused(refused).encode(), &[]);
        };
        if let Some((times, code)) = &mut self.refuse
            && *times > 0
        {
            *times -= 1;
            return refuse(*code);
        }
        if hello.geometry.arena_bytes() > self.arena_max {
            return refuse(Code::QuotaExceeded);
        }
        self.seen.lock().unwrap().arenas.push(hello.geometry.arena_bytes());
        self.hosts.push(Host::new(control, hello.geometry, self.epoch));
    }
}

impl Host {
    fn new(control: Control, geometry: Geometry, epoch: u64) -> Host {
        let compat = Compat::default();
        let caller = PeerSegment::create("caller", geometry.caller_bytes(), &compat).unwrap();
        let uid = ringmain_shm::own_uid();
        let own = OwnSegment::create("own", geometry.responder_bytes(), uid, &compat).unwrap();
        let (bell, bell_fd) = bell_pair().unwrap();
        let (client_bell, client_fd) = bell_pair().unwrap();
        let welcome = Message::Welcome(Welcome::new(1, epoch, monotonic_ns(), geometry));
        let fds = [caller.fd.as_fd(), own.fd.as_fd(), bell_fd.as_fd(), client_bell.as_fd()];
        let _ = control.send(&welcome.encode(), &fds);
        let lane = |id| Lane {
            writer: LaneWriter::new(own.map.clone(), caller.map.clone(), geometry, id),
            loan: LoanWriter::new(own.map.clone(), geometry, id),
            jobs: VecDeque::new(),
            kept: None,
            mute: false,
        };
        Host {
            control,
            geometry,
            entries: SubmissionReader::new(caller.map.clone(), geometry),
            lanes: geometry.all_lanes().map(lane).collect(),
            ring: Ring::new(caller.map.clone(), Geometry::CALLER_ARMED),
            ringer: Ringer::write(client_fd),
            caller: caller.map,
            _bell: bell,
        }
    }

    fn turn(&mut self, seen: &Mutex<Seen>) {
        while let Some((id, entry)) = self.entries.next() {
            match Submission::parse(&entry, &self.geometry).unwrap() {
                Submission::Request(request) => self.accept(id, &request, seen),
                Submission::Ping { lane } => {
                    let lane = &mut self.lanes[lane.index()];
                    lane.writer.begin(id).unwrap();
                    lane.jobs.push_back(end());
                }
                Submission::Cancel { lane, target } => {
                    seen.lock().unwrap().cancels += 1;
                    self.lanes[lane.index()].cancel(target);
                }
                other => panic!("{other:?}"),
            }
        }
        for lane in &mut self.lanes {
            lane.pump();
        }
        if self.ring.due() {
            self.ringer.ring().unwrap();
        }
    }

    fn accept(&mut self, id: ExchangeId, request: &Request, seen: &Mutex<Seen>) {
        let copy = |offset: u64, bytes: usize| {
            let mut out = vec![0; bytes];
            self.caller.copy_out(self.geometry.arena_offset() + offset as usize, &mut out);
            out
        };
        let head = copy(request.head_offset(), request.head_bytes());
        let body = copy(request.body_offset(), request.body_bytes());
        let head = RequestHead::parse(&head).unwrap();
        let lane = &mut self.lanes[request.lane.index()];
        lane.writer.begin(id).unwrap();
        lane.answer(head.route, id, &body, request.lane);
        let mut seen = seen.lock().unwrap();
        seen.heads.push(format!("{head:?}"));
        seen.bodies.push(body);
        seen.deadlines.push(request.deadline_ns);
    }
}

impl Lane {
    fn answer(&mut self, route: &str, id: ExchangeId, body: &[u8], lane: LaneId) {
        self.mute = route == "mute";
        match route {
            "keep" => self.kept = Some(id),
            _ => self.loan.give_back(id),
        }
        let jobs: Vec<Job> = match route {
            "silent" | "mute" => return,
            "begun" => vec![head(), text("so far")],
            "fail" => vec![failure()],
            "all" => everything(),
            "many" => (0..2000).map(|n| text(&format!("{n} "))).chain([end()]).collect(),
            _ => vec![head(), text(&String::from_utf8_lossy(body)), end()],
        };
        assert!(self.jobs.is_empty(), "lane {} was not free", lane.number());
        self.jobs.extend(jobs);
    }

    fn cancel(&mut self, target: ExchangeId) {
        if self.mute || !self.writer.carries(target) {
            return;
        }
        self.jobs.clear();
        let error = ErrorFrame::new(Code::Cancelled, Stage::Relay, "cancelled (rm-1)");
        self.jobs.push_back(Job::Finish(Kind::Error, encoded(|out| error.encode(out))));
    }

    fn pump(&mut self) {
        while let Some(job) = self.jobs.front_mut() {
            match job {
                Job::Finish(kind, payload) => {
                    self.writer.finish(*kind, payload, monotonic_ns()).unwrap();
                }
                Job::Frame(kind, choice, payload) => {
                    match self.writer.push(*kind, *choice, payload, monotonic_ns()).unwrap() {
                        Push::Written => {}
                        Push::Full => return,
                        Push::Partly(bytes) => {
                            payload.drain(..bytes);
                            return;
                        }
                    }
                }
            }
            self.jobs.pop_front();
        }
    }
}

/// The event of route `all`: longer than a lane.
pub(crate) fn long_event() -> Vec<u8> {
    (0..40_000u32).map(|n| (n % 251) as u8).collect()
}

fn everything() -> Vec<Job> {
    let tool = ToolFrame { index: 1, id: "call_1", name: "f", arguments: &"é{}".repeat(3000) };
    let usage = Usage { input: 3, output: 4, total: 7, ..Usage::default() };
    vec![
        head(),
        Job::Frame(Kind::Reasoning, 0, b"hm".to_vec()),
        text(&"漢".repeat(5000)),
        Job::Frame(Kind::Delta, 1, b"other".to_vec()),
        Job::Frame(Kind::Tool, 0, encoded(|out| tool.encode(out))),
        Job::Frame(Kind::Event, 0, long_event()),
        Job::Frame(Kind::Event, 0, b"short".to_vec()),
        Job::Frame(Kind::Body, 0, b"bytes".to_vec()),
        Job::Frame(Kind::Usage, 0, usage.as_bytes().to_vec()),
        end(),
    ]
}

fn head() -> Job {
    let mut head = ResponseHead::default();
    (head.status, head.attempt) = (200, 1);
    (head.log_id, head.endpoint) = ("rm-1", "local");
    head.headers = vec![("x-ratelimit-remaining", "9")];
    Job::Frame(Kind::Head, 0, encoded(|out| head.encode(out)))
}

fn text(text: &str) -> Job {
    Job::Frame(Kind::Delta, 0, text.as_bytes().to_vec())
}

fn end() -> Job {
    let end = EndFrame { bytes: 1, finish: vec![(0, FinishReason::Stop)], text: "stop" };
    Job::Finish(Kind::End, encoded(|out| end.encode(out)))
}

fn failure() -> Job {
    let mut error = ErrorFrame::new(Code::UpstreamStatus, Stage::AwaitHead, "too many (rm-1)");
    error.http_status = Some(429);
    error.attempts = 3;
    error.retry_after_ms = Some(1500);
    error.provider_code = "rate_limit_exceeded";
    Job::Finish(Kind::Error, encoded(|out| error.encode(out)))
}

fn encoded(encode: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    encode(&mut out);
    out
}
