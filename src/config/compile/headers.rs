//! Header names of the configuration: credentials, identity headers and reserved prefixes. Refuses every name that could
//! change how a request is framed, routed or judged.

use tollgate_core::envoy_limits::EnvoyLimits;
use tollgate_core::extract::{CredentialHeader, Kinds};
use tollgate_core::policy::{IdentityHeaders, OVERRIDES, same_header};

use super::super::file::{CredentialKind, File, SubjectKind, WithheldHeaders};
use super::super::problems::{Findings, Path};

/// Headers that frame or route a message (RFC 9110 section 7.6.1, RFC 9112), or that Envoy and we read ourselves.
const TAKEN: [&str; 17] = [
    "connection",
    "content-length",
    "content-type",
    "expect",
    "forwarded",
    "host",
    "http2-settings",
    "keep-alive",
    "origin",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
    "x-request-id",
    "user-agent",
];

/// The beginnings of such headers.
const TAKEN_PREFIXES: [&str; 2] = ["x-envoy-", "x-forwarded-"];

pub(super) fn credentials(file: &File, findings: &mut Findings) -> Vec<CredentialHeader> {
    let root = Path::of("credentials");
    for (at, credential) in file.credentials.iter().enumerate() {
        let path = root.index(at);
        if let Err(problem) = header_name(&credential.header) {
            findings.add(&path.key("header"), problem);
        }
        let same = |other: &str| same_header(other.as_bytes(), credential.header.as_bytes());
        if file.credentials[..at].iter().any(|other| same(&other.header)) {
            findings.add(&path.key("header"), format!("`{}` stands twice", credential.header));
        }
        let prefixes = &file.identity.reserved_prefixes.0;
        if let Some(prefix) = prefixes.iter().find(|prefix| under(&credential.header, prefix)) {
            let problem = format!("a credential cannot stand under the reserved prefix `{prefix}`");
            findings.add(&path.key("header"), problem);
        }
        if credential.scheme.as_deref().is_some_and(|scheme| !is_token(scheme)) {
            findings.add(&path.key("scheme"), "must be one word such as `Bearer`");
        }
    }
    // Where nobody makes tokens, no client is told to send one.
    let tokens = !file.issuers.is_empty() || file.login.is_some();
    let made = |source: &super::super::file::Credential| CredentialHeader {
        name: source.header.as_str().into(),
        scheme: source.scheme.as_deref().map(Into::into),
        kinds: Kinds { jwt: tokens && source.kinds.contains(&CredentialKind::Jwt), ..kinds(&source.kinds) },
    };
    file.credentials.iter().map(made).collect()
}

/// What is said of the Envoy in front.
pub(super) fn envoy_limits(file: &File) -> EnvoyLimits {
    EnvoyLimits {
        max_headers: usize::from(file.envoy.max_headers_count),
        max_bytes: usize::from(file.envoy.max_request_headers_kb) << 10,
        takes_withheld: file.envoy.withheld_headers == WithheldHeaders::Accept,
    }
}

/// The kinds that a list names.
pub(super) fn kinds(named: &[CredentialKind]) -> Kinds {
    Kinds { api_key: named.contains(&CredentialKind::ApiKey), jwt: named.contains(&CredentialKind::Jwt) }
}

