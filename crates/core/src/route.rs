//! Host, method and path to a route and what it requires. Never falls back: no match is a denial.

use std::collections::HashMap;

use crate::attributes::Attributes;
use crate::decision::{RouteId, Trace};
use crate::denial::Denial;
use crate::error_body::ErrorShape;
use crate::extract::Kinds;
use crate::name::is_name;
use crate::path::is_canonical;
use crate::path_table::{PathTable, Taken};
use crate::pattern::PathPattern;
use crate::plane::PlaneId;

/// One row of the policy: who may send this kind of request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// For metrics, logs and people. A route whose patterns place its parameters differently stands here more than once.
    pub name: Box<str>,
    pub access: Access,
    pub errors: ErrorShape,
    /// Whether the back end gets to see the credential. Only Tollgate's own admin API may.
    pub keep_credential: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Anybody; no credential is read.
    Public,
    Guarded(Requirement),
}

/// What a guarded route asks of a caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    pub plane: PlaneId,
    /// Every one of these permissions.
    pub all_of: Vec<Box<str>>,
    /// At least one of these, if there are any.
    pub any_of: Vec<Box<str>>,
    pub scope: Scope,
    /// Whether a request with an `Origin` header may carry an API key.
    pub browsers: bool,
    /// Kinds of credential that are taken.
    pub kinds: Kinds,
}

/// Where the thing that is asked for belongs, and so which keys reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    Project {
        project: ProjectOf,
        workload: WorkloadOf,
    },
    /// A registered resource: its project, looked up by kind and id, must be the caller's.
    Resource {
        kind: Box<str>,
        id: Source,
    },
}

/// The project that a request is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProjectOf {
    /// The caller's own, whichever that is.
    Key,
    /// One that the request names; it must be the caller's.
    Named(Source),
}

/// The workload that a request is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkloadOf {
    /// The project as a whole: the caller must reach all of its workloads.
    Whole,
    /// The one that the caller is bound to; a caller that reaches all of them passes too, and then none is named.
    Key,
    /// One that the request names; the caller must reach it.
    Named(Source),
}

/// Where a name is read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    Literal(Box<str>),
    /// The n-th `{parameter}` of the path, from 0.
    Param(usize),
    /// The n-th label of the host, from 0.
    HostLabel(usize),
}

/// A host of the configuration, ready to be added to a table.
#[derive(Debug)]
pub struct HostRules {
    /// `api.example.com`, `*.example.com` (any depth, as Envoy's domains) or `*`.
    pub patterns: Vec<String>,
    /// For requests to this host that match no route.
    pub errors: ErrorShape,
    /// Each route with its patterns, method and path apart.
    pub routes: Vec<(Route, Vec<(String, PathPattern)>)>,
}

/// Every route of a policy, found by host, then path, then method.
#[derive(Debug)]
pub struct RouteTable {
    exact: HashMap<Box<str>, usize>,
    /// `.example.com` to host, longest first.
    suffixes: Vec<(Box<str>, usize)>,
    any: Option<usize>,
    hosts: Vec<PathTable>,
    /// By host.
    errors: Vec<ErrorShape>,
    routes: Vec<Route>,
}

/// A request with its route.
#[derive(Clone, Debug)]
pub struct Matched<'r> {
    pub id: RouteId,
    pub route: &'r Route,
    host: &'r str,
    params: matchit::Params<'r, 'r>,
}

impl<'r> Matched<'r> {
    /// Whether the path is the very one that the configuration has, without parameters.
    pub(crate) fn is_literal(&self) -> bool {
        self.params.is_empty()
    }

