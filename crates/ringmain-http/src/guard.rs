//! Web pages are refused. A page that a user of this host opens can make its browser send requests
//! to loopback; its own name may even be made to point there. A browser says for whom it asks: by
//! Origin, by Sec-Fetch-Site, and by the Host that the page believes it talks to.

use std::net::IpAddr;

use http::header::{HOST, ORIGIN};
use http::uri::Authority;
use http::{HeaderMap, Request, Version};
use ringmain_wire::Code;

use crate::config::HttpConfig;
use crate::names;
use crate::refusal::Refusal;

/// Names of this machine that no page can be served under to somebody else.
const USUAL: [&str; 3] = ["127.0.0.1", "localhost", "[::1]"];

/// Judges a request that came over TCP.
pub(crate) fn judge<B>(config: &HttpConfig, request: &Request<B>) -> Result<(), Refusal> {
    if is_plain(request) {
        return Ok(());
    }
    let host = host(request)?;
    if !is_ours(config, host.host()) {
        let text = format!(
            "host {:?} is not one of this broker's; name it in [http] hosts if it is",
            host.host()
        );
        return Err(Refusal::new(Code::NotAllowed, text));
    }
    judge_origin(config, request.headers(), &host)
}

/// Nearly all requests: to this machine by its usual names, and of no page. What is said of the
/// others below says the same of these.
fn is_plain<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let is_usual = USUAL.iter().any(|usual| {
        let port = host.as_bytes().strip_prefix(usual.as_bytes());
        port.is_some_and(|port| match port {
            [] => true,
            [b':', digits @ ..] => digits.iter().all(u8::is_ascii_digit),
            _ => false,
        })
    });
    is_usual
        && request.uri().authority().is_none()
        && !headers.contains_key(ORIGIN)
        && !headers.contains_key(&names::SEC_FETCH_SITE)
}

/// The one host that the request names.
fn host<B>(request: &Request<B>) -> Result<Authority, Refusal> {
    let bad = |text: &str| Refusal::new(Code::InvalidRequest, text);
    let mut fields = request.headers().get_all(HOST).iter();
    let (field, further) = (fields.next(), fields.next());
    if further.is_some() {
        return Err(bad("the request has more than one Host"));
    }
    let field = match field {
        None => None,
        Some(value) => {
            let parsed = Authority::try_from(value.as_bytes());
            let host = parsed.ok().filter(|host| !host.as_str().contains('@'));
            Some(host.ok_or_else(|| bad("the Host of the request is not a host"))?)
        }
    };
    // HTTP/2 names it beside the path; in HTTP/1.1 an absolute target does.
    match (request.uri().authority().cloned(), field) {
        (Some(target), Some(field)) if !target.as_str().eq_ignore_ascii_case(field.as_str()) => {
            Err(bad("the target and the Host of the request differ"))
        }
        (Some(target), _) if request.version() >= Version::HTTP_2 => Ok(target),
        (_, Some(field)) => Ok(field),
        (_, None) => Err(bad("the request has no Host")),
    }
}

fn is_ours(config: &HttpConfig, host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(ip) = bare.parse::<IpAddr>() {
        // An address has no name that somebody could make point elsewhere. What it must not be is
        // that of a page: pages of other addresses have other addresses.
        return ip.to_canonical().is_loopback() || is_listed(config, host) || listens(config, ip);
    }
    host.eq_ignore_ascii_case("localhost") || is_listed(config, host)
}

/// Whether this address is reached because the operator opened it.
fn listens(config: &HttpConfig, ip: IpAddr) -> bool {
    config.listen.iter().any(|listen| match listen {
        crate::config::Listen::Tcp(addr) => addr.ip() == ip,
        crate::config::Listen::Unix(_) => false,
    })
}

fn is_listed(config: &HttpConfig, host: &str) -> bool {
    config.hosts.iter().any(|listed| listed.eq_ignore_ascii_case(host))
}

