//! Where do keys come from? Never from the configuration file itself.

use crate::secrets::know;
use secrecy::SecretString;
use std::{env, ffi::OsString, fs, path::Path};

/// The most that is read of a file of keys: more is the wrong file.
const LIMIT: u64 = 64 << 10;

/// What a variable holds; if it is not set, what is in the file that `NAME_FILE` names.
pub(crate) fn variable(name: &str) -> Result<SecretString, String> {
    let file = format!("{name}_FILE");
    match (env::var(name), env::var_os(&file)) {
        (Ok(value), _) => Ok(secret(value)),
        (Err(env::VarError::NotUnicode(_)), _) => Err(format!("the environment variable {name} is no UTF-8")),
        (Err(env::VarError::NotPresent), Some(path)) => content(Path::new(&path)),
        (Err(env::VarError::NotPresent), None) => {
            Err(format!("the environment variable {name} is not set, and neither is {file}; set one of them"))
        }
    }
}

/// What is in a file, without the white space around it.
pub(crate) fn content(path: &Path) -> Result<SecretString, String> {
    let told = |error: &dyn std::fmt::Display| format!("the key file {} cannot be read: {error}", path.display());
    let size = fs::metadata(path).map_err(|error| told(&error))?.len();
    if size > LIMIT {
        return Err(told(&format!("it is {size} bytes long, and a key has at most {LIMIT}")));
    }
    let text = fs::read_to_string(path).map_err(|error| told(&error))?;
    Ok(secret(text.trim().to_owned()))
}

/// From here on it is in no line of the log.
fn secret(text: String) -> SecretString {
    let secret = SecretString::from(text);
    know(&secret);
    secret
}

/// What one of two settings names; none if neither is there.
pub(crate) fn either(env: Option<&str>, file: Option<&Path>, setting: &str) -> Result<Option<SecretString>, String> {
    match (env, file) {
        (None, None) => Ok(None),
        (Some(name), None) => variable(name).map(Some),
        (None, Some(path)) => content(path).map(Some),
        (Some(_), Some(_)) => Err(format!("{setting}_env and {setting}_file are both set; keep one")),
    }
}

/// Variables to hand on to a program: by their names, or from the files that `NAME_FILE` names.
pub(crate) fn handed_on(names: &[String]) -> Result<Vec<(OsString, SecretString)>, String> {
    names.iter().map(|name| Ok((name.into(), variable(name)?))).collect()
}
