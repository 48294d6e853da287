//! The network around the data plane: next hops, interfaces and VLANs, VIP addresses,
//! announcements, raw frames and port reservations.
//!
//! Works in the network namespace of the calling thread. Holds no opinion about routes or backends:
//! it reports what the kernel says and does what it is told.

pub mod announce;
pub mod frames;
pub mod links;
mod messages;
pub mod ports;
mod topology;
pub mod xdp_features;

use std::io;

use rtnetlink::{Handle, proto::Connection};

/// Opens a netlink connection in the current namespace and lets a task serve it until the last
/// handle is gone.
fn rtnetlink_handle() -> io::Result<Handle> {
    let (connection, handle, _unsolicited) = rtnetlink::new_connection()?;
    serve(connection);
    Ok(handle)
}

fn serve(connection: Connection<rtnetlink::packet_route::RouteNetlinkMessage>) {
    tokio::spawn(connection);
}
