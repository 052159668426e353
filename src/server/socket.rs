//! Sockets to listen on: TCP, and a Unix socket at a path. Nobody can connect before its mode and group are set; a socket that another process serves is
//! never taken away, and a file that is no socket never removed.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::config::UnixAddress;

/// Connections that may wait to be accepted, where the system allows as many (`net.core.somaxconn`). Beyond them a client is not heard
/// before it asks again, a second later: more than a crowd of a thousand that comes again and again.
pub const BACKLOG: i32 = 4096;

/// What the system keeps for each peer that does not read, for doors whose answers are long. It may take twice as much.
pub const FEW_UNREAD: usize = 64 << 10;

/// Listens on a TCP address. What is accepted is not waited for. With `unread`, the system keeps no more than about this of what a peer
/// has yet to read.
///
/// # Errors
/// What the system says.
pub fn bind_tcp(address: SocketAddr, unread: Option<usize>) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if let Some(unread) = unread {
        socket.set_send_buffer_size(unread)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// How often it is looked whether the file of a socket is still there: often enough for what hardly ever happens, and too seldom to
/// be seen in what an idle process uses.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The file of a socket that this process serves; removed when dropped, if it is still this one.
#[derive(Debug)]
pub struct SocketFile {
    address: UnixAddress,
    device: u64,
    inode: u64,
}

impl SocketFile {
    /// Whether whoever connects to the path comes to this socket.
    pub fn is_in_place(&self) -> bool {
        fs::symlink_metadata(&self.address.path)
            .is_ok_and(|found| (found.dev(), found.ino()) == (self.device, self.inode))
    }

    /// Resolves once somebody has removed or replaced the file.
    pub async fn gone(&self) {
        while self.is_in_place() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Binds another socket in the place of this one, of which the file is gone. From now on this is the file of that one: once a
    /// socket is closed another may have its number, and two that go by it would remove each other's.
    ///
    /// # Errors
    /// As [`bind`]: what took the place is left alone.
    pub fn bind_again(&mut self) -> io::Result<UnixListener> {
        let path = &self.address.path;
        match fs::symlink_metadata(path) {
            // Nothing is asked of what took the place: it might not answer.
            Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, format!("{} is something else now", path.display()))),
            Err(_) => {
                let (socket, (device, inode)) = bind_at(&self.address)?;
                (self.device, self.inode) = (device, inode);
                Ok(socket)
            }
        }
    }

    pub fn path(&self) -> &Path {
        &self.address.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.is_in_place() {
            // Nobody is harmed by one that stays: the next process finds it stale.
            let _ = fs::remove_file(&self.address.path);
        }
    }
}

/// Binds a Unix socket with its mode and group, in the place of a stale one.
///
/// Drop the file before the listener: as long as the socket is served, no other process takes its path.
///
/// # Errors
/// [`io::ErrorKind::AddrInUse`] if another process serves it or the path is no socket; [`io::ErrorKind::NotFound`] if there
/// is no such folder or group; otherwise what the system says.
pub fn bind(address: &UnixAddress) -> io::Result<(UnixListener, SocketFile)> {
    let (socket, (device, inode)) = bind_at(address)?;
    Ok((socket, SocketFile { address: address.clone(), device, inode }))
}

/// The socket, and the device and number of its file.
fn bind_at(address: &UnixAddress) -> io::Result<(UnixListener, (u64, u64))> {
    let path = &address.path;
    refuse_if_taken(path)?;
    let group = address.group.as_deref().map(group_id).transpose()?;
    // Under another name until it is ready, so that the change is one step for whoever connects; and a bound socket
    // refuses connections until it listens, so that nobody comes in before mode and group are set.
    let draft = draft_of(path)?;
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(&draft)?)?;
    let placed = place(&socket, &draft, address, group);
    if placed.is_err() {
        let _ = fs::remove_file(&draft);
    }
    placed.map(|number| (socket.into(), number))
}

fn place(socket: &Socket, draft: &Path, address: &UnixAddress, group: Option<u32>) -> io::Result<(u64, u64)> {
    if group.is_some() {
        std::os::unix::fs::chown(draft, None, group)?;
    }
    fs::set_permissions(draft, fs::Permissions::from_mode(address.mode))?;
    let made = fs::symlink_metadata(draft)?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    fs::rename(draft, &address.path)?;
    Ok((made.dev(), made.ino()))
}

