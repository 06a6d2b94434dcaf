//! How do sessions come into being, are told about themselves, watched, and let go of?

mod rig;

use rig::{Rig, SECOND, accept, rejected, state, text};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use windlass_core::{
    ControlRefused, InputKind, InputState, InvalidProfile, PolicyTable, Profile, RejectReason, Seq, SessionId,
};
use windlass_runtime::{
    CoreApplyOutput, CoreExecutor, CoreExecutorError, ExecutorFactory, FeedItem, NewSession, Observer, Policies,
    SessionError, executor_fn,
    store::{ListQuery, PutSnapshot, Store, StoreError},
    testing::{
        ManualExecutor,
        faulty_store::{Call, Fault},
        input, input_id, session,
    },
};

fn told(tenant: &str) -> NewSession {
    let profile = Profile {
        tenant: Some(tenant.into()),
        name: Some("night-shift".into()),
        labels: [("team".to_owned(), "support".to_owned())].into(),
        ..Profile::default()
    };
    NewSession { agent: Some("echo".into()), profile, silent_intents: vec!["note".into(), "ask".into()] }
}

/// Makes an executor for every session that answers with what it was told.
struct Echoes;

#[async_trait::async_trait]
impl ExecutorFactory for Echoes {
    async fn executor(&self, _: SessionId, _: Option<&str>) -> Result<Arc<dyn CoreExecutor>, CoreExecutorError> {
        Ok(Arc::new(executor_fn(|turn| async move { Ok(CoreApplyOutput::text(turn.primitive().text())) })))
    }
}

fn registered(rig: &Rig) -> String {
    format!("{:?}", rig.adapter)
}

#[tokio::test(start_paused = true)]
async fn a_session_is_created_with_all_that_it_is_to_be_in_one_append() {
    let rig = Rig::new();
    let (handle, created) = rig.adapter.create_session_with(session(1), told("acme")).await.unwrap();
    assert!(created);
    assert_eq!(rig.records().await, ["session_created", "profile_set", "silent_intents_set"]);
    assert_eq!(rig.store.calls(Call::Append), 1);
    let view = handle.status().await.unwrap();
    assert_eq!((view.profile.clone(), view.agent.as_deref()), (told("acme").profile, Some("echo")));
    assert_eq!(view.silent_intents, ["ask", "note"]);
    assert_eq!((view.created_at.as_micros(), view.updated_at), (rig::START, view.created_at));
    assert_eq!((view.pending, view.due_at), (false, None));
    // Again, with something else: it is there, and stays as it is.
    let (again, created) = rig.adapter.create_session_with(session(1), told("other")).await.unwrap();
    assert!(!created);
    assert_eq!(again.profile().await.unwrap(), view.profile);
    let after = rig.crash();
    let (again, created) = after.adapter.create_session_with(session(1), NewSession::default()).await.unwrap();
    assert_eq!((created, again.profile().await.unwrap()), (false, view.profile.clone()), "also for another process");
    let row = rig.store.session(session(1)).await.unwrap().unwrap();
    assert_eq!((&*row.status.profile, row.status.created_at), (&view.profile, view.created_at));
}

#[tokio::test(start_paused = true)]
async fn of_many_who_create_a_session_at_once_one_is_told_so() {
    let rig = Rig::new();
    let create = |tenant: String| {
        let adapter = rig.adapter.clone();
        async move { adapter.create_session_with(session(1), told(&tenant)).await.unwrap() }
    };
    let made = futures_util::future::join_all((0..20).map(|n| create(format!("tenant-{n}")))).await;
    let winners: Vec<_> = made.iter().enumerate().filter(|(_, (_, created))| *created).collect();
    let [(winner, _)] = winners[..] else { panic!("{} were told so", winners.len()) };
    let profile = made[0].0.profile().await.unwrap();
    assert_eq!(profile.tenant.as_deref(), Some(&*format!("tenant-{winner}")), "and it is as that one said");
}

