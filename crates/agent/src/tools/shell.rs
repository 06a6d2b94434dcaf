//! How does a model run a program?
//!
//! A program and its arguments, never a line for a shell. It runs in the workspace, in the [sandbox](crate::sandbox)
//! that `tools.sandbox` declares, with an environment of the few variables that programs need and those that were
//! allowed, and with bounded output and time. Whatever it has started is killed with the call.

use super::{Effect, Reply, Tool, ToolContext, Workspace, shown};
use crate::{
    program::{Finished, Program, ProgramError, run},
    sandbox::{Profile, Sandbox},
};
use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Value, json};
use std::{fmt::Write as _, sync::Arc, time::Duration};
use windlass_runtime::CoreExecutorError;

/// Output is kept up to here and cut for the model later; a program that writes more is killed.
const OUTPUT: usize = 4 * 1024 * 1024;
/// Time for a program to be killed and its pipes read, before the tool's own time is up.
const MARGIN: Duration = Duration::from_secs(5);

const DOES: &str = "Runs a program in the workspace, waits for its end and returns what it wrote. Give the program and \
                    its arguments as a list; for pipes and the like, run [\"sh\", \"-c\", \"…\"].";

/// Where programs run, what they see and may do, and how long.
#[derive(Clone, Debug)]
pub(crate) struct Surroundings {
    pub(crate) workspace: Arc<Workspace>,
    pub(crate) env: Vec<String>,
    pub(crate) limit: Duration,
    pub(crate) output: usize,
    pub(crate) sandbox: Sandbox,
}

impl Surroundings {
    /// What a model is told of the walls around its programs.
    pub(super) fn walls(&self) -> &'static str {
        match (self.sandbox.profile(), self.sandbox.network) {
            (Profile::None, _) => "",
            (Profile::Workspace, false) => {
                " It sees the workspace and the system's programs, changes the workspace only, and has no network."
            }
            (Profile::Workspace, true) => {
                " It sees the workspace and the system's programs, and changes the workspace only."
            }
        }
    }

    /// What a model asks to run.
    pub(super) fn program(&self, command: &Command) -> Program {
        let env = self.env.iter().filter_map(|name| Some((name.into(), std::env::var_os(name)?))).collect();
        Program {
            env,
            dir: Some(self.workspace.path().to_owned()),
            stdout_limit: OUTPUT,
            sandbox: self.sandbox.clone(),
            ..Program::new(&command.argv)
        }
    }
}

/// What a model asks to run.
#[derive(Debug, Deserialize)]
pub(super) struct Command {
    pub(super) argv: Vec<String>,
    #[serde(default)]
    pub(super) stdin: String,
}

pub(super) fn command_schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "argv": {
                "type": "array", "items": { "type": "string" }, "minItems": 1, "maxItems": 1000,
                "description": "the program and its arguments; no shell reads them, so nothing is expanded or quoted",
            },
            "stdin": { "type": "string", "description": "what the program reads from standard input" },
        },
        "required": ["argv"],
        "additionalProperties": false,
    })
}

/// What a program said and how it ended, in words for the model.
pub(super) fn told(ended: Result<Finished, ProgramError>, complaints: &str) -> (String, bool) {
    match ended {
        Ok(Finished { status, stdout }) => {
            let mut words = shown(&stdout, usize::MAX);
            if !complaints.is_empty() {
                let _ = write!(words, "\n[standard error]\n{complaints}");
            }
            if !status.success() {
                let _ = write!(words, "\n[{status}]");
            }
            (words.trim_start_matches('\n').to_owned(), !status.success())
        }
        Err(error) => {
            let code = match &error {
                ProgramError::Spawn { .. } | ProgramError::Empty | ProgramError::Sandbox(_) => "program_not_started",
                ProgramError::TooMuchOutput { .. } => "output_too_large",
                ProgramError::TimedOut { .. } => "program_timed_out",
                ProgramError::Lingered | ProgramError::Pipe(_) => "program_failed",
            };
            (format!("{code}: {error}\n{complaints}").trim_end().to_owned(), true)
        }
    }
}

/// What a program says on standard error, up to a length.
pub(super) fn complaint(complaints: &mut String, line: &str, limit: usize) {
    if complaints.len() + line.len() < limit {
        complaints.push_str(line);
        complaints.push('\n');
    }
}

/// Runs a program in the workspace and waits for its end.
#[derive(Debug)]
pub struct Shell {
    description: String,
    schema: Value,
    surroundings: Surroundings,
}

impl Shell {
    pub(crate) fn new(surroundings: Surroundings) -> Shell {
        let description = format!("{DOES}{}", surroundings.walls());
        Shell { description, schema: command_schema(), surroundings }
    }
}

#[async_trait]
impl Tool for Shell {
    fn name(&self) -> &'static str {
        "shell"
    }

    fn description(&self) -> &str {
        &self.description
    }

    fn schema(&self) -> &Value {
        &self.schema
    }

    fn effect(&self) -> Effect {
        Effect::Once
    }

    fn timeout(&self) -> Duration {
        self.surroundings.limit.saturating_add(MARGIN)
    }

    fn sandbox(&self) -> Option<Profile> {
        Some(self.surroundings.sandbox.profile())
    }

    async fn call(&self, arguments: Value, context: &ToolContext<'_>) -> Result<Reply, CoreExecutorError> {
        let command: Command = match serde_json::from_value(arguments) {
            Ok(command) => command,
            Err(error) => return Ok(Reply::error("invalid_arguments", error)),
        };
        let mut program = self.surroundings.program(&command);
        program.time_limit = Some(self.surroundings.limit);
        program.env.push(("WINDLASS_EFFECT_KEY".into(), context.effect_key.into()));
        let mut complaints = String::new();
        let limit = self.surroundings.output;
        let hear = |line: &str| complaint(&mut complaints, line, limit);
        let ended = run(&program, command.stdin.as_bytes(), hear).await;
        let (words, is_error) = told(ended, &complaints);
        Ok(Reply::Done { content: words, is_error })
    }
}
