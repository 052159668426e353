//! API keys as they are presented: grammar, checksum, digest. Never prints, logs or stores the secret part.
//!
//! The format is `<prefix>_<id12>_<secret43><crc6>`, all base62: 256 bits of secret, and a CRC-32 over everything
//! before it, so that junk and swapped prefixes are refused without a look-up.

use std::fmt;

use zeroize::Zeroizing;

use crate::bytes::every;

/// The length of the public id in a key.
pub const ID_LEN: usize = 12;
const LASTING_ID_LEN: usize = 16;
const SECRET_LEN: usize = 43;
const CHECKSUM_LEN: usize = 6;
/// `_`, id, `_`, secret, checksum: everything after the prefix.
const TAIL_LEN: usize = 1 + ID_LEN + 1 + SECRET_LEN + CHECKSUM_LEN;
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The public name of a key: 12 base62 characters. It stands in logs, lists, limits and revocations.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; ID_LEN]);

impl KeyId {
    pub fn parse(text: &str) -> Option<Self> {
        let bytes: [u8; ID_LEN] = text.as_bytes().try_into().ok()?;
        bytes.iter().all(u8::is_ascii_alphanumeric).then_some(Self(bytes))
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An id of its own kind: 16 base62 characters by chance, given once and never again. It is no secret.
macro_rules! lasting_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; LASTING_ID_LEN]);

        impl $name {
            pub fn parse(text: &str) -> Option<Self> {
                let bytes: [u8; LASTING_ID_LEN] = text.as_bytes().try_into().ok()?;
                bytes.iter().all(u8::is_ascii_alphanumeric).then_some(Self(bytes))
            }

            /// `fill` must fill the buffer from the operating system's random source.
            ///
            /// # Errors
            /// Whatever `fill` returns.
            pub fn generate<E>(mut fill: impl FnMut(&mut [u8]) -> Result<(), E>) -> Result<Self, E> {
                let mut text = String::with_capacity(LASTING_ID_LEN);
                push_random(&mut text, LASTING_ID_LEN, &mut fill)?;
                let mut id = [0; LASTING_ID_LEN];
                id.copy_from_slice(text.as_bytes());
                Ok(Self(id))
            }

            pub fn as_str(&self) -> &str {
                std::str::from_utf8(&self.0).unwrap_or_default()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

lasting_id! {
    /// Names a user for ever, which the user's name does not: it may be another's later. 16 base62 characters.
    UserId
}

lasting_id! {
    /// Names a project for ever. 16 base62 characters.
    ProjectId
}

/// A key that a client presented, well formed and with a good checksum; whether it is known is another question.
#[derive(Clone, Copy)]
pub struct PresentedKey<'a> {
    text: &'a str,
    id: KeyId,
}

/// The text is not a key of this prefix: wrong length, alphabet or checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MalformedKey;

impl<'a> PresentedKey<'a> {
    /// Parses `<prefix>_<id12>_<secret43><crc6>`.
    ///
    /// # Errors
    /// [`MalformedKey`] if the text does not follow the grammar or its checksum is wrong.
    pub fn parse(text: &'a str, prefix: &str) -> Result<Self, MalformedKey> {
        let tail = text.strip_prefix(prefix).ok_or(MalformedKey)?.as_bytes();
        if tail.len() != TAIL_LEN || tail[0] != b'_' || tail[1 + ID_LEN] != b'_' {
            return Err(MalformedKey);
        }
        let (id, secret) = (&tail[1..=ID_LEN], &tail[2 + ID_LEN..]);
        if ![id, secret].into_iter().all(|part| every(part, |byte| byte.is_ascii_alphanumeric())) {
            return Err(MalformedKey);
        }
        let (body, checksum) = text.as_bytes().split_at(text.len() - CHECKSUM_LEN);
        if checksum != checksum_of(body) {
            return Err(MalformedKey);
        }
        let id: [u8; ID_LEN] = id.try_into().map_err(|_| MalformedKey)?;
        Ok(Self { text, id: KeyId(id) })
    }

    pub fn id(&self) -> KeyId {
        self.id
    }

    /// The whole key, for digesting and nothing else.
    pub fn expose(&self) -> &'a [u8] {
        self.text.as_bytes()
    }
}

impl fmt::Debug for PresentedKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PresentedKey({}, …)", self.id)
    }
}

/// A key that was just made: the only time its text can be read. Wiped from memory when dropped.
pub struct MintedKey {
    text: Zeroizing<String>,
    id: KeyId,
}

