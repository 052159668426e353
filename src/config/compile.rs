//! A configuration file to what runs: policy and settings. Every rule that the shape of the file cannot express is checked
//! here, all of them each time; nothing is public, reachable or permitted unless the file says so.

mod headers;
mod issuers;
mod paths;
mod routes;
mod settings;
mod store;

use std::collections::HashSet;

use tollgate_core::error_body::ErrorShape;
use tollgate_core::name::{NAME_RULE, is_name};
use tollgate_core::plane::{ADMIN_PERMISSIONS, Plane, RevokedStatus};
use tollgate_core::policy::{ClientIp, OwnHeaders, Policy};
use tollgate_core::resource::EVERY;

use super::file::{ClientIpSource, Errors, File, Revoked};
use super::problems::{Findings, Path, did_you_mean, near_or_all};
use super::{Compiled, KeyDefaults};

/// A plane is a byte in the policy, and a person has to keep them apart.
const MAX_PLANES: usize = 16;

/// The names that the rest of the file refers to.
struct Names {
    planes: Vec<Plane>,
    permissions: Vec<Box<str>>,
}

/// Compiles the file. What is returned may be used only if nothing was found.
pub(super) fn compile(file: &File, findings: &mut Findings) -> Option<Compiled> {
    let names = Names { planes: planes(file, findings), permissions: permissions(file, findings) };
    let credentials = headers::credentials(file, findings);
    let identity = headers::identity(file, findings);
    let issuers = issuers::issuers(file, &names, findings);
    let login = issuers::login(file, &names, findings);
    let client_ip = client_ip(file, findings);
    realm(&file.realm, findings);
    let key_defaults = key_defaults(file, &names, findings);
    let settings = settings::settings(file, key_defaults, findings);
    let routes = routes::routes(file, &names, findings);
    let policy = Policy {
        planes: names.planes,
        permissions: names.permissions,
        issuers,
        login,
        own_headers: OwnHeaders::of(&credentials, &identity),
        credentials,
        identity,
        client_ip,
        envoy_limits: headers::envoy_limits(file),
        realm: file.realm.as_str().into(),
        errors: error_shape(file.errors),
        routes: routes?,
    };
    Some(Compiled { policy, settings: settings? })
}

fn error_shape(errors: Errors) -> ErrorShape {
    match errors {
        Errors::Tollgate => ErrorShape::Tollgate,
        Errors::OpenAi => ErrorShape::OpenAi,
        Errors::Anthropic => ErrorShape::Anthropic,
        Errors::Grpc => ErrorShape::Grpc,
    }
}

fn planes(file: &File, findings: &mut Findings) -> Vec<Plane> {
    let root = Path::of("planes");
    match file.planes.len() {
        0 => findings.add(&root, "must name at least one plane"),
        1..=MAX_PLANES => {}
        count => findings.add(&root, format!("has {count} planes, and at most {MAX_PLANES} are possible")),
    }
    let mut planes: Vec<Plane> = Vec::new();
    for (name, plane) in &file.planes {
        let path = root.key(name);
        if !is_name(name) {
            findings.add(&path, format!("the name of a plane is {NAME_RULE}"));
        }
        if !is_prefix(&plane.prefix) {
            let rule = "a prefix is 1 to 24 characters of a-z 0-9 _, begins with a letter and does not end with `_`";
            findings.add(&path.key("prefix"), rule);
        } else if let Some(other) = planes.iter().find(|other| clash(&plane.prefix, &other.prefix)) {
            let problem = format!(
                "keys that begin with `{}_` could not be told from those of `{}`, which begin with `{}_`",
                plane.prefix, other.name, other.prefix
            );
            findings.add(&path.key("prefix"), problem);
        }
        planes.push(Plane {
            grace: store::grace(plane, &file.store, &path.key("grace"), findings),
            name: name.as_str().into(),
            prefix: plane.prefix.as_str().into(),
            revoked: if plane.revoked == Revoked::FORBIDDEN {
                RevokedStatus::Forbidden
            } else {
                RevokedStatus::Unauthenticated
            },
            admin: plane.admin,
        });
    }
    planes
}

fn is_prefix(prefix: &str) -> bool {
    let bytes = prefix.as_bytes();
    matches!(bytes.len(), 1..=24)
        && bytes[0].is_ascii_lowercase()
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'_')
        && bytes.last() != Some(&b'_')
}

/// Whether a key of one prefix can begin like a key of the other, the `_` that ends each counted.
fn clash(a: &str, b: &str) -> bool {
    let (a, b) = (format!("{a}_"), format!("{b}_"));
    a.starts_with(&b) || b.starts_with(&a)
}

