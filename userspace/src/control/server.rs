//! The server side of the control socket: strict about requests, silent about policy.
//!
//! A request is checked for its form here and for its meaning in the runtime. Every answer that is
//! not a success has an [`ErrorBody`].

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Query, State, rejection::BytesRejection},
    http::{Method, StatusCode, Uri},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::de::DeserializeOwned;
use tokio::{
    net::UnixListener,
    sync::{mpsc, oneshot},
};

use super::{
    Request,
    protocol::{
        API_VERSION, AdminDone, AdminRequest, ApiError, CallOffRequest, CalledOff, ErrorBody,
        Events, EventsQuery, FlipDone, FlipPlan, FlipRequest, FlipsRunning, Flows, FlowsQuery,
        ReloadRequest, Reloaded, Status, UnloadRequest, Unloaded, Version, no_plan_of_routes,
    },
};

pub use super::socket::{BindError, bind};

/// Bytes of a request body. A flip is a hundred; more is somebody's mistake.
const BODY_BYTES_MAX: usize = 64 << 10;

const FLIP_BODY: &str = "send {} and, as needed, \"to\": PAIR, \"cluster\": NAME, \
     \"drain\": \"finish\", \"idle\" or \"cut\", \"force\": [PRECONDITION, ...], and either \
     \"deadline_ms\": NUMBER or \"route_only\": true";

const ADMIN_BODY: &str = "send {\"target\": PAIR or \"ADDRESS:PORT\", \"state\": \"ready\", \"drain\" or \"maint\"} and, as needed, \
     \"cluster\": NAME, \"for_seconds\": NUMBER, \"note\": TEXT, \"by\": NAME, \"drain\": \"finish\", \"idle\" or \"cut\", \"deadline_ms\": NUMBER, \"force\": true";

const COMMANDS: &str = "GET /v1/version, /v1/status, /v1/flip, /v1/flows and /v1/events; \
     POST /v1/flip, /v1/flip/plan, /v1/flip/call-off, /v1/admin, /v1/reload and /v1/unload";

const FLOWS_PARAMETERS: &str = "backend=ADDRESS:PORT, cluster=NAME, state=STATE and limit=NUMBER";

const EVENTS_PARAMETERS: &str = "after=NUMBER, limit=NUMBER and cluster=NAME";

type Requests = mpsc::Sender<Request>;

/// Serves until the receiver of `requests` is dropped and the last answer is out, so whoever waits
/// for the end of this (with a deadline: a client may not read) does not cut an answer short.
pub async fn serve(listener: UnixListener, requests: Requests) {
    let stopped = {
        let requests = requests.clone();
        async move { requests.closed().await }
    };
    if let Err(error) =
        axum::serve(listener, router(requests)).with_graceful_shutdown(stopped).await
    {
        tracing::error!(
            %error,
            "the control socket ended; restart pairflipd to command it again, connections live on"
        );
    }
}

fn router(requests: Requests) -> Router {
    Router::new()
        .route("/v1/version", get(version))
        .route("/v1/status", get(status))
        .route("/v1/flows", get(flows))
        .route("/v1/events", get(events))
        .route("/v1/flip", get(flips_running).post(flip))
        .route("/v1/flip/plan", post(plan_flip))
        .route("/v1/flip/call-off", post(call_off))
        .route("/v1/admin", post(admin))
        .route("/v1/reload", post(reload))
        .route("/v1/unload", post(unload))
        .method_not_allowed_fallback(wrong_method)
        .fallback(unknown_path)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(requests)
}

async fn version(uri: Uri) -> Result<Json<Version>, ApiError> {
    no_query(&uri)?;
    Ok(Json(Version { version: env!("CARGO_PKG_VERSION").to_owned(), api: API_VERSION }))
}

async fn status(State(requests): State<Requests>, uri: Uri) -> Result<Json<Status>, ApiError> {
    no_query(&uri)?;
    current_status(&requests).await.map(Json)
}

