//! The same random batches on the embedded store and on Redis: the same results, and the same to be read afterwards.

use tollgate::domain::record::{ApiKey, EndedSession, OpenSession, Project, ProjectState, SigningKey, User};
use tollgate::store::{
    AuditQuery, KeyQuery, OnceRecord, ProjectItem, ResourceQuery, Store, StoreError, UserQuery, Write,
};
use tollgate_core::credential::ProjectId;
use tollgate_core::resource::Resource;

use crate::support::{Apply, Random, at, id, in_file, in_redis, key, resource, row, user};

const BATCHES: u64 = 300;

const PROJECTS: [&str; 4] = ["acme", "acme-2", "beta", "*"];
const PLANES: [&str; 3] = ["data", "control", "admin"];
const USERS: [&str; 4] = ["ann", "bob", "bob@example.com", "zoe"];
const KINDS: [&str; 3] = ["run", "workload", "workload-2"];
const KEYS: u64 = 8;

pub struct Dice(pub Random);

impl Dice {
    fn one<T: Copy, const N: usize>(&mut self, of: [T; N]) -> T {
        of[usize::try_from(self.0.below(N as u64)).unwrap()]
    }

    fn once_in(&mut self, times: u64) -> bool {
        self.0.below(times) == 0
    }

    /// The version that an update needs, and sometimes another one.
    fn version(&mut self, stored: u64) -> u64 {
        if self.once_in(8) { self.0.below(5) } else { stored + 1 }
    }

    fn name(&mut self, known: &[&str]) -> String {
        if self.once_in(40) {
            "a\0b".to_owned()
        } else {
            known[usize::try_from(self.0.below(known.len() as u64)).unwrap()].to_owned()
        }
    }

    fn project_id(&mut self) -> Option<ProjectId> {
        let id = self.0.below(3);
        (id > 0).then(|| ProjectId::parse(&format!("{id:016}")).unwrap())
    }

    fn key(&mut self) -> ApiKey {
        let (n, digest) = (self.0.below(KEYS), self.0.below(KEYS));
        let ended = |dice: &mut Self| dice.once_in(4).then(|| at(dice.0.below(100)));
        ApiKey {
            digest: if self.once_in(4) { key(digest).digest } else { key(n).digest },
            project: self.name(&PROJECTS),
            project_id: self.project_id(),
            plane: self.name(&PLANES),
            expires_at: ended(self),
            retires_at: ended(self),
            revoked_at: ended(self),
            ..key(n)
        }
    }

    fn resource(&mut self) -> Resource {
        let (kind, id) = (self.one(KINDS), self.one(["a", "b", "c"]));
        let project_id = self.project_id();
        Resource { project_id, ..resource(kind, id, &self.name(&PROJECTS)) }
    }

    fn user(&mut self) -> User {
        User {
            project: self.name(&PROJECTS),
            project_id: self.project_id(),
            disabled: self.once_in(3),
            deleted: self.once_in(3),
            sessions: self.0.below(4),
            ..user(self.one(USERS))
        }
    }

    /// One step; what it takes to fit is read from the store.
    pub async fn step(&mut self, store: &Store) -> Write {
        match self.0.below(15) {
            0 | 1 => Write::CreateKey(self.key()),
            2 | 3 => {
                let key = self.key();
                let stored = store.key(key.id).await.unwrap().map_or(0, |stored| stored.version);
                Write::UpdateKey(ApiKey { version: self.version(stored), ..key })
            }
            4 => Write::NoActiveKey { plane: self.name(&PLANES), now: at(self.0.below(100)) },
            5 => Write::CreateResource(self.resource()),
            6 => {
                let new = self.resource();
                let stored = store.resource(new.kind.clone(), new.id.clone()).await.unwrap();
                let version = self.version(stored.map_or(0, |stored| stored.version));
                if self.once_in(2) {
                    return Write::DeleteResource { kind: new.kind, id: new.id, version: version.saturating_sub(1) };
                }
                Write::UpdateResource(Resource { version, ..new })
            }
            7 => {
                let name = self.name(&PROJECTS);
                let stored = store.project(name.clone()).await.unwrap();
                let id = if self.once_in(4) { self.project_id() } else { stored.as_ref().and_then(|stored| stored.id) };
                let stored = stored.map_or(0, |stored| stored.version);
                let state = self.one([ProjectState::Active, ProjectState::Suspended, ProjectState::Deleted]);
                let (changed_at, changed_by) = (at(self.0.below(9)), "operator".to_owned());
                Write::PutProject(Project { name, id, state, changed_at, changed_by, version: self.version(stored) })
            }
            8 => Write::CreateUser(self.user()),
            9 => {
                let new = self.user();
                let stored = store.user(new.name.clone()).await.unwrap();
                let sessions = stored.as_ref().map_or(0, |stored| stored.sessions);
                let sessions = if self.once_in(4) { new.sessions } else { sessions + self.0.below(2) };
                let version = self.version(stored.map_or(0, |stored| stored.version));
                Write::UpdateUser(User { sessions, version, ..new })
            }
            10 if self.once_in(2) => {
                let (id, began_at) = (self.one(["s-1", "s-2", "s-3"]).to_owned(), at(self.0.below(99)));
                let session = OpenSession { id, generation: 1, began_at, expires_at: at(9_000), address: None };
                Write::BeginSession { user: self.one(["ann", "bob"]).to_owned(), session }
            }
            10 => {
                let (id, user) = (self.one(["s-1", "s-2", "s-3"]).to_owned(), "ann".to_owned());
                Write::EndSession(EndedSession { id, user, ended_at: at(self.0.below(99)), expires_at: at(100) })
            }
            11 => {
                let id = self.one(["k-1", "k-2", "k-3"]).to_owned();
                if self.once_in(2) {
                    return Write::DeleteSigningKey { id };
                }
                Write::CreateSigningKey(SigningKey { id, sealed: vec![1, 2], created_at: at(self.0.below(5)) })
            }
            12 => Write::InProject { name: self.name(&PROJECTS), id: self.project_id() },
            13 => {
                let to = match self.0.below(3) {
                    0 => ProjectItem::Key(id(self.0.below(KEYS))),
                    1 => ProjectItem::User(self.one(USERS).to_owned()),
                    _ => ProjectItem::Resource {
                        kind: self.one(KINDS).to_owned(),
                        id: self.one(["a", "b", "c"]).to_owned(),
                    },
                };
                let project = self.name(&PROJECTS);
                Write::GiveProjectId { to, project, id: ProjectId::parse("0000000000000001").unwrap() }
            }
            _ => {
                let digest = [u8::try_from(self.0.below(40)).unwrap(); 32];
                Write::Once(OnceRecord {
                    digest,
                    fingerprint: [7; 32],
                    target: "key:1".to_owned(),
                    at: at(self.0.below(99)),
                })
            }
        }
    }
}

