//! How does a program of any language run a session's turns?
//!
//! Each attempt is one execution of the program. It reads one JSON document from standard input and writes its answer
//! to standard output; its standard error goes to the log (`windlass::executor`), counts as progress, and its end is
//! quoted in errors.
//!
//! Standard input:
//! `{"session", "run", "attempt", "effect_key", "kind", "text", "inputs": [{"id", "kind", "text"}],
//! "context": [{"id", "kind", "text"}], "resumes_after"}`; `effect_key` is the same for every attempt.
//!
//! Standard output: a JSON object with any of `text`, `structured`, `message_count` and `delta`, or plain text, or
//! nothing.
//!
//! | what happens | what becomes of the attempt |
//! |---|---|
//! | exit 0, answer understood | completed; without any output: completed without result |
//! | exit 0, answer no UTF-8, or JSON whose members have the wrong type | final, `executor_protocol_error` |
//! | exit 65 or 78 (`EX_DATAERR`, `EX_CONFIG`) | final, `executor_refused` |
//! | any other exit, or killed by a signal | retryable, `executor_failed` |
//! | program not found, or not executable | final, `executor_spawn_failed` |
//! | not started for another reason | retryable, `executor_spawn_failed` |
//! | more output than allowed | killed; final, `result_too_large` |
//! | output closed, program still running | killed; retryable, `executor_protocol_error` |
//! | longer than its time limit | killed; retryable, `executor_timed_out` |
//! | run cancelled, or attempt dropped | killed; whatever it did counts for nothing |
//!
//! Killed means: with its whole process group. A program that is silent for longer than the runtime's stall time is
//! taken for hung; a line on standard error now and then says that it is not.

use crate::{
    program::{Finished, Program, ProgramError, STDERR_TAIL, run},
    transcript::{Message, notices, said},
};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};
use std::{io::ErrorKind, sync::Arc};
use windlass_core::{Accepted, BoundaryOutput, JsonText, RunResult, Terminal};
use windlass_runtime::{CoreApplyOutput, CoreExecutor, CoreExecutorError, Turn};

/// Lines of standard error logged per execution; what is beyond is counted.
const LOGGED_LINES: usize = 1000;

/// Runs each attempt as one execution of a program.
#[derive(Clone, Debug)]
pub struct ProcessExecutor {
    program: Program,
}

impl ProcessExecutor {
    /// An executor that runs this program.
    pub fn new(program: Program) -> ProcessExecutor {
        ProcessExecutor { program }
    }
}

#[async_trait]
impl CoreExecutor for ProcessExecutor {
    async fn apply(&self, turn: Turn) -> Result<CoreApplyOutput, CoreExecutorError> {
        let request = serde_json::to_vec(&request(&turn)).expect("text and numbers are always JSON");
        let mut complaints = Complaints::default();
        let finished = tokio::select! {
            biased;
            // The program is killed as its future is dropped, right here.
            () = turn.cancelled() => return Err(CoreExecutorError::retryable("cancelled")),
            finished = run(&self.program, &request, |line| complaints.hear(&turn, line)) => finished,
        };
        complaints.close(&turn);
        let output = match finished {
            Ok(finished) => output(&finished, &complaints)?,
            Err(error) => return Err(failure(&error, &complaints)),
        };
        // The program was told of them, and has answered.
        if let Some(last) = turn.inputs().iter().filter_map(|accepted| notices(&accepted.input).last()).next_back() {
            turn.applied(last.seq).await?;
        }
        Ok(CoreApplyOutput { boundary: boundary(&turn, output.as_ref()), terminal: terminal(output) })
    }
}

/// What the program is told.
fn request(turn: &Turn) -> Value {
    let listed = |accepted: &Arc<Accepted>| {
        let input = &accepted.input;
        json!({ "id": input.id(), "kind": input.kind(), "text": said(input) })
    };
    let inputs: Vec<Value> = turn.inputs().iter().map(listed).collect();
    let context: Vec<Value> = turn.context().iter().map(listed).collect();
    json!({
        "session": turn.session(),
        "run": turn.run(),
        "attempt": turn.attempt(),
        "effect_key": turn.effect_key().to_string(),
        "kind": turn.kind(),
        "text": turn.primitive().text(),
        "inputs": inputs,
        "context": context,
        "resumes_after": turn.resumes_after(),
    })
}

/// What the program answers.
#[derive(Debug, Default, Deserialize)]
struct Answer {
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    structured: Option<Value>,
    #[serde(default)]
    message_count: Option<u64>,
    #[serde(default)]
    delta: Option<Box<RawValue>>,
}

