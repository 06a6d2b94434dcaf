//! Which sentences does the built-in agent recognise, and what does it say to them?

use super::{Leaves, Rule};

/// The first rule that fits any clause answers; so what is more telling stands higher.
pub(super) const RULES: &[Rule] = &[
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
