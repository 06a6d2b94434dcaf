//! How is the benchmark started?

use crate::{root, steps};
use anyhow::Context as _;
use std::{path::PathBuf, process::Command};

/// Builds it in release, and the program beside it, and runs it with these arguments.
pub(crate) fn run(arguments: &[String]) -> anyhow::Result<bool> {
    // Together, so that what they share is built once, with all features of the program.
    let build = ["build", "--quiet", "--release", "--workspace"];
    if !steps::cargo(build).status().context("cannot start cargo")?.success() {
        return Ok(false);
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let status = Command::new(target.join("release/windlass-bench"))
        .current_dir(root())
        .args(arguments)
        .status()
        .context("cannot start the benchmark")?;
    Ok(status.success())
}
