//! Is a configuration read, and what is wrong with it named?

use serde_json::json;
use windlass_agent::llm::{LlmConfig, LlmDeps};

#[test]
fn settings_that_cannot_be_used_are_named() {
    use windlass_agent::llm::{DialectName, LlmAgent};
    type Change = fn(&mut LlmConfig);
    let change = |change: Change| {
        let mut config = LlmConfig::new(DialectName::Openai, "m");
        change(&mut config);
        match LlmAgent::from_config(&config, LlmDeps::default()) {
            Ok(_) => "ok".to_owned(),
            Err(error) => error.to_string(),
        }
    };
    let cases: [(Change, &str); 14] = [
        (|_| (), "ok"),
        (|config| config.model = " ".into(), "invalid_setting: model: "),
        (|config| config.base_url = Some("nowhere".into()), "invalid_setting: base_url: "),
        (|config| config.base_url = Some("ftp://x".into()), "invalid_setting: base_url: "),
        (|config| config.api_key_env = Some("WINDLASS_NO_SUCH_KEY".into()), "missing_key: api_key_env: "),
        (|config| config.api_key_file = Some("/no/such/file".into()), "missing_key: api_key_file: "),
        // Two lines, which no header can hold.
        (
            |config| config.api_key_file = Some(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml").into()),
            "invalid_setting: api_key_file: the key holds characters",
        ),
        (|config| drop(config.headers.insert("a b".into(), String::new())), "invalid_setting: headers: "),
        (|config| config.schema = Some(json!({ "type": 1 })), "invalid_setting: schema: "),
        (|config| config.tools.enabled = vec!["dance".into()], "invalid_setting: tools.enabled: "),
        (|config| config.tools.enabled = vec!["shell".into()], "invalid_setting: tools.workspace: "),
        (|config| config.tools.enabled = vec!["fetch".into()], "invalid_setting: tools.enabled: "),
        (|config| config.tools.approve = vec!["shell".into()], "invalid_setting: tools.approve: "),
        (|config| config.budget.cost_usd = Some(1.0), "invalid_setting: budget.cost_usd: "),
    ];
    for (how, expected) in cases {
        let said = change(how);
        assert!(said.starts_with(expected), "{said} is not {expected}");
    }
    let unknown = toml::from_str::<LlmConfig>("dialect = 'openai'\nmodel = 'm'\nmodle = 'x'").expect_err("a slip");
    assert!(unknown.to_string().contains("modle"), "{unknown}");
}

#[test]
fn the_guides_example_is_a_configuration() {
    use std::collections::BTreeMap;
    use windlass_agent::config::AgentConfig;
    type Agents = BTreeMap<String, BTreeMap<String, AgentConfig>>;
    let guide = include_str!("../../../../docs/guide/llm-agents.md");
    let example = guide.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("an example");
    let read: Agents = toml::from_str(example).expect("it is read");
    let AgentConfig::Llm(gardener) = &read["agents"]["gardener"] else { panic!("{read:?}") };
    assert_eq!((gardener.budget.steps, gardener.tools.enabled.len()), (Some(50), 8));
}
