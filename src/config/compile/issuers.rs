//! Issuers and login to rules. What a token could be given that its plane does not have is a problem here, not a surprise
//! later.

use std::time::Duration;

use http::Uri;
use tollgate_core::issuer::{Algorithm, ClaimOrLiteral, ClaimPath, Issuer, KeySource, Meaning, UnknownProjects};
use tollgate_core::login::Login;
use tollgate_core::name::{NAME_RULE, is_name};
use tollgate_core::resource::EVERY;

use super::super::file::{self, ClientIpSource, CredentialKind, File, SigningAlgorithm};
use super::super::problems::{Findings, Path};
use super::Names;

/// What other callers' subjects begin with.
const TAKEN_NAMES: [&str; 4] = ["key", "user", "operator", "customer"];

pub(super) fn issuers(file: &File, names: &Names, findings: &mut Findings) -> Vec<Issuer> {
    let root = Path::of("issuers");
    let mut issuers: Vec<Issuer> = Vec::new();
    for (at, issuer) in file.issuers.iter().enumerate() {
        let path = root.index(at);
        names_of(file, issuer, &issuers, &path, findings);
        let plane = issuer.plane.as_deref().and_then(|name| names.plane(name, &path.key("plane"), findings));
        let admin = plane.is_some_and(|at| names.planes[at].admin);
        let compiler = Compiler { names, issuer, path, plane, admin };
        if let Some(meaning) = compiler.meaning(findings) {
            issuers.push(compiler.compiled(meaning, findings));
        }
    }
    let takes_tokens = file.credentials.iter().any(|source| source.kinds.contains(&CredentialKind::Jwt));
    for (key, used) in [("issuers", !file.issuers.is_empty()), ("login", file.login.is_some())] {
        if used && !takes_tokens {
            let fix = "add `kinds: [api_key, jwt]` to the header that carries them";
            findings.suggest(&Path::of(key), "no header of `credentials` takes a `jwt`", Some(fix.to_owned()));
        }
    }
    issuers
}

/// Its name and `iss`, which no other may have.
fn names_of(file: &File, issuer: &file::Issuer, before: &[Issuer], path: &Path, findings: &mut Findings) {
    if !is_name(&issuer.name) {
        findings.add(&path.key("name"), format!("the name of an issuer is {NAME_RULE}"));
    } else if TAKEN_NAMES.contains(&&*issuer.name) {
        findings.add(&path.key("name"), format!("`{}` begins the subjects of other callers", issuer.name));
    } else if before.iter().any(|other| *other.name == *issuer.name) {
        findings.add(&path.key("name"), format!("`{}` is the name of another issuer already", issuer.name));
    }
    if issuer.issuer.is_empty() {
        findings.add(&path.key("issuer"), "must not be empty");
    } else if before.iter().any(|other| *other.issuer == *issuer.issuer) {
        findings.add(&path.key("issuer"), "is that of another issuer already");
    } else if file.login.as_ref().is_some_and(|login| login.issuer == issuer.issuer) {
        findings.add(&path.key("issuer"), "is that of `login` already");
    }
    for (at, audience) in issuer.audience.iter().enumerate() {
        if audience.is_empty() {
            findings.add(&path.key("audience").index(at), "must not be empty");
        }
    }
}

struct Compiler<'f> {
    names: &'f Names,
    issuer: &'f file::Issuer,
    path: Path,
    plane: Option<usize>,
    admin: bool,
}

