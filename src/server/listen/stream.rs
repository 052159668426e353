//! A connection's bytes, as h2 handles them best: small answers are copied into one write, and never offered as a list of
//! slices, for which h2 would flush after each.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Counts what arrives until the client's preface must be there.
#[derive(Clone, Debug, Default)]
pub struct Greeting(Arc<AtomicUsize>);

/// `PRI * HTTP/2.0` and what follows it (RFC 9113 section 3.4).
const PREFACE: usize = 24;

impl Greeting {
    pub fn is_complete(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= PREFACE
    }
}

#[derive(Debug)]
pub struct Stream<S> {
    inner: S,
    greeting: Greeting,
    greeted: bool,
}

impl<S> Stream<S> {
    pub fn new(inner: S, greeting: Greeting) -> Self {
        Self { inner, greeting, greeted: false }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Stream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let polled = Pin::new(&mut this.inner).poll_read(cx, buffer);
        if !this.greeted {
            this.greeting.0.fetch_add(buffer.filled().len() - before, Ordering::Relaxed);
            this.greeted = this.greeting.is_complete();
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Stream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        false
    }
}
