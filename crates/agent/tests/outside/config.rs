//! Are agents what the configuration says, and are its mistakes named?

use crate::common::{has, offer, repository, result_text, with_factory};
use std::{collections::BTreeMap, fs, sync::Arc};
use windlass_agent::config::{AgentConfig, Agents};
use windlass_core::SessionId;
use windlass_runtime::ExecutorFactory;

fn parsed(text: &str) -> Result<BTreeMap<String, AgentConfig>, String> {
    toml::from_str(text).map_err(|error| error.to_string())
}

fn agents(text: &str) -> Agents {
    Agents::new(parsed(text).expect("TOML")).expect("valid")
}

/// Why a configuration is refused.
fn mistake(text: &str) -> String {
    match parsed(text) {
        Err(error) => error,
        Ok(configs) => Agents::new(configs).expect_err(text).to_string(),
    }
}

#[test]
fn mistakes_name_the_agent_the_setting_and_the_remedy() {
    for (text, expected) in [
        ("[a]\nkind = \"magic\"", "unknown variant `magic`, expected one of `builtin`"),
        ("[a]\ncommand = [\"x\"]", "missing field `kind`"),
        ("[a]\nkind = \"builtin\"\nspeed = 1", "unknown field `speed`"),
        ("[a]\nkind = \"process\"", "missing field `command`"),
        ("[a]\nkind = \"process\"\ncommand = \"x\"", "invalid type: string \"x\", expected a sequence"),
        (
            "[a]\nkind = \"process\"\ncommand = [\"x\"]\nshell = true",
            "unknown field `shell`, expected one of `command`",
        ),
        ("[a]\nkind = \"process\"\ncommand = []", "agents.a: command is empty; name a program"),
        (
            "[a]\nkind = \"process\"\ncommand = [\"x\"]\nprocesses = 2",
            "agents.a: processes is for mode = \"worker\" only",
        ),
        ("[a]\nkind = \"process\"\ncommand = [\"x\"]\ntimeout_seconds = 0", "agents.a: timeout_seconds is 0"),
        ("[a]\nkind = \"http\"\nurl = \"agents\"", "agents.a: url is no URL: relative URL without a base"),
        (
            "[a]\nkind = \"http\"\nurl = \"http://localhost:8080/\"",
            "agents.a: url: url_not_allowed: the scheme is \"http\", only https is allowed; https to a public address",
        ),
        ("[a]\nkind = \"http\"\nurl = \"https://169.254.169.254/\"", "link-local address, where clouds keep their"),
        (
            "[a]\nkind = \"http\"\nurl = \"https://example.com/\"\ncancel_url = \"https://10.0.0.1/\"",
            "agents.a: cancel_url: url_not_allowed",
        ),
        (
            "[a]\nkind = \"http\"\nurl = \"https://example.com/\"\nheaders.authorization = \"Bearer x\"",
            "agents.a: headers.authorization: a secret does not belong into this file",
        ),
        (
            "[a]\nkind = \"http\"\nurl = \"https://example.com/\"\nallow = [\"http://x\"]",
            "\"http://x\" is no host. Write a name or address",
        ),
        ("[a]\nkind = \"llm\"\ndialect = \"openai\"\nmodel = \"m\"\nbudget.stepz = 1", "unknown field `stepz`"),
        (
            "[a]\nkind = \"llm\"\ndialect = \"openai\"\nmodel = \"m\"\ntools.enabled = [\"read_fiel\"]",
            "agents.a: invalid_setting: tools.enabled: there is no built-in tool \"read_fiel\"; there are shell, read_file",
        ),
        (
            "[a]\nkind = \"llm\"\ndialect = \"openai\"\nmodel = \"m\"\ntools.enabled = [\"read_file\"]",
            "agents.a: invalid_setting: tools.workspace: read_file needs a folder",
        ),
        ("[a]\nkind = \"llm\"\ndialect = \"openai\"\nmodel = \"\"", "agents.a: invalid_setting: model: it is empty"),
        (
            "[a]\nkind = \"llm\"\ndialect = \"openai\"\nmodel = \"m\"\nbase_url = \"nowhere\"",
            "agents.a: invalid_setting: base_url: ",
        ),
        (
            "[a]\nkind = \"llm\"\ndialect = \"openai\"\nmodel = \"m\"\ntools.fetch_allow = [\"http://x\"]",
            "\"http://x\" is no host. Write a name or address",
        ),
        ("[\"a b\"]\nkind = \"builtin\"", "agents.a b: a name is 1 to 64 letters, digits, - and _"),
        ("[builtin]\nkind = \"process\"\ncommand = [\"x\"]", "agents.builtin: this name is the built-in agent's"),
    ] {
        let said = mistake(text);
        assert!(said.contains(expected), "{text}\n{said}");
    }
}

#[test]
fn sessions_without_a_name_get_the_default() {
    let builtin = "[%]\nkind = \"builtin\"\n";
    for (names, expected) in [
        (&[][..], "builtin"),
        (&["only"], "only"),
        (&["one", "two"], "builtin"),
        (&["a", "default", "z"], "default"),
        (&["builtin", "x"], "builtin"),
    ] {
        let text: String = names.iter().map(|name| builtin.replace('%', name)).collect();
        let agents = agents(&text);
        assert_eq!(agents.default_name(), expected, "{names:?}");
        let shown = agents.describe(expected).expect("it is there");
        assert!(shown.is_default && shown.kind == "builtin" && shown.name == expected);
        assert!(agents.names().contains(&"builtin"));
    }
}

