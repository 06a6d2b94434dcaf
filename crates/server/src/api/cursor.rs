//! How does the next page find where the last one ended?
//!
//! A cursor is a position, bound by a hash to the list that it was made for: its route, its session or tenant, its
//! filters. Shown to another list it is refused, not misread.

use crate::problem::{Code, Problem};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

/// The longest cursor, in bytes of text: that of a stream of 64 sessions is the longest there is.
const LONGEST: usize = 2_048;
const BINDING: usize = 8;

/// The list that a cursor belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct List([u8; BINDING]);

impl List {
    /// The list of a route, told apart by these words.
    pub(super) fn of(route: &str, words: &[&str]) -> List {
        let mut hasher = blake3::Hasher::new_derive_key("windlass 2026 cursor of a list");
        for word in std::iter::once(&route).chain(words) {
            hasher.update(&(word.len() as u64).to_le_bytes()).update(word.as_bytes());
        }
        let mut binding = [0; BINDING];
        binding.copy_from_slice(&hasher.finalize().as_bytes()[..BINDING]);
        List(binding)
    }

    /// A cursor to this position.
    pub(super) fn cursor(self, position: &[u8]) -> String {
        URL_SAFE_NO_PAD.encode([&self.0, position].concat())
    }

    /// The position of a cursor of this list.
    pub(super) fn position(self, cursor: &str) -> Result<Vec<u8>, Problem> {
        let refused =
            || Problem::new(Code::InvalidCursor).detail("pass a cursor only to the list it came from, unchanged");
        let bytes = Some(cursor).filter(|cursor| cursor.len() <= LONGEST);
        let bytes = bytes.and_then(|cursor| URL_SAFE_NO_PAD.decode(cursor).ok()).ok_or_else(refused)?;
        let position = bytes.strip_prefix(&self.0).ok_or_else(refused)?;
        Ok(position.to_vec())
    }

    /// The numbers of a cursor of this list, all of them.
    pub(super) fn numbers<const N: usize>(self, cursor: Option<&str>) -> Result<[u64; N], Problem> {
        let Some(cursor) = cursor else { return Ok([0; N]) };
        let position = self.position(cursor)?;
        let mut numbers = [0; N];
        if position.len() != 8 * N {
            return Err(Problem::new(Code::InvalidCursor).detail("the cursor is not one of this list"));
        }
        for (number, bytes) in numbers.iter_mut().zip(position.chunks_exact(8)) {
            *number = u64::from_le_bytes(bytes.try_into().expect("chunks of eight bytes"));
        }
        Ok(numbers)
    }

    /// A cursor to these numbers.
    pub(super) fn at<const N: usize>(self, numbers: [u64; N]) -> String {
        self.cursor(&numbers.map(u64::to_le_bytes).concat())
    }

    /// The UUIDs of a cursor of this list.
    pub(super) fn uuids<const N: usize>(self, cursor: Option<&str>) -> Result<Option<[uuid::Uuid; N]>, Problem> {
        let Some(cursor) = cursor else { return Ok(None) };
        let position = self.position(cursor)?;
        if position.len() != 16 * N {
            return Err(Problem::new(Code::InvalidCursor).detail("the cursor is not one of this list"));
        }
        let mut uuids = [uuid::Uuid::nil(); N];
        for (uuid, bytes) in uuids.iter_mut().zip(position.chunks_exact(16)) {
            *uuid = uuid::Uuid::from_slice(bytes).expect("chunks of sixteen bytes");
        }
        Ok(Some(uuids))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_opens_its_own_list_only() {
        let list = List::of("/v1/sessions", &["default", "agent=a"]);
        let cursor = list.at([7, 9]);
        assert_eq!(list.numbers(Some(&cursor)).unwrap(), [7, 9]);
        assert_eq!(list.numbers::<2>(None).unwrap(), [0, 0]);
        for (other, what) in [
            (List::of("/v1/sessions", &["default", "agent=b"]), "another filter"),
            (List::of("/v1/sessions", &["acme", "agent=a"]), "another tenant"),
            (List::of("/v1/dead-letters", &["default", "agent=a"]), "another route"),
            (List::of("/v1/sessions", &["defaultagent=a"]), "words run together"),
        ] {
            assert_eq!(other.numbers::<2>(Some(&cursor)).unwrap_err().code(), Code::InvalidCursor, "{what}");
        }
        for broken in ["", "!", &cursor[1..], &format!("{cursor}AAAA"), &"A".repeat(LONGEST + 1)] {
            assert_eq!(list.numbers::<2>(Some(broken)).unwrap_err().code(), Code::InvalidCursor, "{broken}");
        }
        assert!(list.numbers::<1>(Some(&cursor)).is_err(), "more numbers than wanted");
    }
}
