//! One endpoint: an address, a credential, and the connections to it.

use thiserror::Error;

use crate::answer::Answer;
use crate::call::Call;
use crate::config::EndpointConfig;
use crate::error::UpstreamError;
use crate::key::KeyError;

/// An endpoint, ready to be called from any task.
pub struct Endpoint {
    config: EndpointConfig,
}

/// Why an endpoint could not be made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// The address cannot be used.
    #[error("base_url {url:?} of endpoint {endpoint}: {reason}")]
    BaseUrl {
        /// Name of the endpoint.
        endpoint: String,
        /// The address as given, without what may be a secret.
        url: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// The key cannot be used.
    #[error("key of endpoint {endpoint}: {source}")]
    Key {
        /// Name of the endpoint.
        endpoint: String,
        /// What is wrong.
        source: KeyError,
    },
    /// The HTTP client could not be built.
    #[error("endpoint {endpoint}: the HTTP client could not be built: {reason}")]
    Client {
        /// Name of the endpoint.
        endpoint: String,
        /// What it said.
        reason: String,
    },
}

/// Counts since the endpoint was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndpointStats {
    /// Connections opened.
    pub connections_opened: u64,
    /// Answers that needed no new connection.
    pub connections_reused: u64,
    /// Requests handed to the HTTP client.
    pub requests: u64,
    /// Answers whose head arrived.
    pub answers: u64,
}

impl Endpoint {
    /// Checks the configuration and reads the key. No connection is made yet.
    ///
    /// # Errors
    /// [`EndpointError`] names the endpoint and what is wrong with it.
    pub fn new(config: EndpointConfig) -> Result<Endpoint, EndpointError> {
        Ok(Endpoint { config })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// Its configuration.
    pub fn config(&self) -> &EndpointConfig {
        &self.config
    }

    /// Reads the key again; on an error the old one stays in use.
    ///
    /// # Errors
    /// [`EndpointError::Key`].
    pub fn reload_key(&self) -> Result<(), EndpointError> {
        unimplemented!()
    }

    /// Counts since it was made.
    pub fn stats(&self) -> EndpointStats {
        unimplemented!()
    }

    /// Sends a request and waits for the head of the answer.
    ///
    /// No time limit but the connect timeout is applied here. Cancel-safe: dropping the future
    /// drops the request; [`Call::progress`] tells what was known of it.
    ///
    /// # Errors
    /// [`UpstreamError`] with the stage, and with `sent` = no only where that is proven.
    pub async fn send(&self, _call: Call<'_>) -> Result<Answer, UpstreamError> {
        unimplemented!()
    }
}
