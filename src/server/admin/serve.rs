//! The listeners of the admin API. The socket never stands at its path with a wider mode than was asked for, and one that
//! another process serves is never taken away.

use std::fs;
use std::future::Future;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::serve::Listener;
use hyper::body::Incoming;
use tokio::net::{TcpListener, UnixListener};
use tower::ServiceExt;

use crate::server::http::{self, Limits};

/// Where a request came from, for logs: an address, or the user of the process at the other end of a socket.
#[derive(Clone, Debug, Default)]
pub struct Peer(pub String);

const LIMITS: Limits = Limits { connections: 256, head_time: Duration::from_secs(60), drain: Duration::from_secs(12) };

/// Binds a Unix socket with exactly these permission bits.
///
/// # Errors
/// [`io::ErrorKind::AddrInUse`] if a process listens there; otherwise what the system says.
pub fn bind_unix(path: &Path, mode: u32) -> io::Result<UnixListener> {
    refuse_if_served(path)?;
    // Bound in a folder that nobody else can enter, given its mode there, and only then moved to its place: at no
    // moment can a socket with the mode of the umask be opened.
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let room = parent.join(format!(".tg{}", std::process::id()));
    fs::DirBuilder::new().mode(0o700).create(&room)?;
    let draft = room.join("s");
    let bound = UnixListener::bind(&draft).and_then(|listener| {
        fs::set_permissions(&draft, fs::Permissions::from_mode(mode))?;
        fs::rename(&draft, path)?;
        Ok(listener)
    });
    // Of no use any more, and in nobody's way if it stays.
    let _ = fs::remove_file(&draft);
    let _ = fs::remove_dir(&room);
    bound
}

fn refuse_if_served(path: &Path) -> io::Result<()> {
    let refuse = |why: &str| Err(io::Error::new(io::ErrorKind::AddrInUse, format!("{} {why}", path.display())));
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(found) if !found.file_type().is_socket() => refuse("is there and is no socket"),
        Ok(_) => match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => refuse("is served by another process"),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        },
    }
}

/// Serves a door over TCP until `shutdown`, then finishes what is under way.
pub async fn serve_tcp(listener: TcpListener, router: Router, shutdown: impl Future<Output = ()> + Send) {
    serve(listener, router, shutdown, |_, address| address.to_string()).await;
}

/// Serves a door over a Unix socket, as [`serve_tcp`].
pub async fn serve_unix(listener: UnixListener, router: Router, shutdown: impl Future<Output = ()> + Send) {
    let user = |stream: &tokio::net::UnixStream, _: &_| match stream.peer_cred() {
        Ok(user) => format!("uid:{}", user.uid()),
        Err(_) => String::new(),
    };
    serve(listener, router, shutdown, user).await;
}

async fn serve<L: Listener>(
    listener: L,
    router: Router,
    shutdown: impl Future<Output = ()> + Send,
    peer: impl Fn(&L::Io, &L::Addr) -> String,
) {
    let service = |stream: &L::Io, address: &L::Addr| {
        let peer = Peer(peer(stream, address));
        router.clone().map_request(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer.clone());
            request
        })
    };
    if let Err(connections) = http::serve(listener, LIMITS, shutdown, service).await {
        tracing::warn!(connections, "admin connections were still open at the end");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_has_its_mode_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        let first = bind_unix(&path, 0o600).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert_eq!(bind_unix(&path, 0o600).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        // What is left is stale, and is replaced.
        let second = bind_unix(&path, 0o660).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        drop(second);
    }

    #[tokio::test]
    async fn a_file_is_not_taken_for_a_socket() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        fs::write(&path, "precious").unwrap();
        assert!(bind_unix(&path, 0o600).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }
}
