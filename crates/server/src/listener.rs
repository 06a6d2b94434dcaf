//! How do connections come in, and when do they end?
//!
//! One task per connection, at most so many in all and of one address. Each phase of a connection has a time: the TLS
//! handshake, the head of a request, being idle, a client that takes nothing. HTTP/1.1 and HTTP/2 on one port.

use crate::{
    config::{Config, LimitsConfig},
    guard::Guard,
    handover::{self, Endless, Handover, Silence},
};
use axum::response::Response;
use http_body::{Body, Frame, SizeHint};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::{
    collections::HashMap,
    io,
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    time::{Instant, Sleep},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The door: accepts connections until it is closed.
pub(crate) struct Door {
    pub(crate) listener: TcpListener,
    pub(crate) guard: Guard,
    pub(crate) tls: Option<crate::tls::Tls>,
    pub(crate) config: Config,
    /// No further connections; those that are idle end, the others after their request.
    pub(crate) closing: CancellationToken,
    /// Every connection ends now.
    pub(crate) killed: CancellationToken,
    /// The connections; all are over when it is empty.
    pub(crate) connections: TaskTracker,
}

/// After an error of `accept` that concerns the process (out of descriptors) the door rests a moment.
const REST: Duration = Duration::from_millis(50);

impl Door {
    /// Accepts until `closing`.
    pub(crate) async fn run(self) {
        let counts = Arc::new(Counts::default());
        let limits = Arc::new(self.config.limits.clone());
        loop {
            let accepted = tokio::select! {
                () = self.closing.cancelled() => break,
                accepted = self.listener.accept() => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(REST).await;
                    continue;
                }
            };
            let peer = peer.ip().to_canonical();
            let server = &self.config.server;
            let proxy = server.behind_proxy && server.trusted_proxies.contains(&peer);
            let own = if proxy { usize::MAX } else { limits.connections_per_address };
            let Some(place) = Counts::take(&counts, peer, limits.connections, own) else {
                // Closing at once costs the least, and tells the client enough.
                tracing::debug!("a connection too many was closed");
                self.guard.metrics().connection_refused();
                continue;
            };
            let connection = Connection {
                guard: self.guard.clone(),
                tls: self.tls.clone(),
                limits: Arc::clone(&limits),
                closing: self.closing.clone(),
                peer,
            };
            let killed = self.killed.clone();
            self.connections.spawn(async move {
                killed.run_until_cancelled(connection.serve(stream)).await;
                drop(place);
            });
        }
    }
}

/// How many connections there are.
#[derive(Debug, Default)]
struct Counts(Mutex<(usize, HashMap<IpAddr, usize>)>);

struct Place(Arc<Counts>, IpAddr);

impl Counts {
    fn take(counts: &Arc<Counts>, ip: IpAddr, all: usize, own: usize) -> Option<Place> {
        let mut held = counts.0.lock().unwrap_or_else(PoisonError::into_inner);
        if held.0 >= all || held.1.get(&ip).is_some_and(|held| *held >= own) {
            return None;
        }
        held.0 += 1;
        *held.1.entry(ip).or_default() += 1;
        Some(Place(Arc::clone(counts), ip))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.0 -= 1;
        if let Some(own) = held.1.get_mut(&self.1) {
            *own -= 1;
            if *own == 0 {
                held.1.remove(&self.1);
            }
        }
    }
}

struct Connection {
    guard: Guard,
    tls: Option<crate::tls::Tls>,
    limits: Arc<LimitsConfig>,
    closing: CancellationToken,
    peer: IpAddr,
}

/// HTTP/2: requests at once on one connection.
const STREAMS: u32 = 128;
/// HTTP/2: streams that were reset and not yet forgotten (CVE-2023-44487).
const PENDING_RESETS: usize = 20;
/// HTTP/2: bytes of a header list, with 32 for each header, as its specification counts.
const HEADER_LIST: u32 = 16 * 1024;
/// HTTP/1: bytes of a head that are read at all. The guard refuses earlier, and says why.
const HEAD_BUFFER: usize = 64 * 1024;
/// HTTP/1: headers that are read at all.
const HEADERS_READ: usize = 256;

impl Connection {
    async fn serve(self, stream: TcpStream) {
        // Small answers are sent at once; that it failed would only make them slower.
        drop(stream.set_nodelay(true));
        // Boxed, so that a connection has room for what it does, and none for what it could do.
        let Some(tls) = &self.tls else { return Box::pin(self.speak(stream)).await };
        let accepting = Box::pin(tls.accept(stream));
        let accepted = match tokio::time::timeout(self.limits.header_seconds.0, accepting).await {
            Ok(Ok(accepted)) => Box::new(accepted),
            Ok(Err(error)) => return tracing::debug!(%error, "a TLS handshake failed"),
            Err(_) => return tracing::debug!("a TLS handshake took too long"),
        };
        Box::pin(self.speak(accepted)).await;
    }

