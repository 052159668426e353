//! A principal and a requirement to a permit. A [`Permit`] can be made here and nowhere else, and only of what was authorized and still
//! stood after that.

use std::sync::Arc;
use std::time::Duration;

use tollgate_guard::found::{Confirmed, Found};
use tollgate_guard::time::Timestamp;

use crate::decision::RouteId;
use crate::denial::Denial;
use crate::extract::Credential;
use crate::plane::{Plane, RevokedStatus};
use crate::principal::Principal;
use crate::redact;
use crate::resource::{Resource, ResourceRef};
use crate::route::{Matched, ProjectOf, Requirement, Route, Scope, WorkloadOf};

/// A guarded request with one well-formed credential of the right plane.
#[derive(Clone, Debug)]
pub struct Ask<'r> {
    pub credential: Credential<'r>,
    pub(crate) request: Matched<'r>,
    pub(crate) requirement: &'r Requirement,
    pub(crate) plane: &'r Plane,
}

impl Ask<'_> {
    /// How long what is cached of who asks stays good after the store has fallen silent.
    pub fn grace(&self) -> Duration {
        self.plane.grace
    }
}

/// Proof that this request may pass. What was judged becomes one once it was confirmed, and not before:
///
/// ```
/// # use tollgate_core::authorize::{Judged, Permit};
/// # use tollgate_guard::found::Confirmed;
/// fn act(judged: Confirmed<Judged<'_>>) -> Permit<'_> {
///     judged.into()
/// }
/// ```
///
/// ```compile_fail,E0277
/// # use tollgate_core::authorize::{Judged, Permit};
/// # use tollgate_guard::found::Found;
/// fn act(judged: Found<Judged<'_>>) -> Permit<'_> {
///     judged.into()
/// }
/// ```
///
/// ```compile_fail,E0616
/// # use tollgate_core::authorize::{Judged, Permit};
/// fn act(judged: Judged<'_>) -> Permit<'_> {
///     judged.0
/// }
/// ```
#[derive(Debug)]
pub struct Permit<'r> {
    route_id: RouteId,
    route: &'r Route,
    /// Whether the path of the request is the very one that the configuration has.
    is_literal: bool,
    caller: Option<Caller<'r>>,
}

/// Who was permitted, and to what.
#[derive(Debug)]
struct Caller<'r> {
    principal: Arc<Principal>,
    project: Option<&'r str>,
    workload: Workload<'r>,
}

#[derive(Debug)]
enum Workload<'r> {
    None,
    Named(&'r str),
    Registered(Arc<Resource>),
    /// The only one that the principal reaches.
    Only,
}

/// A request that may pass if all that it was judged by still stands.
#[derive(Debug)]
pub struct Judged<'r>(Permit<'r>);

impl Judged<'_> {
    pub(crate) fn caller(&self) -> Option<Arc<Principal>> {
        self.0.caller()
    }
}

impl<'r> From<Confirmed<Judged<'r>>> for Permit<'r> {
    fn from(judged: Confirmed<Judged<'r>>) -> Self {
        judged.into_inner().0
    }
}

/// Who may not have what it asks for.
#[derive(Debug)]
pub struct Refused {
    pub denial: Denial,
    pub caller: Arc<Principal>,
}

impl<'r> Permit<'r> {
    pub(crate) fn public(matched: &Matched<'r>) -> Self {
        Self { route_id: matched.id, route: matched.route, is_literal: matched.is_literal(), caller: None }
    }

    pub fn route_id(&self) -> RouteId {
        self.route_id
    }

    pub fn route(&self) -> &'r Route {
        self.route
    }

    /// Whether the path of the request is the very one that the configuration has.
    pub(crate) fn is_literal(&self) -> bool {
        self.is_literal
    }

    pub(crate) fn caller(&self) -> Option<Arc<Principal>> {
        self.caller.as_ref().map(|caller| Arc::clone(&caller.principal))
    }

    /// Nobody on a public route.
    pub fn principal(&self) -> Option<&Principal> {
        self.caller.as_ref().map(|caller| &*caller.principal)
    }

    /// The project that the request belongs to, if there is one.
    pub fn project(&self) -> Option<&str> {
        let caller = self.caller.as_ref()?;
        match (&caller.workload, caller.project) {
            (Workload::Registered(resource), _) => Some(&resource.project),
            (_, Some(project)) => Some(project),
            _ => Some(caller.principal.project()).filter(|_| !caller.principal.reaches_every_project()),
        }
    }

    /// The project, as it may stand in a log: what no record holds may be anything that a client wrote.
    pub fn logged_project(&self, planes: &[Plane]) -> Option<&str> {
        let caller = self.caller.as_ref()?;
        let is_sent = caller.project.is_some() && caller.principal.reaches_every_project();
        self.project().map(|name| if is_sent { redact::text(planes, name) } else { name })
    }

    /// The workload, likewise.
    pub fn logged_workload(&self, planes: &[Plane]) -> Option<&str> {
        let caller = self.caller.as_ref()?;
        match caller.workload {
            Workload::Named(name) if caller.principal.reaches_every_workload() => Some(redact::text(planes, name)),
            _ => self.workload(),
        }
    }

    /// The workload that the request is for, if it is for one.
    pub fn workload(&self) -> Option<&str> {
        let caller = self.caller.as_ref()?;
        match &caller.workload {
            Workload::None => None,
            Workload::Named(name) => Some(name),
            Workload::Registered(resource) => Some(&resource.slug),
            Workload::Only => caller.principal.only_workload(),
        }
    }
}

