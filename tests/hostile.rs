//! Processes that attach as the protocol asks and then break its rules. Whatever they do, their
//! own session ends with its reason or is held harmlessly, a neighbour's stream arrives intact,
//! and the broker still answers a newcomer.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdout, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::kill;
use nix::unistd::Pid;
use ringmain_client::{Client, Code, Config, Session};
use ringmain_shm::monotonic_ns;
use ringmain_sim::contract::{CallerRecord, End, Hostility};
use ringmain_sim::hostile::{Hostile, Seen, knock};
use ringmain_sim::{Provider, ProviderConfig, Script};
use ringmain_wire::control::{Hello, Message};
use ringmain_wire::limits::HEAD_BYTES_MAX;
use ringmain_wire::{Entry, Geometry};

use common::peer;
use common::record::{Plan, assert_kept, history};
use common::{Broker, Config as BrokerFile, child_of, child_script, eventually};

/// Tokens of the neighbour's stream, one per millisecond: it runs while the peers misbehave.
const NEIGHBOUR_TOKENS: u64 = 300;

/// A provider, a broker, and an honest neighbour with a stream under way.
struct World {
    provider: Provider,
    broker: Broker,
    neighbour: JoinHandle<CallerRecord>,
    hostilities: Vec<Hostility>,
}

impl World {
    fn start() -> World {
        World::with(BrokerFile::default())
    }

    fn with(config: BrokerFile) -> World {
        let provider = Provider::start(ProviderConfig::default()).unwrap();
        let broker = Broker::start(provider.addr(), config);
        let neighbour = neighbour(&broker);
        World { provider, broker, neighbour, hostilities: Vec::new() }
    }

    /// The same when the neighbour's stream is over, and counted as the only one that ended well.
    fn behind_its_neighbour(self) -> World {
        let record = self.neighbour.join().unwrap();
        eventually("the neighbour's end is counted", || self.broker.status()["ended"] == 1);
        World { neighbour: thread::spawn(move || record), ..self }
    }

    fn attach(&self) -> Hostile {
        Hostile::attach(&self.broker.socket()).unwrap()
    }

    /// Waits until the broker closed the peer's session; fails unless it said why.
    fn closed(&mut self, hostile: Hostile, what: &str, code: Code, since_ns: u64) -> Seen {
        let seen = hostile.wait_closed(common::WATCHDOG);
        let said = seen.goodbye.as_ref().map(|goodbye| goodbye.code);
        assert_eq!(said, Some(code), "{what}: {seen:?}");
        self.hostilities.push(hostile.report(what, since_ns, &seen));
        let session = format!("session={} ", hostile.welcome().session);
        let broker = &self.broker;
        eventually("one line says why", || {
            let log = broker.log();
            let lines = log.lines().filter(|line| line.contains("session closed"));
            lines.filter(|line| line.contains(&session) && line.contains(code.name())).count() == 1
        });
        seen
    }

    /// The neighbour's stream arrived, the broker serves newcomers, and nothing of the peers is
    /// left.
    fn unharmed(self) {
        let World { provider, broker, neighbour, hostilities } = self;
        serves(&broker);
        let record = neighbour.join().unwrap();
        assert!(matches!(record.end, Some(End::End { .. })), "{:?}", record.end);
        eventually("what the peers held is given back", || {
            let status = broker.status();
            status["sessions"] == 0 && status["streams"] == 0
        });
        let log = broker.log();
        assert!(!log.contains("panicked"), "{log}");
        kill(Pid::from_raw(broker.pid() as i32), None).unwrap();
        let mut history = history([record]);
        history.hostilities = hostilities;
        assert_kept(history, &provider);
    }
}

/// An honest stream that has begun.
fn neighbour(broker: &Broker) -> JoinHandle<CallerRecord> {
    let client = Client::at(broker.socket()).unwrap();
    let script = Script { gap_us: 1000, ..Script::tokens(NEIGHBOUR_TOKENS) };
    let deadline = Some(common::WATCHDOG);
    let mut running = Plan { deadline, ..Plan::new(script) }.submit(&client);
    running.read(1);
    thread::spawn(move || running.run())
}

/// Fails unless a newcomer is attached and answered.
fn serves(broker: &Broker) {
    let mut session = Session::attach(Config::at(broker.socket())).unwrap();
    session.ping().unwrap();
}

/// Turns a good entry into another one.
type Spoil = fn(&mut Entry);

