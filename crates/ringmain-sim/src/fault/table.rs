//! The table of all faults.

use ringmain_wire::Code::{self, *};

use super::{Place, Row, Versions};

macro_rules! faults {
    ($($variant:ident $name:literal $place:ident $versions:ident [$($code:ident),*]
        $what:literal;)+) => {
        /// A scripted fault.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Fault {
            $(#[doc = $what] $variant,)+
        }

        impl Fault {
            /// All faults, in the order of the table.
            pub const ALL: &'static [Fault] = &[$(Fault::$variant,)+];

            /// Their rows.
            pub const ROWS: &'static [Row] = &[$(Row {
                fault: Fault::$variant,
                name: $name,
                place: Place::$place,
                versions: Versions::$versions,
                codes: &[$($code as Code),*],
                what: $what,
            },)+];

            /// Its row.
            pub fn row(self) -> &'static Row {
                // The discriminants count from 0, and each row stands at its own.
                &Fault::ROWS[self as usize]
            }
        }
    };
}

faults! {
    // Connections.
    ConnectRefused "connect_refused" Connection Both [UpstreamConnect]
        "nobody listens at the address";
    DnsFailure "dns_failure" Connection Both [UpstreamDns]
        "the name of the host does not exist";
    AcceptSilent "accept_silent" Connection Both [HeadTimeout, ConnectTimeout]
        "the connection is taken and nothing is ever said on it";
    AcceptClose "accept_close" Connection Both [UpstreamReset, UpstreamConnect, UpstreamTls]
        "each connection is closed at once";
    AcceptReset "accept_reset" Connection Both [UpstreamReset, UpstreamConnect, UpstreamTls]
        "each connection is reset at once";
    AcceptGarbage "accept_garbage" Connection Both [UpstreamProtocol, UpstreamReset]
        "something answers that does not speak HTTP";
    MaxStreams "max_streams" Connection Two []
        "a connection carries two streams at a time";
    TlsExpired "tls_expired" Connection Tls [UpstreamTls]
        "the certificate has expired";
    TlsForeign "tls_foreign" Connection Tls [UpstreamTls]
        "the certificate was issued by an authority that nobody trusts";
    TlsWrongName "tls_wrong_name" Connection Tls [UpstreamTls]
        "the certificate is for another host";
    TlsPlain "tls_plain" Connection Tls [UpstreamTls]
        "plain HTTP is spoken where TLS is expected";
    TlsSilent "tls_silent" Connection Tls [ConnectTimeout]
        "the TLS handshake is never answered";
    TlsClose "tls_close" Connection Tls [UpstreamTls, UpstreamConnect]
        "the connection is closed within the TLS handshake";
    TlsNoAlpn "tls_no_alpn" Connection Tls []
        "the handshake names no protocol, so HTTP/1.1 is spoken";

    // The request while it is sent.
    Unread "unread" Intake Both [WriteTimeout]
        "the body of the request is never read";
    EarlyRefusal "early_refusal" Intake Both [UpstreamStatus, UpstreamReset, WriteTimeout]
        "413 is answered before the body of the request was read";

    // The time of the head.
    RefuseHead "refuse_head" Head Both [HeadTimeout]
        "the request is read and never answered";
    SlowHead "slow_head" Head Both []
        "the head comes late, the rest is as it should be";

    // Status and header fields.
    Bad400 "bad_request" Status Both [UpstreamStatus] "400";
    Auth401 "unauthorized" Status Both [UpstreamStatus] "401, with a part of the key in its words";
    Timeout408 "request_timeout" Status Both [UpstreamStatus] "408";
    Conflict409 "conflict" Status Both [UpstreamStatus] "409";
    Server500 "server_error" Status Both [UpstreamStatus] "500";
    Gateway502 "bad_gateway" Status Both [UpstreamStatus] "502";
    Unavailable503 "unavailable" Status Both [UpstreamStatus] "503";
    Overloaded529 "overloaded" Status Both [UpstreamStatus] "529";
    UnavailableThenFine "unavailable_then_fine" Status Both []
        "503, and the next request with this id is answered";
    NeverRetry503 "never_retry" Status Both [UpstreamStatus] "503 with x-should-retry: false";
    DoRetry400 "do_retry" Status Both [UpstreamStatus] "400 with x-should-retry: true";
    RateMs "rate_ms" Status Both [UpstreamStatus] "429 with retry-after-ms: 20";
    RateSeconds "rate_seconds" Status Both [UpstreamStatus] "429 with retry-after: 1";
    RateFloat "rate_float" Status Both [UpstreamStatus] "429 with retry-after: 0.02";
    RateDate "rate_date" Status Both [UpstreamStatus] "429 with retry-after as a date";
    RateLong "rate_long" Status Both [UpstreamStatus] "429 with retry-after: 130";
    RateJunk "rate_junk" Status Both [UpstreamStatus] "429 with retry-after: soon";
    RateNever "rate_never" Status Both [UpstreamStatus]
        "429 with retry-after-ms: 20 and x-should-retry: false";
    RateThenFine "rate_then_fine" Status Both []
        "429 with retry-after-ms: 20, and the next request with this id is answered";
    Redirect302 "redirect_302" Status Both [UpstreamStatus] "302 to another path";
    Redirect308 "redirect_308" Status Both [UpstreamStatus] "308 to another host";
    NoContent204 "no_content" Status Both [UpstreamProtocol, UpstreamTruncated]
        "204 and no body";

    // The framing in HTTP/1.1.
    DripHead "drip_head" Framing One [] "the head comes one byte at a time";
    CutHead "cut_head" Framing One [UpstreamReset, UpstreamTruncated]
        "the connection ends inside the head";
    HugeHeader "huge_header" Framing One [UpstreamProtocol] "a header field of 1 MiB";
    ManyHeaders "many_headers" Framing One [UpstreamProtocol] "500 header fields";
    BadStatusLine "bad_status_line" Framing One [UpstreamProtocol]
        "the status line has no status";
    BadHeader "bad_header" Framing One [UpstreamProtocol] "a header line without a colon";
    EarlyHints "early_hints" Framing One [] "100 and 103 come before the answer";
    ManyHints "many_hints" Framing One [] "a thousand answers 103 come before the answer";
    Switching "switching" Framing One [UpstreamProtocol, UpstreamReset]
        "101 to a protocol that nobody asked for";
    Http10 "http_10" Framing One [] "an answer of HTTP/1.0";
    LengthLong "length_long" Framing One [UpstreamTruncated, UpstreamReset]
        "content-length promises more than comes before the end";
    LengthShort "length_short" Framing One [UpstreamTruncated]
        "content-length is less than what comes";
    LengthTwice "length_twice" Framing One [UpstreamProtocol]
        "two content-lengths that differ";
    LengthBad "length_bad" Framing One [UpstreamProtocol] "content-length: some";
    ChunkedAndLength "chunked_and_length" Framing One []
        "transfer-encoding and content-length; the chunks count";
    ChunkTruncated "chunk_truncated" Framing One [UpstreamTruncated, UpstreamReset]
        "a chunked body ends inside a chunk";
    ChunkUnended "chunk_unended" Framing One []
        "a chunked body without its last chunk, behind the terminal marker";
    ChunkBad "chunk_bad" Framing One [UpstreamProtocol, UpstreamReset, UpstreamTruncated]
        "a chunk whose size is no number";
    ChunkHuge "chunk_huge" Framing One [UpstreamProtocol, UpstreamReset, UpstreamTruncated]
        "a chunk of 2^64 bytes";
    ChunkExtension "chunk_extension" Framing One [UpstreamProtocol, UpstreamReset, UpstreamTruncated]
        "a chunk extension of 1 MiB";
    Trailers "trailers" Framing One [] "trailers behind the last chunk";
    UntilClose "until_close" Framing One [] "the end of the connection is that of the body";
    UntilCloseCut "until_close_cut" Framing One [UpstreamTruncated]
        "the same, without the terminal marker";
    Surplus "surplus" Framing One [] "bytes that nobody asked for behind the answer";

    // The end of the body.
    CloseEarly "close_early" Ending Both [UpstreamTruncated, UpstreamReset]
        "the connection (HTTP/2: the stream) ends inside the body";
    NoDone "no_done" Ending Both [UpstreamTruncated]
        "the body ends cleanly without finish reason and terminal marker";
    Reset "reset" Ending Both [UpstreamTruncated, UpstreamReset]
        "the whole connection is reset inside the body";
    Stall "stall" Ending Both [IdleTimeout]
        "nothing comes any more inside the body, and nothing ends";

    // Events of its own.
    BigEvent "big_event" Insert Both [UpstreamTooLarge]
        "one event whose text is larger than anybody should accept";
    ErrorEvent "error_event" Insert Both [UpstreamError]
        "an error object instead of the next event, then a clean end";
    InvalidJson "invalid_json" Insert Both [UpstreamProtocol] "one event that is not JSON";

    // Something else in the place of the body.
    Empty "empty" Whole Both [UpstreamTruncated, UpstreamProtocol]
        "status 200, the right content type and no byte of a body";
    NotSse "not_sse" Whole Both [UpstreamProtocol] "an HTML page under status 200";
    ErrorObject "error_object" Whole Both [UpstreamError] "an error object under status 200";
    ErrorFirst "error_first" Whole Both [UpstreamError]
        "a stream whose first event is an error object";
    ErrorThenFine "error_then_fine" Whole Both []
        "an error object under status 200, and the next request with this id is answered";
    ErrorLines "error_lines" Whole Both [UpstreamError, UpstreamProtocol, UpstreamTruncated]
        "an error object over several lines inside a stream";
    EndlessLine "endless_line" Whole Both [UpstreamTooLarge] "a line that never ends";
    OnlyComments "only_comments" Whole Both [FirstContentTimeout]
        "comments for ever and no content";
    OnlyRole "only_role" Whole Both [FirstContentTimeout]
        "the first event says who speaks, and nothing follows";
    PingsAfter "pings_after" Whole Both [IdleTimeout]
        "comments for ever behind the first tokens";
    InvalidUtf8 "invalid_utf8" Whole Both [UpstreamProtocol] "a delta that is not UTF-8";
    DoneOnly "done_only" Whole Both [] "the terminal marker without anything before it";
    HalfEvent "half_event" Whole Both [UpstreamTruncated]
        "the last event lacks its end, and the body ends cleanly";

    // The same in another form.
    Drip "drip" Shape Both [] "one byte at a time";
    Split "split" Shape Both [] "cut at random, also inside characters and line ends";
    Glued "glued" Shape Both [] "everything in one write";
    Crlf "crlf" Shape Both [] "lines end with CR LF";
    Cr "cr" Shape Both [] "lines end with CR";
    MixedEnds "mixed_ends" Shape Both [] "lines end with LF, CR and CR LF by turns";
    Bom "bom" Shape Both [] "a byte order mark before the first event";
    Comments "comments" Shape Both [] "comments between and inside the events";
    MultiLine "multi_line" Shape Both [] "the data of each event stands on several lines";
    NoSpace "no_space" Shape Both [] "no blank behind the colon of a field";
    OtherFields "other_fields" Shape Both [] "id, retry and unknown fields in every event";
    FinishOnly "finish_only" Shape Both [] "a finish reason and a clean end, no terminal marker";
    DoneTwice "done_twice" Shape Both [] "the terminal marker comes twice";
    AfterDone "after_done" Shape Both [] "events behind the terminal marker";
    DoneUnended "done_unended" Shape Both [] "the line of the terminal marker lacks its end";
    NullContent "null_content" Shape Both [] "the first delta has the content null";
    NoChoices "no_choices" Shape Both []
        "the first event has no choices, an empty id and filter results";
    NewFields "new_fields" Shape Both [] "members that nobody knows, and obfuscation";
    UsageOnFinish "usage_on_finish" Shape Both [] "usage stands beside the finish reason";
    UsageEmptyDelta "usage_empty_delta" Shape Both [] "usage stands beside an empty delta";
    UsageEarly "usage_early" Shape Both [] "every event carries the usage so far";
    ToolNoIndex "tool_no_index" Shape Both [] "tool calls without an index";
    ToolIndexNegative "tool_index_negative" Shape Both [] "tool calls with the index -1";
    ToolNoId "tool_no_id" Shape Both [] "tool calls without id";
    ToolEmptyList "tool_empty_list" Shape Both [] "deltas with tool_calls: []";

    // The coding of the body.
    Gzip "gzip" Coding Both [] "a correct answer in gzip, asked for or not";
    GzipBomb "gzip_bomb" Coding Both [UpstreamEncoding, UpstreamTooLarge]
        "gzip that grows a thousandfold, for ever";
    GzipWrong "gzip_wrong" Coding Both [UpstreamEncoding] "said to be gzip and is not";
    GzipTruncated "gzip_truncated" Coding Both [UpstreamTruncated, UpstreamEncoding]
        "gzip that ends inside";
    GzipCorrupt "gzip_corrupt" Coding Both [UpstreamEncoding, UpstreamProtocol]
        "gzip with wrong bytes inside";
    EncodingUnknown "encoding_unknown" Coding Both [UpstreamEncoding]
        "an encoding that nobody offered";

    // Between two answers.
    CloseAfter "close_after" Between One []
        "the connection is kept alive, and closed just after the answer";
    CloseOnNext "close_on_next" Between One []
        "the connection is kept alive, and reset just as the next request arrives";

    // HTTP/2.
    GoawayBefore "goaway_before" Frames Two [UpstreamRefused]
        "GOAWAY that leaves the stream out";
    GoawayThenFine "goaway_then_fine" Frames Two []
        "the same, and the next request with this id is answered";
    GoawayAfter "goaway_after" Frames Two [] "GOAWAY that includes all streams, which go on";
    GoawayCut "goaway_cut" Frames Two [UpstreamReset, UpstreamTruncated]
        "GOAWAY within the answer, and the connection is closed";
    RefusedStream "refused_stream" Frames Two [UpstreamRefused] "REFUSED_STREAM";
    RefusedThenFine "refused_then_fine" Frames Two []
        "the same, and the next request with this id is answered";
    RstInternal "rst_internal" Frames Two [UpstreamReset] "INTERNAL_ERROR before the head";
    RstCalm "rst_calm" Frames Two [UpstreamReset, UpstreamTruncated]
        "ENHANCE_YOUR_CALM inside the body";
    RstNoError "rst_no_error" Frames Two [UpstreamReset, UpstreamTruncated]
        "NO_ERROR inside the body, without its end";
    FrameTooBig "frame_too_big" Frames Two [UpstreamReset, UpstreamProtocol]
        "a frame larger than the peer allows";
    FrameNoStream "frame_no_stream" Frames Two [UpstreamReset, UpstreamProtocol]
        "data on no stream";
    WindowOverflow "window_overflow" Frames Two [UpstreamReset, UpstreamProtocol]
        "a window that grows beyond its bound";
    LengthWrong2 "length_wrong_h2" Frames Two [UpstreamReset, UpstreamTruncated, UpstreamProtocol]
        "content-length promises more than the stream brings";
}
