//! Is this body JSON that the server is ready to understand?
//!
//! [`StrictJson`] refuses what is too large before it is read, and what is badly formed before it is understood: other
//! media types, broken UTF-8, nesting, duplicate keys, oversized parts, fields that nobody knows. [`value`] reads the
//! bytes once into a tree, [`crate::shape`] turns the tree into a type and says where it does not fit.

use crate::{
    limits::{BodyTooSlow, JSON_BYTES},
    problem::{Code, Problem},
    shape,
};
use axum::{
    body::Body,
    extract::{FromRequest, Request},
};
use bytes::Bytes;
use http::{HeaderMap, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::{self, DeserializeOwned, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::{cell::RefCell, fmt};

/// Objects and arrays may stand in each other this deep.
pub const DEPTH: usize = 64;
/// The longest string, in bytes of UTF-8.
pub const STRING_BYTES: usize = 512 * 1024;
/// The longest array.
pub const ARRAY_ITEMS: usize = 10_000;
/// The most keys of one object.
pub const OBJECT_KEYS: usize = 256;

/// A JSON body, read by the letter. Its type should refuse unknown fields (`#[serde(deny_unknown_fields)]`); they are
/// then answered with `unknown_field` and a pointer to each.
#[derive(Clone, Copy, Debug)]
pub struct StrictJson<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for StrictJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            return Err(Problem::new(Code::UnsupportedMediaType).detail("send it with Content-Type: application/json"));
        }
        parse(&read(request, JSON_BYTES).await?).map(StrictJson)
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let Some(Ok(media)) = headers.get(header::CONTENT_TYPE).map(http::HeaderValue::to_str) else { return false };
    let (essence, parameters) = media.split_once(';').unwrap_or((media, ""));
    let utf8 = |parameter: &str| {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        !name.trim().eq_ignore_ascii_case("charset") || value.trim().trim_matches('"').eq_ignore_ascii_case("utf-8")
    };
    essence.trim().eq_ignore_ascii_case("application/json") && parameters.split(';').all(utf8)
}

/// The whole body of a request, at most `limit` bytes.
///
/// # Errors
/// `payload_too_large`, before anything is read where the request says its length; `request_timeout` if it comes in
/// too slowly; `invalid_json` if it ends early.
pub async fn read(request: Request, limit: usize) -> Result<Bytes, Problem> {
    match limited(request, limit)?.collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) => Err(body_problem(error.as_ref(), limit)),
    }
}

/// The body of a request, to be read piece by piece. What its length says is believed only where it refuses.
pub(crate) fn limited(request: Request, limit: usize) -> Result<Limited<Body>, Problem> {
    let declared = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if declared.is_some_and(|length: u64| length > limit as u64) {
        return Err(too_large(limit));
    }
    Ok(Limited::new(request.into_body(), limit))
}

/// Why a body could not be read.
pub(crate) fn body_problem(error: &(dyn std::error::Error + 'static), limit: usize) -> Problem {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.is::<LengthLimitError>() {
            return too_large(limit);
        }
        if let Some(slow) = error.downcast_ref::<BodyTooSlow>() {
            return Problem::new(Code::RequestTimeout).detail(slow.to_string());
        }
        cause = error.source();
    }
    Problem::new(Code::InvalidJson).detail("the body ended before its end; send it again")
}

fn too_large(limit: usize) -> Problem {
    Problem::new(Code::PayloadTooLarge)
        .detail(format!("at most {limit} bytes are taken; put large content into a blob"))
        .limit(limit as u64)
}

/// Reads a type out of JSON, by the letter.
///
/// # Errors
/// A problem that says what is wrong, and where.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    shape::read(&value(bytes)?)
}

/// Reads JSON of any shape, by the letter.
///
/// # Errors
/// `invalid_utf8`, `json_too_deep`, `duplicate_key`, `schema_violation` for parts that are too large, each with a
/// pointer; `invalid_json` with line and column.
pub fn value(bytes: &[u8]) -> Result<Value, Problem> {
    if let Err(error) = std::str::from_utf8(bytes) {
        return Err(Problem::new(Code::InvalidUtf8).detail(format!("byte {} begins no character", error.valid_up_to())));
    }
    let scan = Scan::default();
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let read = Node { scan: &scan, depth: 0 }.deserialize(&mut deserializer);
    match read.and_then(|value| deserializer.end().map(|()| value)) {
        Ok(value) => Ok(value),
        Err(error) => Err(scan.fault.into_inner().unwrap_or_else(|| {
            // Its words say what the parser wanted and where; they quote nothing.
            Problem::new(Code::InvalidJson).detail(error.to_string())
        })),
    }
}

