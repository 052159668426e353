//! Who may do what: every kind of actor, every act, and things of one's own, of others and of all. Whoever is refused has
//! changed nothing, and a row of the audit log says so.

use std::collections::HashMap;
use std::time::Duration;

use tollgate::domain::record::{
    ApiKey, AuditEntry, EndedSession, OpenSession, Outcome, Project, ProjectState, SigningKey, User,
};
use tollgate::registry::{Actor, Expected, KeyChange, RegistryError, ResourceSpec, UserChange};
use tollgate::store::{AuditQuery, KeyQuery, ResourceQuery, UserQuery, Write};
use tollgate_core::credential::KeyId;
use tollgate_core::resource::Resource;

use crate::registry_fixture::{HASH, RegistryFixture, actor, names, spec, user_spec};
use crate::support::{Apply, at, id, key_of, project, resource, user};

const EVERYTHING: [&str; 7] =
    ["manage_keys", "manage_resources", "manage_secrets", "manage_users", "view_audit_logs", "run", "read"];

/// In the order of the columns of [`TABLE`].
fn actors() -> [Actor; 6] {
    let operator =
        Actor { peer: "admin.sock".to_owned(), request_id: "request-of-operator".to_owned(), ..Actor::operator() };
    [
        operator,
        actor("root", "*", &EVERYTHING),
        actor("few", "*", &["manage_keys", "manage_users", "run"]),
        actor("acme", "acme", &EVERYTHING),
        actor("beta", "beta", &EVERYTHING),
        actor("clerk", "acme", &["manage_users", "run"]),
    ]
}

