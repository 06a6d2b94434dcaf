//! Which secrets does this process know, and how are they kept out of its log?
//!
//! Every key that is read for an agent is known from then on, for the life of the process: what a provider, a program or
//! a panic quotes later may be an old one. [`hidden`] takes them out of a text, together with whatever stands where
//! secrets stand: after `Bearer`, in a parameter or field that is called `token`, and in the form of a token of ours.

use aho_corasick::{AhoCorasick, AhoCorasickBuilder, Anchored, Input, MatchKind};
use secrecy::{ExposeSecret, SecretString};
use std::{
    borrow::Cow,
    ops::Range,
    sync::{LazyLock, PoisonError, RwLock},
};

/// What stands in the place of a secret.
const HIDDEN: &str = "***";
/// Shorter ones are no secrets, but would be found in half of all words.
const SHORTEST: usize = 8;

/// The secrets that are known, and what finds them.
struct Known {
    secrets: Vec<String>,
    finder: Option<AhoCorasick>,
}

static KNOWN: RwLock<Known> = RwLock::new(Known { secrets: Vec::new(), finder: None });

/// From now on this is hidden wherever it appears, line by line, also as JSON and URLs write it. A line of less than
/// eight bytes is not: too much else would be hidden with it.
pub fn know(secret: &SecretString) {
    let json = |text: &str| {
        let quoted = serde_json::Value::from(text).to_string();
        quoted[1..quoted.len() - 1].to_owned()
    };
    // Twice: what somebody quoted stands quoted in a line of the log.
    let forms = |line: &str| [line.to_owned(), json(line), json(&json(line)), percent(line)];
    let lines = secret.expose_secret().lines().map(str::trim).filter(|line| line.len() >= SHORTEST);
    let forms: Vec<String> = lines.flat_map(forms).collect();
    let known = KNOWN.read().unwrap_or_else(PoisonError::into_inner);
    if forms.iter().all(|form| known.secrets.binary_search(form).is_ok()) {
        return;
    }
    drop(known);
    let mut known = KNOWN.write().unwrap_or_else(PoisonError::into_inner);
    known.secrets.extend(forms);
    known.secrets.sort_unstable();
    known.secrets.dedup();
    // A set that no automaton can be made of would be larger than memory.
    known.finder = finder(&known.secrets).ok();
}

/// As `application/x-www-form-urlencoded` and most URLs write it.
fn percent(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(byte).collect()
}

fn finder(patterns: &[impl AsRef<[u8]>]) -> Result<AhoCorasick, aho_corasick::BuildError> {
    AhoCorasickBuilder::new().match_kind(MatchKind::LeftmostLongest).ascii_case_insensitive(true).build(patterns)
}

/// The text without secrets.
///
/// ```
/// use windlass_agent::secrets::{hidden, know};
/// know(&"a-key-that-nobody-may-see".into());
/// assert_eq!(hidden("401: a-key-that-nobody-may-see is wrong"), "401: *** is wrong");
/// assert_eq!(hidden("GET /hook?token=abc&page=2"), "GET /hook?token=***&page=2");
/// assert_eq!(hidden("nothing to hide"), "nothing to hide");
/// ```
pub fn hidden(text: &str) -> Cow<'_, str> {
    let known = KNOWN.read().unwrap_or_else(PoisonError::into_inner);
    let without = match &known.finder {
        Some(finder) => replaced(Cow::Borrowed(text), finder, |_, found| Some(found)),
        None => Cow::Borrowed(text),
    };
    drop(known);
    replaced(without, &MARKS, |text, mark| {
        let value = secret_at(text, mark.clone());
        (value.len() >= least(&text[mark])).then_some(value)
    })
}

/// The text with the places that `hide` names replaced.
fn replaced<'t>(
    text: Cow<'t, str>,
    finder: &AhoCorasick,
    hide: impl Fn(&str, Range<usize>) -> Option<Range<usize>>,
) -> Cow<'t, str> {
    let (mut without, mut done, mut at) = (String::new(), 0, 0);
    while let Some(found) = finder.find(Input::new(&*text).span(at..text.len()).anchored(Anchored::No)) {
        at = found.end();
        if let Some(secret) = hide(&text, found.range()) {
            without.push_str(&text[done..secret.start]);
            without.push_str(HIDDEN);
            (done, at) = (secret.end, secret.end);
        }
    }
    if done == 0 {
        return text;
    }
    without.push_str(&text[done..]);
    without.into()
}

/// The names of parameters and fields whose values are secrets.
const NAMES: [&str; 10] =
    ["token", "secret", "password", "passwd", "api_key", "api-key", "apikey", "authorization", "cookie", "signature"];