#[tokio::test(start_paused = true)]
async fn what_a_session_is_not_told_makes_none() {
    let rig = Rig::new();
    let unknown = Profile { policy: Some("nobody's".into()), ..Profile::default() };
    let long = Profile { name: Some("x".repeat(257).into()), ..Profile::default() };
    let intents: Vec<_> = (0..257).map(|n: u32| n.to_string()).collect();
    for new in [
        NewSession { profile: unknown, ..NewSession::default() },
        NewSession { profile: long, ..NewSession::default() },
        NewSession { silent_intents: intents, ..NewSession::default() },
    ] {
        let refused = rig.adapter.create_session_with(session(1), new).await.unwrap_err();
        assert_eq!(refused.code(), "schema_violation", "{refused}");
    }
    assert_eq!(rig.store.session(session(1)).await.unwrap(), None);
    assert!(matches!(rig.adapter.session(session(1)).await, Err(SessionError::NotFound(_))));
}

// A session whose creation failed used to be made anew, without its tenant, by whoever asked for it next.
#[tokio::test(start_paused = true)]
async fn a_session_that_could_not_be_created_is_made_by_nobody_else() {
    let rig = Rig::with(|builder| builder.factory(Arc::new(Echoes)).idle_after(SECOND));
    rig.store.fail(Call::Append, 1, Fault::Full);
    let full = rig.adapter.create_session_with(session(1), told("acme")).await;
    assert!(matches!(full, Err(SessionError::Store(StoreError::Full(_)))), "{full:?}");
    tokio::time::sleep(300 * SECOND).await;
    assert!(matches!(rig.adapter.session(session(1)).await, Err(SessionError::NotFound(_))));
    assert!(!rig.adapter.contains_session(session(1)).await.unwrap());
    assert_eq!(rig.records().await, [""; 0]);
    assert!(rig.adapter.list_sessions(ListQuery { limit: 9, ..ListQuery::default() }).await.unwrap().is_empty());
    let (handle, created) = rig.adapter.create_session_with(session(1), told("acme")).await.unwrap();
    assert!(created);
    assert_eq!(handle.profile().await.unwrap().tenant.as_deref(), Some("acme"));
}

#[tokio::test(start_paused = true)]
async fn a_session_keeps_its_tenant_and_the_rest_can_be_told_anew() {
    let rig = Rig::new();
    let (handle, _) = rig.adapter.create_session_with(session(1), told("acme")).await.unwrap();
    let stolen = handle.set_profile(told("other").profile).await.unwrap_err();
    let fixed = ControlRefused::Profile(InvalidProfile::TenantIsFixed);
    assert!(matches!(stolen, SessionError::Refused(refused) if refused == fixed), "{stolen}");
    let changed = Profile { labels: BTreeMap::new(), keep_alive: true, ..told("acme").profile };
    handle.set_profile(changed.clone()).await.unwrap();
    assert_eq!(handle.profile().await.unwrap(), changed);
    let later = rig.crash().adapter.session(session(1)).await.unwrap();
    assert_eq!(later.profile().await.unwrap(), changed);
    let of_tenant = ListQuery { tenant: Some(Some("acme".into())), limit: 9, ..ListQuery::default() };
    assert_eq!(rig.store.list(of_tenant).await.unwrap().len(), 1);
}

/// Policies by name, as they are now.
#[derive(Default)]
struct Shelf(Mutex<BTreeMap<String, Arc<PolicyTable>>>);

impl Shelf {
    fn upload(&self, name: &str, version: u64, deliver: &str) {
        let row = format!("[[row]]\ndecision = {{ deliver = \"{deliver}\", wake = {} }}", deliver == "next_run");
        let table = Arc::new(rig::policy(&format!("version = {version}\n{row}")));
        let mut tables = self.0.lock().unwrap();
        tables.insert(name.to_owned(), Arc::clone(&table));
        tables.insert(format!("{name}@{version}"), table);
    }
}

impl Policies for Shelf {
    fn policy(&self, name: &str) -> Option<Arc<PolicyTable>> {
        self.0.lock().unwrap().get(name).cloned()
    }
}