#[derive(Clone, Copy, Debug)]
enum Act {
    /// Plane, project, permissions.
    CreateKey(&'static str, &'static str, &'static [&'static str]),
    RenameKey(&'static str),
    PermitKey(&'static str, &'static [&'static str]),
    RotateKey(&'static str),
    RevokeKey(&'static str),
    ShowKey(&'static str),
    ListKeys(&'static str),
    Bootstrap,
    /// Project, permissions.
    CreateUser(&'static str, &'static [&'static str]),
    PermitUser(&'static str, &'static [&'static str]),
    MoveUser(&'static str, &'static str),
    Disable(&'static str),
    Enable(&'static str),
    Password(&'static str),
    DeleteUser(&'static str),
    FreeName(&'static str),
    ShowUser(&'static str),
    ListUsers(&'static str),
    EndSession(&'static str),
    EndListed(&'static str),
    ListSessions(&'static str),
    CreateProject(&'static str),
    Suspend(&'static str),
    Resume(&'static str),
    DeleteProject(&'static str),
    ShowProject(&'static str),
    PutResource(&'static str),
    DeleteResource,
    ShowResource,
    ListResources(&'static str),
    ReadLog(&'static str),
    CreateSigningKey,
    DeleteSigningKey,
}

use Act::*;

/// y: done, f: forbidden, n: not found, c: a conflict, for reasons that have nothing to do with rights.
///
/// Keys: `acme` and `beta` of these projects may run, `reader` of acme may read, `chief` of acme may manage keys and run,
/// `every` of all projects may run. Users: `ann` and `off` of acme, `bob` of beta and `eve` of all may run, `ada` of acme
/// may manage keys and users, `odd` of acme may read; `off` and `odd` are disabled, and `lee` of acme is deleted. Nobody and nothing is called `ghost`.
/// Project beta is suspended, and gone is deleted.
#[rustfmt::skip]
const TABLE: [(Act, &str); 87] = [
    // who                                        operator root few acme beta clerk
    (CreateKey("data", "acme", &["run"]),         "y y y y f y"),
    (CreateKey("data", "acme", &["read"]),        "y y f y f f"),
    (CreateKey("data", "acme", &["read", "run"]), "y y f y f f"),
    (CreateKey("data", "beta", &["run"]),         "y y y f y f"),
    (CreateKey("admin", "acme", &["manage_keys"]),      "y y y y f f"),
    (CreateKey("admin", "acme", &["manage_resources"]), "y y f y f f"),
    (CreateKey("admin", "*", &["run"]),           "y y y f f f"),
    (CreateKey("admin", "*", &["manage_users"]),  "y y y f f f"),
    (RenameKey("acme"),                           "y y y y n y"),
    (RenameKey("reader"),                         "y y f y n f"),
    (RenameKey("chief"),                          "y y y y n f"),
    (RenameKey("every"),                          "y y y n n n"),
    (RenameKey("beta"),                           "y y y n y n"),
    (PermitKey("acme", &["read", "run"]),         "y y f y n f"),
    (PermitKey("reader", &["run"]),               "y y f y n f"),
    (PermitKey("chief", &["run"]),                "y y y y n f"),
    (PermitKey("every", &["read"]),               "y y f n n n"),
    (RotateKey("acme"),                           "y y y y n y"),
    (RotateKey("reader"),                         "y y f y n f"),
    (RotateKey("chief"),                          "y y y y n f"),
    (RotateKey("every"),                          "y y y n n n"),
    (RotateKey("beta"),                           "y y y n y n"),
    (RotateKey("ghost"),                          "n n n n n n"),
    (RevokeKey("acme"),                           "y y y y n y"),
    (RevokeKey("reader"),                         "y y y y n y"),
    (RevokeKey("chief"),                          "y y y y n y"),
    (RevokeKey("every"),                          "y y y n n n"),
    (RevokeKey("beta"),                           "y y y n y n"),
    (RevokeKey("ghost"),                          "n n n n n n"),
    (ShowKey("reader"),                           "y y y y n y"),
    (ShowKey("beta"),                             "y y y n y n"),
    (ListKeys("acme"),                            "y y y y f y"),
    (ListKeys("*"),                               "y y y f f f"),
    (Bootstrap,                                   "c c f f f f"),
    (CreateUser("acme", &["run"]),                "y y y y f y"),
    (CreateUser("acme", &["manage_users"]),       "y y y y f y"),
    (CreateUser("acme", &["manage_keys"]),        "y y y y f f"),
    (CreateUser("acme", &["view_audit_logs"]),    "y y f y f f"),
    (CreateUser("beta", &["run"]),                "y y y f y f"),
    (CreateUser("*", &["run"]),                   "y y y f f f"),
    (PermitUser("ann", &["manage_users", "run"]), "y y y y n y"),
    (PermitUser("ann", &["read"]),                "y y f y n f"),
    (PermitUser("ada", &["run"]),                 "y y y y n f"),
    (PermitUser("eve", &["manage_users"]),        "y y y n n n"),
    (MoveUser("ann", "beta"),                     "y y y f n f"),
    (MoveUser("ann", "*"),                        "y y y f n f"),
    (MoveUser("bob", "acme"),                     "y y y n f n"),
    (Disable("ann"),                              "y y y y n y"),
    (Disable("ada"),                              "y y y y n y"),
    (Disable("eve"),                              "y y y n n n"),
    (Enable("off"),                               "y y y y n y"),
    (Enable("odd"),                               "y y f y n f"),
    (Password("ann"),                             "y y y y n y"),
    (Password("ada"),                             "y y y y n f"),
    (Password("eve"),                             "y y y n n n"),
    (DeleteUser("ada"),                           "y y y y n y"),
    (DeleteUser("bob"),                           "y y y n y n"),
    (FreeName("lee"),                             "y y y f f f"),
    (FreeName("ann"),                             "c c c f f f"),
    (ShowUser("bob"),                             "y y y n y n"),
    (ShowUser("ghost"),                           "n n n n n n"),
    (ListUsers("beta"),                           "y y y f y f"),
    (EndSession("ann"),                           "y y y y n y"),
    (EndSession("eve"),                           "y y y n n n"),
    (EndListed("ann"),                            "y y y y n y"),
    (EndListed("eve"),                            "y y y n n n"),
    (ListSessions("ann"),                         "y y y y n y"),
    (ListSessions("eve"),                         "y y y n n n"),
    (CreateProject("new"),                        "y y y f f f"),
    (CreateProject("beta"),                       "c c c f f f"),
    (CreateProject("gone"),                       "c c c f f f"),
    (Suspend("acme"),                             "y y y y n y"),
    (Suspend("beta"),                             "y y y n y n"),
    (Suspend("gone"),                             "c c c n n n"),
    (Resume("beta"),                              "y y y n y n"),
    (Resume("gone"),                              "c c c n n n"),
    (DeleteProject("acme"),                       "y y y f f f"),
    (DeleteProject("gone"),                       "y y y f f f"),
    (ShowProject("acme"),                         "y y y y n y"),
    (CreateKey("data", "gone", &["run"]),         "c c c f f f"),
    (CreateUser("gone", &["run"]),                "c c c f f f"),
    (MoveUser("ann", "gone"),                     "c c c f n f"),
    (PutResource("acme"),                         "y y y f f f"),
    (DeleteResource,                              "y y y f f f"),
    (ShowResource,                                "y y y y n y"),
    (ListResources("acme"),                       "y y y y f y"),
    (ReadLog("acme"),                             "y y y y f y"),
];

/// What only the operator does.
#[rustfmt::skip]
const OPERATORS: [(Act, &str); 2] = [
    (CreateSigningKey,                            "y f f f f f"),
    (DeleteSigningKey,                            "y f f f f f"),
];

struct World {
    fixture: RegistryFixture,
    keys: HashMap<&'static str, KeyId>,
}

/// All that is stored beside the log.
#[derive(Debug, PartialEq)]
struct Stored {
    keys: Vec<ApiKey>,
    users: Vec<User>,
    resources: Vec<Resource>,
    projects: Vec<Project>,
    signing_keys: Vec<SigningKey>,
    is_freed: bool,
    is_ended: bool,
}

impl World {
    async fn new() -> Self {
        let fixture = RegistryFixture::new();
        let mut keys = HashMap::from([("ghost", id(0))]);
        let mut batch = vec![
            Write::CreateSigningKey(signing_key("k-1")),
            Write::CreateResource(resource("workload", "w-1", "acme")),
            Write::PutProject(project("beta", ProjectState::Suspended)),
            Write::PutProject(project("gone", ProjectState::Deleted)),
        ];
        for (n, (name, plane, project, permissions)) in (1..).zip([
            ("acme", "data", "acme", &["run"][..]),
            ("beta", "data", "beta", &["run"]),
            ("reader", "data", "acme", &["read"]),
            ("chief", "admin", "acme", &["manage_keys", "run"]),
            ("every", "admin", "*", &["run"]),
        ]) {
            keys.insert(name, id(n));
            batch.push(Write::CreateKey(ApiKey { permissions: names(permissions), ..key_of(n, plane, project) }));
        }
        for (name, project, permissions) in [
            ("ann", "acme", &["run"][..]),
            ("off", "acme", &["run"]),
            ("bob", "beta", &["run"]),
            ("eve", "*", &["run"]),
            ("ada", "acme", &["manage_keys", "manage_users"]),
            ("odd", "acme", &["read"]),
        ] {
            let disabled = matches!(name, "off" | "odd");
            let (project, permissions) = (project.to_owned(), names(permissions));
            batch.push(Write::CreateUser(User { project, permissions, disabled, ..user(name) }));
        }
        batch.push(Write::CreateUser(User { deleted: true, ..user("lee") }));
        for owner in ["ann", "eve"] {
            let (id, user, expires_at) = ("s-1".to_owned(), user(owner), at(u64::MAX));
            let session = OpenSession { id, generation: user.sessions, began_at: at(1), expires_at, address: None };
            batch.push(Write::BeginSession { user: user.name, session });
        }
        fixture.store.apply(batch).await.unwrap();
        Self { fixture, keys }
    }

    async fn stored(&self) -> Stored {
        let store = &self.fixture.store;
        Stored {
            keys: store.keys(KeyQuery { limit: 99, ..KeyQuery::default() }).await.unwrap(),
            users: store.users(UserQuery { limit: 99, ..UserQuery::default() }).await.unwrap(),
            resources: store.resources(ResourceQuery { limit: 99, ..ResourceQuery::default() }).await.unwrap(),
            projects: store.projects(None, 99).await.unwrap(),
            signing_keys: store.signing_keys().await.unwrap(),
            is_freed: store.user("lee".to_owned()).await.unwrap().unwrap().freed,
            is_ended: store.ended_session("s-1".to_owned()).await.unwrap(),
        }
    }

    /// Does it, and says what was changed, as the log names it; a read changes nothing.
    async fn perform(&self, actor: &Actor, act: Act) -> Result<Option<String>, RegistryError> {
        let (registry, policy, any) = (&self.fixture.registry, &self.fixture.policy, Expected::Any);
        let key = |name: &str| self.keys[name];
        let named_key = |id: KeyId| Some(format!("key:{id}"));
        let named_user = |user: User| Some(format!("user:{}", user.name));
        Ok(match act {
            CreateKey(plane, project, permissions) => {
                let new = registry.create_key(policy, actor, spec(plane, project, permissions), None).await?;
                named_key(new.record.id)
            }
            RenameKey(name) => {
                let change = KeyChange { name: Some("Another name".to_owned()), ..KeyChange::default() };
                named_key(registry.update_key(policy, actor, key(name), change, any).await?.id)
            }
            PermitKey(name, permissions) => {
                let change = KeyChange { permissions: Some(names(permissions)), ..KeyChange::default() };
                named_key(registry.update_key(policy, actor, key(name), change, any).await?.id)
            }
            RotateKey(name) => {
                let new = registry.rotate_key(policy, actor, key(name), Duration::from_secs(60), any).await?;
                named_key(new.record.id)
            }
            RevokeKey(name) => named_key(registry.revoke_key(actor, key(name), any).await?.id),
            ShowKey(name) => registry.key(actor, key(name)).await.map(|_| None)?,
            ListKeys(project) => {
                let query = KeyQuery { project: Some(project.to_owned()), limit: 9, ..KeyQuery::default() };
                registry.keys(actor, query).await.map(|_| None)?
            }
            Bootstrap => named_key(registry.bootstrap(policy, actor).await?.record.id),
            CreateUser(project, permissions) => {
                named_user(registry.create_user(policy, actor, user_spec("new", project, permissions), None).await?)
            }
            PermitUser(name, permissions) => {
                let change = UserChange { permissions: Some(names(permissions)), ..UserChange::default() };
                named_user(registry.update_user(policy, actor, name, change, any).await?.result)
            }
            MoveUser(name, project) => {
                let change = UserChange { project: Some(project.to_owned()), ..UserChange::default() };
                named_user(registry.update_user(policy, actor, name, change, any).await?.result)
            }
            Disable(name) | Enable(name) => {
                let disabled = Some(matches!(act, Disable(_)));
                let change = UserChange { disabled, ..UserChange::default() };
                named_user(registry.update_user(policy, actor, name, change, any).await?.result)
            }
            Password(name) => {
                named_user(registry.set_password(policy, actor, name, HASH.replace('8', "9"), any).await?.result)
            }
            DeleteUser(name) => named_user(registry.delete_user(actor, name, any).await?.result),
            FreeName(name) => Some(format!("user:{}", registry.free_user_name(actor, name).await?.name)),
            ShowUser(name) => registry.user(actor, name).await.map(|_| None)?,
            ListUsers(project) => {
                let query = UserQuery { project: Some(project.to_owned()), limit: 9, ..UserQuery::default() };
                registry.users(actor, query).await.map(|_| None)?
            }
            EndSession(user) => {
                registry.end_session(actor, session(user)).await?;
                Some("session:s-1".to_owned())
            }
            EndListed(user) => {
                registry.end_listed_session(actor, user, "s-1").await?;
                Some("session:s-1".to_owned())
            }
            ListSessions(user) => registry.sessions(actor, user).await.map(|_| None)?,
            CreateProject(name) => Some(format!("project:{}", registry.create_project(actor, name, None).await?.name)),
            Suspend(name) => Some(format!("project:{}", registry.suspend_project(actor, name, any).await?.name)),
            Resume(name) => Some(format!("project:{}", registry.resume_project(actor, name, any).await?.name)),
            DeleteProject(name) => Some(format!("project:{}", registry.delete_project(actor, name, any).await?.name)),
            ShowProject(name) => registry.project(actor, name).await.map(|_| None)?,
            PutResource(project) => {
                let spec = ResourceSpec { id: "w-2".to_owned(), ..workload(project) };
                Some(registry.put_resource(actor, spec, false, any).await?.reference().to_string())
            }
            DeleteResource => {
                Some(registry.delete_resource(actor, "workload", "w-1", any).await?.reference().to_string())
            }
            ShowResource => registry.resource(actor, "workload", "w-1").await.map(|_| None)?,
            ListResources(project) => {
                let query = ResourceQuery { project: Some(project.to_owned()), limit: 9, ..ResourceQuery::default() };
                registry.resources(actor, query).await.map(|_| None)?
            }
            ReadLog(project) => {
                let query = AuditQuery { project: Some(project.to_owned()), limit: 9, ..AuditQuery::default() };
                registry.audit(actor, query).await.map(|_| None)?
            }
            CreateSigningKey => {
                registry.create_signing_key(actor, signing_key("k-2")).await?;
                Some("signing_key:k-2".to_owned())
            }
            DeleteSigningKey => {
                registry.delete_signing_key(actor, "k-1").await?;
                Some("signing_key:k-1".to_owned())
            }
        })
    }

    /// What is not as the table says.
    async fn difference(&self, actor: &Actor, act: Act, expected: char) -> Option<String> {
        let (stored, rows) = (self.stored().await, self.fixture.log().await.len());
        let result = self.perform(actor, act).await;
        let log = self.fixture.log().await;
        let new = &log[..log.len() - rows];
        let changed = self.stored().await != stored;
        let as_expected = letter(&result) == expected
            && match &result {
                Ok(Some(target)) => changed && says_done(new, actor, self.name_of(act).0, target, act),
                Ok(None) | Err(RegistryError::Conflict(_)) => !changed && new.is_empty(),
                Err(RegistryError::NotFound(_)) if is_ghost(act) && actor.project.is_none() => {
                    !changed && new.is_empty()
                }
                Err(_) => !changed && says_refused(new, actor, self.name_of(act)),
            };
        let told =
            || format!("{} {act:?}: not `{expected}` but {result:?}, changed: {changed}, {new:#?}", actor.subject);
        (!as_expected).then(told)
    }

    /// The name of an act in the log, and of what it would be done to.
    fn name_of(&self, act: Act) -> (&'static str, String) {
        let key = |name: &str| format!("key:{}", self.keys[name]);
        let user = |name: &str| format!("user:{name}");
        let project = |name: &str| format!("project:{name}");
        match act {
            CreateKey(_, of, _) => ("key.create", project(of)),
            RenameKey(name) | PermitKey(name, _) => ("key.update", key(name)),
            RotateKey(name) => ("key.rotate", key(name)),
            RevokeKey(name) => ("key.revoke", key(name)),
            ShowKey(name) => ("key.show", key(name)),
            ListKeys(of) => ("key.list", project(of)),
            Bootstrap => ("key.bootstrap", project("*")),
            CreateUser(of, _) => ("user.create", user(&User::name_in(of, "new"))),
            PermitUser(name, _) | MoveUser(name, _) => ("user.update", user(name)),
            Disable(name) => ("user.disable", user(name)),
            Enable(name) => ("user.enable", user(name)),
            Password(name) => ("user.password", user(name)),
            DeleteUser(name) => ("user.delete", user(name)),
            FreeName(name) => ("user.free", user(name)),
            ShowUser(name) => ("user.show", user(name)),
            ListUsers(of) => ("user.list", project(of)),
            ListSessions(name) => ("session.list", user(name)),
            EndSession(_) | EndListed(_) => ("session.end", "session:s-1".to_owned()),
            CreateProject(of) => ("project.create", project(of)),
            Suspend(of) => ("project.suspend", project(of)),
            Resume(of) => ("project.resume", project(of)),
            DeleteProject(of) => ("project.delete", project(of)),
            ShowProject(of) => ("project.show", project(of)),
            PutResource(_) => ("resource.put", "workload:w-2".to_owned()),
            DeleteResource => ("resource.delete", "workload:w-1".to_owned()),
            ShowResource => ("resource.show", "workload:w-1".to_owned()),
            ListResources(of) => ("resource.list", project(of)),
            ReadLog(of) => ("audit.list", project(of)),
            CreateSigningKey => ("signing_key.create", "signing_key:k-2".to_owned()),
            DeleteSigningKey => ("signing_key.delete", "signing_key:k-1".to_owned()),
        }
    }
}

fn workload(project: &str) -> ResourceSpec {
    let (kind, id) = ("workload".to_owned(), "w-1".to_owned());
    ResourceSpec { kind, id, project: project.to_owned(), ..ResourceSpec::default() }
}

fn session(user: &str) -> EndedSession {
    EndedSession { id: "s-1".to_owned(), user: user.to_owned(), ended_at: at(1), expires_at: at(2) }
}

fn signing_key(id: &str) -> SigningKey {
    SigningKey { id: id.to_owned(), sealed: vec![1], created_at: at(1) }
}

fn letter(result: &Result<Option<String>, RegistryError>) -> char {
    match result {
        Ok(_) => 'y',
        Err(RegistryError::Forbidden(_)) => 'f',
        Err(RegistryError::NotFound(_)) => 'n',
        Err(RegistryError::Conflict(_)) => 'c',
        Err(_) => '?',
    }
}

#[tokio::test]
async fn every_actor_does_what_they_may_and_nothing_else() {
    let (mut wrong, mut world) = (Vec::new(), World::new().await);
    for (act, row) in TABLE.into_iter().chain(OPERATORS) {
        let expected: Vec<char> = row.split(' ').filter_map(|cell| cell.chars().next()).collect();
        assert_eq!(expected.len(), actors().len(), "{act:?}");
        for (actor, expected) in actors().iter().zip(expected) {
            let stored = world.stored().await;
            wrong.extend(world.difference(actor, act, expected).await);
            if world.stored().await != stored {
                world = World::new().await;
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn is_ghost(act: Act) -> bool {
    matches!(act, RotateKey("ghost") | RevokeKey("ghost") | ShowUser("ghost"))
}

fn is_by(row: &AuditEntry, actor: &Actor, act: &str) -> bool {
    row.actor == actor.subject && row.act == act && row.peer == actor.peer && row.request_id == actor.request_id
}

fn says_done(new: &[AuditEntry], actor: &Actor, name: &str, target: &str, act: Act) -> bool {
    // A rotation is about two keys.
    let count = if matches!(act, RotateKey(_)) { 2 } else { 1 };
    new.len() == count
        && new.iter().any(|row| row.target == target)
        && new.iter().all(|row| {
            is_by(row, actor, name) && row.outcome == Outcome::Done && row.reason.is_none() && row.project.is_some()
        })
}

fn says_refused(new: &[AuditEntry], actor: &Actor, (name, target): (&str, String)) -> bool {
    let [row] = new else { return false };
    // To whoever is bound to a project a name is one of that.
    let own = actor.project.as_ref().zip(target.strip_prefix("user:")).map(|(of, name)| format!("user:{of}/{name}"));
    is_by(row, actor, name)
        && (row.target == target || Some(&row.target) == own.as_ref())
        && row.outcome == Outcome::Refused
        && row.reason.as_ref().is_some_and(|reason| !reason.is_empty())
}

/// Whoever is bound to a project cannot tell what is elsewhere from what is nowhere.
#[tokio::test]
async fn what_is_elsewhere_looks_like_what_is_nowhere() {
    let world = World::new().await;
    let acme = actor("acme", "acme", &EVERYTHING);
    let registry = &world.fixture.registry;
    for (elsewhere, nowhere) in [("beta", "ghost"), ("every", "ghost")] {
        let (elsewhere, nowhere) = (world.keys[elsewhere], world.keys[nowhere]);
        let errors = [
            registry.key(&acme, elsewhere).await.unwrap_err().to_string().replace(elsewhere.as_str(), "ID"),
            registry.key(&acme, nowhere).await.unwrap_err().to_string().replace(nowhere.as_str(), "ID"),
        ];
        assert_eq!(errors[0], errors[1]);
    }
    let errors = [
        registry.user(&acme, "bob").await.unwrap_err().to_string().replace("bob", "NAME"),
        registry.user(&acme, "ghost").await.unwrap_err().to_string().replace("ghost", "NAME"),
    ];
    assert_eq!(errors[0], errors[1]);
    world.fixture.user("ben", "beta", &["run"]).await;
    for name in ["beta/bob", "beta/ben", "beta/ghost", "ghost/ghost"] {
        let error = registry.user(&acme, name).await.unwrap_err().to_string();
        assert_eq!(error, format!("there is no user {name}"));
    }
    // Each was written down, as work of the same kind, and in no place where the actor could read it.
    assert_eq!(world.fixture.log().await.iter().filter(|row| row.outcome == Outcome::Refused).count(), 10);
    let seen = registry.audit(&acme, AuditQuery { limit: 99, ..AuditQuery::default() }).await.unwrap().rows;
    assert!(seen.is_empty(), "{seen:#?}");
    let beta = actor("beta", "beta", &EVERYTHING);
    let seen = registry.audit(&beta, AuditQuery { limit: 99, ..AuditQuery::default() }).await.unwrap().rows;
    assert!(seen.iter().any(|row| row.actor == "key:acme" && row.target == "user:beta/ben"), "{seen:#?}");
}
