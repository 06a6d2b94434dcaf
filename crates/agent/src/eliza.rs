//! What does the built-in agent say, and what does it remember?
//!
//! A conversationalist after Weizenbaum's ELIZA (1966): patterns take a sentence apart, answers put its pieces together
//! again with the pronouns turned round. Pure: [`answer`] takes a [`Mind`] and some text, and gives words and a
//! [`Trace`]; a mind is the fold of the traces before. Running it is [`builtin`](crate::builtin)'s business.

mod script;

use script::RULES;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};

/// Things said earlier that may be come back to.
const NOTES: usize = 8;
/// Words of one clause that are looked at; bounds the work of matching.
const WORDS: usize = 48;

/// What the agent knows of a conversation: the fold of its [`Trace`]s.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mind {
    name: Option<String>,
    notes: VecDeque<String>,
    uses: BTreeMap<String, usize>,
}

/// What one answer leaves behind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// The rule that answered; its next answer will be another one.
    pub rule: String,
    /// Something to come back to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// What the other is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whether the oldest note was come back to.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub recalled: bool,
}

impl Mind {
    /// Takes in what an answer left behind.
    pub fn learn(&mut self, trace: &Trace) {
        if let Some(rule) = RULES.iter().find(|rule| rule.name == trace.rule) {
            *self.uses.entry(rule.name.to_owned()).or_default() += 1;
        }
        if trace.recalled {
            self.notes.pop_front();
        }
        if let Some(note) = &trace.note {
            self.notes.retain(|known| known != note);
            self.notes.push_back(note.clone());
            if self.notes.len() > NOTES {
                self.notes.pop_front();
            }
        }
        if trace.name.is_some() {
            self.name.clone_from(&trace.name);
        }
    }
}

/// What to say to `text`, and what that leaves behind. The same mind and text always give the same answer.
pub fn answer(mind: &Mind, text: &str) -> (String, Trace) {
    let text = text.replace('’', "'");
    let clauses = clauses(&text);
    let (rule, pieces) = RULES
        .iter()
        .filter(|rule| rule.applies(mind))
        .find_map(|rule| clauses.iter().find_map(|clause| rule.take_apart(clause)).map(|pieces| (rule, pieces)))
        .expect("the last rule matches everything");
    let turn = mind.uses.get(rule.name).copied().unwrap_or_default();
    let words = fill(rule.answers[turn % rule.answers.len()], &pieces, mind);
    let mut trace = Trace { rule: rule.name.to_owned(), ..Trace::default() };
    match rule.leaves {
        Leaves::Nothing | Leaves::KnowingTheName => {}
        Leaves::Note(template) => trace.note = Some(fill(template, &pieces, mind)),
        Leaves::Name => trace.name = pieces.last().map(|piece| title(piece)),
        Leaves::Recalled => trace.recalled = true,
    }
    (words, trace)
}

struct Rule {
    name: &'static str,
    /// `*` is any words, `/a/b/` one of these; both are pieces, numbered from 1. A lone word is itself.
    patterns: &'static [&'static str],
    /// Taken in turn. `{1}` is a piece with the pronouns turned round, `{name}` and `{note}` come from the mind.
    answers: &'static [&'static str],
    leaves: Leaves,
}

/// What a rule leaves in the mind, or needs to find there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leaves {
    Nothing,
    /// Something to come back to.
    Note(&'static str),
    /// The last piece is what the other is called.
    Name,
    /// Applies only where the name is known.
    KnowingTheName,
    /// Comes back to the oldest note; applies only where there is one.
    Recalled,
}

impl Rule {
    fn applies(&self, mind: &Mind) -> bool {
        match self.leaves {
            Leaves::Nothing | Leaves::Note(_) | Leaves::Name => true,
            Leaves::KnowingTheName => mind.name.is_some(),
            Leaves::Recalled => !mind.notes.is_empty(),
        }
    }

    fn take_apart(&self, clause: &[&str]) -> Option<Vec<String>> {
        self.patterns.iter().find_map(|pattern| {
            let pattern: Vec<&str> = pattern.split(' ').collect();
            let mut pieces = Vec::new();
            matches(&pattern, clause, &mut pieces).then(|| pieces.iter().map(|piece| reflect(piece)).collect())
        })
    }
}