#[tokio::test(start_paused = true)]
async fn another_policy_governs_what_is_admitted_from_then_on() {
    let shelf = Arc::new(Shelf::default());
    shelf.upload("quiet", 3, "with_next_run");
    let policies = Arc::clone(&shelf) as Arc<dyn Policies>;
    let rig = Rig::with(|builder| builder.policies(Arc::clone(&policies)));
    let new =
        NewSession { profile: Profile { policy: Some("quiet".into()), ..Profile::default() }, ..NewSession::default() };
    let (handle, _) = rig.adapter.create_session_with(session(1), new).await.unwrap();
    let admitted = async |handle: &windlass_runtime::SessionHandle, n| {
        handle.accept(input(n, "hello")).await.unwrap();
        let by = windlass_runtime::store::InputRef::Id(input_id(n));
        let decision = handle.input(&by).await.unwrap().unwrap().decision.clone();
        (decision.policy_version, decision.wake)
    };
    assert_eq!(admitted(&handle, 1).await, (3, false));
    shelf.upload("quiet", 4, "with_next_run");
    assert_eq!(admitted(&handle, 2).await, (3, false), "the latest when it was opened");
    let told = |policy: Option<&str>| Profile { policy: policy.map(Arc::from), ..Profile::default() };
    handle.set_profile(told(None)).await.unwrap();
    assert_eq!(admitted(&handle, 3).await, (1, true), "the runtime's own");
    handle.set_profile(told(Some("quiet@3"))).await.unwrap();
    assert_eq!(admitted(&handle, 4).await, (3, false));
    let unknown = handle.set_profile(told(Some("quiet@9"))).await.unwrap_err();
    assert_eq!(unknown.code(), "schema_violation");
    // Another process, which knows what is on the shelf now.
    let after = Rig::on(Arc::clone(&rig.store) as Arc<dyn Store>, |builder| builder.policies(policies));
    let handle = after.adapter.session(session(1)).await.unwrap();
    assert_eq!(admitted(&handle, 5).await, (3, false));
    handle.set_profile(told(Some("quiet"))).await.unwrap();
    assert_eq!(admitted(&handle, 6).await, (4, false));
    // One that knows none: the session is not lost for it.
    let handle = after.crash().adapter.session(session(1)).await.unwrap();
    assert_eq!(admitted(&handle, 7).await, (1, true));
}

/// What was seen, in words.
#[derive(Default)]
struct Tally {
    seen: Mutex<Vec<String>>,
    sessions: AtomicU64,
    waiters: AtomicU64,
}

impl Tally {
    fn saw(&self, what: String) {
        self.seen.lock().unwrap().push(what);
    }

    fn now(&self) -> (u64, u64) {
        (self.sessions.load(Ordering::SeqCst), self.waiters.load(Ordering::SeqCst))
    }
}

impl Observer for Tally {
    fn admitted(&self, kind: InputKind, outcome: &'static str) {
        self.saw(format!("{} {outcome}", kind.as_str()));
    }

    fn settled(&self, state: InputState, waited: Duration) {
        self.saw(format!("{state:?} after {waited:?}"));
    }

    fn run_started(&self, attempt: u32) {
        self.saw(format!("start {attempt}"));
    }

    fn run_ended(&self, how: &'static str, ran: Duration) {
        self.saw(format!("{how} after {ran:?}"));
    }

    fn sessions_open(&self, delta: i64) {
        self.sessions.fetch_add(delta as u64, Ordering::SeqCst);
    }

    fn waiters(&self, delta: i64) {
        self.waiters.fetch_add(delta as u64, Ordering::SeqCst);
    }

    fn dead_letter(&self) {
        self.saw("dead letter".into());
    }
}