/// An answer understood; none: the program had nothing to say.
fn output(finished: &Finished, complaints: &Complaints) -> Result<Option<Answer>, CoreExecutorError> {
    if !finished.status.success() {
        let error = complaints.quoted(&format!("{}", finished.status));
        return Err(match finished.status.code() {
            Some(65 | 78) => CoreExecutorError::fatal(format!("executor_refused: {error}")),
            _ => CoreExecutorError::retryable(format!("executor_failed: {error}")),
        });
    }
    let protocol = |detail: String| CoreExecutorError::fatal(format!("executor_protocol_error: {detail}"));
    let text = str::from_utf8(&finished.stdout)
        .map_err(|error| protocol(format!("standard output is no UTF-8 at byte {}", error.valid_up_to())))?;
    let text = text.trim_end_matches(['\r', '\n']);
    if text.trim().is_empty() {
        return Ok(None);
    }
    let plain = || Answer { text: Some(text.to_owned()), ..Answer::default() };
    // Words that happen to begin with a brace, and objects that are no answer of ours, are words.
    let known = |object: &serde_json::Map<String, Value>| {
        ["text", "structured", "message_count", "delta"].iter().any(|member| object.contains_key(*member))
    };
    match serde_json::from_str::<Value>(text) {
        Ok(Value::Object(object)) if known(&object) => {
            serde_json::from_str(text).map(Some).map_err(|error| protocol(format!("the answer's {error}")))
        }
        _ => Ok(Some(plain())),
    }
}

fn failure(error: &ProgramError, complaints: &Complaints) -> CoreExecutorError {
    let words = complaints.quoted(&error.to_string());
    match error {
        ProgramError::Empty => CoreExecutorError::fatal(format!("executor_spawn_failed: {words}")),
        ProgramError::Spawn { error, .. }
            if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) =>
        {
            CoreExecutorError::fatal(format!("executor_spawn_failed: {words}"))
        }
        ProgramError::Spawn { .. } => CoreExecutorError::retryable(format!("executor_spawn_failed: {words}")),
        ProgramError::TooMuchOutput { .. } => CoreExecutorError::fatal(format!("result_too_large: {words}")),
        ProgramError::Lingered => CoreExecutorError::retryable(format!("executor_protocol_error: {words}")),
        ProgramError::TimedOut { .. } => CoreExecutorError::retryable(format!("executor_timed_out: {words}")),
        ProgramError::Pipe(_) => CoreExecutorError::retryable(format!("executor_failed: {words}")),
    }
}

/// What is committed: the program's own delta, or the conversation as we heard it.
fn boundary(turn: &Turn, answer: Option<&Answer>) -> BoundaryOutput {
    let mut messages: Vec<Message> = turn.inputs().iter().map(|accepted| Message::heard(&accepted.input)).collect();
    if let Some(text) = answer.and_then(|answer| answer.text.as_ref()) {
        messages.push(Message::assistant(text));
    }
    let count = answer.and_then(|answer| answer.message_count).unwrap_or(messages.len() as u64);
    let own = answer.and_then(|answer| answer.delta.as_ref());
    let delta = match own {
        Some(delta) => JsonText::encode(delta),
        None => JsonText::encode(&json!({ "messages": messages })),
    };
    let delta = delta.expect("it was JSON before, or is made of text");
    BoundaryOutput { message_count: count, conversation_digest: None, delta: Some(delta) }
}

fn terminal(answer: Option<Answer>) -> Terminal {
    match answer {
        Some(Answer { text, structured, .. }) if text.is_some() || structured.is_some() => {
            Terminal::Result(Arc::new(RunResult { text: text.unwrap_or_default(), structured }))
        }
        _ => Terminal::NoResult,
    }
}

/// What the program says on standard error: logged line by line, its end kept for errors.
#[derive(Default)]
struct Complaints {
    lines: usize,
    tail: String,
}

#[derive(Serialize)]
struct Progress<'l> {
    stderr: &'l str,
}

impl Complaints {
    fn hear(&mut self, turn: &Turn, line: &str) {
        self.lines += 1;
        if self.lines <= LOGGED_LINES {
            tracing::info!(target: "windlass::executor", session = %turn.session(), run = %turn.run(), "{line}");
        }
        if let Ok(progress) = JsonText::encode(&Progress { stderr: line }) {
            turn.progress(progress);
        }
        self.keep(line);
    }

    fn keep(&mut self, line: &str) {
        if !self.tail.is_empty() {
            self.tail.push('\n');
        }
        self.tail.push_str(line);
        if let Some(over) = self.tail.len().checked_sub(STDERR_TAIL) {
            let cut = (over..=self.tail.len()).find(|at| self.tail.is_char_boundary(*at)).unwrap_or(over);
            self.tail.drain(..cut);
        }
    }

