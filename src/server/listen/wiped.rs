//! Bytes that hold the credentials of clients. Never leaves them behind in memory that is used again.

/// Wiped when they are dropped. At once, where `Zeroizing` goes byte by byte: bodies are long.
#[derive(Default)]
pub(super) struct WipedOnDrop(pub(super) Vec<u8>);

impl AsRef<[u8]> for WipedOnDrop {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for WipedOnDrop {
    fn drop(&mut self) {
        wipe(&mut self.0);
    }
}

pub(super) fn wipe(bytes: &mut [u8]) {
    bytes.fill(0);
    zeroize::optimization_barrier(&*bytes);
}
