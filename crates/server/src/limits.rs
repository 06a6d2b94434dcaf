//! How much may one client take, and how fast must it be?
//!
//! Sizes and times of requests, one rate per token, one for failed authentication per address. What a session or a
//! tenant may hold is checked where it is admitted.

use crate::{
    config::LimitsConfig,
    problem::{Code, Problem},
};
use bytes::Buf;
use governor::{Quota, RateLimiter, clock::Clock as _, state::keyed::DashMapStateStore};
use http_body::{Body, Frame, SizeHint};
use std::{
    hash::Hash,
    net::IpAddr,
    pin::Pin,
    sync::atomic::{AtomicU32, Ordering},
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::{Instant, Sleep};

/// The largest JSON body, in bytes.
pub const JSON_BYTES: usize = 1024 * 1024;
/// The largest blob, in bytes.
pub const BLOB_BYTES: usize = 64 * 1024 * 1024;
/// The longest URI, in bytes.
pub const URI_BYTES: usize = 8 * 1024;
/// The most headers of a request.
pub const HEADERS: usize = 100;
/// The most bytes of all header names and values together.
pub const HEADER_BYTES: usize = 16 * 1024;
/// The longest page of a list.
pub const PAGE: u32 = 500;
/// The longest that a request may wait for an outcome.
pub const WAIT: Duration = Duration::from_secs(120);

/// A body must bring at least so many bytes a second, over its whole time.
pub const BODY_RATE: u64 = 1024;
/// Before that, it is given this long to begin.
const BODY_START: Duration = Duration::from_secs(5);

/// The body took too long; what was read of it is dropped.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the body came slower than {BODY_RATE} bytes a second, or took too long in all; send it again, faster")]
pub struct BodyTooSlow;

/// A body that must come in time: `per_mebibyte` for each mebibyte begun, and never slower than [`BODY_RATE`].
#[derive(Debug)]
pub(crate) struct Paced<B> {
    inner: B,
    per_mebibyte: Duration,
    started: Option<Instant>,
    received: u64,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<B> Paced<B> {
    pub(crate) fn new(inner: B, per_mebibyte: Duration) -> Paced<B> {
        Paced { inner, per_mebibyte, started: None, received: 0, timer: None }
    }

    /// When what has come in so far no longer suffices.
    fn deadline(&self, started: Instant) -> Instant {
        let mebibytes = u32::try_from(self.received >> 20).unwrap_or(u32::MAX).saturating_add(1);
        let whole = self.per_mebibyte.saturating_mul(mebibytes);
        let rate = BODY_START + Duration::from_secs(self.received / BODY_RATE);
        started + whole.min(rate)
    }
}

impl<B> Body for Paced<B>
where
    B: Body<Error: std::error::Error + Send + Sync + 'static> + Unpin,
{
    type Data = B::Data;
    type Error = axum::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, Self::Error>>> {
        let this = &mut *self;
        let started = *this.started.get_or_insert_with(Instant::now);
        match Pin::new(&mut this.inner).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                this.received += frame.data_ref().map_or(0, |data| data.remaining() as u64);
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(end) => Poll::Ready(end.map(|frame| frame.map_err(Into::into))),
            Poll::Pending => {
                let deadline = this.deadline(started);
                let timer = this.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
                if timer.deadline() != deadline {
                    timer.as_mut().reset(deadline);
                }
                timer.as_mut().poll(context).map(|()| Some(Err(BodyTooSlow.into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

type Limiter<K> = RateLimiter<K, DashMapStateStore<K>, governor::clock::DefaultClock>;

/// So many a second for each key, and a burst.
pub(crate) struct Rate<K: Hash + Eq + Clone> {
    limiter: Limiter<K>,
    /// Keys are forgotten now and then, so that a flood of them does not stay.
    calls: AtomicU32,
}

impl<K: Hash + Eq + Clone> Rate<K> {
    pub(crate) fn new(quota: Quota) -> Rate<K> {
        Rate { limiter: RateLimiter::dashmap(quota), calls: AtomicU32::new(0) }
    }

    /// Takes one.
    ///
    /// # Errors
    /// `rate_limited`, with when to come again.
    pub(crate) fn take(&self, key: &K) -> Result<(), Problem> {
        if self.calls.fetch_add(1, Ordering::Relaxed).is_multiple_of(FORGET_EVERY) {
            self.limiter.retain_recent();
        }
        self.limiter.check_key(key).map_err(|until| {
            let wait = until.wait_time_from(governor::clock::DefaultClock::default().now());
            Problem::new(Code::RateLimited).detail("too many requests; come again later").retry_after(wait)
        })
    }
}

const FORGET_EVERY: u32 = 16_384;

/// The rates of the server.
pub(crate) struct Rates {
    /// Per token, for most routes.
    pub(crate) calls: Rate<String>,
    /// Per token, for routes of administration.
    pub(crate) administration: Rate<String>,
    /// Per address, for tokens that are none.
    pub(crate) failures: Rate<IpAddr>,
}

impl Rates {
    pub(crate) fn new(limits: &LimitsConfig) -> Rates {
        Rates {
            calls: Rate::new(Quota::per_second(limits.requests_per_second).allow_burst(limits.requests_burst)),
            administration: Rate::new(Quota::per_second(limits.admin_requests_per_second)),
            failures: Rate::new(Quota::per_minute(limits.failed_auth_per_minute)),
        }
    }
}
