//! How is a policy read from a file? Parsed here, so that the core knows no TOML.

use windlass_core::{InvalidPolicy, PolicyTable};

/// Reads and checks a policy in TOML.
///
/// ```
/// let table = windlass_runtime::policy_from_toml(r#"
///     version = 7
///     [[row]]
///     kind = "external_event"
///     decision = { deliver = "next_run", merge = { debounce = { window_ms = 500, max_ms = 5000 } } }
/// "#).unwrap();
/// assert_eq!(table.version, 7);
/// ```
///
/// # Errors
/// [`PolicyFileError`] says where in the text, or in which row and field, the mistake is.
pub fn policy_from_toml(text: &str) -> Result<PolicyTable, PolicyFileError> {
    let table: PolicyTable = toml::from_str(text).map_err(|error| PolicyFileError::Syntax(error.to_string()))?;
    table.validate()?;
    Ok(table)
}

/// Why a policy file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyFileError {
    /// It is no TOML, or has a field or a value that policies do not have. The text shows the line.
    #[error("{0}")]
    Syntax(String),
    /// It says something that cannot be meant.
    #[error(transparent)]
    Invalid(#[from] InvalidPolicy),
}
