//! What does an endpoint's answer mean, and how is it read without trusting its length or its pace?

use super::{Endpoint, HttpExecutor};
use crate::{
    egress::Egress,
    exchange::{Answer, Minutes, Refusal, excerpt, part, protocol_error},
    llm::failure::retry_after,
    secrets::given::cut_off,
};
use futures_util::{Stream, StreamExt};
use reqwest::{Response, StatusCode, header::CONTENT_TYPE};
use serde_json::value::RawValue;
use sse_stream::{Error as SseError, Sse, SseByteStream};
use std::{io, pin::pin, time::SystemTime};
use windlass_core::JsonText;
use windlass_runtime::{CoreApplyOutput, CoreExecutorError, Turn};

/// The most that one event stream may bring altogether, in bytes.
const STREAM_LIMIT: usize = 64 << 20;

/// What a status says, before anything else is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// The body is the answer.
    Answer,
    /// Done, with nothing to say.
    Empty,
    /// Not now.
    Later,
    /// Not ever.
    Refused,
    /// There is no such endpoint any more.
    Gone,
    /// It would be somewhere else. Redirects are not followed: nobody has judged where they lead.
    Elsewhere,
    /// No answer to our question.
    Unexpected,
}

pub(super) fn class(status: StatusCode) -> Class {
    match status.as_u16() {
        200 | 201 => Class::Answer,
        204 => Class::Empty,
        300..=399 => Class::Elsewhere,
        // In conflict with itself: the endpoint still works on the same message.
        408 | 409 | 425 | 429 | 500..=599 => Class::Later,
        410 => Class::Gone,
        400..=499 => Class::Refused,
        _ => Class::Unexpected,
    }
}

/// Reads an answer, commits what it brings on the way, and returns its end.
pub(super) async fn read(
    executor: &HttpExecutor,
    turn: &Turn,
    id: &str,
    response: Response,
) -> Result<CoreApplyOutput, CoreExecutorError> {
    let endpoint = &executor.endpoint;
    match class(response.status()) {
        Class::Answer => {}
        Class::Empty => return Minutes::of(turn).end(turn, Answer::default()).await,
        class => return Err(refused(endpoint, class, response).await),
    }
    let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match kind.as_str() {
        "text/event-stream" => follow(executor, turn, id, response).await,
        "application/json" => {
            let answer = whole(endpoint, response).await?;
            Minutes::of(turn).end(turn, answer).await
        }
        other => {
            let words = words(endpoint, response).await;
            let expected = "an answer is application/json or text/event-stream";
            Err(protocol_error(format!("content type {other:?}; {expected}; {words}")))
        }
    }
}

/// Whether a message that asks for nothing was taken.
pub(super) async fn accepted(endpoint: &Endpoint, response: Response) -> Result<(), CoreExecutorError> {
    match class(response.status()) {
        Class::Answer | Class::Empty => Ok(()),
        class => Err(refused(endpoint, class, response).await),
    }
}

/// What a response comes to whose status says that it is no answer.
async fn refused(endpoint: &Endpoint, class: Class, response: Response) -> CoreExecutorError {
    let retry_after = retry_after(response.headers(), SystemTime::now());
    let words = words(endpoint, response).await;
    match class {
        Class::Later => CoreExecutorError::Retryable { error: format!("executor_failed: {words}"), retry_after },
        Class::Gone => CoreExecutorError::fatal(format!("executor_gone: {words}")),
        Class::Elsewhere => {
            let hint = "redirects are not followed, set url to where it leads";
            CoreExecutorError::fatal(format!("executor_refused: {words}; {hint}"))
        }
        Class::Unexpected => protocol_error(format!("{words}; an answer has status 200, 201 or 204")),
        Class::Refused | Class::Answer | Class::Empty => CoreExecutorError::fatal(format!("executor_refused: {words}")),
    }
}

/// The status and the beginning of the body, for errors.
async fn words(endpoint: &Endpoint, mut response: Response) -> String {
    let status = response.status();
    match next_chunk(endpoint, &mut response).await {
        Ok(Some(chunk)) => {
            // Where its length is not known there may be more.
            let is_whole = response.content_length() == Some(0);
            let text = if is_whole { String::from_utf8_lossy(&chunk).into_owned() } else { cut_off(&chunk) };
            format!("{status}: {}", excerpt(text.trim()))
        }
        // What the status says is enough.
        Ok(None) | Err(_) => status.to_string(),
    }
}

/// One JSON object.
async fn whole(endpoint: &Endpoint, mut response: Response) -> Result<Answer, CoreExecutorError> {
    let mut body = Vec::new();
    while let Some(chunk) = next_chunk(endpoint, &mut response).await? {
        body.extend_from_slice(&chunk);
        if body.len() > endpoint.answer_limit {
            return Err(too_large(endpoint.answer_limit));
        }
    }
    let text = str::from_utf8(&body)
        .map_err(|error| protocol_error(format!("the answer is no UTF-8 at byte {}", error.valid_up_to())))?;
    if text.trim().is_empty() {
        // More likely a proxy or a crash than an agent with nothing to say: that would be {} or 204.
        return Err(CoreExecutorError::retryable("executor_protocol_error: the answer is empty"));
    }
    Answer::read(text, &[]).map_err(protocol_error)
}

