//! What does the server promise to those who generate their clients?
//!
//! The OpenAPI document is made from the handlers, their types and the table of routes: paths and bodies stand at the
//! handlers, scopes come from the table, what is true of every route is added here. It is served, and checked in as
//! `docs/openapi.json`, where a test compares it.

use crate::{
    api::{
        admit, agents, blobs, control, events, inputs, journal, operations, peers, policies, runs, sessions, transcript,
    },
    auth::Scope,
    routes::{Route, Routes},
};
use axum::response::{Html, IntoResponse};
use http::{HeaderName, Method, header};
use std::sync::OnceLock;
use utoipa::{
    Modify, OpenApi,
    openapi::{
        self, Content, Header, HeaderBuilder, RefOr, Required, ResponseBuilder, Schema,
        extensions::ExtensionsBuilder,
        path::{Operation, Parameter, PathItem},
        schema::{SchemaType, Type},
        security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme},
    },
};
use windlass_api::schema;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Windlass",
        description = "A durable session runtime for AI agents: accepted means accounted for. \
            Moments are RFC 3339 in UTC; enums are open: expect words that are not listed. Unknown fields of a request \
            are refused, those of an answer are to be passed over. Every error is an `application/problem+json` with a \
            stable `code`. Everything a token may not see is answered as if it were not there.",
        version = "1",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0"),
    ),
    modifiers(&Bearer),
    components(schemas(
        windlass_api::ProblemDetails, windlass_api::Event, windlass_api::Progress, windlass_api::Lagged,
        windlass_api::Gap, windlass_api::Ended, schema::SessionName, schema::InputId, schema::RunId, schema::Gate,
        schema::OperationId, schema::PolicyName, schema::PolicyRef, schema::BlobId, schema::Name, schema::Key,
        schema::ContentDigest,
        schema::TokenId, schema::LabelFilter, windlass_api::InputPhase,
    )),
    tags(
        (name = "sessions", description = "One agent's durable conversation and queue."),
        (name = "inputs", description = "What is addressed to a session, and what became of it."),
        (name = "control", description = "Interrupting, holding, retiring, ending."),
        (name = "runs", description = "What ran, what it committed, what was said."),
        (name = "events", description = "The journal, read or followed."),
        (name = "operations", description = "Background work that a session waits to hear of."),
        (name = "peers", description = "Sessions that write to each other."),
        (name = "policies", description = "What is done with which input."),
        (name = "blobs", description = "Large content."),
        (name = "agents", description = "Who answers."),
        (name = "tokens", description = "Who may call."),
        (name = "server", description = "The server itself."),
    ),
    paths(
        sessions::create, sessions::list, sessions::get, sessions::update, sessions::delete,
        admit::admit, inputs::list, inputs::get, inputs::withdraw, inputs::wait, inputs::explain, inputs::redrive,
        inputs::dead_letters,
        control::interrupt, control::stop, control::hold, control::release, control::retire, control::recycle,
        control::reset, control::recover, control::destroy,
        runs::list, runs::get, runs::receipt, transcript::list, journal::list, events::session, events::several,
        operations::list, operations::register, operations::get, operations::wait, operations::complete,
        operations::fail, operations::progress, operations::cancel,
        peers::list, peers::send, peers::remote::take,
        policies::upload, policies::list, policies::get, policies::explain, policies::replay,
        blobs::upload, blobs::download, agents::list, agents::test,
        edge::create_token, edge::list_tokens, edge::revoke_token,
        edge::livez, edge::readyz, edge::version, edge::metrics, edge::openapi, edge::docs,
    )
)]
struct Described;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, document: &mut openapi::OpenApi) {
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        document.components.get_or_insert_default().add_security_scheme("bearer", scheme);
    }
}

/// Routes that are answered elsewhere in the server; these functions are their descriptions and are never called.
#[expect(dead_code, reason = "the attribute is what counts")]
mod edge {
    use windlass_api::{CreateToken, CreatedToken, Page, TokenView};

