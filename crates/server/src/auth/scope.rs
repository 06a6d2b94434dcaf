//! What may a token do?

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use std::{fmt, str::FromStr};

macro_rules! scopes {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)+) => {
        /// What one route asks of a token.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Scope {
            $($(#[$doc])* $name,)+
            /// Nothing: the route answers everybody.
            Public,
        }

        impl Scope {
            /// Every scope that a token can have.
            pub const ALL: &'static [Scope] = &[$(Scope::$name),+];

            /// Its text form, for example `inputs:write`.
            pub const fn as_str(self) -> &'static str {
                match self { $(Scope::$name => $text,)+ Scope::Public => "public" }
            }
        }
    };
}

scopes! {
    /// Sends inputs, withdraws and redrives them.
    InputsWrite = "inputs:write";
    /// Reads sessions, inputs, runs, journals.
    SessionsRead = "sessions:read";
    /// Creates, changes and deletes sessions.
    SessionsWrite = "sessions:write";
    /// Interrupts, stops, holds, retires, recycles, resets, recovers, destroys.
    SessionsControl = "sessions:control";
    /// Follows events.
    EventsRead = "events:read";
    /// Downloads blobs.
    BlobsRead = "blobs:read";
    /// Uploads blobs.
    BlobsWrite = "blobs:write";
    /// Reads operations, waits for them.
    OpsRead = "ops:read";
    /// Reports operations.
    OpsWrite = "ops:write";
    /// Writes to peers.
    PeersSend = "peers:send";
    /// Manages peers.
    PeersAdmin = "peers:admin";
    /// Manages agents and policies.
    ExecutorsAdmin = "executors:admin";
    /// Makes and revokes tokens of its own tenant.
    TokensAdmin = "tokens:admin";
    /// Manages every tenant.
    TenantAdmin = "tenant:admin";
}

impl Scope {
    /// Whether it is administration, which has a rate of its own.
    pub(crate) const fn is_administration(self) -> bool {
        matches!(self, Scope::PeersAdmin | Scope::ExecutorsAdmin | Scope::TokensAdmin | Scope::TenantAdmin)
    }

    const fn bit(self) -> u32 {
        1 << self as u32
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// There is no such scope.
#[derive(Clone, Debug, thiserror::Error)]
#[error("there is no scope {0:?}; known: {known}, ops:*, *", known = Scope::ALL.iter().map(|scope| scope.as_str()).collect::<Vec<_>>().join(", "))]
pub struct UnknownScope(String);

/// What a token may do: a set of scopes. As text `inputs:write sessions:read`, as JSON an array; `ops:*` is both
/// scopes of operations, `*` all there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scopes(u32);

impl Scopes {
    /// Every scope.
    pub fn all() -> Scopes {
        Scope::ALL.iter().copied().collect()
    }

    /// Whether a route with this scope may be called. Everybody may call a public one.
    pub const fn allows(self, scope: Scope) -> bool {
        matches!(scope, Scope::Public) || self.0 & scope.bit() != 0
    }

    /// Whether every scope of `other` is in this set too.
    pub const fn covers(self, other: Scopes) -> bool {
        self.0 & other.0 == other.0
    }

    /// The scopes, in the order of [`Scope::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.iter().copied().filter(move |scope| self.allows(*scope))
    }

    /// The scopes that are about sessions, and not about those who may use them.
    pub fn without_administration(self) -> Scopes {
        self.iter().filter(|scope| !scope.is_administration()).collect()
    }

    /// Whether nothing is allowed.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    fn of_text(text: &str) -> Result<Scopes, UnknownScope> {
        match text {
            "*" => Ok(Scopes::all()),
            "ops:*" => Ok([Scope::OpsRead, Scope::OpsWrite].into_iter().collect()),
            _ => match Scope::ALL.iter().find(|scope| scope.as_str() == text) {
                Some(scope) => Ok(Scopes(scope.bit())),
                None => Err(UnknownScope(text.to_owned())),
            },
        }
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Scopes {
        Scopes(scopes.into_iter().filter(|scope| *scope != Scope::Public).fold(0, |bits, scope| bits | scope.bit()))
    }
}

impl FromStr for Scopes {
    type Err = UnknownScope;

    /// Scopes with spaces or commas between them.
    fn from_str(text: &str) -> Result<Scopes, UnknownScope> {
        let words = text.split([' ', ',']).filter(|word| !word.is_empty());
        words.map(Scopes::of_text).try_fold(Scopes::default(), |all, one| Ok(Scopes(all.0 | one?.0)))
    }
}

impl Serialize for Scopes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter().map(Scope::as_str))
    }
}

impl<'de> Deserialize<'de> for Scopes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Scopes, D::Error> {
        let words = Vec::<String>::deserialize(deserializer)?;
        words
            .iter()
            .map(|word| Scopes::of_text(word))
            .try_fold(Scopes::default(), |all, one| Ok(Scopes(all.0 | one?.0)))
            .map_err(|error: UnknownScope| D::Error::custom(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_read_as_they_are_written() {
        for (text, written) in [
            ("inputs:write", r#"["inputs:write"]"#),
            ("ops:*", r#"["ops:read","ops:write"]"#),
            ("sessions:read, inputs:write", r#"["inputs:write","sessions:read"]"#),
            ("", "[]"),
        ] {
            let scopes: Scopes = text.parse().unwrap();
            assert_eq!(serde_json::to_string(&scopes).unwrap(), written);
            assert_eq!(serde_json::from_str::<Scopes>(written).unwrap(), scopes);
        }
        assert!("inputs:read".parse::<Scopes>().is_err());
        assert!("public".parse::<Scopes>().is_err());
        assert_eq!("*".parse::<Scopes>().unwrap().iter().count(), Scope::ALL.len());
    }
}
