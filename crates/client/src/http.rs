//! How does one call reach the server and come back, and when is it tried again?
//!
//! A call is repeated only if that cannot do harm: it reads, or it carries an `Idempotency-Key`, or nothing of it was sent.

use crate::{Client, ClientError};
use bytes::Bytes;
use reqwest::{
    Method, RequestBuilder, Response, StatusCode, Url,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER},
};
use secrecy::ExposeSecret as _;
use serde::{Serialize, de::DeserializeOwned};
use std::time::Duration;
use tokio::time::{Instant, sleep};
use windlass_api::ProblemDetails;
use windlass_core::BlobId;

/// An answer larger than this is not read: the largest thing the server sends is a blob of 64 MiB.
const ANSWER_BYTES: usize = 80 << 20;
/// How long an ordinary answer may take. Waits add what they wait for.
const PATIENCE: Duration = Duration::from_secs(30);
/// The first pause before a call is repeated; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause, unless the server names a longer one.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// One call, ready to be sent as often as it takes.
pub(crate) struct Call<'c> {
    client: &'c Client,
    method: Method,
    url: Url,
    body: Option<(&'static str, Bytes)>,
    headers: Vec<(&'static str, String)>,
    patience: Duration,
    repeatable: bool,
}

impl<'c> Call<'c> {
    /// A call of a route; the segments of its path are escaped.
    pub(crate) fn new(client: &'c Client, method: Method, path: &[&str]) -> Call<'c> {
        let mut url = client.base().clone();
        url.path_segments_mut().expect("checked when the client was built").pop_if_empty().extend(path);
        let repeatable = method.is_safe();
        Call { client, method, url, body: None, headers: Vec::new(), patience: PATIENCE, repeatable }
    }

    /// Adds a query parameter if there is one.
    pub(crate) fn query(mut self, name: &str, value: Option<impl ToString>) -> Call<'c> {
        if let Some(value) = value {
            self.url.query_pairs_mut().append_pair(name, &value.to_string());
        }
        self
    }

    /// Sends this as JSON.
    pub(crate) fn json(self, body: &impl Serialize) -> Result<Call<'c>, ClientError> {
        let body = serde_json::to_vec(body).map_err(|error| ClientError::Settings(error.to_string()))?;
        Ok(self.bytes("application/json", body.into()))
    }

    /// Sends these bytes.
    pub(crate) fn bytes(mut self, media_type: &'static str, body: Bytes) -> Call<'c> {
        self.body = Some((media_type, body));
        self
    }

    /// Sends a header.
    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Call<'c> {
        self.headers.push((name, value.to_owned()));
        self
    }

    /// Sends the key that makes a repetition recognisable, and so allows it.
    pub(crate) fn key(self, key: &str) -> Call<'c> {
        Call { repeatable: true, ..self.header("idempotency-key", key) }
    }

    /// Allows the server to take so much longer.
    pub(crate) fn waits(mut self, wait: Duration) -> Call<'c> {
        self.patience += wait;
        self
    }

    /// Sends it, again if that is safe and may help, and reads the answer as JSON.
    pub(crate) async fn read<T: DeserializeOwned>(self) -> Result<T, ClientError> {
        self.read_with_head().await.map(|(_, _, read)| read)
    }

    /// The same, with status and headers.
    pub(crate) async fn read_with_head<T: DeserializeOwned>(self) -> Result<(StatusCode, HeaderMap, T), ClientError> {
        let (status, headers, body) = self.whole().await?;
        Ok((status, headers, self.decode(&body)?))
    }

    /// The same, and nobody needs the answer's body.
    pub(crate) async fn done(self) -> Result<(), ClientError> {
        self.whole().await.map(drop)
    }

    /// The same, and the answer's body as it is.
    pub(crate) async fn raw(self) -> Result<Bytes, ClientError> {
        self.whole().await.map(|(_, _, body)| body)
    }

    /// The same, and the body is the blob of this address.
    pub(crate) async fn blob(self, blob: &str) -> Result<Bytes, ClientError> {
        let (_, _, body) = self.whole().await?;
        if BlobId::of(&body).as_str() != blob {
            return Err(
                self.not_windlass(None, &format_args!("the {} bytes that came are not blob {blob}", body.len()))
            );
        }
        Ok(body)
    }

    fn decode<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, ClientError> {
        serde_json::from_slice(body).map_err(|error| self.not_windlass(None, &error))
    }

    async fn whole(&self) -> Result<(StatusCode, HeaderMap, Bytes), ClientError> {
        let begun = Instant::now();
        let mut pause = FIRST_PAUSE;
        loop {
            let attempt = async {
                let mut response = self.attempt().await?;
                let (status, headers) = (response.status(), std::mem::take(response.headers_mut()));
                Ok((status, headers, self.body(response).await?))
            };
            let error = match tokio::time::timeout(self.patience, attempt).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => error,
                Err(_) => self.unreachable(format!("nothing for {} s", self.patience.as_secs()), true),
            };
            let asked = retry_after(&error).unwrap_or_default();
            let wait = pause.max(asked);
            let harmless = self.repeatable || error.nothing_happened();
            if !harmless || !error.is_transient() || begun.elapsed() + wait > self.client.retry_for() {
                return Err(error);
            }
            sleep(wait).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Opens a stream: one attempt, and the body is left to the caller.
    pub(crate) async fn stream(&self) -> Result<Response, ClientError> {
        match tokio::time::timeout(self.patience, self.attempt()).await {
            Ok(answer) => answer,
            Err(_) => Err(self.unreachable(format!("nothing for {} s", self.patience.as_secs()), true)),
        }
    }

    /// One attempt; an answer that says no is an error.
    async fn attempt(&self) -> Result<Response, ClientError> {
        let response = self.request()?.send().await.map_err(|error| {
            let sent = !error.is_connect() && !error.is_builder();
            self.unreachable(innermost(&error), sent)
        })?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(self.refused(response).await)
    }

    fn request(&self) -> Result<RequestBuilder, ClientError> {
        let mut request = self.client.http().request(self.method.clone(), self.url.clone());
        if let Some(token) = self.client.token() {
            let mut value = HeaderValue::try_from(format!("Bearer {}", token.expose_secret()))
                .map_err(|_| ClientError::Settings("the token is not visible ASCII".into()))?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        for (name, value) in &self.headers {
            let value = HeaderValue::try_from(value)
                .map_err(|_| ClientError::Settings(format!("{name} is not visible ASCII: {value:?}")))?;
            request = request.header(*name, value);
        }
        if !self.headers.iter().any(|(name, _)| *name == ACCEPT.as_str()) {
            request = request.header(ACCEPT, "application/json, application/problem+json");
        }
        Ok(match &self.body {
            Some((media_type, body)) => request.header(CONTENT_TYPE, *media_type).body(body.clone()),
            None => request,
        })
    }

    async fn refused(&self, response: Response) -> ClientError {
        let status = response.status();
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let retry_after = retry_after.and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs);
        match self.body(response).await {
            Ok(body) => match serde_json::from_slice::<ProblemDetails>(&body) {
                Ok(problem) => ClientError::Problem { problem: Box::new(problem), retry_after },
                Err(_) => self.not_windlass(Some(status), &format_args!("status {status}, and no problem document")),
            },
            Err(error) => error,
        }
    }

    async fn body(&self, mut response: Response) -> Result<Bytes, ClientError> {
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.unreachable(innermost(&error), true))? {
            if body.len() + chunk.len() > ANSWER_BYTES {
                return Err(self.not_windlass(None, &format_args!("more than {ANSWER_BYTES} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.into())
    }

    pub(crate) fn unreachable(&self, detail: String, sent: bool) -> ClientError {
        ClientError::Unreachable { url: self.client.url().into(), detail, sent }
    }

    pub(crate) fn not_windlass(&self, status: Option<StatusCode>, detail: &dyn std::fmt::Display) -> ClientError {
        let status = status.map(|status| status.as_u16());
        ClientError::NotWindlass { url: self.client.url().into(), status, detail: detail.to_string() }
    }
}

/// How long the server asks to be left alone.
pub(crate) fn retry_after(error: &ClientError) -> Option<Duration> {
    match error {
        ClientError::Problem { retry_after, .. } => *retry_after,
        _ => None,
    }
}

/// What the system said, without the layers above that repeat each other.
fn innermost(error: &reqwest::Error) -> String {
    let mut source: &dyn std::error::Error = error;
    while let Some(below) = source.source() {
        source = below;
    }
    source.to_string()
}
