//! Producers: processes that answer requests. An honest one serves streams, is held back by its
//! consumers and told of cancels; one that dies, lies, stalls or floods harms the exchanges that
//! it holds, each of which ends in a typed error, and nobody else.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use ringmain_client::{
    Answer, Asked, Client, Code, Config, Error, FinishReason, Item, Job, Producer, Result, Usage,
};
use ringmain_ring::{LaneWriter, LoanWriter, Push, SubmissionReader};
use ringmain_shm::{ReadMap, WriteMap, monotonic_ns};
use ringmain_sim::{Provider, ProviderConfig};
use ringmain_wire::control::{Hello, Message, Welcome};
use ringmain_wire::limits::CONTROL_BYTES_MAX;
use ringmain_wire::{ExchangeId, Geometry, Kind, ResponseHead, Submission};

use common::{Broker, Config as BrokerFile, child_of, child_script, eventually};

/// A broker with the routes `tiny` (HTTP), `words` and `other` (producers).
struct World {
    provider: Provider,
    broker: Broker,
}

const ROUTES: &str = "[[route]]\nmodel = \"words\"\nendpoints = [{ producer = \"words\" }]\n\
     [[route]]\nmodel = \"other\"\nendpoints = [{ producer = \"other\", model = \"o-1\" }]\n";

impl World {
    fn start() -> World {
        World::with("", "")
    }

    fn with(broker: &str, tail: &str) -> World {
        let provider = Provider::start(ProviderConfig::default()).unwrap();
        let config = BrokerFile {
            broker: broker.to_owned(),
            tail: format!("{ROUTES}{tail}"),
            ..BrokerFile::default()
        };
        let broker = Broker::start(provider.addr(), config);
        World { provider, broker }
    }

    fn client(&self) -> Client {
        Client::at(self.broker.socket()).unwrap()
    }

    /// A producer in a process of its own.
    fn spawn(&self, name: &str, script: &str) -> Spawned {
        let script = format!("{name} {script}");
        let mut command = child_of("producer_process", &script, &self.broker.socket());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let attached = lines.map_while(Result::ok).any(|line| line.contains("attached"));
        assert!(attached, "the producer did not attach:\n{}", self.broker.log());
        Spawned(child)
    }

    /// What model `model` answers to a prompt.
    fn ask(&self, model: &str, prompt: &str) -> Result<String> {
        Ok(self.client().chat(model).user(prompt).send()?.text().to_owned())
    }

    /// Everybody else is served, and nothing is left.
    fn unharmed(self) {
        assert_eq!(self.broker.log().matches("panicked").count(), 0);
        assert!(self.ask("tiny", "[[sim n=3]]").is_ok());
        eventually("all is given back", || {
            let status = self.broker.status();
            status["sessions"] == 0 && status["streams"] == 0
        });
        drop(self.provider);
    }
}

struct Spawned(Child);

