//! Does everything that peers send reach its session once, in order, and does everybody hear what became of it?

mod rig;

use async_trait::async_trait;
use proptest::prelude::*;
use rig::{Rig, SECOND, limits, state};
use serde_json::json;
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;
use uuid::Uuid;
use windlass_core::{
    Deliver, DrainExit, DrainPhase, Input, InputBody, InputState, PeerConvention, Record, RuntimeState, Seq, SessionId,
    TerminalStatus,
};
use windlass_runtime::{
    CoreApplyOutput, RuntimeSessionAdapter, SessionHandle,
    comms::{
        ChainId, Claim, CommsCommand, CommsError, CommsRuntime, Envelope, EnvelopeBody, EnvelopeId, Inbox, InboxRoom,
        Ingress, InteractionEvent, LocalNetwork, LocalPeer, NetworkRules, PeerInputCandidate, PeerName, PeerRules,
        PlainEvent, Receipt, Refusal, ResponseStatus, SendError, SendReceipt, SenderNames, TrustedPeer, causes_of,
    },
    store::Store,
    testing::{
        ManualExecutor,
        faulty_store::{Call, Fault},
        input, session,
    },
};

fn name(text: &str) -> PeerName {
    PeerName::new(text).unwrap()
}

fn message_envelope(n: u128, words: &str) -> Envelope {
    let body = EnvelopeBody::Message { body: words.into(), blocks: None, handling_mode: None };
    let id = EnvelopeId(Uuid::from_u128(n));
    Envelope { id, from: name("ada"), to: name("bob"), chain: ChainId(Uuid::from_u128(1)), hops: 0, body }
}

fn message(n: u128) -> PeerInputCandidate {
    Ingress::default().classify(&message_envelope(n, &format!("message {n}")), SenderNames::default()).unwrap()
}

fn dismissal(n: u128) -> PeerInputCandidate {
    Ingress::default().classify(&message_envelope(n, "DISMISS"), SenderNames::default()).unwrap()
}

/// Comms in the hands of a test.
struct Hands {
    inbox: Inbox,
    /// The next so many claims panic.
    panics: AtomicU32,
    claims: AtomicU32,
    /// Whoever is told never takes it.
    deaf: bool,
    told: Mutex<Vec<InteractionEvent>>,
    complete: Mutex<Vec<EnvelopeId>>,
    refused: Mutex<Vec<Refusal>>,
    closed: Mutex<Vec<Refusal>>,
}

impl Hands {
    fn new() -> Arc<Hands> {
        Hands::with(false)
    }

    fn with(deaf: bool) -> Arc<Hands> {
        Arc::new(Hands {
            inbox: Inbox::new(InboxRoom::default()),
            panics: AtomicU32::new(0),
            claims: AtomicU32::new(0),
            deaf,
            told: Mutex::default(),
            complete: Mutex::default(),
            refused: Mutex::default(),
            closed: Mutex::default(),
        })
    }

    fn offer(&self, candidate: PeerInputCandidate) {
        self.inbox.offer(candidate).unwrap();
    }
}

#[async_trait]
impl CommsRuntime for Hands {
    async fn claim(&self, most: usize) -> Result<Vec<Claim>, CommsError> {
        self.claims.fetch_add(1, Ordering::SeqCst);
        let panics = self.panics.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        assert!(panics.is_err(), "the test wants a panic");
        // An await between claim and admission, for aborts to fall into.
        tokio::task::yield_now().await;
        Ok(self.inbox.claim(most))
    }

    async fn acknowledge(&self, receipts: &[Receipt]) -> Result<(), CommsError> {
        tokio::task::yield_now().await;
        self.inbox.acknowledge(receipts);
        Ok(())
    }

    async fn refuse(&self, claim: &Claim, refusal: &Refusal) -> Result<(), CommsError> {
        self.inbox.acknowledge(&[claim.receipt]);
        self.refused.lock().unwrap().push(refusal.clone());
        Ok(())
    }

    async fn notified(&self) {
        self.inbox.notified().await;
    }

    async fn close(&self, refusal: &Refusal) {
        self.inbox.close();
        self.closed.lock().unwrap().push(refusal.clone());
    }

    fn is_subscribed(&self, _interaction: EnvelopeId) -> bool {
        true
    }

    async fn tell(&self, _interaction: EnvelopeId, event: InteractionEvent) {
        if self.deaf {
            std::future::pending::<()>().await;
        }
        self.told.lock().unwrap().push(event);
    }

    fn mark_interaction_complete(&self, interaction: EnvelopeId) {
        self.complete.lock().unwrap().push(interaction);
    }
}

/// Lets everything that can happen without time passing happen.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

/// The inputs of session 1 in the order of their admission.
async fn admitted(store: &dyn Store) -> Vec<Input> {
    admitted_by(store, session(1)).await
}

async fn admitted_by(store: &dyn Store, id: SessionId) -> Vec<Input> {
    let entries = store.read(id, Seq::ZERO, 10_000).await.unwrap();
    let inputs = entries.iter().filter_map(|entry| match &entry.record {
        Record::InputAccepted(accepted) => Some(accepted.input.clone()),
        _ => None,
    });
    inputs.collect()
}

