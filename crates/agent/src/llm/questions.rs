//! What is a person asked, and what does their answer decide?

use super::{
    config::Budget,
    message::{Spent, ToolCall},
};
use serde_json::json;
use windlass_core::PendingTool;

/// What an answer decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    Yes,
    No,
    /// Words that are neither.
    Words,
}

/// Reads an answer to a question that is answered by yes or no.
pub(super) fn decided(answer: &str) -> Decision {
    let word = answer.trim().trim_end_matches(['.', '!']).to_lowercase();
    match word.as_str() {
        "yes" | "y" | "ok" | "okay" | "approve" | "approved" | "allow" | "continue" | "go on" | "retry" | "true" => {
            Decision::Yes
        }
        "no" | "n" | "deny" | "denied" | "refuse" | "stop" | "cancel" | "skip" | "give up" | "false" => Decision::No,
        _ => Decision::Words,
    }
}

/// Whether a call may be made.
pub(super) fn approval(call: &ToolCall) -> PendingTool {
    let question = format!("May I call {} with {}?", call.name, call.arguments);
    PendingTool {
        tool_name: "approve".into(),
        args: json!({
            "question": question, "options": ["approve", "deny"],
            "call": call.id, "tool": call.name, "arguments": call.arguments,
        }),
    }
}

/// Whether a call is made again that may have taken effect.
pub(super) fn ambiguous(call: &ToolCall, key: &str) -> PendingTool {
    let question = format!(
        "I was interrupted while I called {} with {}. It may have taken effect, or not. Shall I call it again?",
        call.name, call.arguments
    );
    PendingTool {
        tool_name: "resolve_ambiguous".into(),
        args: json!({
            "question": question, "options": ["retry", "skip"],
            "call": call.id, "tool": call.name, "arguments": call.arguments, "effect_key": key,
        }),
    }
}

/// Whether to go on; nothing if the budget is not used up.
pub(super) fn budget(budget: &Budget, spent: &Spent) -> Option<PendingTool> {
    let nanodollars = |usd: f64| (usd * 1e9) as u64;
    let used_up = [
        ("steps", budget.steps.map(u64::from), u64::from(spent.steps), 1.0),
        ("tokens", budget.tokens, spent.tokens, 1.0),
        ("cost_usd", budget.cost_usd.map(nanodollars), spent.nanodollars, 1e9),
        ("seconds", budget.seconds.map(|seconds| seconds.saturating_mul(1_000)), spent.millis, 1e3),
    ];
    let (name, limit, spent, unit) = used_up
        .into_iter()
        .find_map(|(name, limit, spent, unit)| Some((name, limit.filter(|l| spent >= *l)?, spent, unit)))?;
    let shown = |number: u64| number as f64 / unit;
    let question = format!("I have used {} of {} {name}. Shall I go on?", shown(spent), shown(limit));
    Some(PendingTool {
        tool_name: "extend_budget".into(),
        args: json!({
            "question": question, "options": ["continue", "stop"],
            "budget": name, "spent": shown(spent), "limit": shown(limit),
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_understood() {
        for (answer, decision) in [
            ("yes", Decision::Yes),
            (" Approve.\n", Decision::Yes),
            ("Go on!", Decision::Yes),
            ("NO", Decision::No),
            ("skip", Decision::No),
            ("yes, but be careful", Decision::Words),
            ("", Decision::Words),
        ] {
            assert_eq!(decided(answer), decision, "{answer:?}");
        }
    }

    #[test]
    fn the_first_budget_that_is_used_up_is_asked_about() {
        let limits = Budget { steps: Some(3), tokens: Some(100), cost_usd: Some(0.5), seconds: Some(60) };
        let spent = |steps, tokens, nanodollars, millis| Spent { steps, tokens, nanodollars, millis };
        for (spent, name) in [
            (spent(2, 99, 499_999_999, 59_999), None),
            (spent(3, 0, 0, 0), Some("steps")),
            (spent(0, 100, 0, 0), Some("tokens")),
            (spent(0, 0, 500_000_000, 0), Some("cost_usd")),
            (spent(0, 0, 0, 60_000), Some("seconds")),
            (spent(9, 900, 0, 0), Some("steps")),
        ] {
            let asked = budget(&limits, &spent);
            let about = asked.as_ref().and_then(|tool| tool.args["budget"].as_str());
            assert_eq!(about, name, "{spent:?}");
        }
        let none = Budget { steps: None, ..Budget::default() };
        assert_eq!(budget(&none, &spent(u32::MAX, u64::MAX, u64::MAX, u64::MAX)), None);
    }
}
