//! How does somebody follow sessions over HTTP?
//!
//! Server-sent events: each entry of a journal is an event with its position as id, so that a stream that was cut goes
//! on where it ended. Live progress has no id and may be missed, which is told. A stream holds a place in a channel and
//! nothing else; it ends when its client goes, the session is deleted, the token is over or the server shuts down.

use super::{
    Named,
    cursor::List,
    fanout::{Follower, Item, Mark, ended},
    journal::position,
    places::Place,
    reach,
};
use crate::{
    auth::{Principal, Scope, authenticate},
    guard::ClientIp,
    handover::Endless,
    json::StrictQuery,
    problem::{Code, Problem},
    state::AppState,
};
use axum::{
    body::Body,
    extract::{Extension, State},
    response::{IntoResponse, Response},
};
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, HeaderName, header};
use serde::Deserialize;
use std::{collections::BTreeMap, convert::Infallible, net::IpAddr, time::Duration};
use tokio::time::{Instant, Interval, MissedTickBehavior};
use windlass_core::{Seq, SessionId, Timestamp};
use windlass_runtime::SessionHandle;

/// How often a stream without events says that it is there.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How often it is asked whether the caller may still follow.
const RECHECK: Duration = Duration::from_secs(45);
/// Sessions of one stream.
const SESSIONS: usize = 64;
/// Events that are ready at once are sent together, up to so many bytes.
const TOGETHER: usize = 32 * 1024;
/// How long a client waits before it connects again, in milliseconds.
const RECONNECT: u32 = 2_000;

/// Where to begin.
#[derive(Clone, Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct FollowQuery {
    /// The entries after this position; 0 for all that are kept. Absent: what comes from now on. `Last-Event-ID` wins.
    #[param(minimum = 0, maximum = 9_007_199_254_740_991_u64)]
    after: Option<u64>,
    /// Whether live progress is shown.
    #[param(default = true)]
    progress: Option<bool>,
}

