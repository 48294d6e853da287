//! HTTP: the status of an agent on the server, such as xinetd with clustercheck.
//!
//! Such scripts print a status line and end, often without having read the request and without the rest that HTTP asks for. So the
//! status line is all that is needed, and how the connection ends does not matter after it.

use std::{io, net::SocketAddr};

use pairflip_policy::{Cause, CheckFailure, Outcome};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Duration, Instant, timeout_at},
};

use super::cause::{timed_out, unanswered};
use crate::config::HttpCheck;

/// Bytes of an answer that are looked at: the status line, some headers, and the first words of the body.
const ANSWER_BYTES_MAX: usize = 4096;
/// How long the words of a bad answer are waited for when its status is known.
const WORDS_TIME_MAX: Duration = Duration::from_millis(50);
/// Characters of the body that an operator is shown.
const WORDS_CHARS_MAX: usize = 160;

pub(super) async fn check(address: SocketAddr, check: &HttpCheck) -> Outcome {
    let target = SocketAddr::new(address.ip(), check.port);
    let doing = format!("{} {} on port {}", check.method, check.path, check.port);
    let deadline = Instant::now() + check.timeout;
    let answer = match timeout_at(deadline, ask(target, check)).await {
        Err(_elapsed) => return Outcome::Unanswered(timed_out(&doing, check.timeout)),
        Ok(Err(error)) => return Outcome::Unanswered(unanswered(&doing, &error)),
        Ok(Ok(answer)) => answer,
    };
    let Some(status) = answer.status() else { return Outcome::Unanswered(answer.nonsense(&doing)) };
    if check.pass.contains(&status) {
        return Outcome::Passed;
    }
    let text = answer.described(status, deadline.min(Instant::now() + WORDS_TIME_MAX)).await;
    if check.maintenance.contains(&status) {
        Outcome::Maintenance { text }
    } else {
        Outcome::Failed { text }
    }
}

/// What has come so far.
struct Answer {
    stream: TcpStream,
    bytes: Vec<u8>,
}

/// Asks, and reads until the status line is there or nothing more comes.
async fn ask(target: SocketAddr, check: &HttpCheck) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(target).await?;
    let host = check.host.clone().unwrap_or_else(|| target.to_string());
    let HttpCheck { method, path, .. } = check;
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: pairflip\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    // Who answers without reading may have closed already; what it said can be read all the same.
    let written = stream.write_all(request.as_bytes()).await;
    let mut answer = Answer { stream, bytes: Vec::new() };
    loop {
        match answer.read_on().await {
            Ok(0) => break,
            Ok(_) if answer.bytes.contains(&b'\n') => break,
            Ok(_) => {}
            Err(error) if answer.bytes.is_empty() => return Err(written.err().unwrap_or(error)),
            Err(_) => break,
        }
    }
    Ok(answer)
}

impl Answer {
    /// Returns how many bytes came; 0 at the end, and when there are enough.
    async fn read_on(&mut self) -> io::Result<usize> {
        let room = ANSWER_BYTES_MAX.saturating_sub(self.bytes.len());
        let mut part = (&mut self.stream).take(room as u64);
        part.read_buf(&mut self.bytes).await
    }

    /// Returns the status of a line such as `HTTP/1.1 200 OK`.
    fn status(&self) -> Option<u16> {
        let line = self.bytes.split(|byte| *byte == b'\n').next()?;
        let line = std::str::from_utf8(line).ok()?;
        let mut words = line.split_ascii_whitespace();
        let version = words.next()?;
        let status = words.next().filter(|word| word.len() == 3)?;
        status.parse().ok().filter(|status| version.starts_with("HTTP/") && *status >= 100)
    }

    fn nonsense(&self, doing: &str) -> CheckFailure {
        let text = |what: &str| format!("{doing}: {what}");
        if self.bytes.is_empty() {
            let text = text("the connection was closed without an answer");
            return CheckFailure { cause: Cause::ConnectionLost, text };
        }
        let start: String = String::from_utf8_lossy(&self.bytes).chars().take(40).collect();
        CheckFailure { cause: Cause::Protocol, text: text(&format!("not HTTP: {start:?}")) }
    }

    /// Returns the status with the first words of the body, which say why, where scripts write such.
    async fn described(mut self, status: u16, deadline: Instant) -> String {
        while let Ok(Ok(count)) = timeout_at(deadline, self.read_on()).await
            && count > 0
        {}
        let text = String::from_utf8_lossy(&self.bytes).replace('\r', "");
        let (head, body) = text.split_once("\n\n").unwrap_or_default();
        let is_plain = !head.to_ascii_lowercase().contains("\ntransfer-encoding:");
        let line = body.lines().map(str::trim).find(|line| !line.is_empty()).filter(|_| is_plain);
        match line {
            Some(line) => {
                let words: String =
                    line.chars().filter(|c| !c.is_control()).take(WORDS_CHARS_MAX).collect();
                format!("HTTP status {status}: {words}")
            }
            None => format!("HTTP status {status}"),
        }
    }
}