fn envelope_of(input: &Input) -> u128 {
    input.header.correlation_id.unwrap().as_uuid().as_u128()
}

async fn hear(rig: &Rig, keep_alive: bool, comms: &Arc<Hands>) -> bool {
    rig.adapter.update_peer_ingress_context(&session(1), keep_alive, Some(Arc::clone(comms) as _)).await.unwrap()
}

// OC 76
// S 174
#[tokio::test(start_paused = true)]
async fn a_drain_that_is_aborted_anywhere_loses_nothing_and_doubles_nothing() {
    let mut mid_batch = 0;
    for turns in 0..120 {
        let rig = Rig::new();
        rig.adapter.register_session(session(1)).await.unwrap();
        let comms = Hands::new();
        (1..=10).for_each(|n| comms.offer(message(n)));
        assert!(hear(&rig, true, &comms).await);
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
        rig.adapter.abort_comms_drain(&session(1));
        rig.adapter.wait_comms_drain(&session(1)).await;
        mid_batch += u32::from((1..10).contains(&comms.inbox.len()));
        settle().await;
        let before = comms.inbox.len();
        settle().await;
        assert_eq!(comms.inbox.len(), before, "an aborted drain takes nothing more");

        assert!(hear(&rig, true, &comms).await, "a successor");
        settle().await;
        let order: Vec<u128> = admitted(&*rig.store).await.iter().map(envelope_of).collect();
        assert_eq!(order, (1..=10).collect::<Vec<_>>(), "aborted after {turns} turns");
        assert!(comms.inbox.is_empty());
    }
    assert!(mid_batch > 5, "the loop has to hit the middle of the batch, it did {mid_batch} times");
}

// OC 65
#[test]
fn redelivery_in_any_order_admits_once_and_in_order() {
    let deliveries = proptest::collection::vec((1_u128..8, 0_usize..30, any::<bool>()), 1..24);
    proptest!(ProptestConfig::with_cases(48), |(deliveries in deliveries)| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let rig = Rig::new();
            rig.adapter.register_session(session(1)).await.unwrap();
            let comms = Hands::new();
            hear(&rig, true, &comms).await;
            let mut expected = Vec::new();
            for (n, turns, abort) in deliveries {
                comms.offer(message(n));
                if !expected.contains(&n) {
                    expected.push(n);
                }
                for _ in 0..turns {
                    tokio::task::yield_now().await;
                }
                if abort {
                    rig.adapter.abort_comms_drain(&session(1));
                    hear(&rig, true, &comms).await;
                }
            }
            settle().await;
            let order: Vec<u128> = admitted(&*rig.store).await.iter().map(envelope_of).collect();
            assert_eq!(order, expected);
            assert!(comms.inbox.is_empty());
        });
    });
}

// OC 73, 74, 80
// S 175
#[tokio::test(start_paused = true)]
async fn the_drain_follows_the_session() {
    let rig = Rig::new();
    let comms = Hands::new();
    assert!(!hear(&rig, true, &comms).await, "nobody hears for a session that is not registered");
    assert!(!rig.adapter.session_has_comms(&session(1)));

    rig.adapter.register_session(session(1)).await.unwrap();
    let phase = || rig.adapter.comms_drain_phase(&session(1));
    assert!(!hear(&rig, false, &comms).await, "idle and not kept alive");
    assert!(rig.adapter.session_has_comms(&session(1)));
    assert_eq!(phase(), DrainPhase::Inactive);
    assert!(hear(&rig, true, &comms).await, "idle and kept alive");
    assert!(!hear(&rig, true, &comms).await, "it is there already");

    let (executor, mut runs) = ManualExecutor::new();
    let handle = rig.attach(&executor).await;
    hear(&rig, false, &comms).await;
    assert_eq!(phase(), DrainPhase::Running, "an executor is there");
    comms.offer(message(1));
    let run = runs.next().await;
    assert_eq!(phase(), DrainPhase::Running, "a run is on");
    run.text("heard");
    settle().await;

    handle.retire().await.unwrap();
    settle().await;
    assert_eq!(phase(), DrainPhase::Stopped, "a retired session takes nothing");
    comms.offer(message(2));
    settle().await;
    assert_eq!(comms.inbox.len(), 1, "it waits");
    handle.reset(false).await.unwrap();
    runs.next().await.text("heard");
    assert_eq!(phase(), DrainPhase::Running, "the reset has opened the gate");

    handle.stop().await.unwrap();
    settle().await;
    assert_eq!(phase(), DrainPhase::Stopped);
    let (executor, _runs) = ManualExecutor::new();
    rig.attach(&executor).await;
    settle().await;
    assert_eq!(phase(), DrainPhase::Running, "attached again");

    rig.adapter.unregister_session(session(1)).await.unwrap();
    assert_eq!(phase(), DrainPhase::Inactive, "there is no slot any more");
    comms.offer(message(3));
    settle().await;
    assert_eq!(comms.inbox.len(), 1);

    rig.adapter.register_session(session(1)).await.unwrap();
    hear(&rig, true, &comms).await;
    settle().await;
    assert!(comms.inbox.is_empty(), "what waited is heard by whoever listens next");
    rig.handle().await.destroy().await.unwrap();
    settle().await;
    assert!(!rig.adapter.session_has_comms(&session(1)));
    assert_eq!(comms.closed.lock().unwrap()[0].code, "session_state_conflict", "senders hear that it is over");
}

