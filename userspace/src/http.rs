//! The read-only listener: status, flows, events, health and metrics for monitoring.
//!
//! It has no permissions, so whoever reaches it must be able neither to change anything nor to keep
//! the daemon from its work: connections and the work they cause are bounded.

mod metrics;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    extract::State,
    http::{Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::get,
};
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Mutex, Semaphore, mpsc},
};

use crate::control::{
    Request,
    protocol::{API_VERSION, ApiError, Events, Flows, Status, Version},
    server::{current_status, list_events, list_flows, no_query},
};

/// Connections at a time; more wait in the kernel's queue. File descriptors are for the checks.
const CONNECTIONS_MAX: usize = 64;

/// Longest life of a connection, which is one request and its answer.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(5);

/// Age up to which a status is good enough here. Each one reads the whole flow table inside the
/// event loop, tens of milliseconds when it is full.
const STATUS_AGE_MAX: Duration = Duration::from_millis(250);

/// Wait after the kernel has no connection for us because descriptors or memory are used up.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

const REMEDY: &str = "here are GET /health, /metrics, /v1/version, /v1/status, /v1/flows and /v1/events; \
     commands go to the unix socket (daemon.control), as the pairflip command does";

/// The runtime as this listener may use it: one question at a time.
#[derive(Clone)]
struct Source {
    requests: mpsc::Sender<Request>,
    latest: Arc<Mutex<Option<(Instant, Status)>>>,
}

/// Serves until the process ends.
pub async fn serve(listener: TcpListener, requests: mpsc::Sender<Request>) {
    let router = router(Source { requests, latest: Arc::default() });
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // The semaphore is never closed.
    while let Ok(permit) = Arc::clone(&permits).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let router = router.clone();
                tokio::spawn(async move {
                    connection(stream, router).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "accepting a connection for daemon.http");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, router: Router) {
    let served = http1::Builder::new()
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    match tokio::time::timeout(CONNECTION_TIME_MAX, served).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a connection to daemon.http"),
        Err(_) => tracing::debug!("a connection to daemon.http took too long and was closed"),
    }
}

fn router(source: Source) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/metrics", get(show_metrics))
        .route("/v1/version", get(version))
        .route("/v1/status", get(status))
        .route("/v1/flows", get(flows))
        .route("/v1/events", get(events))
        .method_not_allowed_fallback(wrong_method)
        .fallback(unknown_path)
        .with_state(source)
}

impl Source {
    async fn status(&self) -> Result<Status, ApiError> {
        let mut latest = self.latest.lock().await;
        if let Some((at, status)) = latest.as_ref()
            && at.elapsed() < STATUS_AGE_MAX
        {
            return Ok(status.clone());
        }
        let status = current_status(&self.requests).await?;
        *latest = Some((Instant::now(), status.clone()));
        Ok(status)
    }

    async fn flows(&self, uri: &Uri) -> Result<Flows, ApiError> {
        let _one_at_a_time = self.latest.lock().await;
        list_flows(&self.requests, uri).await
    }

    async fn events(&self, uri: &Uri) -> Result<Events, ApiError> {
        let _one_at_a_time = self.latest.lock().await;
        list_events(&self.requests, uri).await
    }
}

async fn version(uri: Uri) -> Result<Json<Version>, ApiError> {
    no_query(&uri)?;
    Ok(Json(Version { version: env!("CARGO_PKG_VERSION").to_owned(), api: API_VERSION }))
}

async fn status(State(source): State<Source>, uri: Uri) -> Result<Json<Status>, ApiError> {
    no_query(&uri)?;
    source.status().await.map(Json)
}

async fn flows(State(source): State<Source>, uri: Uri) -> Result<Json<Flows>, ApiError> {
    source.flows(&uri).await.map(Json)
}

async fn events(State(source): State<Source>, uri: Uri) -> Result<Json<Events>, ApiError> {
    source.events(&uri).await.map(Json)
}

/// 200 when every write route forwards, 503 with the reasons otherwise. Parameters are ignored, as
/// load balancers add theirs.
async fn health(State(source): State<Source>) -> Result<Response, ApiError> {
    let refusing = refusing_write_routes(&source.status().await?);
    Ok(if refusing.is_empty() {
        (StatusCode::OK, "every write route forwards\n").into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, refusing).into_response()
    })
}

fn refusing_write_routes(status: &Status) -> String {
    status
        .clusters
        .iter()
        .flat_map(|cluster| cluster.routes.iter().map(move |route| (cluster, route)))
        .filter(|(_, route)| route.access == "write" && route.backends.is_empty())
        .map(|(cluster, route)| {
            format!("{}/{} refuses: {}\n", cluster.name, route.name, route.reason)
        })
        .collect()
}

async fn show_metrics(State(source): State<Source>) -> Result<Response, ApiError> {
    let text = metrics::render(&source.status().await?);
    Ok(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}

async fn unknown_path(method: Method, uri: Uri) -> ApiError {
    let message =
        format!("there is no {method} {} on this listener, which is read-only", uri.path());
    ApiError::new("unknown_path", message, REMEDY)
}

async fn wrong_method(method: Method, uri: Uri) -> ApiError {
    let message =
        format!("{} does not take {method} on this listener, which is read-only", uri.path());
    ApiError::new("wrong_method", message, REMEDY)
}