async fn flows(State(requests): State<Requests>, uri: Uri) -> Result<Json<Flows>, ApiError> {
    list_flows(&requests, &uri).await.map(Json)
}

async fn events(State(requests): State<Requests>, uri: Uri) -> Result<Json<Events>, ApiError> {
    list_events(&requests, &uri).await.map(Json)
}

async fn flip(
    State(requests): State<Requests>,
    uri: Uri,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<FlipDone>, ApiError> {
    let flip = flip_request(&uri, body)?;
    ask(&requests, |reply| Request::Flip { flip, reply }).await.map(Json)
}

async fn plan_flip(
    State(requests): State<Requests>,
    uri: Uri,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<FlipPlan>, ApiError> {
    let flip = flip_request(&uri, body)?;
    if flip.route_only {
        return Err(no_plan_of_routes());
    }
    ask(&requests, |reply| Request::PlanFlip { flip, reply }).await.map(Json)
}

fn flip_request(uri: &Uri, body: Result<Bytes, BytesRejection>) -> Result<FlipRequest, ApiError> {
    no_query(uri)?;
    let flip: FlipRequest = parse_body(&body.map_err(unread_body)?, FLIP_BODY)?;
    if flip.route_only && flip.deadline_ms.is_some() {
        return Err(ApiError::new(
            "bad_body",
            "route_only and deadline_ms do not go together: moving the routes takes no time",
            FLIP_BODY,
        ));
    }
    Ok(flip)
}

async fn flips_running(
    State(requests): State<Requests>,
    uri: Uri,
) -> Result<Json<FlipsRunning>, ApiError> {
    no_query(&uri)?;
    ask(&requests, |reply| Request::FlipsRunning { reply }).await.map(Json)
}

async fn call_off(
    State(requests): State<Requests>,
    uri: Uri,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<CalledOff>, ApiError> {
    no_query(&uri)?;
    let remedy = "send {}, or {\"cluster\": NAME}";
    let call_off: CallOffRequest = parse_body(&body.map_err(unread_body)?, remedy)?;
    ask(&requests, |reply| Request::CallOff { call_off, reply }).await.map(Json)
}

async fn admin(
    State(requests): State<Requests>,
    uri: Uri,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<AdminDone>, ApiError> {
    no_query(&uri)?;
    let admin: AdminRequest = parse_body(&body.map_err(unread_body)?, ADMIN_BODY)?;
    ask(&requests, |reply| Request::Admin { admin, reply }).await.map(Json)
}

async fn reload(
    State(requests): State<Requests>,
    uri: Uri,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Reloaded>, ApiError> {
    no_query(&uri)?;
    let body = body.map_err(unread_body)?;
    if !body.is_empty() {
        let ReloadRequest {} = parse_body(&body, "send no body, or {}")?;
    }
    ask(&requests, |reply| Request::Reload { reply }).await.map(Json)
}

async fn unload(
    State(requests): State<Requests>,
    uri: Uri,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Unloaded>, ApiError> {
    no_query(&uri)?;
    let body = body.map_err(unread_body)?;
    if !body.is_empty() {
        let UnloadRequest {} = parse_body(&body, "send no body, or {}")?;
    }
    ask(&requests, |reply| Request::Unload { reply }).await.map(Json)
}

pub(crate) async fn current_status(requests: &Requests) -> Result<Status, ApiError> {
    ask(requests, |reply| Request::Status { reply }).await
}

/// Answers `GET /v1/flows`, whose parameters are in `uri`.
pub(crate) async fn list_flows(requests: &Requests, uri: &Uri) -> Result<Flows, ApiError> {
    let query: FlowsQuery = parse_query(uri, FLOWS_PARAMETERS)?;
    ask(requests, |reply| Request::Flows { query, reply }).await
}

/// Answers `GET /v1/events`, whose parameters are in `uri`.
pub(crate) async fn list_events(requests: &Requests, uri: &Uri) -> Result<Events, ApiError> {
    let query: EventsQuery = parse_query(uri, EVENTS_PARAMETERS)?;
    ask(requests, |reply| Request::Events { query, reply }).await
}

async fn ask<T>(
    requests: &Requests,
    request: impl FnOnce(oneshot::Sender<Result<T, ApiError>>) -> Request,
) -> Result<T, ApiError> {
    let stopping =
        || ApiError::new("stopping", "the daemon is stopping", "start pairflipd and ask again");
    let (sender, receiver) = oneshot::channel();
    requests.send(request(sender)).await.map_err(|_| stopping())?;
    receiver.await.map_err(|_| stopping())?
}

/// A parameter where none is taken would be a command that does something else than it says.
pub(crate) fn no_query(uri: &Uri) -> Result<(), ApiError> {
    match uri.query() {
        None | Some("") => Ok(()),
        Some(query) => Err(ApiError::new(
            "bad_query",
            format!("{} takes no parameters in its path, and got {query:?}", uri.path()),
            "leave out everything from the question mark on; commands take a JSON body",
        )),
    }
}

fn parse_query<T: DeserializeOwned>(uri: &Uri, parameters: &str) -> Result<T, ApiError> {
    let Query(query) = Query::try_from_uri(uri).map_err(|rejection| {
        let text = rejection.body_text();
        let reason = text.split_once(": ").map_or(text.as_str(), |(_, reason)| reason);
        ApiError::new(
            "bad_query",
            format!("the query is not what {} takes: {reason}", uri.path()),
            format!("parameters are {parameters}, each at most once"),
        )
    })?;
    Ok(query)
}

fn unread_body(rejection: BytesRejection) -> ApiError {
    if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
        return ApiError::new(
            "body_too_large",
            format!("the body is larger than {} KiB", BODY_BYTES_MAX >> 10),
            "a request takes a hundred bytes; check what is being sent",
        );
    }
    ApiError::new(
        "bad_body",
        format!("the body could not be read: {}", rejection.body_text()),
        "send it whole, with a right Content-Length or chunked",
    )
}

fn parse_body<T: DeserializeOwned>(body: &[u8], remedy: &str) -> Result<T, ApiError> {
    if body.is_empty() {
        return Err(ApiError::new("bad_body", "the body is empty, and JSON was expected", remedy));
    }
    // Serde would take an array for a struct, its values by position.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(ApiError::new("bad_body", "the body is no JSON object", remedy));
    }
    serde_json::from_slice(body).map_err(|error| {
        ApiError::new("bad_body", format!("the body is not what was expected: {error}"), remedy)
    })
}

async fn unknown_path(uri: Uri) -> ApiError {
    ApiError::new("unknown_path", format!("there is no {}", uri.path()), COMMANDS)
}

async fn wrong_method(method: Method, uri: Uri) -> ApiError {
    ApiError::new("wrong_method", format!("{} does not take {method}", uri.path()), COMMANDS)
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (http_status(&self.code), Json(ErrorBody { error: self })).into_response()
    }
}

/// The HTTP status of an error's code; a refusal for the state of things is a conflict.
fn http_status(code: &str) -> StatusCode {
    match code {
        "unknown_path" | "unknown_backend" | "unknown_cluster" | "unknown_pair"
        | "unknown_target" => StatusCode::NOT_FOUND,
        "wrong_method" => StatusCode::METHOD_NOT_ALLOWED,
        "body_too_large" => StatusCode::PAYLOAD_TOO_LARGE,
        "bad_body" | "bad_query" | "cluster_not_named" | "unknown_precondition" | "ambiguous" => {
            StatusCode::BAD_REQUEST
        }
        "target_down" | "target_taken_out" | "precondition_unmet" | "active_primary"
        | "flip_running" | "failover_running" | "no_other_pair" | "no_flip" | "too_late"
        | "flip_undone" | "flip_timed_out" => StatusCode::CONFLICT,
        "stopping" => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