/// A page may only be one that the operator serves under a listed host, together with this broker.
fn judge_origin(config: &HttpConfig, headers: &HeaderMap, host: &Authority) -> Result<(), Refusal> {
    let refused = || {
        let text = "requests of web pages are refused: the page could be anybody's";
        Err(Refusal::new(Code::NotAllowed, text))
    };
    let site = headers.get(&names::SEC_FETCH_SITE).map(|site| site.as_bytes());
    if !matches!(site, None | Some(b"none" | b"same-origin")) {
        return refused();
    }
    for origin in headers.get_all(ORIGIN) {
        let authority = origin.to_str().ok().and_then(|origin| {
            origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"))
        });
        let same = authority.is_some_and(|it| it.eq_ignore_ascii_case(host.as_str()));
        if !same || !is_listed(config, host.host()) {
            return refused();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(hosts: &[&str], fields: &[(&str, &str)]) -> Result<(), u16> {
        let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
        let config = HttpConfig { hosts, ..HttpConfig::default() };
        let mut request = Request::builder().uri("/v1/models");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        judge(&config, &request.body(()).unwrap()).map_err(|refusal| refusal.status)
    }

    #[test]
    fn hosts_of_this_machine_pass_and_others_do_not() {
        for host in ["127.0.0.1:8117", "localhost", "LOCALHOST:1", "[::1]:8117", "127.0.0.2"] {
            assert_eq!(judged(&[], &[("host", host)]), Ok(()), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example", "10.0.0.1", "127.0.0.1.nip.io:80"] {
            assert_eq!(judged(&[], &[("host", host)]), Err(403), "{host}");
        }
        assert_eq!(judged(&["gpu.lan"], &[("host", "gpu.lan:8117")]), Ok(()));
    }

    /// Whatever is said of a usual host, it is said after a look at the whole request too.
    #[test]
    fn the_short_way_says_what_the_long_one_does() {
        let fields = ["host", "origin", "sec-fetch-site"];
        let values = [
            "localhost",
            "127.0.0.1:8117",
            "[::1]:",
            "localhost:1a",
            "localhost.evil.example",
            "127.0.0.12",
            "[::1]x",
            "http://localhost",
            "none",
            "cross-site",
        ];
        let mut plain = 0;
        for uri in ["/v1/models", "http://localhost/v1", "http://evil.example/v1"] {
            for host in values {
                for (field, value) in fields.iter().flat_map(|field| values.map(|it| (field, it))) {
                    let request = Request::builder().uri(uri).header("host", host);
                    for request in [request, Request::builder().uri(uri)] {
                        let request = request.header(*field, value).body(()).unwrap();
                        let config = HttpConfig::default();
                        if is_plain(&request) {
                            plain += 1;
                            let host = host_of(&request);
                            assert!(is_ours(&config, host.host()), "{request:?}");
                            judge_origin(&config, request.headers(), &host).unwrap();
                        }
                    }
                }
            }
        }
        assert!(plain > 0);
    }

    fn host_of(request: &Request<()>) -> Authority {
        host(request).unwrap_or_else(|refusal| panic!("{}", refusal.failure.message))
    }

    #[test]
    fn a_request_names_exactly_one_host() {
        assert_eq!(judged(&[], &[]), Err(400));
        assert_eq!(judged(&[], &[("host", "localhost"), ("host", "localhost")]), Err(400));
        for host in ["", "a b", "u@localhost", "localhost/x"] {
            assert_eq!(judged(&[], &[("host", host)]), Err(400), "{host:?}");
        }
        let uri = "http://evil.example/v1/models";
        let request = Request::builder().uri(uri).header("host", "localhost").body(()).unwrap();
        assert_eq!(judge(&HttpConfig::default(), &request).unwrap_err().status, 400);
    }

    #[test]
    fn pages_are_refused_but_those_of_a_listed_host() {
        let page = |hosts: &[&str], origin: &str| {
            judged(hosts, &[("host", "gpu.lan:8117"), ("origin", origin)])
        };
        assert_eq!(page(&["gpu.lan"], "http://gpu.lan:8117"), Ok(()));
        assert_eq!(page(&["gpu.lan"], "http://gpu.lan:3000"), Err(403));
        assert_eq!(page(&["gpu.lan"], "null"), Err(403));
        let local = |field, value| judged(&[], &[("host", "localhost:8117"), (field, value)]);
        assert_eq!(local("origin", "http://localhost:8117"), Err(403));
        assert_eq!(local("sec-fetch-site", "cross-site"), Err(403));
        assert_eq!(local("sec-fetch-site", "none"), Ok(()));
    }
}