#[test]
fn hostile_entries_end_their_session() {
    let mut world = World::start();
    let good = |hostile: &Hostile| peer::entry(hostile, 0, &peer::head_of("tiny"), b"{}");
    let spoilers: [(&str, Spoil); 11] = [
        ("all zero", |entry| *entry = Entry::default()),
        ("no such op", |entry| entry.op = 200),
        ("no such lane", |entry| entry.lane = 64),
        ("no such mode", |entry| entry.mode = 0),
        ("no such flag", |entry| entry.flags = 1 << 15),
        ("no head", |entry| entry.head_bytes = 0),
        ("a head above its limit", |entry| entry.head_bytes = HEAD_BYTES_MAX as u32 + 1),
        ("a chunk between two lines", |entry| entry.offset = 32),
        ("a chunk beyond the arena", |entry| entry.body_bytes = 16 << 20),
        ("an offset that overflows", |entry| entry.offset = u64::MAX - 63),
        ("reserved words", |entry| entry.reserved = [0, 1]),
    ];
    for (what, spoil) in spoilers {
        let mut hostile = world.attach();
        let mut entry = good(&hostile);
        spoil(&mut entry);
        let at_ns = monotonic_ns();
        hostile.submit(&entry);
        hostile.ring(1).unwrap();
        world.closed(hostile, what, Code::ViolationEntry, at_ns);
    }
    // Nothing of these reached the provider.
    assert_eq!(world.provider.log().len(), 1);
    world.unharmed();
}

#[test]
fn hostile_garbage_in_the_segment_ends_its_session() {
    let mut world = World::start();
    for seed in 0..8 {
        let mut hostile = world.attach();
        // With streams of its own under way, so that there are cursors to be believed.
        let body = peer::chat("[[sim n=100000 gap_us=500]]");
        for lane in 0..4 {
            peer::ask(&mut hostile, lane, &peer::head_of("tiny"), body.as_bytes());
        }
        let before = world.provider.log().len();
        eventually("its streams run", || world.provider.log().len() >= before.min(5 + 4 * seed));
        let at_ns = monotonic_ns();
        if seed % 2 == 0 {
            hostile.publish_garbage(seed as u64);
        }
        hostile.scribble(seed as u64);
        hostile.ring(1).unwrap();
        let seen = hostile.wait_closed(common::WATCHDOG);
        let code = seen.goodbye.as_ref().map(|goodbye| goodbye.code);
        assert!(code.is_some_and(Code::is_violation), "seed {seed}: {seen:?}");
        world.hostilities.push(hostile.report("garbage everywhere", at_ns, &seen));
    }
    eventually("its streams are dropped", || {
        let is_over = |record: &ringmain_sim::ProviderRecord| record.ended.is_some();
        world.provider.log().iter().skip(1).all(is_over)
    });
    world.unharmed();
}

#[test]
fn hostile_cursors_end_their_session() {
    let mut world = World::start();
    let endless = peer::chat("[[sim n=1000000]]");
    for (what, cursors) in [
        ("a cursor beyond what was written", &[64, 1 << 40][..]),
        ("a cursor before the last one", &[64, 32]),
        ("a cursor at the end of all numbers", &[u64::MAX]),
    ] {
        let mut hostile = world.attach();
        let geometry = hostile.welcome().geometry;
        let lane = peer::lane(&hostile, 0);
        peer::ask(&mut hostile, 0, &peer::head_of("tiny"), endless.as_bytes());
        let starved = |hostile: &Hostile| hostile.responder().load(geometry.starved_offset(lane));
        let mut target = 0;
        let at_ns = monotonic_ns();
        for cursor in cursors {
            // The writer found the lane full and waits for this cursor.
            eventually("the lane is full", || starved(&hostile) > target);
            target = starved(&hostile);
            hostile.set_cursor(lane, *cursor);
            hostile.ring(1).unwrap();
        }
        world.closed(hostile, what, Code::ViolationCursor, at_ns);
    }
    world.unharmed();
}

#[test]
fn hostile_requests_on_a_busy_lane_end_their_session() {
    let mut world = World::start();
    let (head, endless) = (peer::head_of("tiny"), peer::chat("[[sim n=1000000 gap_us=500]]"));
    // While the exchange runs.
    let mut hostile = world.attach();
    let at_ns = monotonic_ns();
    peer::ask(&mut hostile, 3, &head, endless.as_bytes());
    eventually("it runs", || world.provider.log().len() == 2);
    peer::ask(&mut hostile, 3, &head, endless.as_bytes());
    world.closed(hostile, "a second request on a lane", Code::ViolationLaneBusy, at_ns);
    // After its end, which was not read.
    let mut world = world.behind_its_neighbour();
    let mut hostile = world.attach();
    let at_ns = monotonic_ns();
    peer::ask(&mut hostile, 3, &head, peer::chat("[[sim n=3]]").as_bytes());
    eventually("it ended", || world.broker.status()["ended"] == 2);
    peer::ask(&mut hostile, 3, &head, endless.as_bytes());
    world.closed(hostile, "a request before the end was read", Code::ViolationLaneBusy, at_ns);
    assert_eq!(world.provider.log().len(), 3, "neither second request went out");
    world.unharmed();
}

