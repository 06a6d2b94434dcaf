//! In whose trace does an input stand?
//!
//! The W3C Trace Context (`traceparent`) that came with an input stands in its header, and so in the journal: whatever
//! becomes of the input, in this process or in a later one, continues the same trace. What a trace is good for is not
//! the core's business; it carries the value and derives names from it.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// A place in a trace: the trace, one span of it, and whether it is sampled. 25 bytes, copied freely.
///
/// Its text is that of the header `traceparent`, version 00.
///
/// ```
/// use windlass_core::TraceContext;
/// let text = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
/// let trace: TraceContext = text.parse()?;
/// assert!(trace.is_sampled());
/// assert_eq!(trace.to_string(), text);
/// assert_eq!(trace.child(b"run").trace_id(), trace.trace_id());
/// # Ok::<_, windlass_core::InvalidTraceContext>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TraceContext {
    trace_id: [u8; 16],
    span_id: [u8; 8],
    flags: u8,
}

/// The flags that version 00 knows: sampled, and a trace id that is random. Others are not passed on.
const FLAGS: u8 = 0b11;
const SAMPLED: u8 = 0b01;
/// The length of version 00; a later version is at least as long.
const LENGTH: usize = 55;

impl TraceContext {
    /// A place in a trace.
    ///
    /// # Errors
    /// [`InvalidTraceContext`] if one of the ids is all zeros.
    pub fn new(trace_id: [u8; 16], span_id: [u8; 8], sampled: bool) -> Result<TraceContext, InvalidTraceContext> {
        let flags = if sampled { SAMPLED } else { 0 };
        TraceContext::valid(trace_id, span_id, flags)
    }

    fn valid(trace_id: [u8; 16], span_id: [u8; 8], flags: u8) -> Result<TraceContext, InvalidTraceContext> {
        if trace_id == [0; 16] || span_id == [0; 8] {
            return Err(InvalidTraceContext);
        }
        Ok(TraceContext { trace_id, span_id, flags: flags & FLAGS })
    }

    /// The trace.
    pub fn trace_id(&self) -> [u8; 16] {
        self.trace_id
    }

    /// The span in it that whatever comes next is a child of.
    pub fn span_id(&self) -> [u8; 8] {
        self.span_id
    }

    /// Whether whoever began the trace wants it recorded.
    pub fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// The child of this span that `part` names: always the same one, so that nobody has to keep its id.
    pub fn child(&self, part: &[u8]) -> TraceContext {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.trace_id).update(&self.span_id).update(part);
        let hash = hasher.finalize();
        let mut span_id: [u8; 8] = hash.as_bytes()[..8].try_into().expect("a BLAKE3 hash has 32 bytes");
        // Of 2^64 hashes one is no id.
        span_id[0] |= u8::from(span_id == [0; 8]);
        TraceContext { span_id, ..*self }
    }

    /// The trace in lower-case hex, as logs and tools write it.
    pub fn trace_id_hex(&self) -> impl fmt::Display {
        Hex(self.trace_id)
    }
}

struct Hex<const N: usize>([u8; N]);

impl<const N: usize> fmt::Display for Hex<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-{}-{:02x}", Hex(self.trace_id), Hex(self.span_id), self.flags)
    }
}

impl fmt::Debug for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Reads a `traceparent` of version 00, or what a later version shares with it.
impl FromStr for TraceContext {
    type Err = InvalidTraceContext;

    fn from_str(text: &str) -> Result<TraceContext, InvalidTraceContext> {
        let (head, rest) = text.split_at_checked(LENGTH).ok_or(InvalidTraceContext)?;
        let mut fields = head.split('-');
        let mut field = || fields.next().ok_or(InvalidTraceContext);
        let [version] = bytes(field()?)?;
        if version == 0xff || !(rest.is_empty() || (version > 0 && rest.starts_with('-'))) {
            return Err(InvalidTraceContext);
        }
        let (trace_id, span_id, [flags]) = (bytes(field()?)?, bytes(field()?)?, bytes(field()?)?);
        TraceContext::valid(trace_id, span_id, flags)
    }
}

/// Lower-case hex digits, two a byte.
fn bytes<const N: usize>(hex: &str) -> Result<[u8; N], InvalidTraceContext> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Ok(byte - b'0'),
        b'a'..=b'f' => Ok(byte - b'a' + 10),
        _ => Err(InvalidTraceContext),
    };
    let (pairs, []) = hex.as_bytes().as_chunks::<2>() else { return Err(InvalidTraceContext) };
    let pairs: &[[u8; 2]; N] = pairs.try_into().map_err(|_| InvalidTraceContext)?;
    let mut bytes = [0; N];
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Ok(bytes)
}

impl TryFrom<String> for TraceContext {
    type Error = InvalidTraceContext;

    fn try_from(text: String) -> Result<TraceContext, InvalidTraceContext> {
        text.parse()
    }
}

impl From<TraceContext> for String {
    fn from(trace: TraceContext) -> String {
        trace.to_string()
    }
}

/// The text is no `traceparent` of W3C Trace Context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a traceparent is 00-{{32 hex digits}}-{{16 hex digits}}-{{2 hex digits}}, in lower case, and no id is all zeros"
)]
pub struct InvalidTraceContext;

#[cfg(test)]
mod tests {
    use super::*;

    // The examples of the recommendation, and its rules one by one.
    #[test]
    fn a_traceparent_is_read_by_the_letter() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        for (text, read) in [
            (good, Some(good)),
            (
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
                Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"),
            ),
            (
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-ff",
                Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-03"),
            ),
            ("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", Some(good)),
            ("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what-the-future", Some(good)),
            ("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01.what", None),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more", None),
            ("ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", None),
            ("00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01", None),
            ("00-00000000000000000000000000000000-b7ad6b7169203331-01", None),
            ("00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01", None),
            ("00-0af7651916cd43dd8448eb211c80319-cb7ad6b7169203331-01", None),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0x", None),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331", None),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333é-01", None),
            ("", None),
        ] {
            let found = text.parse::<TraceContext>();
            assert_eq!(found.map(|trace| trace.to_string()).ok().as_deref(), read, "{text}");
        }
    }

    #[test]
    fn a_child_is_named_by_its_parent_and_part() {
        let parent = TraceContext::new([1; 16], [2; 8], true).unwrap();
        let child = parent.child(b"a");
        assert_eq!((child.trace_id(), child.is_sampled()), (parent.trace_id(), true));
        assert_eq!(child, parent.child(b"a"));
        for other in [parent, parent.child(b"b"), child.child(b"a")] {
            assert_ne!(child.span_id(), other.span_id());
        }
        assert_eq!(TraceContext::new([0; 16], [2; 8], true), Err(InvalidTraceContext));
    }
}
