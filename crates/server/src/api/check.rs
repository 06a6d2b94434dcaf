//! Does a text of a request have the length and the letters that its schema says?

use crate::problem::{Code, Problem};

/// The longest name, in characters.
pub(super) const NAME: usize = 200;

/// A text of `least` to `most` characters.
pub(super) fn length(pointer: &str, text: &str, least: usize, most: usize) -> Result<(), Problem> {
    let long = text.chars().count();
    if (least..=most).contains(&long) {
        return Ok(());
    }
    let detail = format!("{least} to {most} characters are taken, this has {long}");
    Err(Problem::at(Code::SchemaViolation, pointer.to_owned(), &detail).limit(most as u64))
}

/// A list that is longer than it may be.
pub(super) fn too_many(pointer: &str, most: usize, what: &str) -> Problem {
    Problem::at(Code::SchemaViolation, pointer.to_owned(), &format!("at most {most} {what}")).limit(most as u64)
}

/// A name: 1 to [`NAME`] characters, none of them a control character, because names stand in lines of their own.
pub(super) fn name(pointer: &str, text: &str) -> Result<(), Problem> {
    length(pointer, text, 1, NAME)?;
    if text.chars().any(char::is_control) {
        return Err(Problem::at(Code::SchemaViolation, pointer.to_owned(), "a name holds no control characters"));
    }
    Ok(())
}
