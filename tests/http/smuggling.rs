//! Requests that two readers could understand in two ways: each is refused with a status and a
//! sentence, nothing behind it is read, and the connection ends.

use crate::wire::{Connection, Reply};
use crate::{World, plain};

const HEAD: &str = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n\
    content-type: application/json\r\n";
/// What an attacker hides behind the request that one of two readers sees.
const SMUGGLED: &str = "GET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n";

/// The refusal of these bytes, behind which there is nothing.
fn refused(mut connection: Connection, bytes: &str) -> Reply {
    connection.send(bytes.as_bytes());
    only_reply(connection, bytes)
}

fn only_reply(mut connection: Connection, bytes: &str) -> Reply {
    let reply = connection.reply();
    assert_eq!(connection.head().status, 0, "nothing behind it is a request: {bytes}");
    reply
}

fn judge(world: &World, bytes: &str, status: u16, words: &str) {
    let judge = |reply: Reply, how: &str| {
        assert_eq!((reply.status, reply.is_whole), (status, true), "{how}: {bytes}");
        assert_eq!(reply.header("connection"), Some("close"), "{how}: {bytes}");
        assert_eq!(reply.code(), "InvalidRequest", "{how}: {bytes}");
        assert!(reply.text().contains(words), "{how}: {bytes}: {}", reply.text());
    };
    judge(refused(world.connect(), bytes), "over TCP");
    judge(refused(Connection::unix(&world.socket), bytes), "over the Unix socket");
    let mut used = world.connect();
    let body = plain("n=1").to_string();
    assert_eq!(used.post("/v1/chat/completions", &[], body.as_bytes()).status, 200);
    judge(refused(used, bytes), "on a connection in use");
    let mut cut = world.connect();
    let (first, second) = bytes.split_at(bytes.len() / 2);
    cut.send(first.as_bytes());
    assert_eq!(world.get("/healthz").status, 200, "the first part has been read");
    cut.send(second.as_bytes());
    judge(only_reply(cut, bytes), "in two parts");
}

fn judge_all(words: &str, cases: &[String]) {
    let world = World::start();
    for case in cases {
        judge(&world, &format!("{case}{SMUGGLED}"), 400, words);
    }
    let asked = world.provider.log().len();
    assert_eq!(asked, cases.len(), "the good ones before the bad ones, and no others");
}