pub(super) fn identity(file: &File, findings: &mut Findings) -> IdentityHeaders {
    let root = Path::of("identity");
    let prefixes = &file.identity.reserved_prefixes.0;
    for (at, prefix) in prefixes.iter().enumerate() {
        reserved_prefix(prefix, &root.key("reserved_prefixes").index(at), findings);
    }
    let headers = &file.identity.headers;
    let named = [
        ("subject", &headers.subject),
        ("user_id", &headers.user_id),
        ("project", &headers.project),
        ("workload", &headers.workload),
        ("key_id", &headers.key_id),
        ("plane", &headers.plane),
        ("permissions", &headers.permissions),
        ("request_id", &headers.request_id),
    ];
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for (key, name) in named {
        let (path, Some(name)) = (root.key("headers").key(key), name) else { continue };
        let same = |other: &str| same_header(other.as_bytes(), name.as_bytes());
        if let Err(problem) = header_name(name) {
            findings.add(&path, problem);
        } else if same("authorization") || file.credentials.iter().any(|source| same(&source.header)) {
            findings.add(&path, format!("`{name}` carries credentials"));
        } else if prefixes.first().is_some_and(|prefix| same(&format!("{prefix}proof"))) {
            findings.add(
                &path,
                format!("`{name}` is reserved for the proof that Tollgate sends to itself: choose another name"),
            );
        } else if OVERRIDES.into_iter().any(same) {
            findings.add(&path, format!("`{name}` is removed from every request"));
        } else if !prefixes.iter().any(|prefix| under(name, prefix)) {
            let problem = format!("`{name}` is under none of `identity.reserved_prefixes`");
            findings.suggest(&path, problem, name.rfind('-').map(|end| format!("reserve `{}`", &name[..=end])));
        }
        if let Some((other, _)) = seen.iter().find(|(_, other)| same(other)) {
            findings.add(&path, format!("`{name}` is the name of `{other}` already"));
        }
        seen.push((key, name));
    }
    let boxed = |name: &Option<String>| name.as_deref().map(Into::into);
    IdentityHeaders {
        subject: boxed(&headers.subject),
        user_id: boxed(&headers.user_id),
        project: boxed(&headers.project),
        workload: boxed(&headers.workload),
        key_id: boxed(&headers.key_id),
        plane: boxed(&headers.plane),
        permissions: boxed(&headers.permissions),
        request_id: boxed(&headers.request_id),
        subject_is_id: file.identity.subject == SubjectKind::Id,
        reserved_prefixes: prefixes.iter().map(|prefix| prefix.as_str().into()).collect(),
    }
}

fn reserved_prefix(prefix: &str, path: &Path, findings: &mut Findings) {
    if !prefix.ends_with('-') || !is_lower_token(prefix) {
        findings.add(path, "a reserved prefix is a header name's beginning in lower case that ends with `-`");
        return;
    }
    let needed = TAKEN.into_iter().chain(TAKEN_PREFIXES);
    if let Some(lost) = needed.into_iter().find(|name| under(name, prefix) || under(prefix, name)) {
        findings.add(path, format!("would take `{lost}` away from every request"));
    }
}

/// Whether a reader that folds names would see this one under the prefix.
fn under(name: &str, prefix: &str) -> bool {
    let beginning = name.as_bytes().get(..prefix.len());
    !prefix.is_empty() && beginning.is_some_and(|beginning| same_header(beginning, prefix.as_bytes()))
}

/// A name that may stand in the configuration as a request header.
fn header_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("a header needs a name".to_owned());
    }
    if name.starts_with(':') {
        return Err(format!("`{name}` is a pseudo-header"));
    }
    if !is_lower_token(name) || name.len() > 128 {
        return Err(format!("`{name}` is no header name: it is written in lower case, such as `x-api-key`"));
    }
    let taken = TAKEN.into_iter().any(|taken| same_header(taken.as_bytes(), name.as_bytes()))
        || TAKEN_PREFIXES.into_iter().any(|prefix| under(name, prefix));
    if taken { Err(format!("`{name}` has a meaning of its own and cannot be used")) } else { Ok(()) }
}

fn is_lower_token(name: &str) -> bool {
    is_token(name) && !name.bytes().any(|b| b.is_ascii_uppercase())
}

/// A token of RFC 9110 section 5.6.2.
fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|b| {
            b.is_ascii_alphanumeric()
                || matches!(
                    b,
                    b'!' | b'#'
                        | b'$'
                        | b'%'
                        | b'&'
                        | b'\''
                        | b'*'
                        | b'+'
                        | b'-'
                        | b'.'
                        | b'^'
                        | b'_'
                        | b'`'
                        | b'|'
                        | b'~'
                )
        })
}