fn permissions(file: &File, findings: &mut Findings) -> Vec<Box<str>> {
    let mut seen = HashSet::new();
    for (at, permission) in file.permissions.iter().enumerate() {
        let path = Path::of("permissions").index(at);
        if ADMIN_PERMISSIONS.contains(&permission.as_str()) {
            findings.add(&path, format!("`{permission}` is built in and must not be declared"));
        } else if !is_name(permission) {
            findings.add(&path, format!("a permission is {NAME_RULE}"));
        }
        if !seen.insert(permission) {
            findings.add(&path, format!("`{permission}` is declared twice"));
        }
    }
    file.permissions.iter().map(|permission| permission.as_str().into()).collect()
}

fn realm(realm: &str, findings: &mut Findings) {
    let sound = realm.bytes().all(|b| matches!(b, b' '..=b'~') && !matches!(b, b'"' | b'\\'));
    if realm.trim().is_empty() || realm.len() > 128 || !sound {
        let rule = "must be 1 to 128 printable ASCII characters without quotes and backslashes";
        findings.add(&Path::of("realm"), rule);
    }
}

fn client_ip(file: &File, findings: &mut Findings) -> ClientIp {
    let path = Path::of("client_ip").key("trusted_hops");
    match (file.client_ip.from, file.client_ip.trusted_hops) {
        (ClientIpSource::XForwardedFor, Some(trusted_hops)) => ClientIp::ForwardedFor { trusted_hops },
        (ClientIpSource::XForwardedFor, None) => {
            findings.add(&path, "is missing: `from: x-forwarded-for` needs to know how many proxies append to it");
            ClientIp::Peer
        }
        (from, hops) => {
            if hops.is_some() {
                findings.add(&path, "has a meaning only with `from: x-forwarded-for`");
            }
            match from {
                ClientIpSource::XEnvoyExternalAddress => ClientIp::EnvoyExternalAddress,
                ClientIpSource::Peer | ClientIpSource::XForwardedFor => ClientIp::Peer,
            }
        }
    }
}

fn key_defaults(file: &File, names: &Names, findings: &mut Findings) -> KeyDefaults {
    let defaults = &file.admin.key_defaults;
    let path = Path::of("admin").key("key_defaults");
    let plane = defaults.plane.as_deref().and_then(|plane| names.plane(plane, &path.key("plane"), findings));
    let admin = plane.is_some_and(|at| names.planes[at].admin);
    if let Some(project) = &defaults.project {
        let path = path.key("project");
        if project == EVERY && !admin {
            findings.add(&path, "`*` is possible only where `plane` is an admin plane");
        } else if project != EVERY && !is_name(project) {
            findings.add(&path, format!("a project is {NAME_RULE}"));
        }
    }
    if let Some(workloads) = &defaults.workloads {
        let path = path.key("workloads");
        let mut seen = HashSet::new();
        for (at, workload) in workloads.iter().enumerate() {
            if workload == EVERY && workloads.len() > 1 {
                findings.add(&path.index(at), "`*` must stand alone");
            } else if workload != EVERY && !is_name(workload) {
                findings.add(&path.index(at), format!("a workload is {NAME_RULE}"));
            }
            if !seen.insert(workload) {
                findings.add(&path.index(at), format!("`{workload}` stands twice"));
            }
        }
    }
    KeyDefaults {
        plane: defaults.plane.clone(),
        project: defaults.project.clone(),
        workloads: defaults.workloads.clone(),
    }
}

impl Names {
    /// The index of a plane.
    fn plane(&self, name: &str, path: &Path, findings: &mut Findings) -> Option<usize> {
        let found = self.planes.iter().position(|plane| &*plane.name == name);
        if found.is_none() {
            let known: Vec<&str> = self.planes.iter().map(|plane| &*plane.name).collect();
            findings.suggest(path, format!("`{name}` is no plane"), near_or_all(name, "the planes are", &known));
        }
        found
    }

    /// Checks that a route on this plane may ask for the permission.
    fn permission(&self, name: &str, plane: Option<usize>, path: &Path, findings: &mut Findings) {
        let admin = plane.is_none_or(|at| self.planes[at].admin);
        if ADMIN_PERMISSIONS.contains(&name) {
            if !admin {
                findings.add(path, format!("`{name}` exists only on planes marked `admin: true`"));
            }
        } else if !self.permissions.iter().any(|known| **known == *name) {
            let built_in = ADMIN_PERMISSIONS.into_iter().filter(|_| admin);
            let suggestion = did_you_mean(name, self.permissions.iter().map(|known| &**known).chain(built_in));
            findings.suggest(path, format!("`{name}` is not declared in `permissions`"), suggestion);
        }
    }
}
