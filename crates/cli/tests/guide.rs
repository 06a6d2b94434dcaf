//! Does everything that the guide shows happen as it is shown?

mod common;

use common::{Served, free_address, run};
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

/// Whether the pages with requests can be tried.
fn has_curl() -> bool {
    let is_there = Command::new("curl").arg("--version").output().is_ok();
    if !is_there {
        eprintln!("curl is not there: the requests of this page were not tried");
    }
    is_there
}

/// The examples of a page for a shell.
fn blocks(page: &str) -> Vec<String> {
    let page = std::fs::read_to_string(guide(page)).expect("a page");
    let blocks = page.split("```sh\n").skip(1);
    blocks.map(|rest| rest.split("```").next().expect("a first part").to_owned()).collect()
}

/// Runs an example, which must end well.
fn works(block: &str, dir: &Path, variables: &[(&str, &str)]) {
    let mut shell = Command::new("sh");
    shell.args(["-eu", "-c", block]).env("no_proxy", "*").envs(variables.iter().copied()).current_dir(dir);
    let said = run(&mut shell);
    assert_eq!(said.code, Some(0), "{block}\n{}\n{}", said.out, said.err);
}

#[test]
fn the_requests_by_curl_are_true() {
    if !has_curl() {
        return;
    }
    let blocks = blocks("http.md");
    assert!(blocks.len() > 5, "{}", blocks.len());
    let dir = tempfile::tempdir().expect("a folder");
    let server = Served::start(dir.path());
    for block in blocks {
        works(&block, dir.path(), &[("WINDLASS_URL", &server.url)]);
    }
}

#[test]
fn the_page_on_peers_is_true() {
    if !has_curl() {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let binary = Path::new(env!("CARGO_BIN_EXE_windlass")).parent().expect("a folder").display().to_string();
    let path = format!("{binary}:{}", std::env::var("PATH").expect("a path"));
    let (lyon, berlin) = (free_address(), free_address());
    let urls = [&lyon, &berlin].map(|address| format!("http://{address}"));
    let variables = [("PATH", path.as_str()), ("LYON", &urls[0]), ("BERLIN", &urls[1])];
    let blocks = blocks("peers.md");
    assert_eq!(blocks.len(), 3);
    works(&blocks[0], dir.path(), &variables);
    let start = |name: &str, address: &str| {
        let config = dir.path().join(format!("{name}.toml")).display().to_string();
        Served::listening(&dir.path().join(name), address, &["--config", &config])
    };
    let _servers = (start("lyon", &lyon), start("berlin", &berlin));
    for block in &blocks[1..] {
        works(block, dir.path(), &variables);
    }
}