/// Follow a session
///
/// Server-sent events. An entry of the journal is an event named as its record (`input_accepted`, `run_started`, …), its
/// data an `Event`, its id says where it stands: connect again with `Last-Event-ID` to go on. Without id: `progress` (live,
/// shown once), `lagged` (progress was missed), `gap` (entries are no longer kept), `end` (deleted, draining or
/// auth_expired). A comment comes every 15 seconds.
#[utoipa::path(
    get, path = "/v1/sessions/{session}/events", operation_id = "follow_session", tag = "events",
    params(
        ("session" = windlass_api::schema::SessionName, Path, description = "Its id or name."),
        FollowQuery,
        ("Last-Event-ID" = Option<String>, Header, description = "The id of the last event that was seen."),
    ),
    responses(
        (status = 200, description = "The events.", body = String, content_type = "text/event-stream"),
        (status = 400, description = "The position lies ahead of the journal.", body = windlass_api::ProblemDetails, content_type = "application/problem+json"),
        (status = 409, description = "The store was restored since, and another entry stands at this position.", body = windlass_api::ProblemDetails, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn session(
    State(state): State<AppState>,
    principal: Principal,
    Extension(ClientIp(from)): Extension<ClientIp>,
    Named(session): Named<String>,
    StrictQuery(query): StrictQuery<FollowQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let session = reach::reach(&state, &principal, &session).await?;
    let seen = last_event_id(&headers)?;
    let seen = seen.map(|id| id.parse::<Mark>().map_err(|_| no_cursor("Last-Event-ID is not one of this stream")));
    let seen = seen.transpose()?.or(query.after.map(|after| Mark { seq: Seq(after), at: None }));
    let place = state.api().streams.take(&principal)?;
    let head = head(&state, &session).await?;
    let after = match seen {
        Some(mark) => {
            position("/after", mark.seq.0)?;
            reached(&state, session.id(), mark, head).await?
        }
        None => head,
    };
    let follower = state.api().channels.follow(&state, &session, after, head);
    let sight = Sight::new(&state, principal, from, &headers, place);
    let progress = query.progress.unwrap_or(true);
    let opening = opening(seen.unwrap_or(Mark { seq: after, at: None }));
    // Boxed, because a stream has room for its state thrice.
    Ok(answer(stream::unfold(
        (Box::new((sight, follower)), opening),
        move |(mut following, first): (Box<(Sight, Follower)>, Bytes)| async move {
            if !first.is_empty() {
                return Some((first, (following, Bytes::new())));
            }
            let (sight, follower) = &mut *following;
            let next = loop {
                match sight.watch(follower.next()).await {
                    Seen::Item(Item::Entry(_, event)) => break together(event.whole(), follower, progress),
                    Seen::Item(Item::Live(_)) if !progress => {}
                    Seen::Item(Item::Live(events) | Item::Gap(events)) => break together(events, follower, progress),
                    Seen::Item(Item::Deleted) => break sight.end(ended(Some(follower.session()), "deleted")),
                    Seen::News(news) => break news,
                    Seen::Over => return None,
                }
            };
            Some((next, (following, Bytes::new())))
        },
    )))
}

/// Adds the events that are ready too.
fn together(first: Bytes, follower: &mut Follower, progress: bool) -> Bytes {
    let mut all = BytesMut::new();
    while all.len() < TOGETHER {
        let event = match follower.at_hand() {
            Some(Item::Entry(_, event)) => event.whole(),
            Some(Item::Gap(event)) => event,
            Some(Item::Live(event)) if progress => event,
            Some(Item::Live(_)) => continue,
            // The channel says so again.
            Some(Item::Deleted) | None => break,
        };
        if all.is_empty() {
            all.extend_from_slice(&first);
        }
        all.extend_from_slice(&event);
    }
    if all.is_empty() { first } else { all.freeze() }
}

/// Which sessions to follow.
#[derive(Clone, Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct SeveralQuery {
    /// A session, by id or name; repeated, up to 64.
    #[param(min_items = 1, max_items = 64, value_type = Vec<windlass_api::schema::SessionName>)]
    session: Vec<String>,
    /// Whether live progress is shown.
    #[param(default = true)]
    progress: Option<bool>,
}

/// Follow several sessions
///
/// As for one, in one stream; the data of each event names its session. The id is a cursor over all of them: connect
/// again with it, and with the same sessions, to go on; of one that was deleted meanwhile comes an `end`. Without a cursor
/// it begins with what comes from now on.
#[utoipa::path(
    get, path = "/v1/events", operation_id = "follow_sessions", tag = "events",
    params(SeveralQuery, ("Last-Event-ID" = Option<String>, Header, description = "The id of the last event that was seen.")),
    responses((status = 200, description = "The events.", body = String, content_type = "text/event-stream"))
)]
pub(crate) async fn several(
    State(state): State<AppState>,
    principal: Principal,
    Extension(ClientIp(from)): Extension<ClientIp>,
    StrictQuery(query): StrictQuery<SeveralQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    if !(1..=SESSIONS).contains(&query.session.len()) {
        let detail = format!("1 to {SESSIONS} sessions are followed by one stream");
        return Err(Problem::new(Code::SchemaViolation).detail(detail).parameter("session"));
    }
    let mut sessions = BTreeMap::new();
    for text in &query.session {
        let (id, _) = reach::session_of(&principal, text)?;
        sessions.insert(id, reach::find(&state, &principal, id).await?);
    }
    let ids: Vec<String> = sessions.keys().map(ToString::to_string).collect();
    let list = List::of("/v1/events", &ids.iter().map(String::as_str).collect::<Vec<_>>());
    let seen = last_event_id(&headers)?.map(|cursor| read_marks(list, cursor, sessions.len())).transpose()?;
    let place = state.api().streams.take(&principal)?;
    let mut places = BTreeMap::new();
    let mut followers = stream::SelectAll::new();
    for (at, (id, session)) in sessions.into_iter().enumerate() {
        let seen = seen.as_ref().map(|seen| seen[at]);
        let Some(session) = session else {
            // Whoever goes on has followed it; to anybody else it was never there.
            let seen = seen.ok_or_else(reach::no_session)?;
            places.insert(id, seen);
            followers.push(stream::once(std::future::ready((id, Item::Deleted))).boxed());
            continue;
        };
        let head = head(&state, &session).await?;
        let mark = seen.unwrap_or(Mark { seq: head, at: None });
        let after = reached(&state, id, mark, head).await?;
        places.insert(id, mark);
        followers.push(followed(state.api().channels.follow(&state, &session, after, head)));
    }
    let sight = Sight::new(&state, principal, from, &headers, place);
    let progress = query.progress.unwrap_or(true);
    let opening = opening(cursor(list, &places));
    let begun = (Box::new((sight, followers, places)), opening);
    Ok(answer(stream::unfold(begun, move |(mut following, first)| async move {
        if !first.is_empty() {
            return Some((first, (following, Bytes::new())));
        }
        let (sight, followers, places) = &mut *following;
        let next = loop {
            match sight.watch(followers.next()).await {
                Seen::Item(Some((session, Item::Entry(mark, event)))) => {
                    places.insert(session, mark);
                    let cursor = cursor(list, places);
                    break [&event.without_id()[..], b"id: ", cursor.as_bytes(), b"\n\n"].concat().into();
                }
                Seen::Item(Some((_, Item::Live(_)))) if !progress => {}
                Seen::Item(Some((_, Item::Live(event) | Item::Gap(event)))) => break event,
                Seen::Item(Some((session, Item::Deleted))) => break ended(Some(session), "deleted"),
                // All of them are deleted.
                Seen::Item(None) | Seen::Over => return None,
                Seen::News(news) => break news,
            }
        };
        Some((next, (following, Bytes::new())))
    })))
}