#[test]
fn http_smuggling_by_two_framings_is_refused() {
    judge_all(
        "both a content-length and a transfer-encoding",
        &[
            format!("{HEAD}content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
            format!("{HEAD}transfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n0\r\n\r\n"),
            format!(
                "{HEAD}Transfer-Encoding:chunked\r\nx: y\r\nCONTENT-LENGTH:\t0\r\n\r\n0\r\n\r\n"
            ),
        ],
    );
}

#[test]
fn http_smuggling_by_two_lengths_is_refused() {
    judge_all(
        "more than one content-length",
        &[
            format!("{HEAD}content-length: 2\r\ncontent-length: 3\r\n\r\n{{}}"),
            format!("{HEAD}content-length: 2\r\nContent-Length: 2\r\n\r\n{{}}"),
        ],
    );
    let values = ["2, 3", "2, 2", "+2", "0x2", "-1", "2 2", "", "99999999999999999999"];
    let lengths = values.map(|value| format!("{HEAD}content-length: {value}\r\n\r\n{{}}"));
    judge_all("content-length of the request is not a number", &lengths);
}

#[test]
fn http_smuggling_by_other_codings_is_refused() {
    let codings = ["gzip", "chunked, gzip", "gzip, chunked", "identity", "chunked, chunked", ""];
    let cases = codings.map(|it| format!("{HEAD}transfer-encoding: {it}\r\n\r\n0\r\n\r\n"));
    judge_all("transfer-encoding taken is chunked", &cases);
    let twice = "transfer-encoding: chunked\r\n".repeat(2);
    judge_all(
        "transfer-encoding taken is chunked",
        &[
            format!("{HEAD}{twice}\r\n0\r\n\r\n"),
            "POST /v1/x HTTP/1.0\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
                .to_owned(),
        ],
    );
}

#[test]
fn http_smuggling_by_lines_is_refused() {
    judge_all(
        "begins with a blank",
        &[
            format!("{HEAD}x: a\r\n b\r\ncontent-length: 2\r\n\r\n{{}}"),
            format!("{HEAD}x: a\r\n\tcontent-length: 2\r\n\r\n{{}}"),
            "POST / HTTP/1.1\r\n host: localhost\r\n\r\n".to_owned(),
        ],
    );
    judge_all(
        "no name with a colon",
        &[
            format!("{HEAD}content-length : 2\r\n\r\n{{}}"),
            format!("{HEAD}transfer-encoding\t: chunked\r\n\r\n0\r\n\r\n"),
            format!("{HEAD}: y\r\n\r\n"),
            format!("{HEAD}content-length\r\n\r\n"),
        ],
    );
    judge_all(
        "ends in LF without CR",
        &[
            format!("{HEAD}x: a\ncontent-length: 2\r\n\r\n{{}}"),
            format!("{HEAD}content-length: 2\r\n\n{{}}"),
            "GET /v1/models HTTP/1.1\nhost: localhost\n\n".to_owned(),
        ],
    );
    judge_all(
        "followed by no LF",
        &[
            format!("{HEAD}x: a\rcontent-length: 2\r\n\r\n{{}}"),
            format!("{HEAD}content-length: 2\r\r\n\r\n{{}}"),
        ],
    );
}

#[test]
fn http_smuggling_by_chunks_is_refused() {
    let chunked = |body: &str| format!("{HEAD}transfer-encoding: chunked\r\n\r\n{body}");
    let sizes = ["-1\r\n\r\n", "0x2\r\n{}\r\n", "2\r\n{}0\r\n\r\n", "\r\n", "2\n{}\r\n"];
    judge_all("has no size", &sizes.map(chunked));
    judge_all("has no size", &[chunked("10000000000000002\r\n{}\r\n0\r\n\r\n")]);
    judge_all(
        "ends in LF without CR",
        &[chunked("2;a=b\n{}\r\n0\r\n\r\n"), chunked("2\r\n{}\r\n0\r\nx: y\n\r\n")],
    );
    let long = "x".repeat(10_000);
    judge_all(
        "longer than 8192 bytes",
        &[
            chunked(&format!("2;{long}\r\n{{}}\r\n0\r\n\r\n")),
            chunked(&format!("{}0\r\n\r\n", "1;abcdefgh\r\n \r\n".repeat(1500))),
            chunked(&format!("2\r\n{{}}\r\n0\r\nx: {long}\r\n\r\n")),
        ],
    );
    // What is small and well formed is passed over.
    let world = World::start();
    let body = plain("n=1").to_string();
    let whole = format!("{:x};a=\"b\"\r\n{body}\r\n0\r\nx: y\r\n\r\n", body.len());
    let mut connection = world.connect();
    assert_eq!(connection.ask(&chunked(&whole)).status, 200);
    assert_eq!(connection.ask(&chunked(&whole)).status, 200);
}

/// Other doubts about who is meant.
#[test]
fn http_smuggling_by_hosts_is_refused() {
    let world = World::start();
    for head in [
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nhost: localhost\r\n\
         content-length: 2\r\n\r\n{}",
        "POST /v1/chat/completions HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}",
        "GET http://evil.example/v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n",
        "GET /v1/models HTTP/1.1\r\nhost: localhost\r\nx\0: y\r\n\r\n",
        "GET /v1/models HTTP/1.1\r\nhost: localhost\r\nx y: z\r\n\r\n",
        "GET /v1/models HTTP/3.1\r\nhost: localhost\r\n\r\n",
        "GET /v1/models\r\nhost: localhost\r\n\r\n",
    ] {
        let reply = world.connect().ask(head);
        assert_eq!(reply.status, 400, "{head}");
    }
    assert!(world.provider.log().is_empty());
}
