//! Every code that Ringmain reports, in one table.
//!
//! A code has a number (on the wire), a name (in logs and in the `code` field of HTTP errors), a
//! sentence (for people), the HTTP status that the HTTP face answers with, and whether the same
//! request may succeed when it is sent again without change.

use std::fmt;

macro_rules! codes {
    ($($number:literal $name:ident $status:literal $retryable:literal $sentence:literal;)+) => {
        /// Why an exchange, an attachment or a session ended.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        #[repr(u16)]
        pub enum Code {
            $(#[doc = $sentence] $name = $number,)+
        }

        impl Code {
            /// All codes, in the order of their numbers.
            pub const ALL: &'static [Code] = &[$(Code::$name,)+];

            /// The code with this number, if there is one.
            pub fn from_number(number: u16) -> Option<Code> {
                match number {
                    $($number => Some(Code::$name),)+
                    _ => None,
                }
            }

            /// The name, as logs and HTTP errors carry it.
            pub fn name(self) -> &'static str {
                match self { $(Code::$name => stringify!($name),)+ }
            }

            /// One sentence for people, lower case, without a full stop.
            pub fn sentence(self) -> &'static str {
                match self { $(Code::$name => $sentence,)+ }
            }

            /// The HTTP status of an answer that carries this code.
            pub fn http_status(self) -> u16 {
                match self { $(Code::$name => $status,)+ }
            }

            /// Whether the same request may succeed when sent again unchanged.
            pub fn is_retryable(self) -> bool {
                match self { $(Code::$name => $retryable,)+ }
            }
        }
    };
}

codes! {
    // The request itself.
    1 InvalidHead 400 false "the head of the request is not valid";
    2 InvalidRequest 400 false "the request is not valid";
    3 UnknownRoute 404 false "no route serves this model";
    4 BodyTooLarge 413 false "the body is larger than the limit";
    5 NotAllowed 403 false "this identity is not allowed here";
    6 QuotaExceeded 429 true "a quota of this uid is used up";
    7 DeadlineExceeded 504 false "the deadline of the caller passed";
    8 Cancelled 499 false "the caller cancelled the exchange";
    9 SlowConsumer 504 false "the consumer did not read for too long";
    10 RateLimited 429 true "a rate limit leaves no room before the deadline";
    11 WouldBlock 503 true "no lane or no arena space is free";
    // The upstream side.
    20 UpstreamDns 502 true "the name of the endpoint could not be resolved";
    21 UpstreamConnect 502 true "no connection to the endpoint could be made";
    22 UpstreamTls 502 false "the TLS handshake with the endpoint failed";
    23 UpstreamRefused 502 true "the endpoint refused the request before it processed it";
    24 UpstreamReset 502 true "the connection to the endpoint broke";
    25 UpstreamTruncated 502 true "the answer ended before its terminal marker";
    26 UpstreamStatus 502 false "the endpoint answered with an error status";
    27 UpstreamProtocol 502 false "the answer of the endpoint is not what was asked for";
    28 UpstreamError 502 true "the endpoint reported an error inside its answer";
    29 UpstreamTooLarge 502 false "an event or a body of the endpoint is larger than the limit";
    30 UpstreamEncoding 502 true "the content encoding of the answer could not be decoded";
    31 ConnectTimeout 504 true "connecting to the endpoint took too long";
    32 WriteTimeout 504 true "sending the request made no progress for too long";
    33 HeadTimeout 504 true "the endpoint sent no response head in time";
    34 FirstContentTimeout 504 true "the endpoint sent no content in time";
    35 IdleTimeout 504 true "the endpoint sent no further content in time";
    36 TotalTimeout 504 false "the exchange took longer than its total limit";
    37 CredentialUnavailable 500 false "the key of the endpoint cannot be read";
    38 EndpointUnavailable 503 true "no endpoint of the route can take requests now";
    // The broker and the session.
    50 Draining 503 true "the broker is shutting down and takes nothing new";
    51 Drained 503 true "the broker shut down before the exchange ended";
    52 BrokerGone 503 true "the broker went away";
    53 BrokerRestarted 503 true "the exchange belongs to an earlier broker";
    54 BrokerAbsent 503 true "no broker answers at the socket";
    55 Abi 500 false "the two sides speak different versions of the protocol";
    56 BadHello 400 false "the attach message is not valid";
    57 PeerUnidentified 403 false "the identity of the peer cannot be established";
    58 SessionClosed 500 true "the session was closed";
    59 Internal 500 false "the broker failed inside";
    // Violations: each ends the session of the peer that committed it.
    70 ViolationEntry 400 false "a submission entry is not valid";
    71 ViolationCursor 400 false "a lane cursor went backwards or beyond what was written";
    72 ViolationLaneBusy 400 false "a request names a lane that is not free";
    73 ViolationFrame 400 false "a frame is not valid";
    74 ViolationControl 400 false "a control message is not valid";
    75 ViolationLoan 400 false "a loan was not returned or returned twice";
    76 ViolationSegment 400 false "a segment is not what the handshake promised";
    // Producers.
    90 ProducerGone 502 true "the producer of the route went away";
    91 ProducerAbsent 503 true "no producer of this name is attached";
}

