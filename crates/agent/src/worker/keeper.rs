//! Who looks after one process: gives it runs, answers it, and ends it?
//!
//! One task per process. While a run is on it speaks for the run's [`Turn`]; between runs it hears of background work,
//! and notices when the process dies.

use super::{
    Idle, Pool,
    link::{End, Heard, Link},
    protocol::{PROTOCOL, Said, Told, parse},
    works::Works,
};
use crate::{
    complaints::{Complaints, Meter},
    exchange::{Answer, Minutes, Past, listed, protocol_error, told},
    process::ended,
    program::FOR_EVER,
    secrets::given::{hidden, hidden_in},
};
use secrecy::SecretString;
use std::{
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::{sync::oneshot, time::Instant};
use windlass_core::{JsonText, RunId, Seq, SessionId};
use windlass_runtime::{CoreApplyOutput, CoreExecutorError, Turn, TurnError, store::StoreError};

/// How long a process may take to end a run that is cancelled. Below the runtime's grace time, which ends it for good.
const CANCELLING: Duration = Duration::from_secs(2);

/// A run for a process, and where its end is waited for.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) turn: Turn,
    pub(super) reply: oneshot::Sender<Result<CoreApplyOutput, CoreExecutorError>>,
}

pub(super) struct Keeper {
    link: Link,
    works: Works,
    /// Weak, because the pool owns the task that this is.
    pool: Weak<Pool>,
    time_limit: Duration,
    line_limit: usize,
    idle_after: Duration,
    /// What its process was given and is not quoted with.
    secrets: Vec<SecretString>,
}

/// How a run ended, as far as the process is concerned.
enum Outcome {
    /// The process is fit for another one.
    Over(Result<CoreApplyOutput, CoreExecutorError>),
    /// It is gone, or not to be trusted.
    Lost(CoreExecutorError),
}

impl Keeper {
    pub(super) fn new(link: Link, pool: &Arc<Pool>) -> Keeper {
        Keeper {
            link,
            works: Works::default(),
            pool: Arc::downgrade(pool),
            time_limit: pool.program.time_limit.unwrap_or(FOR_EVER).min(FOR_EVER),
            line_limit: pool.program.stdout_limit,
            idle_after: pool.crew.idle_after,
            secrets: pool.program.secrets(),
        }
    }

    /// Runs this order and all that follow, until the process is of no more use.
    pub(super) async fn keep(mut self, first: Order) {
        let mut next = Some(first);
        while let Some(Order { turn, mut reply }) = next.take() {
            let session = turn.session();
            let outcome = tokio::select! {
                biased;
                // Nobody waits any more: the run was given up while the process still works on it.
                () = reply.closed() => Outcome::Lost(CoreExecutorError::retryable("cancelled")),
                outcome = self.run(&turn) => outcome,
            };
            // The turn holds its session; an idle process does not.
            drop(turn);
            match outcome {
                Outcome::Over(result) => {
                    // Idle before the run's end is known, so that whoever comes next finds it.
                    let waiting = self.wait_for_order(session);
                    drop(reply.send(result));
                    let Some(waiting) = waiting else { break };
                    next = self.idle(waiting).await;
                }
                Outcome::Lost(error) => {
                    drop(self.link);
                    drop(reply.send(Err(error)));
                    self.works.lose().await;
                    return;
                }
            }
        }
        drop(self.link);
        self.works.lose().await;
    }

    fn wait_for_order(&self, last: SessionId) -> Option<oneshot::Receiver<Order>> {
        let (order, waiting) = oneshot::channel();
        self.pool.upgrade()?.idle().push(Idle { order, last });
        Some(waiting)
    }

