//! Makes connections, by the HTTP client's connector.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use reqwest::{Client, Url, redirect, retry};
use rustls::ClientConfig;

use super::Broken;
use super::connector::Take;
use super::line::{Line, Made};
use super::tls;
use crate::config::{EndpointConfig, Http2, Proxy};
use crate::key::read_private;

/// How long a server may leave sent bytes untaken before the kernel gives its connection up: the
/// last resort, for a connection whose socket could not be found.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(30);
/// How often an unused connection is probed by TCP.
const TCP_KEEPALIVE: Duration = Duration::from_secs(30);
/// Makes the connections of an endpoint, all from one TLS configuration.
pub(super) struct Maker {
    /// Where they go.
    url: Url,
    tls: ClientConfig,
    proxy: Option<Via>,
    unix: Option<PathBuf>,
    http2: Http2,
    connect_timeout: Duration,
}

/// A proxy on the way.
struct Via {
    proxy: reqwest::Proxy,
    /// What it is shown with each request that it forwards.
    login: Option<HeaderValue>,
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
    pub fn new(config: &EndpointConfig, url: Url, unix: Option<PathBuf>) -> Result<Maker, Unfit> {
        let proxy = config.proxy.as_ref().map(make_proxy);
        let is_tls = url.scheme() == "https";
        Ok(Maker {
            url,
            tls: tls::client_config(config, is_tls)?,
            proxy: proxy.transpose()?,
            unix,
            http2: config.http2,
            connect_timeout: config.connect_timeout,
        })
    }

    /// Makes the connection of a slot. Cancel-safe: with the future goes what was made by then.
    pub async fn connect(&self, line: &Arc<Line>) -> Result<Made, Broken> {
        let client = self.client(line.clone()).map_err(Broken::Unconnected)?;
        // Nothing is sent: the client is left without the connection that it made.
        let refused = client.get(self.url.clone()).send().await;
        match (line.take_made(), refused) {
            (Some(made), _) => Ok(made),
            (None, Err(error)) => Err(Broken::Unconnected(error)),
            (None, Ok(_)) => Err(Broken::Spent),
        }
    }

    /// What a proxy is shown that forwards requests.
    pub fn proxy_login(&self) -> Option<&HeaderValue> {
        self.proxy.as_ref()?.login.as_ref()
    }

    /// A client whose connection is taken.
    fn client(&self, line: Arc<Line>) -> Result<Client, reqwest::Error> {
        let builder = Client::builder()
            // The environment of a broker is not its configuration.
            .no_proxy()
            .redirect(redirect::Policy::none())
            .retry(retry::never())
            .connect_timeout(self.connect_timeout)
            .tcp_nodelay(true)
            .tcp_keepalive(TCP_KEEPALIVE)
            .tcp_user_timeout(TCP_USER_TIMEOUT)
            .tls_backend_preconfigured(self.tls.clone())
            .connector_layer(Take { line, is_unix: self.unix.is_some() });
        let builder = match &self.proxy {
            Some(via) => builder.proxy(via.proxy.clone()),
            None => builder,
        };
        let builder = match &self.unix {
            Some(path) => builder.unix_socket(path.clone()),
            None => builder,
        };
        match self.http2 {
            Http2::Negotiated => builder,
            Http2::PriorKnowledge => builder.http2_prior_knowledge(),
            Http2::Off => builder.http1_only(),
        }
        .build()
    }
}

fn make_proxy(proxy: &Proxy) -> Result<Via, Unfit> {
    // As with keys: a configuration is read by many. It is not repeated.
    if proxy.url.contains('@') {
        let reason = "it holds a user name or password; use proxy_login_file";
        return Err(Unfit::of("proxy")(reason.to_owned()));
    }
    let made = reqwest::Proxy::all(&proxy.url);
    let told = |error| format!("proxy {:?}: {error}", proxy.url);
    let made = made.map_err(|error| Unfit::of("proxy")(told(error)))?;
    let Some(file) = &proxy.login_file else { return Ok(Via { proxy: made, login: None }) };
    let unfit = Unfit::of("proxy_login_file");
    let login = read_private(file).map_err(|error| unfit(error.to_string()))?;
    let login = str::from_utf8(&login).ok().map(|text| text.trim_end_matches(['\r', '\n']));
    let Some((login, (user, password))) =
        login.and_then(|login| Some((login, login.split_once(':')?)))
    else {
        return Err(unfit(format!("{}: it does not hold user:password", file.display())));
    };
    // RFC 7617.
    let shown = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(login)));
    let mut shown = shown.map_err(|error| unfit(error.to_string()))?;
    shown.set_sensitive(true);
    Ok(Via { proxy: made.basic_auth(user, password), login: Some(shown) })
}
