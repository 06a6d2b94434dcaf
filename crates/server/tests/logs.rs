//! What does the log never say?

use http::Method;
use serde_json::json;
use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
};
use windlass_server::{
    logging,
    testing::{Answer, TestServer},
};

/// A log in memory.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_log_in_every_detail_holds_no_token_no_query_no_header_and_no_body() {
    let kept = Kept::default();
    let subscriber = logging::subscriber("trace", true, {
        let kept = kept.clone();
        move || kept.clone()
    });
    // The runtime of this test has one thread, so this is where everything is logged.
    let _logging = tracing::subscriber::set_default(subscriber.unwrap());
    let mut server = TestServer::start().await;
    let made = server.post("/v1/tokens", &json!({"scopes": ["*"], "name": "bodysecret"})).await;
    let token = made.body["token"].as_str().expect("a token").to_owned();
    server.show(Some(&token));
    server.get("/v1/tokens?cursor=querysecret").await;
    Answer::to(server.request(Method::GET, "/livez").header("cookie", "cookiesecret")).await;
    server.show(Some("wl_aaaaaaaaaaaaaaaa_wrongsecret"));
    server.get("/v1/tokens").await;
    server.post("/v1/tokens", &json!({"brokensecret": "brokensecret"})).await;

    let log = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
    let secret = token.rsplit('_').next().unwrap();
    for hidden in [secret, "bodysecret", "querysecret", "cookiesecret", "wrongsecret", "brokensecret"] {
        assert!(!log.contains(hidden), "{hidden} is in the log: {log}");
    }
    assert!(log.contains("a token was made") && log.contains("/v1/tokens"), "it does log: {log}");
    for line in log.lines() {
        assert!(serde_json::from_str::<serde_json::Value>(line).is_ok_and(|line| line.is_object()), "{line}");
    }
}
