//! JSON Web Tokens as they are presented: three parts of base64url in compact form (RFC 7515 section 7.1). Never decodes,
//! verifies or prints one.

use std::fmt;

use crate::bytes::every;

/// A longer one is refused before anything in it is read.
pub const MAX_TOKEN: usize = 16 * 1024;

/// A token that a client presented, well formed; whose it is, and whether it is genuine, is another question.
#[derive(Clone, Copy)]
pub struct PresentedToken<'a> {
    text: &'a str,
    /// The two dots.
    dots: [usize; 2],
}

/// The text is not three parts of base64url, or is too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MalformedToken;

impl<'a> PresentedToken<'a> {
    /// Parses `header.payload.signature`; none of the three may be empty.
    ///
    /// # Errors
    /// [`MalformedToken`]
    pub fn parse(text: &'a str) -> Result<Self, MalformedToken> {
        if text.len() > MAX_TOKEN {
            return Err(MalformedToken);
        }
        let mut parts = text.split('.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(MalformedToken);
        };
        let is_good = |part: &str| {
            let base64url = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
            !part.is_empty() && every(part.as_bytes(), base64url)
        };
        if ![header, payload, signature].into_iter().all(is_good) {
            return Err(MalformedToken);
        }
        Ok(Self { text, dots: [header.len(), header.len() + 1 + payload.len()] })
    }

    /// The header, in base64url.
    pub fn header(&self) -> &'a str {
        &self.text[..self.dots[0]]
    }

    /// The claims, in base64url.
    pub fn payload(&self) -> &'a str {
        &self.text[self.dots[0] + 1..self.dots[1]]
    }

    /// The signature, in base64url.
    pub fn signature(&self) -> &'a str {
        &self.text[self.dots[1] + 1..]
    }

    /// What the signature is over: header, dot, payload.
    pub fn signed(&self) -> &'a [u8] {
        &self.text.as_bytes()[..self.dots[1]]
    }

    /// The whole token, for digesting and nothing else.
    pub fn expose(&self) -> &'a [u8] {
        self.text.as_bytes()
    }
}

impl fmt::Debug for PresentedToken<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PresentedToken({} bytes)", self.text.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_three_parts() {
        let token = PresentedToken::parse("aGVhZGVy.cGF5bG9hZA.c2ln-_").unwrap();
        assert_eq!((token.header(), token.payload(), token.signature()), ("aGVhZGVy", "cGF5bG9hZA", "c2ln-_"));
        assert_eq!(token.signed(), b"aGVhZGVy.cGF5bG9hZA");
        assert!(!format!("{token:?}").contains("c2ln"));
        let long = format!("a.{}.c", "b".repeat(MAX_TOKEN - 4));
        assert!(PresentedToken::parse(&long).is_ok());
        for bad in [
            "",
            ".",
            "..",
            "a.b",
            "a.b.",
            ".b.c",
            "a..c",
            "a.b.c.d",
            "a.b.c=",
            "a+.b.c",
            "a/.b.c",
            "a. b.c",
            "a.b.c\n",
            "ä.b.c",
            &format!("{long}x"),
        ] {
            assert!(PresentedToken::parse(bad).is_err(), "{bad}");
        }
    }
}