    async fn speak<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(self, stream: S) {
        let (activity, handover) = (Arc::new(Activity::default()), Arc::new(Handover::default()));
        let mut timed = Timed::new(stream, Arc::clone(&activity), Arc::clone(&handover), &self.limits);
        let spoken = tokio::select! {
            spoken = timed.is_http_2() => spoken,
            () = self.closing.cancelled() => return,
        };
        let (guard, peer, place) = (self.guard, self.peer, Arc::clone(&handover));
        let service = service_fn(move |request: http::Request<Incoming>| {
            let under_way = UnderWay::begin(&activity);
            let (guard, place) = (guard.clone(), Arc::clone(&place));
            let plain = request.version() == http::Version::HTTP_11 && request.method() == http::Method::GET;
            async move {
                // Boxed, because hyper keeps the room of what answered last as long as the connection lives.
                let answered = Box::pin(guard.call(peer, request)).await;
                answered.map(|response: Response| {
                    let takes_over = plain && response.extensions().get::<Endless>().is_some();
                    let response = response.map(|body| Tracked { body, _under_way: Some(under_way) });
                    if takes_over { place.prepare(response).map(Tracked::silent) } else { response }
                })
            }
        });
        let ended = match spoken {
            Ok(true) => {
                let mut connection = Box::pin(http_2(&self.limits).serve_connection(TokioIo::new(timed), service));
                until_closed(connection.as_mut(), http2::Connection::graceful_shutdown, &self.closing).await
            }
            Ok(false) => {
                let connection = Box::new(http_1(&self.limits).serve_connection(TokioIo::new(timed), service));
                let mut held = UntilDue { connection, handover };
                let ended = until_closed(
                    Pin::new(&mut held),
                    |held| Pin::new(&mut *held.get_mut().connection).graceful_shutdown(),
                    &self.closing,
                )
                .await;
                if let Some(body) = held.handover.take() {
                    let stream = held.connection.into_parts().io.into_inner();
                    return match Box::pin(handover::carry(stream, body)).await {
                        Ok(()) => {}
                        Err(error) => tracing::debug!(%error, "a stream was cut"),
                    };
                }
                ended
            }
            Err(error) => return tracing::debug!(%error, "a connection ended before its first request"),
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection ended");
        }
    }
}

fn http_1(limits: &LimitsConfig) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        // The stream's own timers are shorter. With this one hyper looks for the next head at once, and so arms them.
        .header_read_timeout(limits.idle_seconds.0 + limits.header_seconds.0)
        .max_headers(HEADERS_READ)
        .max_buf_size(HEAD_BUFFER);
    builder
}

fn http_2(limits: &LimitsConfig) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_header_list_size(HEADER_LIST)
        .keep_alive_interval(limits.idle_seconds.0)
        .keep_alive_timeout(limits.write_stall_seconds.0);
    builder
}

/// Serves a connection to its end. When the door closes, the requests that are under way are its last.
async fn until_closed<C: Future<Output = hyper::Result<()>>>(
    mut connection: Pin<&mut C>,
    close: impl FnOnce(Pin<&mut C>),
    closing: &CancellationToken,
) -> hyper::Result<()> {
    tokio::select! {
        ended = connection.as_mut() => ended,
        () = closing.cancelled() => {
            close(connection.as_mut());
            connection.await
        }
    }
}

/// A connection of HTTP/1 that ends also when a response is to take it over.
struct UntilDue<C> {
    connection: Box<C>,
    handover: Arc<Handover<Tracked>>,
}

impl<C: Future<Output = hyper::Result<()>> + Unpin> Future for UntilDue<C> {
    type Output = hyper::Result<()>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        match Pin::new(&mut *self.connection).poll(context) {
            Poll::Pending if self.handover.is_due() => Poll::Ready(Ok(())),
            other => other,
        }
    }
}

/// What a connection does, as its timers see it.
#[derive(Debug, Default)]
struct Activity {
    /// Requests begun, in the upper half; under way, in the lower. One number, so that both are read at once.
    requests: AtomicU64,
}

const BEGUN: u64 = 1 << 32;

/// A request is under way, until its answer is sent.
struct UnderWay(Arc<Activity>);

