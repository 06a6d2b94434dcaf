//! Which executor does a session get by the name of its agent?

use crate::{BuiltinAgent, ProcessExecutor, Program, jobs::Jobs};
use async_trait::async_trait;
use std::sync::Arc;
use windlass_core::SessionId;
use windlass_runtime::{CoreExecutor, CoreExecutorError, ExecutorFactory};

/// Gives every session without a named agent, and every one named `builtin`, the built-in agent. Owns what its agents
/// do in the background, so that it goes on while a session is put away.
#[derive(Clone, Debug, Default)]
pub struct BuiltinFactory {
    jobs: Arc<Jobs>,
}

#[async_trait]
impl ExecutorFactory for BuiltinFactory {
    async fn executor(&self, _: SessionId, agent: Option<&str>) -> Result<Arc<dyn CoreExecutor>, CoreExecutorError> {
        match agent {
            None | Some("builtin") => Ok(Arc::new(BuiltinAgent::with(Arc::clone(&self.jobs)))),
            Some(other) => {
                Err(CoreExecutorError::fatal(format!("unknown_agent: no agent is named {other:?}; use \"builtin\"")))
            }
        }
    }
}

/// Gives every session, whatever its agent, one execution of a program per attempt.
#[derive(Clone, Debug)]
pub struct ProcessFactory {
    program: Program,
}

impl ProcessFactory {
    /// A factory of executors that run this program.
    pub fn new(program: Program) -> ProcessFactory {
        ProcessFactory { program }
    }
}

#[async_trait]
impl ExecutorFactory for ProcessFactory {
    async fn executor(&self, _: SessionId, _: Option<&str>) -> Result<Arc<dyn CoreExecutor>, CoreExecutorError> {
        Ok(Arc::new(ProcessExecutor::new(self.program.clone())))
    }
}
