//! What was a session told about itself, and what may it be told?

use crate::{ControlRefused, ControlReport, Record, Seq, Session, Step, Timestamp};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::Arc};

/// What a session was told about itself: whose it is, what it is called, how it is to be treated. Part of the fold;
/// decides nothing about inputs by itself.
///
/// ```
/// use windlass_core::{InvalidProfile, Profile};
/// let mut profile = Profile { name: Some("night-shift".into()), ..Profile::default() };
/// profile.labels.insert("team".into(), "support".into());
/// assert_eq!(profile.check(), Ok(()));
/// profile.labels.insert("team".into(), "x".repeat(257));
/// assert!(matches!(profile.check(), Err(InvalidProfile::Length { .. })));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Whose it is; none: the default tenant's. Said when it is created, never changed afterwards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<Arc<str>>,
    /// The name that its id was derived from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Arc<str>>,
    /// Words to find it by.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Whether it outlives the work that it was made for. Read by whoever cleans up.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep_alive: bool,
    /// The policy that governs what it admits from now on: `name` (the latest when the session is opened) or
    /// `name@version`; none: the runtime's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Arc<str>>,
}

/// What a session is told anew about itself. What is none stays as it is when the change is made: of several changes at
/// once none undoes another, unless they speak of the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProfileChange {
    /// [`Profile::labels`], all of them.
    pub labels: Option<BTreeMap<String, String>>,
    /// [`Profile::keep_alive`].
    pub keep_alive: Option<bool>,
    /// [`Profile::policy`]; `Some(None)`: the runtime's own.
    pub policy: Option<Option<Arc<str>>>,
    /// The intents of peer requests that start no runs, all of them.
    pub silent_intents: Option<Vec<String>>,
    /// What the change is meant for, profile and silent intents: it is refused if the session has been told something
    /// else since.
    pub since: Option<(Profile, Vec<String>)>,
}

/// Why a session is not told this about itself. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum InvalidProfile {
    /// A session stays whose it is.
    #[error("tenant: a session keeps the tenant that it was created for; create another session")]
    TenantIsFixed,
    /// Too many labels.
    #[error("labels: {given} given, at most {limit} are kept; remove some")]
    TooManyLabels {
        /// How many were given.
        given: u32,
        /// The most allowed.
        limit: u32,
    },
    /// A text that is empty, or longer than there is room for.
    #[error("{}: {bytes} bytes given, 1 to {limit} are kept; use another text", field.as_str())]
    Length {
        /// Which text.
        field: ProfileField,
        /// Its length in bytes.
        bytes: u32,
        /// The longest allowed.
        limit: u32,
    },
    /// The policy is not known here.
    #[error("policy: there is no policy of this name here; upload it first")]
    UnknownPolicy,
}

/// The texts of a [`Profile`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProfileField {
    /// [`Profile::tenant`].
    Tenant,
    /// [`Profile::name`].
    Name,
    /// The key of a label.
    LabelKey,
    /// The value of a label; may be empty.
    LabelValue,
    /// [`Profile::policy`].
    Policy,
}

impl ProfileField {
    /// Its name, as a path into the profile.
    pub const fn as_str(self) -> &'static str {
        match self {
            ProfileField::Tenant => "tenant",
            ProfileField::Name => "name",
            ProfileField::LabelKey => "labels.key",
            ProfileField::LabelValue => "labels.value",
            ProfileField::Policy => "policy",
        }
    }
}

impl InvalidProfile {
    /// The field that is wrong, as a path into the profile.
    pub const fn field(self) -> &'static str {
        match self {
            InvalidProfile::TenantIsFixed => "tenant",
            InvalidProfile::TooManyLabels { .. } => "labels",
            InvalidProfile::Length { field, .. } => field.as_str(),
            InvalidProfile::UnknownPolicy => "policy",
        }
    }
}