    /// The name that a source yields for this request, if it is one.
    pub(crate) fn name(&self, source: &'r Source) -> Option<&'r str> {
        let text = match source {
            Source::Literal(text) => text,
            Source::Param(at) => self.params.iter().nth(*at)?.1,
            // Names tell case apart and hosts do not: a label in another case is no name.
            Source::HostLabel(at) => {
                self.host.split('.').nth(*at).filter(|label| !label.contains(|c: char| c.is_ascii_uppercase()))?
            }
        };
        is_name(text).then_some(text)
    }
}

impl RouteTable {
    /// # Errors
    /// Each conflict between hosts or routes, as the index of the host, the name of the route if one is at fault, and
    /// a sentence.
    pub fn build(hosts: Vec<HostRules>) -> Result<Self, Vec<RouteConflict>> {
        let mut table = Self {
            exact: HashMap::new(),
            suffixes: Vec::new(),
            any: None,
            hosts: Vec::new(),
            errors: Vec::new(),
            routes: Vec::new(),
        };
        let mut conflicts = Vec::new();
        for (host_index, rules) in hosts.into_iter().enumerate() {
            for pattern in &rules.patterns {
                if let Err(problem) = table.add_host(pattern, host_index) {
                    conflicts.push(RouteConflict { host: host_index, route: None, problem });
                }
            }
            let mut paths = PathTable::default();
            for (route, patterns) in rules.routes {
                let id = RouteId(u32::try_from(table.routes.len()).unwrap_or(u32::MAX));
                for (method, path) in patterns {
                    if let Err(problem) = paths.add(&method, &path, id) {
                        let problem = match problem {
                            Taken::By(other) if other == id => format!("`{method}` stands twice on this path"),
                            Taken::By(other) => {
                                let other = &table.route(other).name;
                                format!("`{method}` on the same path is matched by `{other}` already")
                            }
                            Taken::Conflict(other) => {
                                let other = other.map_or("another route", |other| &*table.route(other).name);
                                format!("cannot stand beside the path of `{other}`, which is as specific")
                            }
                        };
                        let route = Some(route.name.to_string());
                        conflicts.push(RouteConflict { host: host_index, route, problem });
                    }
                }
                table.routes.push(route);
            }
            table.hosts.push(paths);
            table.errors.push(rules.errors);
        }
        table.suffixes.sort_by_key(|(suffix, _)| std::cmp::Reverse(suffix.len()));
        if conflicts.is_empty() { Ok(table) } else { Err(conflicts) }
    }

    fn add_host(&mut self, pattern: &str, index: usize) -> Result<(), String> {
        let taken = if pattern == "*" {
            self.any.replace(index).is_some()
        } else if let Some(suffix) = pattern.strip_prefix('*') {
            let name = suffix.strip_prefix('.').unwrap_or_default();
            if host_name(name) != Some(name) || name.contains(char::is_uppercase) {
                return Err(format!("`{pattern}` is no host: write `*.example.com`, in lower case"));
            }
            let taken = self.suffixes.iter().any(|(known, _)| **known == *suffix);
            self.suffixes.push((suffix.into(), index));
            taken
        } else {
            if host_name(pattern) != Some(pattern) || pattern.contains(char::is_uppercase) {
                return Err(format!("`{pattern}` is no host: write `api.example.com`, in lower case, without a port"));
            }
            self.exact.insert(pattern.into(), index).is_some()
        };
        if taken { Err(format!("the host `{pattern}` stands twice")) } else { Ok(()) }
    }

