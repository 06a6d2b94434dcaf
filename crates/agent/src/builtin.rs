//! How does the built-in agent run, without a network and without chance?
//!
//! [`BuiltinAgent`] talks by the rules of [`eliza`] and obeys the commands of
//! [`command`](crate::command), which show what the runtime does. It keeps nothing of its own: what it knows of a
//! session is folded from the deltas that it committed, so a restart or another node finds it where it was.

use crate::{
    command::{Command, HELP},
    eliza::{self, Mind, Trace},
    transcript::{Message, said},
};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use windlass_core::{
    Accepted, BoundaryOutput, Entry, InputBody, JsonText, PendingTool, Record, RunEnd, RunId, RunResult, Seq,
    SessionId, Terminal,
};
use windlass_runtime::{CoreApplyOutput, CoreExecutor, CoreExecutorError, Turn, store::StoreError};

/// How often `/slow` reports progress.
const TICK: Duration = Duration::from_millis(100);
const TICKS_PER_SECOND: u32 = 10;
/// Entries of the journal read at once.
const PAGE: u32 = 256;

const NO_BACKGROUND: &str =
    "Background work is not in this build yet, so I would only pretend. /slow works in the foreground.";

/// The offline, deterministic agent.
#[derive(Debug, Default)]
pub struct BuiltinAgent {
    /// What was folded last, so that the next turn of the same session reads only what is new. Losing it costs time.
    last: Mutex<Option<(SessionId, Recollection)>>,
}

#[async_trait]
impl CoreExecutor for BuiltinAgent {
    async fn apply(&self, turn: Turn) -> Result<CoreApplyOutput, CoreExecutorError> {
        let past = self.recollect(&turn).await?;
        tokio::select! {
            biased;
            () = turn.cancelled() => Err(CoreExecutorError::retryable("cancelled")),
            output = respond(&turn, past) => output,
        }
    }
}

/// What a boundary of this agent adds to the conversation.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Delta {
    messages: Vec<Message>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trace: Option<Trace>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    asked: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    slow: Option<Slow>,
}

/// A `/slow` that is not over: all that is needed to go on after a crash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Slow {
    seconds: u32,
    done: u32,
    #[serde(default)]
    heard: Vec<String>,
}

/// What the agent knows of a session: the fold of its journal.
#[derive(Clone, Debug, Default)]
struct Recollection {
    after: Seq,
    messages: u64,
    mind: Mind,
    asked: Option<String>,
    slow: Option<(RunId, Slow)>,
}

impl Recollection {
    fn fold(&mut self, entry: &Entry) {
        self.after = entry.seq;
        let (receipt, delta, last) = match &entry.record {
            Record::BoundaryCommitted(boundary) => (&boundary.receipt, &boundary.delta, false),
            Record::RunEnded(ended) => match &ended.end {
                RunEnd::Completed { receipt, delta, .. } => (receipt, delta, true),
                _ => return,
            },
            Record::SessionReset { .. } => {
                *self = Recollection { after: self.after, ..Recollection::default() };
                return;
            }
            _ => return,
        };
        self.messages = receipt.message_count;
        // Another executor may have had the session before; what it committed is not for us to read.
        let delta: Option<Delta> = delta.as_ref().and_then(|delta| serde_json::from_str(delta.get()).ok());
        let delta = delta.unwrap_or_default();
        if let Some(trace) = &delta.trace {
            self.mind.learn(trace);
        }
        if last {
            self.asked = delta.asked;
        }
        self.slow = delta.slow.map(|slow| (receipt.run_id, slow));
    }
}

impl BuiltinAgent {
    async fn recollect(&self, turn: &Turn) -> Result<Recollection, CoreExecutorError> {
        let known = self.last.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut past = match known {
            Some((session, past)) if session == turn.session() => past,
            _ => Recollection::default(),
        };
        loop {
            match turn.history(past.after, PAGE).await {
                Ok(entries) if entries.is_empty() => break,
                Ok(entries) => entries.iter().for_each(|entry| past.fold(entry)),
                // What is no longer kept is no longer known: the agent grows forgetful, not wrong.
                Err(StoreError::Pruned { oldest }) if oldest > past.after => past.after = oldest,
                Err(error) => return Err(CoreExecutorError::retryable(error.to_string())),
            }
        }
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((turn.session(), past.clone()));
        Ok(past)
    }
}

