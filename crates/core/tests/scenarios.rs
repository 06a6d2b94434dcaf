//! Do sessions behave as the scenario files tell?
//!
//! Each file in `tests/scenarios` is one behaviour: commands, a line `----`, and what the session then decided, in the
//! notation of `windlass_core::notation`. `WINDLASS_REWRITE=1 cargo test -p windlass-core --test scenarios` writes
//! what was decided into the files; read the diff before you commit it.

mod common;

use common::{Rig, input, input_id};
use serde::Deserialize;
use std::{fmt::Write as _, path::Path, sync::Arc, time::Duration};
use windlass_core::{
    AcceptOptions, AttemptId, BoundaryOutput, Control, Disposition, Durability, Event, HandlingMode, Input, InputBody,
    InputKind, InputOrigin, JsonText, Lane, Limits, Peer, PeerConvention, PendingTool, PolicyTable, Row, RunReport,
    RunResult, Terminal, Ticket, notation,
};

/// What may stand at the top of a file, between two lines `+++`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Setting {
    limits: Limits,
    /// Rows that go before those of the reference table.
    row: Vec<Row>,
}

#[test]
fn every_scenario_file_tells_what_happens() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    files.sort();
    assert!(!files.is_empty(), "there are scenario files in {}", folder.display());
    let rewrite = std::env::var_os("WINDLASS_REWRITE").is_some();
    let mut differences = String::new();
    for path in files {
        let told = std::fs::read_to_string(&path).unwrap();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        assert!(told.starts_with("# "), "{name} begins with its story");
        let played = std::panic::catch_unwind(|| play(&told)).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            format!("panicked: {}\n", text.unwrap_or_default())
        });
        if played == told {
            continue;
        }
        if rewrite && !played.starts_with("panicked") {
            std::fs::write(&path, played).unwrap();
        } else {
            let _ = writeln!(differences, "=== {name}\n{}", diff(&told, &played));
        }
    }
    assert!(differences.is_empty(), "\n{differences}\nWINDLASS_REWRITE=1 writes what happened into the files.");
}

/// The first line that differs, with what is around it.
fn diff(told: &str, played: &str) -> String {
    let (told, played): (Vec<_>, Vec<_>) = (told.lines().collect(), played.lines().collect());
    let at = told.iter().zip(&played).take_while(|(a, b)| a == b).count();
    let marked =
        |lines: &[&str], sign: &str| lines.iter().fold(String::new(), |text, line| text + sign + " " + line + "\n");
    let excerpt = |lines: &[&str], sign: &str| marked(&lines[at..lines.len().min(at + 6)], sign);
    let before = marked(&told[at.saturating_sub(4)..at], " ");
    format!("line {}:\n{before}{}{}", at + 1, excerpt(&told, "-"), excerpt(&played, "+"))
}

/// The file as it would read if it told what happens.
fn play(told: &str) -> String {
    let mut played = String::new();
    let mut lines = told.lines().peekable();
    let mut setting = Setting::default();
    let mut rig = None;
    while let Some(line) = lines.next() {
        played += line;
        played += "\n";
        if line == "+++" {
            let toml: Vec<_> = lines.by_ref().take_while(|line| *line != "+++").collect();
            setting = toml::from_str(&toml.join("\n")).unwrap_or_else(|error| panic!("setting: {error}"));
            played += &toml.join("\n");
            played += "\n+++\n";
        } else if line == "----" {
            // What was told is skipped, what happened stands instead.
            while lines.next_if(|line| !line.is_empty()).is_some() {}
            let rig: &mut Rig = rig.as_mut().expect("a command comes before its output");
            for line in std::mem::take(&mut rig.out) {
                played += &line;
                played += "\n";
            }
        } else if !line.is_empty() && !line.starts_with('#') {
            let rig = rig.get_or_insert_with(|| {
                let mut policy = PolicyTable::reference();
                policy.rows.splice(0..0, setting.row.iter().cloned());
                Rig::new(setting.limits.clone(), policy)
            });
            command(rig, line);
            rig.session.check();
            rig.assert_recoverable();
        }
    }
    played
}

/// The words of a command: a name, arguments, `name=value` options, flags.
struct Words<'a> {
    line: &'a str,
    words: Vec<String>,
}

