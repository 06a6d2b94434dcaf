//! Which scenarios are there?

mod bytes;
mod core;
mod durable;
mod floors;
mod http;
mod llm;
mod memory;
mod operations;
mod peers;
mod program;
mod recover;
mod sse;
mod store;
mod syncs;

pub use syncs::{Work, child};

use crate::{
    Bench,
    report::{Figure, Sample},
};
use windlass_core::{Input, InputId, Timestamp};

/// Something to measure.
pub struct Scenario {
    /// Its name in `--only` and in the report.
    pub name: &'static str,
    /// What it does, in a line.
    pub about: &'static str,
    /// Measures it.
    pub run: fn(&Bench) -> anyhow::Result<Vec<Figure>>,
}

/// All of them, cheap ones first.
pub const ALL: &[Scenario] = &[
    Scenario { name: "floors", about: "what the machine itself can do", run: floors::run },
    Scenario { name: "core", about: "one session's machine alone, in steps and bytes", run: core::run },
    Scenario { name: "store", about: "core and SQLite store, without the runtime", run: store::run },
    Scenario { name: "rtt", about: "one session, one input after the other", run: memory::rtt },
    Scenario { name: "pipe", about: "many inputs at once to one session", run: memory::pipe },
    Scenario { name: "fan", about: "one input to each of many sessions", run: memory::fan },
    Scenario { name: "queued", about: "accept while many inputs wait", run: memory::queued },
    Scenario {
        name: "ops",
        about: "operations registered and completed, in memory and on a disk",
        run: operations::ops,
    },
    Scenario { name: "wait_all", about: "one wait for many operations", run: operations::wait_all },
    Scenario { name: "wake", about: "from a completion to the start of its executor", run: operations::wake },
    Scenario { name: "llm_chunk", about: "per chunk that a model streams, watched", run: llm::llm_chunk },
    Scenario { name: "llm_turn", about: "a turn of a model without tools", run: llm::llm_turn },
    Scenario { name: "llm_many", about: "bytes of many turns in the middle of their answers", run: llm::llm_many },
    Scenario { name: "peer", about: "from a message between two sessions to its run", run: peers::peer },
    Scenario { name: "mem_session", about: "bytes of an idle session", run: bytes::mem_session },
    Scenario { name: "mem_input", about: "bytes of a waiting input", run: bytes::mem_input },
    Scenario { name: "mem_done", about: "bytes of a finished input", run: bytes::mem_done },
    Scenario { name: "durable_rtt", about: "as rtt, on a disk", run: durable::durable_rtt },
    Scenario { name: "durable_admit", about: "accept to acknowledgement, on a disk", run: durable::durable_admit },
    Scenario { name: "durable_chain", about: "a long queue of one session, on a disk", run: durable::durable_chain },
    Scenario { name: "durable_fan", about: "ten prompts to each of many sessions, on disk", run: durable::durable_fan },
    Scenario { name: "durable_bytes", about: "bytes written by the same", run: durable::durable_bytes },
    Scenario { name: "syncs", about: "syncs per input, counted on the real process", run: syncs::run },
    Scenario { name: "http_admit", about: "inputs over 64 connections, on a disk", run: http::http_admit },
    Scenario { name: "http_rtt", about: "one connection, request to outcome, on a disk", run: http::http_rtt },
    Scenario { name: "sse_fanout", about: "one session, many streams", run: sse::sse_fanout },
    Scenario { name: "sse_idle", about: "bytes of a stream on which nothing happens", run: sse::sse_idle },
    Scenario { name: "start", about: "the real program, until it serves", run: program::start },
    Scenario { name: "size", about: "bytes of the program", run: program::size },
    Scenario { name: "recover", about: "a long queue, many sessions: until work goes on", run: recover::run },
];

/// The prompt that every scenario sends: 100 bytes.
pub const PROMPT: &str =
    "The quick brown fox jumps over the lazy dogs, while a windlass holds what each turn of its drum won.";
const _: () = assert!(PROMPT.len() == 100, "figures of different prompts cannot be compared");

/// A new prompt.
pub fn prompt() -> Input {
    Input::prompt(InputId::from_uuid(uuid::Uuid::now_v7()), Timestamp::ZERO, PROMPT)
}

impl Bench {
    /// Measures several quantities together, as often as they are to be measured; a sample of each.
    fn samples<const N: usize>(
        &self,
        mut work: impl FnMut() -> anyhow::Result<[f64; N]>,
    ) -> anyhow::Result<[Sample; N]> {
        let mut samples = [const { Sample(Vec::new()) }; N];
        for _ in 0..self.runs {
            for (sample, value) in samples.iter_mut().zip(work()?) {
                sample.0.push(value);
            }
        }
        Ok(samples)
    }
}

/// The median of what one run measured many times.
fn median(times: Vec<f64>) -> f64 {
    Sample(times).median()
}
