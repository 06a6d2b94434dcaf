//! Do the crates depend only on what they may?
//!
//! The core must build where there is no operating system, so every crate below it is named here; adding one is a
//! decision. Between our own crates arrows point one way.

use crate::{root, steps::cargo};
use anyhow::Context as _;
use std::collections::BTreeSet;

/// Every crate that `windlass-core` may stand on: pure Rust, no clock, no randomness, no I/O.
const CORE_STANDS_ON: &[&str] = &[
    "arrayref",
    "arrayvec",
    "blake3",
    "cfg-if",
    "constant_time_eq",
    "cpufeatures",
    "foldhash",
    "hashbrown",
    "itoa",
    "memchr",
    "proc-macro2",
    "quote",
    "serde",
    "serde_core",
    "serde_derive",
    "serde_json",
    "syn",
    "thiserror",
    "thiserror-impl",
    "unicode-ident",
    "uuid",
    "windlass-core",
    "zmij",
];

/// Which of our crates each of our crates may use.
const ARROWS: &[(&str, &[&str])] = &[
    ("windlass-core", &[]),
    ("windlass-runtime", &["windlass-core"]),
    ("windlass-sqlite", &["windlass-core", "windlass-runtime"]),
    ("windlass-peers", &["windlass-core", "windlass-runtime"]),
    ("windlass-agent", &["windlass-core", "windlass-runtime"]),
    ("windlass", &["windlass-core", "windlass-runtime", "windlass-sqlite", "windlass-agent", "windlass-peers"]),
    ("windlass-api", &["windlass-core"]),
    ("windlass-client", &["windlass-core", "windlass-api"]),
    (
        "windlass-server",
        &["windlass-core", "windlass-runtime", "windlass-sqlite", "windlass-agent", "windlass-peers", "windlass-api"],
    ),
    ("windlass-cli", &["windlass", "windlass-api", "windlass-client", "windlass-server"]),
    ("windlass-bench", &["windlass-core", "windlass-runtime", "windlass-sqlite", "windlass-agent", "windlass-server"]),
    ("xtask", &[]),
];

/// What breaks the rules, one line each.
pub(crate) fn violations() -> anyhow::Result<Vec<String>> {
    let reasons = std::fs::read_to_string(root().join("CONTRIBUTING.md")).context("cannot read CONTRIBUTING.md")?;
    let mut violations = Vec::new();
    for target in [None, Some("wasm32-unknown-unknown")] {
        let mut tree = cargo(["tree", "--locked", "--package", "windlass-core", "--edges", "normal"]);
        tree.args(["--prefix", "none", "--format", "{p}"])
            .args(target.map(|target| ["--target", target]).iter().flatten());
        let tree = output(&mut tree)?;
        let names: BTreeSet<&str> =
            tree.lines().filter_map(|line| line.split(' ').next()).filter(|n| !n.is_empty()).collect();
        for name in names.iter().filter(|name| !CORE_STANDS_ON.contains(name)) {
            violations.push(format!(
                "windlass-core stands on {name} ({}), which is not on the list",
                target.unwrap_or("here")
            ));
        }
    }
    let metadata: serde_json::Value =
        serde_json::from_str(&output(&mut cargo(["metadata", "--locked", "--no-deps", "--format-version", "1"]))?)?;
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = package["name"].as_str().unwrap_or_default();
        let Some((_, allowed)) = ARROWS.iter().find(|(ours, _)| *ours == name) else {
            violations.push(format!("{name} has no row in the table of arrows"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            // Only a normal dependency is an arrow: tests may look sideways.
            let to = dependency["name"].as_str().unwrap_or_default();
            let ours = ARROWS.iter().any(|(ours, _)| *ours == to);
            if !ours && !has_a_reason(&reasons, to) {
                violations.push(format!("{name} uses {to}, for which CONTRIBUTING.md gives no reason"));
            }
            if ours && dependency["kind"].is_null() && !allowed.contains(&to) {
                violations.push(format!("{name} uses {to}; arrows point the other way"));
            }
        }
    }
    Ok(violations)
}

/// Whether a row of a table begins with this crate's name, perhaps among others.
fn has_a_reason(text: &str, name: &str) -> bool {
    let rows = text.lines().filter_map(|line| line.strip_prefix("| ")?.split('|').next());
    rows.flat_map(|names| names.split(',')).any(|named| named.split('(').next().unwrap_or_default().trim() == name)
}

fn output(command: &mut std::process::Command) -> anyhow::Result<String> {
    let output = command.output().context("cannot start cargo")?;
    anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

#[cfg(test)]
mod tests {
    use super::has_a_reason;

    #[test]
    fn a_reason_is_a_row_of_the_table() {
        let table = "| serde, serde_json | all | JSON |\n| rusqlite (bundled) | sqlite | the store |\nuuid is nice\n";
        assert!(["serde", "serde_json", "rusqlite"].iter().all(|name| has_a_reason(table, name)));
        assert!(!has_a_reason(table, "uuid"));
    }
}
