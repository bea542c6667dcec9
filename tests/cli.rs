//! The binary as a user meets it: exit status, what it prints, what it says when it cannot.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ringmain_sim::{Provider, ProviderConfig};
use tempfile::TempDir;

use common::{Broker, Config, ringmain};

fn provider() -> Provider {
    Provider::start(ProviderConfig::default()).unwrap()
}

fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(ringmain());
    command.args(arguments).env_remove("RINGMAIN_SOCKET").env_remove("XDG_RUNTIME_DIR");
    command.stdin(Stdio::null()).output().unwrap()
}

fn chat(broker: &Broker, prompt: &str) -> Output {
    let socket = broker.socket();
    run(&["chat", "--socket", socket.to_str().unwrap(), "--model", "tiny", prompt])
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn config_file(text: &str) -> (TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ringmain.toml");
    fs::write(&path, text).unwrap();
    (dir, path.to_str().unwrap().to_owned())
}

#[test]
fn check_says_what_a_good_file_would_serve() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("ringmain.example.toml");
    let output = run(&["check", "--config", example.to_str().unwrap()]);
    assert!(output.status.success(), "{}", stderr(&output));
    let text = stdout(&output);
    assert!(text.contains("no faults"), "{text}");
    assert!(text.contains("endpoint local at http://127.0.0.1:18080/v1"), "{text}");
    assert!(text.contains("route    tiny to local"), "{text}");
}

#[test]
fn the_example_with_every_key_set_is_good_too() {
    let example = include_str!("../ringmain.example.toml");
    let is_key =
        |line: &&str| line.starts_with("#[") || line.starts_with('#') && line.contains(" = ");
    // What would need other things of this host stays a comment.
    let foreign = ["#socket_group", "#allow", "#key_env", "#user ="];
    let is_foreign = |line: &str| {
        line.contains("\"/etc/ringmain/") || foreign.iter().any(|key| line.starts_with(key))
    };
    let set: Vec<_> = example
        .lines()
        .map(|line| match is_key(&line) && !is_foreign(line) {
            true => &line[1..],
            false => line,
        })
        .collect();
    let (_dir, path) = config_file(&set.join("\n"));
    let output = run(&["check", "--config", &path]);
    assert!(output.status.success(), "{}", stderr(&output));
}

#[test]
fn the_configuration_in_the_readme_is_good() {
    let readme = include_str!("../README.md");
    let blocks = readme.split("```toml\n").skip(1);
    let lines = blocks.flat_map(|rest| rest.split_once("```").unwrap().0.lines());
    // The key file of the example is not on this host.
    let text: Vec<_> = lines.filter(|line| !line.starts_with("key_file")).collect();
    let (_dir, path) = config_file(&text.join("\n"));
    let output = run(&["check", "--config", &path]);
    assert!(output.status.success(), "{}", stderr(&output));
}

#[test]
fn check_names_line_and_key_of_every_fault() {
    let (_dir, path) = config_file("[broker]\ndrian = \"1s\"\n\n[[endpoint]]\nname = \"a\"\n");
    let output = run(&["check", "--config", &path]);
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(text.contains("line 2: broker.drian") && text.contains("`drain`"), "{text}");
    assert!(text.contains("line 4: endpoint \"a\".base_url: is required"), "{text}");
}

#[test]
fn check_finds_a_key_file_that_others_can_read() {
    let (dir, path) = config_file(
        "[[endpoint]]\nname = \"a\"\nbase_url = \"http://127.0.0.1/v1\"\nkey_file = \"key\"\n",
    );
    let key = dir.path().join("key");
    fs::write(&key, "very-secret\n").unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let output = run(&["check", "--config", &path]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("line 4: "), "{}", stderr(&output));
    assert!(!stderr(&output).contains("very-secret"));
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(run(&["check", "--config", &path]).status.success());
}

