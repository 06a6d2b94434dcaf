//! Do jobs in the background come to an end that the session hears of?

use crate::{
    provider::{BOTH, Frame, Provider, Script, Speaks},
    rig::{Bench, folder, session_id, told, with_tools},
};
use std::fs;
use windlass_core::{Disposition, HandlingMode, OperationId, OperationKind, OperationSpec, OperationStatus, Record};

#[tokio::test]
async fn a_job_in_the_background_wakes_the_session_when_it_ends() {
    for speaks in BOTH {
        let folder = folder();
        let start = r#"{"name":"brew","argv":["sh","-c","test -e go || sleep 0.01; while ! test -e go; do sleep 0.01; done; echo brewed"]}"#;
        let provider = Provider::scripted([
            speaks.calls(&[("c", "job_start", start), ("s", "job_status", "{}")]),
            speaks.says(&["started"]),
            speaks.says(&["tea!"]),
        ])
        .await;
        let bench =
            Bench::new(&with_tools(speaks, &provider, folder.path(), &["job_start", "job_status", "job_cancel"])).await;
        assert_eq!(bench.hear("make tea").await, "started");
        let results = told(&provider.bodies()[1]);
        assert!(
            results[3].starts_with("result c: started as job ") && results[4].contains("\"brew\": "),
            "{results:?}"
        );
        fs::write(folder.path().join("go"), "").expect("written");
        provider.heard(3).await;
        let news = told(&provider.bodies()[2]).pop().expect("news");
        assert!(news.contains("[BACKGROUND JOB brew") && news.contains("brewed"), "{news}");
        bench.record(|record| matches!(record, Record::CompletionsApplied { .. })).await;
    }
}

#[tokio::test]
async fn jobs_under_way_are_listed_first_and_operations_of_others_are_not() {
    let (speaks, folder) = (Speaks::Openai, folder());
    let start = r#"{"name":"brew","argv":["sleep","1000"]}"#;
    // It also hears of the jobs that are over, in runs of their own.
    let provider = Provider::answering(move |_, body| {
        let told = told(body);
        let is_asked = told.iter().any(|line| line == "user: make tea");
        if is_asked && !told.iter().any(|line| line.starts_with("result s: ")) {
            speaks.calls(&[("c", "job_start", start), ("s", "job_status", "{}")])
        } else {
            speaks.says(&["ok"])
        }
    })
    .await;
    let bench = Bench::new(&with_tools(speaks, &provider, folder.path(), &["job_start", "job_status"])).await;
    let ops = bench.adapter.ops_lifecycle_registry(session_id()).await.expect("a registry");
    for number in 0..60 {
        let id = OperationId::from_uuid(uuid::Uuid::from_u128(number));
        let source_label = if number < 55 { "shell" } else { "worker" }.into();
        let spec = OperationSpec {
            id,
            kind: OperationKind::BackgroundToolOp,
            display_name: "old".into(),
            source_label,
            child_session_id: None,
            expect_peer_channel: false,
            adoptable: false,
        };
        ops.register_operation(spec).await.expect("registered");
        ops.fail_operation(id, "no water".into()).await.expect("it fails");
    }
    bench.hear("make tea").await;
    let bodies = provider.bodies();
    let told = told(bodies.last().expect("a request"));
    let listed = told.iter().find_map(|line| line.strip_prefix("result s: ")).expect("a list");
    let lines: Vec<&str> = listed.lines().collect();
    assert!(lines[0].contains("\"brew\": "), "{}", lines[0]);
    assert_eq!(lines.last(), Some(&"[cut: 50 of 56 jobs are shown, those under way first]"));
    assert_eq!(lines.len(), 51);
}

#[tokio::test]
async fn a_job_that_a_cancel_kept_from_starting_is_ended_by_the_next_run() {
    let (speaks, folder) = (Speaks::Openai, folder());
    let provider = Provider::answering(move |number, _| match number {
        1 => Script::stream(vec![Frame::Silence]),
        _ => speaks.says(&["ok"]),
    })
    .await;
    let bench = Bench::new(&with_tools(speaks, &provider, folder.path(), &["job_start"])).await;
    assert_eq!(bench.hear("one").await, "ok");
    let cut = bench.offer("two", HandlingMode::Queue).await;
    provider.heard(2).await;
    // As a call leaves it that is cut off between registering its operation and starting its program.
    let ops = bench.adapter.ops_lifecycle_registry(session_id()).await.expect("a registry");
    let id = OperationId::from_uuid(uuid::Uuid::from_u128(5));
    let spec = OperationSpec {
        id,
        kind: OperationKind::BackgroundToolOp,
        display_name: "brew".into(),
        source_label: "shell".into(),
        child_session_id: None,
        expect_peer_channel: false,
        adoptable: false,
    };
    ops.register_operation(spec).await.expect("registered");
    bench.session.cancel(None, "enough", Disposition::Drop).await.expect("an answer");
    cut.wait().await;
    assert_eq!(bench.hear("three").await, "ok");
    assert_eq!(ops.snapshot(id).await.expect("known").status, OperationStatus::Failed);
}