impl UnderWay {
    fn begin(activity: &Arc<Activity>) -> UnderWay {
        activity.requests.fetch_add(BEGUN + 1, Ordering::AcqRel);
        UnderWay(Arc::clone(activity))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The body of an answer; while it is sent, its request is under way.
struct Tracked {
    body: axum::body::Body,
    _under_way: Option<UnderWay>,
}

impl Tracked {
    /// What hyper sends instead of a body that takes over: another keeps its request under way.
    fn silent(silence: Silence<Tracked>) -> Tracked {
        Tracked { body: axum::body::Body::new(silence), _under_way: None }
    }
}

impl Body for Tracked {
    type Data = bytes::Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<bytes::Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A stream that ends by itself when its client is too slow: with a head, with taking an answer, or with nothing.
struct Timed<S> {
    stream: S,
    activity: Arc<Activity>,
    handover: Arc<Handover<Tracked>>,
    head: Duration,
    idle: Duration,
    stall: Duration,
    /// What a silent client is waited for, since when.
    waiting: Waiting,
    read_timer: Option<Pin<Box<Sleep>>>,
    write_timer: Option<Pin<Box<Sleep>>>,
    http2: bool,
    /// What was read to tell the versions of HTTP apart; read again, together with what comes next.
    begun: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiting {
    /// The first byte of the connection, or the rest of a head. Requests begun by then.
    Head { since: Instant, begun: u64 },
    /// The next head.
    Next { since: Instant, begun: u64 },
    /// Nothing: a request is under way.
    No,
}

impl<S> Timed<S> {
    fn new(stream: S, activity: Arc<Activity>, handover: Arc<Handover<Tracked>>, limits: &LimitsConfig) -> Timed<S> {
        Timed {
            stream,
            activity,
            handover,
            head: limits.header_seconds.0,
            idle: limits.idle_seconds.0,
            stall: limits.write_stall_seconds.0,
            waiting: Waiting::Head { since: Instant::now(), begun: 0 },
            read_timer: None,
            write_timer: None,
            http2: false,
            begun: Vec::new(),
        }
    }

    /// Until when a client that sends nothing now is waited for; none: as long as its request takes.
    fn read_deadline(&mut self) -> Option<Instant> {
        let requests = self.activity.requests.load(Ordering::Acquire);
        let (begun, under_way) = (requests / BEGUN, requests % BEGUN);
        self.waiting = match self.waiting {
            _ if under_way > 0 => Waiting::No,
            Waiting::Head { begun: before, .. } | Waiting::Next { begun: before, .. } if before != begun => {
                Waiting::Next { since: Instant::now(), begun }
            }
            Waiting::No => Waiting::Next { since: Instant::now(), begun },
            waiting => waiting,
        };
        match self.waiting {
            Waiting::No => None,
            Waiting::Head { since, .. } => Some(since + self.head),
            Waiting::Next { since, .. } => Some(since + self.idle),
        }
    }

    /// Bytes came while no request was under way: a head has begun. HTTP/2 frames are none.
    fn received(&mut self) {
        if let (Waiting::Next { begun, .. }, false) = (self.waiting, self.http2) {
            self.waiting = Waiting::Head { since: Instant::now(), begun };
        }
    }
}

/// Polls a timer that is made when it is first needed.
fn expired(timer: &mut Option<Pin<Box<Sleep>>>, deadline: Instant, context: &mut Context<'_>) -> bool {
    let timer = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
    if timer.deadline() != deadline {
        timer.as_mut().reset(deadline);
    }
    timer.as_mut().poll(context).is_ready()
}

impl<S: AsyncRead + Unpin> AsyncRead for Timed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.begun.is_empty() {
            buffer.put_slice(&std::mem::take(&mut this.begun));
            // What else is there goes into the same buffer; if nothing is, these few bytes are all.
            return match Pin::new(&mut this.stream).poll_read(context, buffer) {
                Poll::Pending => Poll::Ready(Ok(())),
                read @ Poll::Ready(_) => read,
            };
        }
        let deadline = this.read_deadline();
        match Pin::new(&mut this.stream).poll_read(context, buffer) {
            Poll::Ready(read) => {
                this.received();
                Poll::Ready(read)
            }
            Poll::Pending => match deadline {
                Some(deadline) if expired(&mut this.read_timer, deadline, context) => {
                    Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client was too slow")))
                }
                _ => Poll::Pending,
            },
        }
    }
}

/// How HTTP/2 begins; no request of HTTP/1 does.
const HTTP_2: &[u8; 3] = b"PRI";

impl<S: AsyncRead + Unpin> Timed<S> {
    /// Whether the client begins to speak HTTP/2. Takes three bytes at most, which are read again by who serves it:
    /// with more, the buffer of the first head would be too small for the second read, and grow.
    async fn is_http_2(&mut self) -> io::Result<bool> {
        let (mut first, mut read) = ([0; HTTP_2.len()], 0);
        while read < first.len() && HTTP_2.starts_with(&first[..read]) {
            match self.read(&mut first[read..]).await? {
                0 => break,
                more => read += more,
            }
        }
        self.begun = first[..read].to_vec();
        self.http2 = first == *HTTP_2;
        Ok(self.http2)
    }
}

impl<S: AsyncWrite + Unpin> Timed<S> {
    fn written<T>(&mut self, written: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.write_timer = None;
            return written;
        }
        let deadline = self.write_timer.as_ref().map_or_else(|| Instant::now() + self.stall, |timer| timer.deadline());
        if expired(&mut self.write_timer, deadline, context) {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing")));
        }
        Poll::Pending
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Timed<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.written(written, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.written(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        if let Poll::Ready(Ok(())) = flushed {
            self.handover.flushed();
        }
        self.written(flushed, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(context);
        self.written(shut, context)
    }
}