/// Whether the words fit the pattern; the pieces are then in `pieces`. A `*` takes as few words as it can.
fn matches<'w>(pattern: &[&str], words: &'w [&'w str], pieces: &mut Vec<&'w [&'w str]>) -> bool {
    let Some((first, rest)) = pattern.split_first() else { return words.is_empty() };
    if *first == "*" {
        return (0..=words.len()).any(|taken| {
            pieces.push(&words[..taken]);
            let fits = matches(rest, &words[taken..], pieces);
            if !fits {
                pieces.pop();
            }
            fits
        });
    }
    let Some((word, others)) = words.split_first() else { return false };
    let word = word.to_lowercase();
    if first.len() > 1 && first.starts_with('/') {
        if !first.split('/').any(|choice| choice == word) {
            return false;
        }
        pieces.push(&words[..1]);
        let fits = matches(rest, others, pieces);
        if !fits {
            pieces.pop();
        }
        return fits;
    }
    *first == word && matches(rest, others, pieces)
}

/// The clauses of a text, each as its words without punctuation. Never empty, so that every text has an answer.
fn clauses(text: &str) -> Vec<Vec<&str>> {
    let mut clauses: Vec<Vec<&str>> = text
        .split(['.', '!', '?', ';', ',', ':', '\n', '(', ')'])
        .map(|clause| {
            let trim = |word| str::trim_matches(word, |c: char| !c.is_alphanumeric());
            clause.split_whitespace().map(trim).filter(|word| !word.is_empty()).take(WORDS).collect()
        })
        .filter(|clause: &Vec<&str>| !clause.is_empty())
        .take(WORDS)
        .collect();
    if clauses.is_empty() {
        clauses.push(Vec::new());
    }
    clauses
}

/// The words as the other person would say them: my becomes your, you becomes I.
fn reflect(words: &[&str]) -> String {
    let last = words.len().saturating_sub(1);
    let mut reflected: Vec<&str> = Vec::with_capacity(words.len());
    let lower: Vec<String> = words.iter().map(|word| word.to_lowercase()).collect();
    for (at, word) in lower.iter().enumerate() {
        let before = at.checked_sub(1).map(|at| lower[at].as_str());
        reflected.push(match (word.as_str(), before) {
            ("i" | "me", _) | ("we", None) => "you",
            ("my", _) => "your",
            ("mine", _) => "yours",
            ("myself", _) => "yourself",
            ("i'm", _) => "you are",
            ("i've", _) => "you have",
            ("i'll", _) => "you will",
            ("i'd", _) => "you would",
            ("am", _) | ("are", Some("i")) => "are",
            ("was", Some("i")) => "were",
            ("your", _) => "my",
            ("yours", _) => "mine",
            ("yourself", _) => "myself",
            ("you're", _) => "I am",
            ("you've", _) => "I have",
            ("you'll", _) => "I will",
            ("are", Some("you")) => "am",
            ("were", Some("you")) => "was",
            // "you" is both: at the end of what was said it is nearly always the object.
            ("you", _) if at == last && at > 0 => "me",
            ("you", _) => "I",
            _ => words[at],
        });
    }
    reflected.join(" ")
}

/// The template with its pieces put in, beginning with a capital.
fn fill(template: &str, pieces: &[String], mind: &Mind) -> String {
    let mut filled = template.to_owned();
    for (at, piece) in pieces.iter().enumerate() {
        filled = filled.replace(&format!("{{{}}}", at + 1), piece);
    }
    filled = filled.replace("{name}", mind.name.as_deref().unwrap_or("friend"));
    filled = filled.replace("{note}", mind.notes.front().map_or("something", String::as_str));
    // An empty piece leaves two spaces, or one before the full stop.
    let words: Vec<&str> = filled.split_whitespace().collect();
    let mut tidy = words.join(" ");
    for mark in ["?", ".", "!", ","] {
        tidy = tidy.replace(&format!(" {mark}"), mark);
    }
    tidy
}

/// The text with capitals where names have them.
fn title(text: &str) -> String {
    let capital = |word: &str| {
        let mut letters = word.chars();
        letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
    };
    text.split_whitespace().take(3).map(capital).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays a conversation; each line must be answered as written.
    fn check(conversation: &[(&str, &str)]) {
        let mut mind = Mind::default();
        for (said, expected) in conversation {
            let (words, trace) = answer(&mind, said);
            assert_eq!(words, *expected, "to {said:?}, by rule {}", trace.rule);
            mind.learn(&trace);
        }
    }

    #[test]
    fn sentences_are_taken_apart_and_put_together_with_pronouns_turned_round() {
        for (said, expected) in [
            ("Hello there!", "Hello. What would you like to talk about?"),
            ("I feel that you ignore me", "When do you feel that I ignore you?"),
            ("Well, I want my money back.", "What would it mean to you to get your money back?"),
            ("I'm working on my thesis", "How long have you been working on your thesis?"),
            ("I am so tired of meetings", "I am sorry to hear that you are tired. Since when?"),
            ("you are my best friend", "What makes you think that I am your best friend?"),
            ("You are slow", "What makes you think that I am slow?"),
            ("Can you help me with myself?", "Would you like me to be able to help you with yourself?"),
            ("I can’t sleep", "What would happen if you could sleep?"),
            ("everybody laughs at me", "Really everybody?"),
            (
                "Our server crashed again",
                "Crashes do not frighten me. Say /slow 5, kill me with -9 half-way, start me again, and hear how I go on.",
            ),
            ("", "Tell me more."),
            ("…?!", "Tell me more."),
            ("42", "Tell me more."),
        ] {
            check(&[(said, expected)]);
        }
    }

    #[test]
    fn the_same_words_do_not_get_the_same_answer_twice_in_a_row() {
        check(&[
            ("yes", "I see. Go on."),
            ("yes", "You seem quite sure."),
            ("because of the rain", "Is that the real reason?"),
            ("yes", "Why so?"),
            ("yes", "I see. Go on."),
        ]);
    }

    #[test]
    fn something_said_earlier_is_come_back_to_once() {
        check(&[
            ("My mother is coming on Sunday.", "Tell me more about your mother."),
            ("I feel nervous", "When do you feel nervous?"),
            (
                "On Sundays",
                "Let us go back a little. Earlier you said: your mother is coming on Sunday. Has that to do with this?",
            ),
            ("So it is", "Before, you told me: you feel nervous. How is that now?"),
            ("Fine", "Tell me more."),
        ]);
    }

    #[test]
    fn a_name_is_learnt_and_known_afterwards() {
        check(&[
            ("What is my name?", "You have not told me yet. What shall I call you?"),
            ("my name is ada lovelace", "Pleased to meet you, ada lovelace. What is on your mind?"),
            ("What's my name?", "You are Ada Lovelace. It is in the journal, so a crash would not make me forget it."),
        ]);
    }

    #[test]
    fn the_table_is_sound() {
        assert!(RULES.last().is_some_and(|rule| rule.patterns == ["*"] && rule.leaves == Leaves::Nothing));
        for rule in RULES {
            assert!(!rule.answers.is_empty() && !rule.patterns.is_empty(), "{}", rule.name);
            assert_eq!(RULES.iter().filter(|other| other.name == rule.name).count(), 1, "{}", rule.name);
            for pattern in rule.patterns {
                let pieces = pattern.split(' ').filter(|word| *word == "*" || word.starts_with('/')).count();
                let note = if let Leaves::Note(note) = rule.leaves { note } else { "" };
                for text in rule.answers.iter().chain([&note]) {
                    let highest = (1..10).rev().find(|n| text.contains(&format!("{{{n}}}"))).unwrap_or(0);
                    assert!(highest <= pieces, "{}: {text:?} wants a piece that {pattern:?} has not", rule.name);
                }
            }
        }
    }

    #[test]
    fn long_and_odd_texts_are_answered_in_bounded_time() {
        for text in ["i ".repeat(100_000), "my , ".repeat(100_000), "🦀".repeat(10_000), "\u{0}".repeat(10)] {
            let (words, _) = answer(&Mind::default(), &text);
            assert!(!words.is_empty() && words.len() < 4_000);
        }
    }

    #[test]
    fn a_mind_stays_small() {
        let mut mind = Mind::default();
        for n in 0..1_000 {
            mind.learn(&Trace { rule: format!("unknown{n}"), note: Some(n.to_string()), ..Trace::default() });
        }
        assert_eq!((mind.notes.len(), mind.uses.len()), (NOTES, 0));
    }
}