    /// Waits for the next run; none if the process is gone or has nothing to do.
    async fn idle(&mut self, mut waiting: oneshot::Receiver<Order>) -> Option<Order> {
        let mut meter = Meter::new(|line| tracing::info!(target: "windlass::executor", "{line}"));
        loop {
            let has_nothing_to_do = self.works.is_empty();
            let said = tokio::select! {
                biased;
                order = &mut waiting => return order.ok(),
                heard = self.link.hear() => match heard {
                    Heard::Line(line) => parse(&line),
                    Heard::Complaint(line) => {
                        meter.hear(&hidden(&line, &self.secrets));
                        continue;
                    }
                    Heard::End(_) => return self.pass_on(waiting),
                },
                () = tokio::time::sleep(self.idle_after), if has_nothing_to_do => return self.pass_on(waiting),
            };
            match said {
                Ok(said) => self.outside_of_run(said, None).await,
                Err(error) => {
                    let error = hidden(&error, &self.secrets);
                    tracing::warn!(error, "an idle worker is killed for what it says");
                    return self.pass_on(waiting);
                }
            }
        }
    }

    /// Leaves, and gives an order that came in this very moment to another process.
    fn pass_on(&self, mut waiting: oneshot::Receiver<Order>) -> Option<Order> {
        waiting.close();
        let Ok(order) = waiting.try_recv() else { return None };
        // Without a pool nobody waits for the order: whoever waits holds it.
        self.pool.upgrade()?.give(order);
        None
    }

    /// Runs one run. Not to be trusted any more if dropped.
    async fn run(&mut self, turn: &Turn) -> Outcome {
        let mut complaints = Complaints::of(self.secrets.clone());
        let outcome = self.converse(turn, &mut complaints).await;
        complaints.close(turn);
        match outcome {
            Outcome::Over(result) => Outcome::Over(result.map_err(|error| hidden_in(error, &self.secrets))),
            Outcome::Lost(error) => Outcome::Lost(hidden_in(error, &self.secrets)),
        }
    }

    async fn converse(&mut self, turn: &Turn, complaints: &mut Complaints) -> Outcome {
        let mut minutes = Minutes::of(turn);
        self.link.say(&Told::Run { protocol: PROTOCOL, run: &told(turn) });
        let mut deadline = Instant::now() + self.time_limit;
        let mut cancelled = false;
        loop {
            let heard = tokio::select! {
                biased;
                () = turn.cancelled(), if !cancelled => {
                    cancelled = true;
                    deadline = deadline.min(Instant::now() + CANCELLING);
                    self.link.say(&Told::Cancel { run: turn.run() });
                    continue;
                }
                () = tokio::time::sleep_until(deadline) => return Outcome::Lost(if cancelled {
                    CoreExecutorError::retryable("cancelled")
                } else {
                    let words = format!("the run took longer than {:?}", self.time_limit);
                    CoreExecutorError::retryable(format!("executor_timed_out: {}", complaints.quoted(&words)))
                }),
                heard = self.link.hear() => heard,
            };
            let said = match heard {
                Heard::Line(line) => parse(&line),
                Heard::Complaint(line) => {
                    complaints.hear(turn, &line);
                    continue;
                }
                Heard::End(end) => return Outcome::Lost(self.ended(end, turn, complaints).await),
            };
            let said = match said {
                Ok(said) => said,
                Err(error) => return Outcome::Lost(protocol_error(complaints.quoted(&error))),
            };
            match said {
                Said::Result { run, answer } if run == turn.run() => {
                    return Outcome::Over(minutes.end(turn, answer).await);
                }
                Said::Failed { run, refusal } if run == turn.run() => return Outcome::Over(Err(refusal.into())),
                Said::Progress { run, delta } if run == turn.run() => {
                    if let Ok(delta) = JsonText::encode(&delta) {
                        turn.progress(delta);
                    }
                }
                Said::Checkpoint { run } if run == turn.run() => self.checkpoint(turn, &mut minutes).await,
                Said::Commit { run, answer } if run == turn.run() => self.commit(turn, &mut minutes, &answer).await,
                Said::History { run, after, limit } if run == turn.run() => self.history(turn, after, limit).await,
                said => self.outside_of_run(said, Some(turn)).await,
            }
        }
    }