#[tokio::test(start_paused = true)]
async fn who_observes_hears_of_inputs_runs_sessions_and_waiters() {
    let tally = Arc::new(Tally::default());
    let observer = Arc::clone(&tally) as Arc<dyn Observer>;
    let rig = Rig::with(|builder| builder.observer(observer).idle_after(600 * SECOND));
    let (handle, _, mut runs) = rig.session().await;
    let done = accept(&handle, input(1, "a").with_key("k").unwrap()).await;
    handle.accept(input(1, "a").with_key("k").unwrap()).await.unwrap();
    rejected(handle.accept(input(9, "b").with_key("k").unwrap()).await.unwrap());
    assert_eq!(tally.now(), (1, 1));
    let run = runs.next().await;
    tokio::time::sleep(2 * SECOND).await;
    run.text("done");
    assert_eq!(text(done.wait().await), "done");
    let done = accept(&handle, input(2, "b")).await;
    runs.next().await.finish(Err(CoreExecutorError::fatal("broken")));
    done.wait().await;
    assert_eq!(
        *tally.seen.lock().unwrap(),
        [
            "start 1",
            "prompt accepted",
            "prompt deduplicated",
            "prompt idempotency_key_reused",
            "completed after 2s",
            "Consumed after 2s",
            "start 1",
            "prompt accepted",
            "failed after 0ns",
            "Abandoned after 0ns",
            "dead letter",
        ]
    );
    assert_eq!(tally.now(), (1, 0));
    rig.adapter.shutdown().await;
    assert_eq!(tally.now(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_feed_ends_when_its_session_is_let_go_of() {
    type Leave = fn(&Rig) -> futures_util::future::BoxFuture<'_, ()>;
    let ways: [(&str, Leave); 4] = [
        ("unregistered", |rig| Box::pin(async { rig.adapter.unregister_session(session(1)).await.unwrap() })),
        ("shut down", |rig| Box::pin(rig.adapter.shutdown())),
        ("shut down while it is put away", |rig| {
            Box::pin(async {
                tokio::time::sleep(10 * SECOND).await;
                rig.adapter.shutdown().await;
            })
        }),
        ("deleted", |rig| {
            Box::pin(async {
                rig.handle().await.destroy().await.unwrap();
                rig.adapter.delete_session(session(1)).await.unwrap();
            })
        }),
    ];
    for (way, leave) in ways {
        let rig = Rig::with(|builder| builder.factory(Arc::new(Echoes)).idle_after(SECOND));
        let handle = rig.adapter.create_session(session(1), None).await.unwrap();
        let mut feed = handle.feed(Seq::ZERO);
        assert!(matches!(feed.next().await.unwrap(), FeedItem::Entry(_)));
        drop(handle);
        let following = tokio::spawn(async move {
            let mut names = Vec::new();
            loop {
                match feed.next().await.unwrap() {
                    FeedItem::Entry(entry) => names.push(entry.record.name()),
                    FeedItem::Ended => break,
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(feed.next().await.unwrap(), FeedItem::Ended, "and stays so");
            names
        });
        leave(&rig).await;
        let ended = tokio::time::timeout(60 * SECOND, following).await;
        let names = ended.unwrap_or_else(|_| panic!("{way}: nobody was told")).unwrap();
        // What was committed on the way out is handed out first.
        let last = if way == "deleted" { &["gate_changed"][..] } else { &[] };
        assert_eq!(names, last, "{way}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_feed_hands_out_the_last_entries_before_it_ends() {
    let rig = Rig::new();
    let (handle, executor, mut runs) = rig.session().await;
    let mut feed = handle.feed(Seq::ZERO);
    handle.accept(input(1, "a")).await.unwrap();
    let _run = runs.next().await;
    rig.adapter.shutdown().await;
    let mut names = Vec::new();
    while let FeedItem::Entry(entry) = feed.next().await.unwrap() {
        names.push(entry.record.name());
    }
    assert_eq!(names, ["session_created", "input_accepted", "run_started", "run_ended"]);
    assert_eq!(executor.stops(), ["runtime shut down"], "and its executor may clean up");
}

#[tokio::test(start_paused = true)]
async fn an_executor_of_a_session_that_is_put_away_hears_of_the_shutdown() {
    let rig = Rig::with(|builder| builder.idle_after(SECOND));
    let (executor, _runs) = ManualExecutor::new();
    drop(rig.attach(&executor).await);
    tokio::time::sleep(10 * SECOND).await;
    assert_eq!(executor.stops(), [""; 0], "being put away is no end");
    rig.adapter.shutdown().await;
    assert_eq!(executor.stops(), ["runtime shut down"]);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_was_only_looked_up_or_followed_costs_nothing_later() {
    let rig = Rig::with(|builder| builder.factory(Arc::new(Echoes)).idle_after(SECOND));
    for n in 1..=3 {
        rig.adapter.create_session(session(n), None).await.unwrap();
    }
    tokio::time::sleep(10 * SECOND).await;
    let none = "RuntimeSessionAdapter { sessions: 0, .. }";
    assert_eq!(registered(&rig), none);
    let looked_up = rig.adapter.session(session(1)).await.unwrap();
    let again = looked_up.clone();
    drop(looked_up);
    assert_eq!(registered(&rig), "RuntimeSessionAdapter { sessions: 1, .. }", "somebody still holds it");
    drop(again);
    assert_eq!(registered(&rig), none);
    // Followed, without ever being opened.
    let mut feed = rig.adapter.session(session(2)).await.unwrap().feed(Seq::ZERO);
    assert!(matches!(feed.next().await.unwrap(), FeedItem::Entry(_)));
    assert_eq!(registered(&rig), "RuntimeSessionAdapter { sessions: 1, .. }");
    drop(feed);
    assert_eq!(registered(&rig), none);
    // Followed, used, put away while followed.
    let mut feed = rig.adapter.session(session(3)).await.unwrap().feed(Seq(1));
    let done = accept(&rig.adapter.session(session(3)).await.unwrap(), input(1, "a")).await;
    assert_eq!(text(done.wait().await), "a");
    assert!(matches!(feed.next().await.unwrap(), FeedItem::Entry(_)));
    tokio::time::sleep(10 * SECOND).await;
    drop(feed);
    assert_eq!(registered(&rig), none);
    assert!(rig.adapter.contains_session(session(3)).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_session_is_looked_at_while_nothing_can_be_written() {
    for fault in [Fault::Full, Fault::ReadOnly] {
        let rig = Rig::new();
        let (handle, _executor, mut runs) = rig.session().await;
        handle.accept(input(1, "a")).await.unwrap();
        let _run = runs.next().await;
        handle.accept(input(2, "b")).await.unwrap();
        let after = Rig::on(Arc::clone(&rig.store) as Arc<dyn Store>, |builder| builder);
        for nth in 1..=6 {
            after.store.fail(Call::Open, nth, fault);
        }
        let handle = after.adapter.session(session(1)).await.unwrap();
        let view = handle.status().await.unwrap();
        assert_eq!((view.open_inputs, view.run.is_some()), (2, true));
        assert_eq!(state(&handle, input_id(2)).await, Some(InputState::Queued));
        assert!(handle.explain(input_id(2)).await.is_ok());
        let refused = handle.accept(input(3, "c")).await;
        assert!(matches!(refused, Err(SessionError::Store(StoreError::Full(_) | StoreError::ReadOnly(_)))));
        handle.accept(input(1, "a")).await.unwrap_err();
        drop(handle);
        // There is room again.
        tokio::time::sleep(600 * SECOND).await;
        after.handle().await.accept(input(3, "c")).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_that_is_no_longer_kept_says_so_when_it_is_redriven() {
    let rig = Rig::new();
    let (handle, _executor, mut runs) = rig.session().await;
    let done = accept(&handle, input(1, "a")).await;
    runs.next().await.finish(Err(CoreExecutorError::fatal("broken")));
    done.wait().await;
    let head = handle.status().await.unwrap().head;
    let row = rig.store.session(session(1)).await.unwrap().unwrap();
    let loaded = rig.store.load(session(1)).await.unwrap().unwrap();
    let (limits, policy) = (windlass_core::Limits::default(), Arc::new(PolicyTable::reference()));
    let snapshot = windlass_core::Session::recover(session(1), limits, policy, None, loaded.tail).unwrap().snapshot();
    let (fence, snapshot) = (row.fence, Arc::new(snapshot));
    rig.store
        .put_snapshot(PutSnapshot { session: session(1), fence, at: head, snapshot, keep_after: head })
        .await
        .unwrap();
    let gone = rejected(handle.redrive(input_id(1)).await.unwrap().0);
    assert_eq!(gone, RejectReason::NoLongerKept { input: input_id(1) });
}
