//! Style and scripts, inside the program. Their addresses carry a hash, so browsers may keep them for ever.

use axum::extract::Path;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use std::sync::LazyLock;

const STYLE: &str = include_str!("assets/style.css");
const SCRIPT: &str = include_str!("assets/script.js");
/// htmx 2.0.8, Zero-Clause BSD, unchanged.
const HTMX: &str = include_str!("assets/htmx.min.js");
const ICON: &str = include_str!("assets/icon.svg");

/// The addresses of style, htmx and our script.
pub(super) static PLACES: LazyLock<[String; 3]> = LazyLock::new(|| {
    let place = |name: &str, text: &str| {
        let hash = Sha256::digest(text.as_bytes());
        format!("/assets/{name}?v={:02x}{:02x}{:02x}{:02x}", hash[0], hash[1], hash[2], hash[3])
    };
    [place("style.css", STYLE), place("htmx.js", HTMX), place("script.js", SCRIPT)]
});

pub(super) async fn show(Path(file): Path<String>) -> Response {
    let (kind, text) = match file.as_str() {
        "style.css" => ("text/css; charset=utf-8", STYLE),
        "script.js" => ("text/javascript; charset=utf-8", SCRIPT),
        "htmx.js" => ("text/javascript; charset=utf-8", HTMX),
        "icon.svg" => ("image/svg+xml", ICON),
        _ => return (StatusCode::NOT_FOUND, "no such file\n").into_response(),
    };
    let headers =
        [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "public, max-age=31536000, immutable")];
    (headers.map(|(name, value)| (name, HeaderValue::from_static(value))), text).into_response()
}

pub(super) async fn icon() -> Response {
    show(Path("icon.svg".to_owned())).await
}
