//! The paths of one host to routes: the most specific pattern decides, and then its methods. Never lets another spelling of
//! a path slip past the pattern that guards it.
//!
//! Back ends differ in what they take for the same path: many ignore a trailing slash, some ignore case, or dots and spaces at
//! the end of a segment, most decode. So a path is also looked up folded, and where that leads to another pattern the path is
//! nobody's: `/v1/Admin/` and `/v1/admin.` are not served by a route over `/v1/{rest*}` if there is a stricter one for
//! `/v1/admin`.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::decision::RouteId;
use crate::path::decoded;
use crate::pattern::PathPattern;

/// Patterns, their methods, and what the patterns fold to.
#[derive(Default)]
pub(crate) struct PathTable {
    paths: matchit::Router<usize>,
    /// By the values of `paths`: the methods of one pattern.
    methods: Vec<Vec<(Box<str>, RouteId)>>,
    by_form: HashMap<String, usize>,
    folded: matchit::Router<usize>,
    /// By the values of `folded`: the patterns that fold to the same.
    twins: Vec<Vec<usize>>,
    by_folded_form: HashMap<String, usize>,
    /// Whether some pattern is not the one it folds to, so that a folded path may be another spelling of it.
    mixed: bool,
}

impl std::fmt::Debug for PathTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(&self.by_form).finish()
    }
}

/// Why a pattern cannot be added.
pub(crate) enum Taken {
    /// The method on this path leads to another route already.
    By(RouteId),
    /// The path of this route is as specific, and it cannot be said which of them decides.
    Conflict(Option<RouteId>),
}

impl PathTable {
    pub(crate) fn add(&mut self, method: &str, path: &PathPattern, id: RouteId) -> Result<(), Taken> {
        let at = match self.by_form.get(&path.router_form) {
            Some(at) => *at,
            None => self.add_pattern(&path.router_form).map_err(|error| Taken::Conflict(self.beside(&error)))?,
        };
        let methods = &mut self.methods[at];
        match methods.iter().find(|(known, _)| **known == *method) {
            Some((_, other)) => Err(Taken::By(*other)),
            None => {
                methods.push((method.into(), id));
                Ok(())
            }
        }
    }

    /// The route whose path the router took instead.
    fn beside(&self, error: &matchit::InsertError) -> Option<RouteId> {
        let matchit::InsertError::Conflict { with } = error else { return None };
        let folded = || self.twins[*self.by_folded_form.get(with)?].first();
        let at = self.by_form.get(with).or_else(folded)?;
        self.methods[*at].first().map(|(_, id)| *id)
    }

    fn add_pattern(&mut self, form: &str) -> Result<usize, matchit::InsertError> {
        let at = self.methods.len();
        let folded_form = fold(form);
        let group = match self.by_folded_form.get(&folded_form) {
            Some(group) => *group,
            None => {
                let group = self.twins.len();
                self.folded.insert(&*folded_form, group)?;
                self.twins.push(Vec::new());
                self.by_folded_form.insert(folded_form, group);
                group
            }
        };
        self.paths.insert(form, at)?;
        self.mixed |= self.by_folded_form.get(form) != Some(&group);
        self.twins[group].push(at);
        self.methods.push(Vec::new());
        self.by_form.insert(form.to_owned(), at);
        Ok(at)
    }

    /// The route of a canonical path and a method, with the path's parameters in order.
    pub(crate) fn find<'t, 'p>(&'t self, path: &'p str, method: &str) -> Option<(RouteId, matchit::Params<'t, 'p>)> {
        let found = self.paths.at(path).ok()?;
        let folded = folded(path).map(Cow::Owned).or_else(|| self.mixed.then_some(Cow::Borrowed(path)));
        if let Some(folded) = folded {
            let twins = &self.twins[*self.folded.at(&folded).ok()?.value];
            if !twins.contains(found.value) {
                return None;
            }
        }
        let (_, id) = self.methods[*found.value].iter().find(|(known, _)| **known == *method)?;
        Some((*id, found.params))
    }
}

/// What the most lenient back end would read. `None`: the path is that already.
fn folded(path: &str) -> Option<String> {
    let mut last = b' ';
    let plain = path.bytes().all(|byte| {
        let dot_at_end = byte == b'/' && last == b'.';
        last = byte;
        !dot_at_end && byte != b'%' && !byte.is_ascii_uppercase()
    });
    let ends_plain = path == "/" || !path.ends_with(['/', '.']);
    (!plain || !ends_plain).then(|| fold(&decoded(path)))
}

