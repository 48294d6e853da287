//! MySQL clients as applications are: on a host of the lab, through a VIP.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result};
use mysql_async::{Conn, Opts, OptsBuilder, SslOpts, prelude::Queryable as _};
use tokio::runtime::{Builder, Runtime};

use super::database::{APP_PASSWORD, APP_USER};

/// Longest wait for a connection: long enough for two retransmissions of a SYN (1 s and 2 s later).
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A client of its own runtime. Make it on the thread that is inside the host's namespace.
#[derive(Debug)]
pub struct Client {
    runtime: Runtime,
    opts: Opts,
}

/// One connection.
#[derive(Debug)]
pub struct Session<'a> {
    client: &'a Client,
    conn: Conn,
}

impl Client {
    /// With the account of the lab's applications.
    pub fn new(to: impl Into<SocketAddr>) -> Result<Self> {
        Self::of(APP_USER, APP_PASSWORD, to)
    }

    pub fn of(user: &str, password: &str, to: impl Into<SocketAddr>) -> Result<Self> {
        let to = to.into();
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .context("starting a client's runtime")?;
        let opts = OptsBuilder::default()
            .ip_or_hostname(to.ip().to_string())
            .tcp_port(to.port())
            .user(Some(user))
            .pass(Some(password))
            .prefer_socket(false)
            .into();
        Ok(Self { runtime, opts })
    }

    /// The same over TLS, with a server whose certificate nobody signed.
    pub fn over_tls(mut self) -> Self {
        let tls = SslOpts::default()
            .with_danger_accept_invalid_certs(true)
            .with_danger_skip_domain_validation(true);
        self.opts = OptsBuilder::from_opts(self.opts).ssl_opts(Some(tls)).into();
        self
    }

    /// Connects and logs in.
    pub fn connect(&self) -> Result<Session<'_>> {
        let conn = self
            .runtime
            .block_on(async {
                tokio::time::timeout(CONNECT_TIMEOUT, Conn::new(self.opts.clone())).await
            })
            .context("no connection in time")??;
        Ok(Session { client: self, conn })
    }

    /// Which server a new connection reaches: connects, asks, closes as a client should.
    pub fn server_id(&self) -> Result<u32> {
        let mut session = self.connect()?;
        let id = session.server_id()?;
        session.close()?;
        Ok(id)
    }
}

impl Session<'_> {
    pub fn server_id(&mut self) -> Result<u32> {
        self.value("SELECT @@server_id")
    }

    /// Runs a query and returns its one value.
    pub fn value<T: mysql_async::prelude::FromValue + Send + 'static>(
        &mut self,
        query: &str,
    ) -> Result<T> {
        let conn = &mut self.conn;
        let value: Option<T> = self.client.runtime.block_on(conn.query_first(query))?;
        value.with_context(|| format!("{query} returned no row"))
    }

    /// Runs a statement, whatever it returns.
    pub fn run(&mut self, statement: &str) -> Result<()> {
        let conn = &mut self.conn;
        self.client.runtime.block_on(conn.query_drop(statement)).context(statement.to_owned())
    }

    /// Asks whether the connection is there, as pools do before they hand it out.
    pub fn ping(&mut self) -> Result<()> {
        Ok(self.client.runtime.block_on(self.conn.ping())?)
    }

    /// Like [`Session::value`], but gives up, after which the connection is good for nothing.
    pub fn value_within<T: mysql_async::prelude::FromValue + Send + 'static>(
        &mut self,
        limit: Duration,
        query: &str,
    ) -> Result<T> {
        let conn = &mut self.conn;
        let value: Option<T> = self
            .client
            .runtime
            .block_on(async { tokio::time::timeout(limit, conn.query_first(query)).await })
            .with_context(|| format!("no answer within {limit:?}"))??;
        value.context("the query returned no row")
    }

    /// Runs a query and hands every row's first column to `each`.
    pub fn for_each(&mut self, query: &str, mut each: impl FnMut(String)) -> Result<()> {
        let conn = &mut self.conn;
        self.client.runtime.block_on(async {
            let mut result = conn.query_iter(query).await?;
            while let Some(row) = result.next().await? {
                each(mysql_async::from_row(row));
            }
            Ok(())
        })
    }

    pub fn close(self) -> Result<()> {
        self.client.runtime.block_on(self.conn.disconnect()).context("closing a connection")
    }
}
