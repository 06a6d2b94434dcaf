//! What does a stranger find who tries everything that the OpenAPI document promises?
//!
//! Schemathesis makes requests out of the document, good ones and bad ones, and compares the answers with it. It runs
//! where `WINDLASS_SCHEMATHESIS` names its program: `cargo xtask test --only schemathesis` installs it and sets that.

use serde_json::json;
use std::{num::NonZeroU32, process::Stdio, sync::Arc};
use windlass_runtime::object_blobs::ObjectBlobs;
use windlass_server::{Server, testing::TestServer};
use windlass_sqlite::{SqliteOptions, SqliteStore};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs schemathesis: cargo xtask test --only schemathesis"]
async fn schemathesis_finds_nothing() {
    let program = std::env::var_os("WINDLASS_SCHEMATHESIS").expect("WINDLASS_SCHEMATHESIS names the program");
    let seconds = std::env::var("WINDLASS_SCHEMATHESIS_SECONDS").unwrap_or_else(|_| "60".to_owned());
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path().join("windlass.db"), SqliteOptions::default()).unwrap();
    let mut config = TestServer::config();
    let many = NonZeroU32::MAX;
    let limits = &mut config.limits;
    (limits.requests_per_second, limits.requests_burst) = (many, many);
    (limits.admin_requests_per_second, limits.failed_auth_per_minute) = (many, many);
    let blobs = ObjectBlobs::in_folder(folder.path().join("blobs")).unwrap();
    let server = TestServer::with(Server::builder(config, Arc::new(store)).blobs(Arc::new(blobs))).await;
    for name in ["tried", "spent"] {
        assert_eq!(server.post("/v1/sessions", &json!({ "name": name })).await.status, 201);
    }
    let token = server.post("/v1/tokens", &json!({"scopes": ["*"]})).await;
    let token = token.body["token"].as_str().unwrap().to_owned();
    let manifest = env!("CARGO_MANIFEST_DIR");
    let mut command = tokio::process::Command::new(program);
    command
        .arg(format!("--config-file={manifest}/tests/schemathesis.toml"))
        .arg("run")
        .arg(format!("{}/openapi.json", server.server().url()))
        .args(["--header", &format!("Authorization: Bearer {token}")])
        .args(["--max-time", &seconds, "--seed", "7420", "--no-color", "--request-timeout", "40"])
        // One, so that what is found is found again; and Python up to 3.12 loses count of its recursion in two.
        .args(["--workers", "1"])
        .env("SCHEMATHESIS_HOOKS", "schemathesis_hooks")
        .env("PYTHONPATH", format!("{manifest}/tests"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .current_dir(folder.path())
        .stdin(Stdio::null());
    let output = command.output().await.expect("schemathesis starts");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(server.get("/readyz").await.status, 200, "the server takes the next good request: {said}");
}