/// What holds where the file says nothing is told, too, each with its unit.
#[test]
fn check_explains_what_is_in_effect() {
    let (_dir, path) = config_file(
        "[retry]\nbackoff = \"100ms\"\n[[endpoint]]\nname = \"a\"\n\
         base_url = \"http://127.0.0.1:1/v1\"\nconnect_timeout = \"2s\"\n\
         probe = { path = \"/models\" }\n[[route]]\nmodel = \"m\"\n\
         endpoints = [{ name = \"a\" }]\ntimeouts = { idle = \"7s\" }\nretry = { attempts = 1 }\n",
    );
    let output = run(&["check", "--config", &path]);
    let text = stdout(&output);
    for told in [
        "limits   connect 5s, write 30s, head 5m, first content 5m, idle 2m, total 15m",
        "retry    3 attempts; waits up to 100ms, doubling up to 8s, 20s in total",
        "queue    16384 requests may wait for limits, 1024 of each uid",
        "         connections 0 to 8192, ",
        "         rests 5s to 1m after 5 failures in a row or 50 % of at least 20 requests in 10s",
        "         GET /models every 30s",
        "         its own limits: connect 2s",
        "         its own limits: idle 7s",
        "         1 attempts; ",
    ] {
        assert!(text.contains(told), "{told}:\n{text}");
    }
}

#[test]
fn check_names_line_and_key_of_files_that_are_no_good() {
    let (dir, path) = config_file("");
    let secret = dir.path().join("private");
    fs::write(&secret, "nothing of use\n").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let fault = |keys: &str| {
        let head = "[[endpoint]]\nname = \"a\"\nbase_url = \"https://127.0.0.1/v1\"\n";
        fs::write(&path, format!("{head}{keys}\n")).unwrap();
        let output = run(&["check", "--config", &path]);
        assert_eq!(output.status.code(), Some(1));
        stderr(&output)
    };
    for (keys, told) in [
        ("ca_file = \"none.pem\"", "line 4: endpoint \"a\".ca_file: "),
        ("http2 = \"off\"\nca_file = \"private\"", "line 5: endpoint \"a\".ca_file: "),
        ("client_cert = \"x\"\nclient_key = \"y\"", "line 4: endpoint \"a\".client_cert: "),
        (
            "proxy = \"http://127.0.0.1:1\"\nproxy_login_file = \"private\"",
            "line 5: endpoint \"a\".proxy_login_file: ",
        ),
        ("\nkey_env = \"RINGMAIN_NO_SUCH_KEY\"", "line 5: endpoint \"a\".key_env: "),
        ("key_file = \"none\"", "line 4: endpoint \"a\".key_file: "),
    ] {
        let text = fault(keys);
        assert!(text.contains(told), "{keys}: {text}");
    }
}

#[test]
fn a_missing_file_is_one_sentence() {
    for command in ["check", "serve"] {
        let output = run(&[command, "--config", "/nonexistent/ringmain.toml"]);
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(stderr(&output).lines().count(), 1, "{}", stderr(&output));
        assert!(stderr(&output).contains("/nonexistent/ringmain.toml"));
    }
}

#[test]
fn without_a_broker_chat_and_status_name_the_paths_tried() {
    let ask = &["chat", "--model", "tiny", "hello"];
    let named =
        Command::new(ringmain()).args(ask).env("RINGMAIN_SOCKET", "/nonexistent/a").output();
    let named = named.unwrap();
    assert_eq!(named.status.code(), Some(1));
    assert!(stderr(&named).contains("/nonexistent/a"), "{}", stderr(&named));
    // A developer's own broker may answer at the usual place.
    if !Path::new("/run/ringmain/broker.sock").exists() {
        let chat = run(ask);
        assert_eq!(chat.status.code(), Some(1));
        assert!(stderr(&chat).contains("/run/ringmain/broker.sock"), "{}", stderr(&chat));
    }
    let status = run(&["status", "--socket", "/nonexistent/broker.sock"]);
    assert_eq!(status.status.code(), Some(1));
    assert!(stderr(&status).contains("/nonexistent/broker.sock"), "{}", stderr(&status));
}

