//! What a token of an issuer must say, and what it then means: header and claims to a principal. Pure: the signature is
//! somebody else's work, and nothing here is believed before that has been checked.

use std::time::Duration;

use data_encoding::HEXLOWER;
use serde_json::{Map, Value};
use tollgate_guard::digest::Digest;
use tollgate_guard::time::Timestamp;

use crate::denial::Denial;
use crate::name::is_name;
use crate::named::named;
use crate::principal::Grant;

/// How much of a digest tells the holders of tokens apart: 128 bits.
const ID_BYTES: usize = 16;

/// The claims of a token, or its header.
pub type Claims = Map<String, Value>;

/// Somebody whose tokens are accepted, and what they are good for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer {
    /// What subjects are told apart by: the caller is `<name>:<subject>`.
    pub name: Box<str>,
    /// The `iss` of its tokens, compared byte by byte.
    pub issuer: Box<str>,
    /// A token must be meant for one of these (`aud`).
    pub audiences: Vec<Box<str>>,
    /// What its keys may sign with.
    pub algorithms: Vec<Algorithm>,
    pub keys: KeySource,
    /// How far its clock may be off ours.
    pub leeway: Duration,
    /// The plane that its tokens stand on; without one they reach no route.
    pub plane: Option<Box<str>>,
    pub meaning: Meaning,
    /// `None`: nothing was said, and they are refused.
    pub unknown_projects: Option<UnknownProjects>,
}

/// What becomes of a token for a project of which no record was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownProjects {
    Allow,
    Refuse,
}

/// What a token stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    /// `<name of the issuer>:<subject>`.
    pub subject: String,
    /// The same for this issuer and subject always, and for no others.
    pub id: Box<str>,
    pub grant: Grant,
}

/// Where the public keys of an issuer are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// A JWK Set (RFC 7517), fetched; the authorities in the file `ca` instead of the system's.
    Url { url: Box<str>, ca: Option<Box<str>> },
    /// A JWK Set in a file.
    File(Box<str>),
}

/// From claims to a grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meaning {
    pub subject: ClaimPath,
    pub project: ClaimOrLiteral,
    pub workloads: Vec<ClaimOrLiteral>,
    pub permissions: Vec<ClaimOrLiteral>,
    /// The claim that names roles.
    pub roles: Option<ClaimPath>,
    /// The permissions of each role.
    pub role_permissions: Vec<(Box<str>, Vec<Box<str>>)>,
    /// The permissions that a claim may name, which are the declared ones; others mean nothing there. Built-in ones, which
    /// administer, come from the configuration alone: at many issuers a client chooses its own scopes.
    pub declared: Vec<Box<str>>,
}

/// A word of the configuration, or whatever a claim says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimOrLiteral {
    Literal(Box<str>),
    Claim(ClaimPath),
}

/// The way to a claim, name by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimPath(Vec<Box<str>>);

impl ClaimPath {
    /// Names joined by dots (`realm_access.roles`), or a JSON Pointer (RFC 6901) for names that have dots themselves.
    /// `None` if a name is empty.
    pub fn parse(text: &str) -> Option<Self> {
        let names: Vec<Box<str>> = match text.strip_prefix('/') {
            Some(pointer) => pointer.split('/').map(|name| name.replace("~1", "/").replace("~0", "~").into()).collect(),
            None => text.split('.').map(Into::into).collect(),
        };
        names.iter().all(|name| !name.is_empty()).then_some(Self(names))
    }

    fn of<'c>(&self, claims: &'c Claims) -> Option<&'c Value> {
        let (first, rest) = self.0.split_first()?;
        let value = rest.iter().try_fold(claims.get(&**first)?, |value, name| value.as_object()?.get(&**name))?;
        (!value.is_null()).then_some(value)
    }
}

/// What a key signs with (RFC 7518, RFC 8037). No symmetric one, and no `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    EdDsa,
}

impl Algorithm {
    /// Whether to verify it costs more than to ask another machine.
    pub fn is_slow(self) -> bool {
        self == Self::Es384
    }

    pub const ALL: [Self; 9] = [
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
        Self::Ps256,
        Self::Ps384,
        Self::Ps512,
        Self::Es256,
        Self::Es384,
        Self::EdDsa,
    ];

    /// The `alg` of a header or a JWK.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::EdDsa => "EdDSA",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.as_str() == text)
    }

    pub fn is_rsa(self) -> bool {
        !matches!(self, Self::Es256 | Self::Es384 | Self::EdDsa)
    }
}

/// What the header of a token says about its signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub algorithm: Algorithm,
    /// Which of the issuer's keys.
    pub key_id: Option<String>,
}

