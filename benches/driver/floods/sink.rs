//! What the control is flooded in place of Tollgate: takes every connection, reads whatever comes, and answers a whole head with
//! nothing found. Never waits for a peer that does not read.

use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};

use crate::Outcome;

const ANSWER: &[u8] = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";

/// The program `bench sink`: an address in arguments. Runs until it is ended.
pub fn program(mut arguments: impl Iterator<Item = String>) -> Outcome<()> {
    let address = arguments.next().ok_or("bench sink: the address is missing")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(address).await?;
        loop {
            let (stream, _) = listener.accept().await?;
            tokio::spawn(swallow(stream));
        }
    })
}

async fn swallow(mut stream: TcpStream) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
        if buffer[..read].windows(4).any(|window| window == b"\r\n\r\n") {
            let _ = stream.try_write(ANSWER);
        }
    }
}
