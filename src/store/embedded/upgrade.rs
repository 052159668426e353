//! The file of an embedded store raised to the newest format, in one step: nobody else has it open. Never leaves it in between.

use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

use redb::{ReadableTable, WriteTransaction};
use tollgate_core::credential::ProjectId;
use tollgate_core::resource::{EVERY, Resource};
use tollgate_guard::time::Timestamp;

use super::super::format::Format;
use super::super::keyspace::{self, META_FORMAT};
use super::super::records::key::decode_key;
use super::super::records::noun::{Noun, Tables};
use super::super::records::written::Written;
use super::super::records::{project, step, user};
use super::super::signature::Verifier;
use super::super::upgrade::{Upgraded, user_id, with_id};
use super::super::{ProjectItem, StoreError, Write};
use super::act::Act;
use super::counts::Counts;
use super::records::Records;
use super::signing::sign;
use super::{Embedded, format_in, indexes, journal, records};
use crate::domain::record::{Project, User};

impl Embedded {
    pub(in crate::store) fn upgrade(&self, projects: &BTreeSet<String>) -> Result<Upgraded, StoreError> {
        let verifier = self.trust.verifier();
        let (upgraded, sequence) = self.engine.write(|transaction| {
            let was = format_in(&transaction.open_table(keyspace::META)?)?;
            self.trust.demand_of(was)?;
            if was < Format::Three {
                give_ids(transaction, &verifier)?;
                indexes::fill(transaction)?;
            }
            if was < Format::Four {
                let mut homes = Homes { transaction, verifier: &verifier, ids: HashMap::new() };
                projects.iter().try_for_each(|name| homes.of(name, Timestamp::default()).map(|_| ()))?;
            }
            let removed = journal::removed_rows(&transaction.open_table(keyspace::REMOVED_ROWS)?, &verifier)?;
            let mut removed = removed.unwrap_or_default();
            let rows = transaction.open_table(keyspace::AUDIT)?;
            removed.older_rows = rows.last()?.map_or(0, |(newest, _)| newest.value());
            if !was.has_signatures() {
                removed.last = rows.first()?.map_or(0, |(oldest, _)| oldest.value() - 1);
                removed.unsigned_rows = removed.older_rows;
            }
            drop(rows);
            journal::put_removed_rows(transaction, &verifier, &removed)?;
            let rewritten = sign(transaction, &verifier, was)?;
            transaction.open_table(keyspace::META)?.insert(META_FORMAT, Format::NEWEST.in_file())?;
            let sequence = records::number(transaction)?;
            Ok((Upgraded { was, rewritten, passed_over: Vec::new() }, sequence))
        })?;
        self.engine.acknowledge(sequence);
        self.trust.of(Format::NEWEST);
        Ok(upgraded)
    }
}

/// Gives its ids to each record that lacks one.
fn give_ids(transaction: &WriteTransaction, verifier: &Verifier) -> Act<()> {
    let mut homes = Homes { transaction, verifier, ids: HashMap::new() };
    homes.give_to_keys()?;
    homes.give_to_users()?;
    homes.give_to_resources()?;
    homes.give_to_projects()
}

/// Gives what was made before projects had ids those of their projects, which are given as they are asked for. What is found is
/// remembered by its name alone, as there may be millions.
struct Homes<'t> {
    transaction: &'t WriteTransaction,
    verifier: &'t Verifier,
    ids: HashMap<Rc<str>, ProjectId>,
}

impl<'t> Homes<'t> {
    /// What they are signed with is seen to when all have their ids.
    fn records<'c>(&self, counts: &'c mut Counts) -> Records<'t, 'c>
    where
        't: 'c,
    {
        Records {
            transaction: self.transaction,
            format: Format::Three,
            verifier: self.verifier,
            counts,
            written: Written::default(),
        }
    }

    fn give_to_keys(&mut self) -> Act<()> {
        let mut found = Vec::new();
        for entry in self.transaction.open_table(keyspace::KEYS)?.iter()? {
            let key = decode_key(entry?.1.value())?;
            if key.project_id.is_none()
                && let Some(home) = self.of(&key.project, key.created_at)?
            {
                found.push((key.id, home));
            }
        }
        self.give(found, ProjectItem::Key)
    }

    fn give_to_users(&mut self) -> Act<()> {
        let (mut found, mut without) = (Vec::new(), Vec::new());
        for entry in self.transaction.open_table(keyspace::USERS)?.iter()? {
            let (name, bytes) = entry?;
            let user = User::decode(name.value().as_bytes(), bytes.value())?;
            let home = match user.project_id {
                None => self.of(&user.project, user.created_at)?,
                Some(_) => None,
            };
            if user.id.is_none() {
                without.push(user.name.clone());
            }
            found.extend(home.map(|home| (user.name, home)));
        }
        for name in &without {
            user::give_id(&mut self.records(&mut Counts::default()), name, user_id()?)?;
        }
        self.give(found, ProjectItem::User)
    }

    fn give_to_resources(&mut self) -> Act<()> {
        let mut found = Vec::new();
        for entry in self.transaction.open_table(keyspace::RESOURCES)?.iter()? {
            let (place, bytes) = entry?;
            let resource = Resource::decode(place.value(), bytes.value())?;
            if resource.project_id.is_none()
                && let Some(home) = self.of(&resource.project, resource.created_at)?
            {
                found.push(((resource.kind, resource.id), home));
            }
        }
        self.give(found, |(kind, id)| ProjectItem::Resource { kind, id })
    }

    /// To the projects in which nothing is.
    fn give_to_projects(&mut self) -> Act<()> {
        let mut names = Vec::new();
        for entry in self.transaction.open_table(keyspace::PROJECTS)?.iter()? {
            names.push(entry?.0.value().to_owned());
        }
        names.iter().try_for_each(|name| self.of(name, Timestamp::default()).map(|_| ()))
    }

    fn give<T>(&self, found: Vec<(T, Rc<str>)>, belonging: impl Fn(T) -> ProjectItem) -> Act<()> {
        let mut counts = Counts::default();
        let mut records = self.records(&mut counts);
        for (what, home) in found {
            if let Some(id) = self.ids.get(&home) {
                let write = Write::GiveProjectId { to: belonging(what), project: home.to_string(), id: *id };
                step(&mut records, &write)?;
            }
        }
        Ok(())
    }

    /// The project's name once it has an id; `None`: every project. `since`: when something was made there.
    fn of(&mut self, project: &str, since: Timestamp) -> Act<Option<Rc<str>>> {
        if project == EVERY {
            return Ok(None);
        }
        if let Some((name, _)) = self.ids.get_key_value(project) {
            return Ok(Some(Rc::clone(name)));
        }
        let mut counts = Counts::default();
        let known: Option<Project> = self.records(&mut counts).find(project.as_bytes())?;
        let id = match known.as_ref().and_then(|known| known.id) {
            Some(id) => id,
            None => {
                let (new, id) = with_id(known, project, since)?;
                project::put(&mut self.records(&mut counts), &new)?;
                id
            }
        };
        let name: Rc<str> = project.into();
        self.ids.insert(Rc::clone(&name), id);
        Ok(Some(name))
    }
}