    /// Make a token
    ///
    /// The only time that its secret is shown. Nobody gives what he does not have. The first token of a server needs
    /// `tokens:admin`, because from then on nobody is trusted without one.
    #[utoipa::path(
        post, path = "/v1/tokens", operation_id = "create_token", tag = "tokens", request_body = CreateToken,
        responses((status = 201, description = "The token.", body = CreatedToken, headers(("Location" = String, description = "Where it is."))))
    )]
    fn create_token() {}

    /// List tokens
    #[utoipa::path(
        get, path = "/v1/tokens", operation_id = "list_tokens", tag = "tokens",
        params(crate::api::PageQuery),
        responses((status = 200, description = "A page.", body = Page<TokenView>))
    )]
    fn list_tokens() {}

    /// Revoke a token
    ///
    /// At once; streams that it opened end within a minute.
    #[utoipa::path(
        delete, path = "/v1/tokens/{token}", operation_id = "revoke_token", tag = "tokens",
        params(("token" = windlass_api::schema::TokenId, Path, description = "Its id.")),
        responses((status = 204, description = "It is revoked."))
    )]
    fn revoke_token() {}

    /// Whether the process lives
    #[utoipa::path(get, path = "/livez", operation_id = "livez", tag = "server",
        responses((status = 200, description = "It does.", body = serde_json::Map<String, serde_json::Value>)))]
    fn livez() {}

    /// Whether the server takes work
    ///
    /// It has just committed something; 503 while it shuts down or the store cannot be written.
    #[utoipa::path(get, path = "/readyz", operation_id = "readyz", tag = "server",
        responses((status = 200, description = "It does.", body = serde_json::Map<String, serde_json::Value>)))]
    fn readyz() {}

    /// Which server it is
    #[utoipa::path(get, path = "/version", operation_id = "version", tag = "server",
        responses((status = 200, description = "Name and version.", body = serde_json::Map<String, serde_json::Value>)))]
    fn version() {}

    /// What the server counts
    ///
    /// In the text format of Prometheus. From other machines it needs a token with `tenant:admin`.
    #[utoipa::path(get, path = "/metrics", operation_id = "metrics", tag = "server",
        responses((status = 200, description = "The metrics.", body = String, content_type = "text/plain")))]
    fn metrics() {}

    /// This document
    #[utoipa::path(get, path = "/openapi.json", operation_id = "openapi", tag = "server",
        responses((status = 200, description = "OpenAPI 3.1.", body = serde_json::Map<String, serde_json::Value>)))]
    fn openapi() {}

    /// This document, to be read
    #[utoipa::path(get, path = "/docs", operation_id = "docs", tag = "server",
        responses((status = 200, description = "A page.", body = String, content_type = "text/html")))]
    fn docs() {}
}

/// The routes of the document.
pub(crate) fn routes(routes: Routes) -> Routes {
    routes
        .route(Method::GET, "/openapi.json", Scope::Public, || async {
            ([(header::CONTENT_TYPE, "application/json")], json())
        })
        .route(Method::GET, "/docs", Scope::Public, docs)
}

/// The document as it is served: made once, from the routes of a server without any of its embedder's.
pub fn json() -> &'static str {
    static JSON: OnceLock<String> = OnceLock::new();
    JSON.get_or_init(|| {
        let document = document(crate::serve::routes().table());
        let text = serde_json::to_string_pretty(&document).expect("the document is plain data with text as keys");
        text + "\n"
    })
}

/// The document of these routes.
pub fn document(table: &[Route]) -> openapi::OpenApi {
    let mut document = Described::openapi();
    for route in table {
        let operation = document.paths.paths.get_mut(route.path).and_then(|item| operation(item, &route.method));
        if let Some(operation) = operation {
            complete(operation, route);
        }
    }
    document
}

