//! How fast is a bare tokio `mpsc` with a `oneshot` for the answer?
//!
//! One owner task takes messages of a prompt's size and answers each: the least that an actor can do.

use crate::measure::{micros, per_second};
use tokio::sync::{mpsc, oneshot};

struct Message {
    prompt: String,
    answer: oneshot::Sender<usize>,
}

/// As deep as a session's mailbox.
const DEPTH: usize = 1024;

fn owner() -> mpsc::Sender<Message> {
    let (sender, mut receiver) = mpsc::channel::<Message>(DEPTH);
    tokio::spawn(async move {
        while let Some(message) = receiver.recv().await {
            // A caller that has gone away needs no answer.
            let _ = message.answer.send(message.prompt.len());
        }
    });
    sender
}

async fn ask(owner: &mpsc::Sender<Message>, prompt: String) -> oneshot::Receiver<usize> {
    let (answer, answered) = oneshot::channel();
    owner.send(Message { prompt, answer }).await.expect("the owner lives as long as its sender");
    answered
}

/// Microseconds of each of `n` round trips, one after the other.
pub async fn round_trips(n: usize, prompt: &str) -> Vec<f64> {
    let owner = owner();
    let mut times = Vec::with_capacity(n);
    for _ in 0..n {
        let prompt = prompt.to_owned();
        let (took, answer) = micros(async { ask(&owner, prompt).await.await }).await;
        answer.expect("the owner answers");
        times.push(took);
    }
    times
}

/// Messages per second when `n` are sent and then all answers awaited.
pub async fn pipelined(n: usize, prompt: &str) -> f64 {
    let owner = owner();
    let prompts = vec![prompt.to_owned(); n];
    per_second(n, async {
        let mut answers = Vec::with_capacity(n);
        for prompt in prompts {
            answers.push(ask(&owner, prompt).await);
        }
        for answer in answers {
            answer.await.expect("the owner answers");
        }
    })
    .await
}

/// Messages per second when each of `n` owners gets one.
pub async fn fanned(n: usize, prompt: &str) -> f64 {
    let owners: Vec<_> = (0..n).map(|_| owner()).collect();
    // Let every owner come to rest in its `recv`, as sessions are when their first input comes.
    for owner in &owners {
        ask(owner, String::new()).await.await.expect("the owner answers");
    }
    let prompts = vec![prompt.to_owned(); n];
    per_second(n, async {
        let mut answers = Vec::with_capacity(n);
        for (owner, prompt) in owners.iter().zip(prompts) {
            answers.push(ask(owner, prompt).await);
        }
        for answer in answers {
            answer.await.expect("the owner answers");
        }
    })
    .await
}