/// Where the scan is, and what it found.
#[derive(Default)]
struct Scan {
    path: RefCell<Vec<String>>,
    fault: RefCell<Option<Problem>>,
}

impl Scan {
    /// Ends the scan. The parser's own error is only the vehicle.
    fn refuse<E: de::Error>(&self, code: Code, detail: &str) -> E {
        self.end(self.problem(code, detail))
    }

    /// Ends the scan where there is too much.
    fn beyond<E: de::Error>(&self, code: Code, limit: usize, detail: &str) -> E {
        self.end(self.problem(code, detail).limit(limit as u64))
    }

    fn problem(&self, code: Code, detail: &str) -> Problem {
        Problem::at(code, shape::pointer(self.path.borrow().iter()), detail)
    }

    fn end<E: de::Error>(&self, problem: Problem) -> E {
        *self.fault.borrow_mut() = Some(problem);
        E::custom("refused")
    }

    fn within<T>(&self, part: String, read: impl FnOnce() -> T) -> T {
        self.path.borrow_mut().push(part);
        let read = read();
        // After a refusal the path has been told already.
        self.path.borrow_mut().pop();
        read
    }
}

/// One value of the tree, to be read.
#[derive(Clone, Copy)]
struct Node<'s> {
    scan: &'s Scan,
    depth: usize,
}

impl Node<'_> {
    fn deeper<E: de::Error>(self) -> Result<Self, E> {
        match self.depth {
            DEPTH => Err(self.scan.beyond(Code::JsonTooDeep, DEPTH, &format!("at most {DEPTH} levels are taken"))),
            depth => Ok(Node { depth: depth + 1, ..self }),
        }
    }

    fn string<E: de::Error>(self, text: &str) -> Result<(), E> {
        if text.len() > STRING_BYTES {
            return Err(self.scan.beyond(
                Code::SchemaViolation,
                STRING_BYTES,
                &format!("a string has at most {STRING_BYTES} bytes; put large content into a blob"),
            ));
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        let refused = || self.scan.refuse(Code::SchemaViolation, "the number is out of range");
        Number::from_f64(value).map(Value::Number).ok_or_else(refused)
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        self.string(value)?;
        Ok(Value::String(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut read = Vec::new();
        while let Some(item) = self.scan.within(read.len().to_string(), || items.next_element_seed(inner)).transpose() {
            if read.len() == ARRAY_ITEMS {
                let detail = format!("an array has at most {ARRAY_ITEMS} items");
                return Err(self.scan.beyond(Code::SchemaViolation, ARRAY_ITEMS, &detail));
            }
            read.push(item?);
        }
        Ok(Value::Array(read))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut read = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let (value, taken) = self.scan.within(key.clone(), || {
                self.string(&key)?;
                if read.contains_key(&key) {
                    return Err(self.scan.refuse(Code::DuplicateKey, "the object has this key already"));
                }
                Ok((entries.next_value_seed(inner)?, read.len()))
            })?;
            if taken == OBJECT_KEYS {
                let detail = format!("an object has at most {OBJECT_KEYS} keys");
                return Err(self.scan.beyond(Code::SchemaViolation, OBJECT_KEYS, &detail));
            }
            read.insert(key, value);
        }
        Ok(Value::Object(read))
    }
}

/// Query parameters, read by the letter: each at most once, none that nobody knows.
#[derive(Clone, Copy, Debug)]
pub struct StrictQuery<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> axum::extract::FromRequestParts<S> for StrictQuery<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut http::request::Parts, _: &S) -> Result<Self, Problem> {
        query(parts.uri.query().unwrap_or_default()).map(StrictQuery)
    }
}

/// Reads a type out of a query. Every parameter is text; [`shape`] turns text into numbers and truth where the type
/// wants them. A parameter that comes several times is an array, for types that take one.
///
/// # Errors
/// As for a body; the pointer names the parameter.
pub fn query<T: DeserializeOwned>(query: &str) -> Result<T, Problem> {
    let mut read: Map<String, Value> = Map::new();
    for (name, text) in form_urlencoded::parse(query.as_bytes()).into_owned() {
        match read.get_mut(&name) {
            None => drop(read.insert(name, Value::String(text))),
            Some(Value::Array(several)) if several.len() < OBJECT_KEYS => several.push(Value::String(text)),
            Some(Value::Array(_)) => {
                return Err(Problem::at(Code::SchemaViolation, format!("/{name}"), "the parameter comes too often"));
            }
            Some(first) => *first = Value::Array(vec![first.take(), Value::String(text)]),
        }
    }
    shape::read_text(&Value::Object(read))
}