/// The operation of a path by its method.
fn operation<'p>(item: &'p mut PathItem, method: &Method) -> Option<&'p mut Operation> {
    match method.as_str() {
        "GET" => item.get.as_mut(),
        "PUT" => item.put.as_mut(),
        "POST" => item.post.as_mut(),
        "PATCH" => item.patch.as_mut(),
        "DELETE" => item.delete.as_mut(),
        _ => None,
    }
}

/// Adds what is true of every route, and its scope.
fn complete(operation: &mut Operation, route: &Route) {
    let scope = route.scope.as_str();
    let public = route.scope == Scope::Public;
    operation.extensions.get_or_insert_default().merge(ExtensionsBuilder::new().add("x-scope", scope).build());
    operation.security =
        Some(if public { Vec::new() } else { vec![SecurityRequirement::new("bearer", [scope.to_owned()])] });
    let has_body = operation.request_body.is_some();
    let has_parameters = operation.parameters.as_ref().is_some_and(|parameters| !parameters.is_empty());
    let problems: [(&str, &str, bool); 13] = [
        ("400", "The request is not well formed.", true),
        ("401", "A token is needed, or the one shown is none.", !public || route.path == "/metrics"),
        ("403", "The token, or the page that sent this, may not.", true),
        ("404", "There is no such thing, or not for this token.", route.path.contains('{')),
        ("408", "The body took too long to arrive.", has_body),
        ("409", "The state of the session does not allow this.", !public && has_body),
        ("413", "The body is too large.", has_body),
        ("415", "The body has another media type.", has_body),
        ("421", "The server does not answer under this host name.", true),
        ("422", "A value is not what the field takes.", has_body || has_parameters),
        ("429", "Too much at once; come again later.", !public),
        ("500", "The server failed.", true),
        ("503", "The server is shutting down, or its store is out of reach.", true),
    ];
    for parameter in operation.parameters.iter_mut().flatten() {
        if let RefOr::T(parameter) = parameter {
            parameter.schema = parameter.schema.take().map(present);
        }
    }
    if let Some(RefOr::T(body)) = &mut operation.request_body {
        for content in body.content.values_mut() {
            let RefOr::T(content) = content else { continue };
            if let Some(schema) = content.schema.take() {
                let optional = is_optional(&schema);
                content.schema = Some(present(schema));
                if optional {
                    body.required = Some(Required::False);
                }
            }
        }
    }
    let in_pages = |of: &RefOr<Parameter>| matches!(of, RefOr::T(of) if of.name == "limit");
    if operation.parameters.iter().flatten().any(in_pages)
        && let Some(RefOr::T(page)) = operation.responses.responses.get_mut("200")
    {
        let link = HeaderBuilder::from(Header::default())
            .description(Some("Where there is a next page: `<?…>; rel=\"next\"`, relative to this one (RFC 8288)."));
        page.headers.insert("Link".to_owned(), RefOr::T(link.build()));
    }
    for (status, description, applies) in problems {
        let known = operation.responses.responses.contains_key(status);
        if applies && !known {
            let content = Content::new(Some(openapi::Ref::from_schema_name("ProblemDetails")));
            let response = ResponseBuilder::new().description(description).content("application/problem+json", content);
            operation.responses.responses.insert(status.to_owned(), RefOr::T(response.build()));
        }
    }
}

/// Whether null is one of two things that the schema takes.
fn is_optional(schema: &RefOr<Schema>) -> bool {
    matches!(schema, RefOr::T(Schema::OneOf(either)) if either.items.len() == 2)
}

/// What may be left out is not null when it is there: a header or a body cannot be.
fn present(schema: RefOr<Schema>) -> RefOr<Schema> {
    match schema {
        RefOr::T(Schema::OneOf(mut either)) if either.items.len() == 2 => {
            let null = |item: &RefOr<Schema>| matches!(item, RefOr::T(Schema::Object(object)) if object.schema_type == SchemaType::Type(Type::Null));
            either.items.retain(|item| !null(item));
            match either.items.pop() {
                Some(item) if either.items.is_empty() => item,
                item => {
                    either.items.extend(item);
                    RefOr::T(Schema::OneOf(either))
                }
            }
        }
        RefOr::T(Schema::Object(mut object)) => {
            if let SchemaType::Array(types) = &object.schema_type
                && let [one, Type::Null] = &types[..]
            {
                object.schema_type = SchemaType::Type(one.clone());
            }
            RefOr::T(Schema::Object(object))
        }
        schema => schema,
    }
}

