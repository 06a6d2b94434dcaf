//! How does a model read a page, without reaching what only we may reach?

use super::{Effect, Reply, Tool, ToolContext, shown};
use crate::egress::Egress;
use async_trait::async_trait;
use futures_util::StreamExt;
use reqwest::{Method, Url, header::CONTENT_TYPE};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{error::Error as _, pin::pin, time::Duration};
use windlass_runtime::CoreExecutorError;

/// The most of a page that is read.
const PAGE_BYTES: usize = 2 * 1024 * 1024;

/// Reads a page over HTTP, where the egress rules allow it. Redirects are reported, not followed.
#[derive(Debug)]
pub struct Fetch {
    schema: Value,
    egress: Egress,
    limit: Duration,
}

#[derive(Deserialize)]
struct Page {
    url: String,
}

impl Fetch {
    pub(crate) fn new(egress: Egress, limit: Duration) -> Fetch {
        let schema = json!({
            "type": "object",
            "properties": { "url": { "type": "string", "maxLength": 8000 } },
            "required": ["url"],
            "additionalProperties": false,
        });
        Fetch { schema, egress, limit }
    }

    async fn page(&self, url: Url) -> Reply {
        let request = match self.egress.request(Method::GET, url) {
            Ok(request) => request,
            Err(refused) => return Reply::error("fetch_refused", refused),
        };
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => return failed(&error),
        };
        let status = response.status();
        let header =
            |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let kind = header(CONTENT_TYPE.as_str()).to_owned();
        if status.is_redirection() {
            return Reply::done(format!("HTTP {status}; it is at {:?} now, which you may fetch", header("location")));
        }
        let mut body = Vec::new();
        let mut chunks = pin!(response.bytes_stream());
        while let Some(chunk) = chunks.next().await {
            match chunk {
                Ok(chunk) => body.extend_from_slice(&chunk),
                Err(error) => return failed(&error),
            }
            if body.len() > PAGE_BYTES {
                return Reply::error("page_too_large", format!("more than {PAGE_BYTES} bytes"));
            }
        }
        let text = shown(&body, usize::MAX);
        Reply::Done { content: format!("HTTP {status}, {kind}\n{text}"), is_error: !status.is_success() }
    }
}

fn failed(error: &reqwest::Error) -> Reply {
    match (Egress::refusal(error), error.source()) {
        (Some(refused), _) => Reply::error("fetch_refused", refused),
        (None, Some(cause)) => Reply::error("fetch_failed", format!("{error}: {cause}")),
        (None, None) => Reply::error("fetch_failed", error),
    }
}

#[async_trait]
impl Tool for Fetch {
    fn name(&self) -> &'static str {
        "fetch"
    }

    fn description(&self) -> &'static str {
        "Reads a page from the web by GET and returns its status and text. Only public addresses can be reached."
    }

    fn schema(&self) -> &Value {
        &self.schema
    }

    fn effect(&self) -> Effect {
        Effect::ReadOnly
    }

    fn timeout(&self) -> Duration {
        self.limit
    }

    async fn call(&self, arguments: Value, _: &ToolContext<'_>) -> Result<Reply, CoreExecutorError> {
        let page: Page = match serde_json::from_value(arguments) {
            Ok(page) => page,
            Err(error) => return Ok(Reply::error("invalid_arguments", error)),
        };
        match Url::parse(&page.url) {
            Ok(url) => Ok(self.page(url).await),
            Err(error) => Ok(Reply::error("invalid_arguments", format!("{:?} is no URL: {error}", page.url))),
        }
    }
}
