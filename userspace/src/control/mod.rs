//! The control socket: the wire, its server and its client.
//!
//! Nothing here decides: every request goes to the runtime with the way back, and what the runtime
//! answers goes to the wire as it is.

pub mod client;
pub mod protocol;
pub mod render;
pub mod server;
mod socket;
pub mod summary;

use tokio::sync::oneshot;

use protocol::{
    AdminDone, AdminRequest, ApiError, CallOffRequest, CalledOff, Events, EventsQuery, FlipDone,
    FlipPlan, FlipRequest, FlipsRunning, Flows, FlowsQuery, Reloaded, Status, Unloaded,
};

/// A request for the runtime, with the way back. A client that went away leaves `reply` closed.
#[derive(Debug)]
pub enum Request {
    Status { reply: oneshot::Sender<Result<Status, ApiError>> },
    Flip { flip: FlipRequest, reply: oneshot::Sender<Result<FlipDone, ApiError>> },
    PlanFlip { flip: FlipRequest, reply: oneshot::Sender<Result<FlipPlan, ApiError>> },
    FlipsRunning { reply: oneshot::Sender<Result<FlipsRunning, ApiError>> },
    CallOff { call_off: CallOffRequest, reply: oneshot::Sender<Result<CalledOff, ApiError>> },
    Flows { query: FlowsQuery, reply: oneshot::Sender<Result<Flows, ApiError>> },
    Events { query: EventsQuery, reply: oneshot::Sender<Result<Events, ApiError>> },
    Admin { admin: AdminRequest, reply: oneshot::Sender<Result<AdminDone, ApiError>> },
    Reload { reply: oneshot::Sender<Result<Reloaded, ApiError>> },
    Unload { reply: oneshot::Sender<Result<Unloaded, ApiError>> },
}
