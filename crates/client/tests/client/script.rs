//! How does a server behave exactly as a test says? It reads one request per connection and answers the next line of its
//! script, byte for byte.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// What the server does with one connection.
pub(crate) enum Act {
    /// Reads the request and answers this.
    Answer(String),
    /// Reads the request and hangs up.
    HangUp,
}

/// An answer with a JSON body.
pub(crate) fn json(status: u16, body: &str) -> Act {
    with_headers(status, "", body)
}

/// The same with further header lines.
pub(crate) fn with_headers(status: u16, headers: &str, body: &str) -> Act {
    let length = body.len();
    Act::Answer(format!(
        "HTTP/1.1 {status} x\r\ncontent-type: application/json\r\n{headers}content-length: {length}\r\n\
         connection: close\r\n\r\n{body}"
    ))
}

/// A problem of this code.
pub(crate) fn problem(status: u16, code: &str, retryable: bool) -> Act {
    let body =
        format!(r#"{{"type":"t","title":"T","status":{status},"code":"{code}","retryable":{retryable},"detail":"d"}}"#);
    json(status, &body)
}

/// A stream of these blocks, cut off in the middle of the next one.
pub(crate) fn stream(blocks: &[&str]) -> Act {
    let body = blocks.concat();
    Act::Answer(format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n{body}event: cut off\ndata"
    ))
}

/// Plays the acts; afterwards nobody listens. The requests come from the handle.
pub(crate) async fn play(acts: Vec<Act>) -> (String, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let requests = tokio::spawn(async move {
        let mut requests = Vec::new();
        for act in acts {
            let (mut connection, _) = listener.accept().await.expect("a client");
            requests.push(request(&mut connection).await);
            if let Act::Answer(answer) = act {
                connection.write_all(answer.as_bytes()).await.expect("it listens");
                connection.shutdown().await.expect("it listens");
            }
        }
        requests
    });
    (url, requests)
}

/// Reads one request: its head, and as much body as it says.
async fn request(connection: &mut TcpStream) -> String {
    let mut read = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&read).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if length.is_none_or(|length| length.parse::<usize>().expect("a number") <= body.len()) {
                return text;
            }
        }
        let mut chunk = [0; 4096];
        let bytes = connection.read(&mut chunk).await.expect("a request");
        assert_ne!(bytes, 0, "the client hung up: {text}");
        read.extend_from_slice(&chunk[..bytes]);
    }
}

/// The value of a header of a request.
pub(crate) fn header<'r>(request: &'r str, name: &str) -> Option<&'r str> {
    request.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}
