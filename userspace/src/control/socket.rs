//! Making the control socket: who may connect, and what to do about one that is there.

use std::{
    fs, io,
    os::unix::{
        fs::{FileTypeExt as _, PermissionsExt as _},
        net::UnixStream,
    },
    path::{Path, PathBuf},
};

use nix::sys::stat::{Mode, fchmod};
use tokio::net::{UnixListener, UnixSocket};

/// Who may connect, and with it command: root and the socket's group. The group comes from the
/// directory when that has its setgid bit (`chgrp dba /run/pairflip; chmod g+s /run/pairflip`), so
/// that it outlives restarts.
const SOCKET_MODE: u32 = 0o660;

/// Connections that wait to be accepted; more get an error at once.
const BACKLOG: u32 = 128;

/// Why the socket could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("another pairflipd answers on {path}; stop it, or set daemon.control to another path")]
    InUse { path: PathBuf },
    #[error("{path} is there and is no socket; remove it, or set daemon.control to another path")]
    NotASocket { path: PathBuf },
    #[error(
        "making the control socket {path}: {source}; check that root can make its directory and \
         write there, and that daemon.control is as intended"
    )]
    Io { path: PathBuf, source: io::Error },
}

/// Makes the socket. One left by a daemon that is gone is replaced.
pub fn bind(path: &Path) -> Result<UnixListener, BindError> {
    let error = |source| BindError::Io { path: path.to_owned(), source };
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(error)?;
    }
    make_room(path)?;
    listen(path).map_err(error)
}

/// Removes a socket that nobody listens on.
fn make_room(path: &Path) -> Result<(), BindError> {
    let error = |source| BindError::Io { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(BindError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => {}
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(error(source)),
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(BindError::InUse { path: path.to_owned() }),
        // What the kernel answers for a socket file without a listener.
        Err(source) if source.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(error)
        }
        Err(source) => Err(error(source)),
    }
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    let socket = UnixSocket::new_stream()?;
    // Linux gives the file the socket's own mode, less the umask: at no time can others connect.
    fchmod(&socket, Mode::from_bits_truncate(SOCKET_MODE))?;
    socket.bind(path)?;
    // The umask may have taken the group's right to write.
    fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE))?;
    socket.listen(BACKLOG)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn root_and_the_group_may_connect_and_nobody_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("made/control.sock");
        let _listener = bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    }

    #[tokio::test]
    async fn a_socket_of_a_daemon_that_is_gone_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        drop(bind(&path).unwrap());
        assert!(path.exists());
        let _listener = bind(&path).unwrap();
        UnixStream::connect(&path).unwrap();
    }

    #[tokio::test]
    async fn a_socket_of_a_living_daemon_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        let _listener = bind(&path).unwrap();
        let expected = format!(
            "another pairflipd answers on {}; stop it, or set daemon.control to another path",
            path.display()
        );
        assert_eq!(bind(&path).unwrap_err().to_string(), expected);
        UnixStream::connect(&path).unwrap();
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        fs::write(&path, "precious").unwrap();
        let expected = format!(
            "{} is there and is no socket; remove it, or set daemon.control to another path",
            path.display()
        );
        assert_eq!(bind(&path).unwrap_err().to_string(), expected);
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[tokio::test]
    async fn a_directory_that_cannot_be_made_is_named() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("file"), "").unwrap();
        let error = bind(&directory.path().join("file/control.sock")).unwrap_err().to_string();
        assert!(error.starts_with("making the control socket "), "{error}");
        assert!(error.contains("file/control.sock: "), "{error}");
    }
}