impl<'a> Words<'a> {
    /// Splits at spaces outside quotes.
    fn of(line: &'a str) -> Words<'a> {
        let mut words = vec![String::new()];
        let mut quoted = false;
        for letter in line.chars() {
            match letter {
                '"' => quoted = !quoted,
                ' ' if !quoted => words.push(String::new()),
                letter => words.last_mut().expect("there is always one").push(letter),
            }
        }
        Words { line, words }
    }

    fn argument(&mut self) -> String {
        assert!(!self.words.is_empty(), "{:?} needs another word", self.line);
        self.words.remove(0)
    }

    fn flag(&mut self, name: &str) -> bool {
        let at = self.words.iter().position(|word| word == name);
        at.map(|at| self.words.remove(at)).is_some()
    }

    fn option(&mut self, name: &str) -> Option<String> {
        let start = format!("{name}=");
        let at = self.words.iter().position(|word| word.starts_with(&start))?;
        Some(self.words.remove(at)[start.len()..].to_owned())
    }

    fn end(self) {
        assert!(self.words.is_empty(), "{:?} has words that mean nothing: {:?}", self.line, self.words);
    }
}

fn command(rig: &mut Rig, line: &str) {
    let mut words = Words::of(line);
    let ticket = Ticket(1);
    let verb = words.argument();
    match verb.as_str() {
        "open" => rig.open(),
        "accept" => {
            let (input, options) = accepted(&mut words);
            rig.step(Event::Accept { ticket, input: Box::new(input), options });
        }
        "withdraw" => {
            let input = input_id(&words.argument());
            rig.step(Event::Withdraw { ticket, input });
        }
        "attach" => {
            let wakes = !words.flag("quietly");
            rig.step(Event::Attach { wakes });
        }
        "detach" => rig.step(Event::Detach),
        "checkpoint" => {
            let attempt = attempt(rig, &mut words);
            rig.step(Event::Checkpoint { ticket, attempt });
        }
        "boundary" => {
            let attempt = attempt(rig, &mut words);
            rig.step(Event::Boundary { ticket, attempt, output: BoundaryOutput::default() });
        }
        "done" => {
            let attempt = attempt(rig, &mut words);
            let result = words.option("result").map(|text| Terminal::Result(Arc::new(RunResult::text(text))));
            let callback = words.option("callback").map(|tool_name| {
                Terminal::CallbackPending(Arc::new(PendingTool { tool_name, args: serde_json::Value::Null }))
            });
            let terminal = result.or(callback).unwrap_or_default();
            let report = RunReport::Done { output: BoundaryOutput::default(), terminal };
            rig.step(Event::RunEnded { attempt, report });
        }
        "fail" => {
            let attempt = attempt(rig, &mut words);
            let retry_after = words.option("after").map(|after| Duration::from_secs_f64(after.parse().unwrap()));
            let retryable = !words.flag("final");
            let error = words.option("error").unwrap_or_else(|| "boom".into()).into();
            rig.step(Event::RunEnded { attempt, report: RunReport::Failed { error, retryable, retry_after } });
        }
        "caller-gone" => {
            let attempt = attempt(rig, &mut words);
            rig.step(Event::RunEnded { attempt, report: RunReport::CallerGone });
        }
        "cancel" => {
            let run = words.option("run").map(|name| rig.names.run_named(&name).expect("the run has been seen"));
            let disposition = if words.flag("requeue") { Disposition::Requeue } else { Disposition::Drop };
            rig.step(Event::Cancel { ticket, run, reason: "asked to".into(), disposition });
        }
        "release" => rig.step(Event::Release { reason: "shutting down".into() }),
        "retire" => {
            let will_drain = words.flag("will-drain");
            control(rig, Control::Retire { will_drain });
        }
        "stop" => control(rig, Control::Stop),
        "revive" => control(rig, Control::Revive),
        "destroy" => control(rig, Control::Destroy),
        "reset" => {
            let force = words.flag("force");
            control(rig, Control::Reset { force });
        }
        "recycle" => control(rig, Control::Recycle),
        "hold" => control(rig, Control::Hold),
        "unhold" => control(rig, Control::Release),
        "silent" => control(rig, Control::SetSilentIntents(std::mem::take(&mut words.words))),
        "note" => control(rig, Control::Note(JsonText::encode(&words.argument()).unwrap())),
        "due" => rig.step(Event::Due),
        "tick" => rig.tick(words.argument().parse().unwrap()),
        "wait" if rig.session.next_due().is_none() => rig.out.push("nothing is due".into()),
        "wait" => {
            let due = rig.session.next_due().expect("checked above");
            rig.now = rig.now.max(due.at);
            let now = notation::Names::moment(&rig.names, rig.now);
            rig.out.push(format!("now {now}"));
            rig.step(Event::Due);
        }
        "crash" => rig.crash(),
        "restart-orderly" => {
            rig.step(Event::Release { reason: "shutting down".into() });
            rig.crash();
        }
        "state" => state(rig),
        "explain" => {
            let input = input_id(&words.argument());
            let explanation = rig.session.explain(input, rig.now);
            let position = explanation.position.map(|position| format!(" position={position}")).unwrap_or_default();
            let sentence = rig.names.shorten(&explanation.sentence);
            rig.out.push(format!("{sentence}{position}"));
        }
        "next-due" => {
            let due = notation::due(rig.session.next_due(), &rig.names);
            rig.out.push(due);
        }
        other => panic!("{other:?} is no command"),
    }
    words.end();
}

fn control(rig: &mut Rig, verb: Control) {
    rig.step(Event::Control { ticket: Ticket(1), verb });
}

/// `of=r1.2`, or the attempt that was last started.
fn attempt(rig: &Rig, words: &mut Words<'_>) -> AttemptId {
    match words.option("of") {
        Some(of) => {
            let (run, attempt) = of.split_once('.').expect("of=RUN.ATTEMPT");
            AttemptId { run: rig.names.run_named(run).expect("seen"), attempt: attempt.parse().unwrap() }
        }
        None => rig.current(),
    }
}

fn state(rig: &mut Rig) {
    let session = &rig.session;
    let mut line = format!("state {}", notation::runtime_state(session.state()));
    for (name, lane) in [("steer", Lane::Steer), ("queue", Lane::Queue), ("aside", Lane::Aside)] {
        let waiting = session.lane(lane);
        if !waiting.is_empty() {
            let _ = write!(line, " {name}={}", notation::list(&waiting, &rig.names));
        }
    }
    if let Some(run) = session.current_run() {
        let phase = if session.current_attempt().is_some() { "running" } else { "suspended" };
        let members: Vec<_> = session
            .active_inputs()
            .filter(|(id, _)| {
                [Lane::Steer, Lane::Queue, Lane::Aside].iter().all(|lane| !session.lane(*lane).contains(id))
            })
            .map(|(id, state)| format!("{}:{}", common::name_of(id), notation::input_state(state)))
            .collect();
        let _ = write!(line, " {}={phase} {}", notation::Names::run(&rig.names, run), members.join(" "));
    }
    let _ = write!(line, "{}", if session.is_pending() { " pending" } else { "" });
    rig.out.push(line);
}

fn accepted(words: &mut Words<'_>) -> (Input, AcceptOptions) {
    let name = words.argument();
    let kind = match words.option("kind").as_deref() {
        None | Some("prompt") => InputKind::Prompt,
        Some("message") => InputKind::PeerMessage,
        Some("peer-request") => InputKind::PeerRequest,
        Some("progress") => InputKind::PeerResponseProgress,
        Some("terminal") => InputKind::PeerResponseTerminal,
        Some("flow") => InputKind::FlowStep,
        Some("event") => InputKind::ExternalEvent,
        Some("continuation") => InputKind::Continuation,
        Some("operation") => InputKind::Operation,
        Some(other) => panic!("{other:?} is no kind"),
    };
    let text = words.option("text");
    let mut input = input(kind, text.as_deref().unwrap_or(&name));
    input.header.id = input_id(&name);
    if let Some(key) = words.option("key") {
        input = input.with_key(&key).unwrap();
    }
    if let Some(scope) = words.option("scope") {
        input = input.superseding(&scope).unwrap();
    }
    match words.option("mode").as_deref() {
        None => {}
        Some("steer") => input = input.with_mode(HandlingMode::Steer),
        Some("queue") => input = input.with_mode(HandlingMode::Queue),
        Some(other) => panic!("{other:?} is no mode"),
    }
    match words.option("durability").as_deref() {
        None => {}
        Some("ephemeral") => input = input.with_durability(Durability::Ephemeral),
        Some("derived") => input = input.with_durability(Durability::Derived),
        Some(other) => panic!("{other:?} is no durability"),
    }
    if let Some(source) = words.option("source") {
        let (kind, name) = source.split_once(':').unwrap_or((&source, ""));
        let name = name.to_owned();
        input = input.from_origin(match kind {
            "operator" => InputOrigin::Operator,
            "system" => InputOrigin::System,
            "peer" => InputOrigin::Peer { peer_id: name, runtime_id: None },
            "flow" => InputOrigin::Flow { flow_id: name, step_index: 0 },
            "external" => InputOrigin::External { source_name: name },
            other => panic!("{other:?} is no source"),
        });
    }
    if let (Some(wanted), InputBody::Peer(Peer { convention: Some(PeerConvention::Request { intent, .. }), .. })) =
        (words.option("intent"), &mut input.body)
    {
        *intent = wanted;
    }
    let options = AcceptOptions {
        without_wake: words.flag("no-wake"),
        aside: words.flag("aside"),
        pinned: words.flag("pinned"),
        redrive_of: words.option("redrive").map(|dead| input_id(&dead)),
    };
    (input, options)
}
