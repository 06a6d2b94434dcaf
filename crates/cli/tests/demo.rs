//! Does the demo prove what it says, and does its proof fail when it should?

mod common;

use common::{Said, run, windlass};
use serde_json::Value;
use std::path::Path;

fn demo(dir: &Path, arguments: &[&str]) -> Said {
    run(windlass(dir).arg("demo").args(arguments).arg("--dir").arg(dir))
}

fn count(document: &Value, name: &str) -> u64 {
    document[name].as_u64().unwrap_or_else(|| panic!("{name} is a count in {document}"))
}

#[test]
fn every_acknowledged_input_is_accounted_for_after_three_kills() {
    let dir = tempfile::tempdir().expect("a folder");
    let said = demo(dir.path(), &["--json", "--seed", "1"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let document = said.json();
    assert_eq!((&document["holds"], count(&document, "kills")), (&true.into(), 3));
    assert_eq!((count(&document, "lost"), count(&document, "doubled")), (0, 0));
    for shown in ["deduplicated", "rejected", "coalesced", "superseded", "cancelled", "receipts"] {
        assert!(count(&document, shown) > 0, "{shown} is shown: {document}");
    }
    assert_eq!((count(&document, "operations"), count(&document, "operations_lost")), (4, 2), "{document}");
    assert_eq!(count(&document, "requests"), 1, "{document}");
    assert!((2..=4).contains(&count(&document, "wakes")), "{document}");
    let ends = ["consumed", "coalesced", "superseded", "cancelled"].map(|name| count(&document, name));
    assert_eq!(ends.iter().sum::<u64>(), count(&document, "accepted"), "{document}");
    assert!(document["seconds"].as_f64().is_some_and(|seconds| seconds < 20.0), "{document}");
    // The store that it leaves is a store like any other.
    assert_eq!(run(windlass(dir.path()).arg("verify")).code, Some(0));
    assert!(run(windlass(dir.path()).args(["journal", "desk"])).out.contains("run_steered"));
    let again = demo(dir.path(), &["--json"]);
    assert_eq!(again.code, Some(5), "a folder is counted once: {again:?}");
}

#[test]
fn another_seed_kills_elsewhere_and_people_are_told() {
    let dir = tempfile::tempdir().expect("a folder");
    let said = demo(dir.path(), &["--seed", "4"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    for told in [
        "deduplicated: it is there already",
        "idempotency_key_reused",
        "durability_violation",
        "lighthouse answers: ",
        "SIGKILL",
        "woken: “tea” is done: 2 s of work.",
        "It was put away meanwhile",
        "“stew” was lost before it was done: owner lost.",
        "It holds. 3 kills",
    ] {
        assert!(said.out.contains(told), "{told}: {}", said.out);
    }
}

fn check_sabotage(sabotage: &str, noticed: &str) {
    let dir = tempfile::tempdir().expect("a folder");
    let said = demo(dir.path(), &["--json", "--seed", "2", "--sabotage", sabotage]);
    assert_eq!(said.code, Some(1), "{said:?}");
    let document = said.json();
    assert_eq!(document["holds"], false);
    assert!(count(&document, noticed) > 0, "{document}");
    assert!(!document["problems"].as_array().expect("problems").is_empty());
}

#[test]
fn an_acknowledged_input_that_is_gone_is_noticed() {
    check_sabotage("drop-ack", "lost");
}

#[test]
fn an_input_that_ran_twice_is_noticed() {
    check_sabotage("double-run", "doubled");
}
