//! How does a model ask a person?

use super::{Effect, Reply, Tool, ToolContext};
use async_trait::async_trait;
use serde_json::{Value, json};
use std::time::Duration;
use windlass_core::PendingTool;
use windlass_runtime::CoreExecutorError;

/// Ends the run with a question. The next prompt of the session is the answer.
#[derive(Debug)]
pub struct AskHuman {
    schema: Value,
}

impl AskHuman {
    /// The tool's name, and that of the pending tool that a run with a question ends with.
    pub const NAME: &str = "ask_human";

    pub(crate) fn new() -> AskHuman {
        AskHuman {
            schema: json!({
                "type": "object",
                "properties": {
                    "question": { "type": "string", "minLength": 1 },
                    "options": { "type": "array", "items": { "type": "string" }, "maxItems": 20 },
                },
                "required": ["question"],
                "additionalProperties": false,
            }),
        }
    }
}

#[async_trait]
impl Tool for AskHuman {
    fn name(&self) -> &'static str {
        AskHuman::NAME
    }

    fn description(&self) -> &'static str {
        "Asks the person you work for, and returns their answer. It may take days; ask only what you cannot find out."
    }

    fn schema(&self) -> &Value {
        &self.schema
    }

    fn effect(&self) -> Effect {
        Effect::Idempotent
    }

    fn timeout(&self) -> Duration {
        Duration::from_secs(1)
    }

    async fn call(&self, arguments: Value, _: &ToolContext<'_>) -> Result<Reply, CoreExecutorError> {
        Ok(Reply::Ask(PendingTool { tool_name: AskHuman::NAME.into(), args: arguments }))
    }
}
