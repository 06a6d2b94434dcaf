//! How does the built-in agent run, without a network and without chance?
//!
//! [`BuiltinAgent`] talks by the rules of [`eliza`] and obeys the commands of
//! [`command`](crate::command), which show what the runtime does. What it knows of a session is folded from the deltas
//! that it committed, so a restart or another node finds it where it was. Only what it does in the background dies with
//! the process, and it says so then.

use crate::{
    command::{Command, HELP},
    eliza::{self, Mind, Trace},
    jobs::Jobs,
    transcript::{Message, ended, notices, said},
};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use windlass_core::{
    Accepted, BoundaryOutput, CompletionSeq, Entry, Input, InputBody, JsonText, Operation, OpsLifecycleError,
    PendingTool, Record, RunEnd, RunId, RunResult, Seq, SessionId, Terminal,
};
use windlass_runtime::{CoreApplyOutput, CoreExecutor, CoreExecutorError, OpsError, Turn, store::StoreError};

/// How often `/slow` reports progress.
const TICK: Duration = Duration::from_millis(100);
const TICKS_PER_SECOND: u32 = 10;
/// Entries of the journal read at once.
const PAGE: u32 = 256;

/// Operations that `/ops` shows.
const SHOWN: usize = 50;

/// The offline, deterministic agent.
#[derive(Debug, Default)]
pub struct BuiltinAgent {
    jobs: Arc<Jobs>,
    /// Whether operations without a worker were looked for.
    accounted: AtomicBool,
    /// What was folded last, so that the next turn of the same session reads only what is new. Losing it costs time.
    last: Mutex<Option<(SessionId, Recollection)>>,
}

#[async_trait]
impl CoreExecutor for BuiltinAgent {
    async fn apply(&self, turn: Turn) -> Result<CoreApplyOutput, CoreExecutorError> {
        if !self.accounted.load(Ordering::Relaxed) {
            self.jobs.account(&turn).await.map_err(|error| CoreExecutorError::retryable(error.to_string()))?;
            self.accounted.store(true, Ordering::Relaxed);
        }
        let past = self.recollect(&turn).await?;
        tokio::select! {
            biased;
            () = turn.cancelled() => Err(CoreExecutorError::retryable("cancelled")),
            output = respond(&turn, past, &self.jobs) => output,
        }
    }

    async fn stopped(&self, session: SessionId, _: &str) {
        self.jobs.end(session).await;
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
    #[serde(default)]
    news: News,
}

/// What ended in the background and was not told yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct News {
    sentences: Vec<String>,
    until: CompletionSeq,
}

impl News {
    fn hear(&mut self, input: &Input) {
        for entry in notices(input) {
            self.sentences.push(ended(entry));
            self.until = self.until.max(entry.seq);
        }
    }
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
    pub(crate) fn with(jobs: Arc<Jobs>) -> BuiltinAgent {
        BuiltinAgent { jobs, ..BuiltinAgent::default() }
    }

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

async fn respond(turn: &Turn, past: Recollection, jobs: &Jobs) -> Result<CoreApplyOutput, CoreExecutorError> {
    let mut talk = Talk { turn, jobs, count: past.messages, new: Vec::new(), news: News::default() };
    let slow = past.slow.filter(|(run, _)| *run == turn.run() && turn.resumes_after().is_some());
    if let Some((_, mut slow)) = slow {
        talk.news = std::mem::take(&mut slow.news);
        slow.heard.extend(talk.hear(turn.inputs()));
        return talk.work(slow).await;
    }
    let heard = talk.hear(turn.inputs());
    if heard.is_empty() {
        // Whoever was asked something is interrupted by the news, and asked still.
        let delta = Delta { asked: past.asked, ..Delta::default() };
        let words = if talk.news.sentences.is_empty() { "Where were we?" } else { "" };
        return talk.end(words, delta, None).await;
    }
    if !turn.inputs().iter().all(|accepted| is_conversation(accepted)) {
        return talk.say(&format!("I have taken note: {}.", quote(&heard))).await;
    }
    let text = heard.join("\n");
    let words = match (Command::parse(&text), past.asked) {
        (Ok(Some(command)), _) => return talk.obey(command).await,
        (Err(mistake), _) => mistake.to_string(),
        (Ok(None), Some(question)) => format!("Thank you. I asked: {question} You answered: {text}"),
        (Ok(None), None) => {
            let (words, trace) = eliza::answer(&past.mind, &text);
            return talk.end(&words, Delta { trace: Some(trace), ..Delta::default() }, None).await;
        }
    };
    talk.say(&words).await
}

fn is_conversation(accepted: &Accepted) -> bool {
    matches!(accepted.input.body, InputBody::Prompt(_) | InputBody::Peer(_)) || !notices(&accepted.input).is_empty()
}

fn quote(texts: &[String]) -> String {
    texts.iter().map(|text| format!("“{text}”")).collect::<Vec<_>>().join(", ")
}

/// The operation in a line: what it is called, how far it is, what it says.
fn line(operation: &Operation) -> String {
    let told = match &operation.completion {
        Some(entry) => entry.terminal_outcome.detail(),
        None => operation.progress.last().map_or("", |update| update.message.as_str()),
    };
    let mut line = format!("“{}”: {}", operation.spec.display_name, operation.status.as_str());
    if !told.is_empty() {
        line.push_str(", ");
        line.extend(told.chars().take(SHOWN));
    }
    line
}

fn list(operations: &[Operation]) -> String {
    let mut lines: Vec<String> = operations.iter().take(SHOWN).map(line).collect();
    match operations.len() {
        0 => lines.push("Nothing is done in the background. Try: /bg 5 tea".into()),
        all if all > SHOWN => lines.push(format!("and {} more", all - SHOWN)),
        _ => {}
    }
    lines.join("\n")
}

/// A run's conversation: what is committed, and what is not yet.
struct Talk<'t> {
    turn: &'t Turn,
    jobs: &'t Jobs,
    count: u64,
    new: Vec<Message>,
    /// Told with the next words.
    news: News,
}

