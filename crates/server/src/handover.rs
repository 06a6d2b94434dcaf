//! How does a response without an end leave hyper, and its buffers with it?
//!
//! hyper keeps eight kibibytes for the next head and eight for what it writes, as long as a connection is open. A stream
//! of events reads no further head and writes little, but there are thousands of them and they last for hours. So once
//! hyper has sent the head of such a response over HTTP/1.1, the connection is taken from it, and the body is written
//! here, in the chunks that the head announced. It is the last response of its connection, and says so.

use bytes::{Buf, Bytes};
use http::{HeaderValue, Response, header};
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;
use std::{
    convert::Infallible,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll},
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// The mark of a response whose body ends with its client or its server, put into its extensions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Endless;

/// The place of a body that is to take over its connection, and how far hyper is with its head.
#[derive(Debug)]
pub(crate) struct Handover<B> {
    body: Mutex<Option<B>>,
    head: AtomicU8,
}

/// hyper has not taken up the response, or there is none.
const NONE: u8 = 0;
/// hyper asks for the body: all of the head is in its buffer.
const WRITTEN: u8 = 1;
/// The buffer was flushed since.
const SENT: u8 = 2;

impl<B> Default for Handover<B> {
    fn default() -> Self {
        Handover { body: Mutex::default(), head: AtomicU8::new(NONE) }
    }
}

impl<B: Send + 'static> Handover<B> {
    /// Keeps the body back. hyper is given one that never says anything, and told that it is the last.
    pub(crate) fn prepare(self: Arc<Self>, response: Response<B>) -> Response<Silence<B>> {
        let (mut parts, body) = response.into_parts();
        parts.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        *self.body.lock().unwrap_or_else(PoisonError::into_inner) = Some(body);
        Response::from_parts(parts, Silence(self))
    }

    /// All that hyper has written so far is with the client.
    pub(crate) fn flushed(&self) {
        // Nobody else changes it meanwhile: hyper writes and flushes within one task.
        if self.head.load(Ordering::Acquire) == WRITTEN {
            self.head.store(SENT, Ordering::Release);
        }
    }

    /// Whether the connection may be taken from hyper.
    pub(crate) fn is_due(&self) -> bool {
        self.head.load(Ordering::Acquire) == SENT
    }

    /// The body to go on with, once it is due.
    pub(crate) fn take(&self) -> Option<B> {
        if self.is_due() { self.body.lock().unwrap_or_else(PoisonError::into_inner).take() } else { None }
    }
}

/// What hyper has for a body until the connection is taken from it. It is polled once the head is written.
pub(crate) struct Silence<B>(Arc<Handover<B>>);

impl<B> Body for Silence<B> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        // No waker is kept: hyper flushes after this, and whoever drives it looks whether the handover is due.
        if self.0.head.load(Ordering::Acquire) == NONE {
            self.0.head.store(WRITTEN, Ordering::Release);
        }
        Poll::Pending
    }
}

/// Bytes that a client may say after its last request, which nobody hears.
const UNHEARD: usize = 64 * 1024;

/// Writes a body to its end, in the chunks of RFC 9112, section 7.1, and closes. Ends early when the client goes.
pub(crate) async fn carry<S, B>(mut stream: S, mut body: B) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Unpin,
{
    // Only whether the client goes is of interest. What it asks for on this connection is not answered, and of one that
    // goes on and on no more is read.
    let (mut said, mut room) = ([0; 64], UNHEARD);
    loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            read = stream.read(&mut said), if room > 0 => match read? {
                0 => return Ok(()),
                bytes => {
                    room = room.saturating_sub(bytes);
                    continue;
                }
            },
        };
        let Some(frame) = frame else { break };
        // Trailers were not announced, and an empty chunk would be the last one.
        let Ok(data) = frame.map_err(io::Error::other)?.into_data() else { continue };
        if !data.is_empty() {
            let size = format!("{:x}\r\n", data.len());
            let mut chunk = Buf::chain(size.as_bytes(), data).chain(&b"\r\n"[..]);
            stream.write_all_buf(&mut chunk).await?;
            // TLS takes more than it sends, and says that it is done: only this waits for the client, within its time.
            stream.flush().await?;
        }
    }
    stream.write_all(b"0\r\n\r\n").await?;
    stream.shutdown().await
}
