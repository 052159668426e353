//! From headers to the one credential of a request. Never picks among several, and never tries one as two kinds.

use crate::attributes::Attributes;
use crate::bytes::every;
use crate::credential::PresentedKey;
use crate::denial::Denial;
use crate::plane::{Plane, PlaneId};
use crate::token::PresentedToken;

/// A header that may carry a credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialHeader {
    /// In lower case.
    pub name: Box<str>,
    /// The authentication scheme before the credential, such as `Bearer` (RFC 9110 section 11.4); `None`: it stands alone.
    pub scheme: Option<Box<str>>,
    pub kinds: Kinds,
}

/// Which kinds of credential are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kinds {
    pub api_key: bool,
    pub jwt: bool,
}

impl Kinds {
    pub const ALL: Self = Self { api_key: true, jwt: true };
}

/// The one credential of a request.
#[derive(Clone, Copy, Debug)]
pub enum Credential<'r> {
    ApiKey(PresentedKey<'r>),
    /// A JSON Web Token.
    Jwt(PresentedToken<'r>),
}

/// A credential, with what it says of itself before anybody is asked.
pub(crate) enum Extracted<'r> {
    /// An API key, and the plane that its prefix says.
    ApiKey(PlaneId, PresentedKey<'r>),
    Jwt(PresentedToken<'r>),
}

/// The one credential that the request presents. What begins with a declared prefix is an API key; anything else is a token
/// where the header takes tokens. Nothing is tried as both.
///
/// # Errors
/// A [`Denial`] if there is none, more than one, or one that is not text or follows no grammar.
pub(crate) fn one_credential<'r>(
    planes: &[Plane],
    sources: &'r [CredentialHeader],
    request: &'r Attributes<'r>,
) -> Result<Extracted<'r>, Denial> {
    let (source, value) = one_value(sources, request)?;
    let text = match &source.scheme {
        None => value,
        Some(scheme) => text_after(scheme, value)?,
    };
    let begins = |prefix: &str| text.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('_'));
    let key = planes.iter().zip(0u8..).find(|(plane, _)| begins(&plane.prefix));
    let extracted = match key {
        Some((plane, id)) if source.kinds.api_key => {
            PresentedKey::parse(text, &plane.prefix).ok().map(|key| Extracted::ApiKey(PlaneId(id), key))
        }
        None if source.kinds.jwt => PresentedToken::parse(text).ok().map(Extracted::Jwt),
        Some(_) | None => None,
    };
    extracted.ok_or(Denial::CredentialMalformed)
}

/// The token in these headers, of a request whose one credential has been found good.
pub fn bearer_token<'r>(
    sources: &[CredentialHeader],
    headers: impl Iterator<Item = (&'r str, &'r [u8])>,
) -> Option<&'r str> {
    let mut texts = headers.filter_map(|(name, value)| {
        let source = sources.iter().find(|source| source.name.eq_ignore_ascii_case(name))?;
        let text = std::str::from_utf8(value).ok()?.trim_matches(' ');
        match &source.scheme {
            Some(scheme) => text_after(scheme, text).ok(),
            None => Some(text),
        }
    });
    texts.find(|text| PresentedToken::parse(text).is_ok())
}

/// The only non-empty value among all credential headers. Envoy joins duplicates with a comma, so a comma is a second
/// credential; no credential of ours contains one.
fn one_value<'r>(
    sources: &'r [CredentialHeader],
    request: &'r Attributes<'r>,
) -> Result<(&'r CredentialHeader, &'r str), Denial> {
    let mut found = None;
    for source in sources {
        for value in request.values(&source.name).filter(|value| !value.trim_ascii().is_empty()) {
            if found.is_some() || value.contains(&b',') {
                return Err(Denial::CredentialAmbiguous);
            }
            found = Some((source, value));
        }
    }
    let (source, value) = found.ok_or(Denial::CredentialMissing)?;
    let readable = every(value, |byte| matches!(byte, b' '..=b'~'));
    match std::str::from_utf8(value) {
        Ok(text) if readable => Ok((source, text.trim_matches(' '))),
        _ => Err(Denial::CredentialUnreadable),
    }
}

/// What stands behind the scheme, which is compared without regard to case.
fn text_after<'r>(scheme: &str, value: &'r str) -> Result<&'r str, Denial> {
    let (said, text) = value.split_once(' ').unwrap_or((value, ""));
    if !said.eq_ignore_ascii_case(scheme) {
        // Another scheme is no credential of ours: the client is told which one to use.
        return Err(Denial::CredentialMissing);
    }
    match text.trim_start_matches(' ') {
        "" => Err(Denial::CredentialMalformed),
        text => Ok(text),
    }
}
