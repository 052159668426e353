//! A small TCP proxy before the store's server, which can fall silent or drop its connections. Never changes a byte.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// What becomes of what arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Forward,
    /// It is kept, and nobody hears of it.
    Silent,
    /// Connections are closed, and new ones at once.
    Drop,
}

/// Runs until it is dropped.
#[derive(Debug)]
pub struct Proxy {
    pub address: String,
    mode: watch::Sender<Mode>,
    _accepting: AbortOnDropHandle<()>,
}

impl Proxy {
    pub async fn before(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (mode, heard) = watch::channel(Mode::Forward);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(serve(client, server.clone(), heard.clone()));
            }
        });
        Self { address, mode, _accepting: AbortOnDropHandle::new(accepting) }
    }

    pub fn turn(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

async fn serve(client: TcpStream, server: String, mut mode: watch::Receiver<Mode>) {
    if *mode.borrow() == Mode::Drop {
        return;
    }
    let Ok(server) = TcpStream::connect(server).await else { return };
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let other = mode.clone();
    tokio::select! {
        () = forward(from_client, to_server, mode.clone()) => {}
        () = forward(from_server, to_client, other) => {}
        // The end of the proxy is the end of its connections.
        _ = mode.wait_for(|mode| *mode == Mode::Drop) => {}
    }
}

async fn forward(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut mode: watch::Receiver<Mode>,
) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if mode.wait_for(|mode| *mode != Mode::Silent).await.is_err() || to.write_all(&buffer[..length]).await.is_err()
        {
            return;
        }
    }
}
