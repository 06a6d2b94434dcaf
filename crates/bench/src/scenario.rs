//! Which scenarios are there?

mod floors;

use crate::{Bench, report::Figure};

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
pub const ALL: &[Scenario] = &[Scenario { name: "floors", about: "what the machine itself can do", run: floors::run }];

/// The prompt that every scenario sends: 100 bytes.
pub const PROMPT: &str =
    "The quick brown fox jumps over the lazy dogs, while a windlass holds what each turn of its drum won.";
const _: () = assert!(PROMPT.len() == 100, "figures of different prompts cannot be compared");
