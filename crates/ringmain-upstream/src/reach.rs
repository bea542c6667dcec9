//! What a request may reach at the provider, judged by its method and path alone.
//!
//! All callers share the endpoint's account. What the provider stores for one of them is there
//! for whoever knows or lists its name, and a path can name a model that the body does not.

use ringmain_wire::head::Method;

/// APIs whose model is the one that the body names.
const MODEL_IN_BODY: [&str; 10] = [
    "/audio/speech",
    "/chat/completions",
    "/completions",
    "/embeddings",
    "/images/generations",
    "/messages",
    "/messages/count_tokens",
    "/moderations",
    "/rerank",
    "/responses",
];

/// Whether the endpoint goes by the model that the body names: for these requests alone, the name
/// that is spliced into the body decides which model answers.
pub fn goes_by_body_model(method: Method, path: &str) -> bool {
    method == Method::Post && MODEL_IN_BODY.contains(&without_query(path))
}

/// Whether this reads the list of models, and nothing else.
pub fn lists_models(method: Method, path: &str) -> bool {
    method == Method::Get && without_query(path) == "/models"
}

/// Whether this reads or removes something that the provider may have stored for any caller: every
/// DELETE, and every GET but that of the models or of one model.
pub fn touches_stored(method: Method, path: &str) -> bool {
    match method {
        Method::Post => false,
        Method::Get => match without_query(path).strip_prefix("/models") {
            Some("") => false,
            Some(rest) => {
                let name = rest.strip_prefix('/');
                name.is_none_or(|name| name.is_empty() || name.contains('/'))
            }
            None => true,
        },
        Method::Delete => true,
    }
}

fn without_query(path: &str) -> &str {
    path.split('?').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_decides_for_these_paths_only() {
        for path in MODEL_IN_BODY {
            assert!(goes_by_body_model(Method::Post, path), "{path}");
            assert!(goes_by_body_model(Method::Post, &format!("{path}?a=/b")), "{path}");
            assert!(!goes_by_body_model(Method::Get, path), "{path}");
            assert!(!goes_by_body_model(Method::Delete, path), "{path}");
            assert!(!goes_by_body_model(Method::Post, &format!("{path}/resp_1/cancel")), "{path}");
            assert!(!goes_by_body_model(Method::Post, &format!("/deployments/m{path}")), "{path}");
        }
        for path in ["/", "/batches", "/files", "/messages/batches", "/models", "/x?/completions"] {
            assert!(!goes_by_body_model(Method::Post, path), "{path}");
        }
    }

    #[test]
    fn models_may_be_read_and_nothing_stored() {
        for path in ["/models", "/models?limit=1", "/models/tiny", "/models/tiny?x=/a"] {
            assert!(!touches_stored(Method::Get, path), "{path}");
            assert!(touches_stored(Method::Delete, path), "{path}");
        }
        for path in
            ["/files", "/responses/resp_1", "/modelsx", "/models/", "/models/a/b", "/x?/models"]
        {
            assert!(touches_stored(Method::Get, path), "{path}");
            assert!(!touches_stored(Method::Post, path), "{path}");
        }
        assert!(lists_models(Method::Get, "/models?x=1"));
        assert!(!lists_models(Method::Get, "/models/tiny"));
        assert!(!lists_models(Method::Post, "/models"));
    }
}