/// What a stream says first: where it begins, so that one that is cut before its first entry goes on from there.
fn opening(id: impl std::fmt::Display) -> Bytes {
    format!(": windlass\nretry: {RECONNECT}\nid: {id}\n\n").into()
}

/// The cursor over these places: sixteen bytes each.
fn cursor(list: List, places: &BTreeMap<SessionId, Mark>) -> String {
    let numbers = places.values().flat_map(|mark| [mark.seq.0, mark.at.map_or(0, |at| at.as_micros().cast_unsigned())]);
    list.cursor(&numbers.flat_map(u64::to_le_bytes).collect::<Vec<_>>())
}

/// A follower as a stream, which ends when its session is deleted.
fn followed(follower: Follower) -> stream::BoxStream<'static, (SessionId, Item)> {
    stream::unfold(Some(follower), |follower| async {
        let mut follower = follower?;
        let (session, item) = (follower.session(), follower.next().await);
        let rest = (!matches!(item, Item::Deleted)).then_some(follower);
        Some(((session, item), rest))
    })
    .boxed()
}

/// The places of a cursor, in the order of the sessions' ids.
fn read_marks(list: List, cursor: &str, sessions: usize) -> Result<Vec<Mark>, Problem> {
    let bytes = list.position(cursor)?;
    let (numbers, rest) = bytes.as_chunks::<8>();
    let (pairs, odd) = numbers.as_chunks::<2>();
    if pairs.len() != sessions || !rest.is_empty() || !odd.is_empty() {
        return Err(no_cursor("the cursor is not one of these sessions"));
    }
    let mark = |&[seq, at]: &[[u8; 8]; 2]| {
        let at = Some(i64::from_le_bytes(at)).filter(|at| *at != 0);
        Mark { seq: Seq(u64::from_le_bytes(seq)), at: at.map(Timestamp::from_micros) }
    };
    Ok(pairs.iter().map(mark).collect())
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let Some(id) = headers.get("last-event-id") else { return Ok(None) };
    let id = id.to_str().map_err(|_| no_cursor("Last-Event-ID is not one of this stream"))?;
    Ok(Some(id.trim()).filter(|id| !id.is_empty()))
}

