//! Hosts and routes to a route table. A route that cannot be compiled becomes one that nobody reaches, so that its
//! conflicts are found too; the table is used only if nothing was found.

use std::collections::HashMap;

use tollgate_core::extract::Kinds;
use tollgate_core::name::{NAME_RULE, is_name};
use tollgate_core::pattern::PathPattern;
use tollgate_core::plane::PlaneId;
use tollgate_core::route::{Access, HostRules, ProjectOf, Requirement, Route, RouteTable, Scope, Source, WorkloadOf};

use super::super::file;
use super::super::problems::{Findings, Path, near_or_all};
use super::headers::kinds;
use super::{Names, error_shape};

/// One line of `match`, taken apart.
struct Pattern<'f> {
    /// As it stands in the file.
    text: &'f str,
    method: String,
    path: PathPattern,
}

/// What a value of `in` stands for.
enum Template {
    Key,
    Literal(String),
    Param(String),
    /// From 0.
    HostLabel(usize),
}

pub(super) fn routes(file: &file::File, names: &Names, findings: &mut Findings) -> Option<RouteTable> {
    let mut places = HashMap::new();
    let mut rules = Vec::new();
    for (host_at, host) in file.hosts.iter().enumerate() {
        let host_path = Path::of("hosts").index(host_at);
        let errors = host.errors.unwrap_or(file.errors);
        let mut routes = Vec::new();
        for (at, route) in host.routes.iter().enumerate() {
            let path = host_path.key("routes").index(at);
            route_name(&route.name, &path, &mut places, findings);
            let patterns = patterns(route, &path, findings);
            let compiler = RouteCompiler { names, route, host, path, patterns };
            routes.extend(compiler.compile(route.errors.unwrap_or(errors), findings));
        }
        rules.push(HostRules { patterns: host.patterns.clone(), errors: error_shape(errors), routes });
    }
    match RouteTable::build(rules) {
        Ok(table) => Some(table),
        Err(conflicts) => {
            for conflict in conflicts {
                let host = Path::of("hosts").index(conflict.host);
                let path = match conflict.route.and_then(|name| places.get(&name)) {
                    Some(route) => route.key("match"),
                    None => host_pattern(file, conflict.host, &conflict.problem, &host),
                };
                findings.add(&path, conflict.problem);
            }
            None
        }
    }
}

fn route_name(name: &str, path: &Path, places: &mut HashMap<String, Path>, findings: &mut Findings) {
    if !is_name(name) {
        findings.add(&path.key("name"), format!("the name of a route is {NAME_RULE}"));
    }
    if places.contains_key(name) {
        findings.add(&path.key("name"), format!("`{name}` is the name of another route already"));
    } else {
        places.insert(name.to_owned(), path.clone());
    }
}

/// The pattern that a conflict between hosts is about.
fn host_pattern(file: &file::File, host: usize, problem: &str, path: &Path) -> Path {
    let patterns = file.hosts.get(host).map(|host| &*host.patterns).unwrap_or_default();
    match patterns.iter().rposition(|pattern| problem.contains(&format!("`{pattern}`"))) {
        Some(at) => path.key("match").index(at),
        None => path.key("match"),
    }
}

fn patterns<'f>(route: &'f file::Route, path: &Path, findings: &mut Findings) -> Vec<Pattern<'f>> {
    let mut patterns = Vec::new();
    for (at, text) in route.patterns.iter().enumerate() {
        let path = path.key("match").index(at);
        match pattern(text) {
            Ok(pattern) => patterns.push(pattern),
            Err(problem) => findings.add(&path, problem),
        }
    }
    patterns
}

fn pattern(text: &str) -> Result<Pattern<'_>, String> {
    let Some((method, path)) = text.split_once(' ') else {
        return Err(format!("`{text}` must be a method and a path, such as `GET /v1/models`"));
    };
    let sound = !method.is_empty() && method.bytes().all(|b| b.is_ascii_uppercase() || matches!(b, b'-' | b'_'));
    if !sound {
        return Err(format!("`{method}` is no method: write it in upper case, such as `GET`"));
    }
    if method == "CONNECT" {
        return Err("`CONNECT` has no path and cannot be matched".to_owned());
    }
    let path = PathPattern::parse(path)?;
    match path.params.iter().find(|param| host_label(param).is_some()) {
        Some(param) => Err(format!("the parameter `{{{param}}}` cannot be told from a label of the host")),
        None => Ok(Pattern { text, method: method.to_owned(), path }),
    }
}