// OC 71, 75
// S 175
#[tokio::test(start_paused = true)]
async fn an_idle_drain_sees_a_dismissal_at_once_and_does_not_come_back() {
    for attached in [false, true] {
        let rig = Rig::new();
        rig.adapter.register_session(session(1)).await.unwrap();
        let (executor, mut runs) = ManualExecutor::new();
        if attached {
            rig.attach(&executor).await;
        }
        let comms = Hands::new();
        hear(&rig, true, &comms).await;
        settle().await;
        comms.offer(message(1));
        comms.offer(dismissal(2));
        if attached {
            // The first message is handled before it is dismissed, because it came before.
            drop(runs.next().await);
        }
        settle().await;
        rig.adapter.wait_comms_drain(&session(1)).await;
        let handle = rig.handle().await;
        assert_eq!(handle.state().await.unwrap(), RuntimeState::Stopped);
        assert_eq!(rig.adapter.comms_drain_phase(&session(1)), DrainPhase::Stopped);
        assert_eq!(admitted(&*rig.store).await.len(), 1, "a dismissal is no input");
        comms.offer(message(3));
        tokio::time::sleep(600 * SECOND).await;
        assert_eq!(comms.inbox.len(), 1, "no drain came back");
        assert_eq!(executor.stops(), if attached { vec!["runtime stopped"] } else { vec![] });

        rig.adapter.register_session(session(1)).await.unwrap();
        settle().await;
        assert!(comms.inbox.is_empty(), "registering it again revives it");
        assert_eq!(handle.state().await.unwrap(), RuntimeState::Idle, "the dismissal is not done twice");
    }
}

