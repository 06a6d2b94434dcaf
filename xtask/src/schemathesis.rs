//! How does a stranger try the HTTP API? Schemathesis, from PyPI, in a virtual environment of its own.

use crate::{
    root,
    steps::{Outcome, capture, cargo},
};
use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// What it finds depends on its version; a new one is taken on purpose.
const VERSION: &str = "4.32.5";

/// Installs it where it is not, and lets it loose on a server, for so many seconds.
pub(crate) fn run(seconds: u32) -> anyhow::Result<Outcome> {
    let program = match program()? {
        Ok(program) => program,
        Err(missing) => return Ok(Outcome::Skipped(missing)),
    };
    let mut test = cargo(["test", "--locked", "--package", "windlass-server", "--test", "schemathesis", "--quiet"]);
    test.args(["--", "--include-ignored"]);
    test.env("WINDLASS_SCHEMATHESIS", program).env("WINDLASS_SCHEMATHESIS_SECONDS", seconds.to_string());
    let (code, output) = capture(&mut test)?;
    Ok(if code == Some(0) {
        Outcome::Passed(format!("nothing found within {seconds} s"))
    } else {
        Outcome::Failed { output, try_this: "cargo xtask test --only schemathesis".into() }
    })
}

/// Its program, or what is missing.
fn program() -> anyhow::Result<Result<PathBuf, String>> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let environment = target.join("schemathesis").join(VERSION);
    let program = environment.join("bin/st");
    if works(&program) {
        return Ok(Ok(program));
    }
    let missing = |what: &str| Ok(Err(format!("the API not tried by schemathesis: {what}")));
    let mut venv = Command::new("python3");
    match venv.args(["-m", "venv"]).arg(&environment).output() {
        Ok(made) if made.status.success() => {}
        _ => return missing("python3 with its module venv is not there"),
    }
    let mut install = Command::new(environment.join("bin/python"));
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--timeout", "20"]);
    let (code, _) = capture(install.arg(format!("schemathesis=={VERSION}")))?;
    if code != Some(0) || !works(&program) {
        return missing("PyPI cannot be reached");
    }
    Ok(Ok(program))
}

fn works(program: &Path) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}
