//! Projects in the embedded store.

use super::super::StoreError;
use super::{Embedded, records};
use crate::domain::record::Project;

impl Embedded {
    pub fn project(&self, name: &str) -> Result<Option<Project>, StoreError> {
        self.engine.read(|read| records::read(read, name.as_bytes()))
    }

    pub fn projects(&self, after: Option<&str>, limit: usize) -> Result<Vec<Project>, StoreError> {
        self.engine.read(|read| records::page(read, after.map(str::as_bytes), limit))
    }
}
