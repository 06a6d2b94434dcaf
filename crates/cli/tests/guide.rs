//! Does everything that the guide shows happen as it is shown?

mod common;

use common::{Served, run};
use std::{
    path::{Path, PathBuf},
    process::Command,
};

fn guide(page: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/guide").join(page)
}

/// Runs the examples of a page of the guide in a folder of their own, which the commands see as `WINDLASS_DIR`.
fn shows(page: &str, dir: &Path, url: &str) {
    let copy = dir.join(page);
    std::fs::copy(guide(page), &copy).expect("a page");
    // Where there is such a folder, the commands run in it.
    std::fs::create_dir(copy.with_extension("in")).expect("a folder");
    let cases = trycmd::TestCases::new();
    cases.env("WINDLASS_DIR", dir.display().to_string());
    cases.env("XDG_CONFIG_HOME", dir.join("config").display().to_string());
    if !url.is_empty() {
        cases.env("WINDLASS_URL", url);
    }
    cases.case(&copy).run();
}

#[test]
fn the_quick_start_is_true() {
    let dir = tempfile::tempdir().expect("a folder");
    let server = Served::start(dir.path());
    shows("quick-start.md", dir.path(), &server.url);
}

#[test]
fn the_operators_page_is_true() {
    let dir = tempfile::tempdir().expect("a folder");
    shows("operating.md", dir.path(), "");
}

#[test]
fn the_requests_by_curl_are_true() {
    if Command::new("curl").arg("--version").output().is_err() {
        eprintln!("curl is not there: the page on HTTP was not tried");
        return;
    }
    let page = std::fs::read_to_string(guide("http.md")).expect("a page");
    let blocks: Vec<&str> =
        page.split("```sh\n").skip(1).map(|rest| rest.split("```").next().expect("a first part")).collect();
    assert!(blocks.len() > 5, "{}", blocks.len());
    let dir = tempfile::tempdir().expect("a folder");
    let server = Served::start(dir.path());
    for block in blocks {
        let mut shell = Command::new("sh");
        shell.args(["-eu", "-c", block]).env("WINDLASS_URL", &server.url).env("no_proxy", "*").current_dir(dir.path());
        let said = run(&mut shell);
        assert_eq!(said.code, Some(0), "{block}\n{}\n{}", said.out, said.err);
    }
}