/// A name of a key is at most this long.
const MAX_KEY_ID: usize = 128;
const MAX_SUBJECT: usize = 256;
/// The most workloads, or permissions, that a token can say.
const MAX_LIST: usize = 256;

/// Reads a header. Keys that a token brings along (`jwk`, `jku`, `x5u`, `x5c`) are passed over.
///
/// # Errors
/// [`Denial::TokenHeader`] for another algorithm, another type of token, or anything critical (`crit`): none of that is
/// understood here, and RFC 7515 section 4.1.11 has it refused then.
pub fn read_header(header: &Claims) -> Result<Header, Denial> {
    let text = |name: &str| match header.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str())),
        Some(_) => Err(Denial::TokenHeader),
    };
    let understood = ["crit", "b64", "zip", "cty", "enc"].iter().all(|name| !header.contains_key(*name));
    let is_access_token = text("typ")?.is_none_or(is_access_token);
    let algorithm = text("alg")?.and_then(Algorithm::parse);
    let key_id = text("kid")?;
    match algorithm {
        Some(algorithm)
            if understood && is_access_token && key_id.is_none_or(|id| (1..=MAX_KEY_ID).contains(&id.len())) =>
        {
            Ok(Header { algorithm, key_id: key_id.map(str::to_owned) })
        }
        _ => Err(Denial::TokenHeader),
    }
}

/// `JWT`, or `at+jwt` (RFC 9068): not a token that was made for another purpose (RFC 8725 section 3.11).
fn is_access_token(kind: &str) -> bool {
    let kind = kind.to_ascii_lowercase();
    matches!(kind.strip_prefix("application/").unwrap_or(&kind), "jwt" | "at+jwt")
}

/// The `iss` of claims that nobody has verified yet: it chooses the keys to verify them with, and nothing else.
pub fn claimed_issuer(claims: &Claims) -> Option<&str> {
    claims.get("iss")?.as_str()
}

/// When a token ends by our clock: `exp` and the leeway.
///
/// # Errors
/// If it is not meant for us, not yet valid, over, or lacks what every token must have: `iss`, `aud`, `exp`
/// (RFC 7519 section 4.1).
pub fn validity(
    claims: &Claims,
    issuer: &str,
    audiences: &[Box<str>],
    leeway: Duration,
    now: Timestamp,
) -> Result<Timestamp, Denial> {
    if claimed_issuer(claims) != Some(issuer) {
        return Err(Denial::TokenIssuer);
    }
    if !is_meant_for(claims, audiences)? {
        return Err(Denial::TokenAudience);
    }
    let starts = time(claims, "nbf")?;
    time(claims, "iat")?;
    let Some(ends) = time(claims, "exp")? else { return Err(Denial::TokenClaims) };
    let ends = ends.plus(leeway);
    if ends <= now {
        return Err(Denial::Expired);
    }
    if starts.is_some_and(|starts| starts > now.plus(leeway)) {
        return Err(Denial::TokenNotYetValid);
    }
    Ok(ends)
}

fn is_meant_for(claims: &Claims, audiences: &[Box<str>]) -> Result<bool, Denial> {
    let ours = |audience: &str| audiences.iter().any(|own| **own == *audience);
    match claims.get("aud") {
        Some(Value::String(audience)) => Ok(ours(audience)),
        Some(Value::Array(list)) => {
            let texts: Option<Vec<&str>> = list.iter().map(Value::as_str).collect();
            texts.map(|texts| texts.into_iter().any(ours)).ok_or(Denial::TokenClaims)
        }
        _ => Err(Denial::TokenClaims),
    }
}

/// A NumericDate (RFC 7519 section 2): seconds since the Unix epoch, perhaps with a fraction.
fn time(claims: &Claims, name: &str) -> Result<Option<Timestamp>, Denial> {
    /// The year 9999: what is later is a mistake.
    const MAX_SECONDS: f64 = 253_402_300_800.0;
    match claims.get(name) {
        None => Ok(None),
        Some(Value::Number(number)) => match number.as_f64() {
            Some(seconds) if (0.0..MAX_SECONDS).contains(&seconds) => {
                Ok(Some(Timestamp::from_millis((seconds * 1000.0) as u64)))
            }
            _ => Err(Denial::TokenClaims),
        },
        Some(_) => Err(Denial::TokenClaims),
    }
}

