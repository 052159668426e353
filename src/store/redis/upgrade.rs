//! The store in Redis raised to the newest format while its replicas go on. Never begins while one that lives could not write that,
//! and never says that it has ended before every record was seen.
//!
//! Names are read over one connection, between two scripts that a server runs only if it is the primary. What is created
//! meanwhile is of the new format already.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use tollgate_core::credential::ProjectId;
use tollgate_core::named::named;
use tollgate_core::resource::EVERY;
use tollgate_guard::FENCE;
use tollgate_guard::slots::{Slots, Touched};
use tollgate_guard::time::Timestamp;

use super::channel::millis;
use super::connection::Connection;
use super::lists::MOST_ROWS;
use super::live_replica::live_replica;
use super::loads::found as found_at;
use super::scripts::{Answer, BEGIN_UPGRADE, END_UPGRADE, ScriptError, explained, run};
use super::values::record_of;
use super::{Read, Redis, texts};
use crate::domain::change::Event;
use crate::domain::record::{Project, User};
use crate::store::chain::Chains;
use crate::store::format::Format;
use crate::store::keyspace::redis as names;
use crate::store::kind::Kind;
use crate::store::records::written::Written;
use crate::store::records::{project, resource};
use crate::store::upgrade::{Upgraded, user_id, with_id};
use crate::store::{KeyQuery, ProjectItem, ResourceQuery, StoreError, Write};

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(10);
/// How many names a server looks through at once.
const SCANNED_AT_ONCE: usize = 1000;
/// How many records one change writes again, or projects it gives ids to.
const AT_ONCE: usize = 100;
/// How often a project is followed that others keep writing.
const ATTEMPTS: usize = 16;

/// What stands at the beginning of one step from a format to the next.
struct Begun {
    lineage: String,
    passed_over: Vec<String>,
}

/// The way from one format to the next.
#[derive(Clone, Copy)]
struct Step {
    from: Format,
    under_way: Format,
    to: Format,
}

const TO_THREE: Step = Step { from: Format::Two, under_way: Format::RisingToThree, to: Format::Three };
const TO_FOUR: Step = Step { from: Format::Three, under_way: Format::RisingToFour, to: Format::Four };

impl Redis {
    pub(in crate::store) async fn upgrade(&self, projects: &BTreeSet<String>) -> Result<Upgraded, StoreError> {
        let was = self.format().await?;
        self.trust.demand_of(was)?;
        let mut connection = self.connector.primary().await?;
        connection.set_response_timeout(LIMIT);
        let mut passed_over = BTreeSet::new();
        if was < Format::Three {
            let begun = self.begin(TO_THREE, &mut connection).await?;
            self.raise_to_three(&mut connection).await?;
            self.end(TO_THREE, &begun, &mut connection).await?;
            passed_over.extend(begun.passed_over);
        }
        let mut rewritten = 0;
        if was < Format::Four {
            self.mark(was).await?;
            let begun = self.begin(TO_FOUR, &mut connection).await?;
            self.note_unsigned_rows().await?;
            let mut homes = Homes { store: self, ids: HashMap::new() };
            for some in projects.iter().collect::<Vec<_>>().chunks(AT_ONCE) {
                homes.find(some.iter().map(|name| (name.as_str(), Timestamp::default()))).await?;
            }
            for kind in Kind::ALL {
                rewritten += self.sign_kind(&mut connection, kind).await?;
            }
            self.end(TO_FOUR, &begun, &mut connection).await?;
            self.trust.of(Format::Four);
            passed_over.extend(begun.passed_over);
        } else {
            // One that was left behind.
            self.put_upgrade_mark(None).await?;
            for kind in Kind::ALL {
                rewritten += self.sign_kind(&mut connection, kind).await?;
            }
        }
        // It is signed anew.
        let newest = self.rows(None, MOST_ROWS, 1).await?.first().map_or(0, |row| row.sequence);
        let sequence = self.standing().await?.sequence;
        self.change_removed_rows(|noted| (noted.older_entries, noted.older_rows) = (sequence, newest)).await?;
        Ok(Upgraded { was, rewritten, passed_over: passed_over.into_iter().collect() })
    }

