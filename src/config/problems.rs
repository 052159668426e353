//! What is wrong with a configuration file, in the words and the notation of its author. Never stops at the first problem.

use std::fmt;

use serde::Serialize;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Where, such as `hosts[0].routes[2].plane`; empty if it is about the file as a whole.
    pub path: String,
    pub message: String,
    /// What to write instead, if that can be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suggestion: Option<String>,
}

/// Everything that is wrong with a configuration file, at least one thing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Problems(Vec<Problem>);

impl Problems {
    pub(super) fn one(message: impl Into<String>) -> Self {
        Self(vec![Problem { path: String::new(), message: message.into(), suggestion: None }])
    }

    pub fn problems(&self) -> &[Problem] {
        &self.0
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        match &self.suggestion {
            Some(suggestion) => write!(f, "; {suggestion}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.0 {
            writeln!(f, "{problem}")?;
        }
        match self.0.len() {
            1 => f.write_str("1 problem"),
            count => write!(f, "{count} problems"),
        }
    }
}

/// Where problems are gathered.
#[derive(Debug, Default)]
pub(super) struct Findings(Vec<Problem>);

impl Findings {
    pub(super) fn add(&mut self, path: &Path, message: impl Into<String>) {
        self.0.push(Problem { path: path.0.clone(), message: message.into(), suggestion: None });
    }

    pub(super) fn suggest(&mut self, path: &Path, message: impl Into<String>, suggestion: Option<String>) {
        self.0.push(Problem { path: path.0.clone(), message: message.into(), suggestion });
    }

    /// Adds what another round found, unless it is about a place that has a problem already or is below one of `misread`,
    /// where it would only be a consequence.
    pub(super) fn merge(&mut self, other: Self, mut misread: Vec<Path>) {
        misread
            .extend(self.0.iter().filter(|problem| !problem.path.is_empty()).map(|problem| Path(problem.path.clone())));
        let consequence = |problem: &Problem| misread.iter().any(|path| path.contains(&problem.path));
        self.0.extend(other.0.into_iter().filter(|problem| !consequence(problem)));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn into_problems(mut self) -> Problems {
        if self.0.is_empty() {
            self.add(&Path::root(), "the file could not be understood");
        }
        Problems(self.0)
    }
}

/// A place in the file, in the reader's notation: `hosts[0].routes[2].plane`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Path(String);

impl Path {
    pub(super) fn root() -> Self {
        Self(String::new())
    }

    pub(super) fn of(key: &str) -> Self {
        Self::root().key(key)
    }

    pub(super) fn key(&self, key: &str) -> Self {
        let plain = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
        match (plain, self.0.is_empty()) {
            (true, true) => Self(key.to_owned()),
            (true, false) => Self(format!("{}.{key}", self.0)),
            (false, _) => Self(format!("{}[{key:?}]", self.0)),
        }
    }

    pub(super) fn index(&self, at: usize) -> Self {
        Self(format!("{}[{at}]", self.0))
    }

    fn contains(&self, path: &str) -> bool {
        match path.strip_prefix(&self.0) {
            Some(rest) => self.0.is_empty() || rest.is_empty() || rest.starts_with(['.', '[']),
            None => false,
        }
    }
}

/// `did you mean ...?` if one of the candidates is near enough.
pub(super) fn did_you_mean<'a>(said: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let said = said.to_lowercase();
    let (distance, best) = candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&said, &candidate.to_lowercase()), candidate))
        .min_by_key(|(distance, _)| *distance)?;
    let near = distance <= (best.chars().count() / 3).max(1) && distance < best.chars().count();
    near.then(|| format!("did you mean `{best}`?"))
}

/// The nearest candidate, or else all of them.
pub(super) fn near_or_all(said: &str, what: &str, candidates: &[&str]) -> Option<String> {
    did_you_mean(said, candidates.iter().copied())
        .or_else(|| (!candidates.is_empty()).then(|| format!("{what}: {}", candidates.join(", "))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_read_as_their_author_would_write_them() {
        let path = Path::of("hosts").index(0).key("routes").index(2).key("in");
        assert_eq!(path.0, "hosts[0].routes[2].in");
        assert_eq!(Path::of("planes").key("a.b").key("prefix").0, "planes[\"a.b\"].prefix");
        assert!(path.contains("hosts[0].routes[2].in.project"));
        assert!(!path.contains("hosts[0].routes[2].int"));
    }

    #[test]
    fn only_a_near_word_is_suggested() {
        let words = ["data", "control", "admin"];
        assert_eq!(did_you_mean("contrl", words).unwrap(), "did you mean `control`?");
        assert_eq!(did_you_mean("DATA", words).unwrap(), "did you mean `data`?");
        assert_eq!(did_you_mean("zebra", words), None);
        assert_eq!(did_you_mean("", ["a"]), None);
        assert_eq!(near_or_all("zebra", "there are", &words).unwrap(), "there are: data, control, admin");
    }

    #[test]
    fn one_line_each_and_their_number_last() {
        let mut findings = Findings::default();
        findings.add(&Path::of("realm"), "must not be empty");
        findings.suggest(&Path::root(), "unknown key `x`", Some("did you mean `y`?".to_owned()));
        let problems = findings.into_problems();
        assert_eq!(problems.to_string(), "realm: must not be empty\nunknown key `x`; did you mean `y`?\n2 problems");
    }
}
