//! Which tools has an agent, and does a call of the model obey their schemas?

use super::{
    AskHuman, Effect, Fetch, JobCancel, JobStart, JobStatus, ListFiles, ReadFile, Reply, SendPeer, Shell, ShellJobs,
    Tool, ToolContext, Workspace, WriteFile, shell::Surroundings, shown,
};
use crate::llm::{LlmConfigError, LlmDeps, ToolCall, ToolsConfig, dialect::ToolSpec};
use serde_json::Value;
use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};
use windlass_runtime::CoreExecutorError;

/// Complaints about arguments that the model is told at once.
const COMPLAINTS: usize = 5;

/// A tool that a configuration names.
pub(crate) struct BuiltIn {
    pub(crate) name: &'static str,
    /// Whether it works in a folder.
    pub(crate) needs_folder: bool,
}

const fn built_in(name: &'static str, needs_folder: bool) -> BuiltIn {
    BuiltIn { name, needs_folder }
}

/// The tools that a configuration names.
pub(crate) const BUILT_IN: [BuiltIn; 10] = [
    built_in("shell", true),
    built_in("read_file", true),
    built_in("write_file", true),
    built_in("list_files", true),
    built_in("fetch", false),
    built_in("job_start", true),
    built_in("job_status", false),
    built_in("job_cancel", false),
    built_in("ask_human", false),
    built_in("send_peer", false),
];

/// The tools of an agent.
pub(crate) struct Toolbox {
    tools: BTreeMap<String, Kept>,
    pub(crate) specs: Vec<ToolSpec>,
    pub(crate) jobs: Option<Arc<ShellJobs>>,
    output_limit: usize,
}

struct Kept {
    tool: Arc<dyn Tool>,
    validator: jsonschema::Validator,
    approve: bool,
}

/// A call that obeys its tool's schema.
pub(crate) struct Prepared {
    pub(crate) call: ToolCall,
    pub(crate) tool: Arc<dyn Tool>,
    pub(crate) arguments: Value,
    /// Whether a person has to approve it.
    pub(crate) approve: bool,
}

impl Toolbox {
    /// The tools of a configuration that was checked.
    pub(crate) fn from_config(config: &ToolsConfig, deps: &LlmDeps) -> Result<Toolbox, LlmConfigError> {
        let mut toolbox = Toolbox {
            tools: BTreeMap::new(),
            specs: Vec::new(),
            jobs: None,
            output_limit: config.output_limit.clamp(256, 16 * 1024 * 1024),
        };
        let invalid = |problem: String| LlmConfigError::invalid("tools.enabled", problem);
        let workspace = match &config.workspace {
            Some(path) => Some(Arc::new(Workspace::open(path).map_err(|error| {
                LlmConfigError::invalid("tools.workspace", format!("{}: {error}", path.display()))
            })?)),
            None => None,
        };
        let place = || workspace.clone().expect("tools that need a folder have one, or the check finds it");
        let limit = Duration::from_secs(config.timeout_s);
        let surroundings = || Surroundings {
            workspace: place(),
            env: config.env.clone(),
            limit,
            output: toolbox.output_limit,
            sandbox: config.walls(),
        };
        let mut jobs: Option<Arc<ShellJobs>> = None;
        let mut tools: Vec<Arc<dyn Tool>> = Vec::new();
        for name in &config.enabled {
            let mut shared_jobs = || jobs.get_or_insert_with(Arc::default).clone();
            tools.push(match name.as_str() {
                "shell" => Arc::new(Shell::new(surroundings())),
                "read_file" => Arc::new(ReadFile::new(place())),
                "write_file" => Arc::new(WriteFile::new(place())),
                "list_files" => Arc::new(ListFiles::new(place())),
                "ask_human" => Arc::new(AskHuman::new()),
                "job_start" => Arc::new(JobStart::new(shared_jobs(), surroundings())),
                "job_status" => Arc::new(JobStatus::new()),
                "job_cancel" => Arc::new(JobCancel::new(shared_jobs())),
                "fetch" => match &deps.egress {
                    Some(egress) => Arc::new(Fetch::new(egress.clone(), limit)),
                    None => return Err(invalid("fetch is not possible here: no egress rules are given".into())),
                },
                "send_peer" => match &deps.peers {
                    Some(peers) => Arc::new(SendPeer::new(Arc::clone(peers))),
                    None => return Err(invalid("send_peer is not possible here: sessions have no comms".into())),
                },
                other => unreachable!("the check knows all names, and not {other}"),
            });
        }
        tools.extend(deps.tools.iter().cloned());
        toolbox.jobs = jobs;
        for tool in tools {
            let approve = config.approve.iter().any(|name| name == tool.name());
            toolbox.add(tool, approve)?;
        }
        match config.approve.iter().find(|name| !toolbox.tools.contains_key(*name)) {
            Some(unknown) => Err(LlmConfigError::invalid("tools.approve", format!("{unknown:?} is not enabled"))),
            None => Ok(toolbox),
        }
    }