    async fn raise_to_three(&self, connection: &mut Connection) -> Result<(), StoreError> {
        let mut homes = Homes { store: self, ids: HashMap::new() };
        let mut cursor: u64 = 0;
        loop {
            let (next, users) = scan(connection, cursor).await?;
            for some in users.chunks(AT_ONCE) {
                homes.give_to_users(some).await?;
            }
            cursor = next;
            if cursor == 0 {
                break;
            }
        }
        homes.give_to_keys().await?;
        homes.give_to_resources().await?;
        homes.give_to_projects().await?;
        self.fill_indexes().await
    }

    /// Leaves the mark by which an upgrade may go on. A store that was signed before does not get its unsigned records signed because
    /// somebody has made it say that it is on its way.
    async fn mark(&self, was: Format) -> Result<(), StoreError> {
        let state = self.standing().await?;
        if was == Format::RisingToFour {
            // It has another lineage if it has lost something since, and was accepted.
            let is_ours = |lineage: &String| state.lineage == *lineage || state.was.contains(lineage);
            if !self.upgrade_mark().await?.is_some_and(|lineage| is_ours(&lineage)) {
                return Err(StoreError::Damaged(
                    "it says that an upgrade is under way, and nothing that was made with this pepper says so: something else than \
                     Tollgate has changed the store. Restore a backup"
                        .to_owned(),
                ));
            }
        }
        self.put_upgrade_mark(Some(&state.lineage)).await
    }

    /// Notes which rows and entries are older than their signatures, once: what is added from now on has one.
    async fn note_unsigned_rows(&self) -> Result<(), StoreError> {
        let oldest = self.oldest_rows(1).await?.1.first().map_or(1, |row| row.sequence);
        let newest = self.rows(None, MOST_ROWS, 1).await?.first().map_or(0, |row| row.sequence);
        let sequence = self.standing().await?.sequence;
        self.change_removed_rows(|removed| {
            // Since an upgrade that was interrupted, some were added that have one.
            if removed.unsigned_entries == 0 {
                removed.last = removed.last.max(oldest.saturating_sub(1));
                (removed.unsigned_entries, removed.unsigned_rows) = (sequence, newest);
            }
        })
        .await
    }

    async fn begin(&self, step: Step, connection: &mut Connection) -> Result<Begun, StoreError> {
        let (mut ended, mut passed_over) = (Vec::new(), Vec::new());
        loop {
            let mut script = BEGIN_UPGRADE.prepare_invoke();
            script.key(names::HEAD).key(names::LOG).key(names::MEMBERS).key(names::CLOCK);
            script.arg(step.from.in_head()).arg(step.under_way.in_head());
            script.arg(Format::HIGHEST).arg(Format::OLDEST).arg(self.everything(step)?).arg(millis(FENCE)).arg(&ended);
            let mut answer = asked(run(connection, &script).await)?;
            match &*answer.word {
                "BEHIND" => {
                    let (behind, who) = (texts(answer.value()?)?, texts(answer.value()?)?);
                    // While one runs, those that have ended are forgotten; while none does, nobody forgets them.
                    if !ended.is_empty() || live_replica(connection).await?.is_some() {
                        return Err(cannot_write(&behind));
                    }
                    (ended, passed_over) = (who, behind);
                }
                "SEALED" => return Err(refuse_it(&texts(answer.value()?)?)),
                _ => {
                    let (_, lineage) = (Format::of_head(answer.number()?)?, answer.text()?);
                    self.writer.confirm(connection).await?;
                    return Ok(Begun { lineage, passed_over });
                }
            }
        }
    }

    /// The entry of a change that touches everything, as whoever reads the next format has it.
    fn everything(&self, step: Step) -> Result<Vec<u8>, StoreError> {
        let (event, written) = (Event { touched: Touched::All, ended: Vec::new() }, Written::default());
        let told = Chains::begin()?.tell(&self.trust.verifier(), step.under_way, (&event, Some(&written)), &[])?;
        Ok(told.event)
    }

    async fn end(&self, step: Step, begun: &Begun, connection: &mut Connection) -> Result<(), StoreError> {
        let mut script = END_UPGRADE.prepare_invoke();
        script.key(names::HEAD).key(names::LOG).key(names::UPGRADE).arg(&begun.lineage);
        script.arg(step.under_way.in_head()).arg(step.to.in_head()).arg(self.everything(step)?);
        let answer = asked(run(connection, &script).await)?;
        if answer.word != "DONE" {
            let reason = "the store went over to another history meanwhile: run this again";
            return Err(StoreError::Conflict(reason.to_owned()));
        }
        self.writer.confirm(connection).await
    }
}

