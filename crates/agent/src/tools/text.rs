//! What of a tool's output is shown to a model?

/// Output as text of at most `limit` bytes and a note. What is no UTF-8 is replaced, and what is too long is cut out of
/// the middle, because the beginning says what it is and the end how it ended. Both are said.
///
/// ```
/// use windlass_agent::tools::shown;
/// assert_eq!(shown(b"short", 100), "short");
/// assert_eq!(shown(b"\xff!", 100), "\u{fffd}!\n[invalid_utf8: some bytes are no text and were replaced]");
/// assert_eq!(shown(b"0123456789", 4), "01\n[cut: 4 of 10 bytes are shown]\n89");
/// ```
pub fn shown(output: &[u8], limit: usize) -> String {
    let text = String::from_utf8_lossy(output);
    let replaced = matches!(text, std::borrow::Cow::Owned(_));
    let mut shown = if text.len() <= limit {
        text.into_owned()
    } else {
        let head = text.floor_char_boundary(limit - limit / 2);
        let tail = text.ceil_char_boundary(text.len() - limit / 2);
        let kept = head + text.len() - tail;
        format!("{}\n[cut: {kept} of {} bytes are shown]\n{}", &text[..head], text.len(), &text[tail..])
    };
    if replaced {
        shown.push_str("\n[invalid_utf8: some bytes are no text and were replaced]");
    }
    shown
}
