//! The models: the routes that the caller may use, in the words of both APIs at once.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, State};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Response};
use ringmain_wire::Code;
use serde_json::{Value, json};

use crate::exchange::Origin;
use crate::refusal::Refusal;
use crate::server::Face;
use crate::shape::Shape;

/// `GET /v1/models`
pub(crate) async fn list(
    State(face): State<Arc<Face>>,
    Extension(origin): Extension<Origin>,
) -> Response<Body> {
    let routes = face.broker().routes();
    // A pattern is not a model that anybody could ask for.
    let names: Vec<&str> =
        routes.models(&origin.caller).filter(|name| !name.ends_with('*')).collect();
    let data: Vec<Value> = names.iter().map(|name| object(name)).collect();
    json_response(&json!({
        "object": "list",
        "data": data,
        "has_more": false,
        "first_id": names.first(),
        "last_id": names.last(),
    }))
}

/// `GET /v1/models/NAME`
pub(crate) async fn one(
    State(face): State<Arc<Face>>,
    Extension(origin): Extension<Origin>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Response<Body> {
    match face.broker().routes().serves(&name, &origin.caller) {
        Ok(()) => json_response(&object(&name)),
        Err(text) => {
            Refusal::new(Code::UnknownRoute, text).response(Shape::of("/models", &headers))
        }
    }
}

fn object(name: &str) -> Value {
    json!({
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": "ringmain",
        "type": "model",
        "display_name": name,
        "created_at": "1970-01-01T00:00:00Z",
    })
}

fn json_response(value: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(value.to_string()));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}
