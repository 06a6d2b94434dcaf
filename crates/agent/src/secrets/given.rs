//! What is never shown of what others say: the secrets that they were given.

use super::known;
use secrecy::{ExposeSecret, SecretString};
use windlass_runtime::CoreExecutorError;

/// The least that is taken for a secret, or for the beginning of one, in bytes. What is shorter is in every text.
const TELLING: usize = 4;

/// A text without these secrets, also without what an excerpt that ends within one has left of it. Those of several lines
/// are hidden line by line, as programs say them.
pub(crate) fn hidden(text: &str, secrets: &[SecretString]) -> String {
    let mut text = known::hidden(text).into_owned();
    for secret in secrets.iter().flat_map(|secret| secret.expose_secret().lines()).map(str::trim) {
        if secret.len() < TELLING {
            continue;
        }
        text = text.replace(secret, "***");
        if text.contains('…') {
            // The longest first. None of them is longer than the text.
            let ends = secret.char_indices().map(|(end, _)| end).filter(|end| (TELLING..text.len()).contains(end));
            for end in ends.collect::<Vec<_>>().into_iter().rev() {
                text = text.replace(&format!("{}…", &secret[..end]), "***…");
            }
        }
    }
    text
}

/// What there is of a text that was cut off, so that [`hidden`] knows its end for the beginning of something.
pub(crate) fn cut_off(bytes: &[u8]) -> String {
    // Half a character would hide what stands before it.
    let text = String::from_utf8_lossy(bytes);
    format!("{}…", text.trim_end_matches(char::REPLACEMENT_CHARACTER).trim_end())
}

/// An error without these secrets.
pub(crate) fn hidden_in(error: CoreExecutorError, secrets: &[SecretString]) -> CoreExecutorError {
    match error {
        CoreExecutorError::Retryable { error, retry_after } => {
            CoreExecutorError::Retryable { error: hidden(&error, secrets), retry_after }
        }
        CoreExecutorError::Final { error } => CoreExecutorError::Final { error: hidden(&error, secrets) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_secrets_nor_the_beginnings_of_them_are_left() {
        let secrets = ["sk-täglich-42", "abc", "", "first line\nsecond line"].map(SecretString::from);
        for (said, expected) in [
            ("nothing of it", "nothing of it"),
            ("Bearer sk-täglich-42, sk-täglich-42.", "Bearer ***, ***."),
            ("key sk-täg…", "key ***…"),
            ("key sk-täglich-4…; try again", "key ***…; try again"),
            ("sk-…", "sk-…"),
            ("abc", "abc"),
            ("it reads second line\nand", "it reads ***\nand"),
        ] {
            assert_eq!(hidden(said, &secrets), expected, "{said}");
        }
        let key = "key sk-täg".as_bytes();
        let cut = key.iter().enumerate().skip("key sk-t".len()).map(|(end, _)| hidden(&cut_off(&key[..end]), &secrets));
        assert_eq!(cut.collect::<Vec<_>>(), ["key ***…"; 3]);
    }
}