impl Talk<'_> {
    /// Takes in what came; returns what was said by somebody.
    fn hear(&mut self, inputs: &[Arc<Accepted>]) -> Vec<String> {
        let mut heard = Vec::new();
        for Accepted { input, .. } in inputs.iter().map(|accepted| &**accepted) {
            self.new.push(Message::heard(input));
            self.news.hear(input);
            if notices(input).is_empty() {
                heard.push(said(input));
            }
        }
        heard
    }

    async fn obey(self, command: Command) -> Result<CoreApplyOutput, CoreExecutorError> {
        match command {
            Command::Help => self.say(HELP).await,
            Command::Echo(text) => self.say(&text).await,
            Command::Slow(seconds) => {
                self.work(Slow { seconds, done: 0, heard: Vec::new(), news: News::default() }).await
            }
            Command::Ask(question) => {
                let tool = PendingTool { tool_name: "ask_human".into(), args: json!({ "question": question }) };
                let delta = Delta { asked: Some(question.clone()), ..Delta::default() };
                self.end(&question, delta, Some(tool)).await
            }
            Command::Background(seconds, words) => match self.jobs.begin(self.turn, &words, seconds).await {
                Ok(()) => {
                    self.say(&format!("Started “{words}”, {seconds} s in the background. I will tell you.")).await
                }
                Err(error) if is_final(&error) => self.say(&format!("I cannot start that: {error}.")).await,
                Err(error) => Err(CoreExecutorError::retryable(error.to_string())),
            },
            Command::Operations => match self.turn.operations().list_operations().await {
                Ok(operations) => self.say(&list(&operations)).await,
                Err(error) => Err(CoreExecutorError::retryable(error.to_string())),
            },
            Command::Panic => panic!("told to panic by /panic"),
            Command::Fail(times) => match self.turn.attempt() {
                attempt if times.is_some_and(|times| attempt > times) => {
                    self.say(&format!("It worked at attempt {attempt}.")).await
                }
                attempt => Err(CoreExecutorError::retryable(format!("told to fail by /fail, attempt {attempt}"))),
            },
        }
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
            slow.heard.extend(self.hear(&steering));
            slow.done += 1;
            if slow.done < slow.seconds {
                // What a boundary covers is not handed over again, so the news that are to be told go with it.
                let slow = Slow { news: self.news.clone(), ..slow.clone() };
                let output = self.boundary(Delta { slow: Some(slow), ..Delta::default() });
                self.turn.commit(output).await?;
            }
        }
        let mut words = format!("That took {} s, one boundary each.", slow.seconds);
        if !slow.heard.is_empty() {
            words = format!("{words} You said meanwhile: {}.", quote(&slow.heard));
        }
        self.say(&words).await
    }

    async fn say(self, words: &str) -> Result<CoreApplyOutput, CoreExecutorError> {
        self.end(words, Delta::default(), None).await
    }

    fn boundary(&mut self, delta: Delta) -> BoundaryOutput {
        self.count += self.new.len() as u64;
        let delta = Delta { messages: std::mem::take(&mut self.new), ..delta };
        BoundaryOutput { message_count: self.count, conversation_digest: None, delta: Some(encode(&delta)) }
    }

    /// The last words, with the news after them. A question is asked alone: what was to be told is told by another wake.
    async fn end(
        mut self,
        words: &str,
        delta: Delta,
        asks: Option<PendingTool>,
    ) -> Result<CoreApplyOutput, CoreExecutorError> {
        let mut words = words.to_owned();
        if asks.is_none() && !self.news.sentences.is_empty() {
            let said = (!words.is_empty()).then_some(words);
            words = said.iter().chain(&self.news.sentences).map(String::as_str).collect::<Vec<_>>().join(" ");
            self.turn.applied(self.news.until).await?;
        }
        self.new.push(Message::assistant(&words));
        let terminal = match asks {
            Some(tool) => Terminal::CallbackPending(Arc::new(tool)),
            None => Terminal::Result(Arc::new(RunResult::text(words))),
        };
        Ok(CoreApplyOutput { boundary: self.boundary(delta), terminal })
    }
}

/// Whether another attempt would be refused as well.
fn is_final(error: &OpsError) -> bool {
    matches!(error, OpsError::Refused(refused) if *refused != OpsLifecycleError::RunClosed)
}

fn encode(value: &impl Serialize) -> JsonText {
    JsonText::encode(value).expect("text, numbers and lists are always JSON")
}
