//! How does a program of any language run a session's turns?
//!
//! Each attempt is one execution of the program. It reads one JSON document from standard input and writes its answer
//! to standard output; its standard error goes to the log (`windlass::executor`), counts as progress, and its end is
//! quoted in errors.
//!
//! Standard input:
//! `{"session", "run", "attempt", "effect_key", "kind", "text", "inputs": [{"id", "kind", "text"}],
//! "context": [{"id", "kind", "text"}], "resumes_after"}`; `effect_key` is the same for every attempt. Where an input
//! came with a trace there is also `traceparent`, and the variable `TRACEPARENT`.
//!
//! Standard output: a JSON object with any of `text`, `structured`, `message_count`, `delta` and `pending` (the outside
//! tool that it waits for: `{"tool_name", "args"}`), or plain text, or nothing.
//!
//! | what happens | what becomes of the attempt |
//! |---|---|
//! | exit 0, answer understood | completed; without any output: completed without result |
//! | exit 0, answer no UTF-8, or JSON whose members have the wrong type | final, `executor_protocol_error` |
//! | exit 65 or 78 (`EX_DATAERR`, `EX_CONFIG`) | final, `executor_refused` |
//! | any other exit, or killed by a signal | retryable, `executor_failed` |
//! | program not found, or not executable | final, `executor_spawn_failed` |
//! | not started for another reason | retryable, `executor_spawn_failed` |
//! | its sandbox cannot be had | final, `sandbox_unavailable` |
//! | found, and not to be started within its sandbox | final, `executor_refused` |
//! | more output than allowed | killed; final, `result_too_large` |
//! | output closed, program still running | killed; retryable, `executor_protocol_error` |
//! | longer than its time limit | killed; retryable, `executor_timed_out` |
//! | run cancelled, or attempt dropped | killed; whatever it did counts for nothing |
//!
//! Killed means: with all that it has started. A program that is silent for longer than the runtime's stall time is
//! taken for hung; a line on standard error now and then says that it is not.

use crate::{
    complaints::Complaints,
    exchange::{Answer, Minutes, protocol_error, told},
    program::{Finished, Program, ProgramError, run},
    secrets::given::hidden_in,
};
use async_trait::async_trait;
use serde_json::Value;
use std::{borrow::Cow, io::ErrorKind, process::ExitStatus};
use windlass_runtime::{CoreApplyOutput, CoreExecutor, CoreExecutorError, Turn};

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
        let request = serde_json::to_vec(&told(&turn)).expect("text and numbers are always JSON");
        let mut program = Cow::Borrowed(&self.program);
        if let Some(trace) = turn.trace() {
            program.to_mut().env.push(("TRACEPARENT".into(), trace.to_string().into()));
        }
        let secrets = program.secrets();
        let mut complaints = Complaints::of(secrets.clone());
        let finished = tokio::select! {
            biased;
            // The program is killed as its future is dropped, right here.
            () = turn.cancelled() => return Err(CoreExecutorError::retryable("cancelled")),
            finished = run(&program, &request, |line| complaints.hear(&turn, line)) => finished,
        };
        complaints.close(&turn);
        let output = match finished {
            Ok(finished) => output(&finished, &complaints),
            Err(error) => Err(failure(&error, &complaints)),
        };
        Minutes::of(&turn).end(&turn, output.map_err(|error| hidden_in(error, &secrets))?).await
    }
}

/// An answer understood; an empty one if the program had nothing to say.
fn output(finished: &Finished, complaints: &Complaints) -> Result<Answer, CoreExecutorError> {
    if !finished.status.success() {
        return Err(ended(finished.status, complaints));
    }
    let text = str::from_utf8(&finished.stdout)
        .map_err(|error| protocol_error(format!("standard output is no UTF-8 at byte {}", error.valid_up_to())))?;
    let text = text.trim_end_matches(['\r', '\n']);
    if text.trim().is_empty() {
        return Ok(Answer::default());
    }
    let plain = || Answer { text: Some(text.to_owned()), ..Answer::default() };
    // Words that happen to begin with a brace, and objects that are no answer of ours, are words.
    match serde_json::from_str::<Value>(text) {
        Ok(Value::Object(object)) if Answer::has(object.keys()) => {
            serde_json::from_str(text).map_err(|error| protocol_error(format!("the answer's {error}")))
        }
        _ => Ok(plain()),
    }
}

/// What its end means, where it should not have ended so.
pub(crate) fn ended(status: ExitStatus, complaints: &Complaints) -> CoreExecutorError {
    let error = complaints.quoted(&status.to_string());
    match status.code() {
        Some(65 | 78) => CoreExecutorError::fatal(format!("executor_refused: {error}")),
        _ => CoreExecutorError::retryable(format!("executor_failed: {error}")),
    }
}

pub(crate) fn failure(error: &ProgramError, complaints: &Complaints) -> CoreExecutorError {
    let words = complaints.quoted(&error.to_string());
    match error {
        ProgramError::Empty => CoreExecutorError::fatal(format!("executor_spawn_failed: {words}")),
        ProgramError::Spawn { error, .. }
            if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) =>
        {
            CoreExecutorError::fatal(format!("executor_spawn_failed: {words}"))
        }
        ProgramError::Spawn { .. } => CoreExecutorError::retryable(format!("executor_spawn_failed: {words}")),
        ProgramError::Sandbox(_) => CoreExecutorError::fatal(words),
        ProgramError::TooMuchOutput { .. } => CoreExecutorError::fatal(format!("result_too_large: {words}")),
        ProgramError::Lingered => CoreExecutorError::retryable(format!("executor_protocol_error: {words}")),
        ProgramError::TimedOut { .. } => CoreExecutorError::retryable(format!("executor_timed_out: {words}")),
        ProgramError::Pipe(_) => CoreExecutorError::retryable(format!("executor_failed: {words}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::terminal;
    use serde_json::json;
    use std::{os::unix::process::ExitStatusExt, sync::Arc};
    use windlass_core::{PendingTool, RunResult, Terminal};

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
        let mut said = Complaints::default();
        said.keep("no such model");
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
        let tool = PendingTool { tool_name: "ask_human".into(), args: json!({ "q": 1 }) };
        let asks = r#"{"text": "?", "pending": {"tool_name": "ask_human", "args": {"q": 1}}}"#;
        assert_eq!(text(asks), Terminal::CallbackPending(Arc::new(tool)));
    }
}
