//! What must hold before anything is merged?

use crate::{
    layers, root, scenarios, schemathesis,
    steps::{Outcome, Tally, capture, cargo, installed, must, step},
};
use std::path::Path;

/// How to run the suite.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Also what takes long: ignored tests, and more cases of each property (`WINDLASS_DEEP=1`).
    #[arg(long)]
    deep: bool,
    /// Only this step: fmt, clippy, tests, doctests, rustdoc, scenarios, layers, wasm, deny, readme or schemathesis.
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
}

type Work = fn(&Options, &mut Tally) -> anyhow::Result<Outcome>;

/// Cheap ones first, so that a slip is told early.
const STEPS: &[(&str, Work)] = &[
    ("fmt", |_, _| must(&mut cargo(["fmt", "--all", "--check"]), "cargo fmt --all")),
    ("scenarios", |_, _| check_scenarios()),
    ("layers", |_, _| check_layers()),
    ("deny", |options, _| deny(options)),
    ("clippy", |_, _| clippy()),
    ("wasm", |_, _| wasm()),
    ("tests", tests),
    ("doctests", doctests),
    ("rustdoc", |_, _| rustdoc()),
    ("readme", |_, _| readme()),
    ("schemathesis", |options, _| stranger(options)),
];

/// Runs the steps; `true` if nothing failed.
pub(crate) fn run(options: &Options) -> anyhow::Result<bool> {
    if let Some(only) = &options.only {
        let known = STEPS.iter().any(|(name, _)| name == only);
        anyhow::ensure!(known, "no step is called {only:?}; `cargo xtask test --help` names them");
    }
    let mut tally = Tally::default();
    for (name, work) in STEPS {
        if options.only.as_deref().is_none_or(|only| only == *name) {
            step(name, &mut tally, |tally| work(options, tally));
        }
    }
    println!("{} passed, {} failed", tally.passed, tally.failed);
    Ok(tally.failed == 0)
}

fn clippy() -> anyhow::Result<Outcome> {
    if !installed("clippy") {
        return Ok(Outcome::Skipped("lints not checked: `rustup component add clippy`".into()));
    }
    let mut clippy = cargo(["clippy", "--locked", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]);
    must(&mut clippy, "cargo clippy --workspace --all-targets -- -D warnings")
}

fn tests(options: &Options, tally: &mut Tally) -> anyhow::Result<Outcome> {
    let nextest = installed("nextest");
    let mut command = if nextest {
        cargo(["nextest", "run", "--locked", "--workspace", "--no-fail-fast", "--no-tests=pass", "--color=never"])
    } else {
        cargo([
            "test",
            "--locked",
            "--workspace",
            "--lib",
            "--bins",
            "--tests",
            "--examples",
            "--no-fail-fast",
            "--color=never",
        ])
    };
    if options.deep {
        command.env("WINDLASS_DEEP", "1").env("PROPTEST_CASES", "10000");
        command.args(if nextest { ["--run-ignored", "all"] } else { ["--", "--include-ignored"] });
    }
    counted(&mut command, tally, if nextest { "with nextest" } else { "with cargo test; cargo-nextest is faster" })
}

fn doctests(_: &Options, tally: &mut Tally) -> anyhow::Result<Outcome> {
    counted(&mut cargo(["test", "--locked", "--workspace", "--doc", "--no-fail-fast", "--color=never"]), tally, "")
}

fn counted(command: &mut std::process::Command, tally: &mut Tally, how: &str) -> anyhow::Result<Outcome> {
    let (code, output) = capture(command)?;
    let (passed, failed) = count(&output);
    tally.passed += passed;
    tally.failed += failed;
    Ok(if code == Some(0) {
        Outcome::Passed(format!("{passed} passed {how}").trim_end().into())
    } else {
        Outcome::Failed { output, try_this: "cargo test NAME, with the name of one that failed".into() }
    })
}

/// Tests that passed and failed, by the summaries that nextest and libtest print.
fn count(output: &str) -> (u64, u64) {
    let summary = |line: &&str| line.trim_start().starts_with("Summary [") || line.starts_with("test result:");
    let mut sum = (0, 0);
    for part in output.lines().filter(summary).flat_map(|line| line.split([',', ';', ':', '.', ']'])) {
        // What stands in parentheses ("1 slow") tells more of what was counted already.
        let part = part.split('(').next().unwrap_or_default();
        let Some((number, what)) = part.trim().split_once(' ') else { continue };
        match (number.parse::<u64>(), what.trim()) {
            (Ok(number), "passed") => sum.0 += number,
            (Ok(number), "failed" | "timed out" | "exec failed") => sum.1 += number,
            _ => {}
        }
    }
    sum
}

