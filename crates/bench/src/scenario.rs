//! Which scenarios are there?

mod core;
mod floors;

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
    Scenario {
        name: "core",
        about: "the machine of one session alone: steps and bytes, no runtime, no store",
        run: core::run,
    },
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
