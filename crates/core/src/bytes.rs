//! A rule for each byte of a text.

/// Whether every byte is good. It looks at all of them, so that the processor looks at many at a time: for texts that are long and
/// mostly good.
pub fn every(bytes: &[u8], is_good: impl Fn(u8) -> bool) -> bool {
    bytes.iter().fold(true, |all, &byte| all & is_good(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bad_byte_is_seen_wherever_it_is() {
        let is_good = |byte: u8| byte.is_ascii_alphanumeric();
        for length in 0..100 {
            let mut bytes = vec![b'a'; length];
            assert!(every(&bytes, is_good));
            for at in 0..length {
                bytes[at] = b' ';
                assert!(!every(&bytes, is_good), "{at} of {length}");
                bytes[at] = b'a';
            }
        }
    }
}
