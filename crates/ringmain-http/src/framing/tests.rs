//! One fault a test, and all cuts of whatever.

use proptest::prelude::*;

use super::*;

/// The requests of a connection whose bytes come in these pieces, or the fault that ends it; and
/// what has passed.
fn read(pieces: &[&[u8]]) -> (Result<Vec<Vec<u8>>, Fault>, Vec<u8>) {
    let mut framing = Framing::new();
    let (mut requests, mut request, mut held) = (Vec::new(), Vec::new(), Vec::new());
    let mut passed = Vec::new();
    for piece in pieces {
        held.extend_from_slice(piece);
        while !held.is_empty() {
            match framing.pass(&held) {
                Ok(0) => break,
                Ok(bytes) => {
                    passed.extend_from_slice(&held[..bytes]);
                    request.extend(held.drain(..bytes));
                }
                Err(fault) => {
                    assert_eq!(framing.pass(&held), Err(fault), "it is found again");
                    return (Err(fault), passed);
                }
            }
            if framing.is_at_head() {
                requests.push(std::mem::take(&mut request));
            }
        }
    }
    (Ok(requests), passed)
}

fn fault(bytes: &str) -> Option<Fault> {
    read(&[bytes.as_bytes()]).0.err()
}

/// A POST with these header lines and this behind its head.
fn post(lines: &str, behind: &str) -> String {
    format!("POST /v1/x HTTP/1.1\r\nhost: a\r\n{lines}\r\n{behind}")
}

#[test]
fn requests_end_where_they_say() {
    let requests = [
        "GET / HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(),
        post("content-length: 3\r\n", "{}\n"),
        post("Transfer-Encoding:\tChunked \r\n", "3;a=b\r\n{}\n\r\n1 \r\nx\r\n0\r\nt: u\r\n\r\n"),
        post("content-length: 0\r\n", ""),
        "\r\n\r\nPOST / HTTP/1.0\r\nContent-Length:2\r\n\r\n{}".to_owned(),
    ];
    let whole = requests.concat();
    let expected: Vec<Vec<u8>> = requests.iter().map(|it| it.clone().into_bytes()).collect();
    assert_eq!(read(&[whole.as_bytes()]).0, Ok(expected.clone()));
    let bytes: Vec<&[u8]> = whole.as_bytes().chunks(1).collect();
    assert_eq!(read(&bytes).0, Ok(expected));
}

#[test]
fn nothing_of_a_head_passes_before_it_is_whole() {
    let mut framing = Framing::new();
    assert_eq!(framing.pass(b"GET / HTTP/1.1\r\nhost: a\r\n"), Ok(0));
    assert_eq!(framing.pass(b"GET / HTTP/1.1\r\nhost: a\r\n\r"), Ok(0));
    assert_eq!(framing.pass(b"GET / HTTP/1.1\r\nhost: a\r\n\r\nGET"), Ok(27));
}

#[test]
fn two_framings_of_one_body_are_a_fault() {
    let (length, chunked) = ("content-length: 4\r\n", "transfer-encoding: chunked\r\n");
    for lines in [format!("{length}{chunked}"), format!("{chunked}x: y\r\n{length}")] {
        assert_eq!(fault(&post(&lines, "0\r\n\r\n")), Some(Fault::TwoFramings), "{lines}");
    }
    for lines in [
        "Content-Length: 2\r\ncontent-length: 2\r\n",
        "content-length: 2\r\n\
        x: y\r\ncontent-length: 3\r\n",
    ] {
        assert_eq!(fault(&post(lines, "{}")), Some(Fault::TwoLengths), "{lines}");
    }
    for value in ["", "+2", "-2", "0x2", "2, 2", "2 2", "18446744073709551616", "2\x0b"] {
        let lines = format!("content-length: {value}\r\n");
        assert_eq!(fault(&post(&lines, "{}")), Some(Fault::Length), "{value}");
    }
    for value in ["gzip", "gzip, chunked", "chunked, chunked", "identity", "", "xchunked"] {
        let lines = format!("transfer-encoding: {value}\r\n");
        assert_eq!(fault(&post(&lines, "0\r\n\r\n")), Some(Fault::Coding), "{value}");
    }
    assert_eq!(fault(&post(&chunked.repeat(2), "0\r\n\r\n")), Some(Fault::Coding));
    let old = format!("POST / HTTP/1.0\r\n{chunked}\r\n");
    assert_eq!(fault(&old), Some(Fault::Coding));
}

