//! A connection's bytes, as h2 handles them best: small answers are copied into one write, and never offered as a list of
//! slices, for which h2 would flush after each. Reads no more in one turn than the connection's account allows, so that what came
//! is answered, and counted, before more is read, and nothing at all while the peer does not read what is there for it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf, Take};

use crate::server::budget::Account;

#[derive(Debug)]
pub struct Metered<S> {
    stream: Take<S>,
    account: Arc<Account>,
    /// A connection that was just made takes nothing until the runtime has looked at it, whatever its peer does.
    has_written: bool,
    /// The peer takes nothing more for now.
    is_full: bool,
    /// Something was to be read meanwhile.
    waits: bool,
}

impl<S: AsyncRead> Metered<S> {
    pub fn new(stream: S, account: Arc<Account>) -> Self {
        Self { stream: stream.take(0), account, has_written: false, is_full: false, waits: false }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { stream, account, is_full, waits, .. } = self.get_mut();
        if *is_full {
            *waits = true;
            return Poll::Pending;
        }
        let may_read = account.may_read();
        if may_read == 0 {
            // The connection begins the next turn by itself.
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        stream.set_limit(may_read as u64);
        let result = ready!(Pin::new(stream).poll_read(cx, buffer));
        account.has_read(buffer.filled().len() - before);
        Poll::Ready(result)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Self { stream, account, has_written, is_full, waits } = self.get_mut();
        let written = Pin::new(stream.get_mut()).poll_write(cx, bytes);
        *has_written |= written.is_ready();
        let is_full_now = *has_written && written.is_pending();
        if std::mem::replace(is_full, is_full_now) != is_full_now {
            account.peer_state().set_full(is_full_now);
            if !is_full_now && std::mem::take(waits) {
                cx.waker().wake_by_ref();
            }
        }
        written
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.get_mut().stream.get_mut()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.get_mut().stream.get_mut()).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::server::budget::Budget;
    use crate::server::places::{ConnectionLimits, Places};

    const CONNECTION_LIMITS: ConnectionLimits =
        ConnectionLimits { places: 4, strangers: 4, share: 4, cuts_answers: true };

    #[test]
    fn whoever_has_just_come_is_not_taken_for_one_who_reads_nothing() {
        let place = Places::new(CONNECTION_LIMITS).enter(None).unwrap();
        let (mut peer, mut stream) = tokio::io::duplex(1);
        assert!(stream.write_all(b"-").now_or_never().is_some());
        let mut stream = Metered::new(stream, Budget::new().open(Arc::clone(place.peer_state())));
        assert!(stream.write_all(b"a").now_or_never().is_none(), "it takes nothing yet");
        assert!(!place.peer_state().is_full());
        assert!(peer.read_u8().now_or_never().is_some());
        assert!(stream.write_all(b"b").now_or_never().is_some());
        assert!(stream.write_all(b"c").now_or_never().is_none(), "it takes nothing more");
        assert!(place.peer_state().is_full());
        assert!(peer.read_u8().now_or_never().is_some());
        assert!(stream.write_all(b"c").now_or_never().is_some());
        assert!(!place.peer_state().is_full());
    }
}