/// What a stranger finds in a given time depends on the machine, so that it is no gate of every day.
fn stranger(options: &Options) -> anyhow::Result<Outcome> {
    match (options.deep, options.only.is_some()) {
        (true, _) => schemathesis::run(180),
        (false, true) => schemathesis::run(60),
        (false, false) => Ok(Outcome::Skipped("the API not tried by a stranger: `--only schemathesis`".into())),
    }
}

fn rustdoc() -> anyhow::Result<Outcome> {
    let mut doc = cargo(["doc", "--locked", "--workspace", "--no-deps", "--quiet"]);
    must(doc.env("RUSTDOCFLAGS", "-D warnings"), "RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps")
}

fn check_scenarios() -> anyhow::Result<Outcome> {
    let map = scenarios::map(&root())?;
    Ok(if map.faults.is_empty() {
        Outcome::Passed(map.summary())
    } else {
        Outcome::Failed {
            output: map.faults.join("\n"),
            try_this: "cargo xtask scenarios, and name the scenario in the test that shows it".into(),
        }
    })
}

fn check_layers() -> anyhow::Result<Outcome> {
    let violations = layers::violations()?;
    Ok(if violations.is_empty() {
        Outcome::Passed(String::new())
    } else {
        Outcome::Failed {
            output: violations.join("\n"),
            try_this: "do without it, or change xtask/src/layers.rs with the reason".into(),
        }
    })
}

fn wasm() -> anyhow::Result<Outcome> {
    const TARGET: &str = "wasm32-unknown-unknown";
    let (_, libraries) =
        capture(std::process::Command::new("rustc").args(["--print", "target-libdir", "--target", TARGET]))?;
    if !Path::new(libraries.trim()).exists() {
        return Ok(Outcome::Skipped(format!("windlass-core not checked for {TARGET}: `rustup target add {TARGET}`")));
    }
    must(
        &mut cargo(["check", "--locked", "--quiet", "--package", "windlass-core", "--target", TARGET]),
        "keep the core pure",
    )
}

/// Licences, bans and sources stand in the lock file. Advisories come from a database that is fetched, so they are
/// asked for where time is not short.
fn deny(options: &Options) -> anyhow::Result<Outcome> {
    if !installed("deny") {
        return Ok(Outcome::Skipped("licences and advisories not checked: `cargo install --locked cargo-deny`".into()));
    }
    let mut check = cargo(["deny", "--locked", "check", "bans", "licenses", "sources"]);
    if options.deep {
        check.arg("advisories");
    }
    match must(&mut check, "cargo deny check, and deny.toml")? {
        Outcome::Passed(_) if !options.deep => Ok(Outcome::Passed("advisories not checked: `--deep`".into())),
        outcome => Ok(outcome),
    }
}

/// The demo must prove what it claims, and fail to when it is sabotaged: a check that cannot fail shows nothing.
fn readme() -> anyhow::Result<Outcome> {
    let build =
        must(&mut cargo(["build", "--locked", "--quiet", "--package", "windlass-cli"]), "cargo build -p windlass-cli")?;
    if !matches!(build, Outcome::Passed(_)) {
        return Ok(build);
    }
    let demo = |more: &[&str]| capture(cargo(["run", "--locked", "--quiet", "--", "demo", "--json"]).args(more));
    for (sabotage, expected) in [(None, 0), (Some("drop-ack"), 1), (Some("double-run"), 1)] {
        let arguments: Vec<_> = sabotage.map(|how| ["--sabotage", how]).into_iter().flatten().collect();
        let (code, output) = demo(&arguments)?;
        if code != Some(expected) {
            let said = code.map_or_else(|| "was killed".into(), |code| format!("ended with {code}"));
            let command = format!("cargo run -- demo --json {}", arguments.join(" "));
            return Ok(Outcome::Failed { output: format!("{output}\n{said}, not with {expected}"), try_this: command });
        }
    }
    Ok(Outcome::Passed("demo holds, both sabotages are caught".into()))
}

#[cfg(test)]
mod tests {
    use super::count;

    #[test]
    fn summaries_of_both_runners_are_counted() {
        let nextest =
            "     Summary [   0.512s] 14 tests run: 11 passed (1 slow, 2 leaky), 2 failed, 1 timed out, 3 skipped\n";
        assert_eq!(count(nextest), (11, 3));
        let libtest = "test result: FAILED. 3 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
                       test result: ok. 4 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n";
        assert_eq!(count(libtest), (7, 1));
        assert_eq!(count("running 3 tests\n3 passed in my head\n"), (0, 0));
    }
}
