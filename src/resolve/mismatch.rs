//! What carries the id of another project than the one that has its name is refused, and so is a token for a project without a record;
//! here that is said: nothing else shows why a key stopped working. Never a line for each request, and never the name of a person as it is.

use std::fmt;
use std::time::Duration;

use tollgate_core::credential::ProjectId;

use crate::domain::record::Project;

/// For how many projects it is remembered that it was said, and how long.
const PROJECTS: u64 = 1_000;
const SAID_FOR: Duration = Duration::from_secs(3600);

/// The projects of which it was said lately.
pub struct MismatchLog {
    mismatched: moka::sync::Cache<String, ()>,
    unknown: moka::sync::Cache<String, ()>,
}

impl Default for MismatchLog {
    fn default() -> Self {
        let remembered = || moka::sync::Cache::builder().max_capacity(PROJECTS).time_to_live(SAID_FOR).build();
        Self { mismatched: remembered(), unknown: remembered() }
    }
}

impl MismatchLog {
    /// Says that this key or user of a project is refused, if it is because of another project's id.
    pub fn note(&self, name: &str, carried: Option<ProjectId>, found: Option<&Project>, who: impl FnOnce() -> String) {
        let found = found.and_then(|project| project.id);
        let Some(carried) = carried.filter(|carried| Some(*carried) != found) else { return };
        if !self.mismatched.entry_by_ref(name).or_insert(()).is_fresh() {
            return;
        }
        let (who, carried) = (who(), carried.as_str());
        let found = found.as_ref().map_or("none", ProjectId::as_str);
        tracing::warn!(
            who,
            project = name,
            carried,
            found,
            "refused: it belongs to an earlier project of the same name. If that project was lost, restore the store; else make the \
             key or the user anew in the present project, and remove this one"
        );
    }

    /// Says that tokens for a project are refused, as it has no record.
    pub fn note_unknown(&self, name: &str) {
        if self.unknown.entry_by_ref(name).or_insert(()).is_fresh() {
            tracing::warn!(
                project = name,
                "a token is refused: the project has no record. Make it with `tollgate projects create`, or let the tokens of this issuer \
                 name any project with `unknown_projects: allow`"
            );
        }
    }
}

impl fmt::Debug for MismatchLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MismatchLog")
    }
}