#[test]
fn chat_streams_the_answer() {
    let provider = provider();
    let broker = Broker::start(provider.addr(), Config::default());
    let output = chat(&broker, "[[sim n=30 seed=5]]");
    assert!(output.status.success(), "{}", stderr(&output));
    let mut expected = ringmain_sim::text::expected_text(5, 30, 0);
    if !expected.ends_with('\n') {
        expected.push('\n');
    }
    assert_eq!(stdout(&output), expected);
}

#[test]
fn chat_reads_its_prompt_from_standard_input() {
    let provider = provider();
    let broker = Broker::start(provider.addr(), Config::default());
    let (dir, _) = config_file("");
    let prompt = dir.path().join("prompt");
    fs::write(&prompt, "[[sim n=3 seed=6]]").unwrap();
    let output = Command::new(ringmain())
        .args(["chat", "--model", "tiny", "--system", "be brief", "-"])
        .env("RINGMAIN_SOCKET", broker.socket())
        .stdin(fs::File::open(&prompt).unwrap())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let expected = ringmain_sim::text::expected_text(6, 3, 0);
    assert_eq!(stdout(&output).trim_end_matches('\n'), expected.trim_end_matches('\n'));
}

#[test]
fn chat_asks_nothing_without_a_prompt() {
    let provider = provider();
    let broker = Broker::start(provider.addr(), Config::default());
    for (prompt, place) in [("-", "standard input"), (" \n", "the command line")] {
        let output = chat(&broker, prompt);
        assert_eq!(output.status.code(), Some(1));
        let told = format!("ringmain: the prompt on {place} is empty: there is nothing to ask\n");
        assert_eq!(stderr(&output), told);
    }
    assert!(provider.log().is_empty(), "nothing was asked");
}

