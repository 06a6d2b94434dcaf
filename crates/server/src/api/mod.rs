//! Which routes make up the API?

use crate::routes::Routes;

/// The routes of the API.
pub(crate) fn routes(routes: Routes) -> Routes {
    routes
}
