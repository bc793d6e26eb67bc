//! Refusals as RFC 9457 problems.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::planning::contract::{PROBLEM_BASE, PROBLEM_JSON, Problem};

/// Composes a problem; `name` is the last segment of its type.
pub(super) fn problem(status: u16, name: &str, detail: String, expected: Option<u64>) -> Problem {
    Problem { kind: format!("{PROBLEM_BASE}{name}"), title: name.replace('-', " "), status, detail, expected }
}

/// A refused request.
pub(super) struct Refusal(pub(super) Problem);

impl Refusal {
    pub(super) fn new(status: StatusCode, name: &str, detail: impl Into<String>) -> Self {
        Self(problem(status.as_u16(), name, detail.into(), None))
    }

    /// A fault of our own file.
    pub(super) fn storage(reason: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "storage", format!("the planner's database failed: {reason}"))
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_string(&self.0).expect("a problem has no map with other than string keys");
        let mut response = (status, body).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        response
    }
}
