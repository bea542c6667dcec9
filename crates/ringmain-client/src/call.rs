//! The two builders of a [`Client`]: a chat, and a raw request.

use std::borrow::Cow;
use std::io;

use ringmain_wire::Mode;

use crate::body::{Body, BodyWriter, Fill};
use crate::chat::{ChatBody, number};
use crate::client::Client;
use crate::error::Result;
use crate::reply::Reply;
use crate::request::{Deadline, Request, forward_settings};
use crate::stream::Stream;

/// A chat completion being put together, see [`Client::chat`].
#[derive(Debug)]
#[must_use = "nothing is sent before `stream` or `send`"]
pub struct Chat<'a> {
    client: &'a Client,
    request: Request<'a>,
    body: ChatBody<'a>,
}

/// A raw request being put together, see [`Client::request`].
#[derive(Debug)]
#[must_use = "nothing is sent before `stream` or `send`"]
pub struct Call<'a, B = ()> {
    client: &'a Client,
    request: Request<'a>,
    body: B,
}

// --- Chat ------------------------------------------------------------------------------------

impl<'a> Chat<'a> {
    pub(crate) fn new(client: &'a Client, model: &'a str) -> Chat<'a> {
        let request = Request::new(model, "/chat/completions").mode(Mode::Deltas);
        Chat { client, request: request.usage_requested(), body: ChatBody::new(model) }
    }

    forward_settings!();

    /// Adds the system's message.
    pub fn system(self, text: impl Into<Cow<'a, str>>) -> Self {
        self.message("system", text)
    }

    /// Adds a message of the user.
    pub fn user(self, text: impl Into<Cow<'a, str>>) -> Self {
        self.message("user", text)
    }

    /// Adds an earlier answer of the model.
    pub fn assistant(self, text: impl Into<Cow<'a, str>>) -> Self {
        self.message("assistant", text)
    }

    /// Adds a message of text.
    pub fn message(mut self, role: impl Into<Cow<'a, str>>, text: impl Into<Cow<'a, str>>) -> Self {
        self.body = self.body.message(role, text);
        self
    }

    /// Adds a message whose content is JSON: an array of parts, say.
    pub fn message_json(
        mut self,
        role: impl Into<Cow<'a, str>>,
        json: impl Into<Cow<'a, str>>,
    ) -> Self {
        self.body = self.body.message_json(role, json);
        self
    }

    /// Sampling temperature.
    pub fn temperature(self, value: f64) -> Self {
        self.param("temperature", number(value))
    }

    /// Most tokens to generate.
    pub fn max_tokens(self, tokens: u32) -> Self {
        self.param("max_tokens", tokens.to_string())
    }

    /// Tools that the model may call, a JSON array.
    pub fn tools(self, json: impl Into<Cow<'a, str>>) -> Self {
        self.param("tools", json)
    }

    /// Adds a top-level field of the body; `json` goes out as it stands.
    pub fn param(mut self, name: impl Into<Cow<'a, str>>, json: impl Into<Cow<'a, str>>) -> Self {
        self.body = self.body.param(name, json);
        self
    }

    /// Sends it and returns the stream of its answer.
    ///
    /// # Errors
    /// See [`Client::submit`].
    pub fn stream(&self) -> Result<Stream> {
        self.client.submit(&self.request, &self.body)
    }

    /// Sends it and waits for the whole answer.
    ///
    /// # Errors
    /// See [`Client::submit`], and whatever ends the stream early.
    pub fn send(&self) -> Result<Reply> {
        self.stream()?.collect_reply()
    }

    /// [`Chat::stream`] for async code.
    ///
    /// # Errors
    /// See [`Client::submit_async`].
    #[cfg(feature = "tokio")]
    pub async fn stream_async(&self) -> Result<crate::AsyncStream> {
        self.client.submit_async(&self.request, &self.body).await
    }

    /// [`Chat::send`] for async code.
    ///
    /// # Errors
    /// See [`Client::submit_async`], and whatever ends the stream early.
    #[cfg(feature = "tokio")]
    pub async fn send_async(&self) -> Result<Reply> {
        self.stream_async().await?.collect_reply().await
    }
}

// --- Call ------------------------------------------------------------------------------------

impl<'a> Call<'a> {
    pub(crate) fn new(client: &'a Client, route: &'a str, path: &'a str) -> Call<'a> {
        Call { client, request: Request::new(route, path), body: () }
    }

    /// The body: bytes or a string that is copied into the loaned chunk.
    pub fn body<B: Body>(self, body: B) -> Call<'a, B> {
        Call { client: self.client, request: self.request, body }
    }

    /// The body: at most `bytes_max` bytes that `write` puts straight into the loaned chunk.
    pub fn body_with<F>(self, bytes_max: u64, write: F) -> Call<'a, Fill<F>>
    where
        F: FnOnce(&mut BodyWriter<'_>) -> io::Result<()>,
    {
        self.body(Fill::new(bytes_max, write))
    }
}

impl<'a, B: Body> Call<'a, B> {
    forward_settings!();

    /// Reads: a GET, no body is sent.
    pub fn get(mut self) -> Self {
        self.request = self.request.get();
        self
    }

    /// Removes: a DELETE.
    pub fn delete(mut self) -> Self {
        self.request = self.request.delete();
        self
    }

    /// Content type of the body, `application/json` unless said otherwise.
    pub fn content_type(mut self, text: &'a str) -> Self {
        self.request = self.request.content_type(text);
        self
    }

    /// Sends it and returns the stream of its answer.
    ///
    /// # Errors
    /// See [`Client::submit`].
    pub fn stream(self) -> Result<Stream> {
        self.client.submit(&self.request, self.body)
    }

    /// Sends it and waits for the whole answer.
    ///
    /// # Errors
    /// See [`Client::submit`], and whatever ends the stream early.
    pub fn send(self) -> Result<Reply> {
        self.stream()?.collect_reply()
    }

    /// [`Call::stream`] for async code.
    ///
    /// # Errors
    /// See [`Client::submit_async`].
    #[cfg(feature = "tokio")]
    pub async fn stream_async(self) -> Result<crate::AsyncStream> {
        self.client.submit_async(&self.request, self.body).await
    }

    /// [`Call::send`] for async code.
    ///
    /// # Errors
    /// See [`Client::submit_async`], and whatever ends the stream early.
    #[cfg(feature = "tokio")]
    pub async fn send_async(self) -> Result<Reply> {
        self.stream_async().await?.collect_reply().await
    }
}