    /// The route of a request.
    ///
    /// # Errors
    /// [`Denial::HostUnknown`], [`Denial::PathNotCanonical`] or [`Denial::RouteUnknown`].
    pub fn find<'r>(&'r self, request: &'r Attributes<'r>, trace: &mut Trace) -> Result<Matched<'r>, Denial> {
        let (host, index) = self.host(request.host).ok_or(Denial::HostUnknown)?;
        let table = self.hosts.get(index).ok_or(Denial::HostUnknown)?;
        let path = request.path();
        if !is_canonical(path) || request.target.contains('#') {
            return Err(Denial::PathNotCanonical);
        }
        let (id, params) = table.find(path, request.method).ok_or(Denial::RouteUnknown)?;
        trace.route = Some(id);
        Ok(Matched { id, route: self.route(id), host, params })
    }

    /// How an error reads on this host, if there is such a host.
    pub fn errors_of(&self, authority: &str) -> Option<ErrorShape> {
        self.errors.get(self.host(authority)?.1).copied()
    }

    /// The host that an authority names, and its index.
    fn host<'h>(&self, authority: &'h str) -> Option<(&'h str, usize)> {
        // One that the configuration has word for word was looked at there.
        if let Some(index) = self.exact.get(authority) {
            return Some((authority, *index));
        }
        let host = host_name(authority)?;
        Some((host, self.host_index(host)?))
    }

    fn host_index(&self, host: &str) -> Option<usize> {
        let lower;
        let host = if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            lower = host.to_ascii_lowercase();
            &lower
        } else {
            host
        };
        let suffix = || self.suffixes.iter().find(|(suffix, _)| host.ends_with(&**suffix)).map(|(_, index)| index);
        self.exact.get(host).or_else(suffix).or(self.any.as_ref()).copied()
    }

    pub fn route(&self, id: RouteId) -> &Route {
        &self.routes[id.0 as usize]
    }

    pub fn routes(&self) -> &[Route] {
        &self.routes
    }
}

/// Two rules that cannot both hold.
#[derive(Debug, PartialEq, Eq)]
pub struct RouteConflict {
    /// Index of the host in the configuration.
    pub host: usize,
    /// The route at fault; `None`: the host itself.
    pub route: Option<String>,
    pub problem: String,
}

/// The host without its port, if it is one that every reader takes for the same: labels of letters, digits and dashes,
/// an IPv4 address, or an IPv6 address in brackets. A trailing dot, an empty label, a comma and user information are
/// refused: Envoy keeps them and could choose another virtual host than we do.
pub fn host_name(authority: &str) -> Option<&str> {
    let (host, port) = match authority.rfind(':') {
        Some(at) if !authority.ends_with(']') => (&authority[..at], Some(&authority[at + 1..])),
        _ => (authority, None),
    };
    let good_port = port.is_none_or(|port| {
        matches!(port.len(), 1..=5) && port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok()
    });
    let good_host = match host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host.len() <= 253 && host.split('.').all(is_label),
    };
    (good_port && good_host).then_some(host)
}

fn is_label(label: &str) -> bool {
    let bytes = label.as_bytes();
    matches!(bytes.len(), 1..=63)
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
        && bytes.first() != Some(&b'-')
        && bytes.last() != Some(&b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_with_one_reading() {
        for (authority, host) in [
            ("api.example.com", "api.example.com"),
            ("API.example.com:8443", "API.example.com"),
            ("127.0.0.1:10000", "127.0.0.1"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
            ("localhost", "localhost"),
        ] {
            assert_eq!(host_name(authority), Some(host));
        }
        for bad in [
            "", ".", "a.", "a..b", "a,b", "user@a", "a:b", "a:", "a:99999", "a:+1", "-a", "a-", "a_b", "[::1", "::1",
            "[zz]", "a/b", "a b", "ä", "a:80:80", "a\u{0}",
        ] {
            assert_eq!(host_name(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn patterns_say_what_is_wrong() {
        assert_eq!(PathPattern::parse("/endpoint/{project}/{rest*}").unwrap().params, ["project", "rest"]);
        for (bad, part) in [
            ("a", "begin with"),
            ("/a{b}", "whole segment"),
            ("/{}", "needs a name"),
            ("/{a*}/b", "at the end"),
            ("/{a}/{a}", "twice"),
            ("/a//b", "not canonical"),
            ("/a/../b", "not canonical"),
        ] {
            let problem = PathPattern::parse(bad).unwrap_err();
            assert!(problem.contains(part), "{bad}: {problem}");
        }
    }
}
