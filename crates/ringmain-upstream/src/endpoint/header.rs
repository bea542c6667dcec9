//! The header fields that an endpoint adds to every request.

use http::header::{HeaderMap, HeaderName, HeaderValue};

/// Most fields, and most bytes of a value.
const FIELDS_MAX: usize = 32;
const VALUE_BYTES_MAX: usize = 4096;

/// Fields that say how the message travels or who sends it: the broker's own to set.
const OWN: [&str; 18] = [
    "accept-encoding",
    "authorization",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "cookie",
    "expect",
    "host",
    "idempotency-key",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-api-key",
];

/// Whether an endpoint may add this field.
///
/// # Errors
/// What is wrong with it, without its value.
pub fn check_header(name: &str, value: &str) -> Result<(), &'static str> {
    let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else {
        return Err("cannot be the name of a header field");
    };
    match () {
        () if OWN.contains(&name.as_str()) => Err("is set by the broker itself"),
        () if value.len() > VALUE_BYTES_MAX => Err("has a value of more than 4096 bytes"),
        () if HeaderValue::from_str(value).is_err() => Err("has a value that cannot be sent"),
        () => Ok(()),
    }
}

/// The fields, judged; an error is a sentence.
pub(super) fn fields(configured: &[(String, String)]) -> Result<HeaderMap, String> {
    if configured.len() > FIELDS_MAX {
        return Err(format!("{} header fields, at most {FIELDS_MAX}", configured.len()));
    }
    let mut fields = HeaderMap::with_capacity(configured.len());
    for (name, value) in configured {
        check_header(name, value).map_err(|reason| format!("header {name:?} {reason}"))?;
        let name = HeaderName::from_bytes(name.as_bytes());
        if let (Ok(name), Ok(mut value)) = (name, HeaderValue::from_str(value)) {
            // It may well be a secret of the operator's.
            value.set_sensitive(true);
            fields.insert(name, value);
        }
    }
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_broker_sets_nobody_else_does() {
        for name in OWN.iter().copied().chain(["Host", "AUTHORIZATION", "a b", ""]) {
            assert!(check_header(name, "x").is_err(), "{name:?}");
        }
        assert!(check_header("x-team", "ml").is_ok());
        assert!(check_header("x-team", "m\nl").is_err());
        assert!(fields(&[("x-team".into(), "a".into())]).is_ok());
        let many = vec![("x".to_owned(), "a".to_owned()); 33];
        assert!(fields(&many).unwrap_err().contains("33"));
    }
}