/// `host.N`.
fn host_label(inner: &str) -> Option<&str> {
    inner.strip_prefix("host.").filter(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

struct RouteCompiler<'f> {
    names: &'f Names,
    route: &'f file::Route,
    host: &'f file::Host,
    path: Path,
    patterns: Vec<Pattern<'f>>,
}

impl RouteCompiler<'_> {
    /// The route, once for each way in which its patterns place the parameters that its scope reads.
    fn compile(self, errors: file::Errors, findings: &mut Findings) -> Vec<(Route, Vec<(String, PathPattern)>)> {
        let accesses = if self.route.public {
            self.nothing_is_asked(findings);
            vec![Access::Public; self.patterns.len()]
        } else {
            self.guarded(findings)
        };
        let mut routes: Vec<(Route, Vec<(String, PathPattern)>)> = Vec::new();
        for (pattern, access) in self.patterns.into_iter().zip(accesses) {
            let matched = (pattern.method, pattern.path);
            if let Some((_, patterns)) = routes.iter_mut().find(|(route, _)| route.access == access) {
                patterns.push(matched);
                continue;
            }
            let route = Route {
                name: self.route.name.as_str().into(),
                access,
                errors: error_shape(errors),
                keep_credential: self.route.credential.is_some(),
            };
            routes.push((route, vec![matched]));
        }
        routes
    }

    fn nothing_is_asked(&self, findings: &mut Findings) {
        let route = self.route;
        let said = [
            ("plane", route.plane.is_some()),
            ("all_of", !route.all_of.is_empty()),
            ("any_of", !route.any_of.is_empty()),
            ("in", route.scope.is_some()),
            ("credential", route.credential.is_some()),
            ("credentials", route.credentials.is_some()),
            ("origin", route.origin.is_some()),
        ];
        for (key, _) in said.iter().filter(|(_, said)| *said) {
            findings.add(&self.path.key(key), "has no meaning on a public route");
        }
    }

    /// What the route asks of a caller, pattern by pattern.
    fn guarded(&self, findings: &mut Findings) -> Vec<Access> {
        let plane = self.plane(findings);
        self.permissions(plane, findings);
        let scopes = self.scopes(findings);
        let plane = plane.and_then(|at| u8::try_from(at).ok());
        let access = |scope| {
            Access::Guarded(Requirement {
                // A plane that no key has, where the file names none.
                plane: PlaneId(plane.unwrap_or(u8::MAX)),
                all_of: boxed(&self.route.all_of),
                any_of: boxed(&self.route.any_of),
                scope,
                browsers: self.route.origin.is_some(),
                kinds: self.route.credentials.as_deref().map_or(Kinds::ALL, kinds),
            })
        };
        match scopes {
            Some(scopes) => scopes.into_iter().map(access).collect(),
            None => {
                let whole = Scope::Project { project: ProjectOf::Key, workload: WorkloadOf::Whole };
                vec![access(whole); self.patterns.len()]
            }
        }
    }

    fn plane(&self, findings: &mut Findings) -> Option<usize> {
        let path = self.path.key("plane");
        let Some(name) = &self.route.plane else {
            findings.add(&path, "is missing: a route that is not `public: true` needs the plane of its keys");
            return None;
        };
        let plane = self.names.plane(name, &path, findings)?;
        if self.route.credential.is_some() && !self.names.planes[plane].admin {
            let problem = format!("only routes of an admin plane may keep it, and `{name}` is none");
            findings.add(&self.path.key("credential"), problem);
        }
        Some(plane)
    }

    fn permissions(&self, plane: Option<usize>, findings: &mut Findings) {
        let file::Route { all_of, any_of, .. } = self.route;
        if all_of.is_empty() && any_of.is_empty() {
            findings.add(&self.path.key("all_of"), "is missing: a guarded route needs `all_of` or `any_of`");
        }
        for (key, list) in [("all_of", all_of), ("any_of", any_of)] {
            for (at, permission) in list.iter().enumerate() {
                let path = self.path.key(key).index(at);
                self.names.permission(permission, plane, &path, findings);
                if list[..at].contains(permission) {
                    findings.add(&path, format!("`{permission}` stands twice"));
                } else if key == "any_of" && all_of.contains(permission) {
                    findings
                        .add(&path, format!("`{permission}` is in `all_of`, so that `any_of` would ask for nothing"));
                }
            }
        }
    }

    /// The scope, pattern by pattern: where a parameter stands is each pattern's own.
    fn scopes(&self, findings: &mut Findings) -> Option<Vec<Scope>> {
        let path = self.path.key("in");
        let Some(scope) = &self.route.scope else {
            findings.add(&path, "is missing: a guarded route says whose requests it takes, such as `{project: key}`");
            return None;
        };
        if let Some(resource) = &scope.resource {
            for (key, said) in [("project", &scope.project), ("workload", &scope.workload)] {
                if said.is_some() {
                    findings.add(&path.key(key), "cannot stand beside `resource`, whose project is registered");
                }
            }
            return self.resource(resource, &path.key("resource"), findings);
        }
        let Some(project) = &scope.project else {
            findings.add(&path.key("project"), "is missing: name `project`, or `resource`");
            return None;
        };
        let project = self.template(project, &path.key("project"), findings);
        let workload = match &scope.workload {
            Some(workload) => self.template(workload, &path.key("workload"), findings).map(Some),
            None => Some(None),
        };
        let (project, workload) = (project?, workload?);
        let scope = |pattern: &Pattern<'_>| {
            let project = source(&project, pattern)?.map_or(ProjectOf::Key, ProjectOf::Named);
            let workload = match &workload {
                None => WorkloadOf::Whole,
                Some(template) => source(template, pattern)?.map_or(WorkloadOf::Key, WorkloadOf::Named),
            };
            Some(Scope::Project { project, workload })
        };
        self.patterns.iter().map(scope).collect()
    }

    fn resource(&self, text: &str, path: &Path, findings: &mut Findings) -> Option<Vec<Scope>> {
        let Some((kind, id)) = text.split_once(':').filter(|(kind, _)| is_name(kind)) else {
            findings.add(path, "must be a kind and a parameter, such as `workload:{id}`");
            return None;
        };
        let id = self.template(id, path, findings)?;
        if !matches!(id, Template::Param(_)) {
            findings.add(path, "the id must be a parameter of the path, such as `workload:{id}`");
            return None;
        }
        let scope = |pattern: &Pattern<'_>| Some(Scope::Resource { kind: kind.into(), id: source(&id, pattern)?? });
        self.patterns.iter().map(scope).collect()
    }

    /// A template that every pattern and host of the route can fill.
    fn template(&self, text: &str, path: &Path, findings: &mut Findings) -> Option<Template> {
        if text == "key" {
            return Some(Template::Key);
        }
        let Some(inner) = text.strip_prefix('{').and_then(|inner| inner.strip_suffix('}')) else {
            return self.literal(text, path, findings);
        };
        if let Some(number) = host_label(inner) {
            return self.label(number, path, findings);
        }
        let mut good = true;
        for pattern in &self.patterns {
            if !pattern.path.params.iter().any(|param| param == inner) {
                let known: Vec<String> = pattern.path.params.iter().map(|param| format!("{{{param}}}")).collect();
                let known: Vec<&str> = known.iter().map(String::as_str).collect();
                let problem = format!("`{{{inner}}}` is no parameter of `{}`", pattern.text);
                findings.suggest(path, problem, near_or_all(text, "its parameters are", &known));
                good = false;
            } else if pattern.text.ends_with(&format!("{{{inner}*}}")) {
                findings.add(path, format!("`{{{inner}*}}` takes several segments and is no name"));
                good = false;
            }
        }
        good.then(|| Template::Param(inner.to_owned()))
    }

    fn literal(&self, text: &str, path: &Path, findings: &mut Findings) -> Option<Template> {
        if self.patterns.iter().any(|pattern| pattern.path.params.iter().any(|param| param == text)) {
            findings.suggest(path, format!("`{text}` would be a name"), Some(format!("did you mean `{{{text}}}`?")));
            return None;
        }
        if !is_name(text) {
            let problem = format!("`{text}` is neither `key`, nor one `{{parameter}}` or `{{host.N}}`, nor a name");
            findings.suggest(path, problem, Some(format!("a name is {NAME_RULE}")));
            return None;
        }
        Some(Template::Literal(text.to_owned()))
    }

    fn label(&self, number: &str, path: &Path, findings: &mut Findings) -> Option<Template> {
        let Some(at) = number.parse::<usize>().ok().and_then(|number| number.checked_sub(1)).filter(|at| *at < 127)
        else {
            findings.add(path, "the labels of a host are counted from 1: `{host.1}` is the leftmost");
            return None;
        };
        let exact = self.host.patterns.iter().filter(|pattern| !pattern.starts_with('*'));
        if let Some(short) = exact.into_iter().find(|pattern| pattern.split('.').count() <= at) {
            findings.add(path, format!("the host `{short}` has no label {number}"));
            return None;
        }
        Some(Template::HostLabel(at))
    }
}

/// Where this pattern has what the template names; `Some(None)`: it names the caller's own. `None` cannot be, as every
/// parameter was checked to be in every pattern.
fn source(template: &Template, pattern: &Pattern<'_>) -> Option<Option<Source>> {
    Some(match template {
        Template::Key => None,
        Template::Literal(name) => Some(Source::Literal(name.as_str().into())),
        Template::HostLabel(at) => Some(Source::HostLabel(*at)),
        Template::Param(name) => Some(Source::Param(pattern.path.params.iter().position(|param| param == name)?)),
    })
}

fn boxed(list: &[String]) -> Vec<Box<str>> {
    list.iter().map(|name| name.as_str().into()).collect()
}
