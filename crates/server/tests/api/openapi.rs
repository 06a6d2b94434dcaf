//! Does the document say what the routes do?

use crate::Rig;
use http::Method;
use serde_json::Value;
use std::collections::BTreeSet;
use windlass_server::testing::Answer;

/// Set it to anything to write the document anew: `WINDLASS_WRITE=1 cargo test -p windlass-server --test api openapi`.
const WRITE: &str = "WINDLASS_WRITE";

fn document() -> Value {
    serde_json::from_str(windlass_server::openapi::json()).unwrap()
}

#[test]
fn the_document_that_is_checked_in_is_the_one_that_is_made() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json");
    let made = windlass_server::openapi::json();
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(path, made).unwrap();
    }
    let kept = std::fs::read_to_string(path).unwrap_or_default();
    assert!(kept == made, "docs/openapi.json differs; look at it, then write it anew with {WRITE}=1");
}

#[test]
fn every_route_is_in_the_document_with_its_scope_and_the_reverse() {
    let table = windlass_server::routes();
    let of_table: BTreeSet<_> = table
        .table()
        .iter()
        .map(|route| (route.path.to_owned(), route.method.as_str().to_lowercase(), route.scope.to_string()))
        .collect();
    let document = document();
    let mut described = BTreeSet::new();
    let mut names = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let scope = operation["x-scope"].as_str().unwrap_or_default().to_owned();
            assert!(names.insert(operation["operationId"].to_string()), "{operation}");
            let security = operation["security"].as_array().unwrap();
            assert_eq!(security.is_empty(), scope == "public", "{method} {path}");
            for problem in ["400", "500"] {
                assert!(operation["responses"].get(problem).is_some(), "{method} {path}: {problem}");
            }
            described.insert((path.clone(), method.clone(), scope));
        }
    }
    assert_eq!(of_table, described);
}

#[test]
fn every_reference_of_the_document_leads_somewhere() {
    fn walk(value: &Value, document: &Value) {
        match value {
            Value::Object(fields) => {
                if let Some(Value::String(reference)) = fields.get("$ref") {
                    let pointer = reference.strip_prefix('#').unwrap();
                    assert!(document.pointer(pointer).is_some(), "{reference}");
                }
                fields.values().for_each(|value| walk(value, document));
            }
            Value::Array(items) => items.iter().for_each(|item| walk(item, document)),
            _ => {}
        }
    }
    let document = document();
    walk(&document, &document);
    assert_eq!(document["openapi"], "3.1.0");
}

/// A browser sends no header that a preflight does not allow, and hides every answer's that is not named to it.
#[tokio::test(flavor = "multi_thread")]
async fn pages_may_send_and_read_every_header_of_the_document() {
    let page = "https://console.example";
    let rig = Rig::with(|config| config.server.allowed_origins = vec![page.into()]).await;
    let asked = rig.request(Method::OPTIONS, "/v1/sessions").header("origin", page);
    let preflight = Answer::to(asked.header("access-control-request-method", "POST")).await;
    let plain = Answer::to(rig.request(Method::GET, "/v1/sessions").header("origin", page)).await;
    let names = |list: &str| list.split(',').map(|name| name.trim().to_lowercase()).collect::<BTreeSet<_>>();
    let taken = names(preflight.header("access-control-allow-headers"));
    let exposed = names(plain.header("access-control-expose-headers"));
    let document = document();
    let operations =
        document["paths"].as_object().unwrap().values().flat_map(|item| item.as_object().unwrap().values());
    for operation in operations {
        for parameter in operation["parameters"].as_array().into_iter().flatten().filter(|of| of["in"] == "header") {
            let name = parameter["name"].as_str().unwrap().to_lowercase();
            assert!(taken.contains(&name), "{}: {name}", operation["operationId"]);
        }
        for answer in operation["responses"].as_object().unwrap().values() {
            for name in answer["headers"].as_object().into_iter().flat_map(serde_json::Map::keys) {
                assert!(exposed.contains(&name.to_lowercase()), "{}: {name}", operation["operationId"]);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_and_its_page_are_served_without_a_token_and_need_nothing_else() {
    let rig = Rig::start().await;
    let served = rig.get("/openapi.json").await;
    assert_eq!((served.status, served.body), (200, document()));
    let page = rig.get("/docs").await;
    let text = page.body.as_str().unwrap();
    assert_eq!(page.status, 200);
    assert!(page.header("content-security-policy").starts_with("default-src 'none'"));
    assert!(text.contains("/v1/sessions/{session}/inputs") && !text.contains("http://") && !text.contains("https://"));
}