    /// Answers what is not about the run that is on.
    async fn outside_of_run(&mut self, said: Said, turn: Option<&Turn>) {
        match said {
            Said::Op(op) => {
                let answer = self.works.report(&op, turn).await;
                self.link.say(&answer);
            }
            Said::Checkpoint { run } => self.refuse("checkpoint", run),
            Said::Commit { run, .. } => self.refuse("commit", run),
            Said::History { run, .. } => self.refuse("history", run),
            // It had not heard yet that the run is over.
            Said::Progress { run, .. } | Said::Result { run, .. } | Said::Failed { run, .. } => {
                tracing::debug!(%run, "a worker reports on a run that is over");
            }
        }
    }

    fn refuse(&mut self, to: &str, run: RunId) {
        let error = "the run is over".to_owned();
        self.link.say(&Told::Refused { to, run: Some(run), key: None, code: "run_closed", error });
    }

    async fn checkpoint(&mut self, turn: &Turn, minutes: &mut Minutes) {
        match turn.checkpoint().await {
            Ok(steering) => {
                minutes.hear(&steering);
                self.link.say(&Told::Steer { run: turn.run(), inputs: listed(&steering) });
            }
            Err(error) => self.turned_down("checkpoint", turn, &error),
        }
    }

    async fn commit(&mut self, turn: &Turn, minutes: &mut Minutes, answer: &Answer) {
        let committed = async {
            let receipt = turn.commit(minutes.boundary(answer)).await?;
            minutes.confirm(turn).await?;
            Ok(receipt)
        };
        match committed.await {
            Ok(receipt) => {
                let (sequence, effect_key) = (receipt.sequence, turn.effect_key().to_string());
                self.link.say(&Told::Committed { run: turn.run(), sequence, effect_key });
            }
            Err(error) => self.turned_down("commit", turn, &error),
        }
    }

    fn turned_down(&mut self, to: &str, turn: &Turn, error: &TurnError) {
        let code = match error {
            TurnError::Closed(_) => "run_closed",
            TurnError::Session(_) => "unavailable",
        };
        self.link.say(&Told::Refused { to, run: Some(turn.run()), key: None, code, error: error.to_string() });
    }

    async fn history(&mut self, turn: &Turn, after: Seq, limit: u32) {
        let run = turn.run();
        let refused = match turn.history(after, limit).await {
            Ok(entries) => {
                let next = entries.last().map(|entry| entry.seq);
                let boundaries = entries.iter().filter_map(|entry| Past::of(entry)).collect();
                self.link.say(&Told::History { run, boundaries, next });
                return;
            }
            // What is no longer kept is no longer known; the next page begins where the journal does.
            Err(StoreError::Pruned { oldest }) if oldest > after => {
                self.link.say(&Told::History { run, boundaries: Vec::new(), next: Some(oldest) });
                return;
            }
            Err(error) => error.to_string(),
        };
        self.link.say(&Told::Refused { to: "history", run: Some(run), key: None, code: "unavailable", error: refused });
    }

    async fn ended(&mut self, end: End, turn: &Turn, complaints: &mut Complaints) -> CoreExecutorError {
        self.link.last_words(|line| complaints.hear(turn, line)).await;
        match end {
            End::Exited(status) => ended(status, complaints),
            End::Lingered => {
                let words = complaints.quoted("it closed its standard output and did not end");
                CoreExecutorError::retryable(format!("executor_protocol_error: {words}"))
            }
            End::Garbage(error) => protocol_error(complaints.quoted(&format!("its line is no text: {error}"))),
            End::TooLong => {
                let words = complaints.quoted(&format!("a line was longer than {} bytes", self.line_limit));
                CoreExecutorError::fatal(format!("result_too_large: {words}"))
            }
        }
    }
}
