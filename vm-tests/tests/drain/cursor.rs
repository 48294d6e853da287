//! A client with a cursor: it has a prepared statement executed, and fetches the rows one by one.
//!
//! MySQL's protocol by hand, because the libraries for Rust read all rows at once. The account has no password.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddrV4, TcpStream},
};

use anyhow::{Context as _, Result, bail};

use super::SOON;

/// `CLIENT_LONG_PASSWORD | CLIENT_PROTOCOL_41 | CLIENT_TRANSACTIONS | CLIENT_SECURE_CONNECTION | CLIENT_PLUGIN_AUTH`.
const CAPABILITIES: u32 = 1 | 0x200 | 0x2000 | 0x8000 | 0x8_0000;
/// What MySQL asks for. MariaDB asks for another, which is as content with no password.
const PLUGIN: &[u8] = b"caching_sha2_password\0";
const COM_QUERY: u8 = 0x03;
const COM_STMT_PREPARE: u8 = 0x16;
const COM_STMT_EXECUTE: u8 = 0x17;
const COM_STMT_FETCH: u8 = 0x1c;
const CURSOR_TYPE_READ_ONLY: u8 = 1;

const OK: u8 = 0x00;
const END: u8 = 0xfe;
const ERROR: u8 = 0xff;

/// A connection with a cursor that is open.
pub(super) struct Cursor {
    stream: TcpStream,
    sequence: u8,
    statement: [u8; 4],
}

impl Cursor {
    pub(super) fn open(to: SocketAddrV4, user: &str, query: &str) -> Result<Self> {
        let stream = TcpStream::connect(to).context("connecting")?;
        stream.set_read_timeout(Some(SOON)).context("bounding reads")?;
        let mut cursor = Self { stream, sequence: 0, statement: [0; 4] };
        cursor.log_in(user)?;
        cursor.send(COM_STMT_PREPARE, query.as_bytes())?;
        let prepared = cursor.read()?;
        cursor.statement.copy_from_slice(&prepared[1..5]);
        // One definition for each column, and an end.
        while cursor.read()?[0] != END {}
        let statement = cursor.statement;
        let execute = [&statement[..], &[CURSOR_TYPE_READ_ONLY], &1_u32.to_le_bytes()].concat();
        cursor.send(COM_STMT_EXECUTE, &execute)?;
        // The same, and no rows: those wait on the server.
        while cursor.read()?[0] != END {}
        Ok(cursor)
    }

    fn log_in(&mut self, user: &str) -> Result<()> {
        self.read()?;
        let (max_packet, utf8, reserved) = ((1_u32 << 24).to_le_bytes(), [33], [0; 23]);
        let head = [&CAPABILITIES.to_le_bytes()[..], &max_packet, &utf8, &reserved].concat();
        let no_password = [0];
        self.write(&[&head, user.as_bytes(), &[0], &no_password, PLUGIN].concat())?;
        while self.read()?[0] != OK {
            self.write(&[])?;
        }
        Ok(())
    }

    /// Reads one row more.
    pub(super) fn fetch(&mut self) -> Result<()> {
        let statement = self.statement;
        self.send(COM_STMT_FETCH, &[&statement[..], &1_u32.to_le_bytes()].concat())?;
        let row = self.read()?;
        if row[0] == END {
            bail!("there are no more rows");
        }
        self.read().map(drop)
    }

    pub(super) fn run(&mut self, statement: &str) -> Result<()> {
        self.send(COM_QUERY, statement.as_bytes())?;
        self.read().map(drop)
    }

    fn send(&mut self, command: u8, argument: &[u8]) -> Result<()> {
        self.sequence = 0;
        self.write(&[&[command], argument].concat())
    }

    fn write(&mut self, payload: &[u8]) -> Result<()> {
        let mut packet = (payload.len() as u32).to_le_bytes();
        packet[3] = self.sequence;
        self.stream.write_all(&[&packet, payload].concat()).context("sending")
    }

    fn read(&mut self) -> Result<Vec<u8>> {
        let mut head = [0; 4];
        self.stream.read_exact(&mut head).context("reading")?;
        self.sequence = head[3].wrapping_add(1);
        head[3] = 0;
        let mut payload = vec![0; u32::from_le_bytes(head) as usize];
        self.stream.read_exact(&mut payload).context("reading")?;
        if payload.first().is_none_or(|first| *first == ERROR) {
            bail!("the server says {}", String::from_utf8_lossy(&payload));
        }
        Ok(payload)
    }
}