    fn add(&mut self, tool: Arc<dyn Tool>, approve: bool) -> Result<(), LlmConfigError> {
        let invalid = |problem: String| LlmConfigError::invalid("tools.enabled", problem);
        let name = tool.name().to_owned();
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if name.is_empty() || name.len() > 64 || !name.bytes().all(plain) {
            return Err(invalid(format!("{name:?} is no name: use letters, digits, _ and -, at most 64")));
        }
        let validator = jsonschema::validator_for(tool.schema())
            .map_err(|error| invalid(format!("the schema of {name:?} is none: {error}")))?;
        let (description, schema) = (tool.description().to_owned(), tool.schema().clone());
        self.specs.push(ToolSpec { name: name.clone(), description, schema });
        match self.tools.insert(name, Kept { tool, validator, approve }) {
            Some(twice) => Err(invalid(format!("two tools are named {:?}", twice.tool.name()))),
            None => Ok(()),
        }
    }

    /// Checks a call.
    ///
    /// # Errors
    /// Words for the model.
    pub(crate) fn prepare(&self, call: &ToolCall) -> Result<Prepared, String> {
        let Some(kept) = self.tools.get(&call.name) else {
            let names: Vec<&str> = self.tools.keys().map(String::as_str).collect();
            return Err(format!("unknown_tool: there is no tool {:?}; there are: {}", call.name, names.join(", ")));
        };
        // Models leave out the arguments of tools that need none.
        let text = if call.arguments.trim().is_empty() { "{}" } else { &call.arguments };
        let arguments: Value = serde_json::from_str(text)
            .map_err(|error| format!("invalid_arguments: they are no JSON: {error}; call the tool again"))?;
        let complaint = |error: jsonschema::ValidationError<'_>| {
            let place = error.instance_path().to_string();
            if place.is_empty() { error.to_string() } else { format!("{place}: {error}") }
        };
        let complaints: Vec<String> = kept.validator.iter_errors(&arguments).take(COMPLAINTS).map(complaint).collect();
        if !complaints.is_empty() {
            return Err(format!("invalid_arguments: {}; call the tool again", complaints.join("; ")));
        }
        Ok(Prepared { call: call.clone(), tool: Arc::clone(&kept.tool), arguments, approve: kept.approve })
    }

    /// Makes a call, within its time and with a result of bounded length.
    pub(crate) async fn call(
        &self,
        prepared: &Prepared,
        context: &ToolContext<'_>,
    ) -> Result<Reply, CoreExecutorError> {
        let Prepared { tool, arguments, .. } = prepared;
        let limit = tool.timeout();
        let reply = match tokio::time::timeout(limit, tool.call(arguments.clone(), context)).await {
            Ok(reply) => reply?,
            Err(_) if tool.effect() == Effect::Once => {
                Reply::error("tool_timed_out", format!("no result within {limit:?}; it may have taken effect"))
            }
            Err(_) => Reply::error("tool_timed_out", format!("no result within {limit:?}")),
        };
        Ok(match reply {
            Reply::Done { content, is_error } => {
                Reply::Done { content: shown(content.as_bytes(), self.output_limit), is_error }
            }
            ask @ Reply::Ask(_) => ask,
        })
    }
}

impl fmt::Debug for Toolbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.tools.keys()).finish()
    }
}