fn no_cursor(detail: &'static str) -> Problem {
    Problem::new(Code::InvalidCursor).detail(detail)
}

async fn head(state: &AppState, session: &SessionHandle) -> Result<Seq, Problem> {
    Ok(state.store().session(session.id()).await?.ok_or_else(reach::no_session)?.head)
}

/// The position to go on after: one that the journal has reached, in the history in which it was seen.
async fn reached(state: &AppState, session: SessionId, mark: Mark, head: Seq) -> Result<Seq, Problem> {
    if mark.seq > head {
        let detail =
            format!("the journal ends at {head}; the position was another session's, or the store was restored");
        return Err(Problem::new(Code::CursorAhead).detail(detail));
    }
    if !mark.still_stands(state, session).await? {
        let detail = "the store was restored, or the session made anew, since this event was seen; what happened since \
                      can be read from the beginning";
        return Err(Problem::new(Code::IncarnationChanged).detail(detail));
    }
    Ok(mark.seq)
}

fn answer(events: impl stream::Stream<Item = Bytes> + Send + 'static) -> Response {
    const BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store"), (BUFFERING, "no")];
    (Extension(Endless), headers, Body::from_stream(events.map(Ok::<_, Infallible>))).into_response()
}

/// What a stream notices besides events, and what it holds.
struct Sight {
    state: AppState,
    principal: Principal,
    from: IpAddr,
    /// What the caller showed, to be asked again.
    shown: HeaderMap,
    heartbeat: Interval,
    checked: Instant,
    over: bool,
    _place: Place,
}

/// What a stream sees.
enum Seen<T> {
    Item(T),
    /// Something to send.
    News(Bytes),
    /// The last thing was sent.
    Over,
}

impl Sight {
    fn new(state: &AppState, principal: Principal, from: IpAddr, headers: &HeaderMap, place: Place) -> Sight {
        state.metrics().streams(1);
        let mut shown = HeaderMap::new();
        for value in headers.get_all(header::AUTHORIZATION) {
            shown.append(header::AUTHORIZATION, value.clone());
        }
        let mut heartbeat = tokio::time::interval_at(Instant::now() + HEARTBEAT, HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let checked = Instant::now();
        Sight { state: state.clone(), principal, from, shown, heartbeat, checked, over: false, _place: place }
    }

    /// The next thing of a stream, or what happens before it.
    async fn watch<T>(&mut self, next: impl Future<Output = T>) -> Seen<T> {
        if self.over {
            return Seen::Over;
        }
        // A stream that is never quiet is checked too.
        if self.checked.elapsed() >= RECHECK && !self.may_follow().await {
            return Seen::News(self.end(ended(None, "auth_expired")));
        }
        let closing = self.state.closing().clone();
        tokio::select! {
            biased;
            () = closing.cancelled() => Seen::News(self.end(ended(None, "draining"))),
            item = next => Seen::Item(item),
            _ = self.heartbeat.tick() => Seen::News(Bytes::from_static(b":\n\n")),
        }
    }

    /// Whether the caller may still follow; asked now and then.
    async fn may_follow(&mut self) -> bool {
        self.checked = Instant::now();
        authenticate(&self.state, &self.shown, self.from).await.is_ok_and(|now| {
            now.tenant == self.principal.tenant
                && now.prefix == self.principal.prefix
                && now.may(Scope::EventsRead).is_ok()
        })
    }

    /// This is the last thing that is sent.
    fn end(&mut self, last: Bytes) -> Bytes {
        self.over = true;
        last
    }
}

impl Drop for Sight {
    fn drop(&mut self) {
        self.state.metrics().streams(-1);
    }
}
