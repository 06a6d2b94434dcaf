//! Which calls of tools may have taken effect without anybody having heard?
//!
//! Before a tool that must not be called twice is called, an [`Intent`] is committed; its result is committed after it.
//! An intent without a result, found after a crash or a cancel, is *ambiguous*: the call was made, or was not, or is
//! half done. The ledger says so and leaves the decision to policy. It never calls anything again by itself.

use crate::sandbox::Profile;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A call that is about to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// The call, as the model named it.
    pub call: String,
    /// The effect key that the tool is given; the same if the call is made again.
    pub key: String,
    /// The walls around the program that it starts; none if it starts none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<Profile>,
}

/// The intents without a result. A fold of what was committed, like all else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    open: BTreeMap<String, String>,
}

impl Ledger {
    /// The call is about to be made.
    pub fn intend(&mut self, intent: &Intent) {
        self.open.insert(intent.call.clone(), intent.key.clone());
    }

    /// The call has a result.
    pub fn done(&mut self, call: &str) {
        self.open.remove(call);
    }

    /// The effect key of a call that may have taken effect unheard; none if it is known not to have.
    pub fn ambiguous(&self, call: &str) -> Option<&str> {
        self.open.get(call).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_intent_is_ambiguous_until_its_result_is_in() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.ambiguous("a"), None);
        ledger.intend(&Intent { call: "a".into(), key: "k".into(), sandbox: None });
        assert_eq!((ledger.ambiguous("a"), ledger.ambiguous("b")), (Some("k"), None));
        ledger.done("b");
        assert_eq!(ledger.ambiguous("a"), Some("k"));
        ledger.done("a");
        assert_eq!(ledger, Ledger::default());
    }
}
