//! Lists that come in pages, followed by the links in their heads.

use crate::Rig;
use reqwest::Url;
use serde_json::{Value, json};

/// Where the link of a head leads to; none if there is none.
fn next(page: &Url, link: &str) -> Option<Url> {
    let target = link.strip_prefix('<')?.strip_suffix(">; rel=\"next\"").expect("one link, to the next page");
    Some(page.join(target).expect("a reference"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_read_whole_by_following_its_links() {
    let mut rig = Rig::start().await;
    for n in 0..4 {
        let made = rig.post("/v1/sessions", &json!({"name": format!("s{n}"), "labels": {"team": "a&b"}})).await;
        assert_eq!(made.status, 201, "{made:?}");
        assert_eq!(rig.say("s0", &format!("number {n}")).await.status, 200);
        let operation = json!({"display_name": "index"});
        assert_eq!(rig.post("/v1/sessions/s0/operations", &operation).await.status, 201);
    }
    rig.session("without-a-label").await;
    let token = rig.token("default", &["*"]).await;
    rig.server.show(Some(&token));
    rig.token("default", &["*"]).await;
    for (path, whole) in [
        ("/v1/sessions?label=team:a%26b", 4),
        ("/v1/sessions/s0/inputs?state=done", 4),
        ("/v1/sessions/s0/runs?", 4),
        ("/v1/sessions/s0/transcript?", 8),
        ("/v1/sessions/s0/operations?", 4),
        ("/v1/sessions/s0/peers?", 4),
        ("/v1/sessions/s0/journal?after=1", 0),
        ("/v1/policies?", 1),
        ("/v1/dead-letters?", 0),
        ("/v1/tokens?", 2),
    ] {
        let all = rig.get(&format!("{path}&limit=500")).await;
        assert_eq!((all.status, all.header("link")), (200, ""), "{path}: {all:?}");
        let mut seen = Vec::new();
        let mut asked = Some(Url::parse(&rig.server().url()).unwrap().join(&format!("{path}&limit=2")).unwrap());
        while let Some(page) = asked {
            let answer = rig.get(&page.as_str()[rig.server().url().len()..]).await;
            assert_eq!(answer.status, 200, "{page}: {answer:?}");
            seen.extend(answer.body["items"].as_array().unwrap().iter().cloned());
            asked = next(&page, answer.header("link"));
            let more = ["next_cursor", "next_after"].iter().any(|next| !answer.body[next].is_null());
            assert_eq!(asked.is_some(), more, "{page}: {answer:?}");
        }
        assert!(seen.len() >= whole, "{path}: {seen:?}");
        // What is listed is read as it is listed, and a token notes its use.
        let ids = |items: &[Value]| {
            items.iter().map(|item| json!([item["id"], item["seq"], item["name"]])).collect::<Vec<_>>()
        };
        assert_eq!(ids(&seen), ids(all.body["items"].as_array().unwrap()), "{path}");
    }
}
