//! How do bytes come in and go out, and whose are they?
//!
//! A blob is named by the hash of its bytes, whoever sent them. Who may read it is kept beside it, per tenant: a hash
//! that a tenant has not sent names nothing, although somebody else may have sent the same bytes.

use super::Named;
use crate::{
    auth::{Principal, Tenant},
    json,
    limits::BLOB_BYTES,
    problem::{Code, Problem},
    state::AppState,
};
use axum::{
    Json,
    body::Body,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures_util::TryStreamExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use http_body_util::BodyExt as _;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use std::sync::Arc;
use windlass_api::StoredBlob;
use windlass_core::{BlobId, ContentBlock, Input, MediaSource};
use windlass_runtime::blob::{BlobError, BlobStore, BlobStream};

fn kind(tenant: &Tenant) -> String {
    format!("blob/{tenant}")
}

async fn owns(state: &AppState, tenant: &Tenant, blob: &BlobId) -> Result<bool, Problem> {
    Ok(state.documents().get(&kind(tenant), blob.as_str()).await?.is_some())
}

async fn own(state: &AppState, tenant: &Tenant, blob: &BlobId, bytes: u64) -> Result<(), Problem> {
    if !owns(state, tenant, blob).await? {
        state.documents().put(&kind(tenant), blob.as_str(), json!({ "bytes": bytes }), None).await?;
    }
    Ok(())
}

fn store(state: &AppState) -> Result<&Arc<dyn BlobStore>, Problem> {
    state.adapter().blobs().ok_or_else(|| Problem::new(Code::BlobStoreRequired).detail("this server keeps no blobs"))
}

/// Upload a blob
///
/// Any bytes, at most 64 MiB. The same bytes again are the same blob. With `Content-Digest` nothing is kept but what has
/// the digest that it says.
#[utoipa::path(
    post, path = "/v1/blobs", operation_id = "upload_blob", tag = "blobs",
    params(("Content-Digest" = Option<windlass_api::schema::ContentDigest>, Header, description = "What the bytes are to hash to (RFC 9530): `sha-256=:BASE64:`.")),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 201, description = "It is kept.", body = StoredBlob, headers(("Location" = String, description = "Where it is."))),
        (status = 422, description = "There are no bytes, or they do not have the digest that was given. Nothing is kept.", body = windlass_api::ProblemDetails, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn upload(
    State(state): State<AppState>,
    principal: Principal,
    request: Request,
) -> Result<Response, Problem> {
    let blobs = store(&state)?;
    let mut expected = Expected::of(request.headers())?;
    let place = state.api().uploads.take(&principal)?;
    let mut body = json::limited(request, BLOB_BYTES)?;
    let (mut writer, mut bytes) = (blobs.writer().await.map_err(unkept)?, 0);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| json::body_problem(error.as_ref(), BLOB_BYTES))?;
        // What is no data is a trailer, and says nothing here.
        let piece = frame.into_data().unwrap_or_default();
        bytes += piece.len() as u64;
        expected.hear(&piece);
        writer.write(piece).await.map_err(unkept)?;
    }
    if bytes == 0 {
        return Err(Problem::new(Code::SchemaViolation).detail("a blob has at least one byte; send it as the body"));
    }
    expected.check()?;
    let blob = writer.finish().await.map_err(unkept)?;
    drop(place);
    own(&state, &principal.tenant, &blob, bytes).await?;
    let location = format!("/v1/blobs/{}", blob.as_str());
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(StoredBlob { blob, bytes })).into_response())
}

/// What the bytes are to hash to, if their sender says so.
struct Expected(Option<([u8; 32], Sha256)>);

impl Expected {
    fn of(headers: &HeaderMap) -> Result<Expected, Problem> {
        let mut given = headers.get_all(CONTENT_DIGEST).iter().peekable();
        if given.peek().is_none() {
            return Ok(Expected(None));
        }
        let wrong = || {
            let detail = "sha-256=:BASE64: is understood, with the digest of the body (RFC 9530)";
            Problem::new(Code::InvalidHeader).detail(detail).parameter("Content-Digest")
        };
        let mut found = None;
        for value in given {
            for digest in members(value.to_str().map_err(|_| wrong())?) {
                let (name, value) = digest.trim().split_once('=').ok_or_else(wrong)?;
                if name == "sha-256" {
                    let value = value.split(';').next().unwrap_or_default().trim_end();
                    let base64 = value.strip_prefix(':').and_then(|rest| rest.strip_suffix(':')).ok_or_else(wrong)?;
                    found =
                        Some(STANDARD.decode(base64).ok().and_then(|bytes| bytes.try_into().ok()).ok_or_else(wrong)?);
                }
            }
        }
        // Of several digests one is enough; but whoever gives only others wants them checked, and they would not be.
        Ok(Expected(Some((found.ok_or_else(wrong)?, Sha256::new()))))
    }

    fn hear(&mut self, piece: &[u8]) {
        if let Some((_, hasher)) = &mut self.0 {
            hasher.update(piece);
        }
    }

