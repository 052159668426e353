//! The inference server of the demo: says what it received, and authorizes nobody. Listens on `BACKEND_ADDRESS`
//! (by default 127.0.0.1:8000), so that only Envoy on the same host reaches it, and reads paths as `BACKEND_READING` says: `literal`,
//! `decoding` or `cleaning`.

use std::io::Write;

#[path = "../tests/support/backend.rs"]
mod backend;
#[path = "../tests/support/router.rs"]
mod router;

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let address = std::env::var("BACKEND_ADDRESS").unwrap_or_else(|_| "127.0.0.1:8000".to_owned());
    let reading = match std::env::var("BACKEND_READING").as_deref() {
        Err(_) | Ok("literal") => router::Reading::Literal,
        Ok("decoding") => router::Reading::Decoding,
        Ok("cleaning") => router::Reading::Cleaning,
        Ok(_) => return Err(std::io::Error::other("BACKEND_READING must be literal, decoding or cleaning")),
    };
    let listener = tokio::net::TcpListener::bind(&address).await?;
    writeln!(std::io::stdout(), "inference back end on http://{}", listener.local_addr()?)?;
    tokio::select! {
        served = backend::Backend::new(reading, None).serve(listener) => served,
        stopped = terminated() => stopped,
    }
}

/// SIGTERM or Ctrl-C; as the first process of a container it must take them itself.
async fn terminated() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut term, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = term.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }
}
