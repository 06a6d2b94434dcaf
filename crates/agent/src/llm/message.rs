//! What is said in a conversation with a model, and in what shape is it kept?
//!
//! A boundary's delta is a [`Delta`]: what one step added. Its messages have a `role` and a `content` in words, as those
//! of every executor of this crate have, so that whoever reads transcripts need not know this one.

use super::config::DialectName;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use windlass_core::{CompletionSeq, ContentBlock, JsonText, PendingTool};
use windlass_runtime::comms::EnvelopeId;

/// One message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Who says it.
    pub role: Role,
    /// In words. Of a tool: its result.
    pub content: String,
    /// Of a user: words and pictures in order, where there are pictures. `content` is their text then.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blocks: Vec<ContentBlock>,
    /// Of the model: the tools it calls.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<ToolCall>,
    /// Of the model: the answer as the provider gave it, thinking and unknown members included. It is sent back so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verbatim: Option<Verbatim>,
    /// Of the model: why it stopped, in the provider's word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<String>,
    /// Of a tool: the call that this is the result of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<String>,
    /// Of a tool: whether the call failed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_error: bool,
}

/// Who says something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Whoever speaks to the agent.
    User,
    /// The model.
    Assistant,
    /// A tool that the model called.
    Tool,
    /// Windlass: news of background work.
    System,
}

/// A tool that the model calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCall {
    /// Names the call; its result has the same.
    pub id: String,
    /// The tool.
    pub name: String,
    /// The arguments: JSON, if the model has done its work.
    pub arguments: String,
}

/// An answer in the provider's own shape.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verbatim {
    /// Whose shape.
    pub dialect: DialectName,
    /// `OpenAI`: the message. Anthropic: its content blocks.
    pub value: Value,
}

impl Message {
    fn of(role: Role, content: String) -> Message {
        Message {
            role,
            content,
            blocks: Vec::new(),
            calls: Vec::new(),
            verbatim: None,
            stop: None,
            call: None,
            is_error: false,
        }
    }

    /// Words for the model.
    pub fn user(content: impl Into<String>) -> Message {
        Message::of(Role::User, content.into())
    }

    /// News for the model.
    pub fn system(content: impl Into<String>) -> Message {
        Message::of(Role::System, content.into())
    }

    /// Words and pictures for the model.
    pub fn blocks(blocks: Vec<ContentBlock>) -> Message {
        let text = blocks.iter().filter_map(ContentBlock::as_text).collect::<Vec<_>>().join("\n");
        let only_words = blocks.iter().all(|block| block.as_text().is_some());
        Message { blocks: if only_words { Vec::new() } else { blocks }, ..Message::user(text) }
    }

    /// The result of a call.
    pub fn tool(call: impl Into<String>, content: impl Into<String>, is_error: bool) -> Message {
        Message { call: Some(call.into()), is_error, ..Message::of(Role::Tool, content.into()) }
    }

    /// The model's words.
    pub fn assistant(content: impl Into<String>) -> Message {
        Message::of(Role::Assistant, content.into())
    }
}

/// Tokens read and written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Read, from a cache or not.
    pub input: u64,
    /// Written.
    pub output: u64,
    /// Whether they were guessed from the length, because the provider did not count.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub estimated: bool,
}

/// What a step, or several, cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spent {
    /// Answers of the model.
    #[serde(default)]
    pub steps: u32,
    /// Tokens read and written.
    #[serde(default)]
    pub tokens: u64,
    /// A thousand-millionth of a US dollar.
    #[serde(default)]
    pub nanodollars: u64,
    /// Time on the model and on tools.
    #[serde(default)]
    pub millis: u64,
}

impl Spent {
    pub(crate) fn is_zero(&self) -> bool {
        *self == Spent::default()
    }

    pub(crate) fn add(&mut self, more: Spent) {
        self.steps = self.steps.saturating_add(more.steps);
        self.tokens = self.tokens.saturating_add(more.tokens);
        self.nanodollars = self.nanodollars.saturating_add(more.nanodollars);
        self.millis = self.millis.saturating_add(more.millis);
    }
}

/// What one step adds to the conversation. Live steps and recovery apply the same deltas.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Delta {
    /// What was said.
    pub messages: Vec<Message>,
    /// What it cost.
    #[serde(default, skip_serializing_if = "Spent::is_zero")]
    pub spent: Spent,
    /// What the provider counted at the last answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// Calls that are about to be made, of tools that must not be called twice.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub intended: Vec<crate::ledger::Intent>,
    /// What a person is asked; the run ends with this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Asked>,
    /// Whether the person's answer is in: nothing is waited for any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub resolved: bool,
    /// Whether a person has spoken: budgets count anew.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub spoken: bool,
    /// What the run's inputs ask for, if it is not what the run before asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<Settings>,
    /// How often the model was told in this run that its answer does not obey the schema, if it is told so now.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub repairs: u32,
    /// Messages of before give way to a summary, before the new ones are added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compacted: Option<Compacted>,
    /// The envelopes among the run's inputs: what a tool sends is sent because of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<EnvelopeId>,
    /// News of background work up to here are in the conversation.
    #[serde(default, skip_serializing_if = "is_first")]
    pub told: CompletionSeq,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_first(seq: &CompletionSeq) -> bool {
    *seq == CompletionSeq::default()
}

impl Delta {
    pub(crate) fn encode(&self) -> JsonText {
        JsonText::encode(self).expect("text, numbers and JSON are always JSON")
    }
}

/// What is asked, and of whom: the run's terminal says the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Asked {
    /// What the answer decides.
    #[serde(flatten)]
    pub about: Waiting,
    /// What the run ended with.
    pub tool: PendingTool,
}

/// What a run's inputs ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Another model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Said after what the agent is told before all else.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub instructions: Vec<String>,
}

/// What a person decides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "for", rename_all = "snake_case")]
pub enum Waiting {
    /// A question of the model: the answer is the call's result.
    Answer {
        /// The call.
        call: String,
    },
    /// Whether a call may be made.
    Approval {
        /// The call.
        call: String,
    },
    /// Whether a call that may have taken effect is made again.
    Ambiguous {
        /// The call.
        call: String,
    },
    /// Whether to go on, although the budget is used up.
    Budget,
}

/// A summary in the place of messages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compacted {
    /// All but so many of the last messages give way: counted from the end, because the beginning may be no longer kept.
    pub kept: usize,
    /// To this.
    pub summary: String,
}