impl<'r> Ask<'r> {
    /// The registered resource that must be known before this can be authorized, if the route names one and the
    /// request's id can be one.
    pub fn resource(&self) -> Option<ResourceRef<'r>> {
        match &self.requirement.scope {
            Scope::Project { .. } => None,
            Scope::Resource { kind, id } => Some(ResourceRef { kind, id: self.request.name(id)? }),
        }
    }
}

/// Step 4: may this principal have what it asks for?
///
/// The order is fixed: plane, then whether the key still stands, then permissions, then scope.
///
/// # Errors
/// The first rule that refuses, and whom.
pub fn authorize<'r>(
    ask: &Ask<'r>,
    principal: Found<Arc<Principal>>,
    resource: Option<Found<Arc<Resource>>>,
    now: Timestamp,
) -> Result<Found<Judged<'r>>, Refused> {
    match resource {
        Some(resource) => {
            principal.and(resource).judge(|(principal, resource)| judge(ask, principal, Some(resource), now))
        }
        None => principal.judge(|principal| judge(ask, principal, None, now)),
    }
}

fn judge<'r>(
    ask: &Ask<'r>,
    principal: Arc<Principal>,
    resource: Option<Arc<Resource>>,
    now: Timestamp,
) -> Result<Judged<'r>, Refused> {
    match qualify(ask, &principal, now).and_then(|()| in_scope(ask, &principal, resource)) {
        Ok((project, workload)) => {
            let caller = Some(Caller { principal, project, workload });
            let Matched { id, route, .. } = ask.request;
            Ok(Judged(Permit { route_id: id, route, is_literal: ask.request.is_literal(), caller }))
        }
        Err(denial) => Err(Refused { denial, caller: principal }),
    }
}

/// The part of [`authorize`] that needs no resource, so that nothing is looked up for whoever it refuses.
///
/// # Errors
/// The first rule that refuses.
pub fn qualify(ask: &Ask<'_>, principal: &Principal, now: Timestamp) -> Result<(), Denial> {
    if *principal.plane() != *ask.plane.name {
        return Err(Denial::WrongPlane);
    }
    if principal.reaches_every_project() && !ask.plane.admin {
        // Such a record cannot be minted; whoever wrote it does not get to use it. What follows relies on this.
        return Err(Denial::ProjectOutOfScope);
    }
    stands(principal, ask.plane.revoked, now)?;
    permitted(principal, ask.requirement)
}

fn stands(principal: &Principal, revoked: RevokedStatus, now: Timestamp) -> Result<(), Denial> {
    let over = |end: Option<Timestamp>| end.is_some_and(|end| end <= now);
    if principal.revoked {
        return Err(match revoked {
            RevokedStatus::Unauthenticated => Denial::RevokedUnauthenticated,
            RevokedStatus::Forbidden => Denial::RevokedForbidden,
        });
    }
    if over(principal.expires_at) {
        return Err(Denial::Expired);
    }
    if over(principal.retires_at) {
        return Err(match revoked {
            RevokedStatus::Unauthenticated => Denial::RetiredUnauthenticated,
            RevokedStatus::Forbidden => Denial::RetiredForbidden,
        });
    }
    Ok(())
}

fn permitted(principal: &Principal, requirement: &Requirement) -> Result<(), Denial> {
    let all = requirement.all_of.iter().all(|permission| principal.holds(permission));
    let any = requirement.any_of.is_empty() || requirement.any_of.iter().any(|permission| principal.holds(permission));
    if all && any { Ok(()) } else { Err(Denial::PermissionMissing) }
}

fn in_scope<'r>(
    ask: &Ask<'r>,
    principal: &Principal,
    resource: Option<Arc<Resource>>,
) -> Result<(Option<&'r str>, Workload<'r>), Denial> {
    match &ask.requirement.scope {
        Scope::Project { project, workload } => {
            let project = match project {
                ProjectOf::Key => None,
                ProjectOf::Named(source) => match ask.request.name(source) {
                    Some(name) if principal.reaches_project(name) => Some(name),
                    _ => return Err(Denial::ProjectOutOfScope),
                },
            };
            let whole = principal.reaches_every_workload();
            let workload = match workload {
                WorkloadOf::Whole | WorkloadOf::Key if whole => Workload::None,
                WorkloadOf::Key if principal.only_workload().is_some() => Workload::Only,
                WorkloadOf::Whole | WorkloadOf::Key => return Err(Denial::WorkloadOutOfScope),
                WorkloadOf::Named(source) => match ask.request.name(source) {
                    Some(name) if principal.reaches_workload(name) => Workload::Named(name),
                    _ => return Err(Denial::WorkloadOutOfScope),
                },
            };
            Ok((project, workload))
        }
        Scope::Resource { kind, id } => match resource {
            Some(resource)
                if *resource.kind == **kind
                    && ask.request.name(id) == Some(&resource.id)
                    && principal.reaches_resource(&resource)
                    && principal.reaches_workload(&resource.slug) =>
            {
                Ok((None, Workload::Registered(resource)))
            }
            _ => Err(Denial::ResourceOutOfScope),
        },
    }
}