fn refuse_if_taken(path: &Path) -> io::Result<()> {
    let taken = |why: &str| Err(io::Error::new(io::ErrorKind::AddrInUse, format!("{} {why}", path.display())));
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(found) if !found.file_type().is_socket() => return taken("exists and is not a socket"),
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Ok(_) => taken("is served by another process"),
        Err(error) => match error.kind() {
            // Stale, or gone meanwhile.
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        },
    }
}

/// `.name.pid` beside `name`.
fn draft_of(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("{} is not a path of a socket", path.display()))
    })?;
    let mut draft = OsString::from(".");
    draft.push(name);
    draft.push(format!(".{}", std::process::id()));
    Ok(path.with_file_name(draft))
}

/// The id of a group by its name in `/etc/group`, or as a number.
fn group_id(name: &str) -> io::Result<u32> {
    if let Ok(id) = name.parse() {
        return Ok(id);
    }
    let groups = fs::read_to_string("/etc/group")?;
    find_group(&groups, name)
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("there is no group `{name}` in /etc/group")))
}

/// `name:password:id:members`, one a line.
fn find_group(groups: &str, name: &str) -> Option<u32> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(folder: &tempfile::TempDir, mode: u32) -> UnixAddress {
        UnixAddress { path: folder.path().join("check.sock"), mode, group: None }
    }

    fn mode_of(address: &UnixAddress) -> u32 {
        fs::metadata(&address.path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_socket_has_its_mode_and_is_removed_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        for mode in [0o600, 0o660, 0o666] {
            let address = address(&folder, mode);
            let (listener, file) = bind(&address).unwrap();
            assert_eq!(mode_of(&address), mode);
            UnixStream::connect(&address.path).unwrap();
            drop((file, listener));
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        }
    }

    #[test]
    fn a_group_is_given() {
        let folder = tempfile::tempdir().unwrap();
        let own = fs::metadata(folder.path()).unwrap().gid();
        let address = UnixAddress { group: Some(own.to_string()), ..address(&folder, 0o660) };
        let _bound = bind(&address).unwrap();
        assert_eq!(fs::metadata(&address.path).unwrap().gid(), own);
        let unknown = UnixAddress { group: Some("no-such-group".into()), ..address };
        let _ = fs::remove_file(&unknown.path);
        assert_eq!(bind(&unknown).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn groups_are_found_by_their_whole_name() {
        let groups = "root:x:0:\nenvoys:x:7:\nenvoy:x:101:a,b\n";
        assert_eq!(find_group(groups, "envoy"), Some(101));
        assert_eq!(find_group(groups, "env"), None);
    }

    #[test]
    fn a_served_socket_is_refused_and_a_stale_one_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let address = address(&folder, 0o600);
        let (listener, file) = bind(&address).unwrap();
        assert_eq!(bind(&address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        UnixStream::connect(&address.path).unwrap();
        // As after a crash: nobody listens, and the file is there.
        std::mem::forget(file);
        drop(listener);
        assert!(address.path.exists());
        let _bound = bind(&address).unwrap();
        UnixStream::connect(&address.path).unwrap();
    }

    #[test]
    fn the_socket_of_a_successor_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let address = address(&folder, 0o600);
        let (listener, file) = bind(&address).unwrap();
        drop(listener);
        let successor = bind(&address).unwrap();
        drop(file);
        UnixStream::connect(&address.path).unwrap();
        drop(successor);
        assert!(!address.path.exists());
    }

    #[tokio::test]
    async fn a_socket_that_was_removed_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let address = address(&folder, 0o660);
        let (_listener, mut file) = bind(&address).unwrap();
        assert!(file.is_in_place());
        fs::remove_file(&address.path).unwrap();
        file.gone().await;
        let _again = file.bind_again().unwrap();
        UnixStream::connect(&address.path).unwrap();
        assert!(file.is_in_place() && mode_of(&address) == 0o660);
        // What took the place is left alone.
        fs::remove_file(&address.path).unwrap();
        fs::write(&address.path, "precious").unwrap();
        assert_eq!(file.bind_again().unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let address = address(&folder, 0o600);
        fs::write(&address.path, "precious").unwrap();
        assert_eq!(bind(&address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(fs::read_to_string(&address.path).unwrap(), "precious");
    }
}
