//! How is the benchmark started?

use crate::root;
use anyhow::Context as _;
use std::process::Command;

/// Builds it in release and runs it with these arguments.
pub(crate) fn run(arguments: &[String]) -> anyhow::Result<bool> {
    let status = Command::new(env!("CARGO"))
        .current_dir(root())
        .args(["run", "--quiet", "--release", "--package", "windlass-bench", "--"])
        .args(arguments)
        .status()
        .context("cannot start cargo")?;
    Ok(status.success())
}