#[test]
fn hostile_control_messages_end_their_session() {
    let mut world = World::start();
    let hello = Message::Hello(Hello::caller(Geometry::default(), monotonic_ns())).encode();
    let long = vec![7; 4096];
    for (what, datagram) in [
        ("a second Hello", &hello[..]),
        ("noise", b"\0\0\0\0noise".as_slice()),
        ("a long datagram", &long),
        ("half a ring", &[9]),
    ] {
        let hostile = world.attach();
        let at_ns = monotonic_ns();
        hostile.send(datagram).unwrap();
        world.closed(hostile, what, Code::ViolationControl, at_ns);
    }
    let hostile = world.attach();
    let at_ns = monotonic_ns();
    match hostile.send_descriptor(&Message::Ring.encode()) {
        Ok(()) => _ = world.closed(hostile, "a descriptor", Code::ViolationControl, at_ns),
        // The broker's socket refuses descriptors in the kernel, where the kernel can.
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
            drop(hostile);
        }
    }
    let hostile = world.attach();
    let at_ns = monotonic_ns();
    let ring = Message::Ring.encode();
    // Bound: the watchdog. The broker hangs up when it has heard a thousand within a second, which
    // it does as soon as the host lets both run for so long.
    let start = Instant::now();
    while start.elapsed() < common::WATCHDOG {
        match hostile.send(&ring) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::yield_now(),
            Err(_) => break,
        }
    }
    world.closed(hostile, "a flood of rings", Code::ViolationControl, at_ns);
    world.unharmed();
}

#[test]
fn hostile_handshakes_are_refused() {
    let world = World::start();
    let hello = Message::Hello(Hello::caller(Geometry::default(), monotonic_ns())).encode();
    let spoiled = |at: usize| {
        let mut bytes = hello.clone();
        bytes[at] ^= 0x40;
        bytes
    };
    for (what, datagram, code) in [
        ("nothing that is a message", b"GET / HTTP/1.1".to_vec(), Code::BadHello),
        ("another message", Message::Ring.encode(), Code::BadHello),
        ("half a Hello", hello[..hello.len() / 2].to_vec(), Code::BadHello),
        ("another magic", spoiled(0), Code::BadHello),
        ("another version", spoiled(4), Code::Abi),
        ("another kind", spoiled(8), Code::BadHello),
    ] {
        let seen = knock(&world.broker.socket(), &[&datagram], common::WATCHDOG).unwrap();
        let refused = seen.messages.iter().find_map(|message| match message {
            Message::Refused(refused) => Some(refused.code),
            _ => None,
        });
        assert_eq!(refused, Some(code), "{what}: {seen:?}");
        assert!(seen.closed_ns.is_some(), "{what}");
    }
    world.unharmed();
}

#[test]
fn hostile_tampering_with_what_was_given_fails() {
    let world = World::start();
    let mut hostile = world.attach();
    let (head, body) = (peer::head_of("tiny"), peer::chat("[[sim n=100000 gap_us=500]]"));
    peer::ask(&mut hostile, 0, &head, body.as_bytes());
    eventually("it runs", || world.provider.log().len() == 2);
    for (what, outcome) in hostile.tamper() {
        assert!(outcome.is_err(), "it could {what}");
    }
    // Its own segment it may empty: the broker reads zeroes then, and nothing faults.
    hostile.punch().unwrap();
    hostile.ring(1).unwrap();
    hostile.set_nonblocking(false).unwrap();
    serves(&world.broker);
    drop(hostile);
    world.unharmed();
}

/// A body that is gone while it leaves: the provider is sent what is left, in its framing.
#[test]
fn hostile_body_that_is_punched_while_it_leaves() {
    let world = World::start();
    for round in 0..20 {
        let mut hostile = world.attach();
        let body = peer::chat(&format!("{} [[sim n=1]]", "x".repeat(200_000)));
        peer::ask(&mut hostile, 0, &peer::head_of("tiny"), body.as_bytes());
        if round % 2 == 0 {
            hostile.scribble_range(hostile.welcome().geometry.arena_offset(), 256 << 10, round);
        } else {
            hostile.punch().unwrap();
        }
        serves(&world.broker);
    }
    world.unharmed();
}

#[test]
fn hostile_flood_of_rings_costs_next_to_nothing() {
    // The neighbour costs something too.
    let world = World::start().behind_its_neighbour();
    let hostile = world.attach();
    // The bell is full when nobody ever reads it.
    common::flood_costs_next_to_nothing(world.broker.pid(), || _ = hostile.ring(1));
    // It is still served: its session does what it is rung for.
    let mut hostile = hostile;
    peer::ask(&mut hostile, 0, &peer::head_of("tiny"), peer::chat("[[sim n=3]]").as_bytes());
    assert_eq!(peer::end_of(&hostile, 0), None);
    drop(hostile);
    world.unharmed();
}