    fn close(&self, turn: &Turn) {
        if let Some(more @ 1..) = self.lines.checked_sub(LOGGED_LINES) {
            tracing::info!(target: "windlass::executor", session = %turn.session(), run = %turn.run(), "{more} more lines");
        }
    }

    /// The words, and the end of what the program complained of.
    fn quoted(&self, words: &str) -> String {
        if self.tail.is_empty() { words.to_owned() } else { format!("{words}; it said: {}", self.tail) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{os::unix::process::ExitStatusExt, process::ExitStatus};

    fn class(error: &CoreExecutorError) -> &'static str {
        match error {
            CoreExecutorError::Retryable { .. } => "retryable",
            CoreExecutorError::Final { .. } => "final",
        }
    }

    fn exit(code: i32, stdout: &[u8]) -> Finished {
        Finished { status: ExitStatus::from_raw(code << 8), stdout: stdout.to_vec() }
    }

    #[test]
    fn endings_become_classes_and_codes() {
        let said = Complaints { lines: 1, tail: "no such model".into() };
        for (finished, expected) in [
            (exit(1, b"ignored"), "retryable executor_failed: exit status: 1; it said: no such model"),
            (exit(65, b""), "final executor_refused: exit status: 65; it said: no such model"),
            (exit(78, b""), "final executor_refused: exit status: 78; it said: no such model"),
            (
                Finished { status: ExitStatus::from_raw(9), stdout: Vec::new() },
                "retryable executor_failed: signal: 9 (SIGKILL); it said: no such model",
            ),
            (exit(0, b"ab\xff"), "final executor_protocol_error: standard output is no UTF-8 at byte 2"),
        ] {
            let error = output(&finished, &said).expect_err(expected);
            assert_eq!(format!("{} {error}", class(&error)), expected);
        }
        let error = output(&exit(0, br#"{"text": 7}"#), &said).expect_err("text is no number");
        assert!(error.to_string().starts_with("executor_protocol_error: the answer's invalid type"), "{error}");
        assert_eq!(class(&error), "final");
    }

    #[test]
    fn failures_to_end_become_classes_and_codes() {
        let spawn = |kind: ErrorKind| ProgramError::Spawn { program: "x".into(), error: kind.into() };
        for (error, expected) in [
            (ProgramError::Empty, "final executor_spawn_failed"),
            (spawn(ErrorKind::NotFound), "final executor_spawn_failed"),
            (spawn(ErrorKind::PermissionDenied), "final executor_spawn_failed"),
            (spawn(ErrorKind::OutOfMemory), "retryable executor_spawn_failed"),
            (ProgramError::TooMuchOutput { limit: 1 }, "final result_too_large"),
            (ProgramError::Lingered, "retryable executor_protocol_error"),
            (ProgramError::TimedOut { limit: std::time::Duration::from_secs(1) }, "retryable executor_timed_out"),
            (ProgramError::Pipe(ErrorKind::BrokenPipe.into()), "retryable executor_failed"),
        ] {
            let failed = failure(&error, &Complaints::default());
            assert!(format!("{} {failed}", class(&failed)).starts_with(&format!("{expected}: ")), "{failed}");
        }
    }

    #[test]
    fn answers_are_json_or_words_or_nothing() {
        let text = |stdout: &str| {
            let answer = output(&exit(0, stdout.as_bytes()), &Complaints::default()).expect("an answer");
            terminal(answer)
        };
        let words = |words: &str| Terminal::Result(Arc::new(RunResult::text(words)));
        assert_eq!(text(""), Terminal::NoResult);
        assert_eq!(text("\n\n"), Terminal::NoResult);
        assert_eq!(text("hello\n"), words("hello"));
        assert_eq!(text("two\nlines\n"), words("two\nlines"));
        assert_eq!(text("{ no json"), words("{ no json"));
        assert_eq!(text("[1, 2]"), words("[1, 2]"));
        assert_eq!(text(r#"{"answer": 42}"#), words(r#"{"answer": 42}"#));
        assert_eq!(text(r#"{"text": "hi", "more": 1}"#), words("hi"));
        assert_eq!(text(r#"{"message_count": 3}"#), Terminal::NoResult);
        let structured =
            Terminal::Result(Arc::new(RunResult { text: String::new(), structured: Some(json!({"a": 1})) }));
        assert_eq!(text(r#"{"structured": {"a": 1}}"#), structured);
    }

    #[test]
    fn the_end_of_what_it_complains_of_is_kept() {
        let mut complaints = Complaints::default();
        for _ in 0..1000 {
            complaints.keep("äöü");
        }
        complaints.keep("the reason");
        assert!(complaints.tail.len() <= STDERR_TAIL && complaints.tail.ends_with("äöü\nthe reason"));
    }
}