    fn check(self) -> Result<(), Problem> {
        let Some((expected, hasher)) = self.0 else { return Ok(()) };
        if hasher.finalize()[..] == expected {
            return Ok(());
        }
        let detail = "nothing was kept: the bytes that came do not have the digest of Content-Digest; send them again";
        Err(Problem::new(Code::BlobHashMismatch).detail(detail))
    }
}

/// The members of a structured dictionary (RFC 9651): what is quoted in a parameter separates nothing.
fn members(dictionary: &str) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    dictionary.split(move |letter| {
        let separates = letter == ',' && !quoted;
        quoted ^= letter == '"' && !escaped;
        escaped = letter == '\\' && quoted && !escaped;
        separates
    })
}

const CONTENT_DIGEST: HeaderName = HeaderName::from_static("content-digest");

fn unkept(error: BlobError) -> Problem {
    windlass_runtime::SessionError::Blob(error).into()
}

/// Download a blob
///
/// The bytes are checked against their name before any is sent. `HEAD` is answered too.
#[utoipa::path(
    get, path = "/v1/blobs/{blob}", operation_id = "download_blob", tag = "blobs",
    params(
        ("blob" = windlass_api::schema::BlobId, Path, description = "Its address."),
        ("If-None-Match" = Option<String>, Header, description = "The blob that the caller has."),
    ),
    responses(
        (status = 200, description = "The bytes.", body = Vec<u8>, content_type = "application/octet-stream", headers(("ETag" = String, description = "Its address, quoted."))),
        (status = 304, description = "The caller has it."),
    )
)]
pub(crate) async fn download(
    State(state): State<AppState>,
    principal: Principal,
    Named(blob): Named<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let invalid = |_| Problem::new(Code::InvalidId).detail("a blob is named by 64 lower-case hex digits");
    let blob = BlobId::try_from(blob).map_err(invalid)?;
    let absent = || Problem::new(Code::NotFound).detail("there is no such blob; upload it first");
    if !owns(&state, &principal.tenant, &blob).await? {
        return Err(absent());
    }
    let tag = format!("\"{}\"", blob.as_str());
    let known = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    // Compared weakly (RFC 9110, 13.1.2): what compresses on the way weakens tags.
    let mut known = known.flat_map(|value| value.split(',')).map(|value| value.trim().trim_start_matches("W/"));
    if known.any(|value| value == tag || value == "*") {
        let headers =
            [(header::ETAG, HeaderValue::try_from(tag).map_err(Problem::internal)?), (header::CACHE_CONTROL, FOR_EVER)];
        return Ok((StatusCode::NOT_MODIFIED, headers).into_response());
    }
    let BlobStream { bytes, pieces } = match store(&state)?.stream(&blob).await {
        Ok(stream) => stream,
        Err(BlobError::Missing(_)) => return Err(absent()),
        Err(error) => return Err(unkept(error)),
    };
    // The length that is said tells the client of an answer that was broken off.
    let pieces = pieces.inspect_err(|error| tracing::warn!(%error, "a download was broken off"));
    let mut response = Body::from_stream(pieces).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, bytes.into());
    let text = |text: String| HeaderValue::try_from(text).map_err(Problem::internal);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::CONTENT_DISPOSITION, text(format!("attachment; filename={tag}"))?);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CACHE_CONTROL, FOR_EVER);
    headers.insert(header::ETAG, text(tag)?);
    Ok(response)
}

/// What an address names never changes.
const FOR_EVER: HeaderValue = HeaderValue::from_static("private, max-age=31536000, immutable");

fn named(input: &Input) -> impl Iterator<Item = &BlobId> {
    input.blocks().into_iter().flatten().filter_map(|block| match block {
        ContentBlock::Image { source: MediaSource::Blob { blob, .. }, .. }
        | ContentBlock::Video { source: MediaSource::Blob { blob, .. }, .. } => Some(blob),
        _ => None,
    })
}

/// Refuses an input that names a blob which its sender may not read.
pub(super) async fn check_named(state: &AppState, principal: &Principal, input: &Input) -> Result<(), Problem> {
    for blob in named(input) {
        if !owns(state, &principal.tenant, blob).await? {
            let detail = "a blob that is named is not there; upload it first";
            return Err(Problem::at(Code::BlobMissing, "/blocks".into(), detail));
        }
    }
    Ok(())
}

/// What comes within an input belongs to its sender: told before the input is admitted, because afterwards the sender
/// may be gone. What is no base64 is left for the session to refuse.
pub(super) async fn own_carried(state: &AppState, principal: &Principal, input: &Input) -> Result<(), Problem> {
    for block in input.blocks().into_iter().flatten() {
        if let ContentBlock::Image { source: MediaSource::Inline { data }, .. }
        | ContentBlock::Video { source: MediaSource::Inline { data }, .. } = block
            && let Ok(bytes) = STANDARD.decode(data.as_bytes())
        {
            own(state, &principal.tenant, &BlobId::of(&bytes), bytes.len() as u64).await?;
        }
    }
    Ok(())
}