#[test]
fn lines_end_in_both_characters_and_begin_with_a_name() {
    for (lines, expected) in [
        ("x: y\ncontent-length: 2\r\n", Fault::BareLf),
        ("x: y\rcontent-length: 2\r\n", Fault::BareCr),
        ("x: y\r\r\n", Fault::BareCr),
        ("x: y\r\n z\r\n", Fault::Folded),
        ("x: y\r\n\tz: a\r\n", Fault::Folded),
        ("content-length : 2\r\n", Fault::Name),
        ("content-length\t: 2\r\n", Fault::Name),
        (": y\r\n", Fault::Name),
        ("x\r\n", Fault::Name),
    ] {
        assert_eq!(fault(&post(lines, "{}")), Some(expected), "{lines:?}");
    }
    assert_eq!(fault("GET / HTTP/1.1\nhost: a\n\n"), Some(Fault::BareLf));
    assert_eq!(fault("\nGET / HTTP/1.1\r\n\r\n"), Some(Fault::BareLf));
    assert_eq!(fault("GET / HTTP/1.1\r\n x: y\r\n\r\n"), Some(Fault::Folded));
}

#[test]
fn chunks_are_what_they_say() {
    let chunked = |body: &str| fault(&post("transfer-encoding: chunked\r\n", body));
    for (body, expected) in [
        ("\r\n", Fault::Chunk),
        ("-1\r\n", Fault::Chunk),
        (" 1\r\n", Fault::Chunk),
        ("0x1\r\n", Fault::Chunk),
        ("1\r\nab\r\n", Fault::Chunk),
        ("11111111111111111\r\n", Fault::Chunk),
        ("1\n", Fault::Chunk),
        ("1;a\n", Fault::BareLf),
        ("1\ra", Fault::BareCr),
        ("0\r\nt: u\n\r\n", Fault::BareLf),
        ("0\r\nt: u\rv\r\n\r\n", Fault::BareCr),
        ("0\r\n t: u\r\n\r\n", Fault::Folded),
        ("0\r\n\n", Fault::BareLf),
    ] {
        assert_eq!(chunked(body), Some(expected), "{body:?}");
    }
    let long = "x".repeat(EXTRA_BYTES_MAX as usize);
    assert_eq!(chunked(&format!("1;{long}\r\na\r\n0\r\n\r\n")), None);
    assert_eq!(chunked(&format!("1;{long}x\r\n")), Some(Fault::ChunkExtra));
    assert_eq!(chunked(&"1;abcdefgh\r\na\r\n".repeat(1050)), Some(Fault::ChunkExtra));
    assert_eq!(chunked(&format!("0\r\n{long}x\r\n\r\n")), Some(Fault::ChunkExtra));
}

#[test]
fn heads_have_a_length() {
    let long = "y".repeat(HEAD_BYTES_MAX);
    assert_eq!(fault(&format!("GET / HTTP/1.1\r\nx: {long}")), Some(Fault::HeadTooLarge));
    assert_eq!(fault(&format!("GET / HTTP/1.1\r\nx: {long}\r\n\r\n")), Some(Fault::HeadTooLarge));
    assert_eq!(fault(&"\r\n".repeat(HEAD_BYTES_MAX)), Some(Fault::HeadTooLarge));
}

/// Its frames are the server library's; and it is no second language of a connection in use.
#[test]
fn http2_is_passed_on_if_it_comes_first() {
    let mut framing = Framing::new();
    assert_eq!(framing.pass(b"PRI * HTTP/2.0\r"), Ok(0));
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\n \r";
    assert_eq!(framing.pass(preface), Ok(preface.len()));
    assert!(!framing.is_at_head());
    let mut framing = Framing::new();
    assert_eq!(framing.pass(b"GET / HTTP/1.1\r\n\r\n"), Ok(18));
    assert_eq!(framing.pass(preface), Ok(18));
    assert!(framing.is_at_head());
}

proptest! {
    /// Wherever bytes are cut, the same requests are read, the same passes before a fault, and the
    /// fault is the same.
    #[test]
    fn property_cuts_change_no_request(
        parts in prop::collection::vec(prop::sample::select(vec![
            "POST / HTTP/1.1\r\n", "GET / HTTP/1.0\r\n", "host: a\r\n", "content-length: 3\r\n",
            "transfer-encoding: chunked\r\n", "\r\n", "\r", "\n", "3\r\nabc\r\n", "0\r\n\r\n",
            "abc", "1;x\r\ny\r\n", " ", ":", "PRI * HTTP/2.0\r\n",
        ]), 0..16),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let bytes = parts.concat().into_bytes();
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        at.extend([0, bytes.len()]);
        at.sort_unstable();
        let pieces: Vec<&[u8]> = at.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
        let (whole, cut) = (read(&[&bytes]), read(&pieces));
        prop_assert_eq!(&whole, &cut);
        prop_assert!(bytes.starts_with(&whole.1));
    }
}
