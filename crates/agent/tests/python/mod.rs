//! Where is a Python that has these packages?

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// A Python of a virtual environment that has these packages of PyPI, made and filled if it does not exist; none, with
/// the reason said, where it cannot be had. The packages are named as they are imported.
///
/// # Panics
/// Where it cannot be had although `WINDLASS_JUDGES=required`.
pub(crate) fn python_with(packages: &[&str]) -> Option<PathBuf> {
    let venv = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("python-with-{}", packages.join("-")));
    let python = venv.join("bin/python");
    let import = format!("import {}", packages.join(", "));
    let has_all = || ran(&python, &["-c", &import]);
    if has_all().is_ok() {
        return Some(python);
    }
    let install = [&["-m", "pip", "install", "--quiet", "--timeout", "10", "--retries", "1"], packages].concat();
    let made = ran(Path::new("python3"), &["-m", "venv", &venv.to_string_lossy()])
        .and_then(|()| ran(&python, &install))
        .and_then(|()| has_all());
    match made {
        Ok(()) => Some(python),
        Err(why) => {
            let may_lack = std::env::var_os("WINDLASS_JUDGES").is_none_or(|judges| judges != "required");
            assert!(may_lack, "the packages {packages:?} cannot be had here: {why}");
            eprintln!("SKIPPED: the packages {packages:?} cannot be had here ({why}); nothing was judged");
            None
        }
    }
}

/// Runs a program to its end; its last complaint, if it failed.
fn ran(program: &Path, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).output().map_err(|error| error.to_string())?;
    let complaint = || String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default().to_owned();
    if output.status.success() { Ok(()) } else { Err(complaint()) }
}
