//! Which commit is this built from? `WINDLASS_COMMIT` says, or git does; it is no matter if neither knows.

use std::{env, path::Path, process::Command};

fn main() {
    println!("cargo::rerun-if-env-changed=WINDLASS_COMMIT");
    // What is built all the time need not be built again for each commit.
    let is_for_use = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let said = env::var("WINDLASS_COMMIT").ok().filter(|commit| !commit.is_empty());
    let version = env::var("CARGO_PKG_VERSION").unwrap_or_default();
    match said.or_else(|| if is_for_use { of_git() } else { None }) {
        Some(commit) => {
            println!("cargo::rustc-env=WINDLASS_COMMIT={commit}");
            println!("cargo::rustc-env=WINDLASS_VERSION={version} ({commit})");
        }
        None => println!("cargo::rustc-env=WINDLASS_VERSION={version}"),
    }
}

/// The commit that is checked out, of a tree that is our own.
fn of_git() -> Option<String> {
    // Every commit and checkout is noted there. Without it there is no telling when to look again.
    let log = git(&["rev-parse", "--git-path", "logs/HEAD"]).filter(|log| Path::new(log).exists())?;
    // Not the commit of somebody whose tree holds ours.
    git(&["rev-parse", "--show-prefix"]).filter(|prefix| prefix == "crates/cli/")?;
    println!("cargo::rerun-if-changed={log}");
    git(&["rev-parse", "--short=12", "HEAD"])
}

/// What git says, here in the folder of the package.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