impl Issuer {
    /// Who the claims speak of, and what they grant. The claims must have been verified.
    ///
    /// # Errors
    /// [`Denial::WrongPlane`] if the issuer has none, [`Denial::TokenClaims`] if the subject or the project is missing, or
    /// anything in a claim that is read has another type or could not be a header value.
    pub fn grant(&self, claims: &Claims) -> Result<Granted, Denial> {
        let Some(plane) = &self.plane else { return Err(Denial::WrongPlane) };
        let meaning = &self.meaning;
        let subject = match meaning.subject.of(claims) {
            Some(Value::String(subject)) if is_subject(subject) => subject,
            _ => return Err(Denial::TokenClaims),
        };
        let project = match &meaning.project {
            ClaimOrLiteral::Literal(project) => project,
            ClaimOrLiteral::Claim(path) => match path.of(claims) {
                // A name: no token reaches every project because it says so.
                Some(Value::String(project)) if is_name(project) => project.as_str(),
                _ => return Err(Denial::TokenClaims),
            },
        };
        let workloads = meaning.workloads(claims)?;
        let permissions = meaning.permissions(claims)?;
        Grant::new(plane, project, &workloads, &permissions)
            .map(|grant| Granted {
                subject: format!("{}:{subject}", self.name),
                id: id_of(&self.issuer, claims, subject),
                grant,
            })
            .map_err(|_| Denial::TokenClaims)
    }
}

/// Tells the holders of tokens apart, whatever the issuer is called in the configuration: a digest over its `iss` and the `sub`, or
/// where a token has none, over what stands for it.
fn id_of(issuer: &str, claims: &Claims, subject: &str) -> Box<str> {
    let (claim, subject) = match claims.get("sub") {
        Some(Value::String(sub)) => ("sub", sub.as_str()),
        _ => ("subject", subject),
    };
    // With the length in front no issuer and subject can pass for two others.
    let holder = format!("{} {issuer} {claim} {subject}", issuer.len());
    let Digest(bytes) = named("token", &holder);
    HEXLOWER.encode(&bytes[..ID_BYTES]).into()
}

impl Issuer {
    /// Whether its tokens are let into a project of which no record was made.
    pub fn allows_unknown_projects(&self) -> bool {
        self.unknown_projects == Some(UnknownProjects::Allow)
    }
}

impl Meaning {
    /// Names, or what the configuration says: no token reaches every workload because it says so.
    fn workloads(&self, claims: &Claims) -> Result<Vec<String>, Denial> {
        words(&self.workloads, claims, |word| if is_name(word) { Ok(true) } else { Err(Denial::TokenClaims) })
    }

    fn permissions(&self, claims: &Claims) -> Result<Vec<String>, Denial> {
        // An issuer speaks of other things too, such as `openid`.
        let is_declared = |word: &str| Ok(self.declared.iter().any(|known| **known == *word));
        let mut permissions = words(&self.permissions, claims, is_declared)?;
        if let Some(roles) = &self.roles {
            for role in listed(roles, claims)? {
                let of_role = self.role_permissions.iter().filter(|(name, _)| **name == *role);
                permissions.extend(of_role.flat_map(|(_, permissions)| permissions).map(|name| name.to_string()));
            }
        }
        permissions.sort();
        permissions.dedup();
        Ok(permissions)
    }
}

/// What the terms say, in order and without duplicates; of what claims say only the words that are `taken`.
fn words(
    terms: &[ClaimOrLiteral],
    claims: &Claims,
    taken: impl Fn(&str) -> Result<bool, Denial>,
) -> Result<Vec<String>, Denial> {
    let mut words: Vec<String> = Vec::new();
    for term in terms {
        match term {
            ClaimOrLiteral::Literal(word) => words.push(word.to_string()),
            ClaimOrLiteral::Claim(path) => {
                for word in listed(path, claims)? {
                    if taken(word)? {
                        words.push(word.to_owned());
                    }
                }
            }
        }
    }
    words.sort();
    words.dedup();
    Ok(words)
}

/// The words of a claim: an array of strings, or one string with spaces between (as `scope` by RFC 8693 section 4.2). None
/// if there is no such claim.
fn listed<'c>(path: &ClaimPath, claims: &'c Claims) -> Result<Vec<&'c str>, Denial> {
    let words: Vec<&str> = match path.of(claims) {
        None => Vec::new(),
        Some(Value::String(text)) => text.split(' ').filter(|word| !word.is_empty()).collect(),
        Some(Value::Array(list)) => list.iter().map(Value::as_str).collect::<Option<_>>().ok_or(Denial::TokenClaims)?,
        Some(_) => return Err(Denial::TokenClaims),
    };
    if words.len() > MAX_LIST { Err(Denial::TokenClaims) } else { Ok(words) }
}

/// Visible ASCII without a comma, so that it is one header value and reads as one subject.
fn is_subject(text: &str) -> bool {
    (1..=MAX_SUBJECT).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',')
}
