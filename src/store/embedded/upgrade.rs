//! The file of an embedded store raised to the newest format, in one step: nobody else has it open. Never leaves it in between.

use std::collections::HashMap;

use redb::{ReadableTable, WriteTransaction};

use super::super::format::Format;
use super::super::keyspace::{self, META_FORMAT};
use super::super::records::{decode_key, decode_resource, decode_user};
use super::super::upgrade::{Upgraded, user_id, with_id};
use super::super::{Belonging, StoreError, Write};
use super::batch::Batch;
use super::counts::Counts;
use super::engine::Act;
use super::{Embedded, format_in, indexes, projects};
use crate::domain::credential::ProjectId;
use crate::domain::record::EVERY;
use crate::domain::time::Timestamp;

impl Embedded {
    pub(in crate::store) fn upgrade(&self) -> Result<Upgraded, StoreError> {
        let was = self.format()?;
        if was == Format::NEWEST {
            return Ok(Upgraded { was, rewritten: 0 });
        }
        let (upgraded, sequence) = self.engine.write(|transaction| {
            let was = format_in(&transaction.open_table(keyspace::META)?)?;
            let steps = without_ids(transaction)?;
            let mut batch = Batch::begin(transaction, Format::NEWEST)?;
            for step in steps.iter().flatten() {
                batch.step(step, &mut Counts::default())?;
            }
            drop(batch);
            indexes::fill(transaction)?;
            transaction.open_table(keyspace::META)?.insert(META_FORMAT, Format::NEWEST.in_file())?;
            let sequence = Batch::begin(transaction, Format::NEWEST)?.number()?;
            Ok((Upgraded { was, rewritten: steps.len() as u64 }, sequence))
        })?;
        self.engine.acknowledge(sequence);
        Ok(upgraded)
    }
}

/// What gives its ids to each record that lacks one. Each project is given its own here.
fn without_ids(transaction: &WriteTransaction) -> Act<Vec<Vec<Write>>> {
    let (mut steps, mut homes) = (Vec::new(), Homes { transaction, ids: HashMap::new() });
    for entry in transaction.open_table(keyspace::KEYS)?.iter()? {
        let key = decode_key(entry?.1.value())?;
        if key.project_id.is_none()
            && let Some(id) = homes.of(&key.project, key.created_at)?
        {
            steps.push(vec![Write::GiveProjectId { to: Belonging::Key(key.id), id }]);
        }
    }
    for entry in transaction.open_table(keyspace::USERS)?.iter()? {
        let user = decode_user(entry?.1.value())?;
        let mut both = Vec::new();
        if user.id.is_none() {
            both.push(Write::GiveUserId { name: user.name.clone(), id: user_id()? });
        }
        if user.project_id.is_none()
            && let Some(id) = homes.of(&user.project, user.created_at)?
        {
            both.push(Write::GiveProjectId { to: Belonging::User(user.name), id });
        }
        if !both.is_empty() {
            steps.push(both);
        }
    }
    for entry in transaction.open_table(keyspace::RESOURCES)?.iter()? {
        let resource = decode_resource(entry?.1.value())?;
        if resource.project_id.is_none()
            && let Some(id) = homes.of(&resource.project, resource.created_at)?
        {
            let to = Belonging::Resource { kind: resource.kind, id: resource.id };
            steps.push(vec![Write::GiveProjectId { to, id }]);
        }
    }
    homes.rest()?;
    Ok(steps)
}

/// The ids of projects, given as they are asked for.
struct Homes<'t> {
    transaction: &'t WriteTransaction,
    ids: HashMap<String, ProjectId>,
}

impl Homes<'_> {
    /// `None`: every project. `since`: when something was made there.
    fn of(&mut self, project: &str, since: Timestamp) -> Act<Option<ProjectId>> {
        if project == EVERY {
            return Ok(None);
        }
        if let Some(id) = self.ids.get(project) {
            return Ok(Some(*id));
        }
        let known = projects::stored(&self.transaction.open_table(keyspace::PROJECTS)?, project)?;
        let id = match known.as_ref().and_then(|known| known.id) {
            Some(id) => id,
            None => {
                let (new, id) = with_id(known, project, since)?;
                projects::put(self.transaction, &new)?;
                id
            }
        };
        self.ids.insert(project.to_owned(), id);
        Ok(Some(id))
    }

    /// Gives ids to the projects in which nothing is.
    fn rest(&mut self) -> Act<()> {
        let mut names = Vec::new();
        for entry in self.transaction.open_table(keyspace::PROJECTS)?.iter()? {
            names.push(entry?.0.value().to_owned());
        }
        names.iter().try_for_each(|name| self.of(name, Timestamp::default()).map(|_| ()))
    }
}