#[test]
fn chat_tells_an_error_in_one_sentence_and_by_its_status() {
    let provider = provider();
    let broker = Broker::start(provider.addr(), Config::default());
    let output = chat(&broker, "[[sim status=429]]");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stderr(&output).lines().count(), 1, "{}", stderr(&output));
    assert!(stderr(&output).contains("429"), "{}", stderr(&output));
    let socket = broker.socket();
    let socket = socket.to_str().unwrap();
    let unknown = run(&["chat", "--socket", socket, "--model", "tinny", "hello"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(stderr(&unknown).contains("tiny"), "the nearest: {}", stderr(&unknown));
}

#[test]
fn errors_say_what_happened_once() {
    let provider = provider();
    let broker = Broker::start(provider.addr(), Config::default());
    let socket = broker.socket();
    let chat = |model: &str, prompt: &str| {
        stderr(&run(&["chat", "--socket", socket.to_str().unwrap(), "--model", model, prompt]))
    };
    let begins = |text: &str, beginning: &str| {
        assert!(text.starts_with(&format!("ringmain: {beginning}")), "{text}");
        assert!(!text.contains("while"), "the place is in the sentence: {text}");
    };
    begins(&chat("tinny", "x"), r#"no route serves "tinny"; the nearest of 1 is "tiny" ("#);
    begins(&chat("tiny", "[[sim status=429]]"), "the endpoint answered 429: ");
    drop(provider);
    let refused = chat("tiny", "x");
    begins(&refused, "endpoint local: ");
    assert_eq!(refused.matches("connection").count(), 1, "{refused}");
}

#[test]
fn interrupting_chat_cancels_upstream() {
    let provider = provider();
    let broker = Broker::start(provider.addr(), Config::default());
    let mut child = Command::new(ringmain())
        .args(["chat", "--model", "tiny", "[[sim n=100000 gap_us=2000 size=8]]"])
        .env("RINGMAIN_SOCKET", broker.socket())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut byte = [0];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut byte).unwrap();
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let gone = provider.log_handle().wait_for(common::WATCHDOG, |records| {
        records.iter().any(|record| record.client_gone_ns().is_some())
    });
    assert!(gone.is_some(), "the provider never saw its client go");
}

#[test]
fn a_reader_that_has_enough_ends_it_without_a_word() {
    let provider = provider();
    let broker = Broker::start(provider.addr(), Config::default());
    let mut child = Command::new(ringmain())
        .args(["chat", "--model", "tiny", "[[sim n=20000 gap_us=100 size=64]]"])
        .env("RINGMAIN_SOCKET", broker.socket())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = [0; 16];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(stderr(&output), "");
    assert_eq!(output.status.code(), Some(141));
}

#[test]
fn status_shows_endpoints_and_counts() {
    let provider = provider();
    let broker = Broker::start(provider.addr(), Config::default());
    assert!(chat(&broker, "[[sim n=3]]").status.success());
    let socket = broker.socket();
    common::eventually("the counters show the stream", || {
        let output = run(&["status", "--socket", socket.to_str().unwrap()]);
        let text = stdout(&output);
        output.status.success() && text.contains("local") && text.contains("ended     1 well")
    });
    let json = broker.status();
    assert_eq!(json["state"], "serving");
    assert_eq!(json["pid"], broker.pid());
    assert_eq!(json["endpoints"][0]["name"], "local");
}

#[test]
fn a_second_broker_on_the_same_socket_is_refused() {
    let provider = provider();
    let broker = Broker::start(provider.addr(), Config::default());
    let output = run(&["serve", "--config", broker.config_path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("broker.sock"), "{}", stderr(&output));
    assert!(chat(&broker, "[[sim n=3]]").status.success(), "the first one serves on");
}

#[test]
fn a_socket_file_that_a_killed_broker_left_is_replaced() {
    let provider = provider();
    let mut broker = Broker::start(provider.addr(), Config::default());
    broker.kill();
    assert!(broker.socket().exists());
    broker.restart();
    assert!(chat(&broker, "[[sim n=3]]").status.success());
}

#[test]
fn reload_takes_a_good_file_and_refuses_a_faulty_one() {
    let provider = provider();
    let mut broker = Broker::start(provider.addr(), Config::default());
    let tail = "[[route]]\nmodel = \"more\"\nendpoints = [{ name = \"local\" }]\n";
    broker.reconfigure(Config { tail: tail.to_owned(), ..Config::default() });
    broker.signal(Signal::SIGHUP);
    broker.await_log("configuration read again");
    let socket = broker.socket();
    let ask = |model: &str| {
        run(&["chat", "--socket", socket.to_str().unwrap(), "--model", model, "[[sim n=3]]"])
    };
    assert!(ask("more").status.success());

    broker.reconfigure(Config { tail: "[[rout]]\n".to_owned(), ..Config::default() });
    broker.signal(Signal::SIGHUP);
    broker.await_log("the old one stays in use");
    assert!(broker.log().contains("rout: is not a key"), "{}", broker.log());
    assert!(ask("more").status.success(), "the routes of the last good file serve on");
}

/// A folder with a private key file in it.
struct KeyFile(TempDir);

impl KeyFile {
    fn new(key: &str) -> KeyFile {
        let file = KeyFile(tempfile::tempdir().unwrap());
        file.write(key);
        file
    }

    fn path(&self) -> std::path::PathBuf {
        self.0.path().join("key")
    }

    fn write(&self, key: &str) {
        let mut file = fs::File::options();
        let file = file.create(true).write(true).truncate(true).mode(0o600).open(self.path());
        std::io::Write::write_all(&mut file.unwrap(), key.as_bytes()).unwrap();
    }

    fn config(&self) -> Config {
        let endpoint = format!("key_file = {:?}", self.path().to_str().unwrap());
        Config { endpoint, ..Config::default() }
    }
}

#[test]
fn reload_reads_key_files_again() {
    let provider = provider();
    let key = KeyFile::new("first\n");
    let broker = Broker::start(provider.addr(), key.config());
    assert!(chat(&broker, "[[sim n=1]]").status.success());
    key.write("second\n");
    broker.signal(Signal::SIGHUP);
    broker.await_log("configuration read again");
    assert!(chat(&broker, "[[sim n=1]]").status.success());
    let hashes: Vec<_> = provider.log().iter().map(|r| r.authorization_hash).collect();
    assert_eq!(hashes.len(), 2);
    assert!(hashes[0] != hashes[1] && !hashes.contains(&0), "{hashes:?}");
    let connections: Vec<_> = provider.log().iter().map(|record| record.connection).collect();
    assert_eq!(connections[0], connections[1], "an unchanged endpoint keeps its connections");
    assert!(!broker.log().contains("first") && !broker.log().contains("second"));
}

#[test]
fn a_refused_reload_leaves_the_old_key_in_use() {
    let provider = provider();
    let key = KeyFile::new("first\n");
    let mut broker = Broker::start(provider.addr(), key.config());
    assert!(chat(&broker, "[[sim n=1]]").status.success());
    key.write("second\n");
    // Its fault shows only when the file reads well and the first endpoint's key is at hand.
    let mut faulty = key.config();
    faulty.tail = format!(
        "[[endpoint]]\nname = \"b\"\nbase_url = \"http://127.0.0.1:9/v1\"\nkey_file = {:?}\n",
        key.path().with_file_name("absent")
    );
    broker.reconfigure(faulty);
    broker.signal(Signal::SIGHUP);
    broker.await_log("the old one stays in use");
    assert!(broker.log().contains("absent"), "{}", broker.log());
    assert!(chat(&broker, "[[sim n=1]]").status.success());
    let hashes: Vec<_> = provider.log().iter().map(|r| r.authorization_hash).collect();
    assert_eq!(hashes.len(), 2);
    assert!(hashes[0] == hashes[1] && hashes[0] != 0, "{hashes:?}");
}

#[test]
fn a_stopped_broker_ends_well_and_leaves_nothing() {
    let provider = provider();
    let mut broker = Broker::start(provider.addr(), Config::default());
    assert!(chat(&broker, "[[sim n=3]]").status.success());
    broker.signal(Signal::SIGTERM);
    assert!(broker.wait().success());
    assert!(!broker.socket().exists());
    let socket = broker.socket();
    assert!(!run(&["status", "--socket", socket.to_str().unwrap()]).status.success());
}

#[test]
fn a_second_request_to_stop_does_not_wait_for_streams() {
    let provider = provider();
    let mut broker = Broker::start(provider.addr(), Config::default());
    let mut child = Command::new(ringmain())
        .args(["chat", "--model", "tiny", "[[sim n=100000 gap_us=10000 size=8]]"])
        .env("RINGMAIN_SOCKET", broker.socket())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut byte = [0];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut byte).unwrap();
    broker.signal(Signal::SIGTERM);
    broker.await_log("stopping");
    assert!(broker.is_alive(), "a stream is in flight");
    let asked = Instant::now();
    broker.signal(Signal::SIGTERM);
    assert!(!broker.wait().success());
    assert!(asked.elapsed() < Duration::from_secs(5));
    drop(child.stdout.take());
    assert!(!child.wait().unwrap().success(), "the caller is told");
}

#[test]
fn sim_names_its_address_and_stops_when_asked() {
    let mut child = Command::new(ringmain())
        .args(["sim", "--listen", "127.0.0.1:0"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("http://127.0.0.1:") && line.ends_with("/v1\n"), "{line}");
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn drive_writes_a_record_per_exchange() {
    let provider = provider();
    let broker = Broker::start(provider.addr(), Config::default());
    for wait in ["block", "async"] {
        let out = broker.dir().join(wait);
        let output = Command::new(ringmain())
            .args(["drive", "--streams", "20", "--concurrency", "4", "--wait", wait])
            .args(["--process", "7", "--out", out.to_str().unwrap()])
            .env("RINGMAIN_SOCKET", broker.socket())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        let mut history = ringmain_sim::History::default();
        history.add_callers(BufReader::new(fs::File::open(&out).unwrap())).unwrap();
        assert_eq!(history.callers.len(), 20);
        assert!(history.callers.iter().all(|record| record.error_code().is_none()));
        history.provider = provider.log();
        provider.reset_log();
        assert_eq!(ringmain_sim::check(&history), []);
    }
}

#[test]
fn the_demo_delivers_every_token() {
    let output = run(&["demo", "--tokens", "20", "--streams", "2"]);
    let text = stdout(&output);
    assert!(output.status.success(), "{text}\n{}", stderr(&output));
    assert!(text.contains("12 of 12"), "{text}");
    assert!(text.contains("every token of every stream arrived intact"), "{text}");
}

#[test]
fn a_demo_that_is_ended_early_leaves_nothing_behind() {
    for (signal, status) in [(Signal::SIGINT, 130), (Signal::SIGHUP, 129)] {
        end_demo_early(signal, status);
    }
}

fn end_demo_early(signal: Signal, status: i32) {
    let dir = tempfile::tempdir().unwrap();
    let mut demo = Command::new(ringmain())
        .args(["demo", "--tokens", "200", "--streams", "2"])
        .env("XDG_RUNTIME_DIR", dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // The first progress: provider, broker and consumers run.
    let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines();
    let running = lines.find(|line| line.as_ref().unwrap().ends_with("tokens"));
    assert!(running.is_some());
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", demo.id())).unwrap();
    let children: Vec<String> = children.split_ascii_whitespace().map(str::to_owned).collect();
    assert_eq!(children.len(), 5, "{children:?}");
    let socket = fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
    let counters = ringmain_broker::counters::segment_name(&socket.join("broker.sock"));
    kill(Pid::from_raw(demo.id() as i32), signal).unwrap();
    assert_eq!(demo.wait().unwrap().code(), Some(status));
    common::eventually("the children end", || {
        children.iter().all(|pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            status.is_empty() || status.contains(") Z ")
        })
    });
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    assert!(!Path::new("/dev/shm").join(counters).exists());
}

#[test]
fn status_of_a_broker_that_is_gone_is_a_failure_with_its_last_figures() {
    let provider = provider();
    let mut broker = Broker::start(provider.addr(), Config::default());
    assert!(chat(&broker, "[[sim n=1]]").status.success());
    broker.kill();
    let socket = broker.socket();
    let status = run(&["status", "--socket", socket.to_str().unwrap()]);
    assert_eq!(status.status.code(), Some(1));
    assert!(stdout(&status).contains("gone without a word"), "{}", stdout(&status));
    assert!(stdout(&status).contains("at the end"), "{}", stdout(&status));
}

#[test]
fn check_warns_of_a_key_that_is_sent_in_clear() {
    for (host, warns) in [("api.example", true), ("127.0.0.1:1", false), ("[::1]:1", false)] {
        let text = format!(
            "[[endpoint]]\nname = \"a\"\nbase_url = \"http://{host}/v1\"\nkey_env = \"PATH\"\n"
        );
        let (_dir, path) = config_file(&text);
        let output = run(&["check", "--config", &path]);
        assert!(output.status.success(), "{}", stderr(&output));
        assert_eq!(stdout(&output).contains("in clear"), warns, "{}", stdout(&output));
    }
}

#[test]
fn check_warns_of_a_socket_that_serve_could_not_make() {
    let (dir, path) = config_file("");
    let told = |socket: &str, uid: Option<u32>| {
        let text = format!(
            "[broker]\nsocket = {socket:?}\n[[endpoint]]\nname = \"a\"\n\
             base_url = \"http://127.0.0.1:1/v1\"\n"
        );
        fs::write(&path, text).unwrap();
        let mut command = Command::new(ringmain());
        command.args(["check", "--config", &path]).env_remove("RINGMAIN_SOCKET");
        if let Some(uid) = uid {
            command.uid(uid).gid(uid);
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        stdout(&output)
    };
    let here = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    assert!(!told(&here("broker.sock"), None).contains("warning"));
    let missing = told(&here("new/broker.sock"), None);
    assert!(missing.contains("new is missing and will be made"), "{missing}");
    assert!(told(&path, None).contains("ringmain.toml exists and is not a socket"));
    assert!(told(&format!("{path}/a.sock"), None).contains("ringmain.toml is not a folder"));
    if nix::unistd::geteuid().is_root() {
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let foreign = told(&here("broker.sock"), Some(4242));
        assert!(foreign.contains("uid 4242 may not write in"), "{foreign}");
    }
}

#[test]
fn paths_that_cannot_be_used_are_told_before_the_work() {
    let begins = |output: Output, text: &str| {
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).starts_with(&format!("ringmain: {text}")), "{}", stderr(&output));
        assert_eq!(stderr(&output).lines().count(), 1, "{}", stderr(&output));
        assert_eq!(stdout(&output), "");
    };
    let sim = run(&["sim", "--listen", "127.0.0.1:0", "--replay-dir", "/nonexistent"]);
    begins(sim, "the recordings in /nonexistent cannot be read: ");
    let bench = run(&["bench", "--suite", "hop", "--json", "/nonexistent/report"]);
    begins(bench, "/nonexistent/report cannot be written: ");
    let drive = run(&["drive", "--out", "/nonexistent/records"]);
    begins(drive, "/nonexistent/records cannot be written: ");
}

#[test]
fn a_drive_in_which_everything_failed_is_a_failure() {
    let provider = provider();
    let broker = Broker::start(provider.addr(), Config::default());
    let socket = broker.socket();
    let drive = |options: &[&str]| {
        let common = ["drive", "--socket", socket.to_str().unwrap(), "--streams", "2"];
        run(&[&common, options].concat())
    };
    let failed = drive(&["--model", "unknown"]);
    assert_eq!(failed.status.code(), Some(1), "{}", stderr(&failed));
    let told = "0 ended well, 2 in errors (2 UnknownRoute), in ";
    assert!(stderr(&failed).contains(told), "{}", stderr(&failed));
    let cancelled = drive(&["--cancel-after", "1", "--prompt", "[[sim n=1000 gap_us=10000]]"]);
    assert!(cancelled.status.success(), "{}", stderr(&cancelled));
    assert!(stderr(&cancelled).contains("2 were cancelled as asked"), "{}", stderr(&cancelled));
}

#[test]
fn a_socket_that_cannot_be_made_is_told_with_the_reason_of_the_system() {
    let (dir, path) = config_file("");
    let folder = dir.path().join("broker.sock.lock");
    fs::create_dir(&folder).unwrap();
    let text = format!(
        "[broker]\nsocket = {:?}\n[[endpoint]]\nname = \"a\"\n\
         base_url = \"http://127.0.0.1:1/v1\"\n",
        dir.path().join("broker.sock")
    );
    fs::write(&path, text).unwrap();
    let output = run(&["serve", "--config", &path]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("directory"), "{}", stderr(&output));
}

#[test]
fn the_largest_body_is_configured() {
    let provider = provider();
    let config = Config {
        broker: "body_max = \"4KiB\"\ncopied_body_max = \"1KiB\"".to_owned(),
        tail: "[[route]]\nmodel = \"alias\"\nendpoints = [{ name = \"local\", model = \"tiny\" }]"
            .to_owned(),
        ..Config::default()
    };
    let broker = Broker::start(provider.addr(), config);
    let socket = broker.socket();
    let ask = |model: &str, padding: usize| {
        let prompt = format!("[[sim n=1]]{}", " ".repeat(padding));
        run(&["chat", "--socket", socket.to_str().unwrap(), "--model", model, &prompt])
    };
    assert!(ask("tiny", 2000).status.success());
    let large = stderr(&ask("tiny", 5000));
    assert!(large.contains("may take 4096 bytes") && large.contains("send less"), "{large}");
    assert!(ask("alias", 500).status.success());
    let copied = stderr(&ask("alias", 2000));
    assert!(copied.contains("1024 bytes"), "{copied}");
}
