//! Does the server speak TLS, and where does it refuse to speak without?

use serde_json::json;
use std::{num::NonZeroU32, path::PathBuf, sync::Arc, time::Duration};
use windlass_runtime::memory::MemoryStore;
use windlass_server::{
    Config, Scopes, ServeError, Server, Tenant,
    auth::{NewToken, Tokens},
    config::Seconds,
    testing::TestServer,
};

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// A client that trusts one certificate and nothing else.
fn trusting(name: &str) -> reqwest::Client {
    let certificate = std::fs::read(fixture(&format!("{name}.cert.pem"))).unwrap();
    let certificate = reqwest::Certificate::from_pem(&certificate).unwrap();
    reqwest::Client::builder().tls_certs_only([certificate]).build().unwrap()
}

fn with_certificate(folder: &std::path::Path, name: &str) -> Config {
    let mut config = TestServer::config();
    for (kind, place) in [("cert", &mut config.server.tls_cert), ("key", &mut config.server.tls_key)] {
        let to = folder.join(format!("{kind}.pem"));
        std::fs::copy(fixture(&format!("{name}.{kind}.pem")), &to).unwrap();
        *place = Some(to);
    }
    config
}

#[tokio::test]
async fn a_certificate_is_shown_and_can_be_exchanged() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::builder(with_certificate(folder.path(), "first")).start().await.unwrap();
    let url = format!("{}/livez", server.url());
    assert!(url.starts_with("https://127.0.0.1:"));

    let answer = trusting("first").get(&url).send().await.expect("an answer");
    assert_eq!(answer.version(), http::Version::HTTP_2, "agreed on by ALPN");
    assert!(answer.headers().contains_key("strict-transport-security"));
    assert!(trusting("second").get(&url).send().await.is_err());
    assert!(reqwest::get(url.replace("https", "http")).await.is_err(), "no plain text on this port");

    with_certificate(folder.path(), "second");
    server.reload().expect("a good certificate");
    assert_eq!(trusting("second").get(&url).send().await.expect("an answer").status(), 200);

    // A key that belongs to another certificate: the one in use stays.
    std::fs::copy(fixture("first.key.pem"), folder.path().join("key.pem")).unwrap();
    let error = server.reload().expect_err("they do not belong together").to_string();
    assert!(error.starts_with("tls_invalid: "), "{error}");
    assert_eq!(trusting("second").get(&url).send().await.expect("an answer").status(), 200);
}

#[tokio::test]
async fn a_client_that_takes_no_events_over_tls_is_let_go_too() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = with_certificate(folder.path(), "first");
    config.limits.write_stall_seconds = Seconds(Duration::from_millis(200));
    config.limits.requests_per_second = NonZeroU32::MAX;
    let server = TestServer::builder(config).start().await.unwrap();
    let client = trusting("first");
    let post = async |path: &str, body: serde_json::Value| {
        client.post(format!("{}{path}", server.url())).json(&body).send().await.expect("an answer").status().as_u16()
    };
    post("/v1/sessions", json!({"name": "s"})).await;
    post("/v1/sessions/s/hold", json!({})).await;
    let one = reqwest::Client::builder().http1_only();
    let certificate = std::fs::read(fixture("first.cert.pem")).unwrap();
    let one = one.tls_certs_only([reqwest::Certificate::from_pem(&certificate).unwrap()]).build().unwrap();
    let unread = one.get(format!("{}/v1/sessions/s/events", server.url())).send().await.expect("it begins");
    assert_eq!((unread.status().as_u16(), unread.version()), (200, http::Version::HTTP_11));
    let prompt = json!({"kind": "prompt", "text": "x".repeat(60_000)});
    for _ in 0..250 {
        assert_eq!(post("/v1/sessions/s/inputs", prompt.clone()).await, 202);
    }
    let over = async {
        loop {
            let metrics = client.get(format!("{}/metrics", server.url())).send().await.expect("an answer");
            let metrics = metrics.text().await.expect("text");
            let open = metrics.lines().find(|line| line.starts_with("windlass_streams{"));
            if open.is_some_and(|line| line.ends_with(" 0")) {
                break;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(8), over).await.expect("the stream is over before its heartbeat");
    drop(unread);
}

#[tokio::test]
async fn others_are_let_in_only_by_token_and_in_secret() {
    let folder = tempfile::tempdir().unwrap();
    let public = |mut config: Config| {
        config.server.listen = "0.0.0.0:0".parse().unwrap();
        config
    };
    let proxied = |mut config: Config| {
        config.server.behind_proxy = true;
        config
    };
    let missing =
        async |config: Config, store: &Arc<MemoryStore>| match Server::builder(config, Arc::clone(store)).start().await
        {
            Ok(_) => "nothing",
            Err(ServeError::Exposed { missing, .. }) => missing,
            Err(other) => panic!("{other}"),
        };
    let store = Arc::new(MemoryStore::new());
    let tls = || with_certificate(folder.path(), "first");
    assert_eq!(missing(public(tls()), &store).await, "there is no token");
    assert_eq!(missing(proxied(TestServer::config()), &store).await, "there is no token");
    assert_eq!(missing(TestServer::config(), &store).await, "nothing");

    let tokens = Tokens::load(Arc::clone(&store) as _, Arc::new(windlass_runtime::SystemClock)).await.unwrap();
    tokens.create(NewToken { tenant: Tenant::default(), scopes: Scopes::all(), ..NewToken::default() }).await.unwrap();
    assert_eq!(missing(public(TestServer::config()), &store).await, "there is no TLS");
    assert_eq!(missing(public(tls()), &store).await, "nothing");
    assert_eq!(missing(public(proxied(TestServer::config())), &store).await, "nothing");
}
