//! The control socket, the read-only listener and the controller, against a runtime that only
//! remembers and answers.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod cli;
mod http;
mod requests;
mod runtime;
