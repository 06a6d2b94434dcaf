//! What does the built-in agent say, and what does it remember?
//!
//! A conversationalist after Weizenbaum's ELIZA (1966): patterns take a sentence apart, answers put its pieces together
//! again with the pronouns turned round. Pure: [`answer`] takes a [`Mind`] and some text, and gives words and a
//! [`Trace`]; a mind is the fold of the traces before. Running it is [`builtin`](crate::builtin)'s business.

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

/// The first rule that fits any clause answers; so what is more telling stands higher.
const RULES: &[Rule] = &[
    Rule {
        name: "name_known",
        patterns: &["* what is my name *", "* what's my name *", "* who am i *", "* remember my name *"],
        answers: &[
            "You are {name}. It is in the journal, so a crash would not make me forget it.",
            "{name}, of course.",
        ],
        leaves: Leaves::KnowingTheName,
    },
    Rule {
        name: "name_unknown",
        patterns: &["* what is my name *", "* what's my name *", "* who am i *", "* remember my name *"],
        answers: &["You have not told me yet. What shall I call you?", "I do not know your name. Tell me."],
        leaves: Leaves::Nothing,
    },
    Rule {
        name: "name",
        patterns: &["* my name is *", "* my name's *", "* call me *"],
        answers: &["Pleased to meet you, {2}. What is on your mind?", "Very well, {2} it is. What brings you here?"],
        leaves: Leaves::Name,
    },
    Rule {
        name: "who_are_you",
        patterns: &[
            "* who are you *",
            "* what are you *",
            "* your name *",
            "* are you eliza *",
            "* are you human *",
            "* are you real *",
        ],
        answers: &[
            "I am the built-in agent of Windlass: a few rules after ELIZA, and no network. Say /help for what I can show you. But we were talking about you.",
            "Only a table of patterns, with a durable journal under it. Does that disappoint you?",
            "Someone who listens and never loses a sentence. Why do you ask?",
        ],
        leaves: Leaves::Nothing,
    },
    Rule {
        name: "what_can_you_do",
        patterns: &["* what can you do *", "* how do you work *", "help", "help me", "* help with *"],
        answers: &["I can talk with you, and I can show you the runtime: /help lists how. What would help you most?"],
        leaves: Leaves::Nothing,
    },
    Rule {
        name: "recall_asked",
        patterns: &["* what did i say *", "* what did i tell you *", "* do you remember *", "* what do you remember *"],
        answers: &["You said {note}. Shall we go on from there?", "I have it in my journal: you said {note}."],
        leaves: Leaves::Recalled,
    },
    Rule {
        name: "crash",
        patterns: &["* /crash/crashed/crashes/kill/killed/sigkill/restart/outage/downtime/ *"],
        answers: &[
            "Crashes do not frighten me. Say /slow 5, kill me with -9 half-way, start me again, and hear how I go on.",
            "If the process died in the middle of this answer, the next one would finish it. What have you lost to a {2}?",
            "What does a {2} cost you?",
        ],
        leaves: Leaves::Nothing,
    },
    Rule {
        name: "sorry",
        patterns: &["* /sorry/apologise/apologize/apologies/ *"],
        answers: &[
            "There is nothing to be sorry for.",
            "No need. What did you feel when you said that?",
            "Do you often find yourself apologising?",
        ],
        leaves: Leaves::Nothing,
    },
    Rule {
        name: "dream",
        patterns: &["* i dreamed *", "* i dreamt *", "* i had a dream about *", "* i dream of *", "* i dream about *"],
        answers: &[
            "{2}: have you imagined that while awake, too?",
            "What does that dream tell you?",
            "Who else was in the dream?",
        ],
        leaves: Leaves::Note("you dreamed {2}"),
    },
    Rule {
        name: "family",
        patterns: &[
            "* my /mother/father/mom/mum/dad/sister/brother/wife/husband/son/daughter/partner/friend/family/parents/children/ *",
        ],
        answers: &[
            "Tell me more about your {2}.",
            "Your {2} {3}? How is that for you?",
            "What comes to mind first when you think of your {2}?",
            "Has it always been so with your {2}?",
        ],
        leaves: Leaves::Note("your {2} {3}"),
    },
    Rule {
        name: "work",
        patterns: &["* my /boss/job/work/team/colleague/colleagues/company/manager/project/code/deadline/deadlines/ *"],
        answers: &[
            "How long has that been so with your {2}?",
            "What would your {2} look like if it went well?",
            "Is it the {2} itself, or what it takes from you?",
            "Your {2} {3}: what have you tried so far?",
        ],
        leaves: Leaves::Note("your {2} {3}"),
    },
    Rule {
        name: "feel",
        patterns: &["* i feel *", "* i am feeling *", "* i'm feeling *", "* i felt *"],
        answers: &[
            "When do you feel {2}?",
            "Do you often feel {2}?",
            "What usually comes before you feel {2}?",
            "And if you did not feel {2}, what would be different?",
        ],
        leaves: Leaves::Note("you feel {2}"),
    },
    Rule {
        name: "need",
        patterns: &["* i want *", "* i need *", "* i would like *", "* i'd like *", "* i wish *"],
        answers: &[
            "What would it mean to you to get {2}?",
            "Suppose you had {2} tomorrow. What then?",
            "Why {2}, and why now?",
            "What keeps you from {2}?",
        ],
        leaves: Leaves::Note("you want {2}"),
    },
    Rule {
        name: "cannot",
        patterns: &["* i can't *", "* i cannot *", "* i can not *", "* i am not able to *"],
        answers: &[
            "What would happen if you could {2}?",
            "Have you really tried to {2}?",
            "Who says that you cannot {2}?",
        ],
        leaves: Leaves::Note("you cannot {2}"),
    },
    Rule {
        name: "unhappy",
        patterns: &[
            "* i am * /sad/unhappy/depressed/sick/tired/afraid/angry/lonely/anxious/stuck/worried/ *",
            "* i'm * /sad/unhappy/depressed/sick/tired/afraid/angry/lonely/anxious/stuck/worried/ *",
        ],
        answers: &[
            "I am sorry to hear that you are {3}. Since when?",
            "What makes you {3}?",
            "Does talking about it make you less {3}?",
        ],
        leaves: Leaves::Note("you are {3} {4}"),
    },
    Rule {
        name: "happy",
        patterns: &[
            "* i am * /happy/glad/excited/proud/better/relieved/ *",
            "* i'm * /happy/glad/excited/proud/better/relieved/ *",
        ],
        answers: &[
            "That is good to hear. What made you {3}?",
            "How does it show when you are {3}?",
            "May it last. What would make you even more {3}?",
        ],
        leaves: Leaves::Note("you are {3} {4}"),
    },
    Rule {
        name: "i_am",
        patterns: &["* i am *", "* i'm *"],
        answers: &[
            "How long have you been {2}?",
            "How do you feel about being {2}?",
            "Do you like being {2}?",
            "Would others say that you are {2}?",
        ],
        leaves: Leaves::Note("you are {2}"),
    },
    Rule {
        name: "i_remember",
        patterns: &["* i remember *", "* i forgot *", "* i forget *"],
        answers: &["Do you often think of {2}?", "What else belongs to {2}?", "Why does {2} come to mind just now?"],
        leaves: Leaves::Note("you remember {2}"),
    },
    Rule {
        name: "i_you",
        patterns: &["* i /love/like/hate/trust/miss/ you *"],
        answers: &[
            "What is it in me that you {2}?",
            "Do you {2} other programs, too?",
            "It is in the journal now, for good.",
        ],
        leaves: Leaves::Nothing,
    },
    Rule {
        name: "i_like",
        patterns: &["* i /love/like/hate/enjoy/miss/ *"],
        answers: &["What is it about {3}?", "Since when do you {2} {3}?", "Who else do you know that would {2} {3}?"],
        leaves: Leaves::Note("you {2} {3}"),
    },
    Rule {
        name: "i_think",
        patterns: &["* i /think/believe/guess/suppose/ *"],
        answers: &["Do you really {2} so?", "But you are not sure that {3}?", "What makes you {2} that {3}?"],
        leaves: Leaves::Nothing,
    },
    Rule {
        name: "you_are",
        patterns: &["* you are *", "* you're *"],
        answers: &[
            "What makes you think that I am {2}?",
            "Would you rather I were not {2}?",
            "Perhaps you would like to be {2} yourself?",
        ],
        leaves: Leaves::Nothing,
    },
    Rule {
        name: "can_you",
        patterns: &["can you *", "could you *", "would you *", "will you *"],
        answers: &[
            "Would you like me to be able to {1}?",
            "What would it change if I could {1}?",
            "Perhaps you would rather {1} yourself?",
        ],
        leaves: Leaves::Nothing,
    },
    Rule {
        name: "do_you",
        patterns: &["do you *", "did you *", "have you *"],
        answers: &[
            "We were talking about you, not about me.",
            "What if I said yes?",
            "Why does it matter to you whether I {1}?",
        ],
        leaves: Leaves::Nothing,
    },
    Rule {
        name: "why_not_you",
        patterns: &["* why don't you *", "* why do you not *", "* why can't you *"],
        answers: &["Should I {2}?", "Perhaps I will {2} in good time."],
        leaves: Leaves::Nothing,
    },
    Rule {
        name: "why_not_i",
        patterns: &["* why can't i *", "* why don't i *", "* why am i *"],
        answers: &[
            "What answer would please you most?",
            "Have you asked yourself why {2}?",
            "When did you first notice it?",
        ],
        leaves: Leaves::Nothing,
    },
    Rule {
        name: "because",
        patterns: &["* because *"],
        answers: &[
            "Is that the real reason?",
            "What other reasons could there be?",
            "Does that reason explain anything else?",
        ],
        leaves: Leaves::Nothing,
    },
    Rule {
        name: "everyone",
        patterns: &["* /everyone/everybody/nobody/noone/always/never/ *"],
        answers: &[
            "Really {2}?",
            "Can you think of a particular case?",
            "Who, for example?",
            "{2} is a strong word. When was the last time?",
        ],
        leaves: Leaves::Nothing,
    },
    Rule {
        name: "perhaps",
        patterns: &["* /maybe/perhaps/possibly/probably/ *"],
        answers: &["You do not sound certain.", "What would make you sure?", "Which way do you lean?"],
        leaves: Leaves::Nothing,
    },
    Rule {
        name: "my",
        patterns: &["* my *"],
        answers: &["Your {2}?", "Why do you say that about your {2}?", "What else is there to your {2}?"],
        leaves: Leaves::Note("your {2}"),
    },
    Rule {
        name: "hello",
        patterns: &["/hello/hi/hey/greetings/ *", "good /morning/evening/afternoon/ *"],
        answers: &[
            "Hello. What would you like to talk about?",
            "Good to hear from you. What is on your mind?",
            "Hello again. Where were we?",
        ],
        leaves: Leaves::Nothing,
    },
    Rule {
        name: "bye",
        patterns: &["/bye/goodbye/farewell/ *", "good night *", "see you *"],
        answers: &[
            "Goodbye. I keep everything until you come back.",
            "Until next time. Nothing you said will be lost.",
        ],
        leaves: Leaves::Nothing,
    },
    Rule {
        name: "thanks",
        patterns: &["* /thanks/thank/thx/ *"],
        answers: &["You are welcome. What next?", "Gladly.", "It is you who did the work."],
        leaves: Leaves::Nothing,
    },
    Rule {
        name: "yes",
        patterns: &["/yes/yeah/yep/sure/indeed/ *", "of course *"],
        answers: &["I see. Go on.", "You seem quite sure.", "Why so?"],
        leaves: Leaves::Nothing,
    },
    Rule {
        name: "no",
        patterns: &["/no/nope/not/ *"],
        answers: &["Why not?", "Are you saying no just to be negative?", "What would have to change for a yes?"],
        leaves: Leaves::Nothing,
    },
    Rule {
        name: "question",
        patterns: &["/what/how/when/where/who/why/which/ *"],
        answers: &[
            "What do you think?",
            "Why do you ask?",
            "What answer would help you most?",
            "Who else have you asked?",
        ],
        leaves: Leaves::Nothing,
    },
    Rule {
        name: "recall",
        patterns: &["*"],
        answers: &[
            "Let us go back a little. Earlier you said: {note}. Has that to do with this?",
            "Before, you told me: {note}. How is that now?",
            "I still think of what you said earlier: {note}.",
        ],
        leaves: Leaves::Recalled,
    },
    Rule {
        name: "anything",
        patterns: &["*"],
        answers: &[
            "Tell me more.",
            "I see. And what does that mean for you?",
            "Please go on.",
            "How does that make you feel?",
            "Can you say that in another way?",
            "What makes you bring that up?",
        ],
        leaves: Leaves::Nothing,
    },
];

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