impl Compiler<'_> {
    fn compiled(&self, meaning: Meaning, findings: &mut Findings) -> Issuer {
        let issuer = self.issuer;
        Issuer {
            name: issuer.name.as_str().into(),
            issuer: issuer.issuer.as_str().into(),
            audiences: issuer.audience.iter().map(|audience| audience.as_str().into()).collect(),
            algorithms: issuer.algorithms.iter().map(|algorithm| algorithm_of(*algorithm)).collect(),
            keys: self.keys(findings),
            leeway: Duration::from_secs(issuer.leeway_seconds),
            plane: self.plane.map(|at| self.names.planes[at].name.clone()),
            meaning,
            unknown_projects: issuer.unknown_projects.map(|said| match said {
                file::UnknownProjects::Allow => UnknownProjects::Allow,
                file::UnknownProjects::Refuse => UnknownProjects::Refuse,
            }),
        }
    }

    fn keys(&self, findings: &mut Findings) -> KeySource {
        let path = self.path.key("jwks");
        let file::Jwks { url, ca, file } = &self.issuer.jwks;
        if let Some(url) = url {
            if let Err(problem) = check_url(url) {
                findings.add(&path.key("url"), problem);
            }
        } else if ca.is_some() {
            findings.add(&path.key("ca"), "has a meaning only with `url`");
        }
        match (url, file) {
            (Some(url), None) => KeySource::Url { url: url.as_str().into(), ca: ca.as_deref().map(text) },
            (None, Some(file)) => {
                if file.as_os_str().is_empty() {
                    findings.add(&path.key("file"), "must not be empty");
                }
                KeySource::File(text(file))
            }
            (Some(_), Some(_)) => {
                findings.add(&path, "must have only one of `url` and `file`");
                KeySource::File(Box::default())
            }
            (None, None) => {
                findings.add(&path, "must have one of `url` and `file`");
                KeySource::File(Box::default())
            }
        }
    }

    fn meaning(&self, findings: &mut Findings) -> Option<Meaning> {
        let issuer = self.issuer;
        let subject = self.claim(&issuer.subject, &self.path.key("subject"), findings);
        let project = self.project(findings);
        let workloads = self.terms("workloads", &issuer.workloads, findings);
        if issuer.workloads.iter().any(|word| word == EVERY) && issuer.workloads.len() > 1 {
            findings.add(&self.path.key("workloads"), "`*` must stand alone");
        }
        let permissions = self.terms("permissions", &issuer.permissions, findings);
        for (at, permission) in issuer.permissions.iter().enumerate().filter(|(_, word)| !word.starts_with('{')) {
            self.names.permission(permission, self.plane, &self.path.key("permissions").index(at), findings);
        }
        let roles = match &issuer.role_claim {
            Some(claim) => Some(self.claim(claim, &self.path.key("role_claim"), findings)?),
            None => None,
        };
        if roles.is_some() == issuer.roles.is_empty() {
            findings.add(&self.path.key("roles"), "`role_claim` and `roles` go together");
        }
        Some(Meaning {
            subject: subject?,
            project: project?,
            workloads: workloads?,
            permissions: permissions?,
            roles,
            role_permissions: self.roles(findings),
            declared: self.names.permissions.clone(),
        })
    }

    fn project(&self, findings: &mut Findings) -> Option<ClaimOrLiteral> {
        let path = self.path.key("project");
        let term = self.term(&self.issuer.project, &path, findings)?;
        if let ClaimOrLiteral::Literal(word) = &term
            && **word == *EVERY
            && !self.admin
        {
            findings.add(&path, "`*` is possible only on an admin plane");
        }
        Some(term)
    }

    fn roles(&self, findings: &mut Findings) -> Vec<(Box<str>, Vec<Box<str>>)> {
        let path = self.path.key("roles");
        let mut roles = Vec::new();
        for (role, permissions) in &self.issuer.roles {
            for (at, permission) in permissions.iter().enumerate() {
                self.names.permission(permission, self.plane, &path.key(role).index(at), findings);
            }
            roles.push((role.as_str().into(), permissions.iter().map(|name| name.as_str().into()).collect()));
        }
        roles
    }

    fn terms(&self, key: &str, words: &[String], findings: &mut Findings) -> Option<Vec<ClaimOrLiteral>> {
        let path = self.path.key(key);
        words.iter().enumerate().map(|(at, word)| self.term(word, &path.index(at), findings)).collect()
    }

    /// A name or `*`, or `{claim}`.
    fn term(&self, word: &str, path: &Path, findings: &mut Findings) -> Option<ClaimOrLiteral> {
        if word.starts_with('{') {
            return self.claim(word, path, findings).map(ClaimOrLiteral::Claim);
        }
        if word != EVERY && !is_name(word) {
            findings.add(path, format!("`{word}` is neither a claim such as `{{tenant}}`, nor a name: {NAME_RULE}"));
            return None;
        }
        Some(ClaimOrLiteral::Literal(word.into()))
    }

    fn claim(&self, word: &str, path: &Path, findings: &mut Findings) -> Option<ClaimPath> {
        let inner = word.strip_prefix('{').and_then(|inner| inner.strip_suffix('}'));
        let claim = inner.and_then(ClaimPath::parse);
        if claim.is_none() {
            findings.add(path, format!("`{word}` must be a claim in braces, such as `{{sub}}`"));
        }
        claim
    }
}

/// https, or http to this machine: who can change the keys on their way can make any token.
fn check_url(url: &str) -> Result<(), String> {
    let wrong = || format!("`{url}` must be an https URL, such as `https://sso.example.com/jwks.json`");
    let uri: Uri = url.parse().map_err(|_| wrong())?;
    let authority = uri.authority().filter(|authority| !authority.as_str().contains('@')).ok_or_else(wrong)?;
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let is_local = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    match uri.scheme_str() {
        Some("https") => Ok(()),
        Some("http") if is_local => Ok(()),
        Some("http") => {
            Err(format!("`{url}` would be fetched in clear: whoever changes it on its way makes any token"))
        }
        _ => Err(wrong()),
    }
}

fn algorithm_of(algorithm: SigningAlgorithm) -> Algorithm {
    match algorithm {
        SigningAlgorithm::RS256 => Algorithm::Rs256,
        SigningAlgorithm::RS384 => Algorithm::Rs384,
        SigningAlgorithm::RS512 => Algorithm::Rs512,
        SigningAlgorithm::PS256 => Algorithm::Ps256,
        SigningAlgorithm::PS384 => Algorithm::Ps384,
        SigningAlgorithm::PS512 => Algorithm::Ps512,
        SigningAlgorithm::ES256 => Algorithm::Es256,
        SigningAlgorithm::ES384 => Algorithm::Es384,
        SigningAlgorithm::EdDSA => Algorithm::EdDsa,
    }
}

pub(super) fn login(file: &File, names: &Names, findings: &mut Findings) -> Option<Login> {
    let login = file.login.as_ref()?;
    let path = Path::of("login");
    if login.issuer.parse::<Uri>().ok().and_then(|uri| uri.scheme().cloned()).is_none() {
        findings.add(&path.key("issuer"), "must be a URL that names this Tollgate, such as `https://api.example.com`");
    }
    if file.listen.admin.through_envoy.is_some() && file.client_ip.from == ClientIpSource::Peer {
        let problem = "must name where the client's address comes from: behind Envoy, logins could not be told apart";
        let fix = "say `x-envoy-external-address`, with `use_remote_address: true` in Envoy";
        findings.suggest(&Path::of("client_ip").key("from"), problem, Some(fix.to_owned()));
    }
    let plane = names.plane(&login.plane, &path.key("plane"), findings)?;
    Some(Login {
        issuer: login.issuer.as_str().into(),
        plane: names.planes[plane].name.clone(),
        lifetime: Duration::from_secs(login.lifetime_seconds),
    })
}

/// A path of the configuration, which is text.
fn text(path: &std::path::Path) -> Box<str> {
    path.to_string_lossy().into()
}
