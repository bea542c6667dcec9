//! Which path is answered by what.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::routing::{get, post};
use axum::{Extension, Router};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};

use crate::exchange::Origin;
use crate::refusal::Refusal;
use crate::server::Face;
use crate::shape::Shape;
use crate::{exchange, metrics, models};

/// Paths that say nothing but whether the broker is well: for whoever reaches them.
pub(crate) const OPEN: [&str; 2] = ["/healthz", "/readyz"];

/// What begins like this below `/v1`, the broker answers itself, with whatever method is its.
const OWN: &str = "models";

/// All paths.
pub(crate) fn router(face: Arc<Face>) -> Router {
    Router::new()
        .route("/healthz", get(alive))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics::show))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*name}", get(models::one))
        .route("/v1/{*path}", post(run))
        .method_not_allowed_fallback(not_allowed)
        .fallback(not_found)
        .with_state(face)
}

/// Whether this is a POST below `/v1`, which [`router`] would lead to [`exchange::post`].
pub(crate) fn is_exchange(request: &Request<Body>) -> bool {
    let below = request.uri().path().strip_prefix("/v1/");
    request.method() == Method::POST
        && below.is_some_and(|path| !path.is_empty() && !path.starts_with(OWN))
}

async fn run(
    State(face): State<Arc<Face>>,
    Extension(origin): Extension<Origin>,
    request: Request<Body>,
) -> Response<Body> {
    exchange::post(face, origin, request).await
}

async fn alive() -> Response<Body> {
    text(StatusCode::OK, "alive\n")
}

async fn ready(State(face): State<Arc<Face>>) -> Response<Body> {
    match face.is_serving() {
        true => text(StatusCode::OK, "ready\n"),
        false => text(StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
    }
}

async fn not_found(State(face): State<Arc<Face>>, request: Request<Body>) -> Response<Body> {
    let told = format!("nothing is served at {:?}; the APIs are below /v1", request.uri().path());
    refuse(&face, request, Refusal::not_served(404, told)).await
}

async fn not_allowed(State(face): State<Arc<Face>>, request: Request<Body>) -> Response<Body> {
    let (method, path) = (request.method(), request.uri().path());
    let told = match method {
        &Method::GET | &Method::DELETE if path.starts_with("/v1/") => format!(
            "{method} is not served at {path:?}: what a provider stores under the key of this \
             broker is not shown to its callers, and the models are at /v1/models"
        ),
        _ => format!("{method} is not served at {path:?}"),
    };
    refuse(&face, request, Refusal::not_served(405, told)).await
}

/// A refusal of a request whose body nobody has read.
pub(crate) async fn refuse(
    face: &Face,
    request: Request<Body>,
    mut refusal: Refusal,
) -> Response<Body> {
    let (parts, mut body) = request.into_parts();
    exchange::finish_reading(face, &parts, &mut body, None, &mut refusal).await;
    let path = parts.uri.path();
    let shape = Shape::of(path.strip_prefix("/v1").unwrap_or(path), &parts.headers);
    refusal.response(shape)
}

pub(crate) fn text(status: StatusCode, text: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(text.into());
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    response
}
