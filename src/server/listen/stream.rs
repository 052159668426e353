//! A connection's bytes, as h2 handles them best: small answers are copied into one write, and never offered as a list of
//! slices, for which h2 would flush after each. Reads no more in one turn than the connection's account allows, so that what came
//! is answered, and counted, before more is read, and nothing at all while the peer does not read what is there for it.
//!
//! h2 has room for 8 KiB at a time. Of a peer that is known more is read at once, and kept for h2's next reads.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf, Take};

use super::wiped::{WipedOnDrop, wipe};
use crate::server::budget::{Account, MemoryReservation};

/// Bytes that are read at once of a peer that is known.
const AT_ONCE: usize = 64 << 10;

thread_local! {
    /// Where they are read to.
    static ROOM: RefCell<Box<[u8]>> = RefCell::new(vec![0; AT_ONCE].into());
}

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
    ahead: Option<Ahead>,
}

/// What was read before there was room for it.
struct Ahead {
    bytes: WipedOnDrop,
    taken: usize,
    _held: Option<MemoryReservation>,
}

/// How much, and nothing of it.
impl fmt::Debug for Ahead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ahead({} bytes)", self.bytes.as_ref().len() - self.taken)
    }
}

impl Ahead {
    /// Gives the next bytes, and whether these were all.
    fn give(&mut self, most: usize, buffer: &mut ReadBuf<'_>) -> bool {
        let bytes = self.bytes.as_ref();
        let rest = &bytes[self.taken..];
        let next = &rest[..rest.len().min(most).min(buffer.remaining())];
        buffer.put_slice(next);
        self.taken += next.len();
        self.taken == bytes.len()
    }
}

impl<S: AsyncRead> Metered<S> {
    pub fn new(stream: S, account: Arc<Account>) -> Self {
        Self { stream: stream.take(0), account, has_written: false, is_full: false, waits: false, ahead: None }
    }
}

impl<S: AsyncRead + Unpin> Metered<S> {
    fn poll_ahead(&mut self, cx: &mut Context<'_>, most: usize, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ROOM.with_borrow_mut(|room| {
            let mut read = ReadBuf::new(&mut room[..most.min(AT_ONCE)]);
            ready!(Pin::new(self.stream.get_mut()).poll_read(cx, &mut read))?;
            let (now, later) = read.filled().split_at(read.filled().len().min(buffer.remaining()));
            buffer.put_slice(now);
            if !later.is_empty() {
                let held = self.account.hold(later.len()).ok();
                self.ahead = Some(Ahead { bytes: WipedOnDrop(later.to_vec()), taken: 0, _held: held });
            }
            wipe(read.filled_mut());
            Poll::Ready(Ok(()))
        })
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.is_full {
            self.waits = true;
            return Poll::Pending;
        }
        let may_read = self.account.may_read();
        if may_read == 0 {
            // The connection begins the next turn by itself.
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        if let Some(ahead) = &mut self.ahead {
            if ahead.give(may_read, buffer) {
                self.ahead = None;
            }
        } else if self.account.may_read_ahead() && buffer.remaining() < AT_ONCE {
            ready!(self.poll_ahead(cx, may_read, buffer))?;
        } else {
            self.stream.set_limit(may_read as u64);
            ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        }
        self.account.has_read(buffer.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Self { stream, account, has_written, is_full, waits, .. } = self.get_mut();
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
    use crate::server::places::{ConnectionLimits, PeerStage, Places};

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

    /// What comes out where a peer sends so much at once, and is read so much at a time.
    async fn read_of(stage: PeerStage, sent: &[u8], at_a_time: usize) -> Vec<u8> {
        let place = Places::new(CONNECTION_LIMITS).enter(None).unwrap();
        place.peer_state().set(stage);
        let account = Budget::new().open(Arc::clone(place.peer_state()));
        let (mut peer, stream) = tokio::io::duplex(200 << 10);
        let mut stream = Metered::new(stream, Arc::clone(&account));
        let (mut read, mut buffer) = (Vec::new(), vec![0; at_a_time]);
        for part in sent.chunks(150 << 10) {
            peer.write_all(part).await.unwrap();
            let end = read.len() + part.len();
            while read.len() < end {
                tokio::task::yield_now().await;
                account.begin_turn(false);
                while let Some(count) = stream.read(&mut buffer).now_or_never() {
                    read.extend_from_slice(&buffer[..count.unwrap()]);
                }
            }
        }
        drop(peer);
        account.begin_turn(false);
        assert_eq!(stream.read(&mut buffer).await.unwrap(), 0);
        read
    }

    #[tokio::test]
    async fn everything_comes_in_order_however_much_is_read_at_once() {
        let sent: Vec<u8> = (0..400_000u32).map(|at| (at % 251) as u8).collect();
        for stage in [PeerStage::Arriving, PeerStage::Known] {
            for at_a_time in [1 << 10, 8 << 10, 9_999, 64 << 10, 100 << 10] {
                assert!(read_of(stage, &sent, at_a_time).await == sent, "{stage:?}, {at_a_time} at a time");
            }
        }
    }

    #[tokio::test]
    async fn what_is_read_ahead_is_counted_until_it_is_taken() {
        let place = Places::new(CONNECTION_LIMITS).enter(None).unwrap();
        place.peer_state().set(PeerStage::Known);
        let account = Budget::new().open(Arc::clone(place.peer_state()));
        let (mut peer, stream) = tokio::io::duplex(64 << 10);
        let mut stream = Metered::new(stream, Arc::clone(&account));
        account.begin_turn(false);
        peer.write_all(&[7; 64 << 10]).await.unwrap();
        assert_eq!(stream.read(&mut [0; 8 << 10]).await.unwrap(), 8 << 10);
        assert_eq!(format!("{account:?}"), "Account { held: 57344, .. }");
        assert_eq!(stream.read_exact(&mut [0; 56 << 10]).await.unwrap(), 56 << 10);
        assert_eq!(format!("{account:?}"), "Account { held: 0, .. }");
    }
}
