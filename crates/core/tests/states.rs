//! Which states do callers see, and do they move only as the specification allows?
//!
//! States are derived, so there is no transition to refuse: what is checked is that no event, wherever it comes, moves
//! an input or a session along an edge that is not in the table. `Applied` is never reported (decisions 18).

mod common;

use common::{Rig, input_id, prompt};
use std::{collections::BTreeSet, time::Duration};
use windlass_core::{
    AbandonReason, AcceptOptions, Control, Disposition, Event, Gate, HandlingMode, Input, InputId, InputState, Limits,
    Outcome, PolicyTable, Reply, RunReport, RuntimeState, Ticket,
};

type Situation = (&'static str, fn() -> Rig);

/// A session in each situation that matters; `a` is the input that is looked at.
fn situations() -> Vec<Situation> {
    fn queued() -> Rig {
        let mut rig = Rig::opened();
        rig.accept(prompt("a"));
        rig
    }
    fn staged() -> Rig {
        let mut rig = queued();
        rig.step(Event::Attach { wakes: true });
        rig
    }
    fn applied() -> Rig {
        let mut rig = staged();
        rig.boundary();
        rig
    }
    vec![
        ("unknown", Rig::opened),
        ("queued", queued),
        ("held", || {
            let mut rig = queued();
            rig.control(Control::Hold);
            rig
        }),
        ("staged", staged),
        ("applied", applied),
        ("suspended", || {
            let mut rig = applied();
            rig.fail();
            rig
        }),
        ("backing off", || {
            let mut rig = staged();
            rig.fail();
            rig
        }),
        ("leaving", || {
            let mut rig = staged();
            rig.cancel(None, Disposition::Requeue);
            rig
        }),
        ("retired", || {
            let mut rig = staged();
            rig.control(Control::Retire { will_drain: true });
            rig
        }),
        ("pinned", || {
            let mut rig = Rig::opened();
            rig.accept_with(prompt("a"), AcceptOptions { pinned: true, ..AcceptOptions::default() });
            rig
        }),
        ("consumed", || {
            let mut rig = staged();
            rig.done();
            rig
        }),
        ("abandoned", || {
            let mut rig = queued();
            let input = input_id("a");
            rig.step(Event::Withdraw { ticket: Ticket(1), input });
            rig
        }),
        ("stopped", || {
            let mut rig = staged();
            rig.control(Control::Stop);
            rig
        }),
        ("destroyed", || {
            let mut rig = staged();
            rig.control(Control::Destroy);
            rig
        }),
    ]
}

type Move = (&'static str, fn(&mut Rig));

/// Everything that can happen from outside.
fn moves() -> Vec<Move> {
    fn ended(rig: &mut Rig, report: RunReport) {
        if let Some(attempt) = rig.attempt {
            rig.step(Event::RunEnded { attempt, report });
        }
    }
    vec![
        ("accept again", |rig| drop(rig.accept(prompt("a")))),
        ("accept another", |rig| drop(rig.accept(prompt("b")))),
        ("accept steering", |rig| drop(rig.accept(prompt("s").with_mode(HandlingMode::Steer)))),
        ("withdraw", |rig| rig.step(Event::Withdraw { ticket: Ticket(1), input: input_id("a") })),
        ("attach", |rig| rig.step(Event::Attach { wakes: true })),
        ("detach", |rig| rig.step(Event::Detach)),
        ("boundary", |rig| {
            if rig.attempt.is_some() {
                rig.boundary();
            }
        }),
        ("checkpoint", |rig| {
            if rig.attempt.is_some() {
                rig.checkpoint();
            }
        }),
        ("done", |rig| {
            if rig.attempt.is_some() {
                rig.done();
            }
        }),
        ("fail", |rig| ended(rig, RunReport::Failed { error: "x".into(), retryable: true, retry_after: None })),
        ("fail for good", |rig| {
            ended(rig, RunReport::Failed { error: "x".into(), retryable: false, retry_after: None });
        }),
        ("cancel", |rig| drop(rig.cancel(None, Disposition::Drop))),
        ("requeue", |rig| drop(rig.cancel(None, Disposition::Requeue))),
        ("release", |rig| rig.step(Event::Release { reason: "x".into() })),
        ("retire", |rig| drop(rig.control(Control::Retire { will_drain: false }))),
        ("stop", |rig| drop(rig.control(Control::Stop))),
        ("revive", |rig| drop(rig.control(Control::Revive))),
        ("destroy", |rig| drop(rig.control(Control::Destroy))),
        ("reset", |rig| drop(rig.control(Control::Reset { force: false }))),
        ("reset by force", |rig| drop(rig.control(Control::Reset { force: true }))),
        ("recycle", |rig| drop(rig.control(Control::Recycle))),
        ("hold", |rig| drop(rig.control(Control::Hold))),
        ("unhold", |rig| drop(rig.control(Control::Release))),
        ("due", |rig| {
            rig.tick(1000.0);
            rig.step(Event::Due);
        }),
        ("crash", Rig::crash),
    ]
}

fn a(rig: &Rig) -> Option<InputState> {
    rig.session.input_state(input_id("a"))
}

/// Which states of an input may follow which, by one event. A retry goes through the lane within the same step.
// S 25-28, 30
#[test]
fn inputs_move_along_the_table_only() {
    use InputState as S;
    let mut seen = BTreeSet::new();
    for (situation, make) in situations() {
        for (event, apply) in moves() {
            let mut rig = make();
            let before = a(&rig);
            apply(&mut rig);
            let after = a(&rig);
            let allowed = match (before, after) {
                (None, Some(S::Queued | S::Staged)) => event == "accept again",
                (Some(S::Queued), Some(S::Staged | S::Abandoned))
                | (Some(S::Staged), Some(S::Queued | S::AppliedPendingConsumption | S::Abandoned | S::Consumed))
                | (Some(S::AppliedPendingConsumption), Some(S::Consumed)) => true,
                (before, after) => before == after,
            };
            assert!(allowed, "{situation}, {event}: {before:?} to {after:?}");
            seen.insert(format!("{before:?} {after:?}"));
            let terminal = before.is_some_and(InputState::is_terminal);
            assert!(!terminal || before == after, "{situation}, {event}: a terminal state is final");
            rig.assert_recoverable();
            rig.session.check();
        }
    }
    assert!(seen.len() > 10, "the moves do move something: {seen:?}");
}

/// Which states of a session may follow which, by one event.
// S 82, 85, 87, 89
#[test]
fn sessions_move_along_the_table_only() {
    use RuntimeState as R;
    for (situation, make) in situations() {
        for (event, apply) in moves() {
            let mut rig = make();
            let before = rig.session.state();
            apply(&mut rig);
            let after = rig.session.state();
            let allowed = match (before, after) {
                (before, after) if before == after => true,
                (R::Idle | R::Attached | R::Running, R::Idle | R::Attached | R::Running | R::Retired) => true,
                (R::Retired, R::Idle | R::Attached) => event.starts_with("reset"),
                (R::Stopped, R::Idle | R::Attached) => event == "revive",
                (R::Idle | R::Attached | R::Running | R::Retired, R::Stopped) => event == "stop",
                (before, R::Destroyed) => event == "destroy" && before != R::Destroyed,
                _ => false,
            };
            assert!(allowed, "{situation}, {event}: {before:?} to {after:?}");
            // Said twice, a verb changes nothing more.
            if ["retire", "stop", "destroy", "revive", "recycle", "hold", "unhold"].contains(&event) {
                let head = rig.session.head();
                apply(&mut rig);
                assert_eq!((rig.session.head(), rig.session.state()), (head, after), "{situation}, {event} again");
            }
        }
    }
}

/// A run returns the session to where it was, however it ends.
// S 83, 84
#[test]
fn a_run_ends_where_it_began() {
    let ends: [Move; 4] = [
        ("done", Rig::done),
        ("fail", |rig| {
            let attempt = rig.current();
            let report = RunReport::Failed { error: "x".into(), retryable: false, retry_after: None };
            rig.step(Event::RunEnded { attempt, report });
        }),
        ("retry", Rig::fail),
        ("cancel", |rig| drop(rig.cancel(None, Disposition::Drop))),
    ];
    for (end, apply) in ends {
        for (retire, state) in [(false, RuntimeState::Attached), (true, RuntimeState::Retired)] {
            let mut rig = Rig::attached();
            rig.accept(prompt("a"));
            assert_eq!(rig.session.state(), RuntimeState::Running);
            if retire {
                rig.control(Control::Retire { will_drain: false });
            }
            apply(&mut rig);
            assert_eq!(rig.session.state(), state, "{end}, retired: {retire}");
        }
    }
    let mut rig = Rig::opened();
    rig.accept_with(prompt("a"), AcceptOptions { pinned: true, ..AcceptOptions::default() });
    rig.done();
    assert_eq!(rig.session.state(), RuntimeState::Idle);
}

// S 90
#[test]
fn each_state_says_what_it_is_able_to() {
    use RuntimeState as R;
    for (state, terminal, accepts, processes) in [
        (R::Initializing, false, false, false),
        (R::Idle, false, true, true),
        (R::Attached, false, true, true),
        (R::Running, false, true, false),
        (R::Recovering, false, false, false),
        (R::Retired, false, false, true),
        (R::Stopped, true, false, false),
        (R::Destroyed, true, false, false),
    ] {
        assert_eq!(
            (state.is_terminal(), state.accepts_input(), state.can_process_queue()),
            (terminal, accepts, processes),
            "{state:?}"
        );
    }
}

/// A session answers as its state says.
// S 53, 90
#[test]
fn a_session_accepts_iff_its_state_does() {
    for (situation, make) in situations() {
        let mut rig = make();
        let state = rig.session.state();
        let head = rig.session.head();
        let outcome = rig.accept(prompt("b"));
        let accepted = matches!(outcome, windlass_core::AcceptOutcome::Accepted { .. });
        assert_eq!(accepted, state.accepts_input(), "{situation}: {outcome:?}");
        assert!(accepted || rig.session.head() == head, "{situation}: a refusal leaves no trace");
    }
}

/// Asking changes nothing: no state, no snapshot, no explanation.
// S 34
#[test]
fn asking_changes_nothing() {
    for (situation, make) in situations() {
        let rig = make();
        let before = rig.session.snapshot();
        for name in ["a", "b"] {
            rig.session.explain(input_id(name), rig.now + Duration::from_secs(1_000_000));
            let _ = rig.session.input_state(input_id(name));
        }
        let _ = (rig.session.next_due(), rig.session.state(), rig.session.is_pending(), rig.session.pending_at());
        assert_eq!(rig.session.snapshot(), before, "{situation}");
    }
}

fn end_of(rig: &Rig, id: InputId) -> &Outcome {
    &rig.settled.iter().find(|end| end.input == id).expect("it is over").outcome
}

/// An input can be abandoned from wherever it is open, and hears why.
// S 28, 152, 162, 163
#[test]
fn everything_open_can_be_abandoned() {
    let verbs: [(Control, AbandonReason); 3] = [
        (Control::Reset { force: true }, AbandonReason::Reset),
        (Control::Stop, AbandonReason::Stopped),
        (Control::Destroy, AbandonReason::Destroyed),
    ];
    for (verb, reason) in verbs {
        for (situation, make) in situations() {
            let mut rig = make();
            let Some(state) = a(&rig).filter(|state| !state.is_terminal()) else { continue };
            rig.control(verb.clone());
            let expected = match state {
                InputState::AppliedPendingConsumption => InputState::Consumed,
                _ => InputState::Abandoned,
            };
            assert_eq!(a(&rig), Some(expected), "{situation}, {verb:?}");
            let outcome = end_of(&rig, input_id("a"));
            match outcome {
                Outcome::Abandoned { reason: told } => assert_eq!(told, &reason, "{situation}"),
                Outcome::Cancelled { after: 0, .. } => assert_eq!(expected, InputState::Consumed),
                other => panic!("{situation}, {verb:?}: {other:?}"),
            }
            assert_eq!(rig.session.active_inputs().count(), 0, "{situation}");
        }
    }
}

/// Attempts are counted over a restart, and the third is the last.
// S 31, 32
#[test]
fn attempts_survive_snapshots_and_restarts() {
    let mut rig = Rig::attached();
    rig.accept(prompt("a"));
    for tries in 1..=2 {
        rig.fail();
        assert_eq!(rig.session.explain(input_id("a"), rig.now).tries, tries);
        let json = serde_json::to_string(&rig.session.snapshot()).unwrap();
        let snapshot = serde_json::from_str(&json).unwrap();
        rig.session = windlass_core::Session::recover(
            common::session_id(),
            rig.limits.clone(),
            std::sync::Arc::clone(&rig.policy),
            Some(&snapshot),
            &[] as &[std::sync::Arc<windlass_core::Entry>],
        )
        .unwrap();
        rig.open();
        rig.step(Event::Attach { wakes: true });
        rig.wait();
    }
    rig.fail();
    let Outcome::Abandoned { reason: AbandonReason::MaxAttemptsExhausted { attempts: 3, .. } } =
        end_of(&rig, input_id("a"))
    else {
        panic!("exhausted")
    };
}

/// The pause doubles, is never shorter than half of its measure, and never longer than the limit.
// S 94
#[test]
fn back_off_grows_within_its_bounds() {
    let limits = Limits {
        attempts: 12,
        backoff: Duration::from_secs(1),
        backoff_max: Duration::from_secs(60),
        ..Limits::default()
    };
    let mut pauses = BTreeSet::new();
    let mut rig = Rig::new(limits, PolicyTable::reference());
    rig.open();
    rig.step(Event::Attach { wakes: true });
    for name in ["a", "b", "c", "d"] {
        rig.accept(prompt(name));
        for tries in 0..11u32 {
            rig.fail();
            let due = rig.session.next_due().expect("it is tried again");
            let pause = due.at.since(rig.now);
            let whole = Duration::from_secs(1 << tries).min(Duration::from_secs(60));
            assert!(pause >= whole / 2 && pause <= whole, "try {tries}: {pause:?} of {whole:?}");
            pauses.insert(pause);
            rig.wait();
        }
        rig.fail();
        assert_eq!(rig.session.next_due(), None, "the last try was the last");
    }
    assert!(pauses.len() > 11, "jitter sets retries apart");
}

/// A control verb is refused where the table says, with the state, and then nothing has changed.
// S 86, 103
#[test]
fn refused_verbs_change_nothing() {
    for (situation, make) in situations() {
        for verb in [
            Control::Retire { will_drain: false },
            Control::Reset { force: false },
            Control::Recycle,
            Control::Hold,
            Control::Release,
        ] {
            let mut rig = make();
            let before = rig.session.snapshot();
            let state = rig.session.state();
            let Reply::Control(answer) = rig.control(verb.clone()) else { panic!("a control answer") };
            if let Err(refused) = answer {
                assert_eq!(refused, windlass_core::ControlRefused::State { state }, "{situation}, {verb:?}");
                assert_eq!(rig.session.snapshot(), before, "{situation}, {verb:?}");
            } else {
                assert!(!matches!(rig.session.gate(), Gate::Destroyed), "{situation}, {verb:?}");
            }
        }
    }
}

/// A newer input names itself in the end of the older.
// S 33
#[test]
fn the_replaced_input_names_the_newer() {
    let mut rig = Rig::opened();
    let progress = |name: &str| -> Input {
        common::input(windlass_core::InputKind::PeerResponseProgress, name).superseding("s").unwrap()
    };
    rig.accept(progress("a"));
    rig.accept(progress("b"));
    assert_eq!(end_of(&rig, input_id("a")), &Outcome::Coalesced { into: input_id("b") });
    assert_eq!(a(&rig), Some(InputState::Coalesced));
}
