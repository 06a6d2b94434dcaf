//! Does a chat answer line by line, survive being killed, and say how it ended?

mod common;

use common::{Said, chat, journal_has, run, signal, wait_until, windlass};
use std::{io::Write, process::Stdio};

#[test]
fn each_line_is_a_prompt_and_each_answer_a_line() {
    let dir = tempfile::tempdir().expect("a folder");
    let said = chat(dir.path(), &[], b"Hello\n\n   \nMy name is ada\n/echo done\n/help\n");
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""));
    let lines = said.lines();
    assert_eq!(lines.len(), 4, "{lines:?}");
    assert_eq!(lines[0], "Hello. What would you like to talk about?");
    assert_eq!(lines[1], "Pleased to meet you, ada. What is on your mind?");
    assert_eq!(lines[2], "done");
    assert!(lines[3].contains("/slow SECONDS"), "{}", lines[3]);
}

#[test]
fn a_conversation_goes_on_where_it_was_and_sessions_are_apart() {
    let dir = tempfile::tempdir().expect("a folder");
    chat(dir.path(), &[], b"My name is ada\n");
    let again = chat(dir.path(), &[], b"What is my name?\n");
    assert!(again.out.starts_with("You are Ada."), "{again:?}");
    let apart = chat(dir.path(), &["--session", "other"], b"What is my name?\n");
    assert_eq!(apart.lines(), ["You have not told me yet. What shall I call you?"]);
    let uuid = "0190b8a0-1111-7222-8333-444455556666";
    chat(dir.path(), &["--session", uuid], b"/echo by id\n");
    assert_eq!(run(windlass(dir.path()).args(["journal", uuid])).code, Some(0));
}

#[test]
fn a_question_of_the_agent_is_answered_by_the_next_line() {
    let dir = tempfile::tempdir().expect("a folder");
    let said = chat(dir.path(), &[], b"/ask Tea or coffee?\ntea\n");
    assert_eq!(said.lines(), ["Tea or coffee?", "Thank you. I asked: Tea or coffee? You answered: tea"]);
}

#[test]
fn a_failure_is_tried_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let said = chat(dir.path(), &[], b"/fail\n");
    assert_eq!((said.code, said.lines()), (Some(0), vec!["It worked at attempt 2."]), "{said:?}");
}

#[test]
fn a_killed_chat_goes_on_after_the_last_boundary() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut child = windlass(dir.path()).arg("chat").stdin(Stdio::piped()).spawn().expect("the binary runs");
    child.stdin.as_mut().expect("a pipe").write_all(b"/slow 2\n").expect("it listens");
    wait_until("the first boundary", || journal_has(dir.path(), "boundary_committed"));
    child.kill().expect("it runs");
    child.wait().expect("it is ours");

    let resumed = chat(dir.path(), &[], b"/echo and on\n");
    assert_eq!(resumed.lines(), ["That took 2 s, one boundary each.", "and on"], "{resumed:?}");
    assert!(journal_has(dir.path(), "resumes_after=0"));
    assert_eq!(run(windlass(dir.path()).arg("verify")).code, Some(0));
}

#[test]
fn background_work_is_told_of_before_a_chat_ends() {
    let dir = tempfile::tempdir().expect("a folder");
    let said = chat(dir.path(), &[], b"/bg 1 tea\n/echo meanwhile\n");
    let started = "Started “tea”, 1 s in the background. I will tell you.";
    assert_eq!((said.code, said.lines()), (Some(0), vec![started, "meanwhile", "“tea” is done: 1 s of work."]));
    assert_eq!(chat(dir.path(), &[], b"").lines(), Vec::<&str>::new(), "nothing is told twice");
    // One answer to both: the news came to a run that somebody waits for.
    let said = chat(dir.path(), &[], b"/bg 1 toast\n/slow 2\n");
    assert_eq!(said.lines()[1..], ["That took 2 s, one boundary each. “toast” is done: 1 s of work."], "{said:?}");
}

#[test]
fn background_work_is_not_waited_for_for_ever() {
    let dir = tempfile::tempdir().expect("a folder");
    let said = chat(dir.path(), &["--linger", "1"], b"/bg 60 tea\n");
    assert_eq!((said.code, said.lines().len()), (Some(7), 1), "{said:?}");
    assert!(said.err.contains("left background work after 1 s: “tea”"), "{}", said.err);
    assert_eq!(chat(dir.path(), &[], b"").lines(), ["“tea” was lost before it was done: owner lost."]);
}

#[test]
fn background_work_that_was_killed_is_said_to_be_lost_once() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut child = windlass(dir.path()).arg("chat").stdin(Stdio::piped()).spawn().expect("the binary runs");
    child.stdin.as_mut().expect("a pipe").write_all(b"/bg 60 tea\n").expect("it listens");
    wait_until("the run's end", || journal_has(dir.path(), "run_ended"));
    child.kill().expect("it runs");
    child.wait().expect("it is ours");

    let told = chat(dir.path(), &[], b"");
    assert_eq!(
        (told.code, told.lines()),
        (Some(0), vec!["“tea” was lost before it was done: owner lost."]),
        "{told:?}"
    );
    let again = chat(dir.path(), &[], b"/ops\n");
    assert_eq!(again.lines(), ["“tea”: terminated, owner lost"], "{again:?}");
    assert_eq!(run(windlass(dir.path()).arg("verify")).code, Some(0));
}