// OC 77
// S 175
#[tokio::test(start_paused = true)]
async fn a_drain_that_panics_is_noticed_and_comes_back_ever_more_slowly() {
    let rig = Rig::new();
    rig.adapter.register_session(session(1)).await.unwrap();
    let comms = Hands::new();
    comms.panics.store(4, Ordering::SeqCst);
    comms.offer(message(1));
    let began = Instant::now();
    hear(&rig, true, &comms).await;
    settle().await;
    assert_eq!(rig.adapter.comms_drain_phase(&session(1)), DrainPhase::ExitedRespawnable, "nobody had to wait for it");
    while !comms.inbox.is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // 100 + 200 + 400 + 800 ms.
    assert!((1_500..1_600).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    let claims = comms.claims.load(Ordering::SeqCst);
    assert!((6..=7).contains(&claims), "four panics, one that took it, then nothing: {claims}");
    assert_eq!(admitted(&*rig.store).await.len(), 1);
}

// OC 78
#[tokio::test(start_paused = true)]
async fn waiting_for_a_drain_does_nothing_to_it() {
    let rig = Rig::new();
    rig.adapter.register_session(session(1)).await.unwrap();
    let comms = Hands::new();
    hear(&rig, true, &comms).await;
    let id = session(1);
    let adapter = &rig.adapter;
    let both = async { tokio::join!(adapter.wait_comms_drain(&id), adapter.wait_comms_drain(&id)) };
    tokio::pin!(both);
    assert!(tokio::time::timeout(10 * SECOND, &mut both).await.is_err());
    assert_eq!(adapter.comms_drain_phase(&id), DrainPhase::Running);
    comms.offer(message(1));
    settle().await;
    assert!(comms.inbox.is_empty(), "it lives");
    adapter.abort_comms_drains();
    both.await;
    assert_eq!(adapter.comms_drain_phase(&id), DrainPhase::Stopped);
}

// OC 79
#[tokio::test(start_paused = true)]
async fn new_comms_take_over_after_the_old_drain_has_ended() {
    let rig = Rig::new();
    rig.adapter.register_session(session(1)).await.unwrap();
    let (old, new) = (Hands::new(), Hands::new());
    hear(&rig, true, &old).await;
    settle().await;
    assert!(hear(&rig, true, &new).await, "another drain, for the new comms");
    settle().await;
    let claims = old.claims.load(Ordering::SeqCst);
    old.offer(message(1));
    new.offer(message(2));
    settle().await;
    assert_eq!((old.inbox.len(), new.inbox.len()), (1, 0));
    assert_eq!(old.claims.load(Ordering::SeqCst), claims, "the old drain is gone");
    // None takes them away.
    rig.adapter.update_peer_ingress_context(&session(1), true, None).await.unwrap();
    assert!(!rig.adapter.session_has_comms(&session(1)));
    assert_eq!(rig.adapter.comms_drain_phase(&session(1)), DrainPhase::Stopped);
}

#[tokio::test(start_paused = true)]
async fn a_drain_that_is_reported_as_ended_is_told_apart_from_an_older_one() {
    let rig = Rig::new();
    rig.adapter.register_session(session(1)).await.unwrap();
    let comms = Hands::new();
    hear(&rig, true, &comms).await;
    rig.adapter.notify_comms_drain_exited(&session(1), DrainExit::Failed);
    assert_eq!(rig.adapter.comms_drain_phase(&session(1)), DrainPhase::ExitedRespawnable);
    settle().await;
    tokio::time::sleep(SECOND).await;
    assert_eq!(rig.adapter.comms_drain_phase(&session(1)), DrainPhase::Running, "it came back");
    rig.adapter.notify_comms_drain_exited(&session(1), DrainExit::SessionShutdown);
    tokio::time::sleep(60 * SECOND).await;
    assert_eq!(rig.adapter.comms_drain_phase(&session(1)), DrainPhase::Stopped, "that one was not to");
    rig.adapter.notify_comms_drain_exited(&session(404), DrainExit::Failed);
}

#[tokio::test(start_paused = true)]
async fn a_runtime_shuts_down_with_its_drains() {
    let rig = Rig::new();
    let (_, _, _runs) = rig.session().await;
    let comms = Hands::new();
    hear(&rig, true, &comms).await;
    tokio::time::timeout(30 * SECOND, rig.adapter.shutdown()).await.expect("a drain does not hold it up");
    comms.offer(message(1));
    settle().await;
    assert_eq!(comms.inbox.len(), 1, "for the next life");
}

// OC 81, 83
#[tokio::test(start_paused = true)]
async fn whoever_waits_for_an_interaction_hears_how_it_ended() {
    let rig = Rig::new();
    let (handle, _, mut runs) = rig.session().await;
    let network = LocalNetwork::new(NetworkRules::default());
    let peer = join(&network, &rig.adapter, 1, PeerRules::default()).await;
    let complete = |result: &str| InteractionEvent::InteractionComplete { result: result.into() };
    let event = |words: &str| PlainEvent::new(name("webhook"), words);

    let done = peer.inject_and_subscribe(event("one")).unwrap();
    runs.next().await.text("done");
    assert_eq!(done.ended().await, complete("done"));
    let silent = peer.inject_and_subscribe(event("two")).unwrap();
    runs.next().await.finish(Ok(CoreApplyOutput::default()));
    assert_eq!(silent.ended().await, complete(""));

    let too_deep = (0..100).fold(json!(1), |inner, _| json!([inner]));
    let content = windlass_runtime::comms::InteractionContent::Request { intent: "i".into(), params: too_deep };
    let refused = peer.inject_and_subscribe(PlainEvent { content, ..event("three") }).unwrap();
    let InteractionEvent::InteractionFailed { error } = refused.ended().await else { panic!("refused") };
    assert!(error.contains("nested"), "{error}");
    assert_eq!((peer.waiting(), network.counters().refused("json_too_deep")), (0, 1), "refused, told and taken out");

    let cut_off = peer.inject_and_subscribe(event("four")).unwrap();
    let _run = runs.next().await;
    handle.stop().await.unwrap();
    assert!(matches!(cut_off.ended().await, InteractionEvent::InteractionFailed { .. }));
}

// OC 82
#[tokio::test(start_paused = true)]
async fn nobody_waits_longer_than_five_seconds_for_a_subscriber() {
    let rig = Rig::new();
    let (_, _, mut runs) = rig.session().await;
    let comms = Hands::with(true);
    hear(&rig, false, &comms).await;
    comms.offer(message(1));
    runs.next().await.text("done");
    settle().await;
    let began = Instant::now();
    while comms.complete.lock().unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!((4_900..5_100).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    assert!(comms.told.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_session_without_room_leaves_envelopes_in_the_inbox() {
    let rig = Rig::with(|builder| builder.limits(limits(|limits| limits.queued = 2)));
    let (handle, _, mut runs) = rig.session().await;
    handle.hold().await.unwrap();
    let comms = Hands::new();
    (1..=5).for_each(|n| comms.offer(message(n)));
    hear(&rig, false, &comms).await;
    tokio::time::sleep(10 * SECOND).await;
    assert_eq!((comms.inbox.len(), comms.refused.lock().unwrap().len()), (3, 0), "it waits, it is not refused");
    handle.release().await.unwrap();
    let mut handled = 0;
    while handled < 5 {
        let run = tokio::time::timeout(600 * SECOND, runs.next()).await.expect("a run of what waits");
        handled += run.turn.primitive().contributing_input_ids.len();
        run.text("done");
    }
    let order: Vec<u128> = admitted(&*rig.store).await.iter().map(envelope_of).collect();
    assert_eq!(order, [1, 2, 3, 4, 5]);
}

#[tokio::test(start_paused = true)]
async fn silence_without_room_does_not_hold_up_those_who_speak() {
    let rig = Rig::with(|builder| builder.limits(limits(|limits| limits.aside = 1)));
    let (_, _, mut runs) = rig.session().await;
    let comms = Hands::new();
    let silent = Ingress { silent_intents: ["note".into()].into(), ..Ingress::default() };
    for n in 1..=2 {
        let body = EnvelopeBody::Request { intent: "note".into(), params: json!({}), handling_mode: None };
        let envelope = Envelope { body, ..message_envelope(n, "") };
        comms.offer(silent.classify(&envelope, SenderNames::default()).unwrap());
    }
    comms.offer(message(3));
    hear(&rig, false, &comms).await;
    let run = runs.next().await;
    assert_eq!(run.turn.primitive().contributing_input_ids.len(), 2, "the message, and the note there was room for");
    assert_eq!(comms.refused.lock().unwrap()[0].code, "queue_full");
}

#[tokio::test(start_paused = true)]
async fn what_a_store_could_not_take_is_brought_again() {
    for fault in [Fault::Full, Fault::Unavailable, Fault::UnknownButDone, Fault::UnknownNotDone] {
        let rig = Rig::new();
        rig.adapter.register_session(session(1)).await.unwrap();
        let comms = Hands::new();
        hear(&rig, true, &comms).await;
        rig.store.fail(Call::Append, 1, fault);
        comms.offer(message(1));
        comms.offer(message(2));
        tokio::time::sleep(60 * SECOND).await;
        let order: Vec<u128> = admitted(&*rig.store).await.iter().map(envelope_of).collect();
        assert_eq!(order, [1, 2], "{fault:?}");
        assert!(comms.inbox.is_empty());
    }
}

/// Session `n` joins under its number's name, with an executor attached before.
async fn join(network: &LocalNetwork, adapter: &RuntimeSessionAdapter, n: u128, rules: PeerRules) -> Arc<LocalPeer> {
    let rules = PeerRules { runtime_id: Some(session(n).to_string()), ..rules };
    let peer = network.join(name(&format!("agent-{n}")), rules).unwrap();
    adapter.update_peer_ingress_context(&session(n), false, Some(Arc::clone(&peer) as _)).await.unwrap();
    peer
}

fn peer_of(input: &Input) -> &windlass_core::Peer {
    match &input.body {
        InputBody::Peer(peer) => peer,
        body => panic!("{body:?}"),
    }
}

/// Two sessions in the hands of the test, on one network.
struct Two {
    rig: Rig,
    network: LocalNetwork,
    a: Arc<LocalPeer>,
    b: Arc<LocalPeer>,
    a_runs: windlass_runtime::testing::Runs,
    b_runs: windlass_runtime::testing::Runs,
    b_handle: SessionHandle,
}

impl Two {
    async fn new(rules: NetworkRules, b_rules: PeerRules) -> Two {
        let rig = Rig::new();
        let (executor, a_runs) = ManualExecutor::new();
        rig.adapter.ensure_session_with_executor(session(1), executor).await.unwrap();
        let (executor, b_runs) = ManualExecutor::new();
        rig.adapter.ensure_session_with_executor(session(2), executor).await.unwrap();
        let b_handle = rig.adapter.session(session(2)).await.unwrap();
        let network = LocalNetwork::new(rules);
        let a = join(&network, &rig.adapter, 1, PeerRules::default()).await;
        let b = join(&network, &rig.adapter, 2, b_rules).await;
        Two { rig, network, a, b, a_runs, b_runs, b_handle }
    }

    async fn ask(&self, intent: &str) -> EnvelopeId {
        match self.a.send(CommsCommand::request(name("agent-2"), intent, json!({"n": 1}))).await.unwrap() {
            SendReceipt::PeerRequestSent { request_id, .. } => request_id,
            receipt => panic!("{receipt:?}"),
        }
    }

    /// How the requests of session 1 ended, as far as they have.
    async fn terminals(&self) -> Vec<(String, TerminalStatus)> {
        let inputs = admitted_by(&*self.rig.store, session(1)).await;
        let ends = inputs.iter().filter_map(|input| match peer_of(input).convention.clone()? {
            PeerConvention::ResponseTerminal { request_id, status } => Some((request_id, status)),
            _ => None,
        });
        ends.collect()
    }
}

// OC 62
// S 172, 173
#[tokio::test(start_paused = true)]
async fn a_request_is_answered_once_and_knows_where_it_came_from() {
    let mut two = Two::new(NetworkRules::default(), PeerRules::default()).await;
    let request = two.ask("sum").await;
    let run = two.b_runs.next().await;
    assert!(run.turn.primitive().text().starts_with(&format!("[COMMS REQUEST from agent-1 (id: {request})]")));
    let response = |status| CommsCommand::response(name("agent-1"), request, status, json!(2));
    two.b.send(response(ResponseStatus::Accepted)).await.unwrap();
    settle().await;
    assert!(two.a_runs.started().is_none(), "progress starts no run");
    two.b.send(response(ResponseStatus::Completed)).await.unwrap();
    let late = two.b.send(response(ResponseStatus::Failed)).await;
    assert_eq!(late, Err(SendError::RequestClosed(request)));
    run.text("answered");
    two.a_runs.next().await.text("read");
    settle().await;
    assert!(two.a_runs.started().is_none(), "one terminal response, one run, no continuation");
    assert_eq!(two.terminals().await, [(request.to_string(), TerminalStatus::Completed)]);
    let inputs = admitted_by(&*two.rig.store, session(1)).await;
    assert_eq!(inputs.len(), 2, "progress and end");
    for input in &inputs {
        let runtime_id = Some(session(2).to_string());
        let origin = windlass_core::InputOrigin::Peer { peer_id: "agent-2".into(), runtime_id };
        assert_eq!(input.header.source, origin, "the sender's runtime, not the receiver's");
    }
    assert_eq!(two.network.counters().refused("session_state_conflict"), 1);
}

#[tokio::test(start_paused = true)]
async fn only_whoever_was_asked_may_answer() {
    let two = Two::new(NetworkRules::default(), PeerRules::default()).await;
    let request = two.ask("sum").await;
    let other = two.network.join(name("mallory"), PeerRules::default()).unwrap();
    let forged = CommsCommand::response(name("agent-1"), request, ResponseStatus::Completed, json!("forged"));
    assert_eq!(other.send(forged).await, Err(SendError::RequestClosed(request)));
    let never = EnvelopeId::new();
    let unasked = CommsCommand::response(name("agent-1"), never, ResponseStatus::Completed, json!(1));
    assert_eq!(two.b.send(unasked).await, Err(SendError::RequestClosed(never)));
    assert!(two.network.join(name("mallory"), PeerRules::default()).is_err(), "nobody is pushed aside");
}

#[tokio::test(start_paused = true)]
async fn every_request_ends_even_if_its_receiver_does_not() {
    // Silent until the deadline.
    let mut two = Two::new(NetworkRules::default(), PeerRules::default()).await;
    let request = two.ask("sum").await;
    two.b_runs.next().await.text("forgot to answer");
    tokio::time::sleep(299 * SECOND).await;
    assert!(two.terminals().await.is_empty());
    tokio::time::sleep(2 * SECOND).await;
    assert_eq!(two.terminals().await, [(request.to_string(), TerminalStatus::Failed)]);
    let run = two.a_runs.next().await;
    assert!(run.turn.primitive().text().contains("deadline_exceeded"));
    run.text("read");
    let late = CommsCommand::response(name("agent-1"), request, ResponseStatus::Completed, json!(1));
    assert_eq!(two.b.send(late).await, Err(SendError::RequestClosed(request)), "one end, not two");

    // Gone.
    let request = two.ask("sum").await;
    two.b_runs.next().await.text("and leaves");
    two.b.leave();
    settle().await;
    assert_eq!(two.terminals().await[1], (request.to_string(), TerminalStatus::Failed));
    let error = two.a.send(CommsCommand::message(name("agent-2"), "hello?")).await.unwrap_err();
    assert_eq!(error, SendError::PeerNotFound(name("agent-2")));

    // Destroyed with the request in its inbox.
    let mut two = Two::new(NetworkRules::default(), PeerRules::default()).await;
    two.rig.adapter.abort_comms_drain(&session(2));
    let request = two.ask("sum").await;
    two.b_handle.destroy().await.unwrap();
    settle().await;
    assert_eq!(two.terminals().await, [(request.to_string(), TerminalStatus::Failed)]);
    assert!(two.a_runs.next().await.turn.primitive().text().contains("session_state_conflict"));
    let error = two.a.send(CommsCommand::message(name("agent-2"), "hello?")).await.unwrap_err();
    assert_eq!(error, SendError::InputClosed(name("agent-2")));
}

#[tokio::test(start_paused = true)]
async fn a_sender_hears_that_a_session_did_not_take_what_it_sent() {
    let mut two = Two::new(NetworkRules::default(), PeerRules::default()).await;
    // Just what a sender may send, and with its header more than a receiver takes.
    let long = "x".repeat(1 << 20);
    two.a.send(CommsCommand::message(name("agent-2"), long.clone())).await.unwrap();
    let refused = two.a_runs.next().await;
    assert!(refused.turn.primitive().text().contains("payload_too_large"));
    refused.text("read");
    two.a.send(CommsCommand::request(name("agent-2"), "read", json!(long))).await.unwrap();
    let refused = two.a_runs.next().await;
    assert!(refused.turn.primitive().text().contains("payload_too_large"));
    assert_eq!(two.network.counters().refused("payload_too_large"), 2);
    assert!(two.b_runs.started().is_none());
}

// OC 67
#[tokio::test(start_paused = true)]
async fn a_full_inbox_turns_senders_away_but_never_an_answer() {
    let rules = NetworkRules { room: InboxRoom { entries: 2, bytes: 1 << 20 }, requests: 3, ..NetworkRules::default() };
    let mut two = Two::new(rules, PeerRules::default()).await;
    let request = two.ask("sum").await;
    two.b_runs.next().await.text("later");
    two.rig.adapter.abort_comms_drains();
    let hello = |to: &str| CommsCommand::message(name(to), "hello");
    two.b.send(hello("agent-1")).await.unwrap();
    two.b.send(hello("agent-1")).await.unwrap();
    assert_eq!(two.b.send(hello("agent-1")).await, Err(SendError::InboxFull(name("agent-1"))));
    let answer = CommsCommand::response(name("agent-1"), request, ResponseStatus::Completed, json!(1));
    two.b.send(answer).await.unwrap();
    assert_eq!((two.a.waiting(), two.network.counters().refused("queue_full")), (3, 1));
    for _ in 0..2 {
        two.ask("more").await;
    }
    let turned_away = two.a.send(CommsCommand::request(name("agent-2"), "more", json!({}))).await;
    assert_eq!(turned_away, Err(SendError::InboxFull(name("agent-2"))));
}

// OC 66
#[tokio::test(start_paused = true)]
async fn a_silent_request_goes_with_the_next_turn() {
    let silent = Ingress { silent_intents: ["note".into()].into(), ..Ingress::default() };
    let mut two = Two::new(NetworkRules::default(), PeerRules { ingress: silent, ..PeerRules::default() }).await;
    let steered = EnvelopeBody::Request {
        intent: "note".into(),
        params: json!({"it": "rains"}),
        handling_mode: Some(windlass_core::HandlingMode::Steer),
    };
    two.a.send(CommsCommand::Peer { to: name("agent-2"), body: steered, causes: vec![], id: None }).await.unwrap();
    tokio::time::sleep(60 * SECOND).await;
    assert!(two.b_runs.started().is_none(), "nobody is woken");
    let inputs = admitted_by(&*two.rig.store, session(2)).await;
    assert_eq!(state(&two.b_handle, inputs[0].id()).await, Some(InputState::Queued));
    two.b_handle.accept(input(1, "what is the weather?")).await.unwrap();
    let run = two.b_runs.next().await;
    let primitive = run.turn.primitive();
    assert_eq!((primitive.appends.len(), primitive.context_appends.len()), (1, 1));
    run.text("it rains");
    settle().await;
    assert_eq!(state(&two.b_handle, inputs[0].id()).await, Some(InputState::Consumed));
    let entries = two.rig.store.read(session(2), Seq::ZERO, 100).await.unwrap();
    let deliveries = entries.iter().filter_map(|entry| match &entry.record {
        Record::InputAccepted(accepted) => Some(accepted.decision.deliver),
        _ => None,
    });
    assert_eq!(deliveries.collect::<Vec<_>>(), [Deliver::WithNextRun, Deliver::NextRun]);
}

// OC 55, 59
#[tokio::test(start_paused = true)]
async fn trust_counts_when_an_envelope_comes_in() {
    let ingress = Ingress { auth_required: true, ..Ingress::default() };
    let mut two = Two::new(NetworkRules::default(), PeerRules { ingress, ..PeerRules::default() }).await;
    let hello = || CommsCommand::message(name("agent-2"), "hello");
    assert_eq!(two.a.send(hello()).await, Err(SendError::PeerNotSendable(name("agent-2"))));
    assert_eq!((two.b.waiting(), two.network.counters().refused("peer_unknown")), (0, 1), "nothing is kept of it");

    let ada = TrustedPeer { name: name("ada"), key: name("agent-1"), address: String::new() };
    two.b.add_trusted_peer(ada).await.unwrap();
    assert_eq!(two.b.peers().await[0].name, name("ada"));
    two.rig.adapter.abort_comms_drain(&session(2));
    two.a.send(hello()).await.unwrap();
    assert!(two.b.remove_trusted_peer(&name("agent-1")).await.unwrap());
    assert!(!two.b.remove_trusted_peer(&name("agent-1")).await.unwrap());
    assert!(two.b.peers().await.is_empty());
    assert_eq!(two.a.send(hello()).await, Err(SendError::PeerNotSendable(name("agent-2"))));

    let comms = Some(Arc::clone(&two.b) as _);
    two.rig.adapter.update_peer_ingress_context(&session(2), false, comms).await.unwrap();
    let run = two.b_runs.next().await;
    assert_eq!(run.turn.primitive().text(), "[COMMS MESSAGE from ada]\nhello", "as it was when it came");
}

#[tokio::test(start_paused = true)]
async fn agents_that_answer_each_other_for_ever_are_stopped() {
    let mut two = Two::new(NetworkRules::default(), PeerRules::default()).await;
    two.a.send(CommsCommand::message(name("agent-2"), "ping")).await.unwrap();
    let mut hops = 0;
    let error = loop {
        let (sender, to, runs) =
            if hops % 2 == 0 { (&two.b, "agent-1", &mut two.b_runs) } else { (&two.a, "agent-2", &mut two.a_runs) };
        let run = runs.next().await;
        let pong = CommsCommand::message(name(to), "pong").because_of(causes_of(run.turn.inputs()));
        let sent = sender.send(pong).await;
        run.text("answered");
        match sent {
            Ok(_) => hops += 1,
            Err(error) => break error,
        }
        assert!(hops < 100, "the loop is never noticed");
    };
    assert_eq!(error, SendError::LoopDetected { hops: 17, limit: 16 });
    assert_eq!((hops, error.code(), two.network.counters().refused("loop_detected")), (16, "loop_detected", 1));
    // Something new may be said all the same.
    two.a.send(CommsCommand::message(name("agent-2"), "something else")).await.unwrap();
}

// OC 60
#[tokio::test(start_paused = true)]
async fn an_input_command_names_the_input_it_becomes() {
    let mut two = Two::new(NetworkRules::default(), PeerRules::default()).await;
    let command = json!({"kind": "input", "body": "it rains", "source": "webhook"});
    let command: windlass_runtime::comms::CommsCommandRequest = serde_json::from_value(command).unwrap();
    let receipt = two.a.send(command.parse().unwrap()).await.unwrap();
    let SendReceipt::InputAccepted { interaction_id } = receipt else { panic!("{receipt:?}") };
    let run = two.a_runs.next().await;
    assert_eq!(run.turn.primitive().text(), "[EVENT via webhook] it rains");
    let inputs = admitted_by(&*two.rig.store, session(1)).await;
    assert_eq!(envelope_of(&inputs[0]), interaction_id.0.as_u128());
}

/// What both members of a network have, in one more life of their process.
struct Life {
    rig: Rig,
    a: Arc<LocalPeer>,
    b: Arc<LocalPeer>,
    b_runs: windlass_runtime::testing::Runs,
}

impl Life {
    /// `b_hears`: whether the second session has a drain.
    async fn begin(rig: Rig, b_hears: bool) -> Life {
        let network = LocalNetwork::new(NetworkRules::default());
        rig.adapter.register_session(session(1)).await.unwrap();
        let (executor, b_runs) = ManualExecutor::new();
        rig.adapter.ensure_session_with_executor(session(2), executor).await.unwrap();
        let a = network.join(name("agent-1"), PeerRules::default()).unwrap();
        // Before the other one has joined: what was not delivered finds its way all the same.
        rig.adapter.update_peer_ingress_context(&session(1), true, Some(Arc::clone(&a) as _)).await.unwrap();
        let b = join(&network, &rig.adapter, 2, PeerRules::default()).await;
        if !b_hears {
            rig.adapter.abort_comms_drain(&session(2));
            rig.adapter.wait_comms_drain(&session(2)).await;
        }
        Life { rig, a, b, b_runs }
    }

    async fn next(&self, b_hears: bool) -> Life {
        Life::begin(self.rig.crash(), b_hears).await
    }

    /// The terminal responses that the first session admitted.
    async fn terminals(&self) -> Vec<TerminalStatus> {
        let inputs = admitted_by(&*self.rig.store, session(1)).await;
        let ends = inputs.iter().filter_map(|input| match peer_of(input).convention.clone()? {
            PeerConvention::ResponseTerminal { status, .. } => Some(status),
            _ => None,
        });
        ends.collect()
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_sent_outlives_the_process_and_every_request_ends_once() {
    let ask = || CommsCommand::request(name("agent-2"), "sum", json!({"n": 1}));
    let answer = |id| CommsCommand::response(name("agent-1"), id, ResponseStatus::Completed, json!(2));
    let asked = |receipt| match receipt {
        SendReceipt::PeerRequestSent { request_id, .. } => request_id,
        receipt => panic!("{receipt:?}"),
    };

    // Admitted, then the process dies: the answer of the next life is let in.
    let mut first = Life::begin(Rig::new(), true).await;
    let request = asked(first.a.send(ask()).await.unwrap());
    first.b_runs.next().await;
    settle().await;
    let mut second = first.next(true).await;
    let run = second.b_runs.next().await;
    second.b.send(answer(request)).await.unwrap();
    assert_eq!(second.b.send(answer(request)).await, Err(SendError::RequestClosed(request)));
    run.text("answered");
    tokio::time::sleep(1_000 * SECOND).await;
    assert_eq!(second.terminals().await, [TerminalStatus::Completed]);
    assert_eq!(admitted_by(&*second.rig.store, session(2)).await.len(), 1, "the request was heard once");

    // In an inbox when the process dies: brought again. The answer dies in an inbox too, and is brought again.
    let first = Life::begin(Rig::new(), false).await;
    let request = asked(first.a.send(ask()).await.unwrap());
    let hello = first.a.send(CommsCommand::message(name("agent-2"), "hello")).await.unwrap();
    assert!(matches!(hello, SendReceipt::PeerMessageSent { acked: false, .. }), "{hello:?}");
    assert_eq!(first.b.waiting(), 2);
    let mut second = first.next(true).await;
    settle().await;
    let run = tokio::time::timeout(10 * SECOND, second.b_runs.next()).await.expect("brought again");
    second.rig.adapter.abort_comms_drain(&session(1));
    second.rig.adapter.wait_comms_drain(&session(1)).await;
    second.b.send(answer(request)).await.unwrap();
    run.text("answered");
    settle().await;
    assert_eq!((second.a.waiting(), second.terminals().await.len()), (1, 0));
    let third = second.next(true).await;
    tokio::time::sleep(1_000 * SECOND).await;
    assert_eq!(third.terminals().await, [TerminalStatus::Completed]);
    assert_eq!(admitted_by(&*third.rig.store, session(2)).await.len(), 2, "request and message, once each");

    // Nobody answers, and nobody is alive when the time is up.
    let first = Life::begin(Rig::new(), false).await;
    first.a.send(ask()).await.unwrap();
    first.a.send(CommsCommand::message(name("agent-2"), "hello")).await.unwrap();
    let rig = first.rig.crash();
    rig.clock.jump(301_000_000);
    let second = Life::begin(rig, false).await;
    settle().await;
    assert_eq!(second.terminals().await, [TerminalStatus::Failed; 2], "each is told");
    tokio::time::sleep(1_000 * SECOND).await;
    let third = second.next(true).await;
    tokio::time::sleep(1_000 * SECOND).await;
    assert_eq!(third.terminals().await.len(), 2, "once");
    assert!(admitted_by(&*third.rig.store, session(2)).await.is_empty(), "what was given up is not brought later");
}