/// What the stream brings, event by event.
async fn follow(
    executor: &HttpExecutor,
    turn: &Turn,
    id: &str,
    response: Response,
) -> Result<CoreApplyOutput, CoreExecutorError> {
    let (mut minutes, mut checkpoints) = (Minutes::of(turn), 0);
    let mut events = pin!(SseByteStream::new(limited(&executor.endpoint, response)));
    loop {
        let Some(event) = events.next().await else {
            return Err(CoreExecutorError::retryable("executor_protocol_error: the stream ended without a result"));
        };
        let Sse { event: Some(name), data: Some(data), .. } = event.map_err(broken)? else {
            continue;
        };
        let wrong = |error: String| protocol_error(format!("event {name:?}: {error}"));
        match name.as_str() {
            "progress" => {
                let delta: Box<RawValue> =
                    serde_json::from_str(&data).map_err(|error| wrong(format!("{error} in: {}", excerpt(&data))))?;
                if let Ok(delta) = JsonText::encode(&delta) {
                    turn.progress(delta);
                }
            }
            "commit" => {
                let answer = Answer::read(&data, &[]).map_err(wrong)?;
                turn.commit(minutes.boundary(&answer)).await?;
                minutes.confirm(turn).await?;
            }
            "checkpoint" => {
                checkpoints += 1;
                executor.steer(turn, id, checkpoints, &mut minutes).await?;
            }
            "result" => return minutes.end(turn, Answer::read(&data, &[]).map_err(wrong)?).await,
            "failed" => return Err(part::<Refusal>(&data).map_err(wrong)?.into()),
            // Comments, pings, and what later versions may say.
            _ => {}
        }
    }
}

/// The body, cut off where an event or the whole grows too large.
fn limited(endpoint: &Endpoint, response: Response) -> impl Stream<Item = Result<bytes::Bytes, Cut>> {
    let start = (response, Block::default(), 0_usize);
    futures_util::stream::try_unfold(start, move |(mut response, mut block, total)| async move {
        let Some(chunk) = next_chunk(endpoint, &mut response).await.map_err(Cut)? else { return Ok(None) };
        let total = total + chunk.len();
        block.read(&chunk);
        for (size, limit) in [(block.size, endpoint.answer_limit), (total, STREAM_LIMIT)] {
            if size > limit {
                return Err(Cut(too_large(limit)));
            }
        }
        Ok(Some((chunk, (response, block, total))))
    })
}

/// The lines since the last empty one: an event, or a comment, as far as it has come.
#[derive(Debug, Default)]
struct Block {
    size: usize,
    line: usize,
    after_return: bool,
}

impl Block {
    fn read(&mut self, chunk: &[u8]) {
        for &byte in chunk {
            let is_end = byte == b'\r' || byte == b'\n' && !self.after_return;
            match (byte, is_end) {
                (_, true) if self.line == 0 => self.size = 0,
                (_, true) => (self.size, self.line) = (self.size + 1, 0),
                // The second half of a line end.
                (b'\n', false) => {}
                (_, false) => (self.size, self.line) = (self.size + 1, self.line + 1),
            }
            self.after_return = byte == b'\r';
        }
    }
}

/// An error of ours on its way through the parser of events.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct Cut(CoreExecutorError);

fn broken(error: SseError) -> CoreExecutorError {
    match error {
        SseError::Body(error) => match error.downcast::<Cut>() {
            Ok(cut) => cut.0,
            Err(error) => CoreExecutorError::retryable(format!("executor_unreachable: {error}")),
        },
        error => protocol_error(error),
    }
}

/// The next piece of the body; none at its end.
async fn next_chunk(endpoint: &Endpoint, response: &mut Response) -> Result<Option<bytes::Bytes>, CoreExecutorError> {
    match tokio::time::timeout(endpoint.idle, response.chunk()).await {
        Ok(chunk) => chunk.map_err(|error| unreachable_endpoint(&error)),
        Err(_) => Err(silent(endpoint)),
    }
}

pub(super) fn silent(endpoint: &Endpoint) -> CoreExecutorError {
    CoreExecutorError::retryable(format!("executor_timed_out: nothing came for {:?}", endpoint.idle))
}

fn too_large(limit: usize) -> CoreExecutorError {
    CoreExecutorError::fatal(format!("result_too_large: the answer is larger than {limit} bytes"))
}

/// Why nothing came, or no more.
pub(super) fn unreachable_endpoint(error: &reqwest::Error) -> CoreExecutorError {
    if let Some(refused) = Egress::refusal(error) {
        return CoreExecutorError::fatal(refused.to_string());
    }
    // The innermost cause says most; the URL is the operator's and may hold a token.
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let timed_out = error.is_timeout()
        || cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::TimedOut);
    let code = if timed_out { "executor_timed_out" } else { "executor_unreachable" };
    CoreExecutorError::retryable(format!("{code}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_line_ends_a_block_however_lines_end_and_chunks_are_cut() {
        for (text, expected) in [
            ("data: 1\nid: 2", 13),
            ("data: 1\n\n", 0),
            ("data: 1\r\n\r\nda", 2),
            ("data: 1\r\ndata", 12),
            (": ping\r\r: p", 3),
        ] {
            for cut in 0..=text.len() {
                let mut block = Block::default();
                block.read(&text.as_bytes()[..cut]);
                block.read(&text.as_bytes()[cut..]);
                assert_eq!(block.size, expected, "{text:?} at {cut}");
            }
        }
    }

    #[test]
    fn every_status_has_a_class() {
        for (statuses, expected) in [
            (&[200, 201][..], Class::Answer),
            (&[204], Class::Empty),
            (&[202, 203, 206], Class::Unexpected),
            (&[301, 302, 304, 307, 308], Class::Elsewhere),
            (&[408, 409, 425, 429, 500, 502, 503, 504, 529], Class::Later),
            (&[400, 401, 403, 404, 405, 413, 415, 422, 451], Class::Refused),
            (&[410], Class::Gone),
        ] {
            for status in statuses {
                assert_eq!(class(StatusCode::from_u16(*status).expect("a status")), expected, "{status}");
            }
        }
    }
}