impl MintedKey {
    /// Makes a key. `fill` must fill the buffer from the operating system's random source.
    ///
    /// # Errors
    /// Whatever `fill` returns.
    pub fn generate<E>(prefix: &str, mut fill: impl FnMut(&mut [u8]) -> Result<(), E>) -> Result<Self, E> {
        let mut text = Zeroizing::new(String::with_capacity(prefix.len() + TAIL_LEN));
        text.push_str(prefix);
        text.push('_');
        push_random(&mut text, ID_LEN, &mut fill)?;
        text.push('_');
        push_random(&mut text, SECRET_LEN, &mut fill)?;
        for byte in checksum_of(text.as_bytes()) {
            text.push(char::from(byte));
        }
        let start = prefix.len() + 1;
        let mut id = [b'0'; ID_LEN];
        id.copy_from_slice(&text.as_bytes()[start..start + ID_LEN]);
        Ok(Self { text, id: KeyId(id) })
    }

    pub fn id(&self) -> KeyId {
        self.id
    }

    /// The whole key, to be shown to its owner once.
    pub fn expose(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for MintedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MintedKey({}, …)", self.id)
    }
}

/// Appends uniform base62 characters; bytes that would make some of them likelier are thrown away.
fn push_random<E>(text: &mut String, count: usize, fill: &mut impl FnMut(&mut [u8]) -> Result<(), E>) -> Result<(), E> {
    let end = text.len() + count;
    let mut pool = Zeroizing::new([0u8; 64]);
    while text.len() < end {
        fill(pool.as_mut())?;
        let missing = end - text.len();
        let uniform = pool.iter().filter(|&&b| b < 248).take(missing);
        text.extend(uniform.map(|&b| char::from(BASE62[usize::from(b % 62)])));
    }
    Ok(())
}

/// CRC-32 (IEEE) in six base62 digits, most significant first.
fn checksum_of(body: &[u8]) -> [u8; CHECKSUM_LEN] {
    let mut rest = crc32fast::hash(body);
    let mut digits = [b'0'; CHECKSUM_LEN];
    for digit in digits.iter_mut().rev() {
        *digit = BASE62[(rest % 62) as usize];
        rest /= 62;
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(prefix: &str, seed: u8) -> MintedKey {
        let mut next = seed;
        MintedKey::generate(prefix, |buffer: &mut [u8]| {
            for byte in buffer {
                next = next.wrapping_mul(181).wrapping_add(59);
                *byte = next;
            }
            Ok::<_, std::convert::Infallible>(())
        })
        .unwrap()
    }

    #[test]
    fn a_minted_key_parses_and_keeps_its_id() {
        let minted = key("ik_live", 7);
        assert_eq!(minted.expose().len(), "ik_live".len() + TAIL_LEN);
        let presented = PresentedKey::parse(minted.expose(), "ik_live").unwrap();
        assert_eq!(presented.id(), minted.id());
    }

    #[test]
    fn every_single_character_change_is_refused() {
        let minted = key("ik_live", 3);
        let text = minted.expose();
        for at in 0..text.len() {
            for other in ['0', 'z', '_', '-', ' '] {
                let mut twisted = text.to_owned();
                twisted.replace_range(at..=at, &other.to_string());
                if twisted != text {
                    assert!(PresentedKey::parse(&twisted, "ik_live").is_err(), "{at} {other}");
                }
            }
        }
    }

    #[test]
    fn other_characters_are_refused_though_the_checksum_fits() {
        let minted = key("ik_live", 3);
        let body = &minted.expose()[..minted.expose().len() - CHECKSUM_LEN];
        // In the id and in the secret.
        for at in ["ik_live_".len(), body.len() - 1] {
            for (other, is_good) in [("0", true), ("z", true), ("-", false), ("_", false), ("%", false), (" ", false)] {
                let mut text = body.to_owned();
                text.replace_range(at..=at, other);
                let checksum = checksum_of(text.as_bytes());
                text.extend(checksum.map(char::from));
                assert_eq!(PresentedKey::parse(&text, "ik_live").is_ok(), is_good, "{at} {other}");
            }
        }
    }

    #[test]
    fn a_swapped_prefix_is_refused() {
        let minted = key("ik_live", 3);
        let swapped = minted.expose().replace("ik_live", "ik_sdkk");
        assert!(PresentedKey::parse(&swapped, "ik_sdkk").is_err());
    }

    #[test]
    fn debug_shows_the_id_alone() {
        let minted = key("ik_live", 9);
        let presented = PresentedKey::parse(minted.expose(), "ik_live").unwrap();
        let secret = &minted.expose()["ik_live_".len() + ID_LEN + 1..];
        for text in [format!("{minted:?}"), format!("{presented:?}")] {
            assert!(!text.contains(secret), "{text}");
            assert!(text.contains(minted.id().as_str()));
        }
    }
}
