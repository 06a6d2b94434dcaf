//! What does the log never say?

use http::Method;
use serde_json::json;
use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
};
use windlass_server::{
    logging::{self, Form},
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
    let subscriber = logging::subscriber("trace", Form::Json, {
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

#[test]
fn what_is_quoted_by_an_error_a_url_or_a_panic_is_hidden_in_both_forms() {
    const KEY: &str = "a-key\"with-marks";
    windlass_agent::secrets::know(&KEY.into());
    for form in [Form::Json, Form::Text { color: false }] {
        let kept = Kept::default();
        let subscriber = logging::subscriber("info", form, {
            let kept = kept.clone();
            move || kept.clone()
        });
        let _logging = tracing::subscriber::set_default(subscriber.unwrap());
        tracing::error!(error = %format_args!("401 of the provider: {KEY} is wrong"), "a request failed");
        tracing::warn!(url = "https://example.com/hook?token=of-somebody&page=2", "not reached");
        tracing::info!(password = "of-somebody", "a field by its name");
        let printing = std::panic::take_hook();
        std::panic::set_hook(Box::new(logging::log_panic));
        let panicked = std::panic::catch_unwind(|| panic!("no header can hold {KEY:?}"));
        std::panic::set_hook(printing);
        assert!(panicked.is_err());

        let log = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        for hidden in ["a-key", "with-marks", "of-somebody"] {
            assert!(!log.contains(hidden), "{hidden} is in the log: {log}");
        }
        for said in ["*** is wrong", "token=***&page=2", "no header can hold", "windlass::panic", "logs.rs"] {
            assert!(log.contains(said), "{said} is not in the log: {log}");
        }
        assert_eq!(log.lines().count(), 4, "{log}");
        assert!(!log.contains('\u{1b}'), "nobody asked for colour: {log}");
    }
}
