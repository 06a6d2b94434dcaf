//! Which routes are there, and what does each ask of its caller?
//!
//! [`Routes`] is the only way to add a route: it asks for a scope, and no handler is reached without its check. The
//! table it keeps is what the OpenAPI document is compared with.

use crate::{
    auth::{Principal, Scope, authenticate},
    guard::{ClientIp, RouteName},
    page::Next as NextPage,
    problem::{Code, Problem},
    state::AppState,
};
use axum::{
    Router,
    extract::{Request, State},
    handler::Handler,
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{MethodFilter, MethodRouter},
};
use http::{Extensions, HeaderMap, Method};
use std::{collections::BTreeMap, time::Duration};

/// One row of the table of routes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The method.
    pub method: Method,
    /// The path, with `{name}` for its parameters.
    pub path: &'static str,
    /// What is asked of the caller.
    pub scope: Scope,
}

/// Routes with their scopes.
#[derive(Default)]
pub struct Routes {
    table: Vec<Route>,
    routers: BTreeMap<&'static str, MethodRouter<AppState>>,
}

impl Routes {
    /// None yet.
    pub fn new() -> Routes {
        Routes::default()
    }

    /// Adds a route. A path may come several times, with other methods. `HEAD` is answered where `GET` is.
    ///
    /// # Panics
    /// If there is such a route already.
    pub fn route<H, T>(mut self, method: Method, path: &'static str, scope: Scope, handler: H) -> Routes
    where
        H: Handler<T, AppState>,
        T: 'static,
    {
        let filter = MethodFilter::try_from(method.clone()).expect("one of the methods of HTTP");
        let guarded = MethodRouter::new().on(filter, handler).route_layer(from_fn_with_state((path, scope), admit));
        let known = self.routers.remove(path).unwrap_or_default();
        self.routers.insert(path, known.merge(guarded));
        self.table.push(Route { method, path, scope });
        self
    }

    /// Adds all routes of another table.
    pub fn and(self, add: impl FnOnce(Routes) -> Routes) -> Routes {
        add(self)
    }

    /// Every route, in the order they were added.
    pub fn table(&self) -> &[Route] {
        &self.table
    }

    /// The routes as a service; what is no route is a problem.
    pub(crate) fn router(self, state: AppState) -> Router {
        let mut router = Router::new();
        for (path, methods) in self.routers {
            router = router.route(path, methods);
        }
        router
            .method_not_allowed_fallback(|| async { Problem::new(Code::MethodNotAllowed) })
            .fallback(|| async { Problem::new(Code::NotFound).detail("there is no such route; see /openapi.json") })
            .with_state(state)
    }
}

/// The check in front of every handler: who is it, may he, is it too often?
async fn admit(State((path, scope)): State<(&'static str, Scope)>, mut request: Request, next: Next) -> Response {
    let asked = request.uri().clone();
    let mut response = match principal(request.headers(), request.extensions(), scope).await {
        Ok(None) => next.run(request).await,
        Ok(Some(principal)) => {
            request.extensions_mut().insert(principal);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    };
    NextPage::link(&mut response, asked.query());
    response.extensions_mut().insert(RouteName(path));
    response
}

async fn principal(headers: &HeaderMap, known: &Extensions, scope: Scope) -> Result<Option<Principal>, Problem> {
    if scope == Scope::Public {
        return Ok(None);
    }
    let unguarded = || Problem::internal("a route was reached around the guard");
    let ClientIp(from) = known.get().copied().ok_or_else(unguarded)?;
    let state = known.get::<AppState>().ok_or_else(unguarded)?;
    let principal = authenticate(state, headers, from).await?;
    // Whoever is trusted because he runs on this machine could as well write its files.
    if !principal.is_local() {
        let rates = state.rates();
        let rate = if scope.is_administration() { &rates.administration } else { &rates.calls };
        rate.take(&principal.account())?;
    }
    principal.may(scope)?;
    if state.is_draining() {
        let wait = Duration::from_secs(1);
        return Err(Problem::new(Code::Draining).detail("the server shuts down; try again").retry_after(wait));
    }
    Ok(Some(principal))
}