impl Code {
    /// Whether this code ends a session for a violation of the protocol by its peer.
    pub fn is_violation(self) -> bool {
        (70..90).contains(&(self as u16))
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.sentence())
    }
}

/// How far an exchange had come when it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
#[repr(u8)]
pub enum Stage {
    /// Attaching to the broker.
    Attach = 0,
    /// Writing and publishing the request.
    Submit = 1,
    /// Judging the request.
    Intake = 2,
    /// Waiting for a permit.
    Admit = 3,
    /// Getting a connection.
    Connect = 4,
    /// Sending the request.
    Send = 5,
    /// Waiting for the response head.
    AwaitHead = 6,
    /// Waiting for the first content.
    AwaitContent = 7,
    /// Relaying content.
    Relay = 8,
}

impl Stage {
    /// The stage with this number, if there is one.
    pub fn from_number(number: u8) -> Option<Stage> {
        use Stage::*;
        [Attach, Submit, Intake, Admit, Connect, Send, AwaitHead, AwaitContent, Relay]
            .get(usize::from(number))
            .copied()
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stage::Attach => "while attaching",
            Stage::Submit => "while submitting",
            Stage::Intake => "while the request was checked",
            Stage::Admit => "while waiting for a permit",
            Stage::Connect => "while connecting",
            Stage::Send => "while sending",
            Stage::AwaitHead => "while waiting for the response head",
            Stage::AwaitContent => "while waiting for the first content",
            Stage::Relay => "while relaying",
        })
    }
}

/// Whether the upstream may have seen the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Sent {
    /// Provably not: sending it again cannot do it twice.
    No = 0,
    /// Nobody can tell.
    Maybe = 1,
    /// It answered.
    Yes = 2,
}

impl Sent {
    /// The value with this number, if there is one.
    pub fn from_number(number: u8) -> Option<Sent> {
        [Sent::No, Sent::Maybe, Sent::Yes].get(usize::from(number)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_and_ascend() {
        for pair in Code::ALL.windows(2) {
            assert!((pair[0] as u16) < (pair[1] as u16), "{pair:?}");
        }
        for &code in Code::ALL {
            assert_eq!(Code::from_number(code as u16), Some(code));
            assert!((400..600).contains(&code.http_status()), "{code:?}");
            assert!(!code.sentence().ends_with('.'), "{code:?}");
        }
        assert_eq!(Code::from_number(0), None);
    }

    #[test]
    fn stages_and_sent_come_back() {
        for n in 0..=8 {
            assert_eq!(Stage::from_number(n).map(|s| s as u8), Some(n));
        }
        assert_eq!(Stage::from_number(9), None);
        assert_eq!(Sent::from_number(2), Some(Sent::Yes));
        assert_eq!(Sent::from_number(3), None);
    }
}
