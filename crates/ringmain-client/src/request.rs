//! What is sent: route, path, head fields, and how the exchange is to be treated.

use std::time::{Duration, Instant};

use ringmain_wire::head::Method;
use ringmain_wire::{Flags, Mode, RequestHead};

/// Everything of a request but its body.
///
/// ```
/// use std::time::Duration;
/// use ringmain_client::{Mode, Request};
///
/// let request = Request::new("tiny", "/chat/completions")
///     .mode(Mode::Events)
///     .header("openai-beta", "assistants=v2")
///     .deadline(Duration::from_secs(30));
/// ```
#[derive(Clone, Debug)]
pub struct Request<'a> {
    pub(crate) head: RequestHead<'a>,
    pub(crate) mode: Mode,
    pub(crate) flags: Flags,
    pub(crate) deadline: Option<Instant>,
}

/// When an exchange must be over: a time from now, or a point in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(pub(crate) Instant);

impl<'a> Request<'a> {
    /// A POST of JSON to `path`, below the base URL of whichever endpoint serves `route`; the
    /// answer comes as plain bytes ([`Mode::Body`]).
    pub fn new(route: &'a str, path: &'a str) -> Request<'a> {
        Request {
            head: RequestHead::new(route, path),
            mode: Mode::Body,
            flags: Flags::NONE,
            deadline: None,
        }
    }

    /// Reads: a GET, no body is sent.
    #[must_use]
    pub fn get(mut self) -> Self {
        self.head.method = Method::Get;
        self
    }

    /// Removes: a DELETE.
    #[must_use]
    pub fn delete(mut self) -> Self {
        self.head.method = Method::Delete;
        self
    }

    /// Content type of the body, `application/json` unless said otherwise.
    #[must_use]
    pub fn content_type(mut self, text: &'a str) -> Self {
        self.head.content_type = Some(text);
        self
    }

    /// A further header field for the provider; the name in lower case. Fields that the broker
    /// sets itself (authorization, host ...) are refused when the request is submitted.
    #[must_use]
    pub fn header(mut self, name: &'a str, value: &'a str) -> Self {
        self.head.headers.push((name, value));
        self
    }

    /// Key under which the provider recognizes a repetition.
    #[must_use]
    pub fn idempotency_key(mut self, key: &'a str) -> Self {
        self.head.idempotency_key = Some(key);
        self
    }

    /// What the frames of the answer carry.
    #[must_use]
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// Whether doing it twice does no harm. Unsaid, the API path decides (a chat or an embedding
    /// may be done twice).
    #[must_use]
    pub fn idempotent(mut self, harmless: bool) -> Self {
        self.flags = self.flags.with(if harmless { Flags::IDEMPOTENT } else { Flags::ONCE });
        self
    }

    /// Not from a cache.
    #[must_use]
    pub fn bypass_cache(mut self) -> Self {
        self.flags = self.flags.with(Flags::BYPASS_CACHE);
        self
    }

    /// The body asks for usage itself (`stream_options.include_usage`), so the broker need not.
    #[must_use]
    pub fn usage_requested(mut self) -> Self {
        self.flags = self.flags.with(Flags::USAGE_REQUESTED);
        self
    }

    /// When the exchange must be over; waiting calls return by then whatever the broker does.
    #[must_use]
    pub fn deadline(mut self, deadline: impl Into<Deadline>) -> Self {
        self.deadline = Some(deadline.into().0);
        self
    }
}

impl From<Duration> for Deadline {
    fn from(from_now: Duration) -> Deadline {
        let now = Instant::now();
        // Beyond the clock's range means no deadline; a century is none either.
        let century = Duration::from_secs(100 * 365 * 86_400);
        Deadline(now.checked_add(from_now).unwrap_or(now + century))
    }
}

impl From<Instant> for Deadline {
    fn from(at: Instant) -> Deadline {
        Deadline(at)
    }
}

/// The settings that every builder passes through to its [`Request`].
macro_rules! forward_settings {
    () => {
        /// A further header field for the provider; the name in lower case.
        pub fn header(mut self, name: &'a str, value: &'a str) -> Self {
            self.request = self.request.header(name, value);
            self
        }

        /// Key under which the provider recognizes a repetition.
        pub fn idempotency_key(mut self, key: &'a str) -> Self {
            self.request = self.request.idempotency_key(key);
            self
        }

        /// What the frames of the answer carry.
        pub fn mode(mut self, mode: Mode) -> Self {
            self.request = self.request.mode(mode);
            self
        }

        /// Whether doing it twice does no harm; unsaid, the API path decides.
        pub fn idempotent(mut self, harmless: bool) -> Self {
            self.request = self.request.idempotent(harmless);
            self
        }

        /// Not from a cache.
        pub fn bypass_cache(mut self) -> Self {
            self.request = self.request.bypass_cache();
            self
        }

        /// When the exchange must be over: a `Duration` from now or an `Instant`.
        pub fn deadline(mut self, deadline: impl Into<Deadline>) -> Self {
            self.request = self.request.deadline(deadline);
            self
        }
    };
}
pub(crate) use forward_settings;
