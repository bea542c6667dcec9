//! The HTTP client of one slot.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Client, redirect, retry};
use rustls::ClientConfig;

use super::connector::OneConnection;
use super::line::Line;
use super::tls;
use crate::config::{EndpointConfig, Http2, Proxy};
use crate::key::read_private;

/// How long a server may leave sent bytes untaken before the kernel gives its connection up: the
/// last resort, for a connection whose socket could not be found.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(30);
/// How often an unused connection is probed by TCP.
const TCP_KEEPALIVE: Duration = Duration::from_secs(30);
/// What one HTTP/2 stream may be ahead of its reader.
const STREAM_WINDOW: u32 = 256 * 1024;
/// Most bytes that a window can have (RFC 9113, 6.9.1).
const WINDOW_MAX: u64 = (1 << 31) - 1;
/// How often an HTTP/2 connection with streams is asked whether it lives, and how long it has.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_LIMIT: Duration = Duration::from_secs(15);

/// Makes the clients of an endpoint, all from one TLS configuration.
pub(super) struct Maker {
    tls: ClientConfig,
    proxy: Option<reqwest::Proxy>,
    unix: Option<PathBuf>,
    http2: Http2,
    streams_max: u32,
    connect_timeout: Duration,
}

/// A part of an endpoint's configuration that no connection can be made with.
#[derive(Clone, Debug)]
pub(crate) struct Unfit {
    /// Its key.
    pub key: &'static str,
    /// What is wrong, in a sentence.
    pub reason: String,
}

impl Unfit {
    /// Says of which key a sentence is.
    pub fn of(key: &'static str) -> impl Fn(String) -> Unfit {
        move |reason| Unfit { key, reason }
    }
}

impl Maker {
    pub fn new(
        config: &EndpointConfig,
        is_tls: bool,
        unix: Option<PathBuf>,
    ) -> Result<Maker, Unfit> {
        let proxy = config.proxy.as_ref().map(make_proxy);
        Ok(Maker {
            tls: tls::client_config(config, is_tls)?,
            proxy: proxy.transpose()?,
            unix,
            http2: config.http2,
            streams_max: config.streams_max,
            connect_timeout: config.connect_timeout,
        })
    }

    /// A client that makes one connection.
    pub fn make(&self, line: Arc<Line>) -> Result<Client, reqwest::Error> {
        let builder = Client::builder()
            .user_agent(concat!("ringmain/", env!("CARGO_PKG_VERSION")))
            // The environment of a broker is not its configuration.
            .no_proxy()
            .redirect(redirect::Policy::none())
            .retry(retry::never())
            .referer(false)
            .connect_timeout(self.connect_timeout)
            // When a connection goes is decided by the pool.
            .pool_idle_timeout(None)
            .pool_max_idle_per_host(1)
            .tcp_nodelay(true)
            .tcp_keepalive(TCP_KEEPALIVE)
            .tcp_user_timeout(TCP_USER_TIMEOUT)
            .tls_backend_preconfigured(self.tls.clone())
            .connector_layer(OneConnection { line, is_unix: self.unix.is_some() });
        let builder = match &self.proxy {
            Some(proxy) => builder.proxy(proxy.clone()),
            None => builder,
        };
        let builder = match &self.unix {
            Some(path) => builder.unix_socket(path.clone()),
            None => builder,
        };
        // As many streams as there may be can stand still, each with its window full, and the
        // connection still has room for the others.
        let window = u64::from(STREAM_WINDOW) * (u64::from(self.streams_max) + 1);
        let builder = builder
            .http2_initial_stream_window_size(STREAM_WINDOW)
            .http2_initial_connection_window_size(window.min(WINDOW_MAX) as u32)
            .http2_keep_alive_interval(PING_EVERY)
            .http2_keep_alive_timeout(PING_LIMIT);
        match self.http2 {
            Http2::Negotiated => builder,
            Http2::PriorKnowledge => builder.http2_prior_knowledge(),
            Http2::Off => builder.http1_only(),
        }
        .build()
    }
}

fn make_proxy(proxy: &Proxy) -> Result<reqwest::Proxy, Unfit> {
    let made = reqwest::Proxy::all(&proxy.url);
    let told = |error| format!("proxy {:?}: {error}", proxy.url);
    let made = made.map_err(|error| Unfit::of("proxy")(told(error)))?;
    let Some(file) = &proxy.login_file else { return Ok(made) };
    let unfit = Unfit::of("proxy_login_file");
    let login = read_private(file).map_err(|error| unfit(error.to_string()))?;
    let login = str::from_utf8(&login).ok().map(|text| text.trim_end_matches(['\r', '\n']));
    let Some((user, password)) = login.and_then(|login| login.split_once(':')) else {
        return Err(unfit(format!("{}: it does not hold user:password", file.display())));
    };
    Ok(made.basic_auth(user, password))
}
