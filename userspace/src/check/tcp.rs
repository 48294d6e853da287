//! TCP: whether a port accepts connections. Ends with RST, because a MySQL server counts a connection that says goodbye
//! before it logged in towards `max_connect_errors`, and one that is reset not.

use std::{net::SocketAddr, time::Duration};

use pairflip_policy::Outcome;
use tokio::{net::TcpStream, time::timeout};

use super::cause::{timed_out, unanswered};

pub(super) async fn check(target: SocketAddr, longest: Duration) -> Outcome {
    let connecting = format!("connecting to port {}", target.port());
    match timeout(longest, TcpStream::connect(target)).await {
        Err(_elapsed) => Outcome::Unanswered(timed_out(&connecting, longest)),
        Ok(Err(error)) => Outcome::Unanswered(unanswered(&connecting, &error)),
        Ok(Ok(stream)) => match stream.set_zero_linger() {
            Ok(()) => Outcome::Passed,
            // The connection was reset between the handshake and here.
            Err(error) => Outcome::Unanswered(unanswered(&connecting, &error)),
        },
    }
}