#[test]
fn descriptions_hold_no_secrets() {
    let agents = agents(
        r#"
        [hook]
        kind = "http"
        url = "https://example.com/run?token=abc"
        secret_env = "X"
        [words]
        kind = "process"
        mode = "worker"
        command = ["python3", "agent.py"]
        env = { KEY = "abc" }
        "#,
    );
    assert_eq!(agents.describe("hook").expect("there").summary, "posts to https://example.com/run, signed");
    assert_eq!(agents.describe("words").expect("there").summary, "keeps up to 4 of python3 agent.py");
    assert_eq!(agents.describe("nobody"), None);
}

#[test]
fn keys_that_are_not_there_are_named_before_anything_is_made() {
    let agents = agents(
        r#"
        [asks]
        kind = "llm"
        dialect = "openai"
        base_url = "https://models.example.com/v1"
        model = "m"
        api_key_env = "WINDLASS_TEST_NO_KEY"
        [plain]
        kind = "process"
        command = ["python3", "agent.py"]
        env_from = ["PATH"]
        [posts]
        kind = "http"
        url = "https://example.com/run"
        token_file = "/no/such/token"
        [runs]
        kind = "process"
        command = ["python3", "agent.py"]
        env_from = ["WINDLASS_TEST_NO_KEY"]
        [tools]
        kind = "llm"
        dialect = "openai"
        base_url = "https://models.example.com/v1"
        model = "m"
        tools.mcp.files = { url = "https://mcp.example.com/", token_env = "WINDLASS_TEST_NO_KEY" }
        "#,
    );
    let lacking: Vec<String> = agents.without_keys().iter().map(ToString::to_string).collect();
    let no_variable = "the environment variable WINDLASS_TEST_NO_KEY is not set, and neither is \
                       WINDLASS_TEST_NO_KEY_FILE; set one of them";
    let no_file = "the key file /no/such/token cannot be read: No such file or directory (os error 2)";
    let expected = [
        format!("agents.asks: missing_key: api_key_env: {no_variable}"),
        format!("agents.posts: {no_file}"),
        format!("agents.runs: {no_variable}"),
        format!("agents.tools: tools.mcp.files: {no_variable}"),
    ];
    assert_eq!(lacking, expected);
}

#[tokio::test]
async fn agents_run_by_name_and_unknown_ones_say_who_is_there() {
    let agents = agents("[one]\nkind = \"process\"\ncommand = [\"/bin/echo\", \"one\"]\n[two]\nkind = \"builtin\"");
    let session = SessionId::from_uuid(uuid::Uuid::from_u128(1));
    let Err(unknown) = agents.executor(session, Some("three")).await else { panic!("there is no third") };
    assert_eq!(unknown.to_string(), "unknown_agent: no agent is named \"three\"; there are builtin, one, two");
    let adapter = with_factory(Arc::new(agents));
    let named = adapter.create_session(session, Some("one")).await.expect("a session");
    assert_eq!(result_text(offer(&named, 1, "hello").await.wait().await), "one");
}

#[tokio::test]
async fn greeting_an_agent_says_what_happens() {
    let dir = tempfile::tempdir().expect("a folder");
    let key = dir.path().join("key");
    fs::write(&key, "no key").expect("written");
    let agents = agents(&format!(
        r#"
        [echo]
        kind = "process"
        command = ["/bin/echo", "good day"]
        [silent]
        kind = "process"
        command = ["true"]
        [broken]
        kind = "process"
        command = ["/bin/sh", "-c", "echo no model >&2; exit 3"]
        [missing]
        kind = "process"
        command = ["x"]
        env_from = ["WINDLASS_TEST_NO_SUCH_KEY"]
        [unsigned]
        kind = "http"
        url = "https://example.com/"
        secret_file = "{}"
        [both]
        kind = "http"
        url = "https://example.com/"
        token_env = "A"
        token_file = "b"
        [keyless]
        kind = "llm"
        dialect = "anthropic"
        model = "m"
        api_key_env = "WINDLASS_TEST_NO_SUCH_KEY"
        "#,
        key.display()
    ));
    for (name, text, error) in [
        ("echo", Some("good day"), ""),
        ("silent", None, ""),
        ("broken", None, "executor_failed: exit status: 3; it said: no model"),
        (
            "missing",
            None,
            "executor_unavailable: agents.missing: the environment variable WINDLASS_TEST_NO_SUCH_KEY is not set, and \
             neither is WINDLASS_TEST_NO_SUCH_KEY_FILE",
        ),
        ("unsigned", None, "executor_unavailable: agents.unsigned: secret: no webhook secret"),
        ("both", None, "executor_unavailable: agents.both: token_env and token_file are both set"),
        ("keyless", None, "executor_unavailable: agents.keyless: missing_key: api_key_env: the environment variable"),
        ("nobody", None, "unknown_agent"),
    ] {
        let report = agents.test(name).await;
        assert_eq!((report.agent.as_str(), report.text.as_deref()), (name, text), "{report:?}");
        assert_eq!(report.ok, error.is_empty(), "{report:?}");
        assert!(report.error.as_deref().unwrap_or_default().starts_with(error), "{report:?}");
    }
    assert!(agents.test("builtin").await.text.is_some_and(|text| !text.is_empty()));
}

#[tokio::test]
async fn the_declared_python_agents_answer() {
    if !has("python3") {
        eprintln!("not shown: there is no python3");
        return;
    }
    let folder = repository().join("examples/agents/python");
    let agents = agents(&format!(
        "[words]\nkind = \"process\"\nmode = \"worker\"\ncommand = [\"python3\", \"worker.py\"]\ndir = \"{0}\"\n\
         [once]\nkind = \"process\"\ncommand = [\"python3\", \"once.py\"]\ndir = \"{0}\"",
        folder.display()
    ));
    assert_eq!(agents.test("words").await.text.as_deref(), Some("HELLO"));
    assert_eq!(agents.test("once").await.text.as_deref(), Some("You said: hello"));
}
