//! What a key, a user or a resource may be under a policy. Judges what was asked for, never who asks, and repeats nothing that
//! looks like a secret.

use tollgate_core::name::{LABEL_RULE, NAME_RULE, is_label, is_name};
use tollgate_core::plane::{ADMIN_PERMISSIONS, Plane};
use tollgate_core::policy::Policy;
use tollgate_core::redact::echo;
use tollgate_core::resource::EVERY;

use super::{RegistryError, Result};

/// The most workloads or permissions of one key or user.
const MAX_SCOPES: usize = 256;
/// The most bytes of all their names together, so that a quota of keys is one of memory, too.
const MAX_SCOPE_BYTES: usize = 4_096;

pub(super) fn invalid<T>(field: &'static str, problem: impl Into<String>) -> Result<T> {
    Err(RegistryError::Invalid { field, problem: problem.into() })
}

/// The plane of this name.
pub(super) fn plane<'p>(policy: &'p Policy, name: &str) -> Result<&'p Plane> {
    match policy.plane_named(name) {
        Some(plane) => Ok(policy.plane(plane)),
        None => {
            let known = listed(policy.planes.iter().map(|plane| &*plane.name));
            invalid("plane", format!("`{}` is not a plane; there are: {known}", echo(name)))
        }
    }
}

/// The plane that users stand on.
pub(super) fn login_plane(policy: &Policy) -> Result<&Plane> {
    let missing = || {
        let advice = "login is not configured: name the plane of users in `login.plane`, then try again";
        RegistryError::Conflict(advice.to_owned())
    };
    let plane = policy.login.as_ref().and_then(|login| policy.plane_named(&login.plane));
    plane.map(|plane| policy.plane(plane)).ok_or_else(missing)
}

pub(super) fn check_label(field: &'static str, text: &str) -> Result<()> {
    if is_label(text) { Ok(()) } else { invalid(field, format!("must be {LABEL_RULE}")) }
}

pub(super) fn check_name(field: &'static str, text: &str) -> Result<()> {
    if is_name(text) { Ok(()) } else { invalid(field, format!("`{}` must be {NAME_RULE}", echo(text))) }
}

/// `*` only on an admin plane.
pub(super) fn check_project(plane: &Plane, project: &str) -> Result<()> {
    match project {
        EVERY if plane.admin => Ok(()),
        EVERY => {
            invalid("project", format!("whoever stands on plane `{}` belongs to one project, not to `*`", plane.name))
        }
        name => check_name("project", name),
    }
}

pub(super) fn check_workloads(workloads: &[String]) -> Result<()> {
    let every = matches!(workloads, [one] if one == EVERY);
    if workloads.is_empty() {
        return invalid("workloads", "name the workloads that the key reaches, or `*` for all of its project");
    }
    check_count("workloads", workloads)?;
    match workloads.iter().find(|name| !is_name(name)) {
        Some(bad) if !every => {
            invalid("workloads", format!("`{}` must be {NAME_RULE}, or `*` must stand alone", echo(bad)))
        }
        _ => Ok(()),
    }
}

/// Each must be declared, or be built in where the plane is an admin plane.
pub(super) fn check_permissions(policy: &Policy, plane: &Plane, permissions: &[String]) -> Result<()> {
    if permissions.is_empty() {
        return invalid("permissions", "whoever has no permission can do nothing: name at least one");
    }
    check_count("permissions", permissions)?;
    for permission in permissions {
        let built_in = ADMIN_PERMISSIONS.contains(&&**permission);
        if built_in && !plane.admin {
            return invalid("permissions", format!("`{permission}` exists only on a plane marked `admin: true`"));
        }
        if !built_in && !policy.permissions.iter().any(|known| **known == **permission) {
            let known = policy.permissions.iter().map(|known| &**known);
            let all = if plane.admin { listed(known.chain(ADMIN_PERMISSIONS)) } else { listed(known) };
            return invalid("permissions", format!("`{}` is not declared; there are: {all}", echo(permission)));
        }
    }
    Ok(())
}

fn check_count(field: &'static str, list: &[String]) -> Result<()> {
    if list.len() > MAX_SCOPES {
        return invalid(field, format!("at most {MAX_SCOPES} can be named"));
    }
    if list.iter().map(String::len).sum::<usize>() > MAX_SCOPE_BYTES {
        return invalid(
            field,
            format!("at most {MAX_SCOPE_BYTES} bytes of names can be given: make a key for each part of them"),
        );
    }
    Ok(())
}

/// As a record holds a list.
pub(super) fn sorted(mut list: Vec<String>) -> Vec<String> {
    list.sort();
    list.dedup();
    list
}

fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}