#[test]
fn hostile_reader_that_never_reads_is_held_harmlessly() {
    let world = World::with(BrokerFile {
        tail: "[limits]\nslow_consumer = \"300ms\"\n".into(),
        ..BrokerFile::default()
    });
    let mut hostile = world.attach();
    let lanes = hostile.welcome().geometry.lanes();
    let endless = peer::chat("[[sim n=10000000]]");
    for number in 0..lanes {
        peer::ask(&mut hostile, number, &peer::head_of("tiny"), endless.as_bytes());
    }
    let requests = |world: &World| {
        let log = world.provider.log();
        log.iter().filter(|record| record.plan.as_ref().is_some_and(|p| p.script.n > 1000)).count()
    };
    eventually("all of its requests run", || requests(&world) == lanes as usize);
    serves(&world.broker);
    eventually("the patience with each ends", || {
        world.broker.status()["failures"]["SlowConsumer"] == lanes
    });
    // Each ends where its lane still has room: in the reserve of its terminal frame.
    for number in 0..lanes {
        let (code, message) = peer::end_of(&hostile, number).expect("no good end");
        assert_eq!(code, Code::SlowConsumer, "lane {number}: {message}");
    }
    eventually("the provider is let go", || {
        world.provider.log().iter().all(|record| {
            record.plan.as_ref().is_none_or(|plan| plan.script.n <= 1000) || record.ended.is_some()
        })
    });
    drop(hostile);
    world.unharmed();
}

/// Not a test by itself: a peer of another uid, which does what its script says.
#[test]
fn hostile_process() {
    let Some(script) = child_script() else { return };
    let socket = std::env::var_os("RINGMAIN_SOCKET").unwrap();
    let mut hostile = Hostile::attach(socket.as_ref()).unwrap();
    match script.as_str() {
        "tamper" => {
            let done = hostile.tamper().into_iter().filter(|(_, outcome)| outcome.is_ok());
            let done: Vec<_> = done.map(|(what, _)| what).collect();
            println!("could: {done:?}");
        }
        "trap" => {
            hostile.set_traps().unwrap();
            let body = peer::chat("[[sim n=100000 gap_us=200]]");
            for number in 0..4 {
                peer::ask(&mut hostile, number, &peer::head_of("tiny"), body.as_bytes());
            }
            // Always asleep, with a new number each time: every frame is worth a ring.
            let start = Instant::now();
            for epoch in (1..).step_by(2).take_while(|_| start.elapsed() < common::WATCHDOG) {
                hostile.set_armed(epoch);
                if epoch == 2001 {
                    println!("trapped");
                    std::io::stdout().flush().unwrap();
                }
                thread::sleep(Duration::from_micros(100));
            }
        }
        other => panic!("no script {other}"),
    }
}

/// A world that lets one more uid in, and that uid.
fn world_for_another_uid() -> Option<(World, u32)> {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: only root can start processes of other uids");
        return None;
    }
    let world = World::with(BrokerFile {
        broker: "socket_mode = \"0666\"\nallow = [\"uid:4242\"]".into(),
        ..BrokerFile::default()
    });
    Some((world, 4242))
}

/// A process that does not outlive its test.
struct Peer(Child);

impl Peer {
    fn spawn(world: &World, script: &str, uid: u32) -> Peer {
        let mut command = child_of("hostile_process", script, &world.broker.socket());
        Peer(command.uid(uid).gid(uid).stdout(Stdio::piped()).spawn().unwrap())
    }

    fn stdout(&mut self) -> ChildStdout {
        self.0.stdout.take().unwrap()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn hostile_uid_cannot_tamper_with_what_it_was_given() {
    let Some((world, uid)) = world_for_another_uid() else { return };
    let said = common::read_all(Peer::spawn(&world, "tamper", uid).stdout());
    assert!(said.contains("could: []"), "{said}");
    world.unharmed();
}

#[test]
fn hostile_uid_cannot_trap_the_one_who_rings_it() {
    let Some((world, uid)) = world_for_another_uid() else { return };
    let mut trapper = Peer::spawn(&world, "trap", uid);
    let lines = BufReader::new(trapper.stdout()).lines();
    let trapped = lines.map_while(Result::ok).any(|line| line.contains("trapped"));
    assert!(trapped, "the trap was set");
    // The broker has rung a full, blocking bell by now, and goes on.
    for _ in 0..20 {
        serves(&world.broker);
    }
    assert!(world.broker.log().contains("bell=Aio"), "{}", world.broker.log());
    drop(trapper);
    world.unharmed();
}
