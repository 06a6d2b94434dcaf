//! How does a session come into being, and with what?

use crate::{
    adapter::RuntimeSessionAdapter,
    error::SessionError,
    handle::SessionHandle,
    mailbox::{Answer, BATCH, Letter, Message},
};
use std::{sync::Arc, time::Duration};
use tokio::sync::mpsc;
use windlass_core::{ControlRefused, InvalidProfile, PolicyTable, Profile, SessionId};

/// What a new session is to be. Said once: nothing of it changes a session that exists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewSession {
    /// The agent that runs it, by the name that the factory knows.
    pub agent: Option<Arc<str>>,
    /// What it is told about itself.
    pub profile: Profile,
    /// Peer requests with these intents start no runs.
    pub silent_intents: Vec<String>,
}

/// Knows policies by name. Asked when a session is opened, and when it is told to follow another one; never while an
/// input waits to be admitted.
pub trait Policies: Send + Sync + 'static {
    /// The policy of this name, `name` or `name@version`; none if there is none.
    fn policy(&self, name: &str) -> Option<Arc<PolicyTable>>;
}

impl RuntimeSessionAdapter {
    /// Makes a session durable, for this agent, unless it exists. Idempotent.
    ///
    /// # Errors
    /// [`SessionError`]; call it again, it is idempotent.
    pub async fn create_session(&self, session: SessionId, agent: Option<&str>) -> Result<SessionHandle, SessionError> {
        let new = NewSession { agent: agent.map(Arc::from), ..NewSession::default() };
        Ok(self.create_session_with(session, new).await?.0)
    }

    /// Makes a session durable with all that it is to be, in one append, unless it exists. Tells whether it was made by
    /// this call; of one that exists nothing is changed.
    ///
    /// # Errors
    /// [`SessionError::Refused`] if `new` has something that a session is not told: nothing was made. Otherwise
    /// [`SessionError`]; after [`StoreError::Unknown`](crate::store::StoreError::Unknown) it may have been made, and the
    /// call may be repeated.
    pub async fn create_session_with(
        &self,
        session: SessionId,
        new: NewSession,
    ) -> Result<(SessionHandle, bool), SessionError> {
        new.profile.check().map_err(|invalid| SessionError::Refused(ControlRefused::Profile(invalid)))?;
        self.shared.check_policy(new.profile.policy.as_deref())?;
        let (given, limit) = (new.silent_intents.len() as u32, self.shared.limits.silent_intents);
        if given > limit {
            return Err(SessionError::Refused(ControlRefused::TooManyIntents { given, limit }));
        }
        let new = Arc::new(new);
        self.make(session, |reply| Message::Create { new: Arc::clone(&new), made: false, reply }).await
    }

    /// Says something to a session that makes it if it is not there.
    pub(crate) async fn make<T>(
        &self,
        session: SessionId,
        message: impl Fn(Answer<T>) -> Message,
    ) -> Result<(SessionHandle, T), SessionError> {
        let mut tries = 0;
        loop {
            let handle = self.handle(self.shared.slot_or_new(session));
            match handle.ask(&message).await {
                // It was just let go of, because somebody asked for it before it was made.
                Err(SessionError::NotFound(_)) if tries < TRIES => tries += 1,
                answer => return answer.map(|answer| (handle, answer)),
            }
        }
    }
}

impl crate::shared::Shared {
    /// Refuses a profile that names a policy which is not known.
    pub(crate) fn check_policy(&self, policy: Option<&str>) -> Result<(), SessionError> {
        let Some(name) = policy else { return Ok(()) };
        let known = self.policies.as_ref().is_some_and(|policies| policies.policy(name).is_some());
        let refused = || SessionError::Refused(ControlRefused::Profile(InvalidProfile::UnknownPolicy));
        if known { Ok(()) } else { Err(refused()) }
    }

    /// The policy of a session: the one that its profile names, or the runtime's own.
    pub(crate) fn policy_of(&self, session: SessionId, profile: &Profile) -> Arc<PolicyTable> {
        let Some(name) = &profile.policy else { return Arc::clone(&self.policy) };
        let named = self.policies.as_ref().and_then(|policies| policies.policy(name));
        named.unwrap_or_else(|| {
            tracing::warn!(%session, policy = %name, "the session's policy is not known here, the default one is used");
            Arc::clone(&self.policy)
        })
    }
}

/// How often a session that is let go of at that very moment is made anew.
const TRIES: u32 = 8;
/// How long an owner of a session that is not there waits for the letter that it was called for.
const FIRST_WORD: Duration = Duration::from_secs(1);

/// What a session that is not there is to be, by the first letter that says so. Who asked for it before hears that it
/// is not there. None if nobody makes it.
pub(crate) async fn first_word(
    session: SessionId,
    inbox: &mut mpsc::Receiver<Letter>,
    first: &mut Vec<Letter>,
) -> Option<Arc<NewSession>> {
    if first.is_empty() {
        // Without a letter its sender has gone, or an alarm rang: nothing is made of that.
        drop(tokio::time::timeout(FIRST_WORD, inbox.recv_many(first, BATCH)).await);
    }
    let maker = first.iter().position(|letter| matches!(**letter, Message::Create { .. } | Message::Attach { .. }))?;
    for letter in first.drain(..maker) {
        letter.refuse(SessionError::NotFound(session));
    }
    match first.first_mut().map(|letter| &mut **letter) {
        Some(Message::Create { new, made, .. }) => {
            *made = true;
            Some(Arc::clone(new))
        }
        _ => Some(Arc::default()),
    }
}