/// Everything that can be read, as text that can be compared.
pub async fn all_of(store: &Store, dice: u64) -> Vec<String> {
    // The same pages of both.
    let mut dice = Dice(Random(dice));
    let mut all = Vec::new();
    for n in 0..KEYS {
        all.push(format!("{:?}", store.key(id(n)).await.unwrap()));
        all.push(format!("{:?}", store.load_key(vec![key(n + 1).digest, key(n).digest]).await.unwrap().found));
    }
    let projects = PROJECTS.map(Some).into_iter().chain([None, Some("a\0b")]);
    for project in projects.map(|project| project.map(str::to_owned)) {
        for plane in PLANES.map(Some).into_iter().chain([None]) {
            let after = dice.once_in(2).then(|| id(dice.0.below(KEYS)));
            let limit = usize::try_from(dice.0.below(9)).unwrap();
            let query = KeyQuery { project: project.clone(), plane: plane.map(str::to_owned), after, limit };
            all.push(format!("{query:?} {:?}", store.keys(query.clone()).await.unwrap()));
        }
        for kind in KINDS.map(Some).into_iter().chain([None]) {
            let after = dice.once_in(2).then(|| (dice.one(KINDS).to_owned(), dice.one(["", "a", "b"]).to_owned()));
            let limit = usize::try_from(dice.0.below(9)).unwrap();
            let query = ResourceQuery { kind: kind.map(str::to_owned), project: project.clone(), after, limit };
            all.push(format!("{query:?} {:?}", store.resources(query.clone()).await.unwrap()));
        }
        let after = dice.once_in(2).then(|| dice.one(USERS).to_owned());
        let query = UserQuery { project: project.clone(), after, limit: usize::try_from(dice.0.below(4)).unwrap() };
        all.push(format!("{query:?} {:?}", store.users(query.clone()).await.unwrap()));
        let before = dice.once_in(2).then(|| dice.0.below(50));
        let query =
            AuditQuery { project, before, limit: usize::try_from(dice.0.below(30)).unwrap(), ..AuditQuery::default() };
        all.push(format!("{query:?} {:?}", store.audit(query.clone()).await.unwrap()));
    }
    for user in USERS {
        all.push(format!("{:?}", store.load_session(user.to_owned(), "s-1".to_owned()).await.unwrap().found));
    }
    for session in ["s-1", "s-2", "s-3", "s"] {
        all.push(format!("{session} {}", store.ended_session(session.to_owned()).await.unwrap()));
    }
    let after = dice.once_in(2).then(|| "acme".to_owned());
    all.push(format!("{:?}", store.projects(after, 9).await.unwrap()));
    all.push(format!("{:?}", store.signing_keys().await.unwrap()));
    for n in 0..40 {
        all.push(format!("{:?}", store.once([n; 32]).await.unwrap()));
    }
    all
}

#[tokio::test]
async fn both_stores_do_the_same() {
    let (file, _folder) = in_file();
    let (redis, _, _server) = in_redis().await;
    let mut dice = Dice(Random(0x00a1_1ce5));
    let (mut done, mut refused) = (0, 0);
    for number in 0..BATCHES {
        let mut batch = Vec::new();
        for _ in 0..=dice.0.below(3) {
            batch.push(dice.step(&file).await);
        }
        batch.push(Write::Audit(row(&number.to_string())));
        let results = [file.apply(batch.clone()).await, redis.apply(batch.clone()).await];
        match &results {
            [Ok(_), Ok(_)] => done += 1,
            [Err(StoreError::Conflict(_)), Err(StoreError::Conflict(_))] => refused += 1,
            _ => panic!("batch {number}: {results:?} of {batch:#?}"),
        }
        if number % 5 == 0 {
            let (ours, theirs) = (all_of(&file, number).await, all_of(&redis, number).await);
            for (ours, theirs) in ours.into_iter().zip(theirs) {
                assert_eq!(ours, theirs, "after batch {number}: {batch:#?}");
            }
        }
    }
    assert!(done > 60 && refused > 60, "{done} were done and {refused} refused");
}