async fn respond(turn: &Turn, past: Recollection) -> Result<CoreApplyOutput, CoreExecutorError> {
    let heard: Vec<String> = turn.inputs().iter().map(|accepted| said(&accepted.input)).collect();
    let talk = Talk { turn, count: past.messages, new: heard.iter().map(Message::user).collect() };
    match past.slow {
        Some((run, mut slow)) if run == turn.run() && turn.resumes_after().is_some() => {
            slow.heard.extend(heard);
            return talk.work(slow).await;
        }
        _ => {}
    }
    if heard.is_empty() {
        return Ok(talk.say("Where were we?"));
    }
    if !turn.inputs().iter().all(|accepted| is_conversation(accepted)) {
        return Ok(talk.say(&format!("I have taken note: {}.", quote(&heard))));
    }
    let text = heard.join("\n");
    let words = match (Command::parse(&text), past.asked) {
        (Ok(Some(command)), _) => return talk.obey(command).await,
        (Err(mistake), _) => mistake.to_string(),
        (Ok(None), Some(question)) => format!("Thank you. I asked: {question} You answered: {text}"),
        (Ok(None), None) => {
            let (words, trace) = eliza::answer(&past.mind, &text);
            return Ok(talk.end(&words, Delta { trace: Some(trace), ..Delta::default() }, None));
        }
    };
    Ok(talk.say(&words))
}

fn is_conversation(accepted: &Accepted) -> bool {
    matches!(accepted.input.body, InputBody::Prompt(_) | InputBody::Peer(_))
}

fn quote(texts: &[String]) -> String {
    texts.iter().map(|text| format!("“{text}”")).collect::<Vec<_>>().join(", ")
}

/// A run's conversation: what is committed, and what is not yet.
struct Talk<'t> {
    turn: &'t Turn,
    count: u64,
    new: Vec<Message>,
}

impl Talk<'_> {
    async fn obey(self, command: Command) -> Result<CoreApplyOutput, CoreExecutorError> {
        Ok(match command {
            Command::Help => self.say(HELP),
            Command::Echo(text) => self.say(&text),
            Command::Slow(seconds) => return self.work(Slow { seconds, done: 0, heard: Vec::new() }).await,
            Command::Ask(question) => {
                let tool = PendingTool { tool_name: "ask_human".into(), args: json!({ "question": question }) };
                let delta = Delta { asked: Some(question.clone()), ..Delta::default() };
                self.end(&question, delta, Some(tool))
            }
            Command::Background => self.say(NO_BACKGROUND),
            Command::Panic => panic!("told to panic by /panic"),
            Command::Fail(times) => match self.turn.attempt() {
                attempt if times.is_some_and(|times| attempt > times) => {
                    self.say(&format!("It worked at attempt {attempt}."))
                }
                attempt => {
                    return Err(CoreExecutorError::retryable(format!("told to fail by /fail, attempt {attempt}")));
                }
            },
        })
    }

    /// Works second by second, with a boundary between any two, so that a crash costs less than a second's work.
    async fn work(mut self, mut slow: Slow) -> Result<CoreApplyOutput, CoreExecutorError> {
        while slow.done < slow.seconds {
            for tick in 1..=TICKS_PER_SECOND {
                tokio::time::sleep(TICK).await;
                let done = slow.done * TICKS_PER_SECOND + tick;
                self.turn.progress(encode(&json!({ "tenths": done, "of": slow.seconds * TICKS_PER_SECOND })));
            }
            let steering = self.turn.checkpoint().await?;
            for accepted in steering {
                let words = said(&accepted.input);
                self.new.push(Message::user(words.clone()));
                slow.heard.push(words);
            }
            slow.done += 1;
            if slow.done < slow.seconds {
                let output = self.boundary(Delta { slow: Some(slow.clone()), ..Delta::default() });
                self.turn.commit(output).await?;
            }
        }
        let mut words = format!("That took {} s, one boundary each.", slow.seconds);
        if !slow.heard.is_empty() {
            words = format!("{words} You said meanwhile: {}.", quote(&slow.heard));
        }
        Ok(self.say(&words))
    }

    fn say(self, words: &str) -> CoreApplyOutput {
        self.end(words, Delta::default(), None)
    }

    fn boundary(&mut self, delta: Delta) -> BoundaryOutput {
        self.count += self.new.len() as u64;
        let delta = Delta { messages: std::mem::take(&mut self.new), ..delta };
        BoundaryOutput { message_count: self.count, conversation_digest: None, delta: Some(encode(&delta)) }
    }

    fn end(mut self, words: &str, delta: Delta, asks: Option<PendingTool>) -> CoreApplyOutput {
        self.new.push(Message::assistant(words));
        let terminal = match asks {
            Some(tool) => Terminal::CallbackPending(Arc::new(tool)),
            None => Terminal::Result(Arc::new(RunResult::text(words))),
        };
        CoreApplyOutput { boundary: self.boundary(delta), terminal }
    }
}

fn encode(value: &impl Serialize) -> JsonText {
    JsonText::encode(value).expect("text, numbers and lists are always JSON")
}
