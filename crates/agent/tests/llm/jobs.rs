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