impl Spawned {
    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Not a test by itself: an honest producer, until its standard input ends or it is killed.
#[test]
fn producer_process() {
    let Some(script) = child_script() else { return };
    let (name, script) = script.split_once(' ').unwrap();
    let mut producer = Producer::attach(Config::default(), name).unwrap();
    println!("attached");
    std::io::stdout().flush().unwrap();
    loop {
        // The broker of the test is gone with the test.
        let Ok(mut job) = producer.take() else { return };
        if script == "pairs" {
            // The second one is answered first.
            let first = job.park();
            let Ok(mut second) = producer.take() else { return };
            let _ = play(&mut second, "echo");
            drop(second);
            job = producer.resume(first);
        }
        let _ = play(&mut job, if script == "pairs" { "echo" } else { script });
    }
}

fn play(job: &mut Job<'_>, script: &str) -> Result<()> {
    let (asked, answer) = job.parts()?;
    match script {
        "echo" => echo(&asked, answer),
        "mirror" => mirror(&asked, answer),
        "endless" => endless(answer),
        "silent" => loop {
            thread::sleep(Duration::from_millis(1));
            if job.is_cancelled() {
                return Ok(());
            }
        },
        "refuse" => answer.error(Code::RateLimited, "not now"),
        "forget" => Ok(()),
        other => panic!("no script {other}"),
    }
}

/// The model and the words of the body, each a delta.
fn echo(asked: &Asked<'_>, mut answer: Answer<'_>) -> Result<()> {
    answer.delta(asked.head.route)?;
    for word in std::str::from_utf8(asked.body).unwrap().split_inclusive(' ') {
        answer.delta(word)?;
    }
    answer.usage(&Usage { output: 7, ..Usage::default() })?;
    answer.end(FinishReason::Stop)
}

/// The model and the body, as a body.
fn mirror(asked: &Asked<'_>, mut answer: Answer<'_>) -> Result<()> {
    answer.body(asked.head.route.as_bytes())?;
    answer.body(asked.body)?;
    answer.end(FinishReason::Stop)
}

/// Numbers, as fast as they are read.
fn endless(mut answer: Answer<'_>) -> Result<()> {
    for number in 0.. {
        answer.delta(&format!("{number} "))?;
    }
    Ok(())
}

#[test]
fn a_stream_comes_through_a_producer() {
    let world = World::start();
    let words = world.spawn("words", "echo");
    let client = world.client();
    let mut stream = client.chat("words").user("a b c").stream().unwrap();
    let (mut text, mut head, mut usage, mut end) = (String::new(), None, None, None);
    while let Some(item) = stream.next().unwrap() {
        match item {
            Item::Head(found) => head = Some((found.status, found.endpoint.to_owned())),
            Item::Delta { text: piece, .. } => text.push_str(piece),
            Item::Usage(found) => usage = Some(found.output),
            Item::End(found) => end = Some(found.reason()),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(head, Some((200, "words".to_owned())));
    assert!(text.starts_with("words{") && text.contains("a b c"), "{text}");
    assert_eq!((usage, end), (Some(7), Some(FinishReason::Stop)));
    drop(stream);
    // A long body and a long answer: many pieces of the arena, many laps of the lane.
    let long = "word ".repeat(100_000);
    assert!(world.ask("words", &long).unwrap().contains(long.trim_end()));
    drop((client, words));
    world.unharmed();
}

#[test]
fn a_route_without_its_producer_says_so_and_a_new_one_serves_it() {
    let world = World::start();
    assert_eq!(world.ask("words", "x").unwrap_err().code(), Code::ProducerAbsent);
    let mut first = world.spawn("words", "echo");
    assert!(world.ask("words", "x").is_ok());
    first.kill();
    eventually("its absence is known", || {
        world.ask("words", "x").is_err_and(|error| error.code() == Code::ProducerAbsent)
    });
    let second = world.spawn("words", "echo");
    assert!(world.ask("words", "x").is_ok());
    // A name that no route leads to is refused, and says why.
    let config = Config::at(world.broker.socket());
    let error = Producer::attach(config, "nobody").unwrap_err();
    assert_eq!(error.code(), Code::UnknownRoute, "{error}");
    drop(second);
    world.unharmed();
}

/// Behind a producer stands an endpoint. It is asked with the whole request where nobody took that,
/// and not at all where somebody did: the memory of the request is its caller's again by then.
#[test]
fn a_released_body_is_never_sent_behind_a_producer() {
    let both = "[[route]]\nmodel = \"both\"\nendpoints = [{ producer = \"words\" }]\n\
         fallback = [{ name = \"local\", model = \"tiny\" }]\n";
    let world = World::with("", both);
    let asked = || world.provider.log().len();
    let prompt = format!("[[sim n=3]] {}", "x".repeat(100_000));
    assert!(world.ask("both", &prompt).is_ok(), "nobody is attached");
    assert_eq!((asked(), world.provider.log()[0].body_bytes > 100_000), (1, true));
    let mut words = world.spawn("words", "silent");
    let client = world.client();
    let stream = client.chat("both").user(&prompt).stream().unwrap();
    eventually("the producer has it", || world.broker.status()["streams"] == 1);
    words.kill();
    let mut stream = stream;
    let error = last_error(|| stream.next_text().map(|text| text.is_some()));
    assert_eq!((error.code(), asked()), (Code::ProducerGone, 1), "{error}");
    drop((stream, client, words));
    world.unharmed();
}

#[test]
fn a_job_that_was_put_aside_is_answered_later() {
    let world = World::start();
    let words = world.spawn("words", "pairs");
    let client = world.client();
    let mut first = client.chat("words").user("first").stream().unwrap();
    eventually("it is there", || world.broker.status()["streams"] == 1);
    assert!(world.ask("words", "second").unwrap().contains("second"));
    let mut text = String::new();
    while let Some(piece) = first.next_text().unwrap() {
        text.push_str(piece);
    }
    assert!(text.contains("first"), "{text}");
    drop((first, client, words));
    world.unharmed();
}

#[test]
fn several_producers_share_a_name() {
    let world = World::start();
    let crew = [world.spawn("words", "echo"), world.spawn("words", "echo")];
    for _ in 0..6 {
        world.ask("words", "x").unwrap();
    }
    eventually("both were asked", || {
        let status = world.broker.status();
        let rows = status["session_list"].as_array().unwrap().clone();
        rows.iter().filter(|row| row["streams_total"] == 3).count() == 2
    });
    drop(crew);
    world.unharmed();
}

#[test]
fn the_model_of_the_target_is_told_and_an_error_comes_through() {
    let world = World::start();
    let other = world.spawn("other", "echo");
    assert!(world.ask("other", "x").unwrap().starts_with("o-1{"));
    let words = world.spawn("words", "refuse");
    let error = world.ask("words", "x").unwrap_err();
    assert_eq!(error.code(), Code::RateLimited);
    assert!(error.message().contains("not now"), "{error}");
    drop((other, words));
    // A job that is dropped without an end is an error, not silence.
    let words = world.spawn("words", "forget");
    assert_eq!(world.ask("words", "x").unwrap_err().code(), Code::UpstreamError);
    drop(words);
    world.unharmed();
}

#[test]
fn a_guarded_model_cannot_be_named_behind_an_open_route_to_its_producer() {
    let secret = "[[route]]\nmodel = \"secret\"\nendpoints = [{ producer = \"words\" }]\n\
                  allow = [\"uid:54321\"]\n";
    let world = World::with("", secret);
    let words = world.spawn("words", "mirror");
    assert_eq!(world.ask("secret", "x").unwrap_err().code(), Code::NotAllowed);
    let client = world.client();
    let ask = |path, body: &str| client.request("words", path).body(body.as_bytes()).send();
    let told = ask("/chat/completions", r#"{"model":"secret","messages":[]}"#).unwrap();
    let told = String::from_utf8_lossy(&told.body).into_owned();
    assert_eq!(told, r#"words{"model":"words","messages":[]}"#);
    let twice = ask("/chat/completions", r#"{"model":"words","Model":"secret"}"#).unwrap_err();
    assert_eq!(twice.code(), Code::InvalidRequest, "{twice}");
    let beside = ask("/deployments/secret/chat/completions", "{}").unwrap_err();
    assert_eq!(beside.code(), Code::NotAllowed, "{beside}");
    // In pieces that fit no piece of the copy.
    let long = "x".repeat(100_001);
    let body = format!(r#"{{"pad":"{long}","model":"secret","more":"{long}"}}"#);
    let told = ask("/chat/completions", &body).unwrap();
    let due = format!(r#"words{{"pad":"{long}","model":"words","more":"{long}"}}"#);
    assert!(told.body == due.as_bytes(), "{} bytes for {}", told.body.len(), due.len());
    drop((client, words));
    world.unharmed();
}

#[test]
fn a_consumer_that_does_not_read_holds_its_producer_back() {
    let world = World::with("", "[limits]\nslow_consumer = \"20s\"\n");
    let words = world.spawn("words", "endless");
    let client = world.client();
    let mut stream = client.chat("words").user("x").stream().unwrap();
    let mut expected = 0;
    let mut read = |count: u64| {
        let mut text = String::new();
        while (text.matches(' ').count() as u64) < count {
            text.push_str(stream.next_text().unwrap().unwrap());
        }
        for number in text.split_inclusive(' ') {
            assert_eq!(number, format!("{expected} "));
            expected += 1;
        }
    };
    read(100);
    let before = common::proc::resident_bytes(world.broker.pid());
    thread::sleep(Duration::from_millis(300));
    let grown = common::proc::resident_bytes(world.broker.pid()).saturating_sub(before);
    assert!(grown < 1 << 20, "{grown} bytes were queued");
    read(5_000);
    // Dropping the stream cancels it: the producer is free for the next one.
    drop(stream);
    let mut again = client.chat("words").user("x").stream().unwrap();
    assert_eq!(again.next_text().unwrap(), Some("0 "));
    drop((again, client, words));
    world.unharmed();
}

#[test]
fn a_cancel_reaches_the_producer_and_a_deadline_ends_a_stalled_one() {
    let world = World::start();
    let words = world.spawn("words", "silent");
    let client = world.client();
    let start = Instant::now();
    let limit = Duration::from_millis(200);
    let error = client.chat("words").user("x").deadline(limit).stream().and_then(|mut stream| {
        stream.next_text()?;
        Ok(())
    });
    assert_eq!(error.unwrap_err().code(), Code::DeadlineExceeded);
    assert!(start.elapsed() < common::WATCHDOG);
    drop(client.chat("words").user("x").stream().unwrap());
    eventually("nothing runs any more", || world.broker.status()["streams"] == 0);
    drop((client, words));
    world.unharmed();
}

#[test]
fn kill_of_a_producer_ends_what_it_held_within_a_second() {
    let world = World::start();
    let mut words = world.spawn("words", "endless");
    let other = world.spawn("other", "echo");
    let client = world.client();
    let mut stream = client.chat("words").user("x").stream().unwrap();
    stream.next_text().unwrap();
    words.kill();
    let start = Instant::now();
    let error = last_error(|| stream.next_text().map(|text| text.is_some()));
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert_eq!(error.code(), Code::ProducerGone, "{error}");
    assert!(error.bytes() > 0);
    assert!(world.ask("other", "x").is_ok());
    let words = world.spawn("words", "echo");
    assert!(world.ask("words", "x").is_ok());
    drop((stream, client, words, other));
    world.unharmed();
}

/// The error that a stream ends with.
fn last_error(mut next: impl FnMut() -> Result<bool>) -> Error {
    loop {
        match next() {
            Ok(true) => {}
            Ok(false) => panic!("a good end"),
            Err(error) => return error,
        }
    }
}

/// What a liar does with the request that it was given.
type Lie = fn(&mut Liar);

/// A producer made of bare ring ends, which breaks any rule.
struct Liar {
    control: ringmain_shm::Control,
    geometry: Geometry,
    own: WriteMap,
    theirs: ReadMap,
    submissions: SubmissionReader<ReadMap>,
    bell: std::fs::File,
    writer: LaneWriter<WriteMap, ReadMap>,
}

impl Liar {
    fn attach(world: &World) -> Liar {
        let control = ringmain_shm::Control::connect(&world.broker.socket()).unwrap();
        let hello = Hello::producer(Geometry::default(), monotonic_ns(), "words");
        control.send(&Message::Hello(hello).encode(), &[]).unwrap();
        let mut answer = None;
        eventually("the liar is welcome", || {
            let mut buf = vec![0; CONTROL_BYTES_MAX];
            answer = control.recv(&mut buf).ok().map(|received| (buf, received));
            answer.is_some()
        });
        let (buf, received) = answer.unwrap();
        let Ok(Message::Welcome(welcome)) = Message::parse(&buf[..received.bytes]) else {
            panic!("not welcome")
        };
        let Welcome { geometry, .. } = welcome;
        let [own, theirs, bell, _] = received.fds.try_into().unwrap();
        let own = WriteMap::attach(own, geometry.responder_bytes()).unwrap();
        let theirs = ReadMap::attach(theirs, geometry.caller_bytes()).unwrap();
        let lane = geometry.lane(0).unwrap();
        Liar {
            control,
            geometry,
            submissions: SubmissionReader::new(theirs.clone(), geometry),
            writer: LaneWriter::new(own.clone(), theirs.clone(), geometry, lane),
            own,
            theirs,
            bell: bell.into(),
        }
    }

    /// Waits for a request and opens its lane, the first one.
    fn accept(&mut self) -> ExchangeId {
        let mut found = None;
        eventually("a request comes", || {
            found = self.submissions.next();
            found.is_some()
        });
        let (id, entry) = found.unwrap();
        let Ok(Submission::Request(request)) = Submission::parse(&entry, &self.geometry) else {
            panic!("no request")
        };
        assert_eq!(request.lane.index(), 0);
        self.writer.begin(id).unwrap();
        id
    }

    fn push(&mut self, kind: Kind, payload: &[u8]) {
        assert_eq!(self.writer.push(kind, 0, payload, 0).unwrap(), Push::Written);
        self.ring();
    }

    fn head(&mut self) {
        let mut head = ResponseHead::default();
        head.status = 200;
        let mut payload = Vec::new();
        head.encode(&mut payload);
        self.push(Kind::Head, &payload);
    }

    fn ring(&self) {
        // A full bell is rung enough.
        let _ = (&self.bell).write(&1u64.to_ne_bytes());
    }

    /// The reason that the broker gave when it closed the session.
    fn closed(&self) -> Option<Code> {
        let mut code = None;
        eventually("the broker hangs up", || {
            let mut buf = vec![0; CONTROL_BYTES_MAX];
            match self.control.recv(&mut buf) {
                Ok(received) if received.bytes == 0 => return true,
                Ok(received) => {
                    if let Ok(Message::Goodbye(bye)) = Message::parse(&buf[..received.bytes]) {
                        code = Some(bye.code);
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return true,
            }
            false
        });
        code
    }
}

#[test]
fn hostile_frames_of_a_producer_end_its_session_and_what_it_held() {
    let world = World::start();
    let other = world.spawn("other", "echo");
    let lies: [(&str, Lie); 9] = [
        ("content before HEAD", |liar| liar.push(Kind::Delta, b"x")),
        ("two HEADs", |liar| {
            liar.head();
            liar.head();
        }),
        ("a HEAD that is none", |liar| liar.push(Kind::Head, b"\x01\x02\x03")),
        ("bad UTF-8", |liar| {
            liar.head();
            liar.push(Kind::Delta, b"\xff\xfe");
        }),
        ("a kind of another mode", |liar| {
            liar.head();
            liar.push(Kind::Body, b"x");
        }),
        ("an END that is none", |liar| {
            liar.head();
            liar.writer.finish(Kind::End, b"\x01", 0).unwrap();
            liar.ring();
        }),
        ("another exchange", |liar| {
            let lane = liar.geometry.lane(0).unwrap();
            let mut writer =
                LaneWriter::new(liar.own.clone(), liar.theirs.clone(), liar.geometry, lane);
            writer.begin(ExchangeId(77)).unwrap();
            assert_eq!(writer.push(Kind::Delta, 0, b"x", 0).unwrap(), Push::Written);
            liar.ring();
        }),
        ("a publish word out of nowhere", |liar| {
            let lane = liar.geometry.lane(0).unwrap();
            liar.own.store_release(liar.geometry.lane_offset(lane), 4711);
            liar.ring();
        }),
        ("garbage all over its segment", |liar| {
            for at in (0..liar.own.len()).step_by(8) {
                liar.own.store(at, (at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
            }
            liar.ring();
        }),
    ];
    for (what, lie) in lies {
        let mut liar = Liar::attach(&world);
        let client = world.client();
        let asking = thread::spawn(move || {
            let mut stream = client.chat("words").user("x").stream().unwrap();
            last_error(|| stream.next_text().map(|text| text.is_some()))
        });
        liar.accept();
        lie(&mut liar);
        assert_eq!(liar.closed(), Some(Code::ViolationFrame), "{what}");
        let error = asking.join().unwrap();
        assert_eq!(error.code(), Code::ProducerGone, "{what}: {error}");
        assert!(world.ask("other", "x").is_ok(), "{what}");
        assert!(world.ask("tiny", "[[sim n=3]]").is_ok(), "{what}");
    }
    drop(other);
    world.unharmed();
}

#[test]
fn hostile_producer_that_keeps_its_loans_loses_its_session() {
    let world = World::with("loan = \"200ms\"", "");
    let mut liar = Liar::attach(&world);
    let client = world.client();
    let asking = thread::spawn(move || {
        let mut stream = client.chat("words").user("x").stream().unwrap();
        while stream.next().unwrap().is_some() {}
    });
    liar.accept();
    liar.head();
    let mut end = Vec::new();
    ringmain_client::EndFrame::default().encode(&mut end);
    liar.writer.finish(Kind::End, &end, 0).unwrap();
    liar.ring();
    asking.join().unwrap();
    assert_eq!(liar.closed(), Some(Code::ViolationLoan));
    drop(liar);
    world.unharmed();
}

#[test]
fn hostile_producer_that_goes_on_after_its_cancel_loses_its_session() {
    let world = World::start();
    let mut liar = Liar::attach(&world);
    let client = world.client();
    let asking = thread::spawn(move || {
        let mut stream = client.chat("words").user("x").stream().unwrap();
        stream.next_text().unwrap();
    });
    liar.accept();
    liar.head();
    liar.push(Kind::Delta, b"x");
    asking.join().unwrap();
    let mut buf = vec![0; CONTROL_BYTES_MAX];
    let closed = common::wait_until(common::WATCHDOG, || {
        // Full is no reason to stop: the broker throws away what nobody wants.
        for _ in 0..200 {
            let _ = liar.writer.push(Kind::Delta, 0, b"x", 0).unwrap();
        }
        liar.ring();
        match liar.control.recv(&mut buf).map(|received| received.bytes) {
            Ok(bytes) if bytes > 0 => matches!(
                Message::parse(&buf[..bytes]),
                Ok(Message::Goodbye(bye)) if bye.code == Code::ViolationFrame
            ),
            _ => false,
        }
    });
    assert!(closed, "{}", world.broker.log());
    drop(liar);
    world.unharmed();
}

#[test]
fn hostile_flood_of_rings_by_a_producer_costs_next_to_nothing() {
    let world = World::start();
    let other = world.spawn("other", "echo");
    let mut liar = Liar::attach(&world);
    common::flood_costs_next_to_nothing(world.broker.pid(), || liar.ring());
    assert!(world.ask("other", "x").is_ok());
    // It is still served: what it was asked comes back.
    let client = world.client();
    let asking = thread::spawn(move || {
        let mut stream = client.chat("words").user("x").stream().unwrap();
        let text = stream.next_text().unwrap().map(str::to_owned);
        while stream.next().unwrap().is_some() {}
        text
    });
    let id = liar.accept();
    liar.head();
    liar.push(Kind::Delta, b"still here");
    let mut end = Vec::new();
    ringmain_client::EndFrame::default().encode(&mut end);
    liar.writer.finish(Kind::End, &end, 0).unwrap();
    let lane = liar.geometry.lane(0).unwrap();
    LoanWriter::new(liar.own.clone(), liar.geometry, lane).give_back(id);
    liar.ring();
    assert_eq!(asking.join().unwrap().as_deref(), Some("still here"));
    drop((liar, other));
    world.unharmed();
}
