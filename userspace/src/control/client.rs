//! The client side: one request, one answer, over the daemon's unix socket.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use http_body_util::{BodyExt as _, Full};
use hyper::{
    Method, Request, Response,
    body::{Bytes, Incoming},
    client::conn::http1,
    header,
};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::UnixStream;

use super::protocol::{ApiError, ErrorBody};

/// Longest wait for what only reads. Listing a full flow table takes a second on a slow machine.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest wait for a command. A flip waits for a round of checks (`check.timeout`, seconds at
/// most where somebody waits for it), a cut sends resets for every flow.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(120);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("no pairflipd answers on {path} ({source})")]
    NotRunning { path: PathBuf, source: io::Error },
    #[error("connecting to pairflipd on {path}: {source}")]
    Connect { path: PathBuf, source: io::Error },
    #[error("pairflipd on {path} did not answer {method} {target} within {} s", after.as_secs())]
    TimedOut { path: PathBuf, method: Method, target: String, after: Duration },
    #[error("talking to pairflipd on {path}: {reason}")]
    Broken { path: PathBuf, method: Method, reason: String },
    /// The daemon's own answer.
    #[error(transparent)]
    Refused(#[from] ApiError),
}

impl ClientError {
    /// Returns the error in the form of the wire, with what to do about it.
    pub fn into_api(self) -> ApiError {
        let message = self.to_string();
        match self {
            Self::Refused(error) => error,
            Self::NotRunning { .. } => ApiError::new(
                "not_running",
                message,
                "is it running? start it with `pairflipd --config FILE`, or name its socket \
                 (daemon.control of its configuration) with --socket. The kernel forwards as it \
                 was without it",
            ),
            Self::Connect { source, .. } => ApiError::new(
                "connect_failed",
                message,
                if source.kind() == io::ErrorKind::PermissionDenied {
                    "run as root or as a member of the socket's group"
                } else {
                    "name the daemon's socket (daemon.control of its configuration) with --socket"
                },
            ),
            Self::TimedOut { method, .. } => {
                ApiError::new("timed_out", message, after_silence(&method))
            }
            Self::Broken { method, .. } => ApiError::new("broken", message, after_silence(&method)),
        }
    }
}

/// A command without an answer may have been carried out.
fn after_silence(method: &Method) -> &'static str {
    if *method == Method::GET {
        "look at the daemon's log"
    } else {
        "the command may have been carried out: look at `pairflip status` and the daemon's log"
    }
}

/// Where a request goes.
struct Call<'a> {
    socket: &'a Path,
    method: Method,
    target: &'a str,
}

/// Sends a request and reads the answer.
pub async fn request<T: DeserializeOwned>(
    socket: &Path,
    method: Method,
    target: &str,
    body: Option<&impl Serialize>,
) -> Result<T, ClientError> {
    let after = if method == Method::GET { READ_TIMEOUT } else { COMMAND_TIMEOUT };
    request_within(after, socket, method, target, body).await
}

/// Sends a request and reads the answer, which may take longer than that of other commands.
pub async fn request_within<T: DeserializeOwned>(
    after: Duration,
    socket: &Path,
    method: Method,
    target: &str,
    body: Option<&impl Serialize>,
) -> Result<T, ClientError> {
    let call = Call { socket, method, target };
    tokio::time::timeout(after, call.exchange(body)).await.unwrap_or_else(|_| {
        Err(ClientError::TimedOut {
            path: socket.to_owned(),
            method: call.method.clone(),
            target: target.to_owned(),
            after,
        })
    })
}

impl Call<'_> {
    async fn exchange<T: DeserializeOwned>(
        &self,
        body: Option<&impl Serialize>,
    ) -> Result<T, ClientError> {
        let stream = self.connect().await?;
        let response = self.send(stream, body).await?;
        let succeeded = response.status().is_success();
        let bytes =
            response.into_body().collect().await.map_err(|error| self.broken(error))?.to_bytes();
        if succeeded {
            return serde_json::from_slice(&bytes).map_err(|error| self.strange(&error));
        }
        let ErrorBody { error } =
            serde_json::from_slice(&bytes).map_err(|error| self.strange(&error))?;
        Err(error.into())
    }

    async fn connect(&self) -> Result<UnixStream, ClientError> {
        UnixStream::connect(self.socket).await.map_err(|source| {
            let path = self.socket.to_owned();
            if matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) {
                ClientError::NotRunning { path, source }
            } else {
                ClientError::Connect { path, source }
            }
        })
    }

    async fn send(
        &self,
        stream: UnixStream,
        body: Option<&impl Serialize>,
    ) -> Result<Response<Incoming>, ClientError> {
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.broken(error))?;
        // Its errors come out of the request, too.
        tokio::spawn(connection);
        let bytes = match body {
            Some(body) => serde_json::to_vec(body).map_err(|error| self.broken(error))?,
            None => Vec::new(),
        };
        let request = Request::builder()
            .method(self.method.clone())
            .uri(self.target)
            .header(header::HOST, "pairflip")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(bytes)))
            .map_err(|error| self.broken(error))?;
        sender.send_request(request).await.map_err(|error| self.broken(error))
    }

    fn broken(&self, error: impl std::fmt::Display) -> ClientError {
        ClientError::Broken {
            path: self.socket.to_owned(),
            method: self.method.clone(),
            reason: error.to_string(),
        }
    }

    fn strange(&self, error: &serde_json::Error) -> ClientError {
        self.broken(format!(
            "its answer is not what pairflip {} expects: {error}; use the pairflip of the \
             daemon's version",
            env!("CARGO_PKG_VERSION")
        ))
    }
}
