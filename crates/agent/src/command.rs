//! Which commands does the built-in agent know, and how are they written?
//!
//! Parsing only; what a command does is [`builtin`](crate::builtin)'s business.

/// What `/help` says.
pub const HELP: &str = "\
I listen, and I can show you what the runtime does:
/slow SECONDS         works that long, commits a boundary each second; kill me half-way, or say something meanwhile
/bg SECONDS [WORDS]   works that long in the background, and tells you when it is done, or was lost
/ops                  lists the background work
/fail [TIMES]         fails that many attempts, once if not said; /fail always gives up in the end
/ask QUESTION         ends by asking you; your next words are the answer
/panic                panics; you get an error, the process lives on
/echo TEXT            says TEXT
/help                 says this";

/// The longest `/slow`: an hour shows everything there is to see.
const MAX_SECONDS: u32 = 3600;

/// Something the agent is told to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Lists the commands.
    Help,
    /// Works for so many seconds, with a boundary after each.
    Slow(u32),
    /// Fails the first so many attempts; none: all.
    Fail(Option<u32>),
    /// Ends by asking this.
    Ask(String),
    /// Works so many seconds in the background, at what it is called.
    Background(u32, String),
    /// Lists the background work.
    Operations,
    /// Panics.
    Panic,
    /// Says this.
    Echo(String),
}

/// A line that begins like a command and is none; says how it would be one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotACommand(String);

impl Command {
    /// The command that a text is; none if it is conversation.
    ///
    /// # Errors
    /// [`NotACommand`] if it begins with a slash and makes no sense.
    pub fn parse(text: &str) -> Result<Option<Command>, NotACommand> {
        let text = text.trim();
        if !text.starts_with('/') {
            return Ok(None);
        }
        let (name, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let rest = rest.trim();
        let command = match name {
            "/help" => Command::Help,
            "/slow" => Command::Slow(seconds(name, rest)?),
            "/fail" if rest == "always" => Command::Fail(None),
            "/fail" if rest.is_empty() => Command::Fail(Some(1)),
            "/fail" => Command::Fail(Some(rest.parse().map_err(|_| {
                NotACommand(format!("/fail takes a number of attempts or the word always, not {rest:?}. Try: /fail 2"))
            })?)),
            "/ask" if rest.is_empty() => {
                return Err(NotACommand("/ask needs a question. Try: /ask Tea or coffee?".into()));
            }
            "/ask" => Command::Ask(rest.into()),
            "/bg" => {
                let (time, words) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
                let seconds = seconds(name, time)?;
                let words = match words.trim() {
                    "" => format!("a job of {seconds} s"),
                    words => words.to_owned(),
                };
                Command::Background(seconds, words)
            }
            "/ops" => Command::Operations,
            "/panic" => Command::Panic,
            "/echo" => Command::Echo(rest.into()),
            _ => return Err(NotACommand(format!("I do not know {name}. Try: /help"))),
        };
        Ok(Some(command))
    }
}

fn seconds(name: &str, text: &str) -> Result<u32, NotACommand> {
    match text.parse() {
        Ok(seconds @ 1..=MAX_SECONDS) => Ok(seconds),
        _ => Err(NotACommand(format!("{name} takes whole seconds, 1 to {MAX_SECONDS}, not {text:?}. Try: {name} 5"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_told_from_conversation() {
        let fail = |times| Ok(Some(Command::Fail(times)));
        for (text, expected) in [
            ("hello", Ok(None)),
            ("", Ok(None)),
            ("what is /slow?", Ok(None)),
            ("/help", Ok(Some(Command::Help))),
            ("  /help me  ", Ok(Some(Command::Help))),
            ("/slow 3", Ok(Some(Command::Slow(3)))),
            ("/slow\t3600\n", Ok(Some(Command::Slow(3600)))),
            ("/fail", fail(Some(1))),
            ("/fail 2", fail(Some(2))),
            ("/fail always", fail(None)),
            ("/ask  Tea or coffee?", Ok(Some(Command::Ask("Tea or coffee?".into())))),
            ("/bg 2", Ok(Some(Command::Background(2, "a job of 2 s".into())))),
            ("/bg 3600\t green  tea ", Ok(Some(Command::Background(3600, "green  tea".into())))),
            ("/ops", Ok(Some(Command::Operations))),
            ("/panic", Ok(Some(Command::Panic))),
            ("/echo a  b", Ok(Some(Command::Echo("a  b".into())))),
            ("/echo", Ok(Some(Command::Echo(String::new())))),
        ] {
            assert_eq!(Command::parse(text), expected, "{text:?}");
        }
    }

    #[test]
    fn what_makes_no_sense_says_how_it_would() {
        for text in [
            "/slow",
            "/slow 0",
            "/slow 3601",
            "/slow -1",
            "/slow 1.5",
            "/fail often",
            "/ask",
            "/bg",
            "/bg tea",
            "/bg 0 tea",
            "/dance",
            "/",
        ] {
            let said = Command::parse(text).expect_err(text).to_string();
            assert!(said.contains("Try: /"), "{said}");
        }
    }

    #[test]
    fn help_names_every_command() {
        for name in ["/help", "/slow", "/fail", "/ask", "/bg", "/ops", "/panic", "/echo"] {
            assert!(HELP.contains(name), "{name}");
        }
    }
}