/// What may stand between a name and its value: in a query or a log of text, also in colour, and in JSON, also within a
/// JSON string.
const BETWEEN: [&str; 8] = [
    "=",
    "=\"",
    "\u{1b}[0m\u{1b}[2m=\u{1b}[0m",
    "\u{1b}[0m\u{1b}[2m=\u{1b}[0m\"",
    "\":\"",
    "\": \"",
    "\\\":\\\"",
    "\\\": \\\"",
];
/// What a secret follows that has no name: schemes of `Authorization`, and tokens of this server.
const SCHEMES: [&str; 3] = ["bearer ", "basic ", "wl_"];

static MARKS: LazyLock<AhoCorasick> = LazyLock::new(|| {
    let named = NAMES.iter().flat_map(|name| BETWEEN.iter().map(move |between| format!("{name}{between}")));
    // `key` alone is the name of much that is no secret, but for the parameter of a URL.
    let keys = ["?key=", "&key="].map(str::to_owned);
    let marks: Vec<String> = named.chain(keys).chain(SCHEMES.map(str::to_owned)).collect();
    finder(&marks).expect("a small set that is always the same")
});

/// How long a value must be to be taken for a secret after this mark: a word may follow `bearer`.
fn least(mark: &str) -> usize {
    if SCHEMES.iter().any(|scheme| scheme.eq_ignore_ascii_case(mark)) { 16 } else { 1 }
}

/// The secret behind a mark: all that is quoted; or a word, and the one after it if the first is a scheme.
fn secret_at(text: &str, mark: Range<usize>) -> Range<usize> {
    let (said, start) = (&text[mark.clone()], mark.end);
    let quote = ["\\\"", "\""].into_iter().find(|quote| said.ends_with(quote));
    if let Some(quote) = quote {
        let mut quotes = text[start..].match_indices(quote).map(|(at, _)| start + at);
        // One that is escaped ends nothing; a text that is cut has no end.
        let end = quotes.find(|end| quote.len() > 1 || !text[..*end].ends_with('\\'));
        return start..end.unwrap_or(text.len());
    }
    let word = value_at(text, start);
    let is_scheme = ["bearer", "basic"].iter().any(|scheme| text[word.clone()].eq_ignore_ascii_case(scheme));
    if is_scheme && text[word.end..].starts_with(' ') { start..value_at(text, word.end + 1).end } else { word }
}

/// The value that begins here: as far as no character ends it that could not stand in a key.
fn value_at(text: &str, start: usize) -> Range<usize> {
    let ends = |c: char| !(c.is_ascii_alphanumeric() || "-._~+/=%:!$*@".contains(c));
    start..text[start..].find(ends).map_or(text.len(), |length| start + length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_hidden_in_every_form_and_what_stands_for_a_secret_too() {
        know(&"sk-proj/Zm9v+\"YmFy\"".into());
        know(&"short".into());
        for (said, without) in [
            ("the key sk-proj/Zm9v+\"YmFy\" is wrong", "the key *** is wrong"),
            (r#"{"error":"sk-proj/Zm9v+\"YmFy\" is wrong"}"#, r#"{"error":"*** is wrong"}"#),
            ("GET /?k=sk-proj%2FZm9v%2B%22YmFy%22 failed", "GET /?k=*** failed"),
            ("SK-PROJ/ZM9V+\"YMFY\"sk-proj/Zm9v+\"YmFy\"", "******"),
            ("a short one is a word", "a short one is a word"),
            ("https://h/cb?access_token=abc.def&page=2", "https://h/cb?access_token=***&page=2"),
            ("https://h/cb?key=abc#top", "https://h/cb?key=***#top"),
            ("effect_key=abc", "effect_key=abc"),
            ("max_tokens=5", "max_tokens=5"),
            ("Authorization: Bearer abcdefghijklmnop.q", "Authorization: Bearer ***"),
            ("the bearer of this", "the bearer of this"),
            (r#"{"api_key": "abc", "n": 1}"#, r#"{"api_key": "***", "n": 1}"#),
            (r#""body":"{\"password\":\"abc\"}""#, r#""body":"{\"password\":\"***\"}""#),
            ("wl_0123456789abcdef_c2VjcmV0c2VjcmV0", "wl_***"),
            (r#"{"authorization": "Bearer abc.def", "n": 1}"#, r#"{"authorization": "***", "n": 1}"#),
            (r#"{\"authorization\":\"Basic YTpi\"}"#, r#"{\"authorization\":\"***\"}"#),
            (r#"{"cookie": "a=1; sid=abc", "n": 1}"#, r#"{"cookie": "***", "n": 1}"#),
            (r#"password="two words, \"quoted\"" n=1"#, r#"password="***" n=1"#),
            (r#"{"secret": "cut wh"#, r#"{"secret": "***"#),
            ("authorization=Bearer abc.def n=1", "authorization=*** n=1"),
            ("ä token=ß", "ä token=ß"),
            ("token=", "token="),
        ] {
            assert_eq!(hidden(said), without, "{said}");
        }
    }
}
