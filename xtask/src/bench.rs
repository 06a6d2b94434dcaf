//! How is the benchmark started?

use crate::{root, steps};
use anyhow::Context as _;
use std::{path::PathBuf, process::Command};

/// What is shipped is measured with this.
const DIST: &str = "--dist";

/// Builds it in release, or as it is shipped, and the program beside it, and runs it with the other arguments.
pub(crate) fn run(arguments: &[String]) -> anyhow::Result<bool> {
    let is_shipped = arguments.iter().any(|argument| argument == DIST);
    let (profile, what): (&str, &[&str]) = if is_shipped {
        ("dist", &["--package=windlass-cli", "--package=windlass-bench"])
    } else {
        // Together, so that what they share is built once, with all features of the program.
        ("release", &["--workspace"])
    };
    let mut build = steps::cargo(["build", "--quiet", "--profile", profile]);
    if !build.args(what).status().context("cannot start cargo")?.success() {
        return Ok(false);
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let status = Command::new(target.join(profile).join("windlass-bench"))
        .current_dir(root())
        .args(arguments.iter().filter(|argument| *argument != DIST))
        .status()
        .context("cannot start the benchmark")?;
    Ok(status.success())
}