/// Gives ids to what has none. The ids of projects are given as they are asked for.
struct Homes<'s> {
    store: &'s Redis,
    ids: HashMap<String, ProjectId>,
}

/// What gives some records their ids.
#[derive(Default)]
struct Steps {
    batch: Vec<Write>,
    touched: Vec<Slots>,
    /// How many records are written again.
    count: u64,
}

impl Homes<'_> {
    /// Gives how many of them had none.
    async fn give_to_users(&mut self, users: &[String]) -> Result<u64, StoreError> {
        for _ in 0..ATTEMPTS {
            let wanted: Vec<String> = users.iter().map(|name| names::user(name)).collect();
            let read = self.store.read(&wanted, 0).await?;
            let found = users.iter().zip(read.values).filter_map(|(name, value)| Some((name, value?)));
            let verifier = &read.verifier;
            let found = found.map(|(name, value)| record_of(verifier, name.as_bytes(), &value));
            let found = found.collect::<Result<Vec<User>, _>>()?;
            let lacks = |user: &User| user.project_id.is_none() && user.project != EVERY;
            self.find(found.iter().filter(|user| lacks(user)).map(|user| (&*user.project, user.created_at))).await?;
            let mut steps = Steps::default();
            for user in &found {
                if user.id.is_none() {
                    steps.batch.push(Write::GiveUserId { name: user.name.clone(), id: user_id()? });
                    steps.touched.push(Slots::of_digests(&[named("user", &user.name)]));
                }
                if lacks(user) {
                    steps.batch.push(self.step(ProjectItem::User(user.name.clone()), &user.project)?);
                }
                steps.count += u64::from(user.id.is_none() || lacks(user));
            }
            if let Some(given) = self.give(steps).await? {
                return Ok(given);
            }
        }
        Err(unsteady())
    }

    /// As [`Homes::give_to_users`].
    async fn give_to_keys(&mut self) -> Result<u64, StoreError> {
        let (mut given, mut query, mut attempts) = (0, KeyQuery { limit: AT_ONCE, ..KeyQuery::default() }, 0);
        while attempts < ATTEMPTS {
            let keys = self.store.keys(&query).await?;
            let Some(last) = keys.last() else { return Ok(given) };
            let lacking = || keys.iter().filter(|key| key.project_id.is_none() && key.project != EVERY);
            self.find(lacking().map(|key| (&*key.project, key.created_at))).await?;
            let mut steps = Steps::default();
            for key in lacking() {
                steps.batch.push(self.step(ProjectItem::Key(key.id), &key.project)?);
                steps.count += 1;
            }
            match self.give(steps).await? {
                Some(more) => (given, query.after, attempts) = (given + more, Some(last.id), 0),
                None => attempts += 1,
            }
        }
        Err(unsteady())
    }

    /// As [`Homes::give_to_users`].
    async fn give_to_resources(&mut self) -> Result<u64, StoreError> {
        let (mut given, mut query, mut attempts) = (0, ResourceQuery { limit: AT_ONCE, ..ResourceQuery::default() }, 0);
        while attempts < ATTEMPTS {
            let Some(listing) = resource::listing(&query) else { return Ok(given) };
            let resources = self.store.list(&listing).await?;
            let Some(last) = resources.last() else { return Ok(given) };
            let after = Some((last.kind.clone(), last.id.clone()));
            let lacking = || resources.iter().filter(|resource| resource.project_id.is_none());
            self.find(lacking().map(|resource| (&*resource.project, resource.created_at))).await?;
            let mut steps = Steps::default();
            for resource in lacking() {
                let to = ProjectItem::Resource { kind: resource.kind.clone(), id: resource.id.clone() };
                steps.batch.push(self.step(to, &resource.project)?);
                steps.count += 1;
            }
            match self.give(steps).await? {
                Some(more) => (given, query.after, attempts) = (given + more, after, 0),
                None => attempts += 1,
            }
        }
        Err(unsteady())
    }

    /// Gives ids to the projects in which nothing is.
    async fn give_to_projects(&mut self) -> Result<(), StoreError> {
        let mut after = None;
        loop {
            let projects = self.store.list(&project::listing(after.as_deref(), AT_ONCE)).await?;
            let lacking = projects.iter().filter(|project| project.id.is_none());
            self.find(lacking.map(|project| (&*project.name, Timestamp::default()))).await?;
            match projects.last() {
                Some(last) => after = Some(last.name.clone()),
                None => return Ok(()),
            }
        }
    }

    fn step(&self, to: ProjectItem, project: &str) -> Result<Write, StoreError> {
        let id = *self.ids.get(project).ok_or_else(unsteady)?;
        Ok(Write::GiveProjectId { to, project: project.to_owned(), id })
    }

    /// Finds the ids of some projects out, at most [`AT_ONCE`], and gives them to those that have none, in one change. With each, when
    /// something was made there.
    async fn find<'p>(&mut self, wanted: impl Iterator<Item = (&'p str, Timestamp)>) -> Result<(), StoreError> {
        let mut unknown: BTreeMap<&str, Timestamp> = BTreeMap::new();
        for (project, since) in wanted.filter(|(project, _)| !self.ids.contains_key(*project)) {
            unknown.entry(project).or_insert(since);
        }
        if unknown.is_empty() {
            return Ok(());
        }
        let records: Vec<String> = unknown.keys().map(|project| names::project(project)).collect();
        for _ in 0..ATTEMPTS {
            let Read { values, verifier, .. } = self.store.read(&records, 0).await?;
            let (mut batch, mut touched, mut found) = (Vec::new(), Vec::new(), Vec::new());
            for ((project, since), value) in unknown.iter().zip(values) {
                let known: Option<Project> = found_at(&verifier, value.as_deref(), project.as_bytes())?;
                let id = match known.as_ref().and_then(|known| known.id) {
                    Some(id) => id,
                    None => {
                        let (new, id) = with_id(known, project, *since)?;
                        batch.push(Write::PutProject(new));
                        touched.push(Slots::of_digests(&[named("project", project)]));
                        id
                    }
                };
                found.push(((*project).to_owned(), id));
            }
            let is_done = match batch.is_empty() {
                true => Ok(0),
                false => self.store.commit(&batch, &Event::touching(&touched)).await,
            };
            match is_done {
                Ok(_) => {
                    self.ids.extend(found);
                    return Ok(());
                }
                // Somebody changed one meanwhile.
                Err(StoreError::Conflict(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Err(unsteady())
    }

    /// Gives how many records had none; `None`: a project was changed meanwhile, as a failover may have lost it, and all is asked anew.
    async fn give(&mut self, steps: Steps) -> Result<Option<u64>, StoreError> {
        if steps.batch.is_empty() {
            return Ok(Some(0));
        }
        match self.store.commit(&steps.batch, &Event::touching(&steps.touched)).await {
            Ok(_) => Ok(Some(steps.count)),
            Err(StoreError::Conflict(_)) => {
                self.ids.clear();
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

fn cannot_write(behind: &[String]) -> StoreError {
    StoreError::Conflict(format!(
        "these replicas cannot write format {}: {}. Move each to this release first; one that is gone is forgotten after ten \
         minutes, or passed over where no replica runs at all",
        Format::HIGHEST,
        behind.join(", ")
    ))
}

fn refuse_it(sealed: &[String]) -> StoreError {
    StoreError::Conflict(format!(
        "these replicas refuse the store, as it has lost what they knew: {}. Look at it first with `tollgate store accept`, which \
         forgets them; or restore it, and start a replica: it forgets those that are gone after ten minutes",
        sealed.join(", ")
    ))
}

fn unsteady() -> StoreError {
    StoreError::Unavailable("what is to be given ids is changed all the time: run this again".to_owned())
}

fn asked(answer: Result<Answer, ScriptError>) -> Result<Answer, StoreError> {
    answer.map_err(ScriptError::into_error)?.found()
}

/// Some names of users, also of deleted ones, and where to go on; zero: those were the last.
async fn scan(connection: &mut Connection, cursor: u64) -> Result<(u64, Vec<String>), StoreError> {
    let mut command = redis::cmd("SCAN");
    command.arg(cursor).arg("MATCH").arg(format!("{}*", names::USERS)).arg("COUNT").arg(SCANNED_AT_ONCE);
    let scanned: Result<(u64, Vec<String>), _> = command.query_async(connection).await;
    let (next, found) = scanned.map_err(|error| StoreError::Unavailable(explained(&error)))?;
    let users = found.iter().filter_map(|name| Some(name.strip_prefix(names::USERS)?.to_owned()));
    Ok((next, users.collect()))
}
