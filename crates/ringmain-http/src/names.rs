//! Names of header fields that the library of HTTP does not know. Their look-up is a hash; that of
//! a text is a parser too.

use http::HeaderName;

use crate::ask::ROUTE_HEADER;

macro_rules! names {
    ($($constant:ident = $name:expr;)*) => {
        $(pub(crate) static $constant: HeaderName = HeaderName::from_static($name);)*
    };
}

names! {
    ANTHROPIC_VERSION = "anthropic-version";
    IDEMPOTENCY_KEY = "idempotency-key";
    REQUEST_ID = "request-id";
    RETRY_AFTER_MS = "retry-after-ms";
    ROUTE = ROUTE_HEADER;
    SEC_FETCH_SITE = "sec-fetch-site";
    X_API_KEY = "x-api-key";
    X_REQUEST_ID = "x-request-id";
    X_RINGMAIN_ID = "x-ringmain-id";
    X_SHOULD_RETRY = "x-should-retry";
}
