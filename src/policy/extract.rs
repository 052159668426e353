//! From headers to the one credential of a request. Never picks among several, and never tries one as two kinds.

use crate::domain::attributes::Attributes;
use crate::domain::credential::PresentedKey;
use crate::domain::decision::Denial;

use super::{PlaneId, Policy};

/// A header that may carry a credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialHeader {
    /// In lower case.
    pub name: Box<str>,
    /// The authentication scheme before the token, such as `Bearer` (RFC 9110 section 11.4); `None`: the bare token.
    pub scheme: Option<Box<str>>,
}

/// The one API key that the request presents, and the plane that its prefix says.
///
/// # Errors
/// A [`Denial`] if there is none, more than one, one that is not text, or one that no declared prefix begins.
pub(super) fn one_key<'r>(
    policy: &'r Policy,
    request: &'r Attributes<'r>,
) -> Result<(PlaneId, PresentedKey<'r>), Denial> {
    let (source, value) = one_value(&policy.credentials, request)?;
    let token = match &source.scheme {
        None => value,
        Some(scheme) => token_after(scheme, value)?,
    };
    let (plane, prefix) = policy
        .planes
        .iter()
        .zip(0u8..)
        .find(|(plane, _)| token.strip_prefix(&*plane.prefix).is_some_and(|rest| rest.starts_with('_')))
        .map(|(plane, id)| (PlaneId(id), &plane.prefix))
        .ok_or(Denial::CredentialMalformed)?;
    match PresentedKey::parse(token, prefix) {
        Ok(key) => Ok((plane, key)),
        Err(_) => Err(Denial::CredentialMalformed),
    }
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
    let readable = value.iter().all(|byte| matches!(byte, b' '..=b'~'));
    match std::str::from_utf8(value) {
        Ok(text) if readable => Ok((source, text.trim_matches(' '))),
        _ => Err(Denial::CredentialUnreadable),
    }
}

/// The token behind its scheme, which is compared without regard to case.
fn token_after<'r>(scheme: &str, value: &'r str) -> Result<&'r str, Denial> {
    let (said, token) = value.split_once(' ').unwrap_or((value, ""));
    if !said.eq_ignore_ascii_case(scheme) {
        // Another scheme is no credential of ours: the client is told which one to use.
        return Err(Denial::CredentialMissing);
    }
    match token.trim_start_matches(' ') {
        "" => Err(Denial::CredentialMalformed),
        token => Ok(token),
    }
}