#[test]
fn a_program_answers_with_words_or_json() {
    let dir = tempfile::tempdir().expect("a folder");
    let exec = |script: &str, text: &str| chat(dir.path(), &["--exec", "/bin/sh", "-c", script], text.as_bytes());
    let words = exec("cat > /dev/null; echo hello; echo log >&2", "hi\n");
    assert_eq!((words.code, words.lines()), (Some(0), vec!["hello"]), "{words:?}");
    let json = exec(r#"cat > /dev/null; echo '{"text": "from json", "message_count": 2}'"#, "hi\n");
    assert_eq!(json.lines(), ["from json"], "{json:?}");
    let structured = exec(r#"cat > /dev/null; echo '{"structured": {"n": 1}}'"#, "hi\n");
    assert_eq!(structured.lines(), [r#"{"n":1}"#]);
    let silent = exec("cat > /dev/null", "hi\n");
    assert_eq!((silent.code, silent.out.as_str()), (Some(0), "\n"));
    let told = exec("printf 'told '; cat", "hi there\n");
    let request = told.out.strip_prefix("told ").expect("words, because of how they begin");
    let request: serde_json::Value = serde_json::from_str(request).expect("what it was told, said back");
    assert_eq!(
        (&request["text"], &request["attempt"], &request["kind"]),
        (&"hi there".into(), &1.into(), &"content_turn".into())
    );
}

#[test]
fn a_program_sees_the_variables_it_is_given() {
    let dir = tempfile::tempdir().expect("a folder");
    let show = r#"cat > /dev/null; echo "$SECRET/$GIVEN/$WINDLASS_DIR""#;
    let arguments = ["--env", "SECRET", "--env", "GIVEN=g", "--env", "ABSENT", "--exec", "/bin/sh", "-c", show];
    let mut child = windlass(dir.path())
        .arg("chat")
        .args(arguments)
        .env("SECRET", "s")
        .stdin(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    child.stdin.take().expect("a pipe").write_all(b"hi\n").expect("it listens");
    let said = Said::of(child.wait_with_output().expect("it ends"));
    assert_eq!(said.lines(), ["s/g/"], "{said:?}");
}

#[test]
fn a_program_that_refuses_ends_the_chat_with_its_reason() {
    let dir = tempfile::tempdir().expect("a folder");
    let refuse = ["--exec", "/bin/sh", "-c", "echo no such model >&2; exit 78"];
    let said = chat(dir.path(), &refuse, b"hi\n");
    assert_eq!((said.code, said.out.as_str()), (Some(10), ""));
    assert!(said.err.contains("error: executor_refused: exit status: 78; it said: no such model"), "{}", said.err);
    let missing = chat(dir.path(), &["--exec", "/no/such/program"], b"hi\n");
    assert_eq!(missing.code, Some(10));
    assert!(missing.err.contains("executor_spawn_failed"), "{}", missing.err);
}

#[test]
fn a_line_that_is_no_text_is_refused_and_the_others_are_answered() {
    let dir = tempfile::tempdir().expect("a folder");
    let said = chat(dir.path(), &[], b"/echo one\n\xff\xfe\n/echo two\n");
    assert_eq!((said.code, said.lines()), (Some(6), vec!["one", "two"]), "{said:?}");
    assert!(said.err.contains("error: this line cannot be read"), "{}", said.err);
}

#[test]
fn signals_end_it_with_their_codes_and_lose_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let begin = || {
        let mut child = windlass(dir.path()).arg("chat").stdin(Stdio::piped()).spawn().expect("the binary runs");
        child.stdin.as_mut().expect("a pipe").write_all(b"/slow 60\n").expect("it listens");
        child
    };
    let mut child = begin();
    wait_until("a run", || journal_has(dir.path(), "run_started"));
    signal(child.id(), "TERM");
    assert_eq!(child.wait().expect("it ends").code(), Some(143));
    assert!(journal_has(dir.path(), "released"), "the run was let go in good order, and costs no attempt");

    // The prompt above is run again, then cancelled by the first interrupt; the chat ends with its input.
    let child = begin();
    wait_until("the run again", || journal_has(dir.path(), "attempt=2"));
    signal(child.id(), "INT");
    wait_until("a cancel", || journal_has(dir.path(), "cancelled"));
    signal(child.id(), "INT");
    let said = Said::of(child.wait_with_output().expect("it ends"));
    assert!(matches!(said.code, Some(130 | 0)), "{said:?}");
    assert!(said.err.contains("cancelling; once more to leave"), "{said:?}");
}

#[test]
fn a_reader_who_has_heard_enough_is_no_error() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut child = windlass(dir.path()).arg("chat").stdin(Stdio::piped()).spawn().expect("the binary runs");
    drop(child.stdout.take());
    child.stdin.take().expect("a pipe").write_all(b"/echo one\n/echo two\n").expect("it listens");
    let said = Said::of(child.wait_with_output().expect("it ends"));
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{said:?}");
}