/// Without case, and segments without the space around them and the dots after them; nothing is left of empty ones.
///
/// Case is that of Unicode: `K`, the Kelvin sign, in lower case is the letter `k`, and `ſ` in upper case is `S`.
fn fold(path: &str) -> String {
    let mut folded = String::with_capacity(path.len());
    for segment in path.split('/') {
        let segment = segment.trim_start().trim_end_matches(|c: char| c == '.' || c.is_whitespace());
        if !segment.is_empty() {
            folded.push('/');
            folded.push_str(segment);
        }
    }
    match folded.is_empty() {
        true => "/".to_owned(),
        false if folded.is_ascii() => folded.to_ascii_lowercase(),
        false => folded.to_uppercase().to_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(patterns: &[&str]) -> PathTable {
        let mut table = PathTable::default();
        for (pattern, id) in patterns.iter().zip(0..) {
            let pattern = PathPattern::parse(pattern).unwrap();
            assert!(table.add("GET", &pattern, RouteId(id)).is_ok());
        }
        table
    }

    fn found(table: &PathTable, path: &str) -> Option<u32> {
        table.find(path, "GET").map(|(id, _)| id.0)
    }

    #[test]
    fn the_most_specific_pattern_decides() {
        let table = table(&["/v1/{name}", "/v1/admin", "/v1/{name}/{rest*}", "/"]);
        for (path, route) in
            [("/v1/admin", Some(1)), ("/v1/other", Some(0)), ("/v1/a/b", Some(2)), ("/", Some(3)), ("/v2", None)]
        {
            assert_eq!(found(&table, path), route, "{path}");
        }
        assert!(table.find("/v1/admin", "HEAD").is_none());
    }

    #[test]
    fn another_spelling_of_a_guarded_path_is_nobodys() {
        let table = table(&["/v1/admin", "/v1/models/x:predict", "/{rest*}"]);
        for path in
            ["/v1/admin/", "/V1/admin", "/v1/Admin", "/v1/ADMIN/", "/v1/models/x%3Apredict", "/v1/models/x%3apredict/"]
        {
            assert_eq!(found(&table, path), None, "{path}");
        }
        for path in ["/v1/admins", "/V1/other/", "/v1/models/x%20y", "/v1/admin/deeper"] {
            assert_eq!(found(&table, path), Some(2), "{path}");
        }
    }

    #[test]
    fn dots_and_spaces_at_the_edge_of_a_segment_make_no_other_path() {
        let table = table(&["/v1/admin", "/api/{kind}/{id}", "/", "/{rest*}"]);
        for path in [
            "/v1/admin.",
            "/v1/admin..",
            "/v1/admin%20",
            "/v1/admin.%20.",
            "/v1/%20admin",
            "/v1%20/admin",
            "/v1./admin",
            "/v1./ADMIN/",
            "/v1/%20/admin",
            "/v1/admin/%20",
            "/v1/admin%C2%A0",
            "/api./a/b",
            "/api/a/b/%20",
            "/%20",
        ] {
            assert_eq!(found(&table, path), None, "{path}");
        }
        for path in ["/v1/.admin", "/v1/a.dmin", "/v2/admin.", "/files./a%20b%20", "/v1/admin.json"] {
            assert_eq!(found(&table, path), Some(3), "{path}");
        }
        assert_eq!(found(&table, "/api/a./b."), Some(1));
        assert_eq!(found(&table, "/"), Some(2));
    }

    #[test]
    fn letters_that_fold_into_ascii_make_no_other_path() {
        let table = table(&["/v1/tokens", "/{rest*}"]);
        for path in ["/v1/to%E2%84%AAens", "/v1/to%e2%84%aaENS", "/v1/token%C5%BF", "/v1/TO%E2%84%AAEN%C5%BF./"] {
            assert_eq!(found(&table, path), None, "{path}");
        }
        assert_eq!(found(&table, "/v1/t%C3%B6kens"), Some(1));
    }

    #[test]
    fn a_pattern_may_be_the_odd_spelling() {
        for (guarded, other) in
            [("/Admin", "/admin"), ("/admin/", "/admin"), ("/Admin/{id}/", "/admin/x"), ("/admin.", "/admin")]
        {
            let table = table(&[guarded, "/{rest*}"]);
            assert_eq!(found(&table, other), None, "{guarded}");
            assert_eq!(found(&table, "/other"), Some(1));
        }
    }

    #[test]
    fn what_is_declared_in_several_spellings_is_served_in_each() {
        let table = table(&["/a", "/a/", "/Models/{id}", "/models/{id}"]);
        for (path, route) in [("/a", 0), ("/a/", 1), ("/Models/Llama", 2), ("/models/Llama", 3), ("/models/a%20b", 3)] {
            assert_eq!(found(&table, path), Some(route), "{path}");
        }
        assert_eq!(found(&table, "/A"), None);
    }
}
