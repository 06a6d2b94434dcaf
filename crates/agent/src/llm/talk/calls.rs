//! How are the tools called that an answer asks for?

use super::{Live, Talk, millis};
use crate::{
    alive::alive,
    ledger::Intent,
    llm::{
        config::OnAmbiguous,
        message::{Message, Spent, ToolCall, Waiting},
        questions,
    },
    tools::{Effect, Reply, ToolContext, toolbox::Prepared},
};
use futures_util::future::{BoxFuture, try_join_all};
use std::collections::HashSet;
use tokio::time::Instant;
use windlass_runtime::{CoreApplyOutput, CoreExecutorError};

/// Calls of read-only tools that are made side by side.
const SIDE_BY_SIDE: usize = 8;

impl Talk<'_> {
    fn open_calls(&self) -> Vec<ToolCall> {
        let closed: HashSet<&str> = self.fresh.messages.iter().filter_map(|message| message.call.as_deref()).collect();
        let mut open = self.conversation.open_calls();
        open.retain(|call| !closed.contains(call.id.as_str()));
        open
    }

    /// Makes the calls of the last answer that have no result, in order; read-only ones that follow each other side by
    /// side. Each result is durable before the next call.
    pub(super) async fn call_tools(&mut self) -> Result<Option<CoreApplyOutput>, CoreExecutorError> {
        loop {
            let mut group: Vec<(Prepared, String)> = Vec::new();
            for call in self.open_calls() {
                let prepared = match self.parts.toolbox.prepare(&call) {
                    Ok(prepared) => prepared,
                    Err(_) if !group.is_empty() => break,
                    Err(words) => {
                        self.fresh.messages.push(Message::tool(call.id, words, true));
                        continue;
                    }
                };
                let alone = prepared.tool.effect() != Effect::ReadOnly || prepared.approve;
                if !group.is_empty() && (alone || group.len() >= SIDE_BY_SIDE) {
                    break;
                }
                match self.may_call(&prepared) {
                    Ok(Some(key)) => group.push((prepared, key)),
                    Ok(None) => continue,
                    Err(parked) => return Ok(Some(*parked)),
                }
                if alone {
                    break;
                }
            }
            if group.is_empty() {
                return Ok(None);
            }
            if let [(prepared, key)] = &group[..]
                && prepared.tool.effect() == Effect::Once
            {
                let is_intended = self.conversation.ledger.ambiguous(&prepared.call.id).is_some();
                if !is_intended {
                    let (call, sandbox) = (prepared.call.id.clone(), prepared.tool.sandbox());
                    self.fresh.intended.push(Intent { call, key: key.clone(), sandbox });
                }
                // A person's yes is for one call: it is used up before that is made, so that none after a crash has it.
                if !is_intended || self.fresh.resolved {
                    self.commit().await?;
                }
            }
            if let Some(parked) = self.call_group(&group).await? {
                return Ok(Some(parked));
            }
            self.commit().await?;
        }
    }

    /// The effect key of a call that may be made now. None: it has a result that says why not. An error: a person is
    /// asked first.
    fn may_call(&mut self, prepared: &Prepared) -> Result<Option<String>, Box<CoreApplyOutput>> {
        let call = &prepared.call;
        let approved = self.approved.contains(&call.id);
        if let Some(key) = self.conversation.ledger.ambiguous(&call.id).map(str::to_owned) {
            match self.parts.config.tools.on_ambiguous {
                _ if approved => {}
                OnAmbiguous::Retry => {}
                OnAmbiguous::Ask => {
                    let tool = questions::ambiguous(call, &key);
                    return Err(Box::new(self.park(Waiting::Ambiguous { call: call.id.clone() }, tool)));
                }
                OnAmbiguous::GiveUp => {
                    let words = "ambiguous: I was interrupted within this call; it may or may not have taken effect";
                    self.fresh.messages.push(Message::tool(&call.id, words, true));
                    return Ok(None);
                }
            }
            return Ok(Some(key));
        }
        if prepared.approve && !approved {
            let tool = questions::approval(call);
            return Err(Box::new(self.park(Waiting::Approval { call: call.id.clone() }, tool)));
        }
        Ok(Some(self.turn.effect_key().to_string()))
    }

    async fn call_group(&mut self, group: &[(Prepared, String)]) -> Result<Option<CoreApplyOutput>, CoreExecutorError> {
        let began = Instant::now();
        let (turn, toolbox) = (self.turn, &self.parts.toolbox);
        let causes = &[self.conversation.causes(turn.run()), &self.fresh.causes].concat();
        let mut calls: Vec<BoxFuture<'_, Result<Reply, CoreExecutorError>>> = Vec::with_capacity(group.len());
        for (prepared, effect_key) in group {
            calls
                .push(Box::pin(async move { toolbox.call(prepared, &ToolContext { turn, effect_key, causes }).await }));
        }
        let replies = alive(self.turn, try_join_all(calls)).await?;
        self.fresh.spent.add(Spent { millis: millis(began), ..Spent::default() });
        for ((prepared, _), reply) in group.iter().zip(replies) {
            let call = prepared.call.id.clone();
            match reply {
                Reply::Done { content, is_error } => {
                    self.show(&Live::ToolResult { id: &call, is_error });
                    self.fresh.messages.push(Message::tool(call, content, is_error));
                }
                Reply::Ask(tool) => return Ok(Some(self.park(Waiting::Answer { call }, tool))),
            }
        }
        Ok(None)
    }
}