impl Profile {
    /// The most labels.
    pub const MAX_LABELS: usize = 64;
    /// The longest key of a label, in bytes.
    pub const MAX_LABEL_KEY_BYTES: usize = 64;
    /// The longest value of a label, in bytes.
    pub const MAX_LABEL_VALUE_BYTES: usize = 256;
    /// The longest tenant, name or policy, in bytes.
    pub const MAX_NAME_BYTES: usize = 256;

    /// Whether everything in it has room.
    ///
    /// # Errors
    /// The first thing that has none.
    pub fn check(&self) -> Result<(), InvalidProfile> {
        let short = |field, text: &str, least: usize, limit: usize| {
            if (least..=limit).contains(&text.len()) {
                return Ok(());
            }
            let bytes = u32::try_from(text.len()).unwrap_or(u32::MAX);
            Err(InvalidProfile::Length { field, bytes, limit: limit as u32 })
        };
        let names = [
            (ProfileField::Tenant, &self.tenant),
            (ProfileField::Name, &self.name),
            (ProfileField::Policy, &self.policy),
        ];
        for (field, text) in names {
            text.as_ref().map_or(Ok(()), |text| short(field, text, 1, Self::MAX_NAME_BYTES))?;
        }
        if self.labels.len() > Self::MAX_LABELS {
            let given = u32::try_from(self.labels.len()).unwrap_or(u32::MAX);
            return Err(InvalidProfile::TooManyLabels { given, limit: Self::MAX_LABELS as u32 });
        }
        for (key, value) in &self.labels {
            short(ProfileField::LabelKey, key, 1, Self::MAX_LABEL_KEY_BYTES)?;
            short(ProfileField::LabelValue, value, 0, Self::MAX_LABEL_VALUE_BYTES)?;
        }
        Ok(())
    }
}

impl Session {
    /// What the session was told about itself.
    pub fn profile(&self) -> &Arc<Profile> {
        &self.profile
    }

    /// Tells the session about itself: [`Control::CreateWith`](crate::Control::CreateWith) also whose it is, if nothing else is known of it yet.
    pub(crate) fn on_profile(
        &mut self,
        now: Timestamp,
        profile: Arc<Profile>,
        creates: bool,
        step: &mut Step,
    ) -> Result<ControlReport, ControlRefused> {
        let fixed = profile.tenant != self.profile.tenant && !(creates && self.head == CREATED);
        let valid = if fixed { Err(InvalidProfile::TenantIsFixed) } else { profile.check() };
        valid.map_err(ControlRefused::Profile)?;
        if self.profile != profile {
            self.write(now, Record::ProfileSet { profile }, step);
        }
        Ok(ControlReport::default())
    }

    /// Changes some of what it is told about itself. The rest is what it is now, not when whoever asks has looked.
    pub(crate) fn on_change(
        &mut self,
        now: Timestamp,
        change: ProfileChange,
        step: &mut Step,
    ) -> Result<ControlReport, ControlRefused> {
        let ProfileChange { labels, keep_alive, policy, silent_intents, since } = change;
        if since.is_some_and(|(profile, intents)| profile != *self.profile || intents != self.silent_intents) {
            return Err(ControlRefused::ChangedSince);
        }
        let intents = silent_intents.map(|intents| self.silent(intents)).transpose()?;
        let mut profile = Profile::clone(&self.profile);
        profile.labels = labels.unwrap_or(profile.labels);
        profile.keep_alive = keep_alive.unwrap_or(profile.keep_alive);
        profile.policy = policy.unwrap_or(profile.policy);
        let report = self.on_profile(now, Arc::new(profile), false, step)?;
        if let Some(intents) = intents {
            self.set_silent(now, intents, step);
        }
        Ok(report)
    }

    pub(crate) fn apply_profile(&mut self, profile: &Arc<Profile>) -> Result<(), &'static str> {
        if profile.tenant != self.profile.tenant && self.head != CREATED.next() {
            return Err("a session changes its tenant");
        }
        self.profile = Arc::clone(profile);
        Ok(())
    }
}

/// The head of a session of which nothing is known but that it was created.
const CREATED: Seq = Seq(1);
