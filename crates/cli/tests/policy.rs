//! Does `policy explain` say what a table does, and where a table is wrong?

mod common;

use common::{run, windlass};

#[test]
fn the_built_in_table_is_explained() {
    let dir = tempfile::tempdir().expect("a folder");
    for (arguments, expected) in [
        (&["--kind", "prompt"][..], "deliver = next_run"),
        (&["--kind", "prompt", "--mode", "steer", "--busy"], "deliver = checkpoint"),
        (&["--kind", "peer_response_progress", "--source", "peer"], "deliver = with_next_run"),
        (&["--kind", "operation", "--source", "system"], "deliver = ignore"),
    ] {
        let said = run(windlass(dir.path()).args(["policy", "explain"]).args(arguments));
        assert_eq!(said.code, Some(0), "{said:?}");
        assert!(said.lines().iter().any(|line| line.trim() == expected), "{arguments:?}: {said:?}");
    }
    let said = run(windlass(dir.path()).args(["policy", "explain", "--kind", "prompt", "--busy", "--json"])).json();
    assert_eq!((&said["name"], &said["version"]), (&"default".into(), &1.into()));
    assert_eq!((&said["decision"]["deliver"], &said["decision"]["wake"]), (&"next_run".into(), &true.into()));
    assert!(said["row"].is_u64());
}

#[test]
fn a_table_of_ones_own_is_read_and_its_mistakes_are_named() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("policy.toml");
    let explain = |text: &str| {
        std::fs::write(&file, text).expect("a file");
        run(windlass(dir.path()).args(["policy", "explain", "--kind", "prompt", "--policy"]).arg(&file))
    };
    let row = "version = 7\n[[row]]\nkind = \"prompt\"\n";
    let own = explain(&format!("{row}decision = {{ deliver = \"next_run\", on_busy = \"reject\" }}\n"));
    assert_eq!(own.code, Some(0), "{own:?}");
    assert!(own.out.contains("version 7") && own.out.contains("on_busy = reject"), "{own:?}");
    let nothing = explain("version = 1\n");
    assert!(nothing.out.contains("no row: queued, wakes nobody"), "{nothing:?}");
    for (text, named) in [
        (format!("{row}decision = {{ deliver = \"next_run\", colour = 1 }}\n"), "colour"),
        (format!("{row}decision = {{ deliver = \"sometimes\" }}\n"), "sometimes"),
        (format!("{row}decision = {{ deliver = \"ignore\" }}\n"), "row[0].decision.wake"),
        ("version = \"one\"\n".into(), "line 1"),
        ("not toml".into(), "line 1"),
    ] {
        let said = explain(&text);
        assert_eq!((said.code, said.out.as_str()), (Some(78), ""), "{text}: {said:?}");
        assert!(said.err.contains("policy.toml: ") && said.err.contains(named), "{text}: {said:?}");
    }
    let missing =
        run(windlass(dir.path()).args(["policy", "explain", "--kind", "prompt", "--policy", "/no/such.toml"]));
    assert_eq!(missing.code, Some(78), "{missing:?}");
}