/// A page that lists the operations; it needs nothing but the server.
async fn docs() -> impl IntoResponse {
    static PAGE: OnceLock<String> = OnceLock::new();
    const POLICY: HeaderName = HeaderName::from_static("content-security-policy");
    let page = PAGE.get_or_init(|| page(&document(crate::serve::routes().table())));
    let policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'";
    ([(POLICY, policy)], Html(page.as_str()))
}

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222;\
background:#fff}h1{font-size:1.6rem}h2{margin-top:2.5rem;border-bottom:1px solid #ccc}code{font:0.95em ui-monospace,monospace}\
details{border:1px solid #ddd;border-radius:4px;margin:.5rem 0;padding:.4rem .8rem}summary{cursor:pointer}\
.method{display:inline-block;min-width:4.2rem;font-weight:600}.scope{float:right;color:#666}table{border-collapse:collapse}\
td{padding:.1rem .8rem .1rem 0;vertical-align:top}\
@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}details{border-color:#444}h2{border-color:#555}.scope{color:#aaa}}";

fn page(document: &openapi::OpenApi) -> String {
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Windlass API</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style></head><body><h1>Windlass API</h1>\
         <p>{}</p><p>The whole document: <a href=\"/openapi.json\"><code>/openapi.json</code></a>, OpenAPI 3.1.</p>",
        escaped(document.info.description.as_deref().unwrap_or_default())
    );
    for tag in document.tags.iter().flatten() {
        told(
            &mut page,
            format_args!(
                "<h2>{}</h2><p>{}</p>",
                escaped(&tag.name),
                escaped(tag.description.as_deref().unwrap_or_default())
            ),
        );
        for (path, item) in &document.paths.paths {
            let methods = [
                ("GET", &item.get),
                ("POST", &item.post),
                ("PUT", &item.put),
                ("PATCH", &item.patch),
                ("DELETE", &item.delete),
            ];
            for (method, operation) in methods {
                let Some(operation) = operation else { continue };
                if operation.tags.iter().flatten().any(|of| *of == tag.name) {
                    describe(&mut page, method, path, operation);
                }
            }
        }
    }
    page.push_str("</body></html>\n");
    page
}

fn describe(page: &mut String, method: &str, path: &str, operation: &Operation) {
    let scope = operation.extensions.as_ref().and_then(|extensions| extensions.get("x-scope")?.as_str());
    told(
        page,
        format_args!(
            "<details><summary><span class=\"method\">{method}</span><code>{}</code> {}<span class=\"scope\">{}</span></summary><p>{}</p><table>",
            escaped(path),
            escaped(operation.summary.as_deref().unwrap_or_default()),
            escaped(scope.unwrap_or_default()),
            escaped(operation.description.as_deref().unwrap_or_default())
        ),
    );
    for parameter in operation.parameters.iter().flatten() {
        let RefOr::T(parameter) = parameter else { continue };
        told(
            page,
            format_args!(
                "<tr><td><code>{}</code></td><td>{}</td></tr>",
                escaped(&parameter.name),
                escaped(parameter.description.as_deref().unwrap_or_default())
            ),
        );
    }
    for (status, response) in &operation.responses.responses {
        if let RefOr::T(response) = response {
            told(
                page,
                format_args!("<tr><td>{}</td><td>{}</td></tr>", escaped(status), escaped(&response.description)),
            );
        }
    }
    page.push_str("</table></details>");
}

fn told(page: &mut String, what: std::fmt::Arguments<'_>) {
    use std::fmt::Write as _;
    page.write_fmt(what).expect("a string takes whatever is written to it");
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
